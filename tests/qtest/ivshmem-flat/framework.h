/*
 * What the tests of ivshmem-flat share: servers, machines, waiting
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Two servers stand behind the tests: QEMU's own, in a child process, for
 * what users do, and a fake one that says byte for byte and fd for fd what a
 * test wants said. The fake one keeps all eventfds, and so sees which of them
 * a doorbell moves.
 *
 * A pulse is over before qtest looks at a line, so interrupts are observed
 * where they are latched, in the NVIC's pending register.
 *
 * There is no error to return: whatever goes wrong in a function of these
 * fails the test. What a function returns is the caller's to free, unless it
 * says otherwise.
 */

#ifndef TESTS_QTEST_IVSHMEM_FLAT_FRAMEWORK_H
#define TESTS_QTEST_IVSHMEM_FLAT_FRAMEWORK_H

#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "libqtest.h"

/*
 * The tests, by theme: each function registers those of the file of its name,
 * <theme>-tests.c, with GLib.
 */
void add_board_tests(void);
void add_config_tests(void);
void add_restart_tests(void);
void add_migration_tests(void);
void add_greeting_tests(void);
void add_peer_tests(void);
void add_server_tests(void);
void add_guest_tests(void);
void add_life_tests(void);
void add_iothread_tests(void);
void add_user_tests(void);
void add_peer_registers_tests(void);

/* Where mps2-* place it: its registers, its shared memory, its first input */
#define IOMEM 0x50000000
#define SHMEM 0x70000000
#define INTRMASK (IOMEM + 0x0)
#define INTRSTATUS (IOMEM + 0x4)
#define IVPOSITION (IOMEM + 0x8)
#define DOORBELL (IOMEM + 0xc)

#define INPUT 25
#define NVIC_ISPR 0xe000e200
#define NVIC_ICPR 0xe000e280

/* ... and the second device of machine_of_two() */
#define IOMEM2_OFFSET 0x1000
#define SHMEM2 0x80000000
#define INPUT2 29

#define SHMEM_SIZE (4 * MiB)
#define MAX_VECTORS 64  /* of a peer that can be rung */

/* How long to wait for what must come; nothing waits for what must not. */
#define PATIENCE_US (60 * G_USEC_PER_SEC)

/* A macro, so that a failure names the line that waited. */
#define WAIT_UNTIL(condition) \
    do { \
        gint64 deadline_ = g_get_monotonic_time() + PATIENCE_US; \
        while (!(condition)) { \
            g_assert_cmpint(g_get_monotonic_time(), <, deadline_); \
            g_usleep(100); \
        } \
    } while (0)

/* What to write to DOORBELL */
static inline uint32_t doorbell(unsigned peer, unsigned vector)
{
    return peer << 16 | vector;
}

/* QEMU's own server */

typedef struct Server {
    char *dir;          /* of its own, for its socket, and for a test's files */
    char *path;         /* of its socket */
    size_t size;        /* of the shared memory */
    pid_t pid;          /* 0 once it is killed */
} Server;

/**
 * server_new:
 * @vectors: how many each peer has
 *
 * Start a server with SHMEM_SIZE bytes of memory. It ends with the test
 * program, however that is.
 */
Server *server_new(unsigned vectors);

/* The same with @size bytes of memory */
Server *server_new_with(size_t size, unsigned vectors);

/* Send a running server this signal, one that it ends of, and wait for that. */
void server_kill(Server *srv, int signum);

/*
 * After a kill: start it again, at the same place, with memory of the same
 * size.
 */
void server_restart(Server *srv, unsigned vectors);

/* End it; its directory must be empty but for the socket. */
void server_free(Server *srv);

/* The fake server */

/* ids that it gives, where nothing depends on them */
#define OWN_ID 5
#define PEER_ID 1

#define MAX_FDS 4

/* What is sent at once: a message of the protocol, a piece, or several */
typedef struct Message {
    uint8_t bytes[24];
    size_t len;
    int fds[MAX_FDS];
    unsigned nfds;
} Message;

typedef struct FakeServer {
    char *dir;          /* of its own, for its socket, and for a test's files */
    char *path;         /* of its socket */
    char *errors;       /* a file for its client's stderr */
    int listener;
    int conn;           /* to its client, or -1 */
    int shm;            /* the shared memory, of SHMEM_SIZE bytes */
    GArray *fds;        /* whatever it created, to be closed in the end */
    GArray *script;     /* what it says as soon as a client connects */
    gulong pause_us;    /* after each message of it */
    bool hang_up;       /* and then closes the connection */
    bool synced;        /* by fake_sync() */
    GThread *thread;
} FakeServer;

