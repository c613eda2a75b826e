/*
 * Tests of the message layer on the host
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * msg_test KIND NAME runs one test and ends with 0 if it passes; msg_test.py
 * runs them all, with and without sanitizers, on both kinds of links: "plain",
 * and with a "crc". A doorbell is an eventfd here, as it
 * is between QEMUs, and each wait for one has a deadline: a doorbell that is
 * lost fails the test.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "exchange.h"
#include "ivshmem_msg.h"

#define MAX_IDS 512

/* Which kind of link it is: for ivshmem_msg_open() */
static uint32_t link_flags;

/*
 * Shared memory between two inaccessible pages, so that a step too far is
 * a crash, and the doorbell of each id
 */
struct bench {
    uint8_t *memory;
    size_t size;
    int doorbell[MAX_IDS];
};

static struct bench *new_bench(size_t size)
{
    size_t page = (size_t)getpagesize();
    size_t pages = (size + page - 1) / page * page;
    struct bench *b = malloc(sizeof(*b));
    uint8_t *map = mmap(NULL, pages + 2 * page, PROT_NONE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(map != MAP_FAILED);
    CHECK_EQUAL(mprotect(map + page, pages, PROT_READ | PROT_WRITE), 0);
    memset(b->doorbell, -1, sizeof(b->doorbell));
    /* the end is the strict side; size must keep the start aligned */
    b->memory = map + page + pages - size;
    b->size = size;
    return b;
}

static void free_bench(struct bench *b)
{
    size_t page = (size_t)getpagesize();
    size_t pages = (b->size + page - 1) / page * page;

    munmap(b->memory + b->size - pages - page, pages + 2 * page);
    for (int i = 0; i < MAX_IDS; i++) {
        if (b->doorbell[i] >= 0) {
            close(b->doorbell[i]);
        }
    }
    free(b);
}

static void connect_id(struct bench *b, uint32_t id)
{
    b->doorbell[id] = eventfd(0, EFD_NONBLOCK);
    CHECK(b->doorbell[id] >= 0);
}

static void ring_due(struct bench *b, struct ivshmem_msg *msg)
{
    int32_t id;

    while ((id = ivshmem_msg_doorbell(msg)) >= 0) {
        uint64_t one = 1;

        /* ids of the dead and of strangers are ignored, as the device does */
        if (id < MAX_IDS && b->doorbell[id] >= 0) {
            CHECK_EQUAL(write(b->doorbell[id], &one, sizeof(one)), 8);
        }
    }
}

static void open_msg(struct bench *b, struct ivshmem_msg *msg, unsigned slots,
                     int slot, uint32_t id)
{
    CHECK_EQUAL(ivshmem_msg_open(msg, b->memory, b->size, slots, slot, id,
                                 link_flags), 0);
}

/* Poll both in turn until neither sees anything new. */
static void settle(struct ivshmem_msg *a, struct ivshmem_msg *b)
{
    int32_t changed;

    do {
        changed = ivshmem_msg_poll(a);
        changed |= ivshmem_msg_poll(b);
    } while (changed > 0);
    while (ivshmem_msg_doorbell(a) >= 0 || ivshmem_msg_doorbell(b) >= 0) {
        continue;
    }
}

static void open_pair(struct bench *b, struct ivshmem_msg *one,
                      struct ivshmem_msg *other, unsigned slots)
{
    open_msg(b, one, slots, 0, 0);
    open_msg(b, other, slots, 1, 1);
    settle(one, other);
    CHECK_EQUAL(one->peer[1].state, IVSHMEM_MSG_LINKED);
    CHECK_EQUAL(other->peer[0].state, IVSHMEM_MSG_LINKED);
}

static uint32_t word(const struct bench *b, size_t offset)
{
    const uint8_t *p = b->memory + offset;

    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static void set_word(struct bench *b, size_t offset, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)(b->memory + offset), value,
                     __ATOMIC_RELEASE);
}

/* Offsets as the header's comment gives them, independently of the code */
static size_t entry_at(unsigned slot)
{
    return 64 * slot;
}

static size_t side_at(unsigned slots, unsigned writer, unsigned reader)
{
    return 64 * slots + 64 * (writer * slots + reader);
}

static size_t ring_at(const struct ivshmem_msg *msg, unsigned writer,
                      unsigned reader)
{
    unsigned slots = msg->slots;

    return 64 * slots + 64 * slots * slots +
           (size_t)(writer * (slots - 1) + reader - (reader > writer)) *
           msg->ring_size;
}

TEST(crc_known_answers)
{
    uint32_t crc;

    CHECK_EQUAL(ivshmem_msg_crc(0, "", 0), 0);
    CHECK_EQUAL(ivshmem_msg_crc(0, "123456789", 9), 0xcbf43926);
    CHECK_EQUAL(ivshmem_msg_crc(0, "\0\0\0\0", 4), 0x2144df1c);
    CHECK_EQUAL(ivshmem_msg_crc(0, "\xff\xff\xff\xff", 4), 0xffffffff);
    crc = ivshmem_msg_crc(0, "1234", 4);
    CHECK_EQUAL(ivshmem_msg_crc(crc, "56789", 5), 0xcbf43926);
}

/* Bit by bit, as the polynomial has it */
static uint32_t slow_crc(const uint8_t *data, size_t length)
{
    uint32_t crc = ~0u;

    while (length--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        }
    }
    return ~crc;
}

TEST(crc_by_words_at_any_alignment)
{
    uint8_t data[80] __attribute__((aligned(8)));
    uint32_t random = 1;

    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(next_random(&random) >> 24);
    }
    for (size_t start = 0; start < 8; start++) {
        for (size_t length = 0; start + length <= sizeof(data); length++) {
            uint32_t expected = slow_crc(data + start, length);
            size_t part = next_random(&random) % (length + 1);
            uint32_t crc = ivshmem_msg_crc(0, data + start, part);

            CHECK_EQUAL(ivshmem_msg_crc(0, data + start, length), expected);
            CHECK_EQUAL(ivshmem_msg_crc(crc, data + start + part,
                                        length - part), expected);
        }
    }
}

TEST(ring_sizes)
{
    const size_t mib = 1 << 20;

    CHECK_EQUAL(ivshmem_msg_ring_size(4 * mib, 2), 1 * mib);
    CHECK_EQUAL(ivshmem_msg_ring_size(4 * mib, 4), 256 << 10);
    CHECK_EQUAL(ivshmem_msg_ring_size(4 * mib, 8), 64 << 10);
    CHECK_EQUAL(ivshmem_msg_ring_size(4 * mib, 16), 16 << 10);
    CHECK_EQUAL(ivshmem_msg_ring_size(16 * mib, 8), 256 << 10);
    /* directory and sides, then two rings of 256 bytes, and not one less */
    CHECK_EQUAL(ivshmem_msg_ring_size(6 * 64 + 512, 2), 256);
    CHECK_EQUAL(ivshmem_msg_ring_size(6 * 64 + 511, 2), 0);
    CHECK_EQUAL(ivshmem_msg_ring_size(0, 2), 0);
    CHECK_EQUAL(ivshmem_msg_ring_size(4 * mib, 1), 0);
    CHECK_EQUAL(ivshmem_msg_ring_size(4 * mib, IVSHMEM_MSG_MAX_SLOTS + 1), 0);
    CHECK_EQUAL(ivshmem_msg_ring_size((size_t)-1, 2), 1 << 30);
}

TEST(bad_memory_is_refused)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg msg;

    CHECK_EQUAL(ivshmem_msg_open(&msg, b->memory, 1024, 8, 0, 0, link_flags),
                IVSHMEM_MSG_BAD_MEMORY);
    CHECK_EQUAL(ivshmem_msg_open(&msg, b->memory + 4, 32768, 4, 0, 0,
                                 link_flags), IVSHMEM_MSG_BAD_MEMORY);
    CHECK_EQUAL(ivshmem_msg_open(&msg, b->memory, b->size, 4, 4, 0,
                                 link_flags), IVSHMEM_MSG_BAD_MEMORY);
    CHECK_EQUAL(ivshmem_msg_open(&msg, b->memory, b->size, 4, 0, 0,
                                 link_flags | 2), IVSHMEM_MSG_BAD_MEMORY);
    for (size_t i = 0; i < b->size; i++) {
        CHECK_EQUAL(b->memory[i], 0);
    }
    free_bench(b);
}

