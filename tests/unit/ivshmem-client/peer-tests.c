/*
 * Unit tests of the client of an ivshmem server: peers and doorbells
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "ivshmem-client/framework.h"
#include "iothread.h"

/* Peers */

static void check_rung(const int *fds, unsigned n, unsigned expected)
{
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpint(rung(fds[i]), ==, expected);
    }
}

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
    running_check(&r);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        ring(r.f, 7, i);
    }
    check_rung(fds, ARRAY_SIZE(fds), 0);
    again = server_send_vector(r.f, 7);
    sync_with_client(r.f);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        ring(r.f, 7, i);
    }
    g_assert_cmpint(rung(again), ==, 1);
    check_rung(fds, ARRAY_SIZE(fds), 0);
    server_send_id(r.f, 7);
    running_check(&r);
    ring(r.f, 7, 0);
    g_assert_cmpint(rung(again), ==, 0);
    g_assert_cmpint(reported(r.f, "\n"), ==, 0);
    running_free(&r);
}

/* What comes beyond those that the device can ring is closed. */
static void test_peer_with_many_vectors(void)
{
    static const unsigned counts[] = {
        1, MAX_PEER_VECTORS, MAX_PEER_VECTORS + 1, 200
    };

    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        Running r = running_new();
        unsigned open;
        int fds[200];

        for (unsigned v = 0; v < counts[i]; v++) {
            fds[v] = new_eventfd(r.f);
        }
        open = count_fds();
        for (unsigned v = 0; v < counts[i]; v++) {
            server_send_fd(r.f, 7, fds[v]);
            sync_with_client(r.f);
        }
        g_assert_cmpint(count_fds(), ==,
                        open + MIN(counts[i], MAX_PEER_VECTORS));
        for (unsigned v = 0; v < counts[i]; v++) {
            ring(r.f, 7, v);
            g_assert_cmpint(rung(fds[v]), ==, v < MAX_PEER_VECTORS);
        }
        ring(r.f, 7, 256);
        g_assert_cmpint(rung(fds[0]), ==, 0);
        server_send_id(r.f, 7);
        running_check(&r);
        g_assert_cmpint(count_fds(), ==, open);
        g_assert_cmpint(reported(r.f, "\n"), ==, 0);
        running_free(&r);
    }
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

/* Who comes, goes, or gets a vector is counted and told, nothing else is. */
static void test_peer_changes(void)
{
    Running r = running_new();
    Fixture *f = r.f;
    uint32_t *changes = &f->client.peers.changes;
    uint32_t before = *changes;

    server_send_vector(f, 7);
    sync_with_client(f);
    g_assert_cmpint(*changes, ==, before + 1);
    server_send_vector(f, 7);
    sync_with_client(f);
    g_assert_cmpint(*changes, ==, before + 2);
    server_send_id(f, 7);
    sync_with_client(f);
    g_assert_cmpint(*changes, ==, before + 3);
    server_send_vector(f, OWN_ID);      /* too many */
    running_check(&r);
    g_assert_cmpint(*changes, ==, before + 3);
    g_assert_cmpint(*changes, ==, f->changes);
    running_free(&r);
}

/* A device that does not want to know is not told. */
static void test_peer_changes_untold(void)
{
    Fixture *f = fixture_new("");
    IvshmemClientOps untold = device_ops;
    uint32_t before;

    untold.changed = NULL;
    ivshmem_client_init(&f->client, &untold, f);
    server_greet(f, OWN_ID);
    server_send_vector(f, OWN_ID);
    connect_client(f, 1);
    before = f->client.peers.changes;
    server_send_vector(f, PEER_ID);
    sync_with_client(f);
    g_assert_cmpint(f->client.peers.changes, ==, before + 1);
    g_assert_cmpint(f->changes, ==, 0);
    finish(f);
}

