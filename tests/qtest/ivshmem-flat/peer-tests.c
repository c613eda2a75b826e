/*
 * QTest testcase for ivshmem-flat: peers that come and go, and bad messages
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * What a guest and a user see of them. Message by message they are in
 * tests/unit/ivshmem-client/.
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

#include <sys/socket.h>

/* No lost doorbell */

#define AHEAD 100   /* messages to read before the one that matters */

/*
 * The guest rings a peer that the server has announced in the socket, behind
 * other messages. It rings once.
 */
static void test_doorbell_to_an_announced_peer_arrives(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned peer = 1000; peer < 1020; peer++) {
        int filler = fake_eventfd(srv);
        int fd;

        for (unsigned i = 0; i < AHEAD; i += 2) {
            fake_send_fd(srv, 2000, filler);
            fake_send_gone(srv, 2000);
        }
        fd = fake_send_vector(srv, peer);
        qtest_writel(qts, DOORBELL, doorbell(peer, 0));
        WAIT_UNTIL(rung(fd));
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* A machine's first instruction can ring whoever was there before it. */
static void test_doorbell_first_thing_arrives(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd[AHEAD];

    fake_script_greeting(srv, 5000);
    for (unsigned i = 0; i < AHEAD; i++) {
        fd[i] = fake_script_vector(srv, i);
    }
    fake_script_vector(srv, 5000);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < AHEAD; i++) {
        qtest_writel(qts, DOORBELL, doorbell(i, 0));
        g_assert_cmpint(rung(fd[i]), ==, 1);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* A doorbell does not wait for a peer that is announced after it was rung. */
static void test_doorbell_to_a_later_peer_is_dropped(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < AHEAD; i++) {
        fake_send_vector(srv, 2000 + i);
    }
    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    fake_sync(srv, qts);
    fd = fake_send_vector(srv, 7);
    fake_sync(srv, qts);
    g_assert_cmpint(rung(fd), ==, 0);

    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(fd), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

static void *talking_thread(void *opaque)
{
    FakeServer *srv = opaque;
    Message here = message(2000, 1, &srv->shm); /* ignored, as no eventfd */
    Message gone = message(2000, 0, NULL);

    while (fake_transmit(srv->conn, &here) && fake_transmit(srv->conn, &gone)) {
        /* until it is hung up */
    }
    return NULL;
}

/* A server that never stops talking keeps no doorbell from a known peer. */
static void test_doorbell_while_the_server_talks(void)
{
    FakeServer *srv = fake_new();
    GThread *thread;
    QTestState *qts;
    int fd;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, &fd);
    qts = fake_machine_with(srv, WIRED_MACHINE " 2>/dev/null");
    thread = g_thread_new("talking", talking_thread, srv);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t rings = 0, arrived = 0;

        /* Ring on, as each might push the wait further. */
        WAIT_UNTIL((rings++,
                    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0)),
                    arrived = rung(fd)));
        WAIT_UNTIL((arrived += rung(fd)) == rings);
    }
    shutdown(srv->conn, SHUT_RDWR);
    g_thread_join(thread);
    qtest_quit(qts);
    fake_free(srv);
}

/* A peer's first 64 vectors can be rung; what comes beyond is closed. */
static void test_peer_with_many_vectors(void)
{
    Running r = running_new();
    int fds[MAX_VECTORS + 1];

    for (unsigned v = 0; v < ARRAY_SIZE(fds); v++) {
        fds[v] = fake_send_vector(r.srv, 7);
    }
    fake_sync(r.srv, r.qts);
    g_assert_cmpint(count_fds(r.qts), ==, r.nfds + MAX_VECTORS);
    for (unsigned v = 0; v < ARRAY_SIZE(fds); v++) {
        qtest_writel(r.qts, DOORBELL, doorbell(7, v));
        g_assert_cmpint(rung(fds[v]), ==, v < MAX_VECTORS);
    }
    fake_send_gone(r.srv, 7);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

/* 10,000 of them, each with an id of its own, a few at a time. */
static void test_peers_come_and_go(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);
    G_GNUC_UNUSED uint64_t before = 0;

    for (unsigned id = 10; id < 10010; id++) {
        fake_send_fd(r.srv, id, fd);
        if (id >= 20) {
            fake_send_gone(r.srv, id - 10);
        }
        if (id == 1000) {
            fake_sync(r.srv, r.qts);
            before = resident_kib(r.qts);
        }
    }
    for (unsigned id = 10000; id < 10010; id++) {
        fake_send_gone(r.srv, id);
    }
    running_check(&r);
#ifndef QEMU_SANITIZE_ADDRESS   /* which holds freed memory back for a while */
    g_assert_cmpint(resident_kib(r.qts), <, before + 4 * 1024);
#endif
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

/*
 * Two messages in one write, and one in eight. A bad one is reported once, its
 * like are ignored, and everything goes on.
 */
static void test_message_in_pieces(void)
{
    Running r = running_new();
    Message two = { .len = 16 };
    Message whole;
    int fd;

    fd = fake_send_vector(r.srv, 7);
    wait_known(r.qts, 7, 0, fd);
    stq_le_p(two.bytes, 7);
    stq_le_p(two.bytes + 8, 7);
    fake_send(r.srv, two);      /* gone, and gone that never came */
    fake_send(r.srv, two);      /* both never came */
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(r.srv, "ivshmem-flat: ignored message 7 with "
                                 "0 file descriptors from chardev 'ivshmem': "
                                 "peer is gone that never came"), ==, 1);
    qtest_writel(r.qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(fd), ==, 0);

    whole = message(7, 1, &fd);
    for (unsigned i = 0; i < whole.len; i++) {
        fake_send(r.srv, (Message) {
            .bytes = { whole.bytes[i] },
            .len = 1,
            .fds = { fd },
            .nfds = i == 3,
        });
    }
    wait_known(r.qts, 7, 0, fd);
    fake_send_gone(r.srv, 7);
    running_check(&r);
    running_free(&r);
}

void add_peer_tests(void)
{
    qtest_add_func("/ivshmem-flat/doorbell/to-an-announced-peer-arrives",
                   test_doorbell_to_an_announced_peer_arrives);
    qtest_add_func("/ivshmem-flat/doorbell/first-thing-arrives",
                   test_doorbell_first_thing_arrives);
    qtest_add_func("/ivshmem-flat/doorbell/to-a-later-peer-is-dropped",
                   test_doorbell_to_a_later_peer_is_dropped);
    qtest_add_func("/ivshmem-flat/doorbell/while-the-server-talks",
                   test_doorbell_while_the_server_talks);

    qtest_add_func("/ivshmem-flat/peer/many-vectors",
                   test_peer_with_many_vectors);
    qtest_add_func("/ivshmem-flat/peer/ten-thousand", test_peers_come_and_go);
    qtest_add_func("/ivshmem-flat/message/in-pieces", test_message_in_pieces);
}