/* Byte for byte what stands in memory: this is what other programs rely on. */
TEST(wire_format)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    static const uint8_t message[] = {
        5, 0, 0, 0,  0, 0, 0, 0,  0xef, 0xbe, 0xad, 0xde,  0, 0, 0, 0,
        'h', 'e', 'l', 'l', 'o',
    };
    uint32_t crc = link_flags ? 0xe5c809f4 : 0;     /* by zlib.crc32() */

    open_pair(b, &one, &other, 4);
    CHECK_EQUAL(one.ring_size, 4096);
    CHECK_EQUAL(memcmp(b->memory + entry_at(1), "IVM1", 4), 0);
    CHECK_EQUAL(word(b, entry_at(1) + 4),
                (link_flags ? 1 << 24 : 0) | 2 << 16 | 4 << 8 | 12);
    CHECK_EQUAL(word(b, entry_at(1) + 8), 1);
    CHECK_EQUAL(word(b, entry_at(1) + 12), 1);
    CHECK_EQUAL(word(b, entry_at(1) + 16), 1);
    CHECK_EQUAL(word(b, entry_at(1) + 20), 1);
    CHECK_EQUAL(word(b, side_at(4, 0, 1)), 1 << 16 | 1);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 4), 0);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 8), 0);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 12), 1);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 16), 0);

    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0xdeadbeef, "hello", 5), 0);
    CHECK_EQUAL(word(b, ring_at(&one, 0, 1) + 12), crc);
    set_word(b, ring_at(&one, 0, 1) + 12, 0);
    CHECK_EQUAL(memcmp(b->memory + ring_at(&one, 0, 1), message,
                       sizeof(message)), 0);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 4), 32);
    free_bench(b);
}

TEST(peers_find_each_other)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;

    /* the first finds nobody and has nobody to ring */
    open_msg(b, &one, 4, IVSHMEM_MSG_ANY_SLOT, 6);
    CHECK_EQUAL(one.slot, 2);
    CHECK_EQUAL(one.former, -1);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);

    /* the second greets the first, whenever it comes */
    open_msg(b, &other, 4, IVSHMEM_MSG_ANY_SLOT, 7);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 1 << 2);
    CHECK_EQUAL(other.peer[2].state, IVSHMEM_MSG_GREETING);
    CHECK_EQUAL(ivshmem_msg_send(&other, 2, 0, NULL, 0), IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), 6);
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), -1);

    /* which answers, and both are linked */
    CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 3);
    CHECK_EQUAL(one.peer[3].state, IVSHMEM_MSG_LINKED);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 7);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 1 << 2);
    CHECK_EQUAL(other.peer[2].state, IVSHMEM_MSG_LINKED);
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), -1);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 0);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 0);
    free_bench(b);
}

TEST(messages_arrive)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    char buffer[16];

    open_pair(b, &one, &other, 2);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16),
                IVSHMEM_MSG_EMPTY);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 7, "first", 5), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 8, NULL, 0), 0);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 9, "last", 4), 0);
    /* one doorbell for a batch */
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);

    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 5);
    CHECK(!memcmp(buffer, "first", 5));
    CHECK_EQUAL(header.type, 7);
    CHECK_EQUAL(header.sequence, 0);
    CHECK_EQUAL(header.length, 5);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, NULL, 0), 0);
    CHECK_EQUAL(header.sequence, 1);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 3),
                IVSHMEM_MSG_TOO_LONG);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16),
                IVSHMEM_MSG_EMPTY);
    /* nobody waits for space, so nobody is rung for it */
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), -1);
    CHECK_EQUAL(other.peer[0].received, 2);
    CHECK_EQUAL(other.peer[0].too_long, 1);
    CHECK_EQUAL(other.peer[0].gaps, 0);
    /* there is no ring to oneself, nor to an empty slot */
    CHECK_EQUAL(ivshmem_msg_send(&one, 0, 0, NULL, 0), IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_receive(&one, 0, &header, buffer, 16),
                IVSHMEM_MSG_NO_LINK);
    free_bench(b);
}

TEST(full_ring)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    static uint8_t data[32 << 10], buffer[32 << 10];
    uint32_t max;

    open_pair(b, &one, &other, 2);
    max = one.ring_size - sizeof(header);
    for (uint32_t i = 0; i < max; i++) {
        data[i] = (uint8_t)(i * 7);
    }
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, data, max + 1),
                IVSHMEM_MSG_TOO_LONG);
    /* a message as long as the ring, at each alignment of its start */
    for (int i = 0; i < 5; i++) {
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "x", 1), 0);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 1), 1);
        while (ivshmem_msg_doorbell(&one) >= 0) {
            continue;
        }
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, data, max), 0);
        CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, NULL, 0), IVSHMEM_MSG_FULL);
        CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, max), max);
        CHECK(!memcmp(buffer, data, max));
        /* who waits for space is rung when there is some */
        CHECK_EQUAL(ivshmem_msg_doorbell(&other), 0);
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "x", 1), 0);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 1), 1);
        CHECK_EQUAL(ivshmem_msg_doorbell(&other), -1);
    }
    free_bench(b);
}

/* The caller's side of a copy need not be aligned, nor its length a word's. */
TEST(copies_at_any_alignment)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 256);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    uint8_t data[8 + 240], buffer[8 + 240 + 8];

    open_pair(b, &one, &other, 2);
    for (uint32_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7);
    }
    for (uint32_t start = 0; start < 8; start++) {
        for (uint32_t length = 0; length <= 240; length++) {
            memset(buffer, 0xaa, sizeof(buffer));
            CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, data + start, length), 0);
            CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer + start,
                                            length), length);
            CHECK(!memcmp(buffer + start, data + start, length));
            for (uint32_t i = 0; i < sizeof(buffer); i++) {
                CHECK((i >= start && i < start + length) || buffer[i] == 0xaa);
            }
        }
    }
    free_bench(b);
}

/* What a caller does in place, byte by byte, over both parts of a span. */
static void fill_span(const struct ivshmem_msg_span span[2], uint32_t start)
{
    for (int part = 0; part < 2; part++) {
        for (uint32_t i = 0; i < span[part].length; i++) {
            ((volatile uint8_t *)span[part].data)[i] = (uint8_t)(start++ * 7);
        }
    }
}

static void check_span(const struct ivshmem_msg_span span[2], uint32_t start)
{
    for (int part = 0; part < 2; part++) {
        for (uint32_t i = 0; i < span[part].length; i++) {
            CHECK_EQUAL(((volatile uint8_t *)span[part].data)[i],
                        (uint8_t)(start++ * 7));
        }
    }
}

/* Each length at each place of a ring, over its end too, without a copy. */
TEST(messages_in_place)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 256);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    struct ivshmem_msg_span span[2];
    uint32_t sequence = 0, wrapped = 0;

    open_pair(b, &one, &other, 2);
    CHECK_EQUAL(one.ring_size, 256);
    for (uint32_t length = 0; length <= 240; length++) {
        for (int times = 0; times < 17; times++, sequence++) {
            CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, length, span), 0);
            CHECK_EQUAL(span[0].length + span[1].length, length);
            CHECK_EQUAL((uintptr_t)span[0].data % IVSHMEM_MSG_ALIGN, 0);
            CHECK_EQUAL((uintptr_t)span[1].data % IVSHMEM_MSG_ALIGN, 0);
            fill_span(span, sequence);
            CHECK_EQUAL(ivshmem_msg_commit(&one, 1, ~sequence, length), 0);
            CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
            CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span), length);
            CHECK_EQUAL(header.sequence, sequence);
            CHECK_EQUAL(header.type, ~sequence);
            CHECK_EQUAL(span[0].length + span[1].length, length);
            check_span(span, sequence);
            wrapped += span[1].length != 0;
            ivshmem_msg_release(&other, 0);
            CHECK_EQUAL(ivshmem_msg_doorbell(&other), -1);
        }
    }
    CHECK(wrapped > 0);
    CHECK_EQUAL(other.peer[0].received, sequence);
    CHECK_EQUAL(other.peer[0].gaps, 0);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 241, span),
                IVSHMEM_MSG_TOO_LONG);
    free_bench(b);
}

