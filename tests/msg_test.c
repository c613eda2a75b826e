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
 * and with a "crc". Those of peers that mean harm are in msg_hostile_test.c,
 * those of peers at the same time in msg_threads_test.c. A doorbell is an
 * eventfd here, as it is between QEMUs, and each wait for one has a deadline: a
 * doorbell that is lost fails the test.
 */

#include "msg_test.h"

uint32_t link_flags;

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

/* Of the ids 0 to 31: @opaque has a bit for each that is connected */
static bool is_connected(void *opaque, uint32_t id)
{
    return *(uint32_t *)opaque >> id & 1;
}

TEST(who_is_not_connected_any_more_has_left)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other, late;
    uint32_t connected = 1u << 5;

    open_msg(b, &one, 4, 0, 5);
    open_msg(b, &other, 4, 1, 6);
    ivshmem_msg_poll(&one);
    ivshmem_msg_poll(&other);
    ivshmem_msg_poll(&one);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
    /* one that has not been connected yet may be about to be announced */
    ivshmem_msg_look_around(&one, is_connected, &connected);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 0);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
    connected |= 1u << 6;
    ivshmem_msg_look_around(&one, is_connected, &connected);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 0);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 16), 0);

    /* it ends; what it has sent can be read */
    CHECK_EQUAL(ivshmem_msg_send(&other, 0, 7, "x", 1), 0);
    connected &= ~(1u << 6);
    ivshmem_msg_look_around(&one, is_connected, &connected);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 1);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LEFT);
    CHECK_EQUAL(ivshmem_msg_receive(&one, 1, &(struct ivshmem_msg_header) { 0 },
                                    (char [1]) { 0 }, 1), 1);
    ivshmem_msg_look_around(&one, is_connected, &connected);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 0);

    /* its slot is free, and who takes it is not meant */
    open_msg(b, &late, 4, IVSHMEM_MSG_ANY_SLOT, 9);
    CHECK_EQUAL(late.slot, 1);
    CHECK_EQUAL(late.former, -1);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 1);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 16), 0);
    ivshmem_msg_poll(&late);
    ivshmem_msg_poll(&one);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
    free_bench(b);
}

/* The server was started anew: it gives others ids, and they were gone. */
TEST(who_is_back_under_another_id_has_not_left)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    uint32_t connected = 1u << 5 | 1u << 6;

    open_msg(b, &one, 4, 0, 5);
    open_msg(b, &other, 4, 1, 6);
    ivshmem_msg_poll(&one);
    ivshmem_msg_poll(&other);
    ivshmem_msg_poll(&one);
    ivshmem_msg_look_around(&one, is_connected, &connected);
    connected = 0;
    ivshmem_msg_look_around(&one, is_connected, &connected);
    ivshmem_msg_poll(&one);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LEFT);
    connected = 1u << 8;
    ivshmem_msg_move(&other, 8);
    ivshmem_msg_look_around(&one, is_connected, &connected);
    CHECK_EQUAL(ivshmem_msg_poll(&one), 1 << 1);
    CHECK_EQUAL(one.peer[1].state, IVSHMEM_MSG_LINKED);
    CHECK_EQUAL(one.peer[1].doorbell, 8);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 16), 0);
    free_bench(b);
}

/* What stands in an entry that nobody owns, or is in pieces, is nobody. */
TEST(who_is_nobody_is_not_looked_for)
{
    struct bench *b = new_bench(64 << 10);
    struct ivshmem_msg one, other;
    uint32_t connected = 0;

    open_msg(b, &one, 4, 0, 5);
    open_msg(b, &other, 4, 1, 6);
    ivshmem_msg_close(&other);
    ivshmem_msg_look_around(&one, is_connected, &connected);
    CHECK_EQUAL(one.peer[1].there + one.peer[1].gone, 0);
    /* who has lost its slot says nothing for the new owner */
    connected = 1u << 6;
    open_msg(b, &other, 4, 1, 6);
    ivshmem_msg_look_around(&one, is_connected, &connected);
    open_msg(b, &other, 4, 0, 9);
    connected = 0;
    ivshmem_msg_look_around(&one, is_connected, &connected);
    CHECK_EQUAL(word(b, side_at(4, 0, 1) + 16), 0);
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

int main(int argc, char **argv)
{
    bool crc = argc == 3 && strcmp(argv[1], "crc") == 0;

    link_flags = crc ? IVSHMEM_MSG_CRC : 0;
    return run_test(crc || (argc == 3 && strcmp(argv[1], "plain") == 0) ?
                    argv[2] : NULL);
}
