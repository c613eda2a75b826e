/*
 * QTest testcase for ivshmem-flat: peers that come and go
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
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

/* Nor for one whose announcement ends after it was rung. */
static void test_doorbell_in_an_announcement_does_not_wait(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Message head, tail;
    int fd;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    fake_sync(srv, qts);
    fd = fake_eventfd(srv);
    head = tail = message(7, 1, &fd);
    head.len = 4;
    tail.len = 4;
    tail.nfds = 0;
    memmove(tail.bytes, tail.bytes + 4, 4);
    fake_send(srv, head);
    for (unsigned i = 0; i < 3; i++) {
        qtest_writel(qts, DOORBELL, doorbell(7, 0));
    }
    fake_send(srv, tail);
    fake_sync(srv, qts);
    g_assert_cmpint(rung(fd), ==, 0);

    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(fd), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* More doorbells than are kept: the first 64 arrive, whatever the timing. */
static void test_doorbells_to_many_announced_peers(void)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;
    FakeServer *srv = fake_new();
    unsigned arrived = 0;
    QTestState *qts;
    int fd[70];

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < AHEAD; i++) {
        fake_send_vector(srv, 2000 + i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
        fd[i] = fake_send_vector(srv, 100 + i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
        qtest_writel(qts, DOORBELL, doorbell(100 + i, 0));
        qtest_writel(qts, DOORBELL, doorbell(100 + i, 0));
    }
    while (arrived < 64) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
            arrived += !!rung(fd[i]);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * A server may give an id again. The guest rings it while the end of the one
 * that had it and the announcement of the one that has it wait in the socket.
 */
static void check_doorbell_to_an_id_used_again(const char *iothread)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int old, new;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, &old);
    qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE "%s",
                            iothread);
    for (unsigned i = 0; i < 40; i++) {
        fake_send_gone(srv, PEER_ID);
        new = fake_send_vector(srv, PEER_ID);
        qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
        WAIT_UNTIL(rung(new));
        g_assert_cmpint(rung(old), ==, 0);
        g_assert_cmpint(get_number(qts, "doorbells-sent"), ==, i + 1);
        old = new;
    }

    /* And to nobody, if it is not given again. */
    fake_send_gone(srv, PEER_ID);
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    WAIT_UNTIL(get_number(qts, "doorbells-dropped") == 1);
    g_assert_cmpint(rung(old), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_doorbell_to_an_id_used_again(void)
{
    check_doorbell_to_an_id_used_again("");
    check_doorbell_to_an_id_used_again(",iothread=io");
}

/* Each peer hears of the doorbells that were meant for it, however many. */
static void test_doorbells_while_an_id_is_used_again(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd, next;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    fd = fake_send_vector(srv, PEER_ID);
    fake_sync(srv, qts);
    for (unsigned i = 0; i < 40; i++) {
        for (unsigned j = 0; j < 3; j++) {
            qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
            fake_send_vector(srv, 100 * i + 1000 + j);
        }
        fake_send_gone(srv, PEER_ID);
        next = fake_send_vector(srv, PEER_ID);
        qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
        WAIT_UNTIL(rung(next));
        g_assert_cmpint(rung(fd), >=, 1);
        fd = next;
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* Known peers are not among the 64: to ring them all while one joins is fine */
static void test_doorbells_to_many_known_peers(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd[200];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, PEER_ID, fd, 1);
    for (unsigned i = 1; i < ARRAY_SIZE(fd); i++) {
        fd[i] = fake_script_vector(srv, 100 + i);
    }
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < AHEAD; i++) {
            fake_send_fd(srv, 2000, fd[0]);
            fake_send_gone(srv, 2000);
        }
        for (unsigned i = 1; i < ARRAY_SIZE(fd); i++) {
            qtest_writel(qts, DOORBELL, doorbell(100 + i, 0));
        }
        for (unsigned i = 1; i < ARRAY_SIZE(fd); i++) {
            WAIT_UNTIL(rung(fd[i]));
        }
    }
    g_assert_cmpint(get_number(qts, "doorbells-dropped"), ==, 0);
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

/*
 * O_NONBLOCK belongs to the open file, and so to all who share the eventfd: a
 * peer that reads until there is no more would hang without. QEMU's chardev
 * takes it from each fd that it receives.
 */
static void check_eventfds_stay_nonblocking(const char *iothread)
{
    FakeServer *srv = fake_new();
    int fds[MAX_VECTORS + 6], two[2], n = 0;
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 0; i <= MAX_VECTORS; i++) { /* one too many */
        fds[n++] = fake_script_vector(srv, PEER_ID);
    }
    fds[n++] = fake_script_vector(srv, OWN_ID);
    fds[n++] = fake_script_vector(srv, OWN_ID); /* likewise */
    qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE "%s "
                            "2>/dev/null", iothread);
    for (int i = 0; i < n; i++) {
        g_assert_cmpint(fcntl(fds[i], F_GETFL) & O_NONBLOCK, !=, 0);
    }

    fds[n++] = fake_send_vector(srv, 7);
    two[0] = fds[n++] = fake_eventfd(srv); /* in a message that is ignored */
    two[1] = fds[n++] = fake_eventfd(srv);
    fake_send(srv, message(8, 2, two));
    fake_sync(srv, qts);
    g_assert_cmpint(n, <=, ARRAY_SIZE(fds));
    for (int i = 0; i < n; i++) {
        g_assert_cmpint(fcntl(fds[i], F_GETFL) & O_NONBLOCK, !=, 0);
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_peer_eventfds_stay_nonblocking(void)
{
    check_eventfds_stay_nonblocking("");
    check_eventfds_stay_nonblocking(",iothread=io");
}

/* An id used again has its own vectors, not those of its predecessor. */
static void test_peer_comes_and_goes(void)
{
    Running r = running_new();
    int fds[3], again;

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = fake_send_vector(r.srv, 7);
    }
    wait_known(r.qts, 7, 2, fds[2]);
    fake_send_gone(r.srv, 7);
    running_check(&r);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        qtest_writel(r.qts, DOORBELL, doorbell(7, i));
        g_assert_cmpint(rung(fds[i]), ==, 0);
    }

    again = fake_send_vector(r.srv, 7);
    wait_known(r.qts, 7, 0, again);
    qtest_writel(r.qts, DOORBELL, doorbell(7, 1));
    qtest_writel(r.qts, DOORBELL, doorbell(7, 2));
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        g_assert_cmpint(rung(fds[i]), ==, 0);
    }
    g_assert_cmpint(rung(again), ==, 0);
    fake_send_gone(r.srv, 7);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