/* Nothing is seen, and nothing stored but in the ring, before publish. */
TEST(a_batch_is_published_at_once)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    struct ivshmem_msg_span span[2];
    char buffer[16];

    open_pair(b, &one, &other, 2);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 5, span), 0);
        fill_span(span, i);
        CHECK_EQUAL(ivshmem_msg_commit(&one, 1, i, 5), 0);
        CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span),
                    IVSHMEM_MSG_EMPTY);
    }
    CHECK_EQUAL(word(b, side_at(2, 0, 1) + 4), 0);
    ivshmem_msg_publish(&one, 1);
    CHECK_EQUAL(word(b, side_at(2, 0, 1) + 4), 96);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);

    for (uint32_t i = 0; i < 3; i++) {
        /* as often as one likes, and it counts once */
        CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span), 5);
        CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span), 5);
        CHECK_EQUAL(header.type, i);
        check_span(span, i);
        CHECK_EQUAL(other.peer[0].received, i);
        ivshmem_msg_release(&other, 0);
        ivshmem_msg_release(&other, 0);
        CHECK_EQUAL(other.peer[0].received, i + 1);
    }
    CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span),
                IVSHMEM_MSG_EMPTY);
    CHECK_EQUAL(word(b, side_at(2, 1, 0) + 8), 0);
    ivshmem_msg_publish(&other, 0);
    CHECK_EQUAL(word(b, side_at(2, 1, 0) + 8), 96);
    CHECK_EQUAL(other.peer[0].gaps, 0);

    /* send and receive publish, close too, and doorbell for all */
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 0, span), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 0), 0);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "x", 1), 0);
    CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span), 0);
    ivshmem_msg_release(&other, 0);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 1);
    CHECK_EQUAL(word(b, side_at(2, 1, 0) + 8), word(b, side_at(2, 0, 1) + 4));
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 0, span), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 9, 0), 0);
    ivshmem_msg_close(&one);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 0);
    CHECK_EQUAL(header.type, 9);
    free_bench(b);
}

TEST(what_is_reserved_is_not_yet_said)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 256);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    struct ivshmem_msg_span span[2];
    char buffer[240];

    open_pair(b, &one, &other, 2);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 0), IVSHMEM_MSG_NO_LINK);
    /* the longest that may come, and then what came; or nothing */
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 240, span), 0);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 100, span), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 113), IVSHMEM_MSG_TOO_LONG);
    fill_span(span, 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 7), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 7), IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 100, span), 0);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "instead", 7), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 7), IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 240), 7);
    for (uint32_t i = 0; i < 7; i++) {
        CHECK_EQUAL((uint8_t)buffer[i], (uint8_t)(i * 7));
    }
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 240), 7);
    CHECK(!memcmp(buffer, "instead", 7));

    /* a full ring is empty only when that is published */
    while (ivshmem_msg_doorbell(&one) >= 0) {
        continue;
    }
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 240, span), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 240), 0);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 0, span), IVSHMEM_MSG_FULL);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 0), IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span), 240);
    ivshmem_msg_release(&other, 0);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 0, span), IVSHMEM_MSG_FULL);
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), 0);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 240, span), 0);

    /* what was reserved, committed and peeked at ends with the session */
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 0, span), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 0), 0);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 8, span), 0);
    CHECK_EQUAL(ivshmem_msg_send(&other, 0, 0, NULL, 0), 0);
    CHECK_EQUAL(ivshmem_msg_peek(&one, 1, &header, span), 0);
    open_msg(b, &other, 2, 1, 2);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 8, span), IVSHMEM_MSG_NO_LINK);
    settle(&one, &other);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 8), IVSHMEM_MSG_NO_LINK);
    ivshmem_msg_release(&one, 1);
    ivshmem_msg_publish(&one, 1);
    CHECK_EQUAL(word(b, side_at(2, 0, 1) + 4), 0);
    CHECK_EQUAL(word(b, side_at(2, 0, 1) + 8), 0);
    CHECK_EQUAL(ivshmem_msg_peek(&other, 0, &header, span),
                IVSHMEM_MSG_EMPTY);

    /* who has lost its slot publishes nothing in it */
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 0, span), 0);
    CHECK_EQUAL(ivshmem_msg_commit(&one, 1, 0, 0), 0);
    open_msg(b, &other, 2, 0, 3);
    ivshmem_msg_publish(&one, 1);
    ivshmem_msg_doorbell(&one);
    ivshmem_msg_close(&one);
    CHECK_EQUAL(word(b, side_at(2, 0, 1) + 4), 0);
    CHECK_EQUAL(ivshmem_msg_reserve(&one, 1, 0, span), IVSHMEM_MSG_EVICTED);
    CHECK_EQUAL(ivshmem_msg_peek(&one, 1, &header, span),
                IVSHMEM_MSG_EVICTED);
    free_bench(b);
}

TEST(doorbells_on_demand)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;

    open_pair(b, &one, &other, 2);
    CHECK(!ivshmem_msg_want_doorbell(&other, 0, false));
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, NULL, 0), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);
    /* who wants to sleep is told that a message is there already */
    CHECK(ivshmem_msg_want_doorbell(&other, 0, true));
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, NULL, 0), 0);
    CHECK(!ivshmem_msg_want_doorbell(&other, 0, true));
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, NULL, 0), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    free_bench(b);
}

TEST(last_words_are_heard)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    char buffer[16];

    open_pair(b, &one, &other, 2);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "farewell", 8), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    ivshmem_msg_close(&one);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 1 << 0);
    CHECK_EQUAL(other.peer[0].state, IVSHMEM_MSG_LEFT);
    CHECK_EQUAL(ivshmem_msg_send(&other, 0, 0, "wait", 4),
                IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 8);
    CHECK(!memcmp(buffer, "farewell", 8));
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16),
                IVSHMEM_MSG_EMPTY);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 0);
    free_bench(b);
}

TEST(peer_comes_back_after_a_crash)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    char buffer[16];

    open_pair(b, &one, &other, 2);
    for (uint32_t id = 2; id < 200; id++) {
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "never read", 10), 0);
        CHECK_EQUAL(ivshmem_msg_send(&other, 0, 0, "nor this", 8), 0);
        /* no goodbye; another id, the same place */
        open_msg(b, &other, 2, 1, id);
        CHECK_EQUAL(other.former, id - 1);
        /* the one does not know yet, and talks to the dead */
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "x", 1),
                    IVSHMEM_MSG_NO_LINK);
        CHECK_EQUAL(ivshmem_msg_receive(&one, 1, &header, buffer, 16),
                    IVSHMEM_MSG_NO_LINK);
        CHECK_EQUAL(ivshmem_msg_poll(&other), 1 << 0);
        CHECK_EQUAL(ivshmem_msg_doorbell(&other), 0);
        CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 1);
        CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
        CHECK_EQUAL(one.peer[1].id, id);
        CHECK_EQUAL(ivshmem_msg_doorbell(&one), id);
        CHECK_EQUAL(ivshmem_msg_poll(&other), 1 << 0);
        CHECK_EQUAL(ivshmem_msg_receive(&one, 1, &header, buffer, 16),
                    IVSHMEM_MSG_EMPTY);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16),
                    IVSHMEM_MSG_EMPTY);
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "again", 5), 0);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 5);
        CHECK_EQUAL(header.sequence, 0);
    }
    free_bench(b);
}

TEST(control_is_told_apart)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;

    /* who comes is control */
    open_msg(b, &one, 2, 0, 0);
    open_msg(b, &other, 2, 1, 1);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 1 << 0);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&other), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&other), -1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), -1);

    /* a message is not, and what is due for both is rung for both ... */
    CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 1);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "x", 1), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&one), 1);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&one), -1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);

    /* ... but once only by those who do not ask; leaving is control again */
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "x", 1), 0);
    ivshmem_msg_close(&one);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&one), -1);
    free_bench(b);
}

TEST(peer_moves_to_another_id)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other, late;
    struct ivshmem_msg_header header;
    char buffer[16];

    open_pair(b, &one, &other, 4);
    ivshmem_msg_move(&other, 1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), -1);

    /* messages wait both ways while the two exchange their ids */
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "to other", 8), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 1);
    CHECK_EQUAL(ivshmem_msg_send(&other, 0, 0, "to one", 6), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&other), 0);
    ivshmem_msg_move(&one, 1);
    ivshmem_msg_move(&other, 0);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&one), 1);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&other), 0);

    /* who learns of it rings again: the doorbell before may be lost */
    CHECK_EQUAL(ivshmem_msg_poll(&one), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&one), 0);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell_control(&other), 1);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);

    /* no message is lost or doubled, and the link is the same */
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "more", 4), 0);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), 0);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 8);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 4);
    CHECK_EQUAL(header.sequence, 1);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16),
                IVSHMEM_MSG_EMPTY);
    CHECK_EQUAL(ivshmem_msg_receive(&one, 1, &header, buffer, 16), 6);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
    CHECK_EQUAL(one.peer[1].id, 1);

    /* who comes now rings the new ids, and takes nobody for itself */
    ivshmem_msg_move(&one, 5);
    open_msg(b, &late, 4, IVSHMEM_MSG_ANY_SLOT, 1);
    CHECK_EQUAL(late.slot, 2);
    CHECK_EQUAL(ivshmem_msg_poll(&late), 1 << 0 | 1 << 1);
    CHECK_EQUAL(ivshmem_msg_doorbell(&late), 5);
    CHECK_EQUAL(ivshmem_msg_doorbell(&late), 0);

    /* an id that cannot be one */
    set_word(b, entry_at(0) + 20, 65536);
    CHECK_EQUAL(ivshmem_msg_poll(&late), 1 << 0);
    CHECK_EQUAL(late.peer[0].state, IVSHMEM_MSG_FOREIGN);

    /* who has lost its slot does not move the new owner */
    open_msg(b, &late, 4, 0, 9);
    CHECK_EQUAL(late.former, 0);
    ivshmem_msg_move(&one, 6);
    CHECK_EQUAL(word(b, entry_at(0) + 20), 9);
    free_bench(b);
}

