/*
 * What the tests of guest/ in C have in common
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

/*
 * Python reads these names (compiled.py); ThreadSanitizer is for the latter
 * only.
 */
#define TEST(name) static void name(void)
#define TEST_OF_THREADS(name) static void name(void)

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, \
                    #condition); \
            _exit(1); \
        } \
    } while (0)

#define CHECK_EQUAL(is, should) \
    do { \
        long long is_ = (is), should_ = (should); \
        if (is_ != should_) { \
            fprintf(stderr, "%s:%d: %s is %lld, should be %lld\n", __FILE__, \
                    __LINE__, #is, is_, should_); \
            _exit(1); \
        } \
    } while (0)

static inline uint32_t next_random(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    *x ^= *x << 5;
    return *x;
}

#endif /* CHECK_H */
