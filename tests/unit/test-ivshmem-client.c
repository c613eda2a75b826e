/*
 * Unit tests of the client of an ivshmem server
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

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/config-file.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "chardev/char.h"
#include "hw/misc/ivshmem-client.h"
#include "system/system.h"
#include "iothread.h"

#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#define OWN_ID 3
#define PEER_ID 5
#define MAX_PEER_VECTORS 64
#define SHORT_MS 1000           /* for a greeting that does not come */
#define PATIENCE_S 60

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
    QemuSemaphore interrupted;

    int reports;                /* what it has printed, in place of stderr */
} Fixture;

static int real_stderr = STDERR_FILENO;

static gboolean set_true(void *opaque)
{
    *(bool *)opaque = true;
    return G_SOURCE_REMOVE;
}

static unsigned count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned count = 0;

    while (g_dir_read_name(dir)) {
        count++;
    }
    g_dir_close(dir);
    return count;
}

/* What the client has reported: how often does it have this text? */
static unsigned reported(Fixture *f, const char *text)
{
    char buf[16384];
    ssize_t len = pread(f->reports, buf, sizeof(buf) - 1, 0);
    unsigned count = 0;

    g_assert_cmpint(len, >=, 0);
    g_assert_cmpint(len, <, sizeof(buf) - 1);
    buf[len] = 0;
    for (char *at = buf; (at = strstr(at, text)); at += strlen(text)) {
        count++;
    }
    return count;
}

/* What a failed assertion has to say. */
static void print_to_real_stderr(const char *text)
{
    if (write(real_stderr, text, strlen(text)) < 0) {
        abort();
    }
}

/* A device */

static bool take_memory(void *opaque, int fd, uint64_t size, Error **errp)
{
    Fixture *f = opaque;

    f->taken++;
    f->taken_size = size;
    if (f->refuses) {
        error_setg(errp, "the device has no use for it");
        return false;
    }
    if (f->taken_fd >= 0) {
        close(f->taken_fd);
    }
    f->taken_fd = fd;
    return true;
}

static void server_gone(void *opaque)
{
    Fixture *f = opaque;

    f->gone++;
}

static void interrupt(void *opaque, unsigned vector)
{
    Fixture *f = opaque;

    g_assert_cmpint(vector, <, ARRAY_SIZE(f->interrupts));
    qatomic_inc(&f->interrupts[vector]);
    qemu_sem_post(&f->interrupted);
}

static const IvshmemClientOps ops = {
    .name = "device",
    .max_peer_vectors = MAX_PEER_VECTORS,
    .take_memory = take_memory,
    .server_gone = server_gone,
    .interrupt = interrupt,
};

/* The server */

static int new_shm(off_t size)
{
    int fd = memfd_create("test-ivshmem-client", MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    return fd;
}

static int new_eventfd(Fixture *f)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    g_assert_cmpint(fd, >=, 0);
    g_array_append_val(f->eventfds, fd);
    return fd;
}

static void listen_at(Fixture *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    socklen_t len = offsetof(struct sockaddr_un, sun_path) + 1 +
                    strlen(f->name);

    strcpy(addr.sun_path + 1, f->name);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                         0);
    g_assert_cmpint(f->listener, >=, 0);
    g_assert_cmpint(bind(f->listener, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(f->listener, 1), ==, 0);
}

static bool server_accepts(Fixture *f)
{
    f->conn = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
    return f->conn >= 0;
}

static void server_send_bytes(Fixture *f, const void *bytes, size_t len,
                              unsigned nfds, const int *fds)
{
    struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(8 * sizeof(int))];
    } control = {};
    struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (nfds) {
        struct cmsghdr *cmsg;

        hdr.msg_control = control.buf;
        hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&hdr);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, nfds * sizeof(int));
    }
    g_assert_cmpint(sendmsg(f->conn, &hdr, MSG_NOSIGNAL), ==, len);
}

static void server_send(Fixture *f, int64_t value, unsigned nfds,
                        const int *fds)
{
    uint8_t bytes[8];

    stq_le_p(bytes, value);
    server_send_bytes(f, bytes, sizeof(bytes), nfds, fds);
}

static void server_send_fd(Fixture *f, int64_t value, int fd)
{
    server_send(f, value, 1, &fd);
}

static void server_send_id(Fixture *f, int64_t value)
{
    server_send(f, value, 0, NULL);
}

/* Returns the eventfd. */
static int server_send_vector(Fixture *f, unsigned id)
{
    int fd = new_eventfd(f);

    server_send_fd(f, id, fd);
    return fd;
}

static void server_greet(Fixture *f, unsigned id)
{
    server_send_id(f, 0);
    server_send_id(f, id);
    server_send_fd(f, -1, f->shm);
}

static void server_hang_up(Fixture *f)
{
    close(f->conn);
    f->conn = -1;
}

/* How often has it been rung since? */
static unsigned rung(int fd)
{
    uint64_t count = 0;
    GPollFD pfd = { .fd = fd, .events = G_IO_IN };

    if (g_poll(&pfd, 1, 0)) {
        g_assert_cmpint(read(fd, &count, sizeof(count)), ==, sizeof(count));
    }
    return count;
}

static void ring_us(int fd)
{
    static const uint64_t one = 1;

    g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
}

static bool all_is_read(Fixture *f)
{
    int unread = 0;

    g_assert_cmpint(ioctl(f->conn, SIOCOUTQ, &unread), ==, 0);
    return !unread;
}

/* The client has read what the server has said. */
static void sync_with_client(Fixture *f)
{
    WAIT_UNTIL(all_is_read(f));
}

/* Fixtures */

static Fixture *fixture_new(const char *options)
{
    static unsigned number;
    Fixture *f = g_new0(Fixture, 1);
    g_autofree char *text = NULL;
    QemuOpts *opts;

    f->nfds = count_fds();
    real_stderr = dup(STDERR_FILENO);
    f->reports = memfd_create("reports", MFD_CLOEXEC);
    dup2(f->reports, STDERR_FILENO);
    f->taken_fd = -1;
    f->size = 2 * qemu_real_host_page_size();
    f->shm = new_shm(f->size);
    f->eventfds = g_array_new(false, false, sizeof(int));
    qemu_sem_init(&f->interrupted, 0);
    ivshmem_client_init(&f->client, &ops, f);

    f->name = g_strdup_printf("test-ivshmem-client-%d-%u", getpid(), number++);
    listen_at(f);
    text = g_strdup_printf("socket,id=ivshmem,path=%s,abstract=on%s", f->name,
                           options);
    opts = qemu_opts_parse_noisily(&qemu_chardev_opts, text, true);
    f->chr = qemu_chr_new_from_opts(opts, NULL, &error_abort);
    qemu_opts_del(opts);
    qemu_chr_fe_init(&f->client.chr, f->chr, &error_abort);
    WAIT_UNTIL(server_accepts(f));
    return f;
}

