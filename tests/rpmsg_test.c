/*
 * Tests of RPMsg on the host
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * rpmsg_test NAME runs one test and ends with 0 if it passes; rpmsg_test.py
 * runs them all, with and without sanitizers. Offsets and bytes are those of
 * the virtio specification, of Zephyr and of rpmsg-lite, independent of the
 * code.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "check.h"
#include "ivshmem_rpmsg.h"

#define HOST 0
#define REMOTE 1
#define ADDRESS UINT64_C(0x123456789000)     /* of the region, in descriptors */

/* One region, and the sides, each with its doorbell */
struct bench {
    uint8_t *region;
    size_t size;
    struct ivshmem_rpmsg_layout layout;
    struct ivshmem_rpmsg side[2];
    int doorbell[2];
};

static struct bench *new_bench(size_t size)
{
    struct bench *b = calloc(1, sizeof(*b));

    CHECK(b);
    b->size = size;
    b->region = new_guarded(size);
    for (int i = 0; i < 2; i++) {
        b->doorbell[i] = eventfd(0, EFD_NONBLOCK);
        CHECK(b->doorbell[i] >= 0);
    }
    return b;
}

/* As Zephyr has it, with buffers of that size */
static struct bench *new_zephyr_bench(size_t size, uint32_t buffer_size)
{
    struct bench *b = new_bench(size);

    CHECK_EQUAL(ivshmem_rpmsg_layout_zephyr(&b->layout, size, buffer_size, 4),
                0);
    return b;
}

static void free_bench(struct bench *b)
{
    free_guarded(b->region, b->size);
    close(b->doorbell[0]);
    close(b->doorbell[1]);
    free(b);
}

static struct ivshmem_rpmsg_config config_of(const struct bench *b, int side)
{
    return (struct ivshmem_rpmsg_config) {
        .memory = b->region, .size = b->size, .address = ADDRESS,
        .host = side == HOST, .layout = b->layout,
    };
}

static void open_side(struct bench *b, int side)
{
    struct ivshmem_rpmsg_config config = config_of(b, side);

    CHECK_EQUAL(ivshmem_rpmsg_open(&b->side[side], &config), 0);
}

static uint32_t get(const uint8_t *p, unsigned bytes)
{
    uint32_t value = 0;

    while (bytes--) {
        value = value << 8 | p[bytes];
    }
    return value;
}

static void set16(uint8_t *p, uint32_t value)
{
    __atomic_store_n((uint16_t *)(void *)p, (uint16_t)value, __ATOMIC_RELEASE);
}

static void set32(uint8_t *p, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)p, value, __ATOMIC_RELEASE);
}

static int send_text(struct bench *b, int side, int endpoint, const char *text)
{
    return ivshmem_rpmsg_send(&b->side[side], endpoint, text, strlen(text));
}

static int32_t receive(struct bench *b, int side)
{
    uint8_t buffer[2048];
    int endpoint;

    return ivshmem_rpmsg_receive(&b->side[side], &endpoint, buffer,
                                 sizeof(buffer));
}

static void expect_text(struct bench *b, int side, int endpoint,
                        const char *text)
{
    char buffer[64];
    int to = -1;

    CHECK_EQUAL(ivshmem_rpmsg_receive(&b->side[side], &to, buffer,
                                      sizeof(buffer)), (int)strlen(text));
    CHECK_EQUAL(memcmp(buffer, text, strlen(text)), 0);
    CHECK_EQUAL(to, endpoint);
}

/* Poll whoever is rung, until nobody is. */
static void settle(struct bench *b)
{
    bool rung = true;

    for (int i = 0; rung; i++) {
        CHECK(i < 100);
        rung = false;
        for (int side = 0; side < 2; side++) {
            if (ivshmem_rpmsg_doorbell(&b->side[side])) {
                ivshmem_rpmsg_poll(&b->side[!side]);
                rung = true;
            }
        }
    }
}

/* Both sides with one endpoint, of the same name */
static void link_both(struct bench *b)
{
    open_side(b, HOST);
    open_side(b, REMOTE);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[i], "endpoint"), 0);
    }
    settle(b);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(b->side[i].state, IVSHMEM_RPMSG_LINKED);
        CHECK(ivshmem_rpmsg_bound(&b->side[i], 0));
    }
}

