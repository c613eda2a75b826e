/*
 * Unit tests of the client of an ivshmem server: the server's end and return
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/thread.h"
#include "ivshmem-client/framework.h"

#include <sys/socket.h>

static void test_server_gone(void)
{
    Running r = running_new();
    int fd = new_eventfd(r.f);
    unsigned open = count_fds();

    server_send_bytes(r.f, (uint8_t[5]) { 7 }, 5, 1, &fd); /* in a message */
    server_hang_up(r.f);
    WAIT_UNTIL(reported(r.f, "\n"));
    WAIT_UNTIL(count_fds() == open - 2); /* both ends of the connection */
    g_assert_cmpint(r.f->client.phase, ==, IVSHMEM_CLIENT_DISCONNECTED);
    g_assert_cmpint(reported(r.f, "device: the server at chardev 'ivshmem' is "
                             "gone, going on with the peers that are known"),
                    ==, 1);
    g_assert_cmpint(reported(r.f, "\n"), ==, 1);
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
    g_assert_cmpint(r.f->client.peers.id, ==, OWN_ID);
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

        server_send_bytes(f, (uint8_t[5]) { 7 }, 5, 1, &r.peer);
        server_comes_back(f);   /* having ended in a message */
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

/* A change is that all are gone, and then that the greeting is complete. */
static void test_restart_changes(void)
{
    Running r = running_new_with(",reconnect-ms=1");
    Fixture *f = r.f;
    uint32_t *changes = &f->client.peers.changes;
    uint32_t before = *changes;

    server_comes_back(f);
    g_assert_cmpint(*changes, ==, before + 1);
    server_send_id(f, 0);
    server_send_id(f, OWN_ID);
    server_send_vector(f, PEER_ID);
    server_send_vector(f, OWN_ID);
    server_send_id(f, PEER_ID);
    sync_with_client(f);
    g_assert_cmpint(*changes, ==, before + 1);
    server_send_fd(f, -1, f->shm);
    sync_with_client(f);
    g_assert_cmpint(*changes, ==, before + 2);
    g_assert_cmpint(*changes, ==, f->changes);
    running_free(&r);
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

void add_server_tests(void)
{
    g_test_add_func("/ivshmem-client/server/gone", test_server_gone);
    g_test_add_func("/ivshmem-client/server/gone-at-start",
                    test_server_gone_at_start);
    g_test_add_func("/ivshmem-client/restart/twenty-times", test_restart);
    g_test_add_func("/ivshmem-client/restart/bad-greeting",
                    test_restart_with_a_bad_greeting);
    g_test_add_func("/ivshmem-client/restart/memory-last",
                    test_restart_with_the_memory_last);
    g_test_add_func("/ivshmem-client/restart/changes", test_restart_changes);
    g_test_add_func("/ivshmem-client/restart/silence",
                    test_restart_with_silence);
    g_test_add_func("/ivshmem-client/restart/at-start", test_restart_at_start);
    g_test_add_func("/ivshmem-client/restart/of-the-client",
                    test_restart_of_the_client);
}