static bool no_more_fds(Fixture *f)
{
    return count_fds() <= f->nfds;
}

/* After all has been undone, nothing is left open. */
static void fixture_free(Fixture *f)
{
    qemu_chr_fe_deinit(&f->client.chr, false);
    object_unparent(OBJECT(f->chr));
    close(f->listener);
    if (f->conn >= 0) {
        close(f->conn);
    }
    close(f->shm);
    if (f->taken_fd >= 0) {
        close(f->taken_fd);
    }
    for (guint i = 0; i < f->eventfds->len; i++) {
        close(g_array_index(f->eventfds, int, i));
    }
    g_array_unref(f->eventfds);
    qemu_sem_destroy(&f->interrupted);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    real_stderr = STDERR_FILENO;
    close(f->reports);
    while (!no_more_fds(f)) {
        /* There is no event to wait for, only what is to be done yet. */
        g_assert_true(g_main_context_iteration(NULL, false));
    }
    g_free(f->name);
    g_free(f);
}

/* With what the server has to say up to here. */
static void connect_client(Fixture *f, unsigned vectors)
{
    g_assert_true(ivshmem_client_connect(&f->client, vectors,
                                         iohandler_get_aio_context(),
                                         &error_abort));
}

static void finish(Fixture *f)
{
    ivshmem_client_disconnect(&f->client);
    fixture_free(f);
}

/* A client with an own vector and one of a peer. */
typedef struct Running {
    Fixture *f;
    int own, peer;
} Running;

static Running running_new_with(const char *options)
{
    Running r = { .f = fixture_new(options) };

    server_greet(r.f, OWN_ID);
    r.peer = server_send_vector(r.f, PEER_ID);
    r.own = server_send_vector(r.f, OWN_ID);
    connect_client(r.f, 1);
    return r;
}

static Running running_new(void)
{
    return running_new_with("");
}

static void running_free(Running *r)
{
    finish(r->f);
}

static void ring(Fixture *f, unsigned peer, unsigned vector)
{
    ivshmem_peers_ring(&f->client.peers, peer, vector);
}

/* All is as it was: the peer is rung, we are rung. */
static void running_check(Running *r)
{
    Fixture *f = r->f;
    unsigned interrupts = f->interrupts[0];

    sync_with_client(f);
    ivshmem_peers_listen(&f->client.peers, 0);
    ring(f, PEER_ID, 0);
    g_assert_cmpint(rung(r->peer), ==, 1);
    ring_us(r->own);
    WAIT_UNTIL(f->interrupts[0] == interrupts + 1);
}

/* The server has said something that makes no greeting. */
static void check_refused(Fixture *f, const char *expected)
{
    Error *err = NULL;

    g_assert_false(ivshmem_client_connect(&f->client, 1,
                                          iohandler_get_aio_context(), &err));
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), expected)) {
        g_assert_cmpstr(error_get_pretty(err), ==, expected);
    }
    error_free(err);
    g_assert_cmpint(f->client.phase, ==, IVSHMEM_CLIENT_DISCONNECTED);
    fixture_free(f);
}

/* The greeting */

static void test_greeting_good(void)
{
    Running r = running_new();
    IvshmemClient *c = &r.f->client;
    char byte;

    g_assert_cmpint(c->phase, ==, IVSHMEM_CLIENT_CONNECTED);
    g_assert_cmpint(c->peers.id, ==, OWN_ID);
    g_assert_cmpint(c->peers.nvectors, ==, 1);
    g_assert_cmpint(c->peers.others[PEER_ID]->nvectors, ==, 1);
    g_assert_cmpint(r.f->taken, ==, 1);
    g_assert_cmpint(r.f->taken_size, ==, r.f->size);
    running_check(&r);
    ivshmem_client_disconnect(c);
    g_assert_cmpint(recv(r.f->conn, &byte, 1, 0), ==, 0); /* it sees us go */
    g_assert_cmpint(c->phase, ==, IVSHMEM_CLIENT_DISCONNECTED);
    g_assert_cmpint(reported(r.f, "\n"), ==, 0);
    g_assert_cmpint(r.f->gone, ==, 0);
    fixture_free(r.f);
}

