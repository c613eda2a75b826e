/*
 * QTest testcase for ivshmem-flat: properties, boards, several devices
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

/* An input that is not free is taken all the same, and QEMU says so. */
static void test_input_of_another_device(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[3];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = fake_machine_with(srv, WIRED_MACHINE ",vectors=3,"
                  "'sysbus-irq[1]=/machine/armv7m/nvic/unnamed-gpio-in[10]'"
                  " 2>%s", srv->errors);
    g_assert_cmpint(count_errors(srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(srv, "ivshmem-flat /machine/peripheral/ivs: "
                                "the interrupt input of vector 1, "
                                "/machine/armv7m/nvic/unnamed-gpio-in[10], is "
                                "driven by sysbus-irq[0] of /machine/"), ==, 1);
    interrupt(own[1]);
    wait_interrupt(qts, 10);
    qtest_quit(qts);
    fake_free(srv);
}

/* Properties */

/* The server is a good one, the properties are not. */
static void test_properties_refused(void)
{
    static const struct {
        const char *properties;
        const char *expected;
    } cases[] = {
        { ",shmem-size=8M",
          "server sent shared memory of 4194304 bytes, "
          "expected shmem-size 8388608" },
        { ",shmem-size=0", "shmem-size is 0" },
        { ",shmem-size=many", "Parameter 'shmem-size' expects" },
        { ",vectors=0", "vectors is 0, expected 1 to 64" },
        { ",vectors=65", "vectors is 65, expected 1 to 64" },
        { ",vectors=2,revision=0",
          "vectors is 2, expected 1 in revision 0" },
        { ",revision=2", "revision is 2, expected 0 or 1" },
        { ",vectors=2,"
          "'sysbus-irq[2]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
          "sysbus-irq[2] is wired, expected none beyond sysbus-irq[1] with "
          "vectors=2" },
        { ",'sysbus-irq[64]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
          "Property 'ivshmem-flat.sysbus-irq[64]' not found" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_properties_refused(cases[i].properties, cases[i].expected);
    }
}

/* A platform bus finds places, and inputs. */
static void test_property_on_a_platform_bus(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine virt -nic none "
                            "-device ivshmem-flat,chardev=ivshmem");
    g_assert_cmpint(qtest_readl(qts, find_registers(qts) +
                                (IVPOSITION - IOMEM)), ==, OWN_ID);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_property_chardev(void)
{
    g_autofree char *dir = g_dir_make_tmp("ivshmem-flat-test-XXXXXX", NULL);
    g_autofree char *listener = g_build_filename(dir, "listener", NULL);

    assert_refused("property 'chardev' is not set",
                   "-machine mps2-an385 -device ivshmem-flat");
    assert_refused("can't find value 'nope'",
                   "-machine mps2-an385 "
                   "-device ivshmem-flat,chardev=nope");
    assert_refused("chardev 'c' is a chardev-null, expected a UNIX socket",
                   "-machine mps2-an385 -chardev null,id=c "
                   "-device ivshmem-flat,chardev=c");
    assert_refused("chardev 'c' is a chardev-socket, expected a UNIX socket",
                   "-machine mps2-an385 "
                   "-chardev socket,id=c,host=localhost,port=0,server=on,"
                   "wait=off -device ivshmem-flat,chardev=c");
    assert_refused("chardev 'c' listens",
                   "-machine mps2-an385 "
                   "-chardev socket,id=c,path=%s,server=on,wait=off "
                   "-device ivshmem-flat,chardev=c", listener);
    unlink(listener);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

static void test_property_shmem_size(void)
{
    Server *srv = server_new(1);
    QTestState *qts;
    QDict *ret;

    qts = machine(srv->path, WIRED_MACHINE ",shmem-size=4M");
    g_assert_cmpint(get_number(qts, "shmem-size"), ==, SHMEM_SIZE);
    ret = qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': { 'path': "
                    "'/machine/peripheral/ivs', 'property': 'shmem-size', "
                    "'value': 4096 } }");
    g_assert_true(qdict_haskey(ret, "error"));
    qobject_unref(ret);
    qtest_quit(qts);
    server_free(srv);
}

static void test_help(void)
{
    static const char *const lines[] = {
        "chardev=<str>", "shmem-size=<size>", "vectors=<uint32>",
        "revision=<uint32>",
    };
    Output out = run_qemu(NULL, "-machine mps2-an385 "
                          "-device ivshmem-flat,help");

    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        const char *line = strstr(out.text, lines[i]);

        g_assert_nonnull(line);
        g_assert_cmpint(strcspn(line, "-"), <, strcspn(line, "\n"));
    }
    g_assert_cmpint(out.status, ==, 0);
    output_free(out);
}

static void test_property_iothread(void)
{
    FakeServer *srv = fake_new();

    assert_refused("Device 'io' not found",
                   "-chardev socket,id=ivshmem,path=%s -machine mps2-an385 "
                   "-device ivshmem-flat,chardev=ivshmem,iothread=io",
                   srv->path);
    fake_free(srv);
}

/* Several devices on one machine */

static void check_two_devices(Server *first, Server *second)
{
    QTestState *qts = machine_of_two(first->path, second->path, "");
    unsigned id, id2;

    id = qtest_readl(qts, IVPOSITION);
    id2 = qtest_readl(qts, IVPOSITION + IOMEM2_OFFSET);

    qtest_writel(qts, SHMEM, 0x11111111);
    qtest_writel(qts, SHMEM2 + 4, 0x22222222);
    g_assert_cmphex(qtest_readl(qts, SHMEM2), ==,
                    first == second ? 0x11111111 : 0);
    g_assert_cmphex(qtest_readl(qts, SHMEM + 4), ==,
                    first == second ? 0x22222222 : 0);

    qtest_writel(qts, DOORBELL, doorbell(id, 0));
    wait_interrupt(qts, INPUT);
    g_assert_false(pending(qts, INPUT2));
    qtest_writel(qts, DOORBELL + IOMEM2_OFFSET, doorbell(id2, 0));
    wait_interrupt(qts, INPUT2);
    g_assert_false(pending(qts, INPUT));
    if (first == second) {
        qtest_writel(qts, DOORBELL + IOMEM2_OFFSET, doorbell(id, 0));
        wait_interrupt(qts, INPUT);
    }
    qtest_quit(qts);
}

static void test_two_devices_on_one_server(void)
{
    Server *srv = server_new(1);

    check_two_devices(srv, srv);
    server_free(srv);
}

static void test_two_devices_on_two_servers(void)
{
    Server *first = server_new(1);
    Server *second = server_new(1);

    check_two_devices(first, second);
    server_free(first);
    server_free(second);
}

/* Each tells its device the same: id 2, and a peer 0 with two vectors. */
static void test_two_devices_alike(void)
{
    FakeServer *srv[2] = { fake_new(), fake_new() };
    int peer[2][2], own[2][2];
    QTestState *qts;

    for (unsigned d = 0; d < 2; d++) {
        fake_script_greeting(srv[d], 2);
        fake_script_vectors(srv[d], 0, peer[d], 2);
        fake_script_vectors(srv[d], 2, own[d], 2);
        fake_start(srv[d]);
    }
    qts = machine_of_two(srv[0]->path, srv[1]->path, "");
    for (unsigned d = 0; d < 2; d++) {
        fake_join(srv[d]);
    }
    for (unsigned d = 0; d < 2; d++) {
        uint64_t iomem = d * IOMEM2_OFFSET;

        g_assert_cmpint(qtest_readl(qts, IVPOSITION + iomem), ==, 2);
        for (unsigned v = 0; v < 2; v++) {
            qtest_writel(qts, DOORBELL + iomem, doorbell(0, v));
            WAIT_UNTIL(rung(peer[d][v])); /* the last message may be unread */
            g_assert_cmpint(rung(peer[d][!v]), ==, 0);
            g_assert_cmpint(rung(peer[!d][v]), ==, 0);
        }
        interrupt(own[d][0]);
        wait_interrupt(qts, d ? INPUT2 : INPUT);
        g_assert_false(pending(qts, d ? INPUT : INPUT2));
    }
    qtest_quit(qts);
    fake_free(srv[0]);
    fake_free(srv[1]);
}

/* Boards */

static const char *const boards[] = {
    "mps2-an385-ivshmem",
    "mps2-an386-ivshmem",
    "mps2-an500-ivshmem",
    "mps2-an511-ivshmem",
};

static void test_board(const void *board)
{
    Server *srv = server_new(1);
    QTestState *qts = machine(srv->path,
                              "-machine %s,ivshmem-chardev=ivshmem",
                              (const char *)board);
    QTestState *peer = wired_machine(srv->path);
    unsigned id = qtest_readl(qts, IVPOSITION);

    qtest_writel(qts, SHMEM, 0x12345678);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0x9abcdef0);
    g_assert_cmphex(qtest_readl(peer, SHMEM), ==, 0x12345678);
    g_assert_cmphex(qtest_readl(peer, SHMEM + SHMEM_SIZE - 4), ==, 0x9abcdef0);
    qtest_writel(peer, DOORBELL, doorbell(id, 0));
    wait_interrupt(qts, 25);
    qtest_quit(peer);
    qtest_quit(qts);
    server_free(srv);
}

