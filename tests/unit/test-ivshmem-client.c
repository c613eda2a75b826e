/*
 * Unit tests of the client of an ivshmem server
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * What one should see first: a greeting, interrupts, and main(). The rest is by
 * theme in tests/unit/ivshmem-client/, whose framework.h tells how it works.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "ivshmem-client/framework.h"
#include "iothread.h"

#include <sys/socket.h>

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

/* When it comes, all is known that the server had said before. */
static void test_interrupt_in_order(void)
{
    Running r = running_new();
    Fixture *f = r.f;
    IvshmemPeers *peers = &f->client.peers;
    int fd = new_eventfd(f);

    ivshmem_peers_listen(peers, 0);
    ivshmem_peers_interrupt_in_order(peers);
    for (unsigned i = 1; i <= 2; i++) {
        unsigned first = 1000 * i, second = first + 190, end = second + 80;

        /* more than the client reads in two turns of its main loop */
        for (unsigned id = first; id < second; id++) {
            server_send_fd(f, id, fd);
        }
        ring_us(r.own);
        main_loop_wait(true);
        main_loop_wait(true);
        for (unsigned id = second; id < end; id++) {
            server_send_fd(f, id, fd);
        }
        g_assert_cmpint(f->interrupts[0], ==, 2 * (i - 1));
        ring_us(r.own);
        WAIT_UNTIL(f->interrupts[0] == 2 * i - 1);
        g_assert_nonnull(peers->others[second - 1]);
        g_assert_null(peers->others[end - 1]);
        WAIT_UNTIL(f->interrupts[0] == 2 * i);
        g_assert_nonnull(peers->others[end - 1]);
    }
    g_assert_cmpint(peers->own[0].interrupts, ==, 4);

    /* and none is kept for ever */
    server_send_fd(f, 7, fd);
    ring_us(r.own);
    server_hang_up(f);
    WAIT_UNTIL(f->interrupts[0] == 5);
    running_free(&r);
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

int main(int argc, char **argv)
{
    framework_init(&argc, &argv);

    g_test_add_func("/ivshmem-client/greeting/good", test_greeting_good);
    g_test_add_func("/ivshmem-client/interrupt/in-the-main-loop",
                    test_interrupt);
    g_test_add_func("/ivshmem-client/interrupt/in-order",
                    test_interrupt_in_order);
    g_test_add_func("/ivshmem-client/interrupt/on-a-late-vector",
                    test_interrupt_on_a_late_vector);
    g_test_add_func("/ivshmem-client/interrupt/in-an-iothread",
                    test_interrupt_in_an_iothread);
    add_greeting_tests();
    add_message_tests();
    add_peer_tests();
    add_server_tests();
    return g_test_run();
}