/* A talk of both sides with random lengths, many times around the rings */
static void talk(struct bench *b, unsigned messages)
{
    uint32_t random = 7, max = b->layout.buffer_size - 16;

    for (unsigned n = 0; n < messages; n++) {
        int side = (int)(next_random(&random) & 1), to;
        uint32_t length = 1 + next_random(&random) % max;
        /* exactly so long, for AddressSanitizer */
        uint8_t *in = malloc(length), *out = malloc(length);

        CHECK(in && out);
        for (uint32_t i = 0; i < length; i++) {
            in[i] = (uint8_t)(next_random(&random) >> 24);
        }
        CHECK_EQUAL(ivshmem_rpmsg_send(&b->side[side], 0, in, length), 0);
        CHECK(ivshmem_rpmsg_doorbell(&b->side[side]));
        CHECK_EQUAL(ivshmem_rpmsg_receive(&b->side[!side], &to, out, length),
                    length);
        CHECK_EQUAL(memcmp(in, out, length), 0);
        CHECK_EQUAL(receive(b, !side), IVSHMEM_RPMSG_EMPTY);
        free(in);
        free(out);
    }
}

/* Where Zephyr's own arithmetic puts things */
TEST(zephyr_layout)
{
    static const struct {
        size_t size;
        uint32_t buffer_size, align;
        uint32_t count, buffers, vring1, vring0;
    } rows[] = {
        { 0x8000, 512, 4, 16, 4, 16388, 16820 },
        { 0x8000, 128, 4, 64, 4, 16388, 18068 },
        { 0x10000, 512, 64, 32, 64, 32832, 33792 },
        /* one buffer each needs 4 + 2 * (512 + 40) bytes, and one more */
        { 1109, 512, 4, 1, 4, 1028, 1068 },
    };
    struct ivshmem_rpmsg_layout l;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        CHECK_EQUAL(ivshmem_rpmsg_layout_zephyr(&l, rows[i].size,
                                                rows[i].buffer_size,
                                                rows[i].align), 0);
        CHECK_EQUAL(l.status, 0);
        CHECK_EQUAL(l.count, rows[i].count);
        CHECK_EQUAL(l.buffers, rows[i].buffers);
        CHECK_EQUAL(l.vring[1], rows[i].vring1);
        CHECK_EQUAL(l.vring[0], rows[i].vring0);
        CHECK(!l.returned);
    }
    CHECK_EQUAL(ivshmem_rpmsg_layout_zephyr(&l, 1108, 512, 4),
                IVSHMEM_RPMSG_BAD_MEMORY);
    CHECK_EQUAL(ivshmem_rpmsg_layout_zephyr(&l, 0x8000, 512, 12),
                IVSHMEM_RPMSG_BAD_MEMORY);
    CHECK_EQUAL(ivshmem_rpmsg_layout_zephyr(&l, (size_t)1 << 31, 512, 4),
                IVSHMEM_RPMSG_BAD_MEMORY);
}

TEST(lite_layout)
{
    struct ivshmem_rpmsg_layout l;

    CHECK_EQUAL(ivshmem_rpmsg_layout_lite(&l, 0x20000, 512, 64, 0x8000,
                                          0x1000), 0);
    CHECK_EQUAL(l.vring[0], 0);
    CHECK_EQUAL(l.vring[1], 0x8000);
    CHECK_EQUAL(l.buffers, 0x10000);
    CHECK_EQUAL(ivshmem_rpmsg_layout_lite(&l, 0x1ffff, 512, 64, 0x8000,
                                          0x1000), IVSHMEM_RPMSG_BAD_MEMORY);
    /* descriptors and rings of 64 take 0x1000 + 4 + 512 + 2 */
    CHECK_EQUAL(ivshmem_rpmsg_layout_lite(&l, 0x20000, 512, 64, 0x1205,
                                          0x1000), IVSHMEM_RPMSG_BAD_MEMORY);
}

