/*
 * QTest testcase for ivshmem-flat: migration and snapshots
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

static void assert_migration_refused(QTestState *qts, const char *reason)
{
    assert_qmp_error(qtest_qmp(qts, "{ 'execute': 'migrate', 'arguments': "
                               "{ 'uri': 'exec:cat >/dev/null' } }"), reason);
}

static void test_migration_without_master(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = machine(srv->path, WIRED_MACHINE ",master=auto");

    assert_migration_refused(a, "ivshmem-flat with master=off");
    assert_migration_refused(b, "ivshmem-flat with master=off");
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

static void test_migration_second_master(void)
{
    Server *srv = server_new(1);
    QTestState *qts = machine(srv->path, WIRED_MACHINE ",master=on");

    assert_refused("master=on with own id 1, expected 0", CHARDEV_AND_DEVICE,
                   srv->path, ",master=on");
    qtest_quit(qts);
    server_free(srv);
}

/* That would hand memory over that the next QEMU gets from its server. */
static void test_migration_by_cpr(void)
{
    Server *srv = server_new(1);
    QTestState *qts = machine(srv->path, WIRED_MACHINE ",master=on");

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters', "
                             "'arguments': { 'mode': 'cpr-transfer' } }");
    assert_qmp_error(
        qtest_qmp(qts, "{ 'execute': 'migrate', 'arguments': { 'channels': ["
                  "{ 'channel-type': 'main', 'addr': { 'transport': 'socket', "
                  "'type': 'unix', 'path': '/nonexistent' } }, "
                  "{ 'channel-type': 'cpr', 'addr': { 'transport': 'socket', "
                  "'type': 'unix', 'path': '/nonexistent' } } ] } }"),
        "ivshmem-flat with master=on");
    qtest_quit(qts);
    server_free(srv);
}