TEST(sessions_wrap)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg msg;

    for (int i = 0; i < 65535; i++) {
        open_msg(b, &msg, 2, 0, 0);
        CHECK_EQUAL(msg.session, i + 1);
    }
    open_msg(b, &msg, 2, 0, 0);
    CHECK_EQUAL(msg.session, 1);
    free_bench(b);
}

TEST(slots_are_chosen)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg first, msg, late;

    open_msg(b, &first, 4, IVSHMEM_MSG_ANY_SLOT, 5);
    CHECK_EQUAL(first.slot, 1);
    /* its place is taken: the next one */
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 9);
    CHECK_EQUAL(msg.slot, 2);
    CHECK_EQUAL(msg.former, -1);
    /* a slot that was left is free again */
    ivshmem_msg_close(&msg);
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 13);
    CHECK_EQUAL(msg.slot, 2);
    /* ids are unique: the own id in a slot is from a former life */
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 13);
    CHECK_EQUAL(msg.slot, 2);
    CHECK_EQUAL(msg.former, -1);
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 3);
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 4);
    /* none is free: somebody must give way, and both are told */
    CHECK_EQUAL(ivshmem_msg_poll(&first) >= 0, 1);
    open_msg(b, &late, 4, IVSHMEM_MSG_ANY_SLOT, 21);
    CHECK_EQUAL(late.slot, 1);
    CHECK_EQUAL(late.former, 5);
    CHECK_EQUAL(ivshmem_msg_poll(&first), IVSHMEM_MSG_EVICTED);
    CHECK_EQUAL(ivshmem_msg_send(&first, 2, 0, NULL, 0), IVSHMEM_MSG_EVICTED);
    CHECK_EQUAL(ivshmem_msg_receive(&first, 2, NULL, NULL, 0),
                IVSHMEM_MSG_EVICTED);
    /* who has lost its slot does not say goodbye for the new owner */
    ivshmem_msg_close(&first);
    CHECK(ivshmem_msg_poll(&late) >= 0);
    free_bench(b);
}

TEST(who_is_said_to_be_gone_makes_room)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg witness, dead, msg;
    uint32_t id;

    open_msg(b, &witness, 4, IVSHMEM_MSG_ANY_SLOT, 0);
    for (id = 1; id < 4; id++) {
        open_msg(b, &dead, 4, IVSHMEM_MSG_ANY_SLOT, id);
    }
    /* of slot 2; and, of the others, of sessions that are long over */
    set_word(b, side_at(4, 0, 2) + 16, 1);
    set_word(b, side_at(4, 0, 1) + 16, 0xffff);
    set_word(b, side_at(4, 0, 3) + 16, 2);
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 8);
    CHECK_EQUAL(msg.slot, 2);
    CHECK_EQUAL(msg.former, -1);
    CHECK(ivshmem_msg_poll(&witness) >= 0);
    /* the new one is not meant */
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 11);
    CHECK_EQUAL(msg.slot, 3);
    CHECK_EQUAL(msg.former, 3);
    /* what stands where a witness would, and none has ever been, says nothing */
    free_bench(b);
    b = new_bench(64 << 10);
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 0);
    set_word(b, side_at(4, 1, 0) + 16, 1);
    open_msg(b, &msg, 4, IVSHMEM_MSG_ANY_SLOT, 4);
    CHECK_EQUAL(msg.slot, 1);
    /* and who moves in has said nothing yet, whatever stands there */
    CHECK_EQUAL(word(b, side_at(4, 1, 0) + 16), 0);
    free_bench(b);
}

TEST(other_layouts_are_noticed)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;

    open_msg(b, &one, 4, 0, 0);
    CHECK_EQUAL(ivshmem_msg_open(&other, b->memory, b->size / 2, 4, 1, 1,
                                 link_flags), 0);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 1);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_FOREIGN);
    CHECK_EQUAL(ivshmem_msg_poll(&other), 1 << 0);
    CHECK_EQUAL(other.peer[0].state, IVSHMEM_MSG_FOREIGN);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, NULL, 0), IVSHMEM_MSG_NO_LINK);
    /* it comes to its senses */
    open_msg(b, &other, 4, 1, 1);
    settle(&one, &other);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
    free_bench(b);
}

TEST(another_choice_of_crc_is_noticed)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;

    open_msg(b, &one, 4, 0, 0);
    CHECK_EQUAL(ivshmem_msg_open(&other, b->memory, b->size, 4, 1, 1,
                                 link_flags ^ IVSHMEM_MSG_CRC), 0);
    settle(&one, &other);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_FOREIGN);
    CHECK_EQUAL(other.peer[0].state, IVSHMEM_MSG_FOREIGN);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, NULL, 0), IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, NULL, 0),
                IVSHMEM_MSG_NO_LINK);
    free_bench(b);
}

/*
 * A peer of the first version says all that makes it one, and stands by a link
 * with us. That version takes every other word of layout than its own for a
 * stranger's.
 */
TEST(first_version_is_noticed)
{
    struct bench *b = new_bench(64 << 10);
    const uint32_t first_layout = 4 << 8 | 12;
    struct ivshmem_msg one, late;
    struct ivshmem_msg_header header;

    open_msg(b, &one, 4, 0, 0);
    CHECK(word(b, entry_at(0) + 4) != first_layout);
    CHECK_EQUAL(word(b, entry_at(0)), IVSHMEM_MSG_MAGIC);
    set_word(b, entry_at(1), IVSHMEM_MSG_MAGIC);
    set_word(b, entry_at(1) + 4, first_layout);
    set_word(b, entry_at(1) + 8, 1);
    set_word(b, entry_at(1) + 12, 1);
    set_word(b, entry_at(1) + 20, 1);
    set_word(b, side_at(4, 1, 0), 1 << 16 | one.session);
    set_word(b, side_at(4, 1, 0) + 4, 16);
    set_word(b, entry_at(1) + 16, 1);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 1);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_FOREIGN);
    CHECK_EQUAL(ivshmem_msg_doorbell(&one), -1);
    CHECK_EQUAL(word(b, side_at(4, 0, 1)), 0);
    CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, NULL, 0), IVSHMEM_MSG_NO_LINK);
    CHECK_EQUAL(ivshmem_msg_receive(&one, 1, &header, NULL, 0),
                IVSHMEM_MSG_NO_LINK);
    /* and nobody takes its slot for free */
    open_msg(b, &late, 4, IVSHMEM_MSG_ANY_SLOT, 5);
    CHECK_EQUAL(late.slot, 2);
    free_bench(b);
}

TEST(memory_may_contain_anything)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    uint32_t random = 1;

    for (int round = 0; round < 2000; round++) {
        char buffer[16];

        if (round % 2) {
            /* else it is what the last round, a former generation, left */
            for (size_t i = 0; i < b->size; i += 4) {
                set_word(b, i, next_random(&random));
            }
        }
        /* ghosts in the other slots that look as if they were alive */
        for (unsigned slot = 0; slot < 8; slot++) {
            if (next_random(&random) % 2) {
                set_word(b, entry_at(slot), IVSHMEM_MSG_MAGIC);
                set_word(b, entry_at(slot) + 4,
                         link_flags << 24 | 2 << 16 | 8 << 8 | 9);
                set_word(b, entry_at(slot) + 8, slot);
                set_word(b, entry_at(slot) + 16,
                         next_random(&random) % 65535 + 1);
            }
        }
        open_msg(b, &one, 8, 0, 0);
        open_msg(b, &other, 8, 1, 1);
        settle(&one, &other);
        for (unsigned slot = 2; slot < 8; slot++) {
            CHECK(one.peer[slot].state != IVSHMEM_MSG_LINKED);
        }
        CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
        CHECK_EQUAL(other.peer[0].state, IVSHMEM_MSG_LINKED);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16),
                    IVSHMEM_MSG_EMPTY);
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 1, "clean", 5), 0);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 16), 5);
        CHECK(!memcmp(buffer, "clean", 5));
    }
    free_bench(b);
}

