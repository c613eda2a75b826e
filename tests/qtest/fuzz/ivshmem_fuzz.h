/*
 * What the fuzzers of ivshmem have in common: a server, and a model
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * An input is one life of a client of an ivshmem server: of IvshmemClient alone
 * (ivshmem_client_fuzz.c), or of one in a device (ivshmem_flat_fuzz.c). Here is
 * the server that it connects to, which says what the input wants said, and a
 * model of the protocol, which follows docs/specs/ivshmem-spec.rst: which
 * greeting is good, which eventfds move, which interrupts come, which peers are
 * known. The server holds every eventfd, so it sees each that should not have
 * moved. In the end the process has as many file descriptors as before. Any
 * difference aborts.
 *
 * An input always does the same. What the server says at first waits in the
 * socket, and where the client would have to wait for more, the server hangs
 * up.
 */

#ifndef TESTS_QTEST_FUZZ_IVSHMEM_FUZZ_H
#define TESTS_QTEST_FUZZ_IVSHMEM_FUZZ_H

#include "qemu/error-report.h"
#include "chardev/char-socket.h"
#include "system/iothread.h"
#include "tests/qtest/libqtest.h"
#include "fuzz.h"

#define MAX_PEERS 65536
#define MAX_VECTORS 64          /* of one peer, own or other */

/* Eventfds that the server has; the same one may be announced often. */
#define SLOTS 8

#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { \
            error_report(__VA_ARGS__); \
            abort(); \
        } \
    } while (0)

/* What a server may attach to a message. The first SLOTS are eventfds. */
enum {
    GOOD_MEMORY = SLOTS,
    TWIN_MEMORY,                /* of the same size */
    OTHER_MEMORY,
    HUGE_MEMORY,
    TOO_HUGE_MEMORY,
    EMPTY_FILE,
    ONE_BYTE,
    PAGE_LESS_ONE,
    PAGE_AND_ONE,
    READ_ONLY,
    WRITE_ONLY,
    SEALED,                     /* against writing */
    PIPE_READER,
    PIPE_WRITER,
    SOCKET,
    DIRECTORY,
    PATH_ONLY,
    DEV_NULL,
    NUM_THINGS
};

typedef struct Thing {
    int fd;
    uint64_t size;              /* as shared memory; 0: it cannot be that */
} Thing;

/**
 * Run: one input
 *
 * Who has the client fills in what the model has to know of it, the first part,
 * before it connects.
 */
typedef struct Run Run;
struct Run {
    uint32_t vectors;           /* that it asks for */
    uint32_t revision;          /* 0: interrupts are told by @interrupted */
    uint64_t wired;             /* those that it listens to, a bit for each */
    uint64_t told;              /* those that changes interrupt, too */
    uint64_t shmem_size;        /* 0: any, until there is one */
    bool is_mapped;             /* the memory has to be */
    bool placed;                /* where no other device is */
    bool in_iothread;           /* its own eventfds are served there */
    bool is_started;            /* what comes is the main loop's now */
    void (*ring)(Run *r, uint16_t peer, uint16_t vector);
    void (*interrupted)(Run *r, bool must); /* or may have been */
    void (*check)(Run *r);      /* what it says of itself */

    /* the input */
    QTestState *qts;
    const uint8_t *data;
    size_t len;
    unsigned nfds;              /* before it */

    /* the server's side of the connection */
    Chardev *chr;
    bool reconnects;
    unsigned comebacks;
    int conn;
    bool hung_up;
    GByteArray *stream;         /* all bytes sent */
    GArray *attached;           /* all Attached */

    /* the model, as far as the client has read the stream */
    uint64_t seen;              /* bytes */
    uint64_t read;              /* in whole messages */
    unsigned messages;
    bool greeted;               /* it has had all of the greeting */
    unsigned next_attached;     /* in @attached: to come with a message */
    unsigned next_checked;      /* likewise: to be looked at */
    bool vague;                 /* QEMU 10.2 hangs up on an fd with O_PATH */
    bool bad_greeting;
    bool server_gone;
    uint16_t new_id;
    uint16_t id;
    unsigned memory;            /* the thing */
    GHashTable *peers;          /* Peer by id */
    unsigned nown;
    uint8_t own[MAX_VECTORS];   /* slots */
    bool changed;               /* @id, @peers or @nown, as far as they count */
    GArray *kept;               /* Kept */
};

typedef struct Peer {
    unsigned nvectors;
    uint8_t slot[MAX_VECTORS];
} Peer;

typedef void IvfuzzRun(QTestState *qts, const uint8_t *data, size_t len);

extern Thing ivfuzz_things[NUM_THINGS];
extern unsigned ivfuzz_pulses[MAX_VECTORS]; /* interrupts since the last look */
extern IOThread *ivfuzz_iothread;

/* Once, before the first input: takes two of its own, and all there is. */
void ivfuzz_prepare(QTestState *qts, IvfuzzRun *run);

/* An input begins with a connection, and ends when that has been let go. */
void ivfuzz_begin(Run *r, QTestState *qts, const uint8_t *data, size_t len);
void ivfuzz_end(Run *r);

/* Numbers from the input; an id is in a small range, or near a limit, or any */
uint64_t ivfuzz_take(Run *r, unsigned bytes);
int64_t ivfuzz_take_id(Run *r);
/* in which pieces the client reads */
void ivfuzz_take_cuts(Run *r);

/* What the server says: before the client is there, and later */
void ivfuzz_server_greeting(Run *r);
void ivfuzz_server_stream(Run *r);
bool ivfuzz_server_complete(Run *r);    /* up to an own vector */
void ivfuzz_server_message(Run *r);
void ivfuzz_server_bytes(Run *r);
void ivfuzz_server_hang_up(Run *r);
void ivfuzz_server_comes_back(Run *r);

/* Another peer writes to an eventfd. */
void ivfuzz_peer_write(unsigned slot, uint64_t value);

/* The model follows: all that was sent is read; a doorbell is rung. */
void ivfuzz_model_read(Run *r);
void ivfuzz_model_doorbell(Run *r, uint16_t peer, uint16_t vector);

/* Let the client do all it has to do, then compare. */
void ivfuzz_poll_client(Run *r);

/* The operations of an input that are not the device's; false: @op is none. */
bool ivfuzz_operation(Run *r, unsigned op);

/* Whatever came before: each vector can be rung, and rings only its own. */
void ivfuzz_ring_all(Run *r);

#endif /* TESTS_QTEST_FUZZ_IVSHMEM_FUZZ_H */
