/*
 * What the tests of guest/ in C have in common
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct test {
    const char *name;
    void (*run)(void);
    struct test *next;
};

/* One for all files of a program */
__attribute__((weak)) struct test *all_tests;

/*
 * A test: a function without arguments that returns if all is well. Python
 * reads these names (compiled.py); ThreadSanitizer is for those of threads only.
 */
#define TEST(test_name) \
    static void test_##test_name(void); \
    __attribute__((constructor)) static void add_##test_name(void) \
    { \
        static struct test test = { #test_name, test_##test_name, NULL }; \
        test.next = all_tests; \
        all_tests = &test; \
    } \
    static void test_##test_name(void)
#define TEST_OF_THREADS(test_name) TEST(test_name)

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
        long long is_ = (long long)(is), should_ = (long long)(should); \
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

/*
 * Shared memory between two inaccessible pages, so that a step too far is a
 * crash. The end is the strict side; @size must keep the start aligned.
 */
static inline size_t guarded_pages(size_t size)
{
    size_t page = (size_t)getpagesize();

    return (size + page - 1) / page * page;
}

static inline uint8_t *new_guarded(size_t size)
{
    size_t page = (size_t)getpagesize();
    size_t pages = guarded_pages(size);
    uint8_t *map = mmap(NULL, pages + 2 * page, PROT_NONE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(map != MAP_FAILED);
    CHECK_EQUAL(mprotect(map + page, pages, PROT_READ | PROT_WRITE), 0);
    return map + page + pages - size;
}

static inline void free_guarded(uint8_t *memory, size_t size)
{
    size_t page = (size_t)getpagesize();
    size_t pages = guarded_pages(size);

    munmap(memory + size - pages - page, pages + 2 * page);
}

/* How long a test waits for what should happen, under load */
#define DEADLINE_MS 60000

/* Sleep until a doorbell rings, an eventfd; one that is lost is a failure. */
static inline void sleep_until_rung(int eventfd)
{
    struct pollfd fd = { .fd = eventfd, .events = POLLIN };
    uint64_t count;
    int n;

    do {
        n = poll(&fd, 1, DEADLINE_MS);
    } while (n < 0 && errno == EINTR);
    if (n == 0) {
        fprintf(stderr, "no doorbell for %d ms\n", DEADLINE_MS);
        _exit(1);
    }
    CHECK_EQUAL(read(eventfd, &count, sizeof(count)), 8);
}

/*
 * Run the test of this name, or name them all if there is none; the result is
 * main()'s.
 */
static inline int run_test(const char *name)
{
    struct test *test;

    for (test = all_tests; name && test; test = test->next) {
        if (strcmp(name, test->name) == 0) {
            /* whatever hangs, not for ever */
            alarm(4 * DEADLINE_MS / 1000);
            test->run();
            return 0;
        }
    }
    fprintf(stderr, "expected one of these tests:\n");
    for (test = all_tests; test; test = test->next) {
        fprintf(stderr, "  %s\n", test->name);
    }
    return 2;
}

#endif /* CHECK_H */