static void test_greeting_version(void)
{
    static const struct {
        int64_t version;
        const char *expected;
    } cases[] = {
        { 1, "server sent protocol version 1, expected 0" },
        { -1, "server sent protocol version -1, expected 0" },
        { INT64_MIN, "server sent protocol version -9223372036854775808" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        Fixture *f = fixture_new("");

        server_send_id(f, cases[i].version);
        check_refused(f, cases[i].expected);
    }
}

static void test_greeting_id(void)
{
    static const struct {
        int64_t id;
        const char *expected;
    } cases[] = {
        { -1, "server sent own id -1, expected 0 to 65535" },
        { 65536, "server sent own id 65536, expected 0 to 65535" },
        { 1LL << 40, "server sent own id 1099511627776, expected 0 to 65535" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        Fixture *f = fixture_new("");

        server_send_id(f, 0);
        server_send_id(f, cases[i].id);
        check_refused(f, cases[i].expected);
    }
}

/* Peers may come before the memory; what is none may not. */
static void test_greeting_order(void)
{
    static const struct {
        int64_t value;
        unsigned nfds;
        bool is_eventfd;
        const char *why;
    } cases[] = {
        { OWN_ID, 0, false, "it is the own id, expected an eventfd" },
        { 7, 0, false, "peer is gone that never came" },
        { 7, 1, false, "expected an eventfd" },
        { 7, 2, true, "expected at most one" },
        { 65536, 1, true, "expected an id from 0 to 65535" },
        { -2, 0, false, "expected an id from 0 to 65535" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        Fixture *f = fixture_new("");
        int kinds[] = { f->shm, new_eventfd(f) };
        int fd = kinds[cases[i].is_eventfd];
        g_autofree char *expected = g_strdup_printf(
            "server sent message %" PRId64 " with %u file descriptors, "
            "expected -1 with the shared memory: %s", cases[i].value,
            cases[i].nfds, cases[i].why);

        server_send_id(f, 0);
        server_send_id(f, OWN_ID);
        server_send_vector(f, PEER_ID);
        server_send(f, cases[i].value, cases[i].nfds, (int[]) { fd, fd });
        check_refused(f, expected);
    }
}

/* fds where none is due, none where one is, several */
static void test_greeting_fds(void)
{
    static const struct {
        unsigned nfds[3];
        const char *expected;
    } cases[] = {
        { { 1, 0, 1 }, "server sent the protocol version with 1 file "
                       "descriptors, expected 0" },
        { { 0, 2, 1 }, "server sent the own id with 2 file descriptors, "
                       "expected 0" },
        { { 0, 0, 0 }, "server sent the shared memory with 0 file descriptors, "
                       "expected 1" },
        { { 0, 0, 3 }, "server sent the shared memory with 3 file descriptors, "
                       "expected 1" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        Fixture *f = fixture_new("");
        int fds[] = { f->shm, f->shm, f->shm };

        server_send(f, 0, cases[i].nfds[0], fds);
        if (!cases[i].nfds[0]) {
            server_send(f, OWN_ID, cases[i].nfds[1], fds);
        }
        if (!cases[i].nfds[0] && !cases[i].nfds[1]) {
            server_send(f, -1, cases[i].nfds[2], fds);
        }
        check_refused(f, cases[i].expected);
    }
}

static void check_memory(int fd, const char *expected)
{
    Fixture *f = fixture_new("");

    server_send_id(f, 0);
    server_send_id(f, OWN_ID);
    server_send_fd(f, -1, fd);
    check_refused(f, expected);
}

static void test_greeting_memory_kind(void)
{
    static const char any[] =
        "as shared memory, expected a regular file";
    g_autofree char *path = NULL;
    int fds[8], i, shm = new_shm(qemu_real_host_page_size());

    g_assert_cmpint(pipe(fds), ==, 0);
    fds[2] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fds[3] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fds[4] = open("/dev/null", O_RDWR | O_CLOEXEC);
    fds[5] = eventfd(0, EFD_CLOEXEC);
    path = g_strdup_printf("/proc/self/fd/%d", shm);
    fds[6] = open(path, O_RDONLY | O_CLOEXEC);
    fds[7] = open(path, O_WRONLY | O_CLOEXEC);
    for (i = 0; i < ARRAY_SIZE(fds); i++) {
        static const char *const kinds[] = {
            "a pipe", "a pipe", "a socket", "a directory", "a character device",
            "something else"
        };
        g_autofree char *expected = i < ARRAY_SIZE(kinds) ?
            g_strdup_printf("server sent %s %s", kinds[i], any) :
            g_strdup("that is not open for reading and writing");

        g_assert_cmpint(fds[i], >=, 0);
        check_memory(fds[i], expected);
    }
    for (i = 0; i < ARRAY_SIZE(fds); i++) {
        close(fds[i]);
    }
    close(shm);
}

static void test_greeting_memory_size(void)
{
    off_t page = qemu_real_host_page_size();
    off_t sizes[] = { 0, 1, page - 1, page + 1, (64LL << 30) + page };

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        int fd = new_shm(sizes[i]);
        g_autofree char *expected = g_strdup_printf(
            "server sent shared memory of %" PRId64 " bytes, expected a "
            "multiple of the host's page size %" PRId64, (int64_t)sizes[i],
            (int64_t)page);

        check_memory(fd, expected);
        close(fd);
    }
}

/* The device's error is the greeting's, and the fd is not the device's. */
static void test_greeting_memory_refused(void)
{
    Fixture *f = fixture_new("");

    f->refuses = true;
    server_greet(f, OWN_ID);
    check_refused(f, "chardev 'ivshmem': the device has no use for it");
}

/* It ends after each of the bytes of a greeting but the last. */
static void test_greeting_end_of_stream(void)
{
    static const char *const parts[] = {
        "the protocol version", "the own id", "the shared memory"
    };

    for (unsigned len = 0; len < 24; len++) {
        Fixture *f = fixture_new("");
        uint8_t bytes[24] = { [8] = OWN_ID };
        g_autofree char *expected = g_strdup_printf(
            "server closed the connection after %u bytes, expected %s", len,
            parts[len / 8]);

        memset(bytes + 16, 0xff, 8);
        server_send_bytes(f, bytes, MIN(len, 16), 0, NULL);
        if (len > 16) {
            server_send_bytes(f, bytes + 16, len - 16, 1, &f->shm);
        }
        server_hang_up(f);
        check_refused(f, expected);
    }
}

/* It falls silent, in the middle of a message, too. */
static void test_greeting_silence(void)
{
    static const unsigned lens[] = { 0, 11 };

    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        Fixture *f = fixture_new("");
        g_autofree char *expected = g_strdup_printf(
            "server sent %u bytes in 1 s, expected %s", lens[i],
            lens[i] ? "the own id" : "the protocol version");
        int64_t start = g_get_monotonic_time();

        f->client.greeting_ms = SHORT_MS;
        server_send_bytes(f, (uint8_t[16]) {}, lens[i], 0, NULL);
        check_refused(f, expected);
        g_assert_cmpint(g_get_monotonic_time() - start, >=, SHORT_MS * 1000);
    }
}

static void test_greeting_in_pieces(void)
{
    Fixture *f = fixture_new("");
    uint8_t bytes[24] = { [8] = OWN_ID };
    int own;

    memset(bytes + 16, 0xff, 8);
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        server_send_bytes(f, bytes + i, 1, i == 20, &f->shm);
    }
    own = server_send_vector(f, OWN_ID);
    connect_client(f, 1);
    g_assert_cmpint(f->client.peers.id, ==, OWN_ID);
    g_assert_cmpint(f->taken, ==, 1);
    ring(f, OWN_ID, 0);
    g_assert_cmpint(rung(own), ==, 1);
    finish(f);
}

/* There are servers that send the memory last. */
static void test_greeting_memory_last(void)
{
    Fixture *f = fixture_new("");
    int peer[2], gone, own;

    server_send_id(f, 0);
    server_send_id(f, OWN_ID);
    peer[0] = server_send_vector(f, PEER_ID);
    peer[1] = server_send_vector(f, PEER_ID);
    gone = server_send_vector(f, 7);
    server_send_id(f, 7);
    own = server_send_vector(f, OWN_ID);
    server_send_fd(f, -1, f->shm);
    connect_client(f, 1);
    ivshmem_peers_listen(&f->client.peers, 0);
    ring(f, PEER_ID, 1);
    ring(f, 7, 0);
    g_assert_cmpint(rung(peer[0]), ==, 0);
    g_assert_cmpint(rung(peer[1]), ==, 1);
    g_assert_cmpint(rung(gone), ==, 0);
    ring_us(own);
    WAIT_UNTIL(f->interrupts[0] == 1);
    finish(f);
}

/* A server need not have vectors; silence ends the first batch then. */
static void test_greeting_without_vectors(void)
{
    Fixture *f = fixture_new("");

    server_greet(f, OWN_ID);
    connect_client(f, 1);
    g_assert_cmpint(f->client.peers.nvectors, ==, 0);
    ring(f, OWN_ID, 0);
    g_assert_cmpint(f->client.peers.doorbells_dropped, ==, 1);
    server_send_id(f, 7); /* of whom it has never told, having no vectors */
    sync_with_client(f);
    g_assert_cmpint(reported(f, "\n"), ==, 0);
    finish(f);
}

/* The chardev */

static void check_chardev(Chardev *chr, const char *expected)
{
    IvshmemClient client = {};
    Error *err = NULL;

    ivshmem_client_init(&client, &ops, NULL);
    if (chr) {
        qemu_chr_fe_init(&client.chr, chr, &error_abort);
    }
    g_assert_false(ivshmem_client_connect(&client, 1,
                                          iohandler_get_aio_context(), &err));
    g_assert_cmpstr(error_get_pretty(err), ==, expected);
    error_free(err);
    qemu_chr_fe_deinit(&client.chr, false);
    if (chr) {
        object_unparent(OBJECT(chr));
    }
}

static void test_chardev(void)
{
    g_autofree char *listens = g_strdup_printf(
        "socket,id=listener,path=test-ivshmem-client-%d,abstract=on,server=on,"
        "wait=off", getpid());
    QemuOpts *opts = qemu_opts_parse_noisily(&qemu_chardev_opts, listens, true);

    check_chardev(NULL, "property 'chardev' is not set, expected the id of a "
                  "socket chardev that connects to an ivshmem server");
    check_chardev(qemu_chr_new("other", "null", NULL),
                  "chardev 'other' is a chardev-null, expected a UNIX socket "
                  "that connects to an ivshmem server");
    check_chardev(qemu_chr_new_from_opts(opts, NULL, &error_abort),
                  "chardev 'listener' listens, expected one that connects to an "
                  "ivshmem server (server=off)");
    qemu_opts_del(opts);
}

/* It ends before there is a client that could notice. */
static void test_chardev_is_not_connected(void)
{
    Fixture *f = fixture_new("");

    server_hang_up(f);
    qemu_chr_fe_disconnect(&f->client.chr);
    check_refused(f, "chardev 'ivshmem' is not connected");
}

/* Messages */

/* A bad message is reported once, and changes nothing. */
static void check_bad_message(int64_t value, unsigned nfds, const int *fds,
                              const char *why)
{
    Running r = running_new();
    g_autofree char *expected = g_strdup_printf(
        "device: ignored message %" PRId64 " with %u file descriptors from "
        "chardev 'ivshmem': %s", value, nfds, why);
    unsigned open = count_fds();

    for (unsigned i = 0; i < 3; i++) {
        server_send(r.f, value, nfds, fds);
    }
    running_check(&r);
    g_assert_cmpint(count_fds(), ==, open);
    g_assert_cmpint(reported(r.f, "\n"), ==, 1);
    g_assert_cmpint(reported(r.f, expected), ==, 1);
    running_free(&r);
}

static void test_message_bad_id(void)
{
    static const int64_t ids[] = { -2, 65536, 1LL << 32 | 1, INT64_MIN };
    int fd = eventfd(0, EFD_CLOEXEC);

    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
        check_bad_message(ids[i], 0, NULL, "expected an id from 0 to 65535");
        check_bad_message(ids[i], 1, &fd, "expected an id from 0 to 65535");
    }
    close(fd);
}

