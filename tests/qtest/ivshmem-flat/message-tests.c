/*
 * QTest testcase for ivshmem-flat: what the server says later
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * After the greeting: a bad message is reported once and ignored, its fds are
 * closed, and everything goes on.
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

static void check_bad_message(int64_t value, unsigned nfds, const int *fds,
                              const char *expected)
{
    Running r = running_new();
    g_autofree char *start = g_strdup_printf(
        "ignored message %" PRId64 " with %u file descriptors", value, nfds);

    for (int i = 0; i < 3; i++) {
        fake_send(r.srv, message(value, nfds, fds));
    }
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(r.srv, start), ==, 1);
    g_assert_cmpint(count_errors(r.srv, expected), ==, 1);
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
    int fd = memfd_create("second", MFD_CLOEXEC);

    check_bad_message(-1, 0, NULL, "the shared memory is there already");
    check_bad_message(-1, 1, &fd, "the shared memory is there already");
    close(fd);
}

static void test_message_several_fds(void)
{
    int fds[4];

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = eventfd(0, EFD_CLOEXEC);
    }
    check_bad_message(PEER_ID, 2, fds, "expected at most one");
    check_bad_message(7, 4, fds, "expected at most one");
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        close(fds[i]);
    }
}

/* A doorbell writes into what the server sent: it must be an eventfd. */
static void test_message_not_an_eventfd(void)
{
    FakeServer *srv = fake_new();
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    check_bad_message(PEER_ID, 1, &fds[1], "expected an eventfd");
    check_bad_message(OWN_ID, 1, &fds[0], "expected an eventfd");
    check_bad_message(7, 1, &srv->shm, "expected an eventfd");
    check_bad_message(7, 1, &srv->listener, "expected an eventfd");
    close(fds[0]);
    close(fds[1]);
    fake_free(srv);
}

static void test_message_own_id_gone(void)
{
    check_bad_message(OWN_ID, 0, NULL, "it is the own id");
}

static void test_message_unknown_peer_gone(void)
{
    check_bad_message(7, 0, NULL, "peer is gone that never came");
}

/* Two messages in one write, and one in eight. */
static void test_message_in_pieces(void)
{
    Running r = running_new();
    Message two = { .len = 16 };
    int fd;

    fd = fake_send_vector(r.srv, 7);
    wait_known(r.qts, 7, 0, fd);
    stq_le_p(two.bytes, 7);
    stq_le_p(two.bytes + 8, 7);
    fake_send(r.srv, two);      /* gone, and gone that never came */
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "never came"), ==, 1);
    qtest_writel(r.qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(fd), ==, 0);

    fake_send_bytes(r.srv, message(7, 1, &fd), BIT(3));
    wait_known(r.qts, 7, 0, fd);
    fake_send_gone(r.srv, 7);
    running_check(&r);
    running_free(&r);
}

/* fds on several pieces of one message are several fds on one message. */
static void test_message_with_an_fd_on_each_piece(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);

    fake_send_bytes(r.srv, message(7, 1, &fd), 0xff);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "ignored message 7 with 8 file "
                                 "descriptors"), ==, 1);
    running_free(&r);
}

void add_message_tests(void)
{
    qtest_add_func("/ivshmem-flat/message/bad-id", test_message_bad_id);
    qtest_add_func("/ivshmem-flat/message/second-shmem",
                   test_message_second_shmem);
    qtest_add_func("/ivshmem-flat/message/several-fds",
                   test_message_several_fds);
    qtest_add_func("/ivshmem-flat/message/not-an-eventfd",
                   test_message_not_an_eventfd);
    qtest_add_func("/ivshmem-flat/message/own-id-gone",
                   test_message_own_id_gone);
    qtest_add_func("/ivshmem-flat/message/unknown-peer-gone",
                   test_message_unknown_peer_gone);
    qtest_add_func("/ivshmem-flat/message/in-pieces", test_message_in_pieces);
    qtest_add_func("/ivshmem-flat/message/an-fd-on-each-piece",
                   test_message_with_an_fd_on_each_piece);
}
