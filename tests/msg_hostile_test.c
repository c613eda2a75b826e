/*
 * Tests of the message layer on the host: nonsense in memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "msg_test.h"

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