static void test_message_second_shmem(void)
{
    int fd = new_shm(qemu_real_host_page_size());

    check_bad_message(-1, 0, NULL, "the shared memory is there already");
    check_bad_message(-1, 1, &fd, "the shared memory is there already");
    close(fd);
}

static void test_message_several_fds(void)
{
    int fd = eventfd(0, EFD_CLOEXEC);

    check_bad_message(PEER_ID, 2, (int[]) { fd, fd }, "expected at most one");
    check_bad_message(OWN_ID, 4, (int[]) { fd, fd, fd, fd },
                      "expected at most one");
    close(fd);
}

/* A doorbell writes into what the server sent: it must be an eventfd. */
static void test_message_not_an_eventfd(void)
{
    int fds[2], shm = new_shm(qemu_real_host_page_size());

    g_assert_cmpint(pipe(fds), ==, 0);
    check_bad_message(PEER_ID, 1, &fds[1], "expected an eventfd");
    check_bad_message(OWN_ID, 1, &fds[0], "expected an eventfd");
    check_bad_message(7, 1, &shm, "expected an eventfd");
    close(fds[0]);
    close(fds[1]);
    close(shm);
}

static void test_message_gone(void)
{
    check_bad_message(OWN_ID, 0, NULL, "it is the own id, expected an eventfd");
    check_bad_message(7, 0, NULL, "peer is gone that never came");
}

/* One in eight writes, with an fd on one or on each of them. */
static void test_message_in_pieces(void)
{
    Running r = running_new();
    int fd = new_eventfd(r.f);
    uint8_t bytes[8] = { 7 };

    for (unsigned i = 0; i < sizeof(bytes); i++) {
        server_send_bytes(r.f, bytes + i, 1, i == 3, &fd);
    }
    sync_with_client(r.f);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(fd), ==, 1);
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        server_send_bytes(r.f, bytes + i, 1, 1, &fd);
    }
    running_check(&r);
    g_assert_cmpint(r.f->client.peers.others[7]->nvectors, ==, 1);
    g_assert_cmpint(reported(r.f, "ignored message 7 with 8 file descriptors"),
                    ==, 1);
    running_free(&r);
}

