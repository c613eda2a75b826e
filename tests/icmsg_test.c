/*
 * Tests of ICMsg on the host
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * icmsg_test NAME runs one test and ends with 0 if it passes; icmsg_test.py
 * runs them all, with and without sanitizers. Offsets and bytes are those of
 * Zephyr's documentation, independent of the code.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "check.h"
#include "icmsg_talk.h"

#define READ 0
#define HANDSHAKE 4

/* Two regions, and the sides, each with its doorbell */
struct bench {
    uint8_t *region[2];         /* written by side 0, by side 1 */
    size_t size;
    uint32_t alignment;
    bool sessions;
    struct ivshmem_icmsg side[2];
    int doorbell[2];
};

static struct bench *new_bench(size_t size, uint32_t alignment, bool sessions)
{
    struct bench *b = calloc(1, sizeof(*b));

    CHECK(b);
    b->size = size;
    b->alignment = alignment;
    b->sessions = sessions;
    for (int i = 0; i < 2; i++) {
        b->region[i] = new_guarded(size);
        b->doorbell[i] = eventfd(0, EFD_NONBLOCK);
        CHECK(b->doorbell[i] >= 0);
    }
    return b;
}

static void free_bench(struct bench *b)
{
    for (int i = 0; i < 2; i++) {
        free_guarded(b->region[i], b->size);
        close(b->doorbell[i]);
    }
    free(b);
}

static struct ivshmem_icmsg_config config_of(const struct bench *b, int side)
{
    return (struct ivshmem_icmsg_config) {
        .tx = b->region[side], .tx_size = b->size,
        .rx = b->region[!side], .rx_size = b->size,
        .alignment = b->alignment, .sessions = b->sessions,
    };
}

static void open_side(struct bench *b, int side)
{
    struct ivshmem_icmsg_config config = config_of(b, side);

    CHECK_EQUAL(ivshmem_icmsg_open(&b->side[side], &config), 0);
}

/* Poll both in turn, as often as it takes if no doorbell is lost. */
static void settle(struct bench *b)
{
    for (int i = 0; i < 3; i++) {
        ivshmem_icmsg_poll(&b->side[0]);
        ivshmem_icmsg_poll(&b->side[1]);
    }
}

static void bind(struct bench *b)
{
    open_side(b, 0);
    open_side(b, 1);
    settle(b);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(b->side[i].state, IVSHMEM_ICMSG_BOUND);
        ivshmem_icmsg_doorbell(&b->side[i]);
    }
}

static uint32_t word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static void set_word(uint8_t *p, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)p, value, __ATOMIC_RELEASE);
}

static int send_text(struct bench *b, int side, const char *text)
{
    return ivshmem_icmsg_send(&b->side[side], text, strlen(text));
}

static void expect_text(struct bench *b, int side, const char *text)
{
    char buffer[64];

    CHECK_EQUAL(ivshmem_icmsg_receive(&b->side[side], buffer, sizeof(buffer)),
                (int)strlen(text));
    CHECK_EQUAL(memcmp(buffer, text, strlen(text)), 0);
}

static int32_t receive(struct bench *b, int side)
{
    uint8_t buffer[256];

    return ivshmem_icmsg_receive(&b->side[side], buffer, sizeof(buffer));
}

/* A talk of both sides with random lengths, many times around the rings */
static void talk(struct bench *b, unsigned messages)
{
    uint32_t random = 7;
    uint32_t max = ivshmem_icmsg_max_length(&b->side[0]);

    for (unsigned n = 0; n < messages; n++) {
        int side = (int)(next_random(&random) & 1);
        uint32_t length = 1 + next_random(&random) % max;
        /* exactly so long, for AddressSanitizer */
        uint8_t *in = malloc(length), *out = malloc(length);

        CHECK(in && out);
        for (uint32_t i = 0; i < length; i++) {
            in[i] = (uint8_t)(next_random(&random) >> 24);
        }
        CHECK_EQUAL(ivshmem_icmsg_send(&b->side[side], in, length), 0);
        CHECK(ivshmem_icmsg_doorbell(&b->side[side]));
        CHECK_EQUAL(ivshmem_icmsg_receive(&b->side[!side], out, length),
                    length);
        CHECK_EQUAL(memcmp(in, out, length), 0);
        CHECK_EQUAL(receive(b, !side), IVSHMEM_ICMSG_EMPTY);
        free(in);
        free(out);
    }
}

