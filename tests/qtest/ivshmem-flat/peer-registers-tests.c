/*
 * QTest testcase for ivshmem-flat: the peer registers
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * docs/specs/ivshmem-spec.rst, "Peer registers of the flat device"; for each of
 * them a test of its name.
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/peer-registers-tests.h"

#include <sys/resource.h>

static unsigned count_by_walk(QTestState *qts)
{
    unsigned n = 0;

    for (uint32_t id = next(qts, 0); id != NONE; id = next(qts, id + 1)) {
        n++;
    }
    return n;
}

/* The registers */

static void test_features(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    g_assert_cmphex(qtest_readl(qts, FEATURES), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* Off, which is the default, the bank is what it was: nothing is there. */
static void test_off(void)
{
    static const char *const args[] = { "", ",peer-registers=off" };

    for (unsigned i = 0; i < ARRAY_SIZE(args); i++) {
        FakeServer *srv = fake_new();
        QTestState *qts;

        fake_script_with_peer(srv, OWN_ID, PEER_ID, NULL);
        qts = fake_machine_with(srv, WIRED_MACHINE "%s", args[i]);
        for (unsigned offset = 0x10; offset < 0x100; offset += 4) {
            qtest_writel(qts, IOMEM + offset, UINT32_MAX);
            g_assert_cmphex(qtest_readl(qts, IOMEM + offset), ==, 0);
        }
        qtest_quit(qts);
        fake_free(srv);
    }
}

/* Those that the server has given, of those that the device has */
static void test_vectors(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    uint32_t changes;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON ",vectors=2 2>%s",
                            srv->errors);
    changes = qtest_readl(qts, CHANGES);
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 1);
    fake_send_vector(srv, OWN_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 2);
    fake_send_vector(srv, OWN_ID);
    fake_sync(srv, qts);
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 2);
    qtest_quit(qts);
    fake_free(srv);
}