/* Byte for byte what stands in memory: this is what others rely on. */
TEST(wire_format)
{
    struct bench *b = new_zephyr_bench(0x8000, 512);
    const uint8_t *rx = b->region + 16820, *tx = b->region + 16388;
    const uint8_t *rx_avail = rx + 256, *rx_used = rx + 296;
    const uint8_t *tx_avail = tx + 256, *tx_used = tx + 296;

    memset(b->region, 0xee, b->size);
    open_side(b, HOST);
    CHECK_EQUAL(b->region[0], 4);
    CHECK_EQUAL(get(rx_avail, 2), 0);           /* ring us */
    CHECK_EQUAL(get(rx_avail + 2, 2), 16);
    CHECK_EQUAL(get(rx_avail + 4 + 2 * 15, 2), 15);
    CHECK_EQUAL(get(rx_used, 4), 0);
    CHECK_EQUAL(get(rx + 16, 4), 0x56789000 + 4 + 512);
    CHECK_EQUAL(get(rx + 20, 4), 0x1234);
    CHECK_EQUAL(get(rx + 24, 4), 512);
    CHECK_EQUAL(get(rx + 28, 2), 2);            /* for the remote to write */
    CHECK_EQUAL(get(tx_avail, 2), 1);           /* do not ring us */
    CHECK_EQUAL(get(tx_avail + 2, 2), 0);
    CHECK_EQUAL(get(tx_used, 4), 0);
    CHECK_EQUAL(get(tx, 4), 0x56789000 + 4 + 16 * 512);
    CHECK_EQUAL(get(tx + 12, 2), 0);

    /* a remote announces itself */
    open_side(b, REMOTE);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], "one"), 0);
    CHECK_EQUAL(get(rx_used, 2), 1);
    CHECK_EQUAL(get(rx_used + 2, 2), 1);
    CHECK_EQUAL(get(rx_used + 4, 4), 0);
    CHECK_EQUAL(get(rx_used + 8, 4), 512);
    CHECK_EQUAL(get(b->region + 4, 4), 1024);
    CHECK_EQUAL(get(b->region + 8, 4), 53);
    CHECK_EQUAL(get(b->region + 12, 4), 0);
    CHECK_EQUAL(get(b->region + 16, 4), 40);
    CHECK_EQUAL(memcmp(b->region + 20, "one\0\0\0\0", 8), 0);
    CHECK_EQUAL(get(b->region + 20 + 32, 4), 1024);
    CHECK_EQUAL(get(b->region + 20 + 36, 4), 0);

    /* the host answers with an empty message, and gives the buffer back */
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], "zero"), 0);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], "one"), 1);
    CHECK_EQUAL(get(rx_avail + 2, 2), 17);
    CHECK_EQUAL(get(tx_avail + 2, 2), 1);
    CHECK_EQUAL(get(b->region + 4 + 8192, 4), 1025);
    CHECK_EQUAL(get(b->region + 4 + 8196, 4), 1024);
    CHECK_EQUAL(get(b->region + 4 + 8204, 4), 0);

    CHECK_EQUAL(send_text(b, HOST, 1, "hello"), 0);
    CHECK_EQUAL(get(tx_avail + 6, 2), 1);
    CHECK_EQUAL(get(b->region + 4 + 8192 + 512 + 12, 4), 5);
    CHECK_EQUAL(memcmp(b->region + 4 + 8192 + 512 + 16, "hello\0\0", 8), 0);
    expect_text(b, REMOTE, 0, "hello");
    CHECK_EQUAL(get(tx_used + 2, 2), 2);
    CHECK_EQUAL(get(tx_used + 12, 4), 1);

    ivshmem_rpmsg_close(&b->side[REMOTE]);
    CHECK_EQUAL(get(b->region + 516 + 16 + 32, 4), 1024);
    CHECK_EQUAL(get(b->region + 516 + 16 + 36, 4), 1);
    ivshmem_rpmsg_close(&b->side[HOST]);
    CHECK_EQUAL(b->region[0], 0);
    free_bench(b);
}

TEST(bad_memory_is_refused)
{
    struct bench *b = new_zephyr_bench(0x1000, 64);
    const struct ivshmem_rpmsg_config good = config_of(b, HOST);
    struct ivshmem_rpmsg_config bad[] = {
        good, good, good, good, good, good, good, good, good, good, good, good,
    };
    struct ivshmem_rpmsg rpmsg;

    bad[0].memory = b->region + 2;
    bad[1].size = b->layout.vring[0];
    bad[2].size = (size_t)1 << 31;
    bad[3].address += 2;
    bad[4].layout.align = 2;
    bad[5].layout.align = 12;
    bad[6].layout.count = 0;
    bad[7].layout.count = 12;
    bad[8].layout.count = 32;
    bad[9].layout.buffer_size = 16;
    bad[10].layout.buffer_size = 66;
    bad[11].layout.status = 0x1000;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK_EQUAL(ivshmem_rpmsg_open(&rpmsg, &bad[i]),
                    IVSHMEM_RPMSG_BAD_MEMORY);
        CHECK_EQUAL(ivshmem_rpmsg_poll(&rpmsg), IVSHMEM_RPMSG_DEAD);
    }
    for (size_t i = 0; i < b->size; i++) {
        CHECK_EQUAL(b->region[i], 0);
    }
    free_bench(b);
}