/* Byte for byte what stands in memory: this is what Zephyr relies on. */
TEST(wire_format)
{
    static const uint8_t magic[] = {
        0x00, 0x0d, 0x00, 0x00,
        0x45, 0x6d, 0x31, 0x6c, 0x31, 0x4b, 0x30, 0x72, 0x6e, 0x33, 0x6c,
        0x69, 0x34,
    };
    static const uint8_t hello[] = {
        0x00, 0x05, 0x00, 0x00, 'h', 'e', 'l', 'l', 'o',
    };

    for (uint32_t alignment = 4; alignment <= 64; alignment *= 2) {
        struct bench *b = new_bench(1024, alignment, false);
        uint8_t *write = b->region[0] + alignment, *data = write + 4;

        memset(b->region[0], 0xee, b->size);
        open_side(b, 0);
        CHECK_EQUAL(word(b->region[0] + READ), 0);
        CHECK_EQUAL(word(write), 20);
        CHECK_EQUAL(memcmp(data, magic, sizeof(magic)), 0);
        open_side(b, 1);
        settle(b);
        CHECK_EQUAL(word(b->region[0] + READ), 20);
        CHECK_EQUAL(send_text(b, 0, "hello"), 0);
        CHECK_EQUAL(word(write), 32);
        CHECK_EQUAL(memcmp(data + 20, hello, sizeof(hello)), 0);
        expect_text(b, 1, "hello");
        CHECK_EQUAL(word(b->region[0] + READ), 32);
        free_bench(b);
    }
}

/* A length is big-endian, and has 16 bits. */
TEST(long_message)
{
    struct bench *b = new_bench(1 << 20, 4, false);
    uint8_t *in = malloc(UINT16_MAX + 1), *out = malloc(UINT16_MAX);

    bind(b);
    memset(in, 0x5a, UINT16_MAX + 1);
    CHECK_EQUAL(ivshmem_icmsg_max_length(&b->side[0]), UINT16_MAX);
    CHECK_EQUAL(ivshmem_icmsg_send(&b->side[0], in, UINT16_MAX + 1),
                IVSHMEM_ICMSG_BAD_LENGTH);
    CHECK_EQUAL(ivshmem_icmsg_send(&b->side[0], in, 0x1234), 0);
    CHECK_EQUAL(b->region[0][8 + 20], 0x12);
    CHECK_EQUAL(b->region[0][8 + 21], 0x34);
    CHECK_EQUAL(ivshmem_icmsg_send(&b->side[0], in, UINT16_MAX), 0);
    CHECK_EQUAL(ivshmem_icmsg_receive(&b->side[1], out, UINT16_MAX), 0x1234);
    CHECK_EQUAL(ivshmem_icmsg_receive(&b->side[1], out, UINT16_MAX),
                UINT16_MAX);
    CHECK_EQUAL(memcmp(in, out, UINT16_MAX), 0);
    free(in);
    free(out);
    free_bench(b);
}