/* Four vectors, each at an input of its own. */
static void test_board_vectors(const void *board)
{
    static const unsigned inputs[] = { 25, 26, 27, 28 };
    FakeServer *srv = fake_new();
    int own[ARRAY_SIZE(inputs)];
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = fake_machine_with(srv, "-machine %s,ivshmem-chardev=ivshmem",
                            (const char *)board);
    for (unsigned i = 0; i < ARRAY_SIZE(inputs); i++) {
        interrupt(own[i]);
        wait_interrupt(qts, inputs[i]);
        g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, 0);
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_board_iothread(const void *board)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-object iothread,id=io -machine %s,"
                            "ivshmem-chardev=ivshmem,ivshmem-iothread=io",
                            (const char *)board);
    assert_string(qts, "/machine", "ivshmem-chardev", "ivshmem");
    assert_string(qts, "/machine", "ivshmem-iothread", "/objects/io");
    interrupt(own);
    wait_interrupt(qts, 25);
    qtest_quit(qts);
    fake_free(srv);
}

/* Without ivshmem-chardev it is the plain board. */
static void test_board_bare(const void *board)
{
    static const char *const options[] = {
        "ivshmem-chardev", "ivshmem-iothread"
    };
    QTestState *qts = qtest_initf("-machine %s", (const char *)board);
    g_autofree char *qtree = qtest_hmp(qts, "info qtree");

    g_assert_nonnull(strstr(qtree, "cmsdk-apb-uart"));
    g_assert_null(strstr(qtree, "ivshmem"));
    assert_string(qts, "/machine", "ivshmem-chardev", "");
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        QDict *ret = qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': "
                               "{ 'path': '/machine', 'property': %s, "
                               "'value': 'late' } }", options[i]);

        qmp_expect_error_and_unref(ret, "GenericError");
    }
    qtest_quit(qts);
}

