/*
 * QTest testcase for ivshmem-flat: boards that place what the user plugs
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

/* Nothing but what a device must have */
#define PLUGGED "-device ivshmem-flat,id=ivs,chardev=ivshmem"
#define SECOND " -chardev socket,id=ivshmem2,path=%s " \
               "-device ivshmem-flat,id=ivs2,chardev=ivshmem2"
#define THIRD " -chardev socket,id=ivshmem3,path=%s " \
              "-device ivshmem-flat,chardev=ivshmem3"
#define NVIC "/machine/armv7m/nvic/unnamed-gpio-in"

/* What mps2-* have for the first device and for the second */
static const unsigned inputs[2][4] = { { 25, 26, 27, 28 }, { 29, 30, 31, 23 } };

/* The device rings itself on this vector, and this input is pending. */
static void check_vector(QTestState *qts, uint64_t registers, unsigned vector,
                         unsigned input)
{
    unsigned id = qtest_readl(qts, registers + (IVPOSITION - IOMEM));

    g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, 0);
    qtest_writel(qts, registers + (DOORBELL - IOMEM), doorbell(id, vector));
    wait_interrupt(qts, input);
    g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, 0);
}

/* A doorbell each way, and the shared memory; the monitor tells the place. */
static void test_places_the_device(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *qtree = NULL;
    QTestState *qts;
    int peer, own;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, 0);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine mps2-an385 " PLUGGED " 2>%s",
                            srv->errors);
    g_assert_cmpint(count_errors(srv, "\n"), ==, 0);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    interrupt(own);
    wait_interrupt(qts, inputs[0][0]);
    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM + SHMEM_SIZE - 4), ==, 0x12345678);

    assert_string(qts, DEVICE, "sysbus-irq[0]", NVIC "[25]");
    qtree = qtest_hmp(qts, "info qtree");
    g_assert_nonnull(strstr(qtree,
                            "mmio 0000000050000000/0000000000000100\r\n"));
    g_assert_nonnull(strstr(qtree,
                            "mmio 0000000070000000/0000000000400000\r\n"));
    qtest_quit(qts);
    fake_free(srv);
}

static void test_traces_the_place(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine mps2-an385 "
                            "-trace ivshmem_flat_place "
                            "-trace ivshmem_flat_input " PLUGGED
                            ",vectors=2 2>%s", srv->errors);
    g_assert_cmpint(count_errors(srv, "ivshmem_flat_place /machine/peripheral/"
                                 "ivs: registers at 0x50000000, shared memory "
                                 "at 0x70000000 of 4194304 bytes\n"), ==, 1);
    g_assert_cmpint(count_errors(srv, "ivshmem_flat_input /machine/peripheral/"
                                 "ivs: vector 0 drives " NVIC "[25]\n"), ==, 1);
    g_assert_cmpint(count_errors(srv, "ivshmem_flat_input /machine/peripheral/"
                                 "ivs: vector 1 drives " NVIC "[26]\n"), ==, 1);
    g_assert_cmpint(count_errors(srv, "\n"), ==, 3);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_wires_four_vectors(void)
{
    Server *srv = server_new(4);
    QTestState *qts = machine(srv->path,
                              "-machine mps2-an385 " PLUGGED ",vectors=4");

    for (unsigned i = 0; i < 4; i++) {
        check_vector(qts, IOMEM, i, inputs[0][i]);
    }
    qtest_quit(qts);
    server_free(srv);
}

/* More than the board has inputs for: the user has to name some. */
static void test_wires_no_more_than_it_has(void)
{
    Server *srv = server_new(6);
    QTestState *qts;

    assert_refused("vectors is 6, and this board has interrupt inputs for 4: "
                   "sysbus-irq[5]=PATH wires another one",
                   CHARDEV_AND_DEVICE, srv->path,
                   ",vectors=6,'sysbus-irq[4]=" NVIC "[14]'");
    qts = machine(srv->path, "-machine mps2-an385 " PLUGGED ",vectors=6,"
                  "'sysbus-irq[4]=" NVIC "[14]','sysbus-irq[5]=" NVIC "[15]'");
    check_vector(qts, IOMEM, 3, 28);
    check_vector(qts, IOMEM, 4, 14);
    check_vector(qts, IOMEM, 5, 15);
    qtest_quit(qts);
    server_free(srv);
}

