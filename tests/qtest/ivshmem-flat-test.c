/*
 * QTest testcase for ivshmem-flat
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Here is the plain story: registers, shared memory, doorbells, interrupts.
 * ivshmem-flat/ has the rest of it, by theme, and the servers and machines
 * that all tests use, in framework.h.
 */

#include "qemu/osdep.h"
#include "qobject/qlist.h"
#include "qemu/rcu.h"
#include "ivshmem-flat/framework.h"

#include <sys/mman.h>

/*
 * Registers
 *
 * docs/specs/ivshmem-spec.rst, "PCI device registers", with what QEMU's PCI
 * device answers where the specification leaves it open.
 */

static void check_accesses(const Access *accesses, size_t n)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 0x1234);
    qts = fake_machine(srv);
    for (size_t i = 0; i < n; i++) {
        const Access *a = &accesses[i];

        if (a->kind == WRITE) {
            write_size(qts, IOMEM + a->offset, a->size, a->value);
        } else {
            g_test_message("step %zu: read %u bytes at 0x%x", i, a->size,
                           a->offset);
            g_assert_cmphex(read_size(qts, IOMEM + a->offset, a->size), ==,
                            a->value);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_registers_on_reset(void)
{
    static const Access accesses[] = {
        { READ, 4, 0x00, 0 },
        { READ, 4, 0x04, 0 },
        { READ, 4, 0x08, 0x1234 },
        { READ, 4, 0x0c, 0 },
        { READ, 4, 0x10, 0 },
        { READ, 4, 0xfc, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_intrmask(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x00, 0x89abcdef },
        { READ, 4, 0x00, 0x89abcdef },
        { READ, 4, 0x00, 0x89abcdef },
        { READ, 4, 0x04, 0 },
        { WRITE, 4, 0x00, 0 },
        { READ, 4, 0x00, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

/* "Reading the register clears it." */
static void test_registers_intrstatus(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x04, 0x89abcdef },
        { READ, 4, 0x00, 0 },
        { READ, 4, 0x04, 0x89abcdef },
        { READ, 4, 0x04, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_ivposition(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x08, 0xffffffff },
        { READ, 4, 0x08, 0x1234 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_reserved(void)
{
    Access accesses[2 * (0x100 - 0x10) / 4];
    unsigned n = 0;

    for (unsigned offset = 0x10; offset < 0x100; offset += 4) {
        accesses[n++] = (Access) { WRITE, 4, offset, 0xffffffff };
        accesses[n++] = (Access) { READ, 4, offset, 0 };
    }
    check_accesses(accesses, n);
}

/* A narrower read returns the right bytes, a narrower write replaces them. */
static void test_registers_narrow(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x00, 0x89abcdef },
        { READ, 1, 0x00, 0xef },
        { READ, 1, 0x01, 0xcd },
        { READ, 1, 0x02, 0xab },
        { READ, 1, 0x03, 0x89 },
        { READ, 2, 0x00, 0xcdef },
        { READ, 2, 0x02, 0x89ab },
        { WRITE, 1, 0x01, 0x11 },
        { READ, 4, 0x00, 0x89ab11ef },
        { WRITE, 2, 0x02, 0x2233 },
        { READ, 4, 0x00, 0x223311ef },
        { READ, 1, 0x08, 0x34 },
        { READ, 1, 0x09, 0x12 },
        { READ, 2, 0x0a, 0 },
        { WRITE, 4, 0x04, 0x89abcdef },
        { WRITE, 1, 0x07, 0x44 },
        { READ, 2, 0x06, 0x44ab },
        { READ, 4, 0x04, 0 },
        { READ, 1, 0xff, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

/* The bus makes two accesses of one of 64 bits, the lower address first. */
static void test_registers_wide(void)
{
    static const Access accesses[] = {
        { WRITE, 8, 0x00, 0x0123456789abcdef },
        { READ, 8, 0x00, 0x0123456789abcdef },
        { READ, 8, 0x00, 0x89abcdef },
        { READ, 8, 0x08, 0x1234 },
        { READ, 8, 0xf8, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_after_system_reset(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 3);
    qts = fake_machine(srv);
    qtest_writel(qts, INTRMASK, 0xffffffff);
    qtest_writel(qts, INTRSTATUS, 0xffffffff);

    qtest_system_reset(qts);

    g_assert_cmphex(qtest_readl(qts, INTRMASK), ==, 0);
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 0);
    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, 3);
    qtest_quit(qts);
    fake_free(srv);
}

/* Shared memory */

/* Byte for byte, at the first and at the last page, in both directions. */
static void test_shmem_between_machines(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = wired_machine(srv->path);
    const uint64_t pages[] = { SHMEM, SHMEM + SHMEM_SIZE - 4096 };

    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        uint8_t out[4096], in[4096];

        fill(out, sizeof(out), 1 + i);
        qtest_memwrite(a, pages[i], out, sizeof(out));
        qtest_memread(b, pages[i], in, sizeof(in));
        g_assert_cmpmem(in, sizeof(in), out, sizeof(out));

        fill(out, sizeof(out), 101 + i);
        qtest_memwrite(b, pages[i], out, sizeof(out));
        qtest_memread(a, pages[i], in, sizeof(in));
        g_assert_cmpmem(in, sizeof(in), out, sizeof(out));
    }
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

/* What the guest stores is in the server's object, and nothing behind it. */
static void test_shmem_is_the_servers_object(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    uint32_t *map;

    fake_script_client(srv, 0);
    qts = fake_machine(srv);
    map = mmap(NULL, SHMEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, srv->shm,
               0);
    g_assert_true(map != MAP_FAILED);

    qtest_writel(qts, SHMEM, 0x11223344);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0x55667788);
    g_assert_cmphex(le32_to_cpu(map[0]), ==, 0x11223344);
    g_assert_cmphex(le32_to_cpu(map[SHMEM_SIZE / 4 - 1]), ==, 0x55667788);
    map[1] = cpu_to_le32(0x99aabbcc);
    g_assert_cmphex(qtest_readl(qts, SHMEM + 4), ==, 0x99aabbcc);

    munmap(map, SHMEM_SIZE);
    qtest_quit(qts);
    fake_free(srv);
}

/* Doorbells and interrupts */

static void test_doorbell_to_itself(void)
{
    Server *srv = server_new(1);
    QTestState *qts = wired_machine(srv->path);
    unsigned id = qtest_readl(qts, IVPOSITION);

    g_assert_false(pending(qts, INPUT));
    for (int i = 0; i < 3; i++) {
        qtest_writel(qts, DOORBELL, doorbell(id, 0));
        wait_interrupt(qts, INPUT);
    }
    qtest_quit(qts);
    server_free(srv);
}

/* The smallest memory; a machine that is alone rings itself on each vector. */
static void test_doorbell_to_itself_on_two_vectors(void)
{
    Server *srv = server_new_with(qemu_real_host_page_size(), 2);
    QTestState *qts = machine(srv->path, WIRED_MACHINE ",vectors=2");
    unsigned id = qtest_readl(qts, IVPOSITION);

    g_assert_cmpint(get_number(qts, "shmem-size"), ==, srv->size);
    for (unsigned i = 0; i < 10; i++) {
        unsigned vector = i % 2;

        qtest_writel(qts, DOORBELL, doorbell(id, vector));
        wait_interrupt(qts, INPUT + vector);
        g_assert_false(pending(qts, INPUT + !vector));
        qtest_writel(qts, SHMEM + srv->size - 4, i);
        g_assert_cmpint(qtest_readl(qts, SHMEM + srv->size - 4), ==, i);
    }
    qtest_quit(qts);
    server_free(srv);
}

static void test_doorbell_between_machines(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = wired_machine(srv->path);
    unsigned id_a = qtest_readl(a, IVPOSITION);
    unsigned id_b = qtest_readl(b, IVPOSITION);

    g_assert_cmpint(id_a, !=, id_b);

    /* B has been told of A before it started. */
    qtest_writel(b, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    g_assert_false(pending(b, INPUT));

    /* A was told of B before B was told its own vectors. */
    qtest_writel(a, DOORBELL, doorbell(id_b, 0));
    wait_interrupt(b, INPUT);
    g_assert_false(pending(a, INPUT));

    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

static void test_doorbell_moves_the_addressed_eventfd_only(void)
{
    FakeServer *srv = fake_new();
    int fds[2][3], own;
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned peer = 0; peer < 2; peer++) {
        for (unsigned vector = 0; vector < 3; vector++) {
            fds[peer][vector] = fake_script_vector(srv, peer);
        }
    }
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);

    for (unsigned peer = 0; peer < 2; peer++) {
        for (unsigned vector = 0; vector < 3; vector++) {
            qtest_writel(qts, DOORBELL, doorbell(peer, vector));
            for (unsigned p = 0; p < 2; p++) {
                for (unsigned v = 0; v < 3; v++) {
                    g_assert_cmpint(rung(fds[p][v]), ==,
                                    p == peer && v == vector);
                }
            }
            g_assert_cmpint(rung(own), ==, 0);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* "If the peer isn't connected, or has fewer vectors, the write is ignored." */
static void test_doorbell_to_nobody_is_ignored(void)
{
    static const uint32_t values[] = {
        0x00000001, 0x000000ff, 0x00000100, 0x0000ffff, /* no such vector */
        0x00010000, 0x00020000, 0x7fff0000, 0xffff0000, /* no such peer */
        0x00050001, 0x00050100, 0xffffffff,
    };
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer, own;

    own = fake_script_with_peer(srv, OWN_ID, 0, &peer);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        qtest_writel(qts, DOORBELL, values[i]);
        g_assert_cmpint(rung(peer), ==, 0);
        g_assert_cmpint(rung(own), ==, 0);
    }
    g_assert_false(pending(qts, INPUT));

    /* And the device goes on. */
    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* A lone byte would ring peer 0 if it were extended to a word. */
static void test_doorbell_needs_32_bits(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer;

    fake_script_with_peer(srv, OWN_ID, 0, &peer);
    qts = fake_machine(srv);
    for (unsigned size = 1; size <= 2; size++) {
        for (unsigned i = 0; i < 4; i += size) {
            write_size(qts, DOORBELL + i, size, 0);
        }
    }
    g_assert_cmpint(rung(peer), ==, 0);

    /* The upper half of 64 bits is 32 of them. */
    qtest_writeq(qts, IVPOSITION, 0);
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * A full counter blocks a write, and each QEMU that joins makes the eventfd
 * blocking for all. The machine must not stop.
 */
static void test_doorbell_to_a_full_counter(void)
{
    const uint64_t full = UINT64_MAX - 1;
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer;

    fake_script_with_peer(srv, OWN_ID, 0, &peer);
    qts = fake_machine(srv);
    g_assert_cmpint(write(peer, &full, sizeof(full)), ==, sizeof(full));
    g_assert_cmpint(fcntl(peer, F_SETFL, 0), ==, 0);

    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, OWN_ID);

    g_assert_cmphex(rung(peer), ==, full);
    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_interrupt_from_a_peer(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (int i = 0; i < 3; i++) {
        interrupt(own);
        wait_interrupt(qts, INPUT);
        g_assert_cmpint(rung(own), ==, 0); /* the device has drained it */
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* Several vectors */

/* 64 vectors: each drives its own output, and no other. */
static void test_vectors_drive_their_outputs(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[64];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = machine_with_vectors(srv, ARRAY_SIZE(own), "");
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        interrupt(own[i]);
        WAIT_UNTIL(pending(qts, i));
        g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, i < 32 ? BIT(i) : 0);
        g_assert_cmphex(qtest_readl(qts, NVIC_ISPR + 4), ==,
                        i < 32 ? 0 : BIT(i - 32));
        wait_interrupt(qts, i);
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_vectors_all_at_once(void)
{
    check_vectors_all_at_once("");
}

/* "If it is configured for more, the extra vectors remain unconnected." */
static void test_vectors_fewer_from_the_server(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[2];

    fake_script_greeting(srv, OWN_ID);
    own[0] = fake_script_vector(srv, OWN_ID);
    own[1] = fake_script_vector(srv, OWN_ID);
    qts = machine_with_vectors(srv, 4, "");
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 1));
    wait_interrupt(qts, 1);
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 2));
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 3));
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 0));
    wait_interrupt(qts, 0);
    g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, 0);
    g_assert_cmpint(rung(own[0]) + rung(own[1]), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_vectors_are_outputs(void)
{
    static const unsigned counts[] = { 1, 4, 64 };

    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        g_autofree char *expected = g_strdup_printf(
            "gpio-out \"sysbus-irq\" %u\r\n", counts[i]);
        g_autofree char *beyond = g_strdup_printf("sysbus-irq[%u]", counts[i]);
        g_autofree char *qtree = NULL;
        FakeServer *srv = fake_new();
        QTestState *qts;
        QDict *ret;

        fake_script_client(srv, OWN_ID);
        qts = machine_with_vectors(srv, counts[i], "");
        qtree = qtest_hmp(qts, "info qtree");
        g_assert_nonnull(strstr(strstr(qtree, "dev: ivshmem-flat"), expected));
        ret = get_property(qts, beyond);
        g_assert_true(qdict_haskey(ret, "error"));
        qobject_unref(ret);
        qtest_quit(qts);
        fake_free(srv);
    }
}

static void test_vectors_in_json(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    fake_script_client(srv, OWN_ID);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine mps2-an385 -device '{"
                            "\"driver\": \"ivshmem-flat\","
                            " \"chardev\": \"ivshmem\","
                            " \"vectors\": 2,"
                            " \"sysbus-irq[1]\":"
                            " \"/machine/armv7m/nvic/unnamed-gpio-in[14]\"}'");
    interrupt(own);
    wait_interrupt(qts, 14);
    g_assert_false(pending(qts, INPUT));
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * Revision 0
 *
 * docs/specs/ivshmem-spec.rst, "PCI device registers": Status and Mask
 * together control a level.
 */

static void test_revision_0(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ",revision=0");
    qtest_irq_intercept_in(qts, "/machine/armv7m");

    /* masked: the status tells, the line does not */
    interrupt(own);
    WAIT_UNTIL(get_interrupts(qts, 0) == 1);
    g_assert_false(qtest_get_irq(qts, INPUT));

    /* unmasked: it is high until the status has been read */
    qtest_writel(qts, INTRMASK, 1);
    g_assert_true(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRMASK, 0);
    g_assert_false(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRMASK, 0xfffffffe);
    g_assert_false(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRMASK, 0xffffffff);
    g_assert_true(qtest_get_irq(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 1);
    g_assert_false(qtest_get_irq(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 0);

    /* and again; a write to the status counts too */
    interrupt(own);
    WAIT_UNTIL(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRSTATUS, 0);
    g_assert_false(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRSTATUS, 1);
    g_assert_true(qtest_get_irq(qts, INPUT));

    qtest_system_reset(qts);
    g_assert_false(qtest_get_irq(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, INTRMASK), ==, 0);
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * A controller that samples levels: SPI 32 + 80 of the MPS3-AN536's GICv3,
 * level-sensitive as it is after reset.
 */

#define AN536_IOMEM 0xe7000000
#define AN536_SPI 80
#define GICD_ISPENDR (0xf0000000 + 0x200 + (32 + AN536_SPI) / 32 * 4)
#define AN536_PENDING BIT((32 + AN536_SPI) % 32)

static QTestState *an536(FakeServer *srv, int *own, unsigned revision)
{
    *own = fake_script_client(srv, OWN_ID);
    return fake_machine_with(srv, "-machine mps3-an536 -device ivshmem-flat,"
                             "id=ivs,chardev=ivshmem,revision=%u", revision);
}

static void test_revision_0_at_a_level_input(void)
{
    FakeServer *srv = fake_new();
    int own;
    QTestState *qts = an536(srv, &own, 0);

    qtest_writel(qts, AN536_IOMEM, 1);
    for (unsigned i = 1; i <= 10; i++) {
        interrupt(own);
        WAIT_UNTIL(get_interrupts(qts, 0) == i);
        g_assert_true(qtest_readl(qts, GICD_ISPENDR) & AN536_PENDING);
        g_assert_cmphex(qtest_readl(qts, AN536_IOMEM + 4), ==, 1);
        g_assert_false(qtest_readl(qts, GICD_ISPENDR) & AN536_PENDING);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* What revision 1 does there: the pulse is over before anybody looks. */
static void test_revision_1_at_a_level_input(void)
{
    FakeServer *srv = fake_new();
    int own;
    QTestState *qts = an536(srv, &own, 1);

    interrupt(own);
    WAIT_UNTIL(get_interrupts(qts, 0) == 1);
    g_assert_false(qtest_readl(qts, GICD_ISPENDR) & AN536_PENDING);
    qtest_quit(qts);
    fake_free(srv);
}

/* Looking in */

static void test_looking_in(void)
{
    FakeServer *srv = fake_new();
    static const struct {
        unsigned id;
        unsigned vectors;
    } expected[] = { { 3, 2 }, { 65535, 1 } };
    g_autofree char *hmp = NULL;
    const QListEntry *entry;
    QTestState *qts;
    QDict *peers;
    int own;

    fake_script_greeting(srv, OWN_ID);
    fake_script_vector(srv, 3);
    fake_script_vector(srv, 3);
    fake_script_vector(srv, 65535);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);

    g_assert_cmpint(get_number(qts, "id"), ==, OWN_ID);
    g_assert_cmpint(get_number(qts, "shmem-size"), ==, SHMEM_SIZE);
    g_assert_true(is_connected(qts));
    peers = get_property(qts, "peers");
    entry = qlist_first(qdict_get_qlist(peers, "return"));
    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
        QDict *peer = qobject_to(QDict, qlist_entry_obj(entry));

        g_assert_cmpint(qdict_get_int(peer, "id"), ==, expected[i].id);
        g_assert_cmpint(qdict_get_int(peer, "vectors"), ==,
                        expected[i].vectors);
        entry = qlist_next(entry);
    }
    g_assert_null(entry);
    qobject_unref(peers);
    hmp = qtest_hmp(qts, "qom-get /machine/peripheral/ivs id");
    g_assert_cmpstr(g_strstrip(hmp), ==, "5");

    qtest_writel(qts, DOORBELL, doorbell(3, 0));
    qtest_writel(qts, DOORBELL, doorbell(3, 1));
    qtest_writel(qts, DOORBELL, doorbell(65535, 0));
    qtest_writel(qts, DOORBELL, doorbell(3, 2));
    qtest_writel(qts, DOORBELL, doorbell(4, 0));
    g_assert_cmpint(get_number(qts, "doorbells-sent"), ==, 3);
    g_assert_cmpint(get_number(qts, "doorbells-dropped"), ==, 2);
    interrupt(own);
    wait_interrupt(qts, INPUT);
    g_assert_cmpint(get_interrupts(qts, 0), ==, 1);

    fake_hang_up(srv);
    WAIT_UNTIL(!is_connected(qts));
    qtest_quit(qts);
    fake_free(srv);
}

static void add_plain_tests(void)
{
    qtest_add_func("/ivshmem-flat/registers/on-reset",
                   test_registers_on_reset);
    qtest_add_func("/ivshmem-flat/registers/intrmask",
                   test_registers_intrmask);
    qtest_add_func("/ivshmem-flat/registers/intrstatus",
                   test_registers_intrstatus);
    qtest_add_func("/ivshmem-flat/registers/ivposition",
                   test_registers_ivposition);
    qtest_add_func("/ivshmem-flat/registers/reserved",
                   test_registers_reserved);
    qtest_add_func("/ivshmem-flat/registers/narrow", test_registers_narrow);
    qtest_add_func("/ivshmem-flat/registers/wide", test_registers_wide);
    qtest_add_func("/ivshmem-flat/registers/after-system-reset",
                   test_registers_after_system_reset);

    qtest_add_func("/ivshmem-flat/shmem/between-machines",
                   test_shmem_between_machines);
    qtest_add_func("/ivshmem-flat/shmem/is-the-servers-object",
                   test_shmem_is_the_servers_object);

    qtest_add_func("/ivshmem-flat/doorbell/to-itself",
                   test_doorbell_to_itself);
    qtest_add_func("/ivshmem-flat/doorbell/to-itself-on-two-vectors",
                   test_doorbell_to_itself_on_two_vectors);
    qtest_add_func("/ivshmem-flat/doorbell/between-machines",
                   test_doorbell_between_machines);
    qtest_add_func("/ivshmem-flat/doorbell/moves-the-addressed-eventfd-only",
                   test_doorbell_moves_the_addressed_eventfd_only);
    qtest_add_func("/ivshmem-flat/doorbell/to-nobody-is-ignored",
                   test_doorbell_to_nobody_is_ignored);
    qtest_add_func("/ivshmem-flat/doorbell/needs-32-bits",
                   test_doorbell_needs_32_bits);
    qtest_add_func("/ivshmem-flat/doorbell/to-a-full-counter",
                   test_doorbell_to_a_full_counter);
    qtest_add_func("/ivshmem-flat/interrupt/from-a-peer",
                   test_interrupt_from_a_peer);

    qtest_add_func("/ivshmem-flat/vectors/drive-their-outputs",
                   test_vectors_drive_their_outputs);
    qtest_add_func("/ivshmem-flat/vectors/all-at-once",
                   test_vectors_all_at_once);
    qtest_add_func("/ivshmem-flat/vectors/fewer-from-the-server",
                   test_vectors_fewer_from_the_server);
    qtest_add_func("/ivshmem-flat/vectors/are-outputs",
                   test_vectors_are_outputs);
    qtest_add_func("/ivshmem-flat/vectors/in-json", test_vectors_in_json);
    qtest_add_func("/ivshmem-flat/revision-0/status-and-mask",
                   test_revision_0);
    qtest_add_func("/ivshmem-flat/looking-in", test_looking_in);
    if (qtest_has_machine("mps3-an536")) {
        qtest_add_func("/ivshmem-flat/revision-0/at-a-level-input",
                       test_revision_0_at_a_level_input);
        qtest_add_func("/ivshmem-flat/revision-1/at-a-level-input",
                       test_revision_1_at_a_level_input);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    /*
     * No child of ours uses RCU.  A thread for it, which each would start,
     * allocates memory: a child would wait for ever if another thread, as the
     * fake server's, had a lock of AddressSanitizer's allocator at the fork.
     */
    rcu_disable_atfork();
    if (!qtest_has_device("ivshmem-flat") ||
        !qtest_has_machine("mps2-an385-ivshmem")) {
        g_test_skip("QEMU has no ivshmem-flat or no mps2-an385-ivshmem");
        return g_test_run();
    }

    add_plain_tests();
    add_board_tests();
    add_config_tests();
    add_restart_tests();
    add_migration_tests();
    add_greeting_tests();
    add_peer_tests();
    add_server_tests();
    add_guest_tests();
    add_life_tests();
    add_iothread_tests();
    add_user_tests();
    add_peer_registers_tests();

    return g_test_run();
}