/* A peer that comes, has another vector, goes; and nothing else. */
static void test_changes(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    uint32_t changes;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    changes = qtest_readl(qts, CHANGES);

    fake_send_vector(srv, PEER_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmpint(next(qts, 0), ==, PEER_ID);
    g_assert_cmpint(qtest_readl(qts, NEXT_VECTORS), ==, 1);
    fake_send_vector(srv, PEER_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmpint(qtest_readl(qts, NEXT_VECTORS), ==, 2);
    fake_send_gone(srv, PEER_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmphex(next(qts, 0), ==, NONE);

    interrupt(own);
    wait_interrupt(qts, INPUT);
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 0));
    qtest_writel(qts, CHANGES, 0);
    qtest_writel(qts, INTRMASK, 1);
    qtest_system_reset(qts);
    g_assert_false(has_changed(qts, &changes));
    qtest_quit(qts);
    fake_free(srv);
}

/* Any value; a narrow access names its own bytes; 0 after reset. */
static void test_select(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    g_assert_cmphex(qtest_readl(qts, SELECT), ==, 0);
    qtest_writel(qts, SELECT, 0x89abcdef);
    g_assert_cmphex(qtest_readl(qts, SELECT), ==, 0x89abcdef);
    g_assert_cmphex(qtest_readb(qts, SELECT + 1), ==, 0xcd);
    g_assert_cmphex(qtest_readw(qts, SELECT + 2), ==, 0x89ab);
    qtest_writeb(qts, SELECT + 1, 0x11);
    qtest_writew(qts, SELECT + 2, 0x2233);
    g_assert_cmphex(qtest_readl(qts, SELECT), ==, 0x223311ef);
    qtest_writeq(qts, CHANGES, 0x4455667700000000);
    g_assert_cmphex(qtest_readl(qts, SELECT), ==, 0x44556677);
    g_assert_cmphex(qtest_readq(qts, CHANGES) >> 32, ==, 0x44556677);
    qtest_system_reset(qts);
    g_assert_cmphex(qtest_readl(qts, SELECT), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

/* The smallest id of a peer that is not less; ourselves we are no peer. */
static void test_next(void)
{
    static const uint32_t ids[] = { 0, 3, 63, 64, 65, 4095, 4096, 65535 };
    static const uint32_t beyond[] = { 65536, 0x10003, INT32_MAX,
                                       0x80000000, UINT32_MAX };
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
        fake_script_vector(srv, ids[i]);
    }
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
        uint32_t least = i ? ids[i - 1] + 1 : 0;

        g_assert_cmpint(next(qts, least), ==, ids[i]);
        g_assert_cmpint(next(qts, ids[i]), ==, ids[i]);
        qtest_writel(qts, NEXT, 7); /* read-only */
        g_assert_cmpint(qtest_readl(qts, NEXT), ==, ids[i]);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(beyond); i++) {
        g_assert_cmphex(next(qts, beyond[i]), ==, NONE);
        g_assert_cmpint(qtest_readl(qts, NEXT_VECTORS), ==, 0);
    }
    g_assert_cmpint(count_by_walk(qts), ==, ARRAY_SIZE(ids));
    qtest_quit(qts);
    fake_free(srv);
}

/* Of those that can be rung */
static void test_next_vectors(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    fake_script_vector(srv, 3);
    for (unsigned i = 0; i < MAX_VECTORS + 1; i++) {
        fake_script_vector(srv, 9);
    }
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    qtest_writel(qts, SELECT, 0);
    g_assert_cmpint(qtest_readl(qts, NEXT_VECTORS), ==, 1);
    qtest_writel(qts, SELECT, 4);
    g_assert_cmpint(qtest_readl(qts, NEXT_VECTORS), ==, MAX_VECTORS);
    qtest_writel(qts, SELECT, 10);
    g_assert_cmpint(qtest_readl(qts, NEXT_VECTORS), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_shmem_size(void)
{
    static const size_t sizes[] = { 64 * KiB, SHMEM_SIZE };

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        FakeServer *srv = fake_new();
        QTestState *qts;

        srv->shm = fake_memory(srv, sizes[i]);
        fake_script_client(srv, OWN_ID);
        qts = fake_machine_with(srv, WIRED_MACHINE ON);
        g_assert_cmpint(qtest_readl(qts, PAGES), ==, sizes[i] / (4 * KiB));
        qtest_quit(qts);
        fake_free(srv);
    }
}

/* What is behind them stays reserved, and the four before them are theirs. */
static void test_neighbours(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 0x1234);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    for (unsigned offset = 0x2c; offset < 0x100; offset += 4) {
        qtest_writel(qts, IOMEM + offset, UINT32_MAX);
        g_assert_cmphex(qtest_readl(qts, IOMEM + offset), ==, 0);
    }
    qtest_writeq(qts, IOMEM + 0x28, UINT64_MAX);
    g_assert_cmphex(qtest_readq(qts, IOMEM + 0x28), ==,
                    SHMEM_SIZE / (4 * KiB));
    qtest_writeq(qts, INTRMASK, 0x0123456789abcdef);
    g_assert_cmphex(qtest_readq(qts, INTRMASK), ==, 0x0123456789abcdef);
    g_assert_cmphex(qtest_readq(qts, IVPOSITION), ==, 0x1234);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_guest_errors(void)
{
    static const unsigned written[] = { 0x10, 0x14, 0x18, 0x20, 0x24, 0x28,
                                        0x2c };
    Server *srv = server_new(1);
    g_autofree char *log = g_build_filename(srv->dir, "log", NULL);
    QTestState *qts;

    qts = machine(srv->path, "-d guest_errors -D %s " WIRED_MACHINE ON, log);
    for (unsigned offset = 0x10; offset < 0x2c; offset += 4) {
        qtest_readl(qts, IOMEM + offset);
    }
    qtest_writel(qts, SELECT, UINT32_MAX);
    for (unsigned i = 0; i < ARRAY_SIZE(written); i++) {
        qtest_writel(qts, IOMEM + written[i], 0);
    }
    qtest_readl(qts, IOMEM + 0x2c);
    qtest_quit(qts);
    g_assert_cmpint(count_in_file(log, "\n"), ==, ARRAY_SIZE(written) + 1);
    g_assert_cmpint(count_in_file(log, "write to the read-only or reserved "
                                       "offset 0x24"), ==, 1);
    g_assert_cmpint(count_in_file(log, "read of the reserved offset 0x2c"),
                    ==, 1);
    unlink(log);
    server_free(srv);
}

/* Finding each other */

/* Two machines on QEMU's own server, with no id anywhere. */
static void test_two_machines(void)
{
    Server *srv = server_new(2);
    QTestState *qts[2];
    uint32_t id[2];

    for (unsigned i = 0; i < 2; i++) {
        qts[i] = machine(srv->path, WIRED_MACHINE ON);
    }
    for (unsigned i = 0; i < 2; i++) {
        WAIT_UNTIL(next(qts[i], 0) != NONE &&
                   qtest_readl(qts[i], NEXT_VECTORS) == 2);
        id[i] = qtest_readl(qts[i], NEXT);
        g_assert_cmphex(next(qts[i], id[i] + 1), ==, NONE);
        g_assert_cmpint(id[i], ==, qtest_readl(qts[!i], IVPOSITION));
        qtest_writel(qts[i], DOORBELL, doorbell(id[i], 0));
        wait_interrupt(qts[!i], INPUT);
    }
    qtest_quit(qts[1]);
    WAIT_UNTIL(next(qts[0], 0) == NONE);
    qtest_quit(qts[0]);
    server_free(srv);
}

/* Who was there before, is there in the guest's first instruction. */
static void test_first_instruction(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 100; i < 200; i++) {
        fake_script_vector(srv, i);
    }
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    g_assert_cmpint(count_by_walk(qts), ==, 100);
    qtest_quit(qts);
    fake_free(srv);
}

/* Who rings is there when the interrupt comes. */
static void test_who_rings_is_there(void)
{
    FakeServer *srv = fake_new();
    int fd = fake_eventfd(srv);
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    for (unsigned i = 1; i <= 20; i++) {
        for (unsigned id = 100; id < 200; id++) {
            fake_send_fd(srv, 1000 * i + id, fd);
        }
        interrupt(own);
        wait_interrupt(qts, INPUT);
        g_assert_cmpint(next(qts, 1000 * i + 199), ==, 1000 * i + 199);
    }
    g_assert_cmpint(get_interrupts(qts, 0), ==, 20);
    qtest_quit(qts);
    fake_free(srv);
}

/* A user who takes the device away may bring it back, with its registers. */
static void test_realized_again(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE ON);
    for (unsigned id = 101; id < 104; id++) {
        set_realized(qts, false);
        WAIT_UNTIL(is_hung_up(srv->conn));
        fake_come_back(srv, id);
        set_realized(qts, true);
        g_assert_cmphex(qtest_readl(qts, FEATURES), ==, 1);
        g_assert_cmphex(next(qts, 0), ==, NONE);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* A server that is back gives ids anew, and CHANGES counts each time. */
static void test_restart(void)
{
    FakeServer *srv = fake_new();
    uint32_t changes;
    QTestState *qts;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, NULL);
    qts = reconnecting_machine(srv, WIRED_MACHINE ON);
    changes = qtest_readl(qts, CHANGES);
    for (unsigned i = 100; i < 110; i++) {
        g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 1);
        fake_restart(srv);
        WAIT_UNTIL(has_changed(qts, &changes));
        g_assert_cmphex(next(qts, 0), ==, NONE);
        g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 0);

        /* before the greeting is complete, nobody is there */
        fake_script_id(srv, 0);
        fake_script_id(srv, i);
        fake_script_vector(srv, 3 * i);
        fake_serve(srv);
        WAIT_UNTIL(fake_is_read(srv));
        g_assert_cmphex(next(qts, 0), ==, NONE);
        g_assert_false(has_changed(qts, &changes));

        fake_send_fd(srv, -1, srv->shm);
        fake_send_vector(srv, i);
        WAIT_UNTIL(qtest_readl(qts, VECTORS) == 1);
        g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, i);
        g_assert_true(has_changed(qts, &changes));
        g_assert_cmpint(next(qts, 0), ==, 3 * i);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* Without reconnect-ms, peers stay known when the server dies. */
