/*
 * The functions that GCC calls on its own, also in freestanding code; to be
 * compiled with -ffreestanding -fno-tree-loop-distribute-patterns, or it makes
 * of a loop in memset() a call of memset()
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t length);
void *memset(void *to, int value, size_t length);
int memcmp(const void *one, const void *other, size_t length);

void *memcpy(void *restrict to, const void *restrict from, size_t length)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    if (((uintptr_t)t | (uintptr_t)f) % 4 == 0) {
        for (; length >= 4; length -= 4) {
            *(uint32_t *)(void *)t = *(const uint32_t *)(const void *)f;
            t += 4;
            f += 4;
        }
    }
    while (length--) {
        *t++ = *f++;
    }
    return to;
}

void *memset(void *to, int value, size_t length)
{
    uint8_t *t = to;

    while (length--) {
        *t++ = (uint8_t)value;
    }
    return to;
}

int memcmp(const void *one, const void *other, size_t length)
{
    const uint8_t *a = one, *b = other;

    for (; length; length--, a++, b++) {
        if (*a != *b) {
            return *a - *b;
        }
    }
    return 0;
}
