/*
 * What the tests of the message layer have in common
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MSG_TEST_H
#define MSG_TEST_H

#include <stdlib.h>
#include <sys/eventfd.h>

#include "check.h"
#include "ivshmem_msg.h"

#define MAX_IDS 512

/* Which kind of link it is: for ivshmem_msg_open() */
extern uint32_t link_flags;

/* Shared memory, and the doorbell of each id */
struct bench {
    uint8_t *memory;
    size_t size;
    int doorbell[MAX_IDS];
};

static inline struct bench *new_bench(size_t size)
{
    struct bench *b = malloc(sizeof(*b));

    CHECK(b);
    memset(b->doorbell, -1, sizeof(b->doorbell));
    b->memory = new_guarded(size);
    b->size = size;
    return b;
}

static inline void free_bench(struct bench *b)
{
    free_guarded(b->memory, b->size);
    for (int i = 0; i < MAX_IDS; i++) {
        if (b->doorbell[i] >= 0) {
            close(b->doorbell[i]);
        }
    }
    free(b);
}

static inline void connect_id(struct bench *b, uint32_t id)
{
    b->doorbell[id] = eventfd(0, EFD_NONBLOCK);
    CHECK(b->doorbell[id] >= 0);
}

static inline void ring_due(struct bench *b, struct ivshmem_msg *msg)
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

static inline void open_msg(struct bench *b, struct ivshmem_msg *msg,
                            unsigned slots, int slot, uint32_t id)
{
    CHECK_EQUAL(ivshmem_msg_open(msg, b->memory, b->size, slots, slot, id,
                                 link_flags), 0);
}

/* Poll both in turn until neither sees anything new. */
static inline void settle(struct ivshmem_msg *a, struct ivshmem_msg *b)
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

static inline void open_pair(struct bench *b, struct ivshmem_msg *one,
                             struct ivshmem_msg *other, unsigned slots)
{
    open_msg(b, one, slots, 0, 0);
    open_msg(b, other, slots, 1, 1);
    settle(one, other);
    CHECK_EQUAL(one->peer[1].state, IVSHMEM_MSG_LINKED);
    CHECK_EQUAL(other->peer[0].state, IVSHMEM_MSG_LINKED);
}

static inline uint32_t word(const struct bench *b, size_t offset)
{
    const uint8_t *p = b->memory + offset;

    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static inline void set_word(struct bench *b, size_t offset, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)(b->memory + offset), value,
                     __ATOMIC_RELEASE);
}

/* Offsets as the header's comment gives them, independently of the code */
static inline size_t entry_at(unsigned slot)
{
    return 64 * slot;
}

static inline size_t side_at(unsigned slots, unsigned writer,
                             unsigned reader)
{
    return 64 * slots + 64 * (writer * slots + reader);
}

static inline size_t ring_at(const struct ivshmem_msg *msg, unsigned writer,
                             unsigned reader)
{
    unsigned slots = msg->slots;

    return 64 * slots + 64 * slots * slots +
           (size_t)(writer * (slots - 1) + reader - (reader > writer)) *
           msg->ring_size;
}

/* What a caller does in place, byte by byte, over both parts of a span. */
static inline void fill_span(const struct ivshmem_msg_span span[2],
                             uint32_t start)
{
    for (int part = 0; part < 2; part++) {
        for (uint32_t i = 0; i < span[part].length; i++) {
            ((volatile uint8_t *)span[part].data)[i] = (uint8_t)(start++ * 7);
        }
    }
}

static inline void check_span(const struct ivshmem_msg_span span[2],
                              uint32_t start)
{
    for (int part = 0; part < 2; part++) {
        for (uint32_t i = 0; i < span[part].length; i++) {
            CHECK_EQUAL(((volatile uint8_t *)span[part].data)[i],
                        (uint8_t)(start++ * 7));
        }
    }
}

#endif /* MSG_TEST_H */
