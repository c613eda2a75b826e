/*
 * What the unit tests of the client of an ivshmem server share
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Client and server are the two ends of one connection, here in one thread:
 * what the server says waits in the socket until the client reads it, so a
 * test decides what the client knows. There is no machine and no device, but
 * Fixture has a device's callbacks, which count what they are told.
 */

#ifndef TESTS_UNIT_IVSHMEM_CLIENT_FRAMEWORK_H
#define TESTS_UNIT_IVSHMEM_CLIENT_FRAMEWORK_H

#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "chardev/char.h"
#include "hw/misc/ivshmem-client.h"
#include "tests/unit/ivshmem-client/fake-server.h"

/* The tests, by theme: each function adds those of <theme>-tests.c. */
void add_greeting_tests(void);
void add_message_tests(void);
void add_peer_tests(void);
void add_server_tests(void);

#define OWN_ID 3
#define PEER_ID 5
#define MAX_PEER_VECTORS 64
#define SHORT_MS 1000           /* for a greeting that does not come */
#define PATIENCE_S 60

gboolean set_true(void *opaque);

/* Turns the main loop; a macro, so that a failure names the line. */
#define WAIT_UNTIL(condition) \
    do { \
        bool too_late_ = false; \
        guint id_ = g_timeout_add_seconds(PATIENCE_S, set_true, &too_late_); \
        while (!(condition)) { \
            g_assert_false(too_late_); \
            main_loop_wait(false); \
        } \
        if (!too_late_) { \
            g_source_remove(id_); \
        } \
    } while (0)

typedef struct Fixture {
    unsigned nfds;              /* before there was anything of it */
    int listener;
    char *name;                 /* of the abstract socket */
    Chardev *chr;
    IvshmemClient client;

    /* the server */
    int conn;
    int shm;
    size_t size;
    GArray *eventfds;           /* all that it has made */

    /* what the client has said */
    unsigned taken;             /* how often it has offered memory */
    uint64_t taken_size;
    int taken_fd;
    bool refuses;
    unsigned gone;
    unsigned interrupts[4];
    unsigned changes;           /* how often it was told of one */
    QemuSemaphore interrupted;

    int reports;                /* what it has printed, in place of stderr */
} Fixture;

/* Before all else */
void framework_init(int *argc, char ***argv);

/* The device that a Fixture has */
extern const IvshmemClientOps device_ops;

/* A client that has not begun, and is connected with these chardev options */
Fixture *fixture_new(const char *options);

/* After all has been undone, nothing is left open. */
void fixture_free(Fixture *f);

/* With what the server has to say up to here. */
void connect_client(Fixture *f, unsigned vectors);

/* Undo that, and all. */
void finish(Fixture *f);

/* The server has said something that makes no greeting; frees the fixture. */
void check_refused(Fixture *f, const char *expected);

unsigned count_fds(void);

/* What the client has reported: how often does it have this text? */
unsigned reported(Fixture *f, const char *text);

/* The server */

bool server_accepts(Fixture *f);
void server_hang_up(Fixture *f);

/* Its to close, in the end */
int new_eventfd(Fixture *f);

void server_send_bytes(Fixture *f, const void *bytes, size_t len,
                       unsigned nfds, const int *fds);
void server_send(Fixture *f, int64_t value, unsigned nfds, const int *fds);
void server_send_fd(Fixture *f, int64_t value, int fd);
void server_send_id(Fixture *f, int64_t value);

/* Returns the eventfd. */
int server_send_vector(Fixture *f, unsigned id);

void server_greet(Fixture *f, unsigned id);

/* The client has read what the server has said. */
void sync_with_client(Fixture *f);

/* Doorbells: how often has it been rung since? Ring us, ring a peer. */
unsigned rung(int fd);
void ring_us(int fd);
void ring(Fixture *f, unsigned peer, unsigned vector);

/* A client with an own vector and one of a peer. */
typedef struct Running {
    Fixture *f;
    int own, peer;
} Running;

Running running_new_with(const char *options);
Running running_new(void);
void running_free(Running *r);

/* All is as it was: the peer is rung, we are rung. */
void running_check(Running *r);

#endif /* TESTS_UNIT_IVSHMEM_CLIENT_FRAMEWORK_H */