/* A peer's first 64 vectors can be rung; what comes beyond is closed. */
static void test_peer_with_many_vectors(void)
{
    static const unsigned counts[] = { 1, 64, 65, 200 };

    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        Running r = running_new();
        int fds[200];

        for (unsigned v = 0; v < counts[i]; v++) {
            fds[v] = fake_send_vector(r.srv, 7);
        }
        fake_sync(r.srv, r.qts);
        g_assert_cmpint(count_fds(r.qts), ==, r.nfds + MIN(counts[i], 64));
        for (unsigned v = 0; v < counts[i]; v++) {
            qtest_writel(r.qts, DOORBELL, doorbell(7, v));
            g_assert_cmpint(rung(fds[v]), ==, v < 64);
        }
        qtest_writel(r.qts, DOORBELL, doorbell(7, 256));
        g_assert_cmpint(rung(fds[0]), ==, 0);
        fake_send_gone(r.srv, 7);
        running_check(&r);
        g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
        running_free(&r);
    }
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

void add_peer_tests(void)
{
    qtest_add_func("/ivshmem-flat/doorbell/to-an-announced-peer-arrives",
                   test_doorbell_to_an_announced_peer_arrives);
    qtest_add_func("/ivshmem-flat/doorbell/first-thing-arrives",
                   test_doorbell_first_thing_arrives);
    qtest_add_func("/ivshmem-flat/doorbell/to-a-later-peer-is-dropped",
                   test_doorbell_to_a_later_peer_is_dropped);
    qtest_add_func("/ivshmem-flat/doorbell/in-an-announcement",
                   test_doorbell_in_an_announcement_does_not_wait);
    qtest_add_func("/ivshmem-flat/doorbell/to-many-announced-peers",
                   test_doorbells_to_many_announced_peers);
    qtest_add_func("/ivshmem-flat/doorbell/to-an-id-used-again",
                   test_doorbell_to_an_id_used_again);
    qtest_add_func("/ivshmem-flat/doorbell/while-an-id-is-used-again",
                   test_doorbells_while_an_id_is_used_again);
    qtest_add_func("/ivshmem-flat/doorbell/to-many-known-peers",
                   test_doorbells_to_many_known_peers);
    qtest_add_func("/ivshmem-flat/doorbell/while-the-server-talks",
                   test_doorbell_while_the_server_talks);

    qtest_add_func("/ivshmem-flat/peer/eventfds-stay-nonblocking",
                   test_peer_eventfds_stay_nonblocking);
    qtest_add_func("/ivshmem-flat/peer/comes-and-goes",
                   test_peer_comes_and_goes);
    qtest_add_func("/ivshmem-flat/peer/many-vectors",
                   test_peer_with_many_vectors);
    qtest_add_func("/ivshmem-flat/peer/ten-thousand", test_peers_come_and_go);
}