/* The words of a session, and no magic */
TEST(session_format)
{
    struct bench *b = new_bench(256, 8, true);

    memset(b->region[0] + 8, 0xee, b->size - 8);
    open_side(b, 0);
    CHECK_EQUAL(word(b->region[1] + HANDSHAKE), 1);
    set_word(b->region[0] + HANDSHAKE, 0x77);
    CHECK_EQUAL(ivshmem_icmsg_poll(&b->side[0]), IVSHMEM_ICMSG_OPENING);
    CHECK_EQUAL(word(b->region[1] + HANDSHAKE), 0x77 << 16 | 1);
    CHECK_EQUAL(word(b->region[0] + READ), 0);
    CHECK_EQUAL(word(b->region[0] + 8), 0);
    set_word(b->region[0] + HANDSHAKE, 1 << 16 | 0x77);
    CHECK_EQUAL(ivshmem_icmsg_poll(&b->side[0]), IVSHMEM_ICMSG_BOUND);
    ivshmem_icmsg_close(&b->side[0]);
    CHECK_EQUAL(word(b->region[1] + HANDSHAKE), 0);
    free_bench(b);
}

TEST(bad_memory_is_refused)
{
    struct bench *b = new_bench(1024, 4, false);
    struct ivshmem_icmsg icmsg;
    const struct ivshmem_icmsg_config good = config_of(b, 0);
    struct ivshmem_icmsg_config bad[] = {
        good, good, good, good, good, good, good, good, good, good,
    };

    bad[0].tx = b->region[0] + 2;
    bad[1].tx_size = 1022;
    bad[2].tx_size = 28;            /* magic takes 20, the indices 8 */
    bad[3].rx_size = 28;
    bad[4].alignment = 2;
    bad[5].alignment = 12;
    bad[6].alignment = 1u << 31;
    bad[7].rx = b->region[0] + 512;
    bad[8].tx_size = (size_t)1 << 31;
    bad[9].sessions = true;         /* need an alignment of 8 */
    bad[9].alignment = 4;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK_EQUAL(ivshmem_icmsg_open(&icmsg, &bad[i]),
                    IVSHMEM_ICMSG_BAD_MEMORY);
        CHECK_EQUAL(ivshmem_icmsg_poll(&icmsg), IVSHMEM_ICMSG_DEAD);
    }
    for (size_t i = 0; i < b->size; i++) {
        CHECK_EQUAL(b->region[0][i] | b->region[1][i], 0);
    }
    bad[2].tx_size = bad[2].rx_size = 32;
    CHECK_EQUAL(ivshmem_icmsg_open(&icmsg, &bad[2]), 0);
    free_bench(b);
}

/* Whoever is first, each doorbell that is due is enough. */
TEST(sides_bind)
{
    for (int i = 0; i < 2; i++) {
        struct bench *b = new_bench(256, 0, i);

        open_side(b, 0);
        CHECK(ivshmem_icmsg_doorbell(&b->side[0]));     /* nobody hears it */
        CHECK(!ivshmem_icmsg_doorbell(&b->side[0]));
        CHECK_EQUAL(ivshmem_icmsg_poll(&b->side[0]), IVSHMEM_ICMSG_OPENING);
        CHECK_EQUAL(send_text(b, 0, "x"), IVSHMEM_ICMSG_NOT_BOUND);
        CHECK_EQUAL(receive(b, 0), IVSHMEM_ICMSG_NOT_BOUND);
        open_side(b, 1);
        for (int side = 1, rings = 0; ; side = !side, rings++) {
            ivshmem_icmsg_poll(&b->side[side]);
            if (!ivshmem_icmsg_doorbell(&b->side[side])) {
                break;
            }
            CHECK(rings < 10);
        }
        CHECK_EQUAL(b->side[0].state, IVSHMEM_ICMSG_BOUND);
        CHECK_EQUAL(b->side[1].state, IVSHMEM_ICMSG_BOUND);
        CHECK_EQUAL(send_text(b, 0, "x"), 0);
        CHECK(ivshmem_icmsg_doorbell(&b->side[0]));
        CHECK(!ivshmem_icmsg_doorbell(&b->side[0]));
        expect_text(b, 1, "x");
        free_bench(b);
    }
}

TEST(messages_arrive)
{
    for (size_t size = 64; size < 200; size += 4) {
        /* with sessions, the alignment is 8 */
        for (int i = 0; i < (size % 8 ? 1 : 2); i++) {
            struct bench *b = new_bench(size, 0, i);

            bind(b);
            talk(b, 1000);
            free_bench(b);
        }
    }
}

