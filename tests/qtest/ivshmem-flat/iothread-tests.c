/*
 * QTest testcase for ivshmem-flat: an iothread takes the interrupts
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Whatever happens to the device in the main loop happens while a peer rings
 * without a pause, so that the iothread is in the midst of it.
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

#define IOTHREAD(poll_max_ns) "-object iothread,id=io,poll-max-ns=" \
                              #poll_max_ns " -global ivshmem-flat.iothread=io"

typedef struct Traffic {
    int fd;
    int stop;
    GThread *thread;
} Traffic;

static void *traffic_thread(void *opaque)
{
    Traffic *t = opaque;

    while (!qatomic_read(&t->stop)) {
        interrupt(t->fd);
    }
    return NULL;
}

static Traffic *traffic_new(int fd)
{
    Traffic *t = g_new0(Traffic, 1);

    t->fd = fd;
    t->thread = g_thread_new("traffic", traffic_thread, t);
    return t;
}

static void traffic_free(Traffic *t)
{
    qatomic_set(&t->stop, 1);
    g_thread_join(t->thread);
    g_free(t);
}

/* It takes an interrupt, from now on. */
static void check_interrupt_taken(QTestState *qts, int own)
{
    uint64_t before = get_interrupts(qts, 0);

    interrupt(own);
    WAIT_UNTIL(get_interrupts(qts, 0) > before);
    wait_interrupt(qts, INPUT);
}

/* Whichever way it notices them, polling or not, none is lost. */
static void test_iothread_counts(const void *args)
{
    FakeServer *srv = fake_new();
    uint64_t before;
    QTestState *qts;
    gint64 deadline;
    GPollFD pfd = { .events = G_IO_IN };

    pfd.fd = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    check_interrupt_taken(qts, pfd.fd);
    before = get_interrupts(qts, 0);
    for (unsigned i = 0; i < 20000; i++) {
        interrupt(pfd.fd);
        deadline = g_get_monotonic_time() + PATIENCE_US;
        while (g_poll(&pfd, 1, 0)) { /* it has yet to be taken */
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);
            g_thread_yield();
        }
    }
    WAIT_UNTIL(get_interrupts(qts, 0) == before + 20000);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_restart(const void *args)
{
    g_autofree char *with_iothread = g_strconcat(WIRED_MACHINE " ", args,
                                                 NULL);
    FakeServer *srv = fake_new();
    unsigned nfds;
    QTestState *qts;
    int own;

    own = fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, with_iothread);
    check_interrupt_taken(qts, own);
    nfds = count_fds(qts);
    for (unsigned i = 101; i <= 120; i++) {
        Traffic *t = traffic_new(own);

        own = fake_come_back(srv, i);
        WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == i);
        traffic_free(t);
        check_interrupt_taken(qts, own);
    }
    /* The iothread closes what it served in its own time. */
    WAIT_UNTIL(count_fds(qts) == nfds);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_reset(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    t = traffic_new(own);
    for (unsigned i = 0; i < 20; i++) {
        wait_interrupt(qts, INPUT);
        qtest_system_reset(qts);
    }
    traffic_free(t);
    check_interrupt_taken(qts, own);
    qtest_quit(qts);
    fake_free(srv);
}

/* The level is raised in one thread and lowered in another. */
static void test_iothread_revision_0(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ",revision=0 %s",
                            (const char *)args);
    qtest_writel(qts, INTRMASK, 1);
    for (unsigned i = 0; i < 100; i++) {
        interrupt(own);
        WAIT_UNTIL(pending(qts, INPUT));
        g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 1);
        wait_interrupt(qts, INPUT);
        g_assert_false(pending(qts, INPUT));
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_hostile_server(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own, peer;

    own = fake_script_with_peer(srv, OWN_ID, PEER_ID, &peer);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s 2>/dev/null",
                            (const char *)args);
    t = traffic_new(own);
    for (unsigned i = 0; i < 100; i++) {
        fake_send_gone(srv, OWN_ID);
        fake_send_fd(srv, OWN_ID, own);
        fake_send_fd(srv, OWN_ID, srv->shm);
        fake_send_fd(srv, -1, srv->shm);
        fake_send_gone(srv, PEER_ID);
        fake_send_fd(srv, PEER_ID, peer);
        fake_send_gone(srv, -2);
    }
    fake_sync(srv, qts);
    traffic_free(t);
    check_interrupt_taken(qts, own);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_unrealize(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    t = traffic_new(own);
    wait_interrupt(qts, INPUT);
    set_realized(qts, false);
    qtest_writel(qts, NVIC_ICPR, BIT(INPUT));
    g_assert_false(pending(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, 0);
    traffic_free(t);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_quit(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    t = traffic_new(own);
    wait_interrupt(qts, INPUT);
    qtest_quit(qts);
    traffic_free(t);
    fake_free(srv);
}

/* The device holds on to its iothread. */
static void test_iothread_deleted(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " " IOTHREAD(32768));
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', 'arguments': "
                             "{ 'id': 'io' } }");
    check_interrupt_taken(qts, own);
    qtest_quit(qts);
    fake_free(srv);
}

void add_iothread_tests(void)
{
    static const struct {
        const char *name;
        const char *args;
    } iothreads[] = {
        { "iothread", IOTHREAD(0) },
        { "polling-iothread", IOTHREAD(32768) },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(iothreads); i++) {
        static const struct {
            const char *name;
            void (*test)(const void *args);
        } tests[] = {
            { "vectors-all-at-once", check_vectors_all_at_once },
            { "counts", test_iothread_counts },
            { "restart", test_iothread_restart },
            { "reset", test_iothread_reset },
            { "revision-0", test_iothread_revision_0 },
            { "hostile-server", test_iothread_hostile_server },
            { "unrealize", test_iothread_unrealize },
            { "quit", test_iothread_quit },
        };

        for (unsigned j = 0; j < ARRAY_SIZE(tests); j++) {
            g_autofree char *path = g_strdup_printf(
                "/ivshmem-flat/%s/%s", iothreads[i].name, tests[j].name);

            qtest_add_data_func(path, iothreads[i].args, tests[j].test);
        }
    }
    qtest_add_func("/ivshmem-flat/iothread/deleted", test_iothread_deleted);
}
