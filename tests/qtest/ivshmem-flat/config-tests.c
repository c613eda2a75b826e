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
    qts = fake_machine_with(srv, MACHINE ",vectors=3,"
                  "'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[16]',"
                  "'sysbus-irq[1]=/machine/armv7m/nvic/unnamed-gpio-in[10]',"
                  "'sysbus-irq[2]=/machine/armv7m/nvic/unnamed-gpio-in[17]'"
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
        { ",x-bus-address-iomem=0x50000002,x-bus-address-shmem=0x70000000",
          "x-bus-address-iomem: 0x50000002 is not aligned" },
        { ",x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x70000800",
          "x-bus-address-shmem: 0x70000800 is not aligned" },
        { ",x-bus-address-iomem=0x40004000,x-bus-address-shmem=0x70000000",
          "registers: 0x40004000-0x400040ff is not free, 'uart'" },
        { ",x-bus-address-iomem=0x20000000,x-bus-address-shmem=0x70000000",
          "is not free, 'mps.ssram23'" },
        { ",x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x3ff00000",
          "shared memory: 0x3ff00000-0x402fffff is not free, "
          "'cmsdk-apb-timer'" },
        /* the CPU has something in front of it */
        { ",x-bus-address-iomem=0x42000000,x-bus-address-shmem=0x70000000",
          "is not free, 'bitband' of /machine/armv7m/bitband[1]" },
        { ",x-bus-address-iomem=0xe000e100,x-bus-address-shmem=0x70000000",
          "is not free, 'nvic_sysregs'" },
        { ",x-bus-address-iomem=0x70001000,x-bus-address-shmem=0x70000000",
          "registers: 0x70001000 is inside the shared memory" },
        { ",x-bus-address-iomem=0x50000000"
          ",x-bus-address-shmem=0xffffffffffff0000",
          "shared memory: 0xffffffffffff0000 leaves no room for "
          "0x400000 bytes" },
        { ",x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x700000000",
          "shared memory: 0x700000000-0x7003fffff is not what the "
          "machine's CPUs address, expected no more than 0xffffffff" },
        { ",x-bus-address-iomem=0x50000000,x-bus-address-shmem=0xffe00000",
          "shared memory: 0xffe00000-0x1001fffff is not what the" },
        { ",x-bus-address-iomem=0x100000000,x-bus-address-shmem=0x70000000",
          "registers: 0x100000000-0x1000000ff is not what the" },
        { "," AT ",shmem-size=8M",
          "server sent shared memory of 4194304 bytes, "
          "expected shmem-size 8388608" },
        { "," AT ",shmem-size=0", "shmem-size is 0" },
        { "," AT ",shmem-size=many", "Parameter 'shmem-size' expects" },
        { "," AT ",x-irq-qompath=/machine/nothing",
          "x-irq-qompath: '/machine/nothing' does not exist" },
        { "," AT ",x-irq-qompath=", "x-irq-qompath: '' " },
        { "," AT ",x-irq-qompath=/machine/armv7m/nvic",
          "x-irq-qompath: '/machine/armv7m/nvic' is of type armv7m_nvic" },
        { "," AT ",'x-irq-qompath=unnamed-gpio-in[3]'",
          "x-irq-qompath: 'unnamed-gpio-in[3]' is ambiguous" },
        { "," AT ",vectors=0", "vectors is 0, expected 1 to 64" },
        { "," AT ",vectors=65", "vectors is 65, expected 1 to 64" },
        { "," AT ",vectors=2,revision=0",
          "vectors is 2, expected 1 in revision 0" },
        { "," AT ",revision=2", "revision is 2, expected 0 or 1" },
        { "," AT ",vectors=2,"
          "'sysbus-irq[2]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
          "sysbus-irq[2] is wired, expected none beyond sysbus-irq[1] with "
          "vectors=2" },
        { "," AT ",'sysbus-irq[64]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
          "Property 'ivshmem-flat.sysbus-irq[64]' not found" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();

        fake_script_client(srv, 0);
        fake_start(srv);
        assert_refused(cases[i].expected, CHARDEV_AND_DEVICE, srv->path,
                       cases[i].properties);
        fake_join(srv);
        fake_free(srv);
    }
}