static void test_server_gone(void)
{
    FakeServer *srv = fake_new();
    uint32_t changes;
    QTestState *qts;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, NULL);
    qts = fake_machine_with(srv, WIRED_MACHINE ON " 2>%s", srv->errors);
    changes = qtest_readl(qts, CHANGES);
    fake_hang_up(srv);
    WAIT_UNTIL(!is_connected(qts));
    g_assert_cmpint(next(qts, 0), ==, PEER_ID);
    g_assert_false(has_changed(qts, &changes));
    qtest_quit(qts);
    fake_free(srv);
}

/* An interrupt for CHANGES */

static void test_changes_vector(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[2];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vector(srv, PEER_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = fake_machine_with(srv, WIRED_MACHINE ON ",vectors=2,"
                            "changes-vector=1");
    /* what was so at the start is no change */
    g_assert_false(pending(qts, INPUT + 1));
    fake_send_vector(srv, 7);
    wait_interrupt(qts, INPUT + 1);
    g_assert_cmpint(next(qts, 2), ==, 7);
    fake_send_gone(srv, PEER_ID);
    wait_interrupt(qts, INPUT + 1);
    g_assert_cmpint(next(qts, 0), ==, 7);

    /* peers ring it, too; what counts interrupts counts theirs */
    g_assert_cmpint(get_interrupts(qts, 1), ==, 0);
    interrupt(own[1]);
    wait_interrupt(qts, INPUT + 1);
    g_assert_cmpint(get_interrupts(qts, 1), ==, 1);
    g_assert_false(pending(qts, INPUT));

    /* and not without cause */
    qtest_writel(qts, SELECT, 1);
    qtest_system_reset(qts);
    g_assert_false(pending(qts, INPUT + 1));
    qtest_quit(qts);
    fake_free(srv);
}

/* Off, which is the default, nothing pulses. */
static void test_changes_vector_off(void)
{
    FakeServer *srv = fake_new();
    uint32_t changes;
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    changes = qtest_readl(qts, CHANGES);
    fake_send_vector(srv, PEER_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    fake_send_gone(srv, PEER_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_false(pending(qts, INPUT));
    qtest_quit(qts);
    fake_free(srv);
}

/* In revision 0 it is as an interrupt of a peer's. */
static void test_changes_vector_in_revision_0(void)
{
    FakeServer *srv = fake_new();
    uint32_t changes;
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON
                            ",changes-vector=0,revision=0");
    qtest_irq_intercept_in(qts, "/machine/armv7m");
    qtest_writel(qts, INTRMASK, 1);
    g_assert_false(qtest_get_irq(qts, INPUT));
    changes = qtest_readl(qts, CHANGES);
    fake_send_vector(srv, PEER_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_true(qtest_get_irq(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 1);
    g_assert_false(qtest_get_irq(qts, INPUT));
    qtest_quit(qts);
    fake_free(srv);
}

/* A server that is gone, and one that is back, interrupt as well. */
static void test_changes_vector_and_restart(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, NULL);
    qts = reconnecting_machine(srv, WIRED_MACHINE ON ",changes-vector=0");
    g_assert_false(pending(qts, INPUT));
    fake_restart(srv);
    wait_interrupt(qts, INPUT);
    g_assert_cmphex(next(qts, 0), ==, NONE);
    fake_script_greeting(srv, 77);
    fake_serve(srv);
    wait_interrupt(qts, INPUT);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, 77);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_bad_properties(void)
{
    static const struct {
        const char *properties;
        const char *expected;
    } cases[] = {
        { ON ",changes-vector=1",
          "changes-vector is 1, expected 0 to 0, or -1 for none" },
        { ON ",vectors=4,changes-vector=4",
          "changes-vector is 4, expected 0 to 3, or -1 for none" },
        { ON ",changes-vector=-2",
          "changes-vector is -2, expected 0 to 0, or -1 for none" },
        { ",changes-vector=0",
          "changes-vector is 0 and peer-registers is off, expected it to be "
          "on" },
    };
    Server *srv = server_new(1);

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_refused(cases[i].expected, CHARDEV_AND_DEVICE, srv->path,
                       cases[i].properties);
    }
    server_free(srv);
}

/* The boards with the device on board */

#define BOARD "mps2-an385-ivshmem"

static void test_board(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, NULL);
    qts = fake_machine_with(srv, "-machine " BOARD ",ivshmem-chardev=ivshmem,"
                            "ivshmem-peer-registers=on");
    g_assert_true(qtest_qom_get_bool(qts, "/machine",
                                     "ivshmem-peer-registers"));
    g_assert_cmphex(qtest_readl(qts, FEATURES), ==, 1);
    g_assert_cmpint(next(qts, 0), ==, PEER_ID);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_board_off(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, NULL);
    qts = fake_machine_with(srv, "-machine " BOARD ",ivshmem-chardev=ivshmem");
    g_assert_false(qtest_qom_get_bool(qts, "/machine",
                                      "ivshmem-peer-registers"));
    g_assert_cmphex(qtest_readl(qts, FEATURES), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_board_without_a_device(void)
{
    QTestState *qts;
    Output out;

    assert_refused("ivshmem-peer-registers is on and ivshmem-chardev is not "
                   "set, expected both",
                   "-machine " BOARD ",ivshmem-peer-registers=on");
    qts = qtest_init("-machine " BOARD ",ivshmem-peer-registers=off");
    g_assert_false(qtest_qom_get_bool(qts, "/machine",
                                      "ivshmem-peer-registers"));
    assert_qmp_error(qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': "
                               "{ 'path': '/machine', 'property': "
                               "'ivshmem-peer-registers', 'value': true } }"),
                     "has no ivshmem-flat");
    qtest_quit(qts);
    out = run_qemu(NULL, "-machine " BOARD ",help");
    g_assert_nonnull(strstr(out.text, "ivshmem-peer-registers=<bool>"));
    output_free(out);
}

/* Migration and snapshots */

/*
 * A machine with these arguments, SELECT set and then saved to the file, of
 * which the path is returned. Who frees the server unlinks that before.
 */
static char *save(Server *srv, const char *args)
{
    char *file = g_build_filename(srv->dir, "state", NULL);
    g_autofree char *uri = g_strconcat("exec:cat >", file, NULL);
    QTestState *qts = machine(srv->path, WIRED_MACHINE ",master=on%s", args);

    qtest_writel(qts, SELECT, 0x12345678);
    migrate_to(qts, uri);
    qtest_quit(qts);
    return file;
}

/* SELECT is what it was; peers and ids are others, which CHANGES tells. */
static void test_migration(void)
{
    Server *from = server_new(1);
    FakeServer *to = fake_new();
    g_autofree char *file = save(from, ON);
    QTestState *qts;

    fake_script_with_peer(to, 0, PEER_ID, NULL);
    qts = fake_machine_with(to, WIRED_MACHINE ON ",changes-vector=0,master=on "
                            "-incoming 'exec:cat %s'", file);
    WAIT_UNTIL(is_running(qts));
    g_assert_cmphex(qtest_readl(qts, SELECT), ==, 0x12345678);
    wait_interrupt(qts, INPUT);
    g_assert_cmpint(next(qts, 0), ==, PEER_ID);
    qtest_quit(qts);
    unlink(file);
    fake_free(to);
    server_free(from);
}

static Output load(Server *srv, const char *args, const char *file)
{
    return run_qemu("no such text", "-machine mps2-an385 "
                    "-chardev socket,id=ivshmem,path=%s "
                    "-device ivshmem-flat,id=ivs,chardev=ivshmem,"
                    "master=on%s -incoming 'exec:cat %s'", srv->path,
                    args, file);
}

/* A guest that has seen the registers must not lose them. */
static void test_migration_to_off(void)
{
    Server *from = server_new(1);
    Server *to = server_new(1);
    g_autofree char *file = save(from, ON);
    Output out = load(to, "", file);

    g_assert_true(WIFEXITED(out.status));
    g_assert_cmpint(WEXITSTATUS(out.status), ==, 1);
    g_assert_nonnull(strstr(out.text, "ivshmem-flat: the machine that was "
                                      "saved has peer registers, expected "
                                      "peer-registers=on"));
    output_free(out);
    unlink(file);
    server_free(from);
    server_free(to);
}

/* One that has not seen them may get them. */
static void test_migration_from_off(void)
{
    Server *from = server_new(1);
    Server *to = server_new(1);
    g_autofree char *file = save(from, "");
    QTestState *qts = machine(to->path, WIRED_MACHINE ",master=on" ON
                              " -incoming 'exec:cat %s'", file);

    WAIT_UNTIL(is_running(qts));
    g_assert_cmphex(qtest_readl(qts, FEATURES), ==, 1);
    g_assert_cmphex(qtest_readl(qts, SELECT), ==, 0);
    qtest_quit(qts);
    unlink(file);
    server_free(from);
    server_free(to);
}

/* Of a snapshot that is loaded, CHANGES is another one than was saved. */
static void test_snapshot(void)
{
    Server *srv = server_new(1);
    g_autofree char *image = g_build_filename(srv->dir, "image", NULL);
    g_autofree char *said = NULL;
    uint32_t changes;
    QTestState *qts;

    if (!have_qemu_img()) {
        g_test_skip("QTEST_QEMU_IMG does not say where qemu-img is");
        server_free(srv);
        return;
    }
    g_assert_true(mkimg(image, "qcow2", 16));
    qts = machine(srv->path, WIRED_MACHINE ON ",changes-vector=0,master=on "
                  "-drive if=none,format=qcow2,file=%s", image);
    qtest_writel(qts, SELECT, 7);
    changes = qtest_readl(qts, CHANGES);
    said = qtest_hmp(qts, "savevm one");
    g_assert_cmpstr(said, ==, "");
    qtest_writel(qts, SELECT, 8);
    g_assert_false(has_changed(qts, &changes));
    for (unsigned i = 0; i < 2; i++) {
        g_free(said);
        said = qtest_hmp(qts, "loadvm one");
        g_assert_cmpstr(said, ==, "");
        g_assert_cmpint(qtest_readl(qts, SELECT), ==, 7);
        g_assert_cmpint(qtest_readl(qts, CHANGES), ==, changes + 1);
        wait_interrupt(qts, INPUT);
    }
    qtest_quit(qts);
    unlink(image);
    server_free(srv);
}

/* Who is hostile */

/* A server that floods: a peer that comes and goes, 10,000 times. */
static void test_flood(void)
{
    FakeServer *srv = fake_new();
    int fd = fake_eventfd(srv);
    uint32_t changes;
    QTestState *qts;
    unsigned nfds;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ON ",changes-vector=0");
    changes = qtest_readl(qts, CHANGES);
    nfds = count_fds(qts);
    for (unsigned i = 0; i < 10000; i++) {
        fake_send_fd(srv, PEER_ID, fd);
        fake_send_gone(srv, PEER_ID);
        if (i % 100 == 0) { /* and the machine goes on */
            next(qts, i);
        }
    }
    WAIT_UNTIL(qtest_readl(qts, CHANGES) == changes + 20000);
    g_assert_cmphex(next(qts, 0), ==, NONE);
    wait_interrupt(qts, INPUT);
    g_assert_cmpint(count_fds(qts), ==, nfds);
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * As many peers as there can be, or as the host lets QEMU have: each is found.
 * The last line tells how many they were, and in what time. All have one
 * eventfd, of which QEMU gets a copy for each.
 */
static void test_many_peers(void)
{
    FakeServer *srv = fake_new();
    int fd = fake_eventfd(srv);
    struct rlimit limit, more;
    uint32_t id, changes;
    QTestState *qts;
    unsigned npeers, n = 0;
    gint64 begin;

    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    more = limit;
    more.rlim_cur = limit.rlim_max;
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &more), ==, 0);
    npeers = MIN(UINT16_MAX, more.rlim_cur - 100);

    fake_script_client(srv, 0);
    qts = fake_machine_with(srv, WIRED_MACHINE ON);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    changes = qtest_readl(qts, CHANGES);
    for (unsigned i = 0; i < npeers; i++) {
        fake_send_fd(srv, UINT16_MAX - i, fd);
    }
    WAIT_UNTIL(qtest_readl(qts, CHANGES) == changes + npeers);

    begin = g_get_monotonic_time();
    for (id = next(qts, 0); id != NONE; id = next(qts, id + 1)) {
        g_assert_cmpint(id, ==, UINT16_MAX - npeers + 1 + n);
        n++;
    }
    g_test_message("walk over %u of %u possible peers (hard limit of open "
                   "files: %" PRIu64 ") by qtest: %" PRId64 " ms", n,
                   UINT16_MAX, (uint64_t)more.rlim_cur,
                   (int64_t)(g_get_monotonic_time() - begin) / 1000);
    g_assert_cmpint(n, ==, npeers);
    qtest_quit(qts);
    fake_free(srv);
}