/* All that there can be: each is found, and a step takes as long as of few. */
static void test_peer_walk(void)
{
    static const unsigned counts[] = { 0, 1, 10, 10000, IVSHMEM_MAX_PEERS - 1 };
    IvshmemPeers p = {};

    ivshmem_peers_init(&p, 1, 1, iohandler_get_aio_context(),
                       device_ops.interrupt, NULL, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        unsigned last = UINT16_MAX - 1;
        unsigned n = 0, walks = 0;
        gint64 begin;

        /* no file descriptors: they would be too many */
        for (unsigned id = 0; id < counts[i]; id++) {
            ivshmem_peers_add(&p, last - id, -1);
        }
        g_assert_cmpint(ivshmem_peers_next(&p, last + 1), ==,
                        IVSHMEM_MAX_PEERS);
        g_assert_cmpint(ivshmem_peers_next(&p, UINT_MAX), ==,
                        IVSHMEM_MAX_PEERS);
        begin = g_get_monotonic_time();
        do {
            n = 0;
            for (unsigned id = ivshmem_peers_next(&p, 0);
                 id < IVSHMEM_MAX_PEERS;
                 id = ivshmem_peers_next(&p, id + 1)) {
                g_assert_cmpint(id, ==, last + 1 - counts[i] + n);
                n++;
            }
            g_assert_cmpint(n, ==, counts[i]);
        } while (++walks * (n + 1) < 1000000);
        g_test_message("%u peers: %.0f ns a step", n,
                       (g_get_monotonic_time() - begin) * 1000.0 /
                       ((double)walks * (n + 1)));
        ivshmem_peers_forget(&p);
        g_assert_cmpint(ivshmem_peers_next(&p, 0), ==, IVSHMEM_MAX_PEERS);
    }
    ivshmem_peers_cleanup(&p);
}

