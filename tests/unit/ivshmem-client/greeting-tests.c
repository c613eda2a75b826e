/*
 * Unit tests of the client of an ivshmem server: the greeting
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/config-file.h"
#include "qemu/option.h"
#include "qapi/error.h"
#include "system/system.h"
#include "ivshmem-client/framework.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

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
    int fds[8], i, shm = fake_server_memory(qemu_real_host_page_size());

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
        int fd = fake_server_memory(sizes[i]);
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

    ivshmem_client_init(&client, &device_ops, NULL);
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
    WAIT_UNTIL(!qemu_chr_fe_backend_open(&f->client.chr));
    check_refused(f, "chardev 'ivshmem' is not connected");
}

void add_greeting_tests(void)
{
    g_test_add_func("/ivshmem-client/greeting/version", test_greeting_version);
    g_test_add_func("/ivshmem-client/greeting/id", test_greeting_id);
    g_test_add_func("/ivshmem-client/greeting/order", test_greeting_order);
    g_test_add_func("/ivshmem-client/greeting/fds", test_greeting_fds);
    g_test_add_func("/ivshmem-client/greeting/memory-kind",
                    test_greeting_memory_kind);
    g_test_add_func("/ivshmem-client/greeting/memory-size",
                    test_greeting_memory_size);
    g_test_add_func("/ivshmem-client/greeting/memory-refused",
                    test_greeting_memory_refused);
    g_test_add_func("/ivshmem-client/greeting/end-of-stream",
                    test_greeting_end_of_stream);
    g_test_add_func("/ivshmem-client/greeting/silence", test_greeting_silence);
    g_test_add_func("/ivshmem-client/greeting/in-pieces",
                    test_greeting_in_pieces);
    g_test_add_func("/ivshmem-client/greeting/memory-last",
                    test_greeting_memory_last);
    g_test_add_func("/ivshmem-client/greeting/without-vectors",
                    test_greeting_without_vectors);
    g_test_add_func("/ivshmem-client/chardev/bad", test_chardev);
    g_test_add_func("/ivshmem-client/chardev/is-not-connected",
                    test_chardev_is_not_connected);
}