/* What the user has wired stays; the rest is the board's. */
static void test_wires_what_is_not_wired(void)
{
    Server *srv = server_new(3);
    QTestState *qts;

    qts = machine(srv->path, "-machine mps2-an385 " PLUGGED ",vectors=3,"
                  "'sysbus-irq[0]=" NVIC "[14]','sysbus-irq[2]=" NVIC "[15]'");
    check_vector(qts, IOMEM, 0, 14);
    check_vector(qts, IOMEM, 1, 26);
    check_vector(qts, IOMEM, 2, 15);
    qtest_quit(qts);
    server_free(srv);
}

/* QEMU has ended: there was one device more than the board has places for. */
static void assert_no_place(Output out, unsigned places)
{
    g_autofree char *expected = g_strdup_printf(
        "this board has places for %u ivshmem-flat, and none of them is free",
        places);

    g_assert_nonnull(strstr(out.text, expected));
    g_assert_true(WIFEXITED(out.status));
    g_assert_cmpint(WEXITSTATUS(out.status), ==, 1);
    output_free(out);
}

/* The second gets the next place with its inputs, a third one has none. */
static void test_two_devices(void)
{
    Server *srv = server_new(4);
    QTestState *qts;

    qts = machine(srv->path, "-machine mps2-an385 " PLUGGED ",vectors=4"
                  SECOND ",vectors=4", srv->path);
    for (unsigned i = 0; i < 4; i++) {
        check_vector(qts, IOMEM, i, inputs[0][i]);
        check_vector(qts, IOMEM + IOMEM2_OFFSET, i, inputs[1][i]);
    }
    qtest_writel(qts, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM2), ==, 0x12345678);
    qtest_quit(qts);

    assert_no_place(run_qemu(NULL, "-machine mps2-an385 "
                             "-chardev socket,id=ivshmem,path=%s "
                             PLUGGED SECOND THIRD, srv->path, srv->path,
                             srv->path), 2);
    server_free(srv);
}

static void test_one_place(void)
{
    Server *srv = server_new(1);

    assert_no_place(run_qemu(NULL, "-machine mps3-an536 "
                             "-chardev socket,id=ivshmem,path=%s "
                             PLUGGED SECOND, srv->path, srv->path), 1);
    server_free(srv);
}

/* The device on board has the first place. */
static void test_beside_the_device_on_board(void)
{
    Server *srv = server_new(1);
    QTestState *qts;

    qts = machine(srv->path, "-machine mps2-an385-ivshmem,"
                  "ivshmem-chardev=ivshmem" SECOND, srv->path);
    check_vector(qts, IOMEM, 0, 25);
    check_vector(qts, IOMEM + IOMEM2_OFFSET, 0, 29);
    qtest_quit(qts);
    server_free(srv);
}

/* It stays where it is until the machine ends. */
static void test_stays_plugged(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine mps2-an385 " PLUGGED);
    assert_qmp_error(qtest_qmp(qts, "{ 'execute': 'device_del', "
                               "'arguments': { 'id': 'ivs' } }"),
                     "does not support hotplugging");
    interrupt(own);
    wait_interrupt(qts, 25);
    qtest_quit(qts);
    fake_free(srv);
}

void add_board_tests(void)
{
    qtest_add_func("/ivshmem-flat/board/places-the-device",
                   test_places_the_device);
    qtest_add_func("/ivshmem-flat/board/traces-the-place",
                   test_traces_the_place);
    qtest_add_func("/ivshmem-flat/board/wires-four-vectors",
                   test_wires_four_vectors);
    qtest_add_func("/ivshmem-flat/board/wires-no-more-than-it-has",
                   test_wires_no_more_than_it_has);
    qtest_add_func("/ivshmem-flat/board/wires-what-is-not-wired",
                   test_wires_what_is_not_wired);
    qtest_add_func("/ivshmem-flat/board/two-devices", test_two_devices);
    if (qtest_has_machine("mps3-an536")) {
        qtest_add_func("/ivshmem-flat/board/one-place", test_one_place);
    }
    qtest_add_func("/ivshmem-flat/board/beside-the-device-on-board",
                   test_beside_the_device_on_board);
    qtest_add_func("/ivshmem-flat/board/stays-plugged", test_stays_plugged);
}
