/*
 * QTest testcase for ivshmem-flat: a server that ends, stops, or never does
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

static void test_server_gone(void)
{
    Running r = running_new();

    fake_hang_up(r.srv);
    r.nfds--; /* the connection */
    WAIT_UNTIL(count_fds(r.qts) == r.nfds);
    running_check(&r);
    qtest_writel(r.qts, DOORBELL, doorbell(7, 0)); /* nobody */
    check_idle(r.qts);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(r.srv, "server at chardev 'ivshmem' is gone"),
                    ==, 1);
    running_free(&r);
}

/* It ends with the last byte of the greeting. */
static void test_server_gone_after_the_greeting(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    srv->hang_up = true;
    qts = fake_machine(srv);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    qtest_writel(qts, SHMEM, 0x12345678);
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 0));
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    check_idle(qts);
    qtest_quit(qts);
    fake_free(srv);
}

/* QEMU's own, without warning, under two machines that know each other. */
static void test_server_killed(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = wired_machine(srv->path);
    unsigned id_a = qtest_readl(a, IVPOSITION);
    unsigned id_b = qtest_readl(b, IVPOSITION);

    server_kill(srv, SIGKILL);
    qtest_writel(a, DOORBELL, doorbell(id_b, 0));
    wait_interrupt(b, INPUT);
    qtest_writel(b, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    qtest_writel(a, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(b, SHMEM), ==, 0x12345678);
    check_idle(a);
    check_idle(b);
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

/* QEMU's own, stopped by a signal: only who wants to join has to wait. */
static void test_server_stopped(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    unsigned id_a = qtest_readl(a, IVPOSITION);
    QTestState *b;

    kill(srv->pid, SIGSTOP);
    qtest_writel(a, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    qtest_writel(a, DOORBELL, doorbell(id_a + 1, 0)); /* nobody */
    assert_refused("server sent 0 bytes in 10 s, expected the protocol "
                   "version", CHARDEV_AND_DEVICE, srv->path, "");
    check_idle(a);

    kill(srv->pid, SIGCONT);
    b = wired_machine(srv->path);
    qtest_writel(b, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

/* A server that stops in a message before the machine starts. */
static void test_server_stopped_at_start(void)
{
    FakeServer *srv = fake_new();
    int fd = fake_eventfd(srv);
    Message m = message(PEER_ID, 1, &fd);
    Message rest = { .len = 5 };
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    m.len = 3;
    fake_script(srv, m);
    qts = fake_machine(srv);
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(fd), ==, 0);
    check_idle(qts);

    fake_send(srv, rest);
    wait_known(qts, PEER_ID, 0, fd);
    qtest_quit(qts);
    fake_free(srv);
}

/* A server that never stops telling of peers does not delay the start. */
static void test_server_never_stops(void)
{
    FakeServer *srv = fake_new();
    gint64 start = g_get_monotonic_time();
    int fd = fake_eventfd(srv);
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 0; i < 600; i++) { /* for a minute */
        fake_script_fd(srv, 100 + i, fd);
    }
    srv->pause_us = G_USEC_PER_SEC / 10;
    fake_start(srv);
    qts = wired_machine(srv->path);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 30 * G_USEC_PER_SEC);
    qtest_writel(qts, DOORBELL, doorbell(100, 0));
    g_assert_cmpint(rung(fd), ==, 1);
    qtest_quit(qts);
    fake_join(srv);
    fake_free(srv);
}

/*
 * A semaphore that rings without end, here 2^32 - 1 times: the machine still
 * answers its monitor.
 */
static void test_server_rings_without_end(void)
{
    static const char *const iothreads[] = { "", ",iothread=io" };

    for (unsigned i = 0; i < ARRAY_SIZE(iothreads); i++) {
        FakeServer *srv = fake_new();
        QTestState *qts;

        fake_script_greeting(srv, OWN_ID);
        fake_script_fd(srv, OWN_ID,
                       fake_own(srv, eventfd(UINT32_MAX, EFD_SEMAPHORE)));
        qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE
                                "%s", iothreads[i]);
        for (unsigned j = 0; j < 100; j++) {
            wait_interrupt(qts, INPUT);
            qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
        }
        qtest_quit(qts);
        fake_free(srv);
    }
}

/*
 * A semaphore counts down by one for each interrupt, here a million times: the
 * machine takes them all, and answers its monitor all the while.
 */
static void test_server_counts_to_a_million(void)
{
    static const char *const iothreads[] = { "", ",iothread=io" };
    static const uint64_t million = 1000000;

    for (unsigned i = 0; i < ARRAY_SIZE(iothreads); i++) {
        FakeServer *srv = fake_new();
        uint64_t taken = 0;
        QTestState *qts;

        fake_script_greeting(srv, OWN_ID);
        fake_script_fd(srv, OWN_ID,
                       fake_own(srv, eventfd(million, EFD_SEMAPHORE)));
        qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE
                                "%s", iothreads[i]);
        while (taken < million) {
            uint64_t now = get_interrupts(qts, 0);

            g_assert_cmpint(now, >=, taken);
            taken = now;
        }
        g_assert_cmpint(taken, ==, million);
        wait_interrupt(qts, INPUT);
        qtest_quit(qts);
        fake_free(srv);
    }
}