/* A server that listens, but says nothing yet */
FakeServer *fake_new(void);

/*
 * End it, and close all that it owns. Its directory must be empty but for the
 * socket and the client's stderr.
 */
void fake_free(FakeServer *srv);

/* Give it @fd, to be closed with it; returns @fd. */
int fake_own(FakeServer *srv, int fd);

/* Another object for shared memory, and an eventfd: both are the server's. */
int fake_memory(FakeServer *srv, off_t size);
int fake_eventfd(FakeServer *srv);

/**
 * message:
 * @value: what the protocol has there: an id, -1, the version
 * @nfds: how many of them go with it, at most MAX_FDS
 * @fds: which; they stay open
 *
 * A whole message, see "Client-Server protocol" in the specification
 */
Message message(int64_t value, unsigned nfds, const int *fds);

/* Before the machine starts: what is said on connect. */
void fake_script(FakeServer *srv, Message m);
void fake_script_id(FakeServer *srv, int64_t value);
void fake_script_fd(FakeServer *srv, int64_t value, int fd);

/* The greeting: version, the client's id, shared memory */
void fake_script_greeting(FakeServer *srv, int64_t id);

/*
 * A new vector of the peer with this id, or n of them. Returns its eventfd,
 * which is the server's, or puts them into @fds.
 */
int fake_script_vector(FakeServer *srv, int64_t id);
void fake_script_vectors(FakeServer *srv, int64_t id, int *fds, unsigned n);

/* What a client with one vector is told; returns that vector's eventfd. */
int fake_script_client(FakeServer *srv, int64_t id);

/*
 * The same, and before that vector one of a peer, whose eventfd is put into
 * @peer, if that is not NULL
 */
int fake_script_with_peer(FakeServer *srv, int64_t id, int64_t peer_id,
                          int *peer);

/*
 * Until fake_join() or fake_wait_client(), a client may connect. It is told
 * the script.
 */
void fake_start(FakeServer *srv);

/* Wait until one has, and has been told all. */
void fake_wait_client(FakeServer *srv);

/* It has by now, or none will. */
void fake_join(FakeServer *srv);

/* Returns whether the client is still there to be told. */
bool fake_transmit(int conn, const Message *m);

/* While the machine runs. */
void fake_send(FakeServer *srv, Message m);
void fake_send_gone(FakeServer *srv, int64_t id);
void fake_send_fd(FakeServer *srv, int64_t id, int fd);
int fake_send_vector(FakeServer *srv, int64_t id);

/* Has the client read all that was sent? */
bool fake_is_read(FakeServer *srv);

/**
 * fake_sync:
 * @qts: the client, with an interrupt that is wired
 *
 * Wait until all that the server has sent so far has been read: messages come
 * in order. Peer 65535 is for that alone, and new each time.
 */
void fake_sync(FakeServer *srv, QTestState *qts);

void fake_hang_up(FakeServer *srv);

/* Has the client hung up? */
bool is_hung_up(int conn);

/* The fake server as a new one: another connection, another script. */
void fake_restart(FakeServer *srv);

/* The client comes by itself. */
void fake_serve(FakeServer *srv);

/*
 * As a new server, alike but for the id that it gives. Returns the eventfd of
 * the own vector.
 */
int fake_come_back(FakeServer *srv, int64_t id);

/* How often the eventfd was rung since we last asked. */
uint64_t rung(int fd);

/* Ring, as a peer does */
void interrupt(int fd);

/* Machines */

/* The one that most tests use: its board places the device, and wires it. */
#define WIRED_MACHINE "-machine mps2-an385 " \
                      "-device ivshmem-flat,id=ivs,chardev=ivshmem"

/*
 * The device with other properties: for the path of the server's socket, and
 * for these, each behind a comma
 */
#define CHARDEV_AND_DEVICE "-machine mps2-an385 " \
                           "-chardev socket,id=ivshmem,path=%s " \
                           "-device ivshmem-flat,chardev=ivshmem%s"

/* The device in QOM */
#define DEVICE "/machine/peripheral/ivs"

/*
 * A machine with these arguments, whose chardev "ivshmem" is a connection to
 * the server at @path
 */
QTestState *machine(const char *path, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);
QTestState *wired_machine(const char *path);

/* The fake server's client: it has been told the script. */
QTestState *fake_machine_with(FakeServer *srv, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);
QTestState *fake_machine(FakeServer *srv);

/*
 * The same, with a chardev that connects again, and its stderr in the
 * server's file. The chardev is to look for the server at @path.
 */
QTestState *reconnecting_machine(FakeServer *srv, const char *args);
QTestState *reconnecting_machine_at(FakeServer *srv, const char *path,
                                    const char *args);