static void test_board_refuses(const void *board)
{
    FakeServer *srv = fake_new();

    assert_refused("ivshmem-iothread is '/objects/io' and ivshmem-chardev is "
                   "not set, expected both", "-object iothread,id=io "
                   "-machine %s,ivshmem-iothread=io", (const char *)board);
    assert_refused("can't find value 'nope'",
                   "-machine %s,ivshmem-chardev=nope", (const char *)board);

    fake_script_id(srv, 1);
    fake_start(srv);
    assert_refused("chardev 'c': server sent protocol version 1, expected 0",
                   "-chardev socket,id=c,path=%s "
                   "-machine %s,ivshmem-chardev=c", srv->path,
                   (const char *)board);
    fake_join(srv);
    fake_free(srv);
}

static void test_board_help(const void *board)
{
    Output out = run_qemu(NULL, "-machine %s,help", (const char *)board);

    g_assert_nonnull(strstr(out.text, "ivshmem-chardev=<string>"));
    g_assert_nonnull(strstr(out.text, "ivshmem-iothread=<string>"));
    g_assert_cmpint(out.status, ==, 0);
    output_free(out);
}

/* The monitor's view */

static void test_monitor_shows_the_device(void)
{
    Server *srv = server_new(1);
    QTestState *qts = wired_machine(srv->path);
    g_autofree char *qtree = qtest_hmp(qts, "info qtree");
    g_autofree char *mtree = qtest_hmp(qts, "info mtree -f");

    g_assert_nonnull(strstr(qtree, "dev: ivshmem-flat"));
    g_assert_nonnull(strstr(qtree, "gpio-out \"sysbus-irq\" 1"));
    g_assert_nonnull(strstr(mtree, "0000000050000000-00000000500000ff "
                                   "(prio 0, i/o): ivshmem-flat-registers"));
    g_assert_nonnull(strstr(mtree, "0000000070000000-00000000703fffff "
                                   "(prio 0, ram): ivshmem-flat:/machine"));
    qtest_quit(qts);
    server_free(srv);
}

void add_config_tests(void)
{
    qtest_add_func("/ivshmem-flat/interrupt/input-of-another-device",
                   test_input_of_another_device);
    qtest_add_func("/ivshmem-flat/properties/refused",
                   test_properties_refused);
    if (qtest_has_machine("virt")) {
        qtest_add_func("/ivshmem-flat/properties/on-a-platform-bus",
                       test_property_on_a_platform_bus);
    }
    qtest_add_func("/ivshmem-flat/properties/chardev",
                   test_property_chardev);
    qtest_add_func("/ivshmem-flat/properties/shmem-size",
                   test_property_shmem_size);
    qtest_add_func("/ivshmem-flat/properties/iothread",
                   test_property_iothread);
    qtest_add_func("/ivshmem-flat/properties/help", test_help);

    qtest_add_func("/ivshmem-flat/two-devices/on-one-server",
                   test_two_devices_on_one_server);
    qtest_add_func("/ivshmem-flat/two-devices/on-two-servers",
                   test_two_devices_on_two_servers);
    qtest_add_func("/ivshmem-flat/two-devices/alike", test_two_devices_alike);

    for (unsigned i = 0; i < ARRAY_SIZE(boards); i++) {
        static const struct {
            const char *name;
            void (*test)(const void *board);
        } tests[] = {
            { "works", test_board },
            { "vectors", test_board_vectors },
            { "iothread", test_board_iothread },
            { "starts-bare", test_board_bare },
            { "refuses", test_board_refuses },
            { "help", test_board_help },
        };

        for (unsigned j = 0; j < ARRAY_SIZE(tests); j++) {
            g_autofree char *path = g_strdup_printf(
                "/ivshmem-flat/%s/%s", boards[i], tests[j].name);

            qtest_add_data_func(path, boards[i], tests[j].test);
        }
    }

    qtest_add_func("/ivshmem-flat/monitor/shows-the-device",
                   test_monitor_shows_the_device);
}