/* A server that stops in a message later holds nobody up. */
static void test_server_stopped_in_a_message(void)
{
    Running r = running_new();
    Message m = { .len = 3 };

    fake_send(r.srv, m);
    for (unsigned i = 0; i < 3; i++) {
        qtest_writel(r.qts, DOORBELL, doorbell(PEER_ID, 0));
        WAIT_UNTIL(rung(r.peer)); /* once those bytes are read */
        interrupt(r.own);
        wait_interrupt(r.qts, INPUT);
        qtest_writel(r.qts, DOORBELL, doorbell(7, 0)); /* nobody */
    }
    check_idle(r.qts);
    g_assert_cmpint(count_fds(r.qts), ==, r.nfds);
    running_free(&r);
}

/* An fd table without room: an eventfd that is lost looks like an end. */
static void test_out_of_fds(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);
    struct rlimit old, limit;

    g_assert_cmpint(prlimit(qtest_pid(r.qts), RLIMIT_NOFILE, NULL, &old), ==,
                    0);
    limit = (struct rlimit) {
        .rlim_cur = next_fd(r.qts), /* it may have inherited higher ones */
        .rlim_max = old.rlim_max,
    };
    g_assert_cmpint(prlimit(qtest_pid(r.qts), RLIMIT_NOFILE, &limit, NULL), ==,
                    0);
    for (unsigned id = 100; id < 110; id++) {
        fake_send_fd(r.srv, id, fd);
    }
    WAIT_UNTIL(count_errors(r.srv, "for want of file descriptors"));
    g_assert_cmpint(prlimit(qtest_pid(r.qts), RLIMIT_NOFILE, &old, NULL), ==,
                    0);
    fake_sync(r.srv, r.qts);
    for (unsigned id = 100; id < 110; id++) {
        fake_send_gone(r.srv, id);
    }
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "for want of file descriptors"), ==,
                    1);
    running_free(&r);
}

/* 20 peers with 16 vectors, and no room for them: both numbers, once. */
static void test_out_of_fds_at_start(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *text = NULL;
    unsigned lost, limit, expected;
    int fd = fake_eventfd(srv);
    QTestState *qts;
    char *qemu;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 0; i < 20 * 16; i++) {
        fake_script_fd(srv, 100 + i / 16, fd);
    }
    fake_script_fd(srv, OWN_ID, fd);
    /* The hard limit, as QEMU raises the other one to that. */
    qemu = wrap_qemu(srv, "ulimit -n 256; exec");
    qts = fake_machine_with(srv, WIRED_MACHINE " 2>%s", srv->errors);
    unwrap_qemu(qemu);
    WAIT_UNTIL(count_errors(srv, "\n"));
    qtest_quit(qts);

    g_assert_true(g_file_get_contents(srv->errors, &text, NULL, NULL));
    g_test_message("%s", text);
    g_assert_cmpint(count_errors(srv, "\n"), ==, 1);
    g_assert_nonnull(strstr(text, "ivshmem-flat: "));
    g_assert_cmpint(sscanf(strstr(text, "ivshmem-flat: "), "ivshmem-flat: %u "
                           "eventfds from chardev 'ivshmem' were lost for want "
                           "of file descriptors, or their peers are gone: the "
                           "limit of open files (ulimit -n) is %u, expected %u",
                           &lost, &limit, &expected), ==, 3);
    g_assert_cmpint(limit, ==, 256);
    g_assert_cmpint(expected, ==, limit + lost);
    g_assert_cmpint(expected, >=, 20 * 16 + 1);
    g_assert_cmpint(expected, <=, 20 * 16 + 64); /* and what QEMU has open */
    fake_free(srv);
}

void add_server_tests(void)
{
    qtest_add_func("/ivshmem-flat/server/gone", test_server_gone);
    qtest_add_func("/ivshmem-flat/server/gone-after-the-greeting",
                   test_server_gone_after_the_greeting);
    qtest_add_func("/ivshmem-flat/server/killed", test_server_killed);
    qtest_add_func("/ivshmem-flat/server/stopped", test_server_stopped);
    qtest_add_func("/ivshmem-flat/server/stopped-at-start",
                   test_server_stopped_at_start);
    qtest_add_func("/ivshmem-flat/server/rings-without-end",
                   test_server_rings_without_end);
    qtest_add_func("/ivshmem-flat/server/counts-to-a-million",
                   test_server_counts_to_a_million);
    qtest_add_func("/ivshmem-flat/server/never-stops",
                   test_server_never_stops);
    qtest_add_func("/ivshmem-flat/server/stopped-in-a-message",
                   test_server_stopped_in_a_message);
    qtest_add_func("/ivshmem-flat/server/out-of-fds", test_out_of_fds);
    qtest_add_func("/ivshmem-flat/server/out-of-fds-at-start",
                   test_out_of_fds_at_start);
}