void add_peer_registers_tests(void)
{
    qtest_add_func("/ivshmem-flat/peer-registers/features", test_features);
    qtest_add_func("/ivshmem-flat/peer-registers/off", test_off);
    qtest_add_func("/ivshmem-flat/peer-registers/vectors", test_vectors);
    qtest_add_func("/ivshmem-flat/peer-registers/changes", test_changes);
    qtest_add_func("/ivshmem-flat/peer-registers/select", test_select);
    qtest_add_func("/ivshmem-flat/peer-registers/next", test_next);
    qtest_add_func("/ivshmem-flat/peer-registers/next-vectors",
                   test_next_vectors);
    qtest_add_func("/ivshmem-flat/peer-registers/shmem-size",
                   test_shmem_size);
    qtest_add_func("/ivshmem-flat/peer-registers/neighbours",
                   test_neighbours);
    qtest_add_func("/ivshmem-flat/peer-registers/guest-errors",
                   test_guest_errors);

    qtest_add_func("/ivshmem-flat/peer-registers/two-machines",
                   test_two_machines);
    qtest_add_func("/ivshmem-flat/peer-registers/first-instruction",
                   test_first_instruction);
    qtest_add_func("/ivshmem-flat/peer-registers/who-rings-is-there",
                   test_who_rings_is_there);
    qtest_add_func("/ivshmem-flat/peer-registers/realized-again",
                   test_realized_again);
    qtest_add_func("/ivshmem-flat/peer-registers/restart", test_restart);
    qtest_add_func("/ivshmem-flat/peer-registers/server-gone",
                   test_server_gone);

    qtest_add_func("/ivshmem-flat/peer-registers/changes-vector",
                   test_changes_vector);
    qtest_add_func("/ivshmem-flat/peer-registers/changes-vector-off",
                   test_changes_vector_off);
    qtest_add_func("/ivshmem-flat/peer-registers/changes-vector-revision-0",
                   test_changes_vector_in_revision_0);
    qtest_add_func("/ivshmem-flat/peer-registers/changes-vector-restart",
                   test_changes_vector_and_restart);
    qtest_add_func("/ivshmem-flat/peer-registers/bad-properties",
                   test_bad_properties);

    qtest_add_func("/ivshmem-flat/peer-registers/board", test_board);
    qtest_add_func("/ivshmem-flat/peer-registers/board-off", test_board_off);
    qtest_add_func("/ivshmem-flat/peer-registers/board-without-a-device",
                   test_board_without_a_device);

    qtest_add_func("/ivshmem-flat/peer-registers/migration", test_migration);
    qtest_add_func("/ivshmem-flat/peer-registers/migration-to-off",
                   test_migration_to_off);
    qtest_add_func("/ivshmem-flat/peer-registers/migration-from-off",
                   test_migration_from_off);
    qtest_add_func("/ivshmem-flat/peer-registers/snapshot", test_snapshot);

    qtest_add_func("/ivshmem-flat/peer-registers/flood", test_flood);
    qtest_add_func("/ivshmem-flat/peer-registers/many-peers",
                   test_many_peers);
}
