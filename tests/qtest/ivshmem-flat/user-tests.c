/*
 * QTest testcase for ivshmem-flat: where the user says that it goes
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/peer-registers-tests.h"

/* Where the board would place it, too, so that IOMEM and SHMEM are right */
#define AT "x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x70000000"

/* Who places a device wires it, too: this one has no interrupt. */
#define USERS_MACHINE WIRED_MACHINE "," AT

/* The server is a good one, the properties are not. */
static void test_user_refused(void)
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
        { ",x-bus-address-iomem=here,x-bus-address-shmem=0x70000000",
          "x-bus-address-iomem' expects" },
        { "," AT ",vectors=65", "vectors is 65, expected 1 to 64" },
        { "," AT ",x-irq-qompath=/machine/nothing",
          "x-irq-qompath: '/machine/nothing' does not exist" },
        { "," AT ",x-irq-qompath=", "x-irq-qompath: '' " },
        { "," AT ",x-irq-qompath=/machine/armv7m/nvic",
          "x-irq-qompath: '/machine/armv7m/nvic' is of type armv7m_nvic" },
        { "," AT ",'x-irq-qompath=unnamed-gpio-in[3]'",
          "x-irq-qompath: 'unnamed-gpio-in[3]' is ambiguous" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_properties_refused(cases[i].properties, cases[i].expected);
    }
}

/* All ones are no address: the board says where it goes, as without. */
static void test_user_names_no_address(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE
                            ",x-bus-address-iomem=0xffffffffffffffff"
                            ",x-bus-address-shmem=0xffffffffffffffff");
    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, OWN_ID);

    assert_qmp_error(qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': "
                               "{ 'path': '" DEVICE "', 'property': "
                               "'x-bus-address-shmem', 'value': 0 } }"),
                     "after it was realized");
    qtest_quit(qts);
    fake_free(srv);
}

/* An output without a wire: that vector is off, the others are not. */
static void test_user_wires_one(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[4];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = fake_machine_with(srv, USERS_MACHINE ",vectors=4,'sysbus-irq[2]="
                            "/machine/armv7m/nvic/unnamed-gpio-in[25]' 2>%s",
                            srv->errors);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        interrupt(own[i]);
    }
    wait_interrupt(qts, 25);
    fake_sync(srv, qts);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        g_assert_cmpint(rung(own[i]), ==, i != 2);
    }
    g_assert_cmpint(count_errors(srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(srv, "ivshmem-flat /machine/peripheral/ivs: "
                                "vectors without an interrupt input are off: "
                                "0, 1, 3;"), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* VECTORS counts those that are wired, of four 0 and 2. */
static void test_user_wires_two(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    uint32_t changes;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, USERS_MACHINE ON ",vectors=4,'sysbus-irq[0]="
                            "/machine/armv7m/nvic/unnamed-gpio-in[25]',"
                            "'sysbus-irq[2]="
                            "/machine/armv7m/nvic/unnamed-gpio-in[27]' 2>%s",
                            srv->errors);
    changes = qtest_readl(qts, CHANGES);
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 1);
    fake_send_vector(srv, OWN_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 1);
    fake_send_vector(srv, OWN_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 2);
    fake_send_vector(srv, OWN_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 2);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_user_wires_none(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer, own;

    own = fake_script_with_peer(srv, OWN_ID, 0, &peer);
    interrupt(own);
    qts = fake_machine_with(srv, USERS_MACHINE);

    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, 0);
    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 0));
    g_assert_cmpint(rung(peer), ==, 0);
    qtest_writel(qts, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    qtest_quit(qts);

    g_assert_cmpint(rung(own), ==, 1); /* nobody has drained it */
    fake_free(srv);
}

/* With no interrupt wired there is no own id, but peers there are. */
static void test_user_wires_none_but_sees_peers(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    uint32_t changes;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, NULL);
    qts = fake_machine_with(srv, USERS_MACHINE ON ",changes-vector=0 2>%s",
                            srv->errors);
    g_assert_cmphex(qtest_readl(qts, FEATURES), ==, 1);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, 0);
    g_assert_cmpint(qtest_readl(qts, VECTORS), ==, 0);
    g_assert_cmpint(next(qts, 0), ==, PEER_ID);
    g_assert_cmphex(next(qts, PEER_ID + 1), ==, NONE);
    changes = qtest_readl(qts, CHANGES);
    fake_send_gone(srv, PEER_ID);
    WAIT_UNTIL(has_changed(qts, &changes));
    g_assert_cmphex(next(qts, 0), ==, NONE);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_user_wires_none_warning(void)
{
    FakeServer *srv = fake_new();
    Output out;

    fake_script_client(srv, OWN_ID);
    fake_start(srv);
    out = run_qemu("qom-tree", "-machine mps2-an385 "
                   "-chardev socket,id=ivshmem,path=%s "
                   "-device ivshmem-flat,id=ivs,chardev=ivshmem," AT,
                   srv->path);
    fake_join(srv);
    g_assert_nonnull(strstr(out.text, "ivshmem-flat /machine/peripheral/ivs: "
                                      "interrupts are disabled"));
    g_assert_nonnull(strstr(out.text, "sysbus-irq[0]=PATH wires one"));
    g_assert_null(strstr(strstr(out.text, "disabled") + 1, "disabled"));
    output_free(out);
    fake_free(srv);
}