/* Through a file, from one server to another. */
static void check_migration(const char *args)
{
    Server *from = server_new(1);
    Server *to = server_new(1);
    g_autofree char *file = g_build_filename(from->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    g_autofree char *load = g_strconcat(args, " -incoming 'exec:cat ", file,
                                        "'", NULL);
    QTestState *src = machine(from->path, WIRED_MACHINE "%s", args);
    QTestState *dst, *peer;
    uint8_t out[4096], in[4096];

    fill(out, sizeof(out), 42);
    qtest_memwrite(src, SHMEM, out, sizeof(out));
    qtest_memwrite(src, SHMEM + SHMEM_SIZE - 4096, out, sizeof(out));
    qtest_writel(src, INTRMASK, 0x11111111);
    qtest_writel(src, INTRSTATUS, 0x22222222);
    migrate_to(src, save);
    qtest_quit(src);

    dst = machine(to->path, WIRED_MACHINE "%s", load);
    WAIT_UNTIL(is_running(dst));
    qtest_memread(dst, SHMEM, in, sizeof(in));
    g_assert_cmpmem(in, sizeof(in), out, sizeof(out));
    qtest_memread(dst, SHMEM + SHMEM_SIZE - 4096, in, sizeof(in));
    g_assert_cmpmem(in, sizeof(in), out, sizeof(out));
    g_assert_cmphex(qtest_readl(dst, INTRMASK), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(dst, INTRSTATUS), ==, 0x22222222);

    /* It has its own connection, and whoever comes sees it. */
    peer = wired_machine(to->path);
    qtest_writel(peer, DOORBELL,
                 doorbell(qtest_readl(dst, IVPOSITION), 0));
    wait_interrupt(dst, INPUT);
    qtest_quit(peer);
    qtest_quit(dst);
    unlink(file);
    server_free(from);
    server_free(to);
}

static void test_migration(void)
{
    check_migration(",master=on");
    check_migration(",master=auto");
}

/* While both run: the peers of the one see it go, the other's see it come. */
static void test_migration_between_machines(void)
{
    Server *from = server_new(1);
    Server *to = server_new(1);
    g_autofree char *path = g_build_filename(from->dir, "migration", NULL);
    g_autofree char *uri = g_strconcat("unix:", path, NULL);
    g_autofree char *incoming = g_strconcat(",master=on -incoming ", uri, NULL);
    QTestState *src = machine(from->path, WIRED_MACHINE ",master=on");
    QTestState *old_peer = wired_machine(from->path);
    QTestState *dst = machine(to->path, WIRED_MACHINE "%s", incoming);
    QTestState *new_peer = wired_machine(to->path);

    WAIT_UNTIL(count_peers(old_peer) == 1);
    WAIT_UNTIL(count_peers(new_peer) == 1);
    qtest_writel(old_peer, SHMEM, 0x11111111);
    qtest_writel(src, SHMEM + SHMEM_SIZE - 4, 0x22222222);
    migrate_to(src, uri);
    WAIT_UNTIL(is_running(dst));
    qtest_quit(src);
    WAIT_UNTIL(count_peers(old_peer) == 0);

    g_assert_cmphex(qtest_readl(dst, SHMEM), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(new_peer, SHMEM + SHMEM_SIZE - 4), ==,
                    0x22222222);
    qtest_writel(old_peer, SHMEM, 0x33333333);
    g_assert_cmphex(qtest_readl(dst, SHMEM), ==, 0x11111111);
    qtest_writel(dst, DOORBELL,
                 doorbell(qtest_readl(new_peer, IVPOSITION), 0));
    wait_interrupt(new_peer, INPUT);
    qtest_writel(new_peer, DOORBELL, doorbell(0, 0));
    wait_interrupt(dst, INPUT);
    qtest_quit(dst);
    qtest_quit(old_peer);
    qtest_quit(new_peer);
    unlink(path);
    server_free(from);
    server_free(to);
}

/* While both servers are away, and after the first has come back once. */
static void test_migration_without_servers(void)
{
    Server *servers[] = { server_new(1), server_new(1) };
    static const char *const args[] = { ",master=on",
                                        ",master=on -incoming defer" };
    g_autofree char *file = g_build_filename(servers[0]->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    g_autofree char *load = g_strconcat("exec:cat ", file, NULL);
    QTestState *qts[2];

    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = g_strconcat(servers[i]->path,
                                            ",reconnect-ms=10", NULL);

        qts[i] = machine(path, WIRED_MACHINE "%s", args[i]);
        server_kill(servers[i], SIGKILL);
        WAIT_UNTIL(!is_connected(qts[i]));
        if (i == 0) { /* other memory takes part just the same */
            server_restart(servers[i], 1);
            WAIT_UNTIL(is_connected(qts[i]));
            server_kill(servers[i], SIGKILL);
            WAIT_UNTIL(!is_connected(qts[i]));
            qtest_writel(qts[i], SHMEM + 4, 0x12345678);
            migrate_to(qts[i], save);
        }
    }
    qtest_qmp_assert_success(qts[1], "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", load);
    WAIT_UNTIL(is_running(qts[1]));
    g_assert_cmphex(qtest_readl(qts[1], SHMEM + 4), ==, 0x12345678);
    server_restart(servers[1], 1);
    WAIT_UNTIL(is_connected(qts[1]));
    unlink(file);
    for (unsigned i = 0; i < 2; i++) {
        qtest_quit(qts[i]);
        server_free(servers[i]);
    }
}

/* Memory that is under way is not replaced: that waits for the end. */
static void test_migration_while_the_server_restarts(void)
{
    FakeServer *srv = fake_new();
    FakeServer *nobody = fake_new(); /* never reads, and so never ends it */
    g_autofree char *uri = g_strconcat("unix:", nobody->path, NULL);
    QTestState *qts;

    fake_script_client(srv, 0);
    qts = reconnecting_machine(srv, WIRED_MACHINE ",master=on");
    qtest_memset(qts, SHMEM, 0x55, SHMEM_SIZE); /* more than a socket takes */
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': %s } }", uri);
    WAIT_UNTIL(migration_is(qts, "active"));

    srv->shm = fake_memory(srv, SHMEM_SIZE);
    for (unsigned i = 0; i < 3; i++) {
        fake_come_back(srv, 1);
    }
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x55555555);
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate_cancel' }");
    WAIT_UNTIL(migration_is(qts, "cancelled"));
    fake_come_back(srv, 2);
    WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == 2);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0);
    g_assert_cmpint(count_errors(srv, "during a migration"), ==, 1);
    qtest_quit(qts);
    fake_free(nobody);
    fake_free(srv);
}

/* Nor is memory that is awaited. */
static void test_migration_while_the_other_server_restarts(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 0);
    qts = reconnecting_machine(srv, WIRED_MACHINE
                               ",master=on -incoming defer");
    fake_restart(srv);
    srv->shm = fake_memory(srv, SHMEM_SIZE);
    fake_script_greeting(srv, 0);
    fake_serve(srv);
    WAIT_UNTIL(count_errors(srv, "during a migration"));
    g_assert_false(is_connected(qts));
    qtest_quit(qts);
    fake_free(srv);
}