/* Of these, the one has no MPU, the other is no Cortex-M. */
static void test_property_beyond_32_bits(void)
{
    static const char *const machines[] = { "microbit", "mps3-an536" };

    for (unsigned i = 0; i < ARRAY_SIZE(machines); i++) {
        FakeServer *srv;

        if (!qtest_has_machine(machines[i])) {
            continue;
        }
        srv = fake_new();
        fake_script_client(srv, 0);
        fake_start(srv);
        assert_refused("shared memory: 0x700000000-0x7003fffff is not "
                       "what the machine's CPUs address", "-machine %s "
                       "-chardev socket,id=ivshmem,path=%s "
                       "-device ivshmem-flat,chardev=ivshmem,"
                       "x-bus-address-iomem=0xe7000000,"
                       "x-bus-address-shmem=0x700000000",
                       machines[i], srv->path);
        fake_join(srv);
        fake_free(srv);
    }
}

/* A CPU with an MMU of 40 bits reaches what is there. */
static void test_property_beyond_32_bits_with_lpae(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine virt -nic none "
                  "-device ivshmem-flat,chardev=ivshmem,"
                  "x-bus-address-iomem=0x0f100000,"
                  "x-bus-address-shmem=0x700000000");
    qtest_writel(qts, 0x700000000, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, 0x700000000), ==, 0x12345678);
    qtest_quit(qts);
    fake_free(srv);
}

/* Where the guest sees the registers of the one device */
static uint64_t find_registers(QTestState *qts)
{
    g_autofree char *mtree = qtest_hmp(qts, "info mtree -f");
    char *at = strstr(mtree, "ivshmem-flat-registers");

    g_assert_nonnull(at);
    while (at > mtree && at[-1] != '\n') {
        at--;
    }
    return g_ascii_strtoull(g_strchug(at), NULL, 16);
}

/*
 * A platform bus finds places, and inputs, for what has none: for all of a
 * device, for its registers, or for its shared memory.
 */