TEST(remote_waits_for_the_host)
{
    struct bench *b = new_zephyr_bench(0x1000, 128);

    open_side(b, REMOTE);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], "endpoint"), 0);
    CHECK(!ivshmem_rpmsg_doorbell(&b->side[REMOTE]));
    CHECK_EQUAL(receive(b, REMOTE), IVSHMEM_RPMSG_EMPTY);
    CHECK_EQUAL(send_text(b, REMOTE, 0, "x"), IVSHMEM_RPMSG_NOT_BOUND);
    CHECK_EQUAL(b->side[REMOTE].state, IVSHMEM_RPMSG_OPENING);
    open_side(b, HOST);
    CHECK(ivshmem_rpmsg_doorbell(&b->side[HOST]));
    CHECK_EQUAL(ivshmem_rpmsg_poll(&b->side[REMOTE]), IVSHMEM_RPMSG_LINKED);
    settle(b);
    /* the announcement came before the host had one of this name */
    CHECK(!ivshmem_rpmsg_bound(&b->side[REMOTE], 0));
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], "endpoint"), 0);
    settle(b);
    CHECK(ivshmem_rpmsg_bound(&b->side[HOST], 0));
    CHECK(ivshmem_rpmsg_bound(&b->side[REMOTE], 0));
    talk(b, 10);
    free_bench(b);
}

TEST(messages_arrive)
{
    for (uint32_t buffer_size = 56; buffer_size < 600; buffer_size += 12) {
        struct bench *b = new_zephyr_bench(2 * buffer_size + 1000, buffer_size);

        link_both(b);
        talk(b, 1000);
        free_bench(b);
    }
}

/* Indices have 16 bits, and go around. */
TEST(more_messages_than_an_index_counts)
{
    struct bench *b = new_zephyr_bench(0x1000, 128);

    link_both(b);
    talk(b, 3 * 65536);
    free_bench(b);
}

TEST(lite)
{
    struct bench *b = new_bench(0x4000);
    uint8_t *tx_used = b->region + 0x400 + 16 * 16 + 48, *avail;

    CHECK_EQUAL(ivshmem_rpmsg_layout_lite(&b->layout, b->size, 256, 16, 0x400,
                                          16), 0);
    link_both(b);
    talk(b, 1000);

    /* rpmsg-lite begins with all its buffers used, and returned */
    open_side(b, HOST);
    CHECK_EQUAL(get(tx_used + 2, 2), 16);
    open_side(b, REMOTE);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], "lite"), 0);
    CHECK_EQUAL(receive(b, REMOTE), IVSHMEM_RPMSG_EMPTY);
    avail = b->region + 0x400 + 16 * 16;
    set16(avail + 4, 3);                        /* its buffer number 3 */
    memcpy(b->region + 0x800 + (16 + 3) * 256,
           (uint8_t[]) { 7, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
                         'h', 'i' }, 18);
    set16(avail + 2, 1);
    expect_text(b, REMOTE, 0, "hi");
    CHECK_EQUAL(get(tx_used + 2, 2), 17);
    CHECK_EQUAL(get(tx_used + 4, 4), 3);
    CHECK_EQUAL(b->side[REMOTE].endpoint[0].peer, 7);
    free_bench(b);
}