/* What the limit of open files takes away is told once, with the limit. */
static void test_message_without_fds(void)
{
    Running r = running_new();
    struct rlimit limit, none;
    int peer7 = server_send_vector(r.f, 7);
    int lost[] = { new_eventfd(r.f), new_eventfd(r.f) };
    int free_fd;

    sync_with_client(r.f);
    free_fd = dup(STDIN_FILENO); /* and lower ones are all in use */
    close(free_fd);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    none = (struct rlimit) { free_fd, limit.rlim_max };
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    server_send_fd(r.f, 7, lost[0]);    /* and the one that it had */
    WAIT_UNTIL(reported(r.f, "\n"));
    server_send_fd(r.f, 8, lost[1]);
    sync_with_client(r.f);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    running_check(&r);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(peer7), ==, 0);
    g_assert_cmpint(reported(r.f, "\n"), ==, 1);
    g_assert_cmpint(reported(r.f, "device: 2 eventfds from chardev 'ivshmem' "
                             "were lost for want of file descriptors"), ==, 1);
    running_free(&r);
}

/* Peers */

/* An id used again has its own vectors, not those of its predecessor. */
static void test_peer_comes_and_goes(void)
{
    Running r = running_new();
    int fds[3], again;

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = server_send_vector(r.f, 7);
    }
    sync_with_client(r.f);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        ring(r.f, 7, i);
        g_assert_cmpint(rung(fds[i]), ==, 1);
    }
    server_send_id(r.f, 7);
    sync_with_client(r.f);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(fds[0]), ==, 0);
    again = server_send_vector(r.f, 7);
    sync_with_client(r.f);
    ring(r.f, 7, 0);
    ring(r.f, 7, 1);
    g_assert_cmpint(rung(again), ==, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        g_assert_cmpint(rung(fds[i]), ==, 0);
    }
    running_check(&r);
    g_assert_cmpint(reported(r.f, "\n"), ==, 0);
    running_free(&r);
}

/* What comes beyond those that the device can ring is closed. */
static void test_peer_with_many_vectors(void)
{
    Running r = running_new();
    int fd = new_eventfd(r.f);
    unsigned open = count_fds();

    for (unsigned i = 0; i < 100; i++) {
        server_send_fd(r.f, 7, fd);
    }
    sync_with_client(r.f);
    g_assert_cmpint(count_fds(), ==, open + MAX_PEER_VECTORS);
    for (unsigned i = 0; i < 100; i++) {
        ring(r.f, 7, i);
    }
    g_assert_cmpint(rung(fd), ==, MAX_PEER_VECTORS);
    running_check(&r);
    running_free(&r);
}

/* 10,000 of them, each with an id of its own, a few at a time. */
static void test_peer_ten_thousand(void)
{
    Running r = running_new();
    int fd = new_eventfd(r.f);
    unsigned open = count_fds();

    for (unsigned id = 10; id < 10010; id++) {
        server_send_fd(r.f, id, fd);
        if (id >= 20) {
            server_send_id(r.f, id - 10);
        }
        if (id % 16 == 0) {
            sync_with_client(r.f);
        }
    }
    sync_with_client(r.f);
    g_assert_cmpint(count_fds(), ==, open + 10);
    for (unsigned id = 10; id < 10010; id++) {
        ring(r.f, id, 0);
    }
    g_assert_cmpint(rung(fd), ==, 10);
    g_assert_cmpint(reported(r.f, "\n"), ==, 0);
    running_free(&r);
}

/* A device may ask for as many vectors as there can be. */
static void test_peer_with_all_vectors(void)
{
    Fixture *f = fixture_new("");
    IvshmemClientOps many_vectors = ops;
    int many = new_eventfd(f), last = new_eventfd(f), own[2];

    many_vectors.max_peer_vectors = 65536;
    ivshmem_client_init(&f->client, &many_vectors, f);
    server_greet(f, OWN_ID);
    own[0] = server_send_vector(f, OWN_ID);
    connect_client(f, 65536);
    for (unsigned i = 0; i < 300; i++) {
        server_send_fd(f, 7, many);
        sync_with_client(f);
    }
    server_send_fd(f, 7, last);
    own[1] = server_send_vector(f, OWN_ID);
    sync_with_client(f);
    ring(f, 7, 300);
    ring(f, 7, 301);
    g_assert_cmpint(rung(many), ==, 0);
    g_assert_cmpint(rung(last), ==, 1);
    ring(f, OWN_ID, 1);
    g_assert_cmpint(rung(own[0]), ==, 0);
    g_assert_cmpint(rung(own[1]), ==, 1);
    finish(f);
}

/* Eventfds that block would hang peers that read them until they are empty. */
static void test_peer_does_not_block(void)
{
    Running r = running_new();

    g_assert_cmpint(fcntl(r.peer, F_GETFL) & O_NONBLOCK, !=, 0);
    g_assert_cmpint(fcntl(r.own, F_GETFL) & O_NONBLOCK, !=, 0);
    running_free(&r);
}

/* Doorbells */

static void test_doorbell_to_nobody(void)
{
    Running r = running_new();
    IvshmemPeers *peers = &r.f->client.peers;

    ring(r.f, PEER_ID, 1);
    ring(r.f, PEER_ID, 65535);
    ring(r.f, 0, 0);
    ring(r.f, 65535, 65535);
    ring(r.f, OWN_ID, 1);
    g_assert_cmpint(rung(r.peer), ==, 0);
    g_assert_cmpint(rung(r.own), ==, 0);
    g_assert_cmpint(peers->doorbells_dropped, ==, 5);
    g_assert_cmpint(peers->doorbells_sent, ==, 0);
    ring(r.f, PEER_ID, 0);
    ring(r.f, OWN_ID, 0);
    g_assert_cmpint(rung(r.peer), ==, 1);
    g_assert_cmpint(rung(r.own), ==, 1);
    g_assert_cmpint(peers->doorbells_sent, ==, 2);
    running_free(&r);
}

/* The interrupt is pending already, and we must not block. */
static void test_doorbell_to_a_full_counter(void)
{
    Running r = running_new();
    uint64_t full = UINT64_MAX - 1;

    g_assert_cmpint(write(r.peer, &full, sizeof(full)), ==, sizeof(full));
    fcntl(r.peer, F_SETFL, 0);
    ring(r.f, PEER_ID, 0);
    g_assert_cmpint(r.f->client.peers.doorbells_dropped, ==, 1);
    running_free(&r);
}