/*
 * Each byte of a message damaged in turn, its length included. A link without
 * a CRC finds what it needs to go on: the length, and the order.
 */
TEST(damage_is_found)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    char buffer[64];

    for (unsigned byte = 0; byte < 16 + 20; byte++) {
        int32_t result;

        open_pair(b, &one, &other, 2);
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 3, "twenty bytes of text", 20),
                    0);
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 3, "next", 4), 0);
        b->memory[ring_at(&one, 0, 1) + byte] ^= 0x10;
        result = ivshmem_msg_receive(&other, 0, &header, buffer, 64);
        if (byte < 4) {
            /* who lies about the length cannot be followed any further */
            CHECK(result == IVSHMEM_MSG_BROKEN ||
                  result == (link_flags ? IVSHMEM_MSG_BAD_CRC : 20 ^ 0x10));
        } else if (!link_flags) {
            CHECK_EQUAL(result, 20);
            CHECK_EQUAL(other.peer[0].gaps, byte < 8);
            CHECK_EQUAL(header.type, byte < 8 || byte >= 12 ? 3 :
                        3 ^ 0x10 << 8 * (byte - 8));
            CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 64),
                        4);
            CHECK_EQUAL(header.sequence, 1);
        } else {
            CHECK_EQUAL(result, IVSHMEM_MSG_BAD_CRC);
            CHECK_EQUAL(other.peer[0].bad_crc, 1);
            CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 64),
                        4);
            CHECK_EQUAL(header.sequence, 1);
            CHECK_EQUAL(other.peer[0].gaps, 0);
        }
    }
    free_bench(b);
}

/* Each word that the peer owns, with each kind of nonsense. */
TEST(nonsense_breaks_the_link_and_no_more)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    struct ivshmem_msg_header header;
    char buffer[64];
    const uint32_t ring = 16 << 10;
    const struct {
        bool head;
        uint32_t value;
    } bad[] = {
        { true, 1 }, { true, 15 }, { true, ring + 16 }, { true, 0x80000000 },
        { true, 0xfffffff0 }, { true, 0xffffffff },
        { false, ring + 16 }, { false, 1 }, { false, 0x80000000 },
        { false, 0xfffffff0 - ring }, { false, 0xffffffff },
    };
    static uint8_t full[16 << 10];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        open_pair(b, &one, &other, 2);
        CHECK_EQUAL(one.ring_size, ring);
        set_word(b, side_at(2, 0, 1) + (bad[i].head ? 4 : 8), bad[i].value);
        if (bad[i].head) {
            CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 64),
                        IVSHMEM_MSG_BROKEN);
        } else {
            /* the peer's tail is looked at when there is no space without */
            CHECK_EQUAL(ivshmem_msg_send(&other, 0, 0, full, ring - 16), 0);
            CHECK_EQUAL(ivshmem_msg_send(&other, 0, 0, "x", 1),
                        IVSHMEM_MSG_BROKEN);
        }
        CHECK_EQUAL(other.peer[0].state, IVSHMEM_MSG_DEAD);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 64),
                    IVSHMEM_MSG_BROKEN);
        CHECK_EQUAL(ivshmem_msg_send(&other, 0, 0, "x", 1),
                    IVSHMEM_MSG_NO_LINK);
        /* until the peer comes back to its senses with a new session */
        open_msg(b, &one, 2, 0, 0);
        settle(&one, &other);
        CHECK_EQUAL(ivshmem_msg_send(&one, 1, 0, "x", 1), 0);
        CHECK_EQUAL(ivshmem_msg_receive(&other, 0, &header, buffer, 64), 1);
    }
    free_bench(b);
}

/* The words that @slot owns, and nobody else may write */
static bool owned(const struct ivshmem_msg *msg, size_t offset, unsigned slot)
{
    size_t sides = 64 * msg->slots;
    size_t rings = sides + 64 * msg->slots * msg->slots;

    if (offset < sides) {
        return offset / 64 == slot;
    } else if (offset < rings) {
        return (offset - sides) / 64 / msg->slots == slot;
    }
    return (offset - rings) / msg->ring_size / (msg->slots - 1) == slot;
}

static uint32_t nonsense(uint32_t *random, uint32_t ring_size)
{
    uint32_t value = next_random(random);

    switch (value % 5) {
    case 0:
        return value;
    case 1:
        return value % (2 * ring_size);
    case 2:
        return value % (2 * ring_size) & ~15u;
    case 3:
        return value % 8;
    default:
        return -(value % 64);
    }
}

/* Are these the @length bytes, and all of them within one ring? */
static bool is_in_ring(const struct ivshmem_msg *msg, unsigned writer,
                       unsigned reader, const struct ivshmem_msg_span span[2],
                       uint32_t length)
{
    const uint8_t *start = msg->memory + ring_at(msg, writer, reader);

    for (int part = 0; part < 2; part++) {
        const uint8_t *data = (const uint8_t *)span[part].data;

        if (span[part].length > msg->ring_size || data < start ||
            data + span[part].length > start + msg->ring_size) {
            return false;
        }
    }
    return span[0].length + span[1].length == length;
}

/* Call each function once; only the listed results are possible. */
static void use_once(struct ivshmem_msg *msg, uint32_t *random)
{
    static const uint8_t data[600];
    struct ivshmem_msg_header header;
    struct ivshmem_msg_span span[2];
    uint8_t *buffer = malloc(300);      /* its end is guarded by ASan */
    uint32_t length;
    int32_t result;

    ivshmem_msg_poll(msg);
    for (unsigned slot = 0; slot < msg->slots; slot++) {
        result = ivshmem_msg_send(msg, slot, 0, data,
                                  next_random(random) % 600);
        CHECK(result <= 0 && result > IVSHMEM_MSG_EVICTED &&
              result != IVSHMEM_MSG_EMPTY && result != IVSHMEM_MSG_BAD_CRC);
        result = ivshmem_msg_receive(msg, slot, &header, buffer, 300);
        CHECK(result <= 300 && result > IVSHMEM_MSG_EVICTED &&
              result != IVSHMEM_MSG_FULL);
        length = next_random(random) % 600;
        result = ivshmem_msg_reserve(msg, slot, length, span);
        CHECK(result <= 0 && result > IVSHMEM_MSG_EVICTED &&
              result != IVSHMEM_MSG_EMPTY && result != IVSHMEM_MSG_BAD_CRC);
        if (result == 0) {
            CHECK(is_in_ring(msg, msg->slot, slot, span, length));
            fill_span(span, length);
            CHECK_EQUAL(ivshmem_msg_commit(msg, slot, 0, length), 0);
        }
        result = ivshmem_msg_peek(msg, slot, &header, span);
        CHECK(result > IVSHMEM_MSG_EVICTED && result != IVSHMEM_MSG_FULL &&
              result != IVSHMEM_MSG_TOO_LONG);
        if (result >= 0) {
            CHECK(is_in_ring(msg, slot, msg->slot, span, (uint32_t)result));
            CHECK_EQUAL(header.length, result);
            ivshmem_msg_release(msg, slot);
        }
        ivshmem_msg_want_doorbell(msg, slot, next_random(random) % 2);
    }
    while ((result = ivshmem_msg_doorbell(msg)) >= 0) {
        CHECK(result <= 65535);
    }
    free(buffer);
}

/*
 * A hostile peer writes anything anywhere in what is its own. The honest one
 * writes to nothing but its own words, reaches no further than the memory,
 * and still talks to a third, honest peer.
 */