/* rpmsg-lite's master sets this flag in both vrings, and clears neither. */
TEST(lite_is_rung_though_it_asks_for_no_doorbell)
{
    struct bench *b = new_bench(0x4000);
    uint8_t *avail[2] = { b->region + 16 * 16, b->region + 0x400 + 16 * 16 };

    CHECK_EQUAL(ivshmem_rpmsg_layout_lite(&b->layout, b->size, 256, 16, 0x400,
                                          16), 0);
    open_side(b, HOST);
    set16(avail[0], 1);
    set16(avail[1], 1);
    open_side(b, REMOTE);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], "endpoint"), 0);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], "endpoint"), 0);
    CHECK(ivshmem_rpmsg_doorbell(&b->side[REMOTE]));    /* announced */
    ivshmem_rpmsg_poll(&b->side[HOST]);
    settle(b);
    CHECK_EQUAL(send_text(b, REMOTE, 0, "to the master"), 0);
    CHECK(ivshmem_rpmsg_doorbell(&b->side[REMOTE]));
    expect_text(b, HOST, 0, "to the master");
    /* a buffer that comes back is no message */
    CHECK_EQUAL(send_text(b, HOST, 0, "to the remote"), 0);
    expect_text(b, REMOTE, 0, "to the remote");
    CHECK(!ivshmem_rpmsg_doorbell(&b->side[REMOTE]));
    free_bench(b);
}

TEST(endpoints_and_names)
{
    struct bench *b = new_zephyr_bench(0x8000, 128);
    static const char longest[] = "a name of 31 bytes, and no more";
    char name[2] = "a";

    open_side(b, HOST);
    open_side(b, REMOTE);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], ""), IVSHMEM_RPMSG_BAD_NAME);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST],
                                  "a name of 32 bytes: 1 too many.."),
                IVSHMEM_RPMSG_BAD_NAME);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], longest), 0);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], longest),
                IVSHMEM_RPMSG_BAD_NAME);
    /* in another order, some announced before the host has them */
    for (int i = 0; i < 7; i++, name[0]++) {
        CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], name), i);
    }
    settle(b);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], longest), 7);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], "more"),
                IVSHMEM_RPMSG_FULL);
    settle(b);
    for (int i = 1; i < 8; i++) {
        CHECK(!ivshmem_rpmsg_bound(&b->side[HOST], i));
        name[0]--;
        CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], name), i);
    }
    settle(b);
    for (int i = 0; i < 8; i++) {
        CHECK_EQUAL(send_text(b, HOST, i, "to the remote"), 0);
        expect_text(b, REMOTE, 7 - i, "to the remote");
        CHECK_EQUAL(send_text(b, REMOTE, 7 - i, "to the host"), 0);
        expect_text(b, HOST, i, "to the host");
    }
    CHECK(!ivshmem_rpmsg_bound(&b->side[HOST], -1));
    CHECK(!ivshmem_rpmsg_bound(&b->side[HOST], 8));
    CHECK_EQUAL(send_text(b, HOST, 8, "x"), IVSHMEM_RPMSG_NOT_BOUND);

    ivshmem_rpmsg_close(&b->side[REMOTE]);
    settle(b);
    for (int i = 0; i < 8; i++) {
        CHECK_EQUAL(send_text(b, HOST, i, "x"), IVSHMEM_RPMSG_NOT_BOUND);
    }
    CHECK_EQUAL(send_text(b, REMOTE, 0, "x"), IVSHMEM_RPMSG_BROKEN);

    /* a remote that comes back is told from what is there */
    open_side(b, REMOTE);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], longest), 0);
    settle(b);
    talk(b, 100);
    free_bench(b);
}

TEST(buffers_run_out)
{
    struct bench *b = new_zephyr_bench(0x1000, 256);     /* 4 of each */
    static const uint8_t message[241];

    link_both(b);
    CHECK_EQUAL(b->layout.count, 4);
    for (int i = 0; i < 100; i++) {
        int side = i % 2;

        CHECK_EQUAL(ivshmem_rpmsg_send(&b->side[side], 0, message, 0),
                    IVSHMEM_RPMSG_BAD_LENGTH);
        for (int n = 0; n < 4; n++) {
            /* what was taken for it, and is too short, is not lost */
            CHECK_EQUAL(ivshmem_rpmsg_send(&b->side[side], 0, message, 241),
                        IVSHMEM_RPMSG_BAD_LENGTH);
            CHECK_EQUAL(ivshmem_rpmsg_send(&b->side[side], 0, message, 240),
                        0);
        }
        CHECK(ivshmem_rpmsg_doorbell(&b->side[side]));
        CHECK_EQUAL(send_text(b, side, 0, "x"), IVSHMEM_RPMSG_FULL);
        CHECK(!ivshmem_rpmsg_doorbell(&b->side[side]));
        for (int n = 0; n < 4; n++) {
            CHECK_EQUAL(receive(b, !side), 240);
            /* who sends has asked not to be rung for that */
            CHECK(!ivshmem_rpmsg_doorbell(&b->side[!side]));
        }
        CHECK_EQUAL(receive(b, !side), IVSHMEM_RPMSG_EMPTY);
    }
    free_bench(b);
}