static void test_property_on_a_platform_bus(void)
{
    static const struct {
        const char *properties;
        uint64_t iomem, shmem;          /* 0: the bus's choice */
    } cases[] = {
        { "", 0, 0 },
        { ",x-bus-address-shmem=0x700000000", 0, 0x700000000 },
        /* right before the bus, and right behind it */
        { ",x-bus-address-shmem=0xbc00000", 0, 0xbc00000 },
        { ",x-bus-address-iomem=0xe000000", 0xe000000, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();
        QTestState *qts;
        uint64_t iomem;

        fake_script_client(srv, OWN_ID);
        qts = fake_machine_with(srv, "-machine virt -nic none "
                                "-device ivshmem-flat,chardev=ivshmem%s",
                                cases[i].properties);
        iomem = find_registers(qts);
        if (cases[i].iomem) {
            g_assert_cmphex(iomem, ==, cases[i].iomem);
        } else {
            g_assert_cmphex(iomem, >=, 0xc000000);
            g_assert_cmphex(iomem, <, 0xe000000);
        }
        g_assert_cmpint(qtest_readl(qts, iomem + (IVPOSITION - IOMEM)), ==,
                        OWN_ID);
        if (cases[i].shmem) {
            qtest_writel(qts, cases[i].shmem, 0x12345678);
            g_assert_cmphex(qtest_readl(qts, cases[i].shmem), ==, 0x12345678);
        }
        qtest_quit(qts);
        fake_free(srv);
    }
}

/* A platform bus would place its devices over what is in its range. */
static void test_property_inside_a_platform_bus(void)
{
    static const char *const cases[][2] = {
        { "x-bus-address-shmem=0xdc00000",
          "shared memory: 0xdc00000-0xdffffff is not free, 'platform "
          "bus' of /machine/" },
        { "x-bus-address-iomem=0xc000000",
          "registers: 0xc000000-0xc0000ff is not free, 'platform "
          "bus' of /machine/" },
        { "x-bus-address-shmem=0xbe00000,x-bus-address-iomem=0xf100000",
          "shared memory: 0xbe00000-0xc1fffff is not free, 'platform "
          "bus' of /machine/" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();

        fake_script_client(srv, OWN_ID);
        fake_start(srv);
        assert_refused(cases[i][1], "-machine virt -nic none "
                       "-chardev socket,id=ivshmem,path=%s "
                       "-device ivshmem-flat,chardev=ivshmem,%s", srv->path,
                       cases[i][0]);
        fake_join(srv);
        fake_free(srv);
    }
}

/* A placeholder for what QEMU does not model is as good as nothing. */
static void test_property_on_an_unimplemented_device(void)
{
    Server *srv = server_new(1);
    QTestState *qts;

    qts = machine(srv->path, "-machine mps2-an385 -device ivshmem-flat,"
                  "chardev=ivshmem,x-bus-address-iomem=0x40040000,"
                  "x-bus-address-shmem=0x70000000");
    qtest_writel(qts, 0x40040000, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, 0x40040000), ==, 0x12345678);
    qtest_quit(qts);
    server_free(srv);
}

static void test_property_chardev(void)
{
    g_autofree char *dir = g_dir_make_tmp("ivshmem-flat-test-XXXXXX", NULL);
    g_autofree char *listener = g_build_filename(dir, "listener", NULL);

    assert_refused("property 'chardev' is not set",
                   "-machine mps2-an385 -device ivshmem-flat," AT);
    assert_refused("can't find value 'nope'",
                   "-machine mps2-an385 "
                   "-device ivshmem-flat,chardev=nope," AT);
    assert_refused("chardev 'c' is a chardev-null, expected a UNIX socket",
                   "-machine mps2-an385 -chardev null,id=c "
                   "-device ivshmem-flat,chardev=c," AT);
    assert_refused("chardev 'c' is a chardev-socket, expected a UNIX socket",
                   "-machine mps2-an385 "
                   "-chardev socket,id=c,host=localhost,port=0,server=on,"
                   "wait=off -device ivshmem-flat,chardev=c," AT);
    assert_refused("chardev 'c' listens",
                   "-machine mps2-an385 "
                   "-chardev socket,id=c,path=%s,server=on,wait=off "
                   "-device ivshmem-flat,chardev=c," AT, listener);
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

/* The two ways to name an input are one. */
static void test_property_irq_qompath(void)
{
    static const char *const wires[] = {
        "'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
        "'sysbus-irq[0]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
    };
    Server *srv = server_new(1);

    for (unsigned i = 0; i < ARRAY_SIZE(wires); i++) {
        QTestState *qts = machine(srv->path, MACHINE ",%s", wires[i]);

        assert_string(qts, DEVICE, "x-irq-qompath",
                      "/machine/armv7m/nvic/unnamed-gpio-in[25]");
        qtest_writel(qts, DOORBELL,
                     doorbell(qtest_readl(qts, IVPOSITION), 0));
        wait_interrupt(qts, 25);
        g_assert_false(pending(qts, INPUT));
        qtest_quit(qts);
    }
    server_free(srv);
}

static void test_help(void)
{
    static const char *const lines[] = {
        "chardev=<str>", "x-irq-qompath=<string>",
        "x-bus-address-iomem=<uint64>", "x-bus-address-shmem=<uint64>",
        "shmem-size=<size>", "vectors=<uint32>", "revision=<uint32>",
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
                   "-device ivshmem-flat,chardev=ivshmem,iothread=io," AT,
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
    wait_interrupt(qts, 16);
    g_assert_false(pending(qts, 17));
    qtest_writel(qts, DOORBELL + IOMEM2_OFFSET, doorbell(id2, 0));
    wait_interrupt(qts, 17);
    g_assert_false(pending(qts, 16));
    if (first == second) {
        qtest_writel(qts, DOORBELL + IOMEM2_OFFSET, doorbell(id, 0));
        wait_interrupt(qts, 16);
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
        wait_interrupt(qts, INPUT + d);
        g_assert_false(pending(qts, INPUT + !d));
    }
    qtest_quit(qts);
    fake_free(srv[0]);
    fake_free(srv[1]);
}

/* One of their servers is killed: that device keeps its memory, as do all. */
static void test_four_devices_on_four_servers(void)
{
    g_autoptr(GString) args = g_string_new("-machine mps2-an385");
    Server *srv[4];
    QTestState *qts;

    for (unsigned d = 0; d < 4; d++) {
        srv[d] = server_new(1);
        g_string_append_printf(args, " -chardev socket,id=s%u,path=%s "
                               "-device 'ivshmem-flat,id=ivs%u,chardev=s%u,"
                               "x-bus-address-iomem=0x%x,"
                               "x-bus-address-shmem=0x%" PRIx64 ","
                               "x-irq-qompath="
                               "/machine/armv7m/nvic/unnamed-gpio-in[%u]'",
                               d, srv[d]->path, d, d, IOMEM + d * IOMEM2_OFFSET,
                               (uint64_t)SHMEM + d * SHMEM_SIZE, 25 + d);
    }
    qts = qtest_init(args->str);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned d = 0; d < 4; d++) {
            uint64_t iomem = d * IOMEM2_OFFSET;
            unsigned id = qtest_readl(qts, IVPOSITION + iomem);

            qtest_writel(qts, SHMEM + d * SHMEM_SIZE, 10 * round + d);
            qtest_writel(qts, DOORBELL + iomem, doorbell(id, 0));
            wait_interrupt(qts, 25 + d);
        }
        for (unsigned d = 0; d < 4; d++) {
            g_assert_cmpint(qtest_readl(qts, SHMEM + d * SHMEM_SIZE), ==,
                            10 * round + d);
        }
        if (round == 0) {
            server_kill(srv[2], SIGKILL);
            WAIT_UNTIL(!qtest_qom_get_bool(qts, "/machine/peripheral/ivs2",
                                           "connected"));
            g_assert_true(qtest_qom_get_bool(qts, "/machine/peripheral/ivs1",
                                             "connected"));
        }
    }
    qtest_quit(qts);
    for (unsigned d = 0; d < 4; d++) {
        server_free(srv[d]);
    }
}

static void test_two_devices_in_one_place(void)
{
    Server *srv = server_new(1);

    assert_refused("is not free, 'ivshmem-flat-registers' of "
                   "/machine/peripheral/first",
                   "-machine mps2-an385 "
                   "-chardev socket,id=a,path=%s "
                   "-chardev socket,id=b,path=%s "
                   "-device ivshmem-flat,id=first,chardev=a," AT "," WIRED
                   " -device ivshmem-flat,chardev=b," AT "," WIRED,
                   srv->path, srv->path);
    server_free(srv);
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
        qtest_add_func("/ivshmem-flat/properties/inside-a-platform-bus",
                       test_property_inside_a_platform_bus);
        qtest_add_func("/ivshmem-flat/properties/beyond-32-bits-with-lpae",
                       test_property_beyond_32_bits_with_lpae);
    }
    qtest_add_func("/ivshmem-flat/properties/beyond-32-bits",
                   test_property_beyond_32_bits);
    qtest_add_func("/ivshmem-flat/properties/on-an-unimplemented-device",
                   test_property_on_an_unimplemented_device);
    qtest_add_func("/ivshmem-flat/properties/chardev",
                   test_property_chardev);
    qtest_add_func("/ivshmem-flat/properties/shmem-size",
                   test_property_shmem_size);
    qtest_add_func("/ivshmem-flat/properties/x-irq-qompath",
                   test_property_irq_qompath);
    qtest_add_func("/ivshmem-flat/properties/iothread",
                   test_property_iothread);
    qtest_add_func("/ivshmem-flat/properties/help", test_help);

    qtest_add_func("/ivshmem-flat/two-devices/on-one-server",
                   test_two_devices_on_one_server);
    qtest_add_func("/ivshmem-flat/two-devices/on-two-servers",
                   test_two_devices_on_two_servers);
    qtest_add_func("/ivshmem-flat/two-devices/alike", test_two_devices_alike);
    qtest_add_func("/ivshmem-flat/four-devices/on-four-servers",
                   test_four_devices_on_four_servers);
    qtest_add_func("/ivshmem-flat/two-devices/in-one-place",
                   test_two_devices_in_one_place);

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