/**
 * machine_with_vectors:
 * @vectors: of the device, at most 64: vector k is wired to input k
 * @args: further arguments
 *
 * The fake server's client on an AN511, whose NVIC has 64 inputs
 */
QTestState *machine_with_vectors(FakeServer *srv, unsigned vectors,
                                 const char *args);

/* WIRED_MACHINE, and a second device; each has a server. */
QTestState *machine_of_two(const char *first, const char *second,
                           const char *args);

/* Where the guest sees the registers of the one device */
uint64_t find_registers(QTestState *qts);

/* Is this input of the NVIC pending? */
bool pending(QTestState *qts, unsigned input);

/* Wait until it is, and clear that. */
void wait_interrupt(QTestState *qts, unsigned input);

/* Ring until the eventfd moves: then the announcement has been read. */
void wait_known(QTestState *qts, unsigned peer, unsigned vector, int fd);

/* Accesses of 1, 2, 4 or 8 bytes */
uint64_t read_size(QTestState *qts, uint64_t addr, unsigned size);
void write_size(QTestState *qts, uint64_t addr, unsigned size, uint64_t value);

typedef struct Access {
    enum { READ, WRITE } kind;
    unsigned size;      /* in bytes */
    unsigned offset;    /* in the registers */
    uint64_t value;     /* to write, or to expect */
} Access;

/* Bytes that tell where they belong, others for another seed */
void fill(uint8_t *buf, size_t size, uint8_t seed);

/* What a running machine tells of itself */

/* How many entries this directory of the process in /proc has. */
unsigned count_in_proc(QTestState *qts, const char *what);
unsigned count_fds(QTestState *qts);

/* The number that its next file descriptor will have. */
unsigned next_fd(QTestState *qts);

/* How often a file says it; "\n" counts its lines. */
unsigned count_in_file(const char *path, const char *what);
unsigned count_errors(FakeServer *srv, const char *what);

/* What it has in memory */
uint64_t resident_kib(QTestState *qts);

/* Less than 5 % of a second that passes with nothing to do. */
void check_idle(QTestState *qts);

/* QMP's answer, also if it is an error */
QDict *qom_get(QTestState *qts, const char *path, const char *name);

/* A property of DEVICE, likewise */
QDict *get_property(QTestState *qts, const char *name);

void assert_string(QTestState *qts, const char *path, const char *name,
                   const char *expected);
uint64_t get_number(QTestState *qts, const char *name);
bool is_connected(QTestState *qts);
unsigned count_peers(QTestState *qts);

/* Interrupts that the own vector has taken. */
uint64_t get_interrupts(QTestState *qts, unsigned vector);

/* qtest_qom_set_bool() would not tell of an error. */
void set_realized(QTestState *qts, bool realized);

/* Is this the state of the migration? It must not have failed. */
bool migration_is(QTestState *qts, const char *expected);

/* Migrate to @uri, and wait until all is there. */
void migrate_to(QTestState *qts, const char *uri);

/* Does the machine run, as the destination does in the end? */
bool is_running(QTestState *qts);

/* QMP's answer is an error that has @expected in it. Frees @ret. */
void assert_qmp_error(QDict *ret, const char *expected);

/* Machines that are not to start, and what QEMU says on stderr */

typedef struct Output {
    char *text;
    int status;         /* as waitpid() has it */
} Output;

/*
 * Run QEMU to its end, or until @stop, if not NULL, appears in what it says:
 * then it gets a SIGTERM.
 */
Output run_qemu(const char *stop, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
void output_free(Output out);

/* Start-up must fail with one line that has @expected in it. */
void assert_refused(const char *expected, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/* The same for these, each behind a comma, where the server is a good one. */
void assert_properties_refused(const char *properties, const char *expected);

/*
 * Until unwrap_qemu(), QEMU is started by this shell command, in the place of
 * "exec". Returns what unwrap_qemu() wants.
 */
char *wrap_qemu(FakeServer *srv, const char *command);
void unwrap_qemu(char *qemu);

/* After the greeting */

/* A machine with one peer, and its stderr in a file. */
typedef struct Running {
    FakeServer *srv;
    QTestState *qts;
    int own;            /* the machine's eventfd */
    int peer;           /* peer 1's */
    unsigned nfds;      /* that QEMU has open */
} Running;

Running running_new(void);

/* Doorbells and interrupts still work, and no fd has leaked. */
void running_check(Running *r);
void running_free(Running *r);

/*
 * A peer rings all 64 vectors of the machine with @args, a string, at once: as
 * many interrupts, and then peace.
 */
void check_vectors_all_at_once(const void *args);

#endif