/* The server has told of the peer, and we have not read that. */
static void test_doorbell_to_an_announced_peer(void)
{
    Running r = running_new();
    IvshmemPeers *peers = &r.f->client.peers;
    int fd = new_eventfd(r.f);

    server_send_bytes(r.f, (uint8_t[3]) { 7 }, 3, 1, &fd);
    ring(r.f, 7, 0);
    ring(r.f, 7, 0);
    sync_with_client(r.f);
    g_assert_cmpint(rung(fd), ==, 0); /* read up to there, and nobody came */
    g_assert_cmpint(peers->doorbells_dropped, ==, 2);
    ring(r.f, 7, 0);
    g_assert_cmpint(peers->doorbells_dropped, ==, 3);
    server_send_bytes(r.f, (uint8_t[5]) {}, 5, 0, NULL);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(fd), ==, 0);
    sync_with_client(r.f);
    g_assert_cmpint(rung(fd), ==, 1);
    g_assert_cmpint(peers->doorbells_sent, ==, 1);

    /* The same if all of the message has come by the time that it is read. */
    server_send_bytes(r.f, (uint8_t[3]) { 8 }, 3, 0, NULL);
    ring(r.f, 8, 0);
    server_send_bytes(r.f, (uint8_t[5]) {}, 5, 1, &fd);
    ring(r.f, 8, 0);
    sync_with_client(r.f);
    g_assert_cmpint(rung(fd), ==, 1);
    g_assert_cmpint(peers->doorbells_dropped, ==, 4);
    running_free(&r);
}

/* Rung in between, each goes to whoever has the id at its place. */
static void test_doorbell_to_an_id_used_again(void)
{
    Running r = running_new();
    int old = server_send_vector(r.f, 7), new;

    sync_with_client(r.f);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(old), ==, 1);
    server_send_id(r.f, 7);
    ring(r.f, 7, 0);                    /* to nobody */
    new = server_send_vector(r.f, 7);
    ring(r.f, 7, 0);                    /* to the new one */
    server_send_vector(r.f, 8);
    ring(r.f, 7, 0);                    /* likewise */
    sync_with_client(r.f);
    g_assert_cmpint(rung(old), ==, 0);
    g_assert_cmpint(rung(new), ==, 2);
    g_assert_cmpint(r.f->client.peers.doorbells_dropped, ==, 1);
    running_free(&r);
}

/* Those to unknown vectors are limited, those to known ones are not. */
static void test_doorbell_to_many(void)
{
    Running r = running_new();
    IvshmemPeers *peers = &r.f->client.peers;
    int fd = server_send_vector(r.f, 7);

    ring(r.f, 7, MAX_PEER_VECTORS);     /* nobody has so many */
    g_assert_cmpint(peers->doorbells_dropped, ==, 1);
    for (unsigned i = 0; i < IVSHMEM_MAX_KEPT + 10; i++) {
        ring(r.f, 100 + i, 0);
    }
    g_assert_cmpint(peers->doorbells_dropped, ==, 11);
    for (unsigned i = 0; i < 1000; i++) {
        ring(r.f, PEER_ID, 0);
    }
    ring(r.f, OWN_ID, 0);               /* nobody takes that away */
    g_assert_cmpint(rung(r.own), ==, 1);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(r.peer), ==, 0);
    sync_with_client(r.f);
    g_assert_cmpint(rung(r.peer), ==, 1000);
    g_assert_cmpint(rung(fd), ==, 0);
    g_assert_cmpint(peers->doorbells_dropped, ==, 12 + IVSHMEM_MAX_KEPT);
    running_free(&r);
}

/* What is kept when the connection ends is decided then. */
static void test_doorbell_at_the_end(void)
{
    Running r = running_new();

    server_send_bytes(r.f, (uint8_t[3]) { 7 }, 3, 0, NULL);
    ring(r.f, PEER_ID, 0);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(r.peer), ==, 0);
    ivshmem_client_disconnect(&r.f->client);
    g_assert_cmpint(rung(r.peer), ==, 1);
    g_assert_cmpint(r.f->client.peers.doorbells_dropped, ==, 1);
    fixture_free(r.f);
}

/* Interrupts */

static void test_interrupt(void)
{
    Fixture *f = fixture_new("");
    IvshmemPeers *peers = &f->client.peers;
    int own[3];

    server_greet(f, OWN_ID);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        own[i] = server_send_vector(f, OWN_ID);
    }
    connect_client(f, 2);
    g_assert_cmpint(peers->nvectors, ==, 2);

    /* Nobody listens; one that is emptied meanwhile does not come later. */
    ring_us(own[0]);
    ring_us(own[1]);
    ring_us(own[2]);
    main_loop_wait(true);
    g_assert_cmpint(rung(own[1]), ==, 1);
    ivshmem_peers_listen(peers, 1);
    ivshmem_peers_listen(peers, 0);
    WAIT_UNTIL(f->interrupts[0] == 1);
    g_assert_cmpint(f->interrupts[1], ==, 0);
    g_assert_cmpint(rung(own[2]), ==, 1);

    /* Two that come together are one. */
    ring_us(own[1]);
    ring_us(own[1]);
    WAIT_UNTIL(f->interrupts[1] == 1);
    g_assert_cmpint(peers->own[1].interrupts, ==, 1);
    g_assert_cmpint(f->interrupts[0], ==, 1);
    finish(f);
}

/* One may listen to a vector before the server gives it. */
static void test_interrupt_on_a_late_vector(void)
{
    Fixture *f = fixture_new("");

    server_greet(f, OWN_ID);
    server_send_vector(f, OWN_ID);
    connect_client(f, 2);
    ivshmem_peers_listen(&f->client.peers, 1);
    ring_us(server_send_vector(f, OWN_ID));
    WAIT_UNTIL(f->interrupts[1] == 1);
    finish(f);
}