TEST(full_ring)
{
    struct bench *b = new_bench(8 + 64, 4, false);
    uint8_t buffer[64] = { 0 };

    bind(b);
    /* 64 bytes of data, of which 4 stay free, and 4 are the header */
    CHECK_EQUAL(ivshmem_icmsg_max_length(&b->side[0]), 56);
    CHECK_EQUAL(ivshmem_icmsg_send(&b->side[0], buffer, 0),
                IVSHMEM_ICMSG_BAD_LENGTH);
    CHECK_EQUAL(ivshmem_icmsg_send(&b->side[0], buffer, 57),
                IVSHMEM_ICMSG_BAD_LENGTH);
    for (int i = 0; i < 100; i++) {
        CHECK_EQUAL(ivshmem_icmsg_send(&b->side[0], buffer, 56), 0);
        ivshmem_icmsg_doorbell(&b->side[0]);
        CHECK_EQUAL(send_text(b, 0, "x"), IVSHMEM_ICMSG_FULL);
        CHECK(!ivshmem_icmsg_doorbell(&b->side[0]));
        CHECK_EQUAL(receive(b, 1), 56);
        /* 8 bytes for each of seven, and 4 more for none */
        for (int n = 0; n < 7; n++) {
            CHECK_EQUAL(send_text(b, 0, "x"), 0);
        }
        CHECK_EQUAL(send_text(b, 0, "x"), IVSHMEM_ICMSG_FULL);
        for (int n = 0; n < 7; n++) {
            expect_text(b, 1, "x");
        }
    }
    free_bench(b);
}

TEST(too_long_for_the_buffer)
{
    struct bench *b = new_bench(256, 4, false);
    uint8_t buffer[4];

    bind(b);
    CHECK_EQUAL(send_text(b, 0, "hello"), 0);
    CHECK_EQUAL(send_text(b, 0, "next"), 0);
    CHECK_EQUAL(ivshmem_icmsg_receive(&b->side[1], buffer, sizeof(buffer)),
                IVSHMEM_ICMSG_BAD_LENGTH);
    expect_text(b, 1, "next");
    free_bench(b);
}

TEST(peer_comes_back)
{
    struct bench *b = new_bench(256, 8, true);

    bind(b);
    for (int i = 0; i < 70000; i++) {       /* more than there are sessions */
        int comes = i % 2, stays = !comes;

        /* what it has not received is lost, and what it had sent, too */
        CHECK_EQUAL(send_text(b, stays, "old"), 0);
        CHECK_EQUAL(send_text(b, comes, "old"), 0);
        if (i % 3 == 0) {
            ivshmem_icmsg_close(&b->side[comes]);
            CHECK(ivshmem_icmsg_doorbell(&b->side[comes]));
        }
        open_side(b, comes);
        CHECK(ivshmem_icmsg_doorbell(&b->side[comes]));
        CHECK_EQUAL(ivshmem_icmsg_poll(&b->side[comes]),
                    IVSHMEM_ICMSG_OPENING);
        switch (i % 4) {
        case 0:
            CHECK_EQUAL(ivshmem_icmsg_poll(&b->side[stays]),
                        IVSHMEM_ICMSG_UNBOUND);
            break;
        case 1:
            CHECK_EQUAL(send_text(b, stays, "x"), IVSHMEM_ICMSG_NOT_BOUND);
            break;
        default:
            CHECK_EQUAL(receive(b, stays), IVSHMEM_ICMSG_NOT_BOUND);
            break;
        }
        CHECK_EQUAL(b->side[stays].state, IVSHMEM_ICMSG_UNBOUND);
        open_side(b, stays);
        settle(b);
        CHECK_EQUAL(b->side[comes].state, IVSHMEM_ICMSG_BOUND);
        CHECK_EQUAL(b->side[stays].state, IVSHMEM_ICMSG_BOUND);
        CHECK_EQUAL(receive(b, comes), IVSHMEM_ICMSG_EMPTY);
        CHECK_EQUAL(receive(b, stays), IVSHMEM_ICMSG_EMPTY);
        CHECK_EQUAL(send_text(b, stays, "new"), 0);
        expect_text(b, comes, "new");
    }
    free_bench(b);
}