/* Of these, the one has no MPU, the other is no Cortex-M. */
static void test_user_beyond_32_bits(void)
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
static void test_user_beyond_32_bits_with_lpae(void)
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

/* A platform bus would place its devices over what is in its range. */
static void test_user_inside_a_platform_bus(void)
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
static void test_user_on_an_unimplemented_device(void)
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

/* The two ways to name an input are one. */
static void test_user_irq_qompath(void)
{
    static const char *const wires[] = {
        "'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
        "'sysbus-irq[0]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
    };
    Server *srv = server_new(1);

    for (unsigned i = 0; i < ARRAY_SIZE(wires); i++) {
        QTestState *qts = machine(srv->path, USERS_MACHINE ",%s", wires[i]);

        assert_string(qts, DEVICE, "x-irq-qompath",
                      "/machine/armv7m/nvic/unnamed-gpio-in[25]");
        qtest_writel(qts, DOORBELL,
                     doorbell(qtest_readl(qts, IVPOSITION), 0));
        wait_interrupt(qts, 25);
        qtest_quit(qts);
    }
    server_free(srv);
}

/* One of their servers is killed: that device keeps its memory, as do all. */
static void test_user_places_four_devices(void)
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

static void test_user_places_two_in_one_place(void)
{
    Server *srv = server_new(1);

    assert_refused("is not free, 'ivshmem-flat-registers' of "
                   "/machine/peripheral/first",
                   "-machine mps2-an385 "
                   "-chardev socket,id=a,path=%s "
                   "-chardev socket,id=b,path=%s "
                   "-device ivshmem-flat,id=first,chardev=a," AT
                   " -device ivshmem-flat,chardev=b," AT,
                   srv->path, srv->path);
    server_free(srv);
}

/* What the user does not place, the bus does. */
static void test_user_beside_a_platform_bus(void)
{
    static const struct {
        const char *properties;
        uint64_t iomem, shmem;          /* 0: the bus's choice */
    } cases[] = {
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

#define SECOND " -chardev socket,id=ivshmem2,path=%s " \
               "-device ivshmem-flat,chardev=ivshmem2"
#define THIRD " -chardev socket,id=ivshmem3,path=%s " \
              "-device ivshmem-flat,chardev=ivshmem3"
/* beside what the board has places for */
#define ELSEWHERE ",x-bus-address-iomem=0x50002000," \
                  "x-bus-address-shmem=0x90000000"
#define ELSEWHERE_OFFSET (2 * IOMEM2_OFFSET)

/* The device at these registers rings itself, and this input is pending. */
static void check_input(QTestState *qts, uint64_t offset, unsigned input)
{
    unsigned id = qtest_readl(qts, IVPOSITION + offset);

    qtest_writel(qts, DOORBELL + offset, doorbell(id, 0));
    wait_interrupt(qts, input);
    g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, 0);
}

/*
 * Who places a device wires it, too; it is not where the board would place it,
 * nor in the way of the next one.
 */
static void test_user_places_the_device(void)
{
    Server *srv = server_new(1);
    QTestState *qts;

    qts = machine(srv->path, WIRED_MACHINE ELSEWHERE ",'x-irq-qompath="
                  "/machine/armv7m/nvic/unnamed-gpio-in[14]'" SECOND,
                  srv->path);
    check_input(qts, ELSEWHERE_OFFSET, 14);
    check_input(qts, 0, INPUT);
    qtest_quit(qts);

    qts = machine(srv->path, WIRED_MACHINE ELSEWHERE " 2>/dev/null");
    g_assert_cmpint(qtest_readl(qts, IVPOSITION + ELSEWHERE_OFFSET), ==, 0);
    qtest_quit(qts);
    server_free(srv);
}

/* What he does not place, and does not wire, the board does. */
static void test_user_places_one_region(void)
{
    Server *srv = server_new(1);
    QTestState *qts;

    qts = machine(srv->path, WIRED_MACHINE ",x-bus-address-shmem=0x90000000");
    check_input(qts, 0, INPUT);
    qtest_writel(qts, 0x90000000, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, 0x90000000), ==, 0x12345678);
    g_assert_cmphex(get_number(qts, "x-bus-address-iomem"), ==, IOMEM);
    g_assert_cmphex(get_number(qts, "x-bus-address-shmem"), ==, 0x90000000);
    qtest_quit(qts);

    qts = machine(srv->path, WIRED_MACHINE ",x-bus-address-iomem=0x50002000");
    check_input(qts, ELSEWHERE_OFFSET, INPUT);
    qtest_writel(qts, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    qtest_quit(qts);
    server_free(srv);
}

/* The board has places for two, and its error tells of these properties. */
static void test_user_places_a_third_device(void)
{
    Server *srv = server_new(1);
    QTestState *qts;
    Output out;

    out = run_qemu(NULL, "-chardev socket,id=ivshmem,path=%s "
                   WIRED_MACHINE SECOND THIRD, srv->path, srv->path, srv->path);
    g_assert_nonnull(strstr(out.text, "and none of them is free: registers: "
                            "0x50001000-0x500010ff is not free, "));
    g_assert_nonnull(strstr(out.text, " has 0x50001000-0x500010ff\n"
                            "x-bus-address-iomem and x-bus-address-shmem place "
                            "another one\n"));
    output_free(out);

    qts = machine(srv->path, WIRED_MACHINE SECOND THIRD ELSEWHERE
                  ",'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[14]'",
                  srv->path, srv->path);
    check_input(qts, ELSEWHERE_OFFSET, 14);
    qtest_quit(qts);
    server_free(srv);
}

/* It may be one of the board's places: the next device gets the other one. */
static void test_user_takes_a_place(void)
{
    static const char *const places[] = {
        AT,
        "x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x90000000",
        "x-bus-address-iomem=0x50002000,x-bus-address-shmem=0x70200000",
    };
    Server *srv = server_new(1);
    Output out;

    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        QTestState *qts = machine(srv->path, WIRED_MACHINE ",%s,'x-irq-qompath="
                                  "/machine/armv7m/nvic/unnamed-gpio-in[14]'"
                                  SECOND, places[i], srv->path);

        check_input(qts, IOMEM2_OFFSET, 29);
        qtest_writel(qts, SHMEM2, 0x12345678);
        g_assert_cmphex(qtest_readl(qts, SHMEM2), ==, 0x12345678);
        qtest_quit(qts);
    }

    out = run_qemu(NULL, "-chardev socket,id=ivshmem,path=%s "
                   USERS_MACHINE SECOND THIRD, srv->path, srv->path, srv->path);
    g_assert_nonnull(strstr(out.text, "this board has places for 2 "
                            "ivshmem-flat, and none of them is free: "));
    output_free(out);
    server_free(srv);
}