TEST(hostile_peer)
{
    struct bench *b = new_bench(3 * 64 + 9 * 64 + 6 * 512);
    struct ivshmem_msg honest, hostile, third;
    uint8_t *before = malloc(b->size);
    uint32_t random = 7;

    open_msg(b, &honest, 3, 0, 0);
    open_msg(b, &third, 3, 2, 2);
    settle(&honest, &third);
    CHECK_EQUAL(honest.ring_size, 512);
    for (int round = 0; round < 30000; round++) {
        struct ivshmem_msg_header header;
        uint8_t buffer[8];

        if (round % 50 == 0) {
            /* a good start, else nothing would be looked at */
            open_msg(b, &hostile, 3, 1, 1);
            settle(&honest, &hostile);
        }
        if (next_random(&random) % 2 && round % 50 < 25) {
            ivshmem_msg_send(&hostile, 0, 0, "good", 4);
        }
        for (uint32_t n = next_random(&random) % 4; n > 0; n--) {
            size_t offset = next_random(&random) % b->size & ~(size_t)3;

            switch (next_random(&random) % 4) {
            case 0:         /* its sides */
                offset = side_at(3, 1, 0) + offset % 16;
                break;
            case 1:         /* its entry */
                offset = entry_at(1) + offset % 20;
                break;
            case 2:         /* a header in its ring to us */
                offset = ring_at(&honest, 1, 0) + offset % 512;
                break;
            }
            if (owned(&honest, offset, 1)) {
                set_word(b, offset, nonsense(&random, 512));
            }
        }
        memcpy(before, b->memory, b->size);
        use_once(&honest, &random);
        for (size_t i = 0; i < b->size; i++) {
            CHECK(b->memory[i] == before[i] || owned(&honest, i, 0));
        }

        while (ivshmem_msg_receive(&third, 0, &header, buffer, 8) !=
               IVSHMEM_MSG_EMPTY) {
            CHECK_EQUAL(third.peer[0].state, IVSHMEM_MSG_LINKED);
        }
        CHECK_EQUAL(ivshmem_msg_send(&third, 0, 0, "third", 5), 0);
        CHECK_EQUAL(ivshmem_msg_receive(&honest, 2, &header, buffer, 8), 5);
    }
    free(before);
    free_bench(b);
}

/*
 * The same while the honest one is at work: nothing may be read twice. Such a
 * peer races by intent: nothing for ThreadSanitizer.
 */
static void *scribble(void *opaque)
{
    static const uint8_t data[64 * 4];
    struct bench *b = opaque;
    struct ivshmem_msg hostile;
    uint32_t random = 99;

    for (int round = 0; round < 1000; round++) {
        open_msg(b, &hostile, 2, 1, 1);
        ivshmem_msg_poll(&hostile);
        for (int i = 0; i < 1000; i++) {
            size_t offset = next_random(&random) % 64 * 4;

            ivshmem_msg_poll(&hostile);
            ivshmem_msg_send(&hostile, 0, 0, data, offset);
            if (next_random(&random) % 8) {
                /* lengths of messages that are being received */
                offset = ring_at(&hostile, 1, 0) +
                         (hostile.peer[0].head + offset) % 512;
            } else {
                offset = side_at(2, 1, 0) + 4 + offset % 12;
            }
            set_word(b, offset & ~(size_t)3, nonsense(&random, 512));
        }
    }
    return NULL;
}

TEST(hostile_peer_at_the_same_time)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 512);
    struct ivshmem_msg honest;
    uint32_t random = 5;
    pthread_t thread;

    open_msg(b, &honest, 2, 0, 0);
    CHECK_EQUAL(pthread_create(&thread, NULL, scribble, b), 0);
    while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
        use_once(&honest, &random);
    }
    free_bench(b);
}

/*
 * Two peers that send each other @messages messages of random length, in
 * random batches. Both full rings and wrapped messages are frequent, since
 * the ring has 2 KiB.
 */
struct talker {
    struct bench *bench;
    uint32_t id;
    uint32_t messages;
    bool sleeps;        /* on its doorbell; else it looks all the time */
    bool on_demand;     /* wants no doorbell while it is awake */
    bool in_place;      /* sends and receives without a copy, in batches */
};

#define MAX_TALK 1500

static uint32_t make_talk(uint8_t *data, uint32_t sender, uint32_t sequence)
{
    uint32_t random = (sequence * 2654435761u ^ sender) | 1;
    uint32_t length;

    next_random(&random);
    length = next_random(&random) % 64;
    if (sequence % 16 == 0) {
        length = next_random(&random) % (MAX_TALK + 1);
    }
    for (uint32_t i = 0; i < length; i++) {
        data[i] = (uint8_t)(random + i * 13);
    }
    return length;
}

static void check_talk(const struct ivshmem_msg *msg, unsigned slot,
                       const struct ivshmem_msg_header *header,
                       const uint8_t *data, uint32_t sequence)
{
    uint8_t expected[MAX_TALK];
    uint32_t length = make_talk(expected, msg->peer[slot].id, sequence);

    CHECK_EQUAL(header->sequence, sequence);
    CHECK_EQUAL(header->type, ~sequence);
    CHECK_EQUAL(header->length, length);
    CHECK(!memcmp(data, expected, length));
}

/* As ivshmem_msg_send() and _receive(), by the functions below them. */
static int send_in_place(struct ivshmem_msg *msg, unsigned slot, uint32_t type,
                         const uint8_t *data, uint32_t length)
{
    struct ivshmem_msg_span span[2];
    int result = ivshmem_msg_reserve(msg, slot, length, span);

    if (result) {
        return result;
    }
    memcpy((void *)span[0].data, data, span[0].length);
    memcpy((void *)span[1].data, data + span[0].length, span[1].length);
    return ivshmem_msg_commit(msg, slot, type, length);
}

static int32_t receive_in_place(struct ivshmem_msg *msg, unsigned slot,
                                struct ivshmem_msg_header *header,
                                uint8_t *data)
{
    struct ivshmem_msg_span span[2];
    int32_t result = ivshmem_msg_peek(msg, slot, header, span);

    if (result >= 0) {
        memcpy(data, (void *)span[0].data, span[0].length);
        memcpy(data + span[0].length, (void *)span[1].data, span[1].length);
        ivshmem_msg_release(msg, slot);
    }
    return result;
}

static void *talk(void *opaque)
{
    const struct talker *t = opaque;
    unsigned slot = !t->id;
    struct ivshmem_msg msg;
    uint32_t sent = 0, received = 0;
    uint32_t random = t->id + 1;

    open_msg(t->bench, &msg, 2, IVSHMEM_MSG_ANY_SLOT, t->id);
    while (sent < t->messages || received < t->messages) {
        struct ivshmem_msg_header header;
        uint32_t batch = next_random(&random) % 8;
        uint8_t data[MAX_TALK];
        bool idle = true;
        int32_t result;

        CHECK(ivshmem_msg_poll(&msg) >= 0);
        while (sent < t->messages && batch--) {
            uint32_t length = make_talk(data, t->id, sent);

            result = t->in_place ?
                send_in_place(&msg, slot, ~sent, data, length) :
                ivshmem_msg_send(&msg, slot, ~sent, data, length);
            if (result == IVSHMEM_MSG_FULL || result == IVSHMEM_MSG_NO_LINK) {
                break;
            }
            CHECK_EQUAL(result, 0);
            sent++;
            idle = false;
        }
        while ((result = t->in_place ?
                receive_in_place(&msg, slot, &header, data) :
                ivshmem_msg_receive(&msg, slot, &header, data,
                                    sizeof(data))) >= 0) {
            check_talk(&msg, slot, &header, data, received);
            received++;
            idle = false;
        }
        CHECK(result == IVSHMEM_MSG_EMPTY || result == IVSHMEM_MSG_NO_LINK);
        ring_due(t->bench, &msg);
        if (!t->sleeps) {
            sched_yield();
        } else if (idle && batch == (uint32_t)-1 && sent < t->messages) {
            /* a batch of none: nobody owes us a doorbell */
        } else if (idle && (sent < t->messages || received < t->messages)) {
            bool linked = msg.peer[slot].state == IVSHMEM_MSG_LINKED;

            if (!t->on_demand || !linked ||
                !ivshmem_msg_want_doorbell(&msg, slot, true)) {
                sleep_until_rung(t->bench->doorbell[t->id]);
            }
            if (t->on_demand && linked) {
                ivshmem_msg_want_doorbell(&msg, slot, false);
            }
        }
    }
    CHECK_EQUAL(msg.peer[slot].bad_crc, 0);
    CHECK_EQUAL(msg.peer[slot].gaps, 0);
    return NULL;
}

#ifdef __SANITIZE_THREAD__
#define MANY 100000         /* it takes many times as long there */
#else
#define MANY 1000000
#endif

