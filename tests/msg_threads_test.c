/*
 * Tests of the message layer on the host: peers at the same time
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "exchange.h"
#include "msg_test.h"

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