/* A device may ask for as many vectors as there can be. */
static void test_peer_with_all_vectors(void)
{
    Fixture *f = fixture_new("");
    IvshmemClientOps many_vectors = device_ops;
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

/*
 * O_NONBLOCK belongs to the open file, and so to all who share the eventfd: a
 * peer that reads until there is no more would hang without. QEMU's chardev
 * takes it from each fd that it receives.
 */
static void check_does_not_block(IOThread *iothread)
{
    Fixture *f = fixture_new("");
    AioContext *ctx = iothread ? iothread_get_aio_context(iothread) :
                                 iohandler_get_aio_context();
    int two[2];

    server_greet(f, OWN_ID);
    for (unsigned i = 0; i <= MAX_PEER_VECTORS; i++) { /* one too many */
        server_send_vector(f, PEER_ID);
    }
    server_send_vector(f, OWN_ID);
    server_send_vector(f, OWN_ID);                      /* likewise */
    g_assert_true(ivshmem_client_connect(&f->client, 1, ctx, &error_abort));
    ivshmem_peers_listen(&f->client.peers, 0);
    server_send_vector(f, 7);
    two[0] = new_eventfd(f);                            /* is ignored */
    two[1] = new_eventfd(f);
    server_send(f, 8, 2, two);
    sync_with_client(f);
    g_assert_cmpint(reported(f, "ignored message 8"), ==, 1);
    for (guint i = 0; i < f->eventfds->len; i++) {
        g_assert_cmpint(fcntl(g_array_index(f->eventfds, int, i), F_GETFL) &
                        O_NONBLOCK, !=, 0);
    }
    ivshmem_client_disconnect(&f->client);
    if (iothread) {
        iothread_join(iothread);
    }
    fixture_free(f);
}

static void test_peer_does_not_block(void)
{
    check_does_not_block(NULL);
    check_does_not_block(iothread_new());
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
    for (unsigned i = 0; i < 2; i++) { /* the piece that the eventfd is with */
        server_send_bytes(r.f, (uint8_t[3]) { 8 + i }, 3, i == 0, &fd);
        ring(r.f, 8 + i, 0);
        server_send_bytes(r.f, (uint8_t[5]) {}, 5, i == 1, &fd);
        ring(r.f, 8 + i, 0);
        sync_with_client(r.f);
        g_assert_cmpint(rung(fd), ==, 1);
        g_assert_cmpint(peers->doorbells_dropped, ==, 4 + i);
    }
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

/* However many wait for the old one: none is lost, and each has some. */
static void test_doorbell_while_an_id_is_used_again(void)
{
    Running r = running_new();
    int old = server_send_vector(r.f, 7), new;

    sync_with_client(r.f);
    for (unsigned i = 0; i < 40; i++) {
        unsigned rung_old;

        for (unsigned j = 0; j < 3; j++) {
            server_send_vector(r.f, 100 * i + 1000 + j);
            ring(r.f, 7, 0);
        }
        server_send_id(r.f, 7);
        new = server_send_vector(r.f, 7);
        ring(r.f, 7, 0);
        sync_with_client(r.f);
        rung_old = rung(old);
        g_assert_cmpint(rung_old, >=, 1);
        g_assert_cmpint(rung_old, <=, 3);
        g_assert_cmpint(rung(new), ==, 4 - rung_old);
        old = new;
    }
    g_assert_cmpint(r.f->client.peers.doorbells_dropped, ==, 0);
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

/* The first of them arrive, however often each was rung. */
static void test_doorbell_to_many_announced_peers(void)
{
    Running r = running_new();
    int fds[IVSHMEM_MAX_KEPT + 6];

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = server_send_vector(r.f, 100 + i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        ring(r.f, 100 + i, 0);
        ring(r.f, 100 + i, 0);
    }
    check_rung(fds, ARRAY_SIZE(fds), 0);
    sync_with_client(r.f);
    check_rung(fds, IVSHMEM_MAX_KEPT, 2);
    check_rung(fds + IVSHMEM_MAX_KEPT, 6, 0);
    g_assert_cmpint(r.f->client.peers.doorbells_dropped, ==, 12);
    running_free(&r);
}

/* To ring all who are known while one joins is fine, however many they are. */
static void test_doorbell_to_many_known_peers(void)
{
    Running r = running_new();
    int fds[200];

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = server_send_vector(r.f, 100 + i);
        sync_with_client(r.f);
    }
    server_send_vector(r.f, 7);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        ring(r.f, 100 + i, 0);
    }
    check_rung(fds, ARRAY_SIZE(fds), 0);
    sync_with_client(r.f);
    check_rung(fds, ARRAY_SIZE(fds), 1);
    g_assert_cmpint(r.f->client.peers.doorbells_dropped, ==, 0);
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

void add_peer_tests(void)
{
    g_test_add_func("/ivshmem-client/peer/comes-and-goes",
                    test_peer_comes_and_goes);
    g_test_add_func("/ivshmem-client/peer/many-vectors",
                    test_peer_with_many_vectors);
    g_test_add_func("/ivshmem-client/peer/ten-thousand",
                    test_peer_ten_thousand);
    g_test_add_func("/ivshmem-client/peer/changes", test_peer_changes);
    g_test_add_func("/ivshmem-client/peer/changes-untold",
                    test_peer_changes_untold);
    g_test_add_func("/ivshmem-client/peer/walk", test_peer_walk);
    g_test_add_func("/ivshmem-client/peer/all-vectors",
                    test_peer_with_all_vectors);
    g_test_add_func("/ivshmem-client/peer/does-not-block",
                    test_peer_does_not_block);
    g_test_add_func("/ivshmem-client/doorbell/to-nobody",
                    test_doorbell_to_nobody);
    g_test_add_func("/ivshmem-client/doorbell/to-a-full-counter",
                    test_doorbell_to_a_full_counter);
    g_test_add_func("/ivshmem-client/doorbell/to-an-announced-peer",
                    test_doorbell_to_an_announced_peer);
    g_test_add_func("/ivshmem-client/doorbell/to-an-id-used-again",
                    test_doorbell_to_an_id_used_again);
    g_test_add_func("/ivshmem-client/doorbell/while-an-id-is-used-again",
                    test_doorbell_while_an_id_is_used_again);
    g_test_add_func("/ivshmem-client/doorbell/to-many", test_doorbell_to_many);
    g_test_add_func("/ivshmem-client/doorbell/to-many-announced-peers",
                    test_doorbell_to_many_announced_peers);
    g_test_add_func("/ivshmem-client/doorbell/to-many-known-peers",
                    test_doorbell_to_many_known_peers);
    g_test_add_func("/ivshmem-client/doorbell/at-the-end",
                    test_doorbell_at_the_end);
}