static void talk_in_threads(uint32_t messages, bool sleeps, bool on_demand,
                            bool in_place)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 2048);
    struct talker talker[2];
    pthread_t thread[2];

    for (uint32_t id = 0; id < 2; id++) {
        connect_id(b, id);
        talker[id] = (struct talker) {
            .bench = b, .id = id, .messages = messages, .sleeps = sleeps,
            .on_demand = on_demand, .in_place = in_place,
        };
    }
    for (uint32_t id = 0; id < 2; id++) {
        CHECK_EQUAL(pthread_create(&thread[id], NULL, talk, &talker[id]), 0);
    }
    for (uint32_t id = 0; id < 2; id++) {
        CHECK_EQUAL(pthread_join(thread[id], NULL), 0);
    }
    free_bench(b);
}

TEST_OF_THREADS(threads_exchange_with_doorbells)
{
    talk_in_threads(100000, true, false, false);
}

TEST_OF_THREADS(threads_exchange_in_place_with_doorbells)
{
    talk_in_threads(100000, true, false, true);
}

TEST_OF_THREADS(threads_exchange_with_doorbells_on_demand)
{
    talk_in_threads(100000, true, true, false);
}

TEST_OF_THREADS(threads_exchange_without_doorbells)
{
    talk_in_threads(MANY, false, false, false);
}

TEST_OF_THREADS(threads_exchange_in_place_without_doorbells)
{
    talk_in_threads(MANY, false, false, true);
}

static void wait_for_child(pid_t pid, int expected)
{
    int status;

    CHECK_EQUAL(waitpid(pid, &status, 0), pid);
    CHECK_EQUAL(status, expected);
}

TEST(processes_exchange)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 2048);
    pid_t pid[2];

    connect_id(b, 0);
    connect_id(b, 1);
    for (uint32_t id = 0; id < 2; id++) {
        pid[id] = fork();
        CHECK(pid[id] >= 0);
        if (!pid[id]) {
            struct talker talker = {
                .bench = b, .id = id, .messages = 100000, .sleeps = true,
            };
            alarm(4 * DEADLINE_MS / 1000);
            talk(&talker);
            _exit(0);
        }
    }
    wait_for_child(pid[0], 0);
    wait_for_child(pid[1], 0);
    free_bench(b);
}

/* A peer that sends for ever, until it is killed */
static void send_for_ever(struct bench *b, uint32_t id)
{
    struct ivshmem_msg_header header;
    struct ivshmem_msg msg;
    uint32_t received = 0;
    uint8_t data[MAX_TALK];

    alarm(4 * DEADLINE_MS / 1000);
    open_msg(b, &msg, 2, 1, id);
    for (;;) {
        uint32_t sent = msg.peer[0].sent;
        uint32_t length = make_talk(data, id, sent);
        int32_t result;

        CHECK(ivshmem_msg_poll(&msg) >= 0);
        result = ivshmem_msg_send(&msg, 0, ~sent, data, length);
        CHECK(result == 0 || result == IVSHMEM_MSG_FULL ||
              result == IVSHMEM_MSG_NO_LINK);
        while (ivshmem_msg_receive(&msg, 0, &header, data,
                                   sizeof(data)) >= 0) {
            check_talk(&msg, 0, &header, data, received++);
        }
        ring_due(b, &msg);
        if (result) {
            sleep_until_rung(b->doorbell[id]);
        }
    }
}

/*
 * A process is killed at any moment and comes back with another id, while
 * its peer goes on. Nothing damaged, and nothing of the dead, is received.
 */
TEST(peer_is_killed_and_comes_back)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 2048);
    struct ivshmem_msg msg;
    uint32_t random = 3;

    for (uint32_t id = 0; id < 300; id++) {
        connect_id(b, id);
    }
    open_msg(b, &msg, 2, 0, 0);
    for (uint32_t id = 1; id < 300; id++) {
        uint32_t sequence = 0, enough = next_random(&random) % 200;
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (!pid) {
            send_for_ever(b, id);
        }
        while (sequence <= enough) {
            struct ivshmem_msg_header header;
            uint8_t data[MAX_TALK];
            uint32_t sent, length;
            int32_t result;

            CHECK(ivshmem_msg_poll(&msg) >= 0);
            while ((result = ivshmem_msg_receive(&msg, 1, &header, data,
                                                 sizeof(data))) >= 0) {
                /* a sender's id is in what it says */
                if (msg.peer[1].id != id) {
                    check_talk(&msg, 1, &header, data, header.sequence);
                } else {
                    check_talk(&msg, 1, &header, data, sequence++);
                }
            }
            CHECK(result == IVSHMEM_MSG_EMPTY ||
                  result == IVSHMEM_MSG_NO_LINK);
            sent = msg.peer[1].sent;
            length = make_talk(data, 0, sent);
            result = ivshmem_msg_send(&msg, 1, ~sent, data, length);
            CHECK(result == 0 || result == IVSHMEM_MSG_FULL ||
                  result == IVSHMEM_MSG_NO_LINK);
            ring_due(b, &msg);
            if (sequence <= enough) {
                sleep_until_rung(b->doorbell[0]);
            }
        }
        CHECK_EQUAL(kill(pid, SIGKILL), 0);
        wait_for_child(pid, SIGKILL);
    }
    free_bench(b);
}

/*
 * A peer that comes back again and again, at once and at any moment. To an
 * honest peer this must never look like damage.
 */
#define LIVES 5000

static void *live_often(void *opaque)
{
    struct bench *b = opaque;
    struct ivshmem_msg msg;
    uint32_t random = 17;

    for (uint32_t life = 1; life <= LIVES; life++) {
        open_msg(b, &msg, 2, 1, life);
        for (uint32_t n = next_random(&random) % 8; n > 0; n--) {
            struct ivshmem_msg_header header;
            uint8_t data[MAX_TALK];
            uint32_t sent, length;

            ivshmem_msg_poll(&msg);
            sent = msg.peer[0].sent;
            length = make_talk(data, life, sent);
            CHECK(ivshmem_msg_send(&msg, 0, ~sent, data, length) !=
                  IVSHMEM_MSG_BROKEN);
            while (ivshmem_msg_receive(&msg, 0, &header, data,
                                       sizeof(data)) >= 0) {
                check_talk(&msg, 0, &header, data, header.sequence);
            }
            sched_yield();
        }
        CHECK(msg.peer[0].state != IVSHMEM_MSG_DEAD);
        CHECK_EQUAL(msg.peer[0].bad_crc, 0);
        CHECK_EQUAL(msg.peer[0].gaps, 0);
    }
    return NULL;
}

TEST_OF_THREADS(peer_comes_back_at_any_moment)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 2048);
    struct ivshmem_msg msg;
    pthread_t thread;

    open_msg(b, &msg, 2, 0, 0);
    CHECK_EQUAL(pthread_create(&thread, NULL, live_often, b), 0);
    while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
        struct ivshmem_msg_header header;
        uint8_t data[MAX_TALK];
        uint32_t sent, length;

        ivshmem_msg_poll(&msg);
        sent = msg.peer[1].sent;
        length = make_talk(data, 0, sent);
        ivshmem_msg_send(&msg, 1, ~sent, data, length);
        while (ivshmem_msg_receive(&msg, 1, &header, data,
                                   sizeof(data)) >= 0) {
            check_talk(&msg, 1, &header, data, header.sequence);
        }
        CHECK(msg.peer[1].state != IVSHMEM_MSG_DEAD);
        CHECK_EQUAL(msg.peer[1].bad_crc, 0);
        CHECK_EQUAL(msg.peer[1].gaps, 0);
    }
    free_bench(b);
}

/*
 * Where one side writes and then looks whether the other sleeps, while the
 * other says that it sleeps and then looks once more, at least one of the two
 * must see the other. Two threads do it at the same moment, many times.
 */
#ifdef __SANITIZE_THREAD__
#define ROUNDS 5000         /* it takes many times as long there */
#else
#define ROUNDS 100000
#endif

struct litmus {
    void (*before)(struct litmus *l, unsigned who);     /* each step */
    void (*step)(struct litmus *l, unsigned who);
    struct bench *bench;
    struct ivshmem_msg msg[2];
    bool seen[2];
    uint32_t arrivals;
};

/* Wait until both threads have come to the line. */
static void line_up(struct litmus *l, uint32_t *line)
{
    uint32_t spins = 0;

    *line += 2;
    __atomic_fetch_add(&l->arrivals, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&l->arrivals, __ATOMIC_ACQUIRE) < *line) {
        if (++spins % 1000 == 0) {
            sched_yield();      /* there may be one core, or other load */
        }
    }
}