/* What there is to tell waits until there is a buffer for it. */
TEST(announcements_wait_for_buffers)
{
    struct bench *b = new_zephyr_bench(0x600, 256);     /* 2 of each */

    link_both(b);
    CHECK_EQUAL(b->layout.count, 2);
    CHECK_EQUAL(send_text(b, REMOTE, 0, "one"), 0);
    CHECK_EQUAL(send_text(b, REMOTE, 0, "two"), 0);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[REMOTE], "late"), 1);
    CHECK_EQUAL(ivshmem_rpmsg_add(&b->side[HOST], "late"), 1);
    CHECK_EQUAL(send_text(b, HOST, 0, "three"), 0);
    CHECK_EQUAL(send_text(b, HOST, 0, "four"), 0);
    expect_text(b, HOST, 0, "one");
    expect_text(b, HOST, 0, "two");
    ivshmem_rpmsg_poll(&b->side[REMOTE]);
    ivshmem_rpmsg_poll(&b->side[HOST]);
    CHECK(ivshmem_rpmsg_bound(&b->side[HOST], 1));
    CHECK_EQUAL(send_text(b, HOST, 1, "not before the greeting"),
                IVSHMEM_RPMSG_FULL);
    expect_text(b, REMOTE, 0, "three");
    expect_text(b, REMOTE, 0, "four");
    CHECK_EQUAL(send_text(b, HOST, 1, "five"), 0);
    CHECK(!ivshmem_rpmsg_bound(&b->side[REMOTE], 1));
    expect_text(b, REMOTE, 1, "five");
    free_bench(b);
}

TEST(too_long_for_the_callers_buffer)
{
    struct bench *b = new_zephyr_bench(0x1000, 128);
    uint8_t buffer[4];
    int to;

    link_both(b);
    CHECK_EQUAL(send_text(b, HOST, 0, "hello"), 0);
    CHECK_EQUAL(send_text(b, HOST, 0, "next"), 0);
    CHECK_EQUAL(ivshmem_rpmsg_receive(&b->side[REMOTE], &to, buffer,
                                      sizeof(buffer)),
                IVSHMEM_RPMSG_BAD_LENGTH);
    expect_text(b, REMOTE, 0, "next");
    free_bench(b);
}

/* For nobody, from nobody: it is dropped, and its buffer goes back. */
TEST(strange_messages_are_dropped)
{
    struct bench *b = new_zephyr_bench(0x1000, 128);
    static const uint32_t to[] = { 0, 53, 1023, 1025, 1032, 0xffffffff };
    uint8_t *buffer = b->region + b->layout.buffers;

    link_both(b);
    for (int i = 0; i < 100; i++) {
        uint32_t next = b->side[HOST].in.taken & (b->layout.count - 1u);

        CHECK_EQUAL(send_text(b, REMOTE, 0, "strange"), 0);
        set32(buffer + 128 * next + 4, to[i % 6]);
        CHECK_EQUAL(send_text(b, REMOTE, 0, "good"), 0);
        expect_text(b, HOST, 0, "good");
        CHECK_EQUAL(receive(b, HOST), IVSHMEM_RPMSG_EMPTY);
    }
    free_bench(b);
}

