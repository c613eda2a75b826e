/*
 * QTest testcase for ivshmem-flat: a hostile guest
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

/* Every vector to itself, to a peer, and to nobody. */
static void test_guest_rings_everything(void)
{
    static const unsigned peers[] = { OWN_ID, PEER_ID, 7 };
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own, peer;

    own = fake_script_with_peer(srv, OWN_ID, PEER_ID, &peer);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
        for (unsigned vector = 1; vector <= UINT16_MAX; vector++) {
            qtest_writel(qts, DOORBELL, doorbell(peers[i], vector));
        }
        g_assert_cmpint(rung(peer), ==, 0);
        g_assert_cmpint(rung(own), ==, 0);
        g_assert_false(pending(qts, INPUT));
        qtest_writel(qts, DOORBELL, doorbell(peers[i], 0));
        g_assert_cmpint(rung(peer), ==, peers[i] == PEER_ID);
        if (peers[i] == OWN_ID) {
            wait_interrupt(qts, INPUT);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* Every offset and width of the registers, and the memory's ends. */
static void test_guest_touches_everything(void)
{
    Running r = running_new();
    const uint64_t ends[] = { SHMEM - 8, SHMEM + SHMEM_SIZE - 8 };

    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned offset = 0; offset <= 0x100 - size; offset++) {
            bool rings = offset <= 0xc && offset + size > 0xc;

            if (!rings) {
                write_size(r.qts, IOMEM + offset, size, UINT64_MAX);
            }
            read_size(r.qts, IOMEM + offset, size);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
            for (unsigned offset = 0; offset < 16; offset++) {
                write_size(r.qts, ends[i] + offset, size, UINT64_MAX);
                read_size(r.qts, ends[i] + offset, size);
            }
        }
    }
    qtest_writel(r.qts, INTRMASK, 0);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

/* Every offset and width of shared memory, which is one page here. */
static void test_guest_touches_all_memory(void)
{
    const uint64_t size = qemu_real_host_page_size();
    const uint64_t pattern = 0x8877665544332211;
    FakeServer *srv = fake_new();
    QTestState *qts;

    srv->shm = fake_memory(srv, size);
    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned width = 1; width <= 8; width *= 2) {
        uint64_t expected = pattern & MAKE_64BIT_MASK(0, width * 8);

        for (uint64_t offset = 0; offset <= size - width; offset++) {
            uint64_t found = 0;

            write_size(qts, SHMEM + offset, width, expected);
            g_assert_cmphex(read_size(qts, SHMEM + offset, width), ==,
                            expected);
            g_assert_cmpint(pread(srv->shm, &found, width, offset), ==, width);
            g_assert_cmphex(le64_to_cpu(found), ==, expected);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* What a guest does wrong is logged, if somebody asks for it. */
static void test_guest_errors(void)
{
    static const struct {
        Access access;
        const char *expected;
    } cases[] = {
        { { READ, 4, 0xc }, "read of the write-only register DOORBELL" },
        { { READ, 4, 0x10 }, "read of the reserved offset 0x10" },
        { { WRITE, 4, 0x8 }, "write to the read-only register IVPOSITION" },
        { { WRITE, 2, 0xc }, "write of 2 bytes to DOORBELL, expected 4" },
        { { WRITE, 1, 0xff }, "write to the reserved offset 0xff" },
    };
    Server *srv = server_new(1);
    g_autofree char *log = g_build_filename(srv->dir, "log", NULL);
    QTestState *qts;

    qts = machine(srv->path, "-d guest_errors -D %s " WIRED_MACHINE, log);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const Access *a = &cases[i].access;

        if (a->kind == WRITE) {
            write_size(qts, IOMEM + a->offset, a->size, 0);
        } else {
            read_size(qts, IOMEM + a->offset, a->size);
        }
    }
    qtest_quit(qts);
    g_assert_cmpint(count_in_file(log, "\n"), ==, ARRAY_SIZE(cases));
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        g_assert_cmpint(count_in_file(log, cases[i].expected), ==, 1);
    }
    unlink(log);
    server_free(srv);
}

/*
 * A CPU that does nothing but ring: a hundred thousand doorbells later the
 * machine still answers its monitor.
 */
static void test_guest_floods(void)
{
    static const uint8_t code[] = {
        0x00, 0x04, 0x00, 0x20,     /* initial stack: 0x20000400 */
        0x09, 0x00, 0x00, 0x00,     /* reset vector: 0x8, Thumb */
        0x01, 0x48,                 /*       ldr r0, DOORBELL */
        0x02, 0x49,                 /*       ldr r1, peer 1, vector 0 */
        0x01, 0x60,                 /* loop: str r1, [r0] */
        0xfd, 0xe7,                 /*       b loop */
        0x0c, 0x00, 0x00, 0x50,
        0x00, 0x00, 0x01, 0x00,
    };
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;
    FakeServer *srv = fake_new();
    g_autofree char *kernel = g_build_filename(srv->dir, "kernel", NULL);
    uint64_t total = 0;
    QTestState *qts;
    int peer;

    g_assert_true(g_file_set_contents(kernel, (const char *)code,
                                      sizeof(code), NULL));
    fake_script_with_peer(srv, OWN_ID, PEER_ID, &peer);
    qts = fake_machine_with(srv, "-accel tcg -kernel %s " WIRED_MACHINE,
                            kernel);
    while (total < 100000) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
        total += rung(peer);
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    qtest_quit(qts);
    unlink(kernel);
    fake_free(srv);
}

void add_guest_tests(void)
{
    qtest_add_func("/ivshmem-flat/guest/rings-everything",
                   test_guest_rings_everything);
    qtest_add_func("/ivshmem-flat/guest/touches-everything",
                   test_guest_touches_everything);
    qtest_add_func("/ivshmem-flat/guest/touches-all-memory",
                   test_guest_touches_all_memory);
    qtest_add_func("/ivshmem-flat/guest/errors", test_guest_errors);
    qtest_add_func("/ivshmem-flat/guest/floods", test_guest_floods);
}