static void run_litmus(struct litmus *l, unsigned who)
{
    uint32_t random = who + 1, line = 0;

    for (int round = 0; round < ROUNDS; round++) {
        l->before(l, who);
        line_up(l, &line);
        /* volatile, or the compiler leaves the loop out */
        for (volatile uint32_t n = next_random(&random) % 256; n > 0; n--) {
            continue;
        }
        l->step(l, who);
        line_up(l, &line);
        CHECK(l->seen[0] || l->seen[1]);
    }
}

static void *run_litmus_thread(void *opaque)
{
    run_litmus(opaque, 1);
    return NULL;
}

static void litmus(void (*before)(struct litmus *l, unsigned who),
                   void (*step)(struct litmus *l, unsigned who))
{
    struct litmus l = {
        .before = before, .step = step,
        .bench = new_bench(2 * 64 + 4 * 64 + 2 * 256),
    };
    pthread_t thread;

    open_pair(l.bench, &l.msg[0], &l.msg[1], 2);
    CHECK_EQUAL(pthread_create(&thread, NULL, run_litmus_thread, &l), 0);
    run_litmus(&l, 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    free_bench(l.bench);
}

/* 0 sends a message while 1, which was awake, goes to sleep. */
static void wake_up(struct litmus *l, unsigned who)
{
    struct ivshmem_msg_header header;

    if (who == 1) {
        ivshmem_msg_want_doorbell(&l->msg[1], 0, false);
        while (ivshmem_msg_receive(&l->msg[1], 0, &header, NULL, 0) == 0) {
            continue;
        }
    }
}

static void send_or_sleep(struct litmus *l, unsigned who)
{
    if (who == 0) {
        CHECK_EQUAL(ivshmem_msg_send(&l->msg[0], 1, 0, NULL, 0), 0);
        l->seen[0] = ivshmem_msg_doorbell(&l->msg[0]) == 1;
    } else {
        l->seen[1] = ivshmem_msg_want_doorbell(&l->msg[1], 0, true);
    }
}

TEST_OF_THREADS(no_message_is_slept_through)
{
    litmus(wake_up, send_or_sleep);
}

static void publish_or_sleep(struct litmus *l, unsigned who)
{
    struct ivshmem_msg_span span[2];

    if (who == 0) {
        CHECK_EQUAL(ivshmem_msg_reserve(&l->msg[0], 1, 0, span), 0);
        CHECK_EQUAL(ivshmem_msg_commit(&l->msg[0], 1, 0, 0), 0);
        l->seen[0] = ivshmem_msg_doorbell(&l->msg[0]) == 1;
    } else {
        l->seen[1] = ivshmem_msg_want_doorbell(&l->msg[1], 0, true);
    }
}

TEST_OF_THREADS(no_batch_is_slept_through)
{
    litmus(wake_up, publish_or_sleep);
}

/* 0 finds the ring full while 1 takes the message that fills it. */
static void fill(struct litmus *l, unsigned who)
{
    static const uint8_t data[240];

    if (who == 0 && !l->seen[0]) {
        CHECK_EQUAL(ivshmem_msg_send(&l->msg[0], 1, 0, data, sizeof(data)),
                    0);
    }
}

static void send_or_drain(struct litmus *l, unsigned who)
{
    static const uint8_t data[240];
    struct ivshmem_msg_header header;
    uint8_t buffer[240];

    if (who == 0) {
        l->seen[0] = ivshmem_msg_send(&l->msg[0], 1, 0, data,
                                      sizeof(data)) == 0;
    } else {
        CHECK_EQUAL(ivshmem_msg_receive(&l->msg[1], 0, &header, buffer,
                                        sizeof(buffer)), sizeof(buffer));
        l->seen[1] = ivshmem_msg_doorbell(&l->msg[1]) == 0;
    }
}

TEST_OF_THREADS(no_space_is_slept_through)
{
    litmus(fill, send_or_drain);
}

static void send_or_release(struct litmus *l, unsigned who)
{
    static const uint8_t data[240];
    struct ivshmem_msg_header header;
    struct ivshmem_msg_span span[2];

    if (who == 0) {
        l->seen[0] = ivshmem_msg_send(&l->msg[0], 1, 0, data,
                                      sizeof(data)) == 0;
    } else {
        CHECK_EQUAL(ivshmem_msg_peek(&l->msg[1], 0, &header, span),
                    sizeof(data));
        ivshmem_msg_release(&l->msg[1], 0);
        l->seen[1] = ivshmem_msg_doorbell(&l->msg[1]) == 0;
    }
}

TEST_OF_THREADS(no_released_space_is_slept_through)
{
    litmus(fill, send_or_release);
}

/* Both move in. */
static void move_out(struct litmus *l, unsigned who)
{
    ivshmem_msg_close(&l->msg[who]);
}

static void move_in(struct litmus *l, unsigned who)
{
    open_msg(l->bench, &l->msg[who], 2, (int)who, who);
    l->seen[who] = ivshmem_msg_poll(&l->msg[who]) != 0;
}

TEST_OF_THREADS(no_newcomer_is_missed)
{
    litmus(move_out, move_in);
}

/* What the firmware does, by threads: all pairs of five peers at once. */
static void quiet(const char *format, ...)
{
    (void)format;
}

static void *take_part(void *opaque)
{
    const struct talker *t = opaque;
    struct ivshmem_msg msg;
    struct exchange x = {
        .msg = &msg, .messages = t->messages, .peers = 4, .say = quiet,
    };
    bool over;

    open_msg(t->bench, &msg, 8, IVSHMEM_MSG_ANY_SLOT, t->id);
    do {
        over = exchange_step(&x);
        ring_due(t->bench, &msg);
        if (!over && x.idle) {
            sleep_until_rung(t->bench->doorbell[t->id]);
        }
    } while (!over);
    ivshmem_msg_close(&msg);
    ring_due(t->bench, &msg);
    CHECK(exchange_verdict(&x));
    return NULL;
}

TEST_OF_THREADS(party_of_five)
{
    struct bench *b = new_bench(256 << 10);
    struct talker talker[5];
    pthread_t thread[5];

    /* the second round finds in memory what the first one left */
    for (uint32_t round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < 5; i++) {
            talker[i] = (struct talker) {
                .bench = b, .id = round * 5 + i, .messages = 100,
            };
            connect_id(b, talker[i].id);
        }
        for (uint32_t i = 0; i < 5; i++) {
            CHECK_EQUAL(pthread_create(&thread[i], NULL, take_part,
                                       &talker[i]), 0);
        }
        for (uint32_t i = 0; i < 5; i++) {
            CHECK_EQUAL(pthread_join(thread[i], NULL), 0);
        }
    }
    free_bench(b);
}

/* Two that start at the same time must not miss each other. */
static void *say_hello(void *opaque)
{
    const struct talker *t = opaque;
    struct ivshmem_msg msg;
    unsigned slot = !(t->id % 2);

    open_msg(t->bench, &msg, 2, IVSHMEM_MSG_ANY_SLOT, t->id);
    for (;;) {
        ivshmem_msg_poll(&msg);
        ring_due(t->bench, &msg);
        if (msg.peer[slot].state == IVSHMEM_MSG_LINKED) {
            return NULL;
        }
        sleep_until_rung(t->bench->doorbell[t->id]);
    }
}

TEST_OF_THREADS(simultaneous_start)
{
    struct bench *b = new_bench(2 * 64 + 4 * 64 + 2 * 256);
    struct talker talker[2];
    pthread_t thread[2];

    connect_id(b, 0);
    connect_id(b, 1);
    for (int round = 0; round < 2000; round++) {
        memset(b->memory, 0, b->size);
        for (uint32_t id = 0; id < 2; id++) {
            talker[id] = (struct talker) { .bench = b, .id = id };
            CHECK_EQUAL(pthread_create(&thread[id], NULL, say_hello,
                                       &talker[id]), 0);
        }
        for (uint32_t id = 0; id < 2; id++) {
            uint64_t count;

            CHECK_EQUAL(pthread_join(thread[id], NULL), 0);
            /* a second greeting may have rung after all was said */
            CHECK(read(b->doorbell[id], &count, sizeof(count)) == 8 ||
                  errno == EAGAIN);
        }
    }
    free_bench(b);
}

int main(int argc, char **argv)
{
    bool crc = argc == 3 && strcmp(argv[1], "crc") == 0;

    link_flags = crc ? IVSHMEM_MSG_CRC : 0;
    return run_test(crc || (argc == 3 && strcmp(argv[1], "plain") == 0) ?
                    argv[2] : NULL);
}