/* Each word that a side reads, with what it must not believe */
TEST(nonsense_is_found)
{
    struct bench *b = new_zephyr_bench(0x1000, 128);
    uint32_t count = b->layout.count;
    uint8_t *rx = b->region + b->layout.vring[0];
    uint8_t *tx = b->region + b->layout.vring[1];
    uint8_t *rx_used = rx + 18 * count + 8, *tx_avail = tx + 16 * count;
    const struct {
        int side;
        uint8_t *at;
        unsigned bytes;
        uint32_t value;
    } rows[] = {
        /* one more than it has */
        { HOST, rx_used + 2, 2, 1 + 2 + count },
        { HOST, rx_used + 2, 2, 0 },
        { HOST, rx_used + 4 + 8, 4, count },
        { HOST, rx_used + 4 + 8, 4, 0xffffffff },
        { HOST, b->region + 4 + 128 + 12, 2, 113 },
        { HOST, b->region + 4 + 128 + 12, 2, 0xffff },
        { REMOTE, tx_avail + 2, 2, 1 + 1 + count },
        { REMOTE, tx_avail + 2, 2, 0 },
        { REMOTE, tx_avail + 4 + 2, 2, count },
        { REMOTE, tx + 16, 4, 0x56789000 - 4 },
        { REMOTE, tx + 16, 4, 0x56789000 + 0x1000 - 124 },
        { REMOTE, tx + 16, 4, 0x56789002 },
        { REMOTE, tx + 20, 4, 0x1235 },
        { REMOTE, tx + 24, 4, 12 },
        { REMOTE, tx + 24, 4, 0xffffffff },
        { REMOTE, tx + 24, 4, 126 },
        { REMOTE, tx + 28, 2, 1 },
        { REMOTE, tx + 28, 2, 4 },
    };

    CHECK_EQUAL(rx_used - b->region, (rx - b->region) + 296 -
                (16 - (int)count) * 18);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int side = rows[i].side;

        memset(b->region, 0, b->size);
        link_both(b);
        /* the remote's second buffer, as the host's: there was a name */
        CHECK_EQUAL(send_text(b, !side, 0, "text"), 0);
        if (rows[i].bytes == 2) {
            set16(rows[i].at, rows[i].value);
        } else {
            set32(rows[i].at, rows[i].value);
        }
        CHECK_EQUAL(receive(b, side), IVSHMEM_RPMSG_BROKEN);
        CHECK_EQUAL(ivshmem_rpmsg_poll(&b->side[side]), IVSHMEM_RPMSG_DEAD);
        CHECK_EQUAL(send_text(b, side, 0, "x"), IVSHMEM_RPMSG_BROKEN);
        ivshmem_rpmsg_close(&b->side[side]);
    }
    free_bench(b);
}

TEST(memory_may_contain_anything)
{
    struct bench *b = new_zephyr_bench(0x1000, 128);
    uint32_t random = 11;

    for (int round = 0; round < 2000; round++) {
        for (size_t i = 0; i < b->size; i += 4) {
            set32(b->region + i, next_random(&random));
        }
        open_side(b, REMOTE);
        ivshmem_rpmsg_add(&b->side[REMOTE], "endpoint");
        CHECK(receive(b, REMOTE) < 0);
        link_both(b);       /* the host writes all that counts */
        talk(b, 5);
    }
    free_bench(b);
}

static void scribble(struct bench *b, uint32_t *random)
{
    size_t at = next_random(random) % b->size / 4 * 4;

    switch (next_random(random) % 4) {
    case 0:
        set32(b->region + at, next_random(random));
        break;
    case 1:     /* somewhere in the vrings */
        at = b->layout.vring[1] +
             next_random(random) % (b->size - b->layout.vring[1]) / 2 * 2;
        set16(b->region + at, next_random(random) % 8);
        break;
    case 2:     /* the head of a buffer */
        at = b->layout.buffers + 4 * (next_random(random) % 4) +
             b->layout.buffer_size * (next_random(random) % 8);
        set32(b->region + at, next_random(random) % 2000);
        break;
    default:
        break;
    }
}

TEST(hostile_peer)
{
    struct bench *b = new_zephyr_bench(0x400, 80);
    unsigned linked = 0, received = 0, broken = 0;
    uint32_t random = 5;

    for (int round = 0; round < 20000; round++) {
        int victim = round & 1;

        memset(b->region, 0, b->size);
        link_both(b);
        for (int step = 0; step < 30; step++) {
            uint8_t message[100] = { 0 };
            int32_t result;

            scribble(b, &random);
            switch (next_random(&random) % 4) {
            case 0:
                ivshmem_rpmsg_send(&b->side[victim], 0, message,
                                   next_random(&random) % sizeof(message));
                break;
            case 1:
                if (ivshmem_rpmsg_poll(&b->side[victim]) ==
                    IVSHMEM_RPMSG_DEAD) {
                    open_side(b, victim);
                    ivshmem_rpmsg_add(&b->side[victim], "endpoint");
                }
                break;
            case 2:
                send_text(b, !victim, 0, "among all that, a message");
                break;
            default:
                result = receive(b, victim);
                CHECK(result <= (int32_t)b->size);
                received += result > 0;
                broken += result == IVSHMEM_RPMSG_BROKEN;
                break;
            }
            linked += b->side[victim].state == IVSHMEM_RPMSG_LINKED;
        }
    }
    free_bench(b);
    /* it was not all in vain */
    CHECK(linked > 1000 && received > 1000 && broken > 1000);
}

