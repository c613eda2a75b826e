/*
 * Unit tests of the client of an ivshmem server: what the server says later
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-client/framework.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

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
    int fd = fake_server_memory(qemu_real_host_page_size());

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
    check_bad_message(7, 4, (int[]) { fd, fd, fd, fd }, "expected at most one");
    close(fd);
}

/* A doorbell writes into what the server sent: it must be an eventfd. */
static void test_message_not_an_eventfd(void)
{
    int fds[2], shm = fake_server_memory(qemu_real_host_page_size());
    int socks[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), ==, 0);
    check_bad_message(PEER_ID, 1, &fds[1], "expected an eventfd");
    check_bad_message(OWN_ID, 1, &fds[0], "expected an eventfd");
    check_bad_message(7, 1, &shm, "expected an eventfd");
    check_bad_message(7, 1, &socks[0], "expected an eventfd");
    for (unsigned i = 0; i < 2; i++) {
        close(fds[i]);
        close(socks[i]);
    }
    close(shm);
}

static void test_message_gone(void)
{
    check_bad_message(OWN_ID, 0, NULL, "it is the own id, expected an eventfd");
    check_bad_message(7, 0, NULL, "peer is gone that never came");
}

/* Writes of parts of a message, with fds on one or on each, or of several. */
static void test_message_in_pieces(void)
{
    Running r = running_new();
    int fd = new_eventfd(r.f);
    uint8_t bytes[24] = { [0] = 7, [8] = 7, [16] = 7 };

    for (unsigned i = 0; i < 8; i++) {
        server_send_bytes(r.f, bytes + i, 1, i == 3, &fd);
    }
    sync_with_client(r.f);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(fd), ==, 1);
    for (unsigned i = 0; i < 8; i++) {
        server_send_bytes(r.f, bytes + i, 1, 1, &fd);
    }
    running_check(&r);
    g_assert_cmpint(r.f->client.peers.others[7]->nvectors, ==, 1);
    g_assert_cmpint(reported(r.f, "ignored message 7 with 8 file descriptors"),
                    ==, 1);

    server_send_bytes(r.f, bytes, 16, 0, NULL); /* gone, and that never came */
    running_check(&r);
    g_assert_null(r.f->client.peers.others[7]);
    g_assert_cmpint(reported(r.f, "never came"), ==, 1);
    g_assert_cmpint(reported(r.f, "\n"), ==, 2);

    server_send_bytes(r.f, bytes, 12, 0, NULL);
    sync_with_client(r.f);
    server_send_bytes(r.f, bytes + 12, 12, 0, NULL);
    server_send_fd(r.f, 7, fd);
    running_check(&r);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(fd), ==, 1);
    g_assert_cmpint(reported(r.f, "\n"), ==, 2);
    running_free(&r);
}

static bool has_read(Fixture *f, uint64_t before)
{
    return f->client.received != before;
}

/* A turn of the main loop reads many of them, and leaves others their turn. */
static void test_message_many(void)
{
    Running r = running_new();
    uint64_t before = r.f->client.received;
    int fd = new_eventfd(r.f);

    for (unsigned id = 10; id < 210; id++) {
        server_send_fd(r.f, id, fd);
    }
    WAIT_UNTIL(has_read(r.f, before));
    g_assert_cmpint(r.f->client.received - before, >, 8);
    g_assert_cmpint(r.f->client.received - before, <, 200 * 8);
    sync_with_client(r.f);
    for (unsigned id = 10; id < 210; id++) {
        ring(r.f, id, 0);
    }
    g_assert_cmpint(rung(fd), ==, 200);
    running_free(&r);
}

/* What the limit of open files takes away is told once, with the limit. */
static void test_message_without_fds(void)
{
    Running r = running_new();
    struct rlimit limit, none;
    int peer7 = server_send_vector(r.f, 7);
    int fds[] = { new_eventfd(r.f), new_eventfd(r.f), new_eventfd(r.f) };
    int free_fd;

    sync_with_client(r.f);
    free_fd = dup(STDIN_FILENO); /* and lower ones are all in use */
    close(free_fd);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    none = (struct rlimit) { free_fd, limit.rlim_max };
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    server_send_fd(r.f, 7, fds[0]);     /* and the one that it had */
    WAIT_UNTIL(reported(r.f, "\n"));
    server_send_fd(r.f, 8, fds[1]);     /* has the room of that one */
    server_send_fd(r.f, 9, fds[2]);     /* is lost, and not told again */
    sync_with_client(r.f);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    running_check(&r);
    ring(r.f, 7, 0);
    ring(r.f, 8, 0);
    ring(r.f, 9, 0);
    g_assert_cmpint(rung(peer7), ==, 0);
    g_assert_cmpint(rung(fds[1]), ==, 1);
    g_assert_cmpint(rung(fds[2]), ==, 0);
    g_assert_cmpint(reported(r.f, "\n"), ==, 1);
    g_assert_cmpint(reported(r.f, "device: 2 eventfds from chardev 'ivshmem' "
                             "were lost for want of file descriptors"), ==, 1);
    running_free(&r);
}

void add_message_tests(void)
{
    g_test_add_func("/ivshmem-client/message/bad-id", test_message_bad_id);
    g_test_add_func("/ivshmem-client/message/second-shmem",
                    test_message_second_shmem);
    g_test_add_func("/ivshmem-client/message/several-fds",
                    test_message_several_fds);
    g_test_add_func("/ivshmem-client/message/not-an-eventfd",
                    test_message_not_an_eventfd);
    g_test_add_func("/ivshmem-client/message/gone", test_message_gone);
    g_test_add_func("/ivshmem-client/message/in-pieces",
                    test_message_in_pieces);
    g_test_add_func("/ivshmem-client/message/many", test_message_many);
    g_test_add_func("/ivshmem-client/message/without-fds",
                    test_message_without_fds);
}
