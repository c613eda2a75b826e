/*
 * One doorbell that must not be lost: the sleeper and the ringer
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The sleeper says in shared memory who it is, and sleeps. The ringer looks
 * there, all the time, and rings the sleeper once, at the first moment that
 * it can. If the sleeper is up first, that is in the ringer's first
 * instructions; else it is in the sleeper's, and the ringer's QEMU may not
 * have heard from the server yet who the sleeper is. Once awake, the sleeper
 * says so in shared memory, and the ringer leaves that as it was before: all
 * zeros. Nobody ever rings again.
 */

#ifndef DOORBELL_H
#define DOORBELL_H

#include <stdbool.h>
#include <stdint.h>

/** struct doorbell: the start of shared memory; little-endian */
struct doorbell {
    uint32_t sleeper;       /* its id + 1 */
    uint32_t awake;         /* 1: it has been rung */
};

/** doorbell_say: write a word for the other side */
static inline void doorbell_say(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/** doorbell_look: read a word of the other side's */
static inline uint32_t doorbell_look(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/** doorbell_clear: make it ready for others; to be called by the ringer */
static inline void doorbell_clear(struct doorbell *doorbell)
{
    doorbell_say(&doorbell->sleeper, 0);
    doorbell_say(&doorbell->awake, 0);
}

/** doorbell_wait: look at a word until it is not 0; return it */
static inline uint32_t doorbell_wait(const uint32_t *word)
{
    uint32_t value;

    do {
        value = doorbell_look(word);
    } while (!value);
    return value;
}

#endif /* DOORBELL_H */