/* With sessions, it does not matter what memory contains. */
TEST(memory_may_contain_anything)
{
    struct bench *b = new_bench(64, 8, true);
    uint32_t random = 11;

    for (int round = 0; round < 10000; round++) {
        for (size_t i = 0; i < b->size; i++) {
            b->region[0][i] = (uint8_t)(next_random(&random) >> 24);
            b->region[1][i] = (uint8_t)(next_random(&random) >> 24);
        }
        open_side(b, 0);
        if (round % 2) {
            ivshmem_icmsg_poll(&b->side[0]);
        }
        open_side(b, 1);
        settle(b);
        CHECK_EQUAL(b->side[0].state, IVSHMEM_ICMSG_BOUND);
        CHECK_EQUAL(b->side[1].state, IVSHMEM_ICMSG_BOUND);
        talk(b, 3);
    }
    free_bench(b);
}

/* Without, the first packet tells. */
TEST(magic_is_expected)
{
    static const char *const good[] = { "Em1l1K0rn3li4", "Em1l1K0rn3li4 2" };
    static const char *const bad[] = { "Em1l1K0rn3li", "Em1l1K0rn3lix", "x" };

    for (int i = 0; i < 5; i++) {
        struct bench *b = new_bench(256, 4, false);
        const char *text = i < 2 ? good[i] : bad[i - 2];
        uint8_t *peer = b->region[1];

        open_side(b, 0);
        CHECK(ivshmem_icmsg_doorbell(&b->side[0]));
        peer[8 + 1] = (uint8_t)strlen(text);
        memcpy(peer + 8 + 4, text, strlen(text));
        set_word(peer + 4, 4 + ((uint32_t)strlen(text) + 3) / 4 * 4);
        CHECK_EQUAL(ivshmem_icmsg_poll(&b->side[0]),
                    i < 2 ? IVSHMEM_ICMSG_BOUND : IVSHMEM_ICMSG_DEAD);
        /* Zephyr looks when it is rung, and not before */
        CHECK_EQUAL(ivshmem_icmsg_doorbell(&b->side[0]), i < 2);
        CHECK_EQUAL(word(peer), i < 2 ? word(peer + 4) : 0);
        CHECK_EQUAL(send_text(b, 0, "x"), i < 2 ? 0 : IVSHMEM_ICMSG_BROKEN);
        free_bench(b);
    }
}

/* Each value that the peer has no right to, one by one */
TEST(nonsense_is_found)
{
    const uint32_t size = 256 - 8;          /* of the data */
    const uint32_t indices[] = {
        size, size + 4, 1, 2, 3, size - 1, 0x80000000, 0xfffffffc, 0xffffffff,
    };
    const uint16_t lengths[] = { 0, 5, 8, 0x100, 0xffff };
    struct bench *b = new_bench(256, 4, false);

    for (size_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++) {
        memset(b->region[0], 0, b->size);
        memset(b->region[1], 0, b->size);
        bind(b);
        set_word(b->region[1] + 4, indices[i]);
        CHECK_EQUAL(receive(b, 0), IVSHMEM_ICMSG_BROKEN);
        CHECK_EQUAL(b->side[0].state, IVSHMEM_ICMSG_DEAD);
        CHECK_EQUAL(send_text(b, 0, "x"), IVSHMEM_ICMSG_BROKEN);
        /* nothing was taken, and nothing written */
        CHECK_EQUAL(word(b->region[1] + READ), 20);
        CHECK_EQUAL(word(b->region[0] + 4), 20);

        memset(b->region[0], 0, b->size);
        memset(b->region[1], 0, b->size);
        bind(b);
        set_word(b->region[0] + READ, indices[i]);
        CHECK_EQUAL(send_text(b, 0, "x"), IVSHMEM_ICMSG_BROKEN);
        CHECK_EQUAL(receive(b, 0), IVSHMEM_ICMSG_BROKEN);
        CHECK_EQUAL(word(b->region[0] + 4), 20);
    }
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        memset(b->region[0], 0, b->size);
        memset(b->region[1], 0, b->size);
        bind(b);
        CHECK_EQUAL(send_text(b, 1, "text"), 0);
        b->region[1][8 + 20] = (uint8_t)(lengths[i] >> 8);
        b->region[1][8 + 21] = (uint8_t)lengths[i];
        CHECK_EQUAL(receive(b, 0), IVSHMEM_ICMSG_BROKEN);
        CHECK_EQUAL(word(b->region[1] + READ), 20);
    }
    /* another chance, if both begin anew */
    memset(b->region[1], 0, b->size);
    bind(b);
    talk(b, 10);
    free_bench(b);
}