static void test_user_help(void)
{
    Output out = run_qemu(NULL, "-machine mps2-an385 "
                          "-device ivshmem-flat,help");

    g_assert_nonnull(strstr(out.text, "x-irq-qompath=<string>"));
    g_assert_nonnull(strstr(out.text, "x-bus-address-iomem=<uint64>"));
    g_assert_nonnull(strstr(out.text, "x-bus-address-shmem=<uint64>"));
    g_assert_cmpint(out.status, ==, 0);
    output_free(out);
}

void add_user_tests(void)
{
    qtest_add_func("/ivshmem-flat/user/refused", test_user_refused);
    qtest_add_func("/ivshmem-flat/user/help", test_user_help);
    qtest_add_func("/ivshmem-flat/user/names-no-address",
                   test_user_names_no_address);
    qtest_add_func("/ivshmem-flat/user/wires-one", test_user_wires_one);
    qtest_add_func("/ivshmem-flat/user/wires-two", test_user_wires_two);
    qtest_add_func("/ivshmem-flat/user/wires-none", test_user_wires_none);
    qtest_add_func("/ivshmem-flat/user/wires-none-but-sees-peers",
                   test_user_wires_none_but_sees_peers);
    qtest_add_func("/ivshmem-flat/user/wires-none-and-is-told",
                   test_user_wires_none_warning);
    qtest_add_func("/ivshmem-flat/user/irq-qompath", test_user_irq_qompath);
    qtest_add_func("/ivshmem-flat/user/on-an-unimplemented-device",
                   test_user_on_an_unimplemented_device);
    qtest_add_func("/ivshmem-flat/user/places-the-device",
                   test_user_places_the_device);
    qtest_add_func("/ivshmem-flat/user/places-one-region",
                   test_user_places_one_region);
    qtest_add_func("/ivshmem-flat/user/places-a-third-device",
                   test_user_places_a_third_device);
    qtest_add_func("/ivshmem-flat/user/takes-a-place", test_user_takes_a_place);
    qtest_add_func("/ivshmem-flat/user/places-four-devices",
                   test_user_places_four_devices);
    qtest_add_func("/ivshmem-flat/user/places-two-in-one-place",
                   test_user_places_two_in_one_place);
    qtest_add_func("/ivshmem-flat/user/beyond-32-bits",
                   test_user_beyond_32_bits);
    if (qtest_has_machine("virt")) {
        qtest_add_func("/ivshmem-flat/user/beyond-32-bits-with-lpae",
                       test_user_beyond_32_bits_with_lpae);
        qtest_add_func("/ivshmem-flat/user/beside-a-platform-bus",
                       test_user_beside_a_platform_bus);
        qtest_add_func("/ivshmem-flat/user/inside-a-platform-bus",
                       test_user_inside_a_platform_bus);
    }
}