/* The source is as it was, and memory may be replaced again. */
static void test_migration_that_fails(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 0);
    qts = reconnecting_machine(srv, WIRED_MACHINE ",master=on");
    qtest_memset(qts, SHMEM, 0x55, SHMEM_SIZE); /* more than a pipe takes */
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': 'exec:exit 1' } }");
    WAIT_UNTIL(migration_is(qts, "failed"));
    WAIT_UNTIL(is_running(qts));
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x55555555);
    g_assert_true(is_connected(qts));

    srv->shm = fake_memory(srv, SHMEM_SIZE);
    fake_come_back(srv, 1);
    WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == 1);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0);
    g_assert_cmpint(count_errors(srv, "during a migration"), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

/* For snapshots; without qemu-img, the test is skipped. */
static bool make_image(const char *path)
{
    if (!have_qemu_img()) {
        g_test_skip("QTEST_QEMU_IMG does not say where qemu-img is");
        return false;
    }
    g_assert_true(mkimg(path, "qcow2", 16));
    return true;
}

/* A monitor command that has nothing to say if all went well. */
static void assert_silent(QTestState *qts, const char *command)
{
    g_autofree char *said = qtest_hmp(qts, "%s", command);

    g_assert_cmpstr(said, ==, "");
}

static void test_snapshot(void)
{
    Server *srv = server_new(1);
    g_autofree char *image = g_build_filename(srv->dir, "image", NULL);
    g_autofree char *args = g_strdup_printf(",master=on -drive if=none,"
                                            "format=qcow2,file=%s", image);
    QTestState *qts;

    if (!make_image(image)) {
        server_free(srv);
        return;
    }
    qts = machine(srv->path, WIRED_MACHINE "%s", args);
    qtest_writel(qts, SHMEM, 0x11111111);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0x22222222);
    qtest_writel(qts, INTRMASK, 0x33333333);
    assert_silent(qts, "savevm one");

    qtest_writel(qts, SHMEM, 0);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0);
    qtest_writel(qts, INTRMASK, 0);
    assert_silent(qts, "loadvm one");
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(qts, SHMEM + SHMEM_SIZE - 4), ==, 0x22222222);
    g_assert_cmphex(qtest_readl(qts, INTRMASK), ==, 0x33333333);
    qtest_quit(qts);
    unlink(image);
    server_free(srv);
}

/* A snapshot with the memory's content does not go to where it must not. */
static void test_snapshot_without_master(void)
{
    Server *srv = server_new(1);
    g_autofree char *image = g_build_filename(srv->dir, "image", NULL);
    g_autofree char *drive = g_strdup_printf(" -drive if=none,format=qcow2,"
                                             "file=%s", image);
    g_autofree char *on = g_strconcat(",master=on", drive, NULL);
    g_autofree char *refused = NULL, *loaded = NULL;
    QTestState *qts;

    if (!make_image(image)) {
        server_free(srv);
        return;
    }
    qts = machine(srv->path, WIRED_MACHINE "%s", on);
    qtest_writel(qts, SHMEM, 0x11111111);
    assert_silent(qts, "savevm one");
    qtest_quit(qts);

    qts = machine(srv->path, WIRED_MACHINE "%s", drive);
    qtest_writel(qts, SHMEM, 0x22222222);
    refused = qtest_hmp(qts, "savevm two");
    g_assert_nonnull(strstr(refused, "ivshmem-flat with master=off"));
    loaded = qtest_hmp(qts, "loadvm one");
    g_assert_nonnull(strstr(loaded, "ivshmem-flat:/machine/peripheral/ivs"));
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x22222222);
    qtest_quit(qts);
    unlink(image);
    server_free(srv);
}

#define BOTH_MASTERS "-global ivshmem-flat.master=on "

static void test_snapshot_of_two_devices(void)
{
    Server *first = server_new(1);
    Server *second = server_new(1);
    g_autofree char *image = g_build_filename(first->dir, "image", NULL);
    g_autofree char *args = g_strdup_printf(BOTH_MASTERS "-drive if=none,"
                                            "format=qcow2,file=%s", image);
    QTestState *qts;

    if (make_image(image)) {
        qts = machine_of_two(first->path, second->path, args);
        qtest_writel(qts, SHMEM, 0x11111111);
        qtest_writel(qts, SHMEM2, 0x22222222);
        assert_silent(qts, "savevm one");
        qtest_writel(qts, SHMEM, 0);
        qtest_writel(qts, SHMEM2, 0);
        assert_silent(qts, "loadvm one");
        g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x11111111);
        g_assert_cmphex(qtest_readl(qts, SHMEM2), ==, 0x22222222);
        qtest_quit(qts);
        unlink(image);
    }
    server_free(first);
    server_free(second);
}