/* A peer that writes anything anywhere, at any time */
TEST(hostile_peer)
{
    struct bench *b = new_bench(96, 8, false);
    unsigned bound = 0, received = 0, broken = 0;
    uint32_t random = 5;

    for (int round = 0; round < 20000; round++) {
        b->sessions = round % 2;
        memset(b->region[0], 0, b->size);
        memset(b->region[1], 0, b->size);
        bind(b);
        for (int step = 0; step < 30; step++) {
            uint8_t *region = b->region[next_random(&random) & 1];
            size_t at = next_random(&random) % b->size / 4 * 4;
            uint8_t message[256];
            int32_t result;

            set_word(region + at, next_random(&random) % 3
                     ? next_random(&random) % (uint32_t)b->size / 4 * 4
                     : next_random(&random));
            switch (next_random(&random) % 4) {
            case 0:
                memset(message, 0, sizeof(message));
                ivshmem_icmsg_send(&b->side[0], message,
                                   next_random(&random) % sizeof(message));
                break;
            case 1:
                if (ivshmem_icmsg_poll(&b->side[0]) >= IVSHMEM_ICMSG_UNBOUND) {
                    open_side(b, 0);
                }
                break;
            case 2:
                send_text(b, 1, "among all that, a message");
                break;
            default:
                result = receive(b, 0);
                CHECK(result <= 256);
                received += result > 0;
                broken += result == IVSHMEM_ICMSG_BROKEN;
                break;
            }
            bound += b->side[0].state == IVSHMEM_ICMSG_BOUND;
        }
    }
    free_bench(b);
    /* it was not all in vain */
    CHECK(bound > 1000 && received > 1000 && broken > 1000);
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
        set_word(v->bench->region[next_random(&random) & 1] +
                 next_random(&random) % v->bench->size / 4 * 4,
                 next_random(&random) % 128);
    }
    return NULL;
}

static void suffer_vandal(bool sessions)
{
    struct vandal v = { .bench = new_bench(128, 8, sessions) };
    pthread_t thread;

    open_side(v.bench, 0);
    CHECK_EQUAL(pthread_create(&thread, NULL, write_anything, &v), 0);
    for (int i = 0; i < 300000; i++) {
        if (ivshmem_icmsg_poll(&v.bench->side[0]) >= IVSHMEM_ICMSG_UNBOUND) {
            open_side(v.bench, 0);
        }
        send_text(v.bench, 0, "hello");
        CHECK(receive(v.bench, 0) <= 128);
    }
    __atomic_store_n(&v.stop, true, __ATOMIC_RELAXED);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    free_bench(v.bench);
}

TEST_OF_THREADS(hostile_peer_at_the_same_time)
{
    suffer_vandal(false);
    suffer_vandal(true);
}

/*
 * A peer that comes back again and again, at any moment. To an honest peer
 * this must never look like nonsense, and nothing of an earlier life is taken
 * for new.
 */
#define LIVES 2000

