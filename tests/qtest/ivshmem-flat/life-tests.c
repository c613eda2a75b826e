/*
 * QTest testcase for ivshmem-flat: the life of a device
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qlist.h"
#include "ivshmem-flat/framework.h"

static void test_reset_in_traffic(void)
{
    Running r = running_new();

    for (unsigned i = 0; i < 100; i++) {
        interrupt(r.own);
        qtest_writel(r.qts, DOORBELL, doorbell(PEER_ID, 0));
        fake_send_fd(r.srv, 7, r.peer);
        fake_send_gone(r.srv, 7);
        qtest_writel(r.qts, INTRMASK, 0xffffffff);
        qtest_system_reset(r.qts);
        g_assert_cmpint(qtest_readl(r.qts, IVPOSITION), ==, OWN_ID);
        g_assert_cmphex(qtest_readl(r.qts, INTRMASK), ==, 0);
    }
    fake_sync(r.srv, r.qts);
    g_assert_cmpint(rung(r.peer), ==, 100);
    while (rung(r.own)) {
        /* whatever the machine has not taken yet */
    }
    qtest_writel(r.qts, NVIC_ICPR, BIT(INPUT));
    running_check(&r);
    running_free(&r);
}

static void test_quit_in_traffic(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);

    for (unsigned i = 0; i < 100; i++) {
        fake_send_fd(r.srv, 100 + i, fd);
        interrupt(r.own);
        qtest_writel(r.qts, DOORBELL, doorbell(PEER_ID, 0));
    }
    running_free(&r);
}

static void test_hotplug_is_refused(void)
{
    Running r = running_new();

    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'device_add', 'arguments': "
                  "{ 'driver': 'ivshmem-flat', 'id': 'late' } }"),
        "does not support hotplugging");
    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'device_del', 'arguments': "
                  "{ 'id': '/machine/peripheral/ivs' } }"),
        "does not support hotplugging");
    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'chardev-remove', 'arguments': "
                  "{ 'id': 'ivshmem' } }"), "Chardev 'ivshmem' is busy");
    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'chardev-change', 'arguments': { 'id': "
                  "'ivshmem', 'backend': { 'type': 'null', 'data': {} } } }"),
        "Chardev user does not support chardev hotswap");
    qtest_qmp_assert_success(r.qts, "{ 'execute': 'chardev-send-break', "
                             "'arguments': { 'id': 'ivshmem' } }");
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

static void test_introspection(void)
{
    static const char *const paths[] = {
        "/machine/peripheral/ivs",
        "/machine/peripheral/ivs/ivshmem-flat-registers[0]",
        "/machine/peripheral/ivs/ivshmem-flat-shmem[0]",
    };
    Running r = running_new();

    for (unsigned i = 0; i < 3; i++) {
        qtest_qmp_assert_success(r.qts, "{ 'execute': "
                                 "'device-list-properties', 'arguments': "
                                 "{ 'typename': 'ivshmem-flat' } }");
        for (unsigned j = 0; j < ARRAY_SIZE(paths); j++) {
            qtest_qmp_assert_success(r.qts, "{ 'execute': 'qom-list', "
                                     "'arguments': { 'path': %s } }",
                                     paths[j]);
        }
    }
    running_check(&r);
    running_free(&r);
}

/* A user who takes the device away may bring it back. */
static void test_realized_again(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, "-machine virt -nic none "
                               "-device ivshmem-flat,id=ivs,chardev=ivshmem");
    for (unsigned id = 101; id < 104; id++) {
        set_realized(qts, false);
        fake_come_back(srv, id);
        set_realized(qts, true);
        g_assert_cmpint(get_number(qts, "id"), ==, id);
        g_assert_true(is_connected(qts));
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* It leaves the server, and comes to it as anybody does who is new. */
static void test_realized_again_same_server(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    for (unsigned id = 101; id < 104; id++) {
        set_realized(qts, false);
        WAIT_UNTIL(is_hung_up(srv->conn));
        fake_come_back(srv, id);
        set_realized(qts, true);
        g_assert_cmpint(get_number(qts, "id"), ==, id);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* When that happens, the chardev's next attempt is due in an hour. */
static void test_realized_again_disconnected(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 100);
    fake_start(srv);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=3600000 "
                      "-machine virt -nic none "
                      "-device ivshmem-flat,id=ivs,chardev=ivshmem 2>%s",
                      srv->path, srv->errors);
    fake_wait_client(srv);
    fake_restart(srv);
    WAIT_UNTIL(!is_connected(qts));
    set_realized(qts, false);
    fake_script_client(srv, 101);
    fake_start(srv);
    set_realized(qts, true);
    fake_wait_client(srv);
    g_assert_cmpint(get_number(qts, "id"), ==, 101);
    g_assert_true(is_connected(qts));
    qtest_quit(qts);
    fake_free(srv);
}

/* A device on board is there before it is realized. */
static void test_introspection_before_realize(void)
{
    static const char *const lists[] = { "peers", "interrupts" };
    QTestState *qts = qtest_init("--preconfig -machine mps2-an385-ivshmem");

    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++) {
        QDict *ret = qom_get(qts, "/machine/ivshmem", lists[i]);

        g_assert_true(qlist_empty(qdict_get_qlist(ret, "return")));
        qobject_unref(ret);
    }
    g_assert_false(qtest_qom_get_bool(qts, "/machine/ivshmem", "connected"));
    qtest_quit(qts);
}

void add_life_tests(void)
{
    qtest_add_func("/ivshmem-flat/life/reset-in-traffic",
                   test_reset_in_traffic);
    qtest_add_func("/ivshmem-flat/life/quit-in-traffic", test_quit_in_traffic);
    qtest_add_func("/ivshmem-flat/life/hotplug-is-refused",
                   test_hotplug_is_refused);
    qtest_add_func("/ivshmem-flat/life/introspection", test_introspection);
    if (qtest_has_machine("virt")) {
        qtest_add_func("/ivshmem-flat/life/realized-again",
                       test_realized_again);
        qtest_add_func("/ivshmem-flat/life/realized-again-same-server",
                       test_realized_again_same_server);
        qtest_add_func("/ivshmem-flat/life/realized-again-disconnected",
                       test_realized_again_disconnected);
    }
    qtest_add_func("/ivshmem-flat/life/introspection-before-realize",
                   test_introspection_before_realize);
}