static void test_interrupt_in_an_iothread(void)
{
#ifdef QEMU_SANITIZE_THREAD
    g_test_skip("there is no BQL in a unit test");
#else
    Fixture *f = fixture_new("");
    IOThread *iothread = iothread_new();
    int own[2];

    server_greet(f, OWN_ID);
    own[0] = server_send_vector(f, OWN_ID);
    own[1] = server_send_vector(f, OWN_ID);
    g_assert_true(ivshmem_client_connect(&f->client, 2,
                                         iothread_get_aio_context(iothread),
                                         &error_abort));
    for (unsigned i = 0; i < 2; i++) {
        ivshmem_peers_listen(&f->client.peers, i);
        ring_us(own[i]);
        /* without the main loop */
        g_assert_cmpint(qemu_sem_timedwait(&f->interrupted,
                                           PATIENCE_S * 1000), ==, 0);
        g_assert_cmpint(qatomic_read(&f->interrupts[i]), ==, 1);
    }
    ivshmem_client_disconnect(&f->client);
    iothread_join(iothread);
    fixture_free(f);
#endif
}

/* A server that ends, and comes back */

static void test_server_gone(void)
{
    Running r = running_new();
    int fd = new_eventfd(r.f);

    server_send_bytes(r.f, (uint8_t[5]) { 7 }, 5, 1, &fd); /* in a message */
    server_hang_up(r.f);
    WAIT_UNTIL(reported(r.f, "\n"));
    g_assert_cmpint(r.f->client.phase, ==, IVSHMEM_CLIENT_DISCONNECTED);
    g_assert_cmpint(reported(r.f, "device: the server at chardev 'ivshmem' is "
                             "gone, going on with the peers that are known"),
                    ==, 1);
    g_assert_cmpint(r.f->gone, ==, 0);
    ring(r.f, PEER_ID, 0);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(r.peer), ==, 1);
    ivshmem_peers_listen(&r.f->client.peers, 0);
    ring_us(r.own);
    WAIT_UNTIL(r.f->interrupts[0] == 1);
    running_free(&r);
}

/* It ends right behind what it had to say, before the machine starts. */
static void test_server_gone_at_start(void)
{
    Running r = { .f = fixture_new("") };

    server_greet(r.f, OWN_ID);
    r.peer = server_send_vector(r.f, PEER_ID);
    server_hang_up(r.f);
    connect_client(r.f, 1);
    ring(r.f, PEER_ID, 0);
    g_assert_cmpint(rung(r.peer), ==, 1);
    running_free(&r);
}

/* The client comes to a server that was away. */
static void server_comes_back(Fixture *f)
{
    server_hang_up(f);
    WAIT_UNTIL(server_accepts(f));
}

static void test_restart(void)
{
    Running r = running_new_with(",reconnect-ms=1");
    Fixture *f = r.f;

    ivshmem_peers_listen(&f->client.peers, 0);
    for (unsigned i = 1; i <= 20; i++) {
        int old_peer = r.peer;

        server_comes_back(f);
        g_assert_cmpint(f->gone, ==, i);
        ring(f, PEER_ID, 0);
        g_assert_cmpint(rung(old_peer), ==, 0);
        server_greet(f, 100 + i);
        r.peer = server_send_vector(f, PEER_ID);
        r.own = server_send_vector(f, 100 + i);
        running_check(&r);
        g_assert_cmpint(f->client.peers.id, ==, 100 + i);
        g_assert_cmpint(f->taken, ==, i + 1);
        g_assert_cmpint(rung(old_peer), ==, 0);
    }
    g_assert_cmpint(f->client.peers.own[0].interrupts, ==, 20);
    g_assert_cmpint(reported(f, "is gone, waiting for it to come back"), ==,
                    20);
    running_free(&r);
}

/* Whatever is wrong is said once, and the next good greeting counts. */
static void test_restart_with_a_bad_greeting(void)
{
    Running r = running_new_with(",reconnect-ms=1");
    Fixture *f = r.f;

    for (unsigned i = 0; i < 5; i++) {
        server_comes_back(f);
        switch (i) {
        case 0:
            server_send_id(f, 1);
            break;
        case 1:
            server_send_id(f, 0);
            server_send_id(f, -1);
            break;
        case 2:
            server_send_id(f, 0);
            server_send_id(f, 9);
            server_send_vector(f, 7);   /* is forgotten with the rest */
            server_send_vector(f, 9);
            server_send_id(f, 8);
            break;
        case 3:
            f->refuses = true;
            server_greet(f, 9);
            break;
        case 4:
            server_send_id(f, 0);       /* and ends */
            break;
        }
        if (i < 4) {
            char byte;

            WAIT_UNTIL(recv(f->conn, &byte, 1, MSG_DONTWAIT) == 0);
            g_assert_cmpint(f->client.phase, ==, IVSHMEM_CLIENT_DISCONNECTED);
            g_assert_cmpint(f->client.peers.nvectors, ==, 0);
            g_assert_null(f->client.peers.others[7]);
        }
        f->refuses = false;
    }
    g_assert_cmpint(reported(f, "device: chardev 'ivshmem': server sent "
                             "protocol version 1, expected 0\n"), ==, 1);
    g_assert_cmpint(reported(f, "expected"), ==, 1);
    g_assert_cmpint(reported(f, "no use"), ==, 0);

    server_comes_back(f);
    server_greet(f, OWN_ID);
    r.peer = server_send_vector(f, PEER_ID);
    r.own = server_send_vector(f, OWN_ID);
    running_check(&r);
    server_comes_back(f);
    server_send_id(f, 2);
    WAIT_UNTIL(reported(f, "expected 0\n") == 2);
    running_free(&r);
}

/* Peers that come before the memory wait for it, in both directions. */
static void test_restart_with_the_memory_last(void)
{
    Running r = running_new_with(",reconnect-ms=1");
    Fixture *f = r.f;
    int sent;

    ivshmem_peers_listen(&f->client.peers, 0);
    server_comes_back(f);
    server_send_id(f, 0);
    server_send_id(f, OWN_ID);
    r.peer = server_send_vector(f, PEER_ID);
    r.own = server_send_vector(f, OWN_ID);
    sync_with_client(f);
    sent = f->client.peers.doorbells_sent;
    ring(f, PEER_ID, 0);
    ring(f, OWN_ID, 0);
    g_assert_cmpint(f->client.peers.doorbells_sent, ==, sent);
    ring_us(r.own);
    main_loop_wait(true);
    g_assert_cmpint(f->interrupts[0], ==, 0);
    server_send_fd(f, -1, f->shm);
    WAIT_UNTIL(f->interrupts[0] == 1);
    running_check(&r);
    finish(f);
}