static void *live_often(void *opaque)
{
    struct bench *b = opaque;
    uint32_t random = 17;

    for (uint32_t life = 1; life <= LIVES; life++) {
        open_side(b, 1);
        for (uint32_t n = next_random(&random) % 32; n > 0; n--) {
            ivshmem_icmsg_send(&b->side[1], &life, sizeof(life));
            receive(b, 1);
            CHECK(b->side[1].state != IVSHMEM_ICMSG_DEAD);
            sched_yield();
        }
    }
    return NULL;
}

TEST_OF_THREADS(peer_comes_back_at_any_moment)
{
    struct bench *b = new_bench(256, 8, true);
    uint32_t life, last = 0;
    unsigned received = 0;
    pthread_t thread;

    open_side(b, 0);
    CHECK_EQUAL(pthread_create(&thread, NULL, live_often, b), 0);
    while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
        int32_t result;

        send_text(b, 0, "hello");
        result = ivshmem_icmsg_receive(&b->side[0], &life, sizeof(life));
        if (result > 0) {
            CHECK_EQUAL(result, sizeof(life));
            CHECK(life >= last);
            last = life;
            received++;
        } else {
            sched_yield();
        }
        CHECK(b->side[0].state != IVSHMEM_ICMSG_DEAD);
        if (b->side[0].state == IVSHMEM_ICMSG_UNBOUND) {
            open_side(b, 0);
        }
    }
    CHECK(received > 0);
    free_bench(b);
}

/*
 * What the firmware and the Linux programs do, by threads: a doorbell is an
 * eventfd, and one that is lost fails the test.
 */
static void quiet(const char *format, ...)
{
    (void)format;
}

struct talker {
    struct bench *bench;
    int side;
    uint32_t messages;
    bool stop;
    bool good;
};

static void ring(struct bench *b, int side)
{
    const uint64_t one = 1;

    CHECK_EQUAL(write(b->doorbell[side], &one, sizeof(one)), 8);
}

static void *run_talk(void *opaque)
{
    struct talker *t = opaque;
    struct icmsg_talk icmsg = {
        .talk.protocol = &icmsg_talk_protocol, .talk.messages = t->messages,
        .talk.say = quiet, .config = config_of(t->bench, t->side),
    };
    struct talk *talk = &icmsg.talk;
    bool over;

    CHECK(talk->protocol->open(talk));
    do {
        over = talk_step(talk);
        if (talk->protocol->doorbell(talk)) {
            ring(t->bench, !t->side);
        }
        if (!over && talk->idle) {
            sleep_until_rung(t->bench->doorbell[t->side]);
        } else {
            sched_yield();
        }
    } while (!over && !__atomic_load_n(&t->stop, __ATOMIC_RELAXED));
    talk->protocol->close(talk);
    if (talk->protocol->doorbell(talk)) {
        ring(t->bench, !t->side);
    }
    t->good = talk_verdict(talk);
    return NULL;
}

/* One side sends for as many lives as there are, the other one stays. */
static void talk_in_threads(bool sessions, uint32_t messages, int lives)
{
    struct bench *b = new_bench(256, 0, sessions);
    struct talker echo = { .bench = b, .side = 1 };
    pthread_t thread;

    CHECK_EQUAL(pthread_create(&thread, NULL, run_talk, &echo), 0);
    while (lives--) {
        struct talker sender = { .bench = b, .messages = messages };

        run_talk(&sender);
        CHECK(sender.good);
    }
    /* it would send back what comes for ever */
    __atomic_store_n(&echo.stop, true, __ATOMIC_RELAXED);
    ring(b, echo.side);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    free_bench(b);
}

TEST_OF_THREADS(threads_talk)
{
    talk_in_threads(false, 5000, 1);
}

TEST_OF_THREADS(threads_talk_in_sessions)
{
    talk_in_threads(true, 20, 1000);
}

int main(int argc, char **argv)
{
    return run_test(argc == 2 ? argv[1] : NULL);
}