/* Two devices, each with a server of its own: their names do not clash. */
static void test_migration_of_two_devices(void)
{
    Server *from[] = { server_new(1), server_new(1) };
    Server *to[] = { server_new(1), server_new(1) };
    g_autofree char *file = g_build_filename(from[0]->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    Server **servers[] = { from, to };
    QTestState *qts[2];

    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *args = g_strdup_printf(
            i ? BOTH_MASTERS "-incoming 'exec:cat %s'" : BOTH_MASTERS, file);

        qts[i] = machine_of_two(servers[i][0]->path, servers[i][1]->path,
                                args);
        if (i == 0) {
            qtest_writel(qts[0], SHMEM, 0x11111111);
            qtest_writel(qts[0], SHMEM2, 0x22222222);
            migrate_to(qts[0], save);
        }
    }
    WAIT_UNTIL(is_running(qts[1]));
    g_assert_cmphex(qtest_readl(qts[1], SHMEM), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(qts[1], SHMEM2), ==, 0x22222222);
    qtest_quit(qts[0]);
    qtest_quit(qts[1]);
    unlink(file);
    for (unsigned i = 0; i < 2; i++) {
        server_free(from[i]);
        server_free(to[i]);
    }
}

/* On one server the copy would overwrite memory that lives. */
static void test_migration_on_one_server(void)
{
    Server *srv = server_new(1);
    QTestState *src = machine(srv->path, WIRED_MACHINE ",master=on");
    g_autofree char *file = g_build_filename(srv->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    static const char *const masters[] = { "auto", "off", "on" };

    qtest_writel(src, SHMEM, 0x11111111);
    migrate_to(src, save);
    qtest_qmp_assert_success(src, "{ 'execute': 'cont' }");
    qtest_writel(src, SHMEM, 0x22222222);
    for (unsigned i = 0; i < ARRAY_SIZE(masters); i++) {
        g_autofree char *args = g_strdup_printf(",id=ivs,master=%s "
                                                "-incoming 'exec:cat %s'",
                                                masters[i], file);

        assert_refused("would overwrite the memory that", CHARDEV_AND_DEVICE,
                       srv->path, args);
        g_assert_cmphex(qtest_readl(src, SHMEM), ==, 0x22222222);
    }
    qtest_quit(src);
    unlink(file);
    server_free(srv);
}

static void test_replay_is_refused(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *log = g_build_filename(srv->dir, "log", NULL);

    fake_start(srv);
    assert_refused("ivshmem-flat cannot be recorded or replayed",
                   "-machine mps2-an385 -accel tcg "
                   "-icount shift=7,rr=record,rrfile=%s "
                   "-chardev socket,id=ivshmem,path=%s "
                   "-device ivshmem-flat,chardev=ivshmem", log, srv->path);
    fake_join(srv);
    unlink(log);
    fake_free(srv);
}

void add_migration_tests(void)
{
    qtest_add_func("/ivshmem-flat/migration/without-master",
                   test_migration_without_master);
    qtest_add_func("/ivshmem-flat/migration/second-master",
                   test_migration_second_master);
    qtest_add_func("/ivshmem-flat/migration/by-cpr", test_migration_by_cpr);
    qtest_add_func("/ivshmem-flat/migration/to-another-server",
                   test_migration);
    qtest_add_func("/ivshmem-flat/migration/between-machines",
                   test_migration_between_machines);
    qtest_add_func("/ivshmem-flat/migration/without-servers",
                   test_migration_without_servers);
    qtest_add_func("/ivshmem-flat/migration/while-the-server-restarts",
                   test_migration_while_the_server_restarts);
    qtest_add_func("/ivshmem-flat/migration/that-fails",
                   test_migration_that_fails);
    qtest_add_func("/ivshmem-flat/migration/other-server-restarts",
                   test_migration_while_the_other_server_restarts);
    qtest_add_func("/ivshmem-flat/migration/snapshot", test_snapshot);
    qtest_add_func("/ivshmem-flat/migration/snapshot-without-master",
                   test_snapshot_without_master);
    qtest_add_func("/ivshmem-flat/migration/snapshot-of-two-devices",
                   test_snapshot_of_two_devices);
    qtest_add_func("/ivshmem-flat/migration/two-devices",
                   test_migration_of_two_devices);
    qtest_add_func("/ivshmem-flat/migration/on-one-server",
                   test_migration_on_one_server);
    qtest_add_func("/ivshmem-flat/migration/replay-is-refused",
                   test_replay_is_refused);
}