static void test_restart_with_silence(void)
{
    Running r = running_new_with(",reconnect-ms=1");
    Fixture *f = r.f;
    int64_t start = g_get_monotonic_time();
    bool has_passed = false;

    f->client.greeting_ms = SHORT_MS * 3 / 2; /* not that of another timer */
    server_comes_back(f);
    server_send_id(f, 0);
    WAIT_UNTIL(reported(f, "device: chardev 'ivshmem': server sent 8 bytes in "
                        "1 s, expected the own id"));
    g_assert_cmpint(g_get_monotonic_time() - start, >=,
                    f->client.greeting_ms * 1000);
    server_comes_back(f);
    server_greet(f, OWN_ID);
    r.peer = server_send_vector(f, PEER_ID);
    r.own = server_send_vector(f, OWN_ID);
    running_check(&r);

    /* Once it has greeted, that time may pass. */
    g_timeout_add(f->client.greeting_ms, set_true, &has_passed);
    WAIT_UNTIL(has_passed);
    g_assert_cmpint(f->client.phase, ==, IVSHMEM_CLIENT_CONNECTED);
    running_check(&r);
    running_free(&r);
}

/* The first server is no good, the next one is. */
static void *second_server(void *opaque)
{
    Running *r = opaque;
    Fixture *f = r->f;
    GPollFD pfd = { .fd = f->listener, .events = G_IO_IN };

    g_assert_cmpint(g_poll(&pfd, 1, PATIENCE_S * 1000), ==, 1);
    g_assert_true(server_accepts(f));
    server_greet(f, OWN_ID);
    r->peer = server_send_vector(f, PEER_ID);
    r->own = server_send_vector(f, OWN_ID);
    return NULL;
}

static void check_restart_at_start(bool has_greeted)
{
    Running r = { .f = fixture_new(",reconnect-ms=1") };
    QemuThread thread;

    if (has_greeted) {
        server_greet(r.f, 9);
        server_send_vector(r.f, 7);
    } else {
        server_send_id(r.f, 0);
    }
    server_hang_up(r.f);
    qemu_thread_create(&thread, "server", second_server, &r,
                       QEMU_THREAD_JOINABLE);
    connect_client(r.f, 1);
    qemu_thread_join(&thread);
    g_assert_cmpint(r.f->client.peers.id, ==, OWN_ID);
    g_assert_cmpint(r.f->gone, ==, has_greeted);
    running_check(&r);
    g_assert_cmpint(reported(r.f, "server closed the connection after 8 bytes"),
                    ==, !has_greeted);
    running_free(&r);
}

static void test_restart_at_start(void)
{
    check_restart_at_start(false);
    check_restart_at_start(true);
}

/* Undone and done again, on one chardev. */
static void test_restart_of_the_client(void)
{
    Running r = running_new_with(",reconnect-ms=1");

    for (unsigned i = 0; i < 3; i++) {
        ivshmem_client_disconnect(&r.f->client);
        close(r.f->conn);
        WAIT_UNTIL(server_accepts(r.f));
        server_greet(r.f, OWN_ID);
        r.peer = server_send_vector(r.f, PEER_ID);
        r.own = server_send_vector(r.f, OWN_ID);
        connect_client(r.f, 1);
        running_check(&r);
    }
    running_free(&r);
}

static const struct {
    const char *path;
    void (*test)(void);
} tests[] = {
    { "greeting/good", test_greeting_good },
    { "greeting/version", test_greeting_version },
    { "greeting/id", test_greeting_id },
    { "greeting/order", test_greeting_order },
    { "greeting/fds", test_greeting_fds },
    { "greeting/memory-kind", test_greeting_memory_kind },
    { "greeting/memory-size", test_greeting_memory_size },
    { "greeting/memory-refused", test_greeting_memory_refused },
    { "greeting/end-of-stream", test_greeting_end_of_stream },
    { "greeting/silence", test_greeting_silence },
    { "greeting/in-pieces", test_greeting_in_pieces },
    { "greeting/memory-last", test_greeting_memory_last },
    { "greeting/without-vectors", test_greeting_without_vectors },
    { "chardev/bad", test_chardev },
    { "chardev/is-not-connected", test_chardev_is_not_connected },
    { "message/bad-id", test_message_bad_id },
    { "message/second-shmem", test_message_second_shmem },
    { "message/several-fds", test_message_several_fds },
    { "message/not-an-eventfd", test_message_not_an_eventfd },
    { "message/gone", test_message_gone },
    { "message/in-pieces", test_message_in_pieces },
    { "message/without-fds", test_message_without_fds },
    { "peer/comes-and-goes", test_peer_comes_and_goes },
    { "peer/many-vectors", test_peer_with_many_vectors },
    { "peer/ten-thousand", test_peer_ten_thousand },
    { "peer/all-vectors", test_peer_with_all_vectors },
    { "peer/does-not-block", test_peer_does_not_block },
    { "doorbell/to-nobody", test_doorbell_to_nobody },
    { "doorbell/to-a-full-counter", test_doorbell_to_a_full_counter },
    { "doorbell/to-an-announced-peer", test_doorbell_to_an_announced_peer },
    { "doorbell/to-an-id-used-again", test_doorbell_to_an_id_used_again },
    { "doorbell/to-many", test_doorbell_to_many },
    { "doorbell/at-the-end", test_doorbell_at_the_end },
    { "interrupt/in-the-main-loop", test_interrupt },
    { "interrupt/on-a-late-vector", test_interrupt_on_a_late_vector },
    { "interrupt/in-an-iothread", test_interrupt_in_an_iothread },
    { "server/gone", test_server_gone },
    { "server/gone-at-start", test_server_gone_at_start },
    { "restart/twenty-times", test_restart },
    { "restart/bad-greeting", test_restart_with_a_bad_greeting },
    { "restart/memory-last", test_restart_with_the_memory_last },
    { "restart/silence", test_restart_with_silence },
    { "restart/at-start", test_restart_at_start },
    { "restart/of-the-client", test_restart_of_the_client },
};

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);
    qemu_add_opts(&qemu_chardev_opts);
    g_test_init(&argc, &argv, NULL);
    g_set_printerr_handler(print_to_real_stderr);

    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strconcat("/ivshmem-client/", tests[i].path,
                                            NULL);

        g_test_add_func(path, tests[i].test);
    }
    return g_test_run();
}