/*
 * The same at the same time, from another thread
 */
struct vandal {
    struct bench *bench;
    bool stop;
};

static void *write_anything(void *opaque)
{
    struct vandal *v = opaque;
    uint32_t random = 3;

    while (!__atomic_load_n(&v->stop, __ATOMIC_RELAXED)) {
        scribble(v->bench, &random);
    }
    return NULL;
}

static void suffer_vandal(int side)
{
    struct vandal v = { .bench = new_zephyr_bench(0x400, 80) };
    pthread_t thread;

    open_side(v.bench, HOST);
    open_side(v.bench, side);
    CHECK_EQUAL(pthread_create(&thread, NULL, write_anything, &v), 0);
    for (int i = 0; i < 300000; i++) {
        if (ivshmem_rpmsg_poll(&v.bench->side[side]) == IVSHMEM_RPMSG_DEAD) {
            open_side(v.bench, HOST);
            open_side(v.bench, side);
            ivshmem_rpmsg_add(&v.bench->side[side], "endpoint");
        }
        send_text(v.bench, side, 0, "hello");
        CHECK(receive(v.bench, side) <= 0x400);
    }
    __atomic_store_n(&v.stop, true, __ATOMIC_RELAXED);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    free_bench(v.bench);
}

TEST_OF_THREADS(hostile_peer_at_the_same_time)
{
    suffer_vandal(HOST);
    suffer_vandal(REMOTE);
}

/*
 * Two threads, each of which sleeps until its doorbell rings: one that is lost
 * fails the test.
 */
#define MESSAGES 20000

struct talker {
    struct bench *bench;
    int side;
};

static void *run_talker(void *opaque)
{
    const struct talker *t = opaque;
    struct bench *b = t->bench;
    struct ivshmem_rpmsg *rpmsg = &b->side[t->side];
    const uint64_t one = 1;
    uint32_t sent = 0, received = 0;

    open_side(b, t->side);
    CHECK_EQUAL(ivshmem_rpmsg_add(rpmsg, "endpoint"), 0);
    while (sent < MESSAGES || received < MESSAGES) {
        /* the host begins, and then each waits for the other one's */
        bool mine = sent < MESSAGES &&
                    (t->side == HOST ? sent == received : sent < received);
        uint32_t got;
        int to;

        if (mine && ivshmem_rpmsg_send(rpmsg, 0, &sent, sizeof(sent)) == 0) {
            sent++;
            mine = false;
        }
        if (ivshmem_rpmsg_receive(rpmsg, &to, &got, sizeof(got)) > 0) {
            CHECK_EQUAL(got, received);
            received++;
            continue;
        }
        CHECK(rpmsg->state != IVSHMEM_RPMSG_DEAD);
        if (ivshmem_rpmsg_doorbell(rpmsg)) {
            CHECK_EQUAL(write(b->doorbell[!t->side], &one, sizeof(one)), 8);
        }
        if (mine && ivshmem_rpmsg_bound(rpmsg, 0)) {
            sched_yield();          /* no buffer: nobody rings for that */
        } else if (sent < MESSAGES || received < MESSAGES) {
            sleep_until_rung(b->doorbell[t->side]);
        }
    }
    return NULL;
}

TEST_OF_THREADS(threads_talk)
{
    struct bench *b = new_zephyr_bench(0x1000, 128);
    struct talker remote = { b, REMOTE }, host = { b, HOST };
    pthread_t thread;

    CHECK_EQUAL(pthread_create(&thread, NULL, run_talker, &remote), 0);
    run_talker(&host);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    free_bench(b);
}

int main(int argc, char **argv)
{
    return run_test(argc == 2 ? argv[1] : NULL);
}
