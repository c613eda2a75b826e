/*
 * Firmware of the benchmark: does the jobs of ../bench.h
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "bench.h"
#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "icmsg_talk.h"
#include "ivshmem_flat.h"
#include "ivshmem_msg.h"
#include "rpmsg_talk.h"

/* The benchmark's own id. */
#define HOST 0

#define COUNTER CORTEX_M_REGISTER(BOARD_COUNTER)

_Static_assert(BENCH_HZ == BOARD_CLOCK_HZ, "COUNTER has the core's clock");
_Static_assert(sizeof(struct bench_block) == 128, "layout");

static const unsigned inputs[] = BOARD_IVSHMEM_INPUTS;
static struct ivshmem_flat ivshmem;
static struct bench_block *blocks = (void *)BOARD_IVSHMEM_MEMORY;
static struct bench_block *own;
static volatile bool rung;

/*
 * The UART between the machines (Arm DDI 0479, "APB UART"). As the CPU is asleep
 * while nothing comes, a driver for it does no more than this.
 */
#define UART_DATA CORTEX_M_REGISTER(BOARD_UART1 + 0x00)
#define UART_STATE CORTEX_M_REGISTER(BOARD_UART1 + 0x04)
#define UART_STATE_TXFULL (1u << 0)
#define UART_STATE_RXFULL (1u << 1)
#define UART_CTRL CORTEX_M_REGISTER(BOARD_UART1 + 0x08)
#define UART_CTRL_TX_EN (1u << 0)
#define UART_CTRL_RX_EN (1u << 1)
#define UART_CTRL_RX_INT_EN (1u << 3)
#define UART_INTCLEAR CORTEX_M_REGISTER(BOARD_UART1 + 0x0c)
#define UART_INTCLEAR_RX (1u << 1)
#define UART_BAUDDIV CORTEX_M_REGISTER(BOARD_UART1 + 0x10)
#define UART_BAUDDIV_MIN 16u

/* A receiver lets the sender have space after so many messages. */
#define GIVE_BACK 4

static struct ivshmem_msg msg;
static struct icmsg_talk icmsg = { .talk.protocol = &icmsg_talk_protocol };
static struct rpmsg_talk rpmsg = {
    .talk.protocol = &rpmsg_talk_protocol, .name = "bench",
};
/* The regions: ICMsg's are two, RPMsg's is one, of this size */
#define TALK_REGION (1u << 20)

/* aligned as memory that malloc() gives is */
static uint8_t payload[64 << 10] __attribute__((aligned(8)));

void interrupt(unsigned input)
{
    if (input == BOARD_UART1_RX_INPUT) {
        UART_INTCLEAR = UART_INTCLEAR_RX;
    } else {
        ivshmem_flat_interrupt(&ivshmem, 0);
    }
    rung = true;
}

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void ring(uint32_t peer)
{
    ivshmem_flat_ring(&ivshmem, peer, 0);
}

/* An interrupt may also be the one that gave us the job: look at the round. */
static void wait_round(uint32_t round)
{
    for (;;) {
        rung = false;
        if (load(&own->round) == round) {
            return;
        }
        switch (own->wait) {
        case BENCH_WAIT_WFI:
            sleep_unless(&rung);
            break;
        case BENCH_WAIT_SPIN:
            while (!rung) {
            }
            break;
        default:
            break;
        }
    }
}

static void next_round(uint32_t round)
{
    store(&blocks[own->peer].round, round);
    if (own->wait != BENCH_WAIT_MEMORY) {
        ring(own->peer);
    }
}

static void ping(void)
{
    uint32_t round;

    for (round = 1; round <= own->count; round++) {
        next_round(round);
        wait_round(round);
    }
    store(&own->round, 0);
}

static void pong(void)
{
    uint32_t round;

    for (round = 1; round <= own->count; round++) {
        wait_round(round);
        next_round(round);
    }
    store(&own->round, 0);
}

/* Both loops are the same but for what they store, and where. */
static void store_register(unsigned offset, uint32_t value)
{
    volatile uint32_t *reg = &ivshmem.registers[offset / 4];
    uint32_t i;

    for (i = 0; i < own->count; i++) {
        *reg = value;
    }
}

static void walk(void)
{
    uint32_t i, id = 0;

    for (i = 0; i < own->count; i++) {
        id = ivshmem_flat_next_peer(&ivshmem, id) + 1;
        /* that of none is 0, and so the first peer is next */
    }
}

static void copy(volatile uint32_t *to, const volatile uint32_t *from,
                 uint32_t words)
{
    uint32_t i;

    for (i = 0; i < words; i++) {
        to[i] = from[i];
    }
}

static void fill(volatile uint32_t *to, uint32_t words)
{
    uint32_t i;

    for (i = 0; i < words; i++) {
        to[i] = i;
    }
}

/* Load and store words in no order; @words is a power of two. */
static void touch(volatile uint32_t *memory, uint32_t words)
{
    uint32_t i, at = 1;

    for (i = 0; i < words; i++) {
        at = at * 1664525 + 1013904223;     /* Numerical Recipes */
        memory[at >> 8 & (words - 1)]++;
    }
}

/* Copies from the first half to the second. */
static void use_memory(uint32_t address)
{
    volatile uint32_t *memory = (volatile uint32_t *)address;
    uint32_t words = own->size / 4;

    switch (own->job) {
    case BENCH_COPY:
        copy(memory + words / 2, memory, words / 2);
        break;
    case BENCH_FILL:
        fill(memory, words);
        break;
    default:
        touch(memory, words);
        break;
    }
}

/* In turn, so that whatever else the host does meets both alike. */
static void use_memories(void)
{
    struct bench_turn *turns = (void *)((uint8_t *)blocks + BENCH_MESSAGES);
    uint32_t i, which;

    for (i = 0; i < own->count; i++) {
        for (which = 0; which < 2; which++) {
            uint32_t start = COUNTER;

            use_memory(own->address[which]);
            turns[i].ticks[which] = COUNTER - start;
        }
    }
}

static void ring_peers(void)
{
    int32_t peer;

    while ((peer = ivshmem_msg_doorbell(&msg)) >= 0) {
        ring((uint32_t)peer);
    }
}

/* Returns the slot of our peer, once it is linked. */
static unsigned link_up(unsigned slot)
{
    ivshmem_msg_open(&msg, (uint8_t *)blocks + BENCH_MESSAGES,
                     BOARD_IVSHMEM_MEMORY_SIZE - BENCH_MESSAGES, 2, (int)slot,
                     ivshmem_flat_id(&ivshmem), 0);
    for (;;) {
        rung = false;
        ivshmem_msg_poll(&msg);
        ring_peers();
        if (msg.peer[1 - slot].state == IVSHMEM_MSG_LINKED) {
            return 1 - slot;
        }
        sleep_unless(&rung);
    }
}

/* Write the payload where it is to be read; its sizes are multiples of 4. */
static int send_in_place(unsigned to)
{
    struct ivshmem_msg_span span[2];
    int error = ivshmem_msg_reserve(&msg, to, own->size, span);

    if (error) {
        return error;
    }
    fill(span[0].data, span[0].length / 4);
    fill(span[1].data, span[1].length / 4);
    return ivshmem_msg_commit(&msg, to, 0, own->size);
}

static int send_one(unsigned to)
{
    return own->job == BENCH_SEND_IN_PLACE ? send_in_place(to) :
           ivshmem_msg_send(&msg, to, 0, payload, own->size);
}

static void send(void)
{
    unsigned to = link_up(0);
    uint32_t start = COUNTER;
    uint32_t i;

    for (i = 1; i <= own->count; i++) {
        for (;;) {
            rung = false;
            if (send_one(to) != IVSHMEM_MSG_FULL) {
                break;
            }
            ring_peers();
            sleep_unless(&rung);
        }
        if (i % own->batch == 0) {
            ring_peers();
        }
    }
    ring_peers();
    wait_round(own->count);
    own->ticks = COUNTER - start;
    store(&own->round, 0);
}

/* Read each word of the payload where it is; -1 if one is not what was sent. */
static int32_t receive_in_place(unsigned from,
                                struct ivshmem_msg_header *header)
{
    struct ivshmem_msg_span span[2];
    int32_t length = ivshmem_msg_peek(&msg, from, header, span);
    unsigned part;

    if (length < 0) {
        return length;
    }
    for (part = 0; part < 2; part++) {
        const volatile uint32_t *words = span[part].data;
        uint32_t count = span[part].length / 4;
        uint32_t i, wrong = 0;

        for (i = 0; i < count; i++) {
            wrong |= words[i] ^ i;
        }
        length = wrong ? 0 : length;
    }
    ivshmem_msg_release(&msg, from);
    return length;
}

static int32_t receive_one(unsigned from, struct ivshmem_msg_header *header)
{
    return own->job == BENCH_RECEIVE_IN_PLACE ?
           receive_in_place(from, header) :
           ivshmem_msg_receive(&msg, from, header, payload, sizeof(payload));
}

/* Tells the sender in the end; result: how many were good. */
static void receive(void)
{
    unsigned from = link_up(1);
    struct ivshmem_msg_header header;
    uint32_t came = 0, good = 0;

    while (came < own->count) {
        int32_t length;

        rung = false;
        length = receive_one(from, &header);
        if (length == IVSHMEM_MSG_EMPTY) {
            ring_peers();
            sleep_unless(&rung);
        } else {
            good += length == (int32_t)own->size && header.sequence == came;
            came++;
            if (came % GIVE_BACK == 0) {
                ring_peers();
            }
        }
    }
    own->result = good;
    next_round(own->count);
}

/* Sleep until a message has come, and take it. */
static void wait_message(unsigned from)
{
    struct ivshmem_msg_header header;

    for (;;) {
        rung = false;
        if (ivshmem_msg_receive(&msg, from, &header, payload,
                                sizeof(payload)) == (int32_t)own->size) {
            return;
        }
        sleep_unless(&rung);
    }
}

static void message_ping(void)
{
    unsigned peer = link_up(0);
    uint32_t start = COUNTER;
    uint32_t i;

    for (i = 0; i < own->count; i++) {
        ivshmem_msg_send(&msg, peer, 0, payload, own->size);
        ring_peers();
        wait_message(peer);
    }
    own->ticks = COUNTER - start;
}

static void message_pong(void)
{
    unsigned peer = link_up(1);
    uint32_t i;

    for (i = 0; i < own->count; i++) {
        wait_message(peer);
        ivshmem_msg_send(&msg, peer, 0, payload, own->size);
        ring_peers();
    }
}

static void ring_talk(struct talk *talk)
{
    if (talk->protocol->doorbell(talk)) {
        ring(own->peer);
    }
}

/* Returns one side of the protocol, once it is bound to the other. */
static struct talk *bind(bool first)
{
    uint8_t *at = (uint8_t *)blocks + BENCH_MESSAGES;
    uint32_t buffer = own->size + IVSHMEM_RPMSG_HEADER;
    struct talk *talk;

    if (own->protocol == BENCH_ICMSG) {
        talk = &icmsg.talk;
        icmsg.config = (struct ivshmem_icmsg_config) {
            .tx = at + (first ? 0 : TALK_REGION), .tx_size = TALK_REGION,
            .rx = at + (first ? TALK_REGION : 0), .rx_size = TALK_REGION,
        };
    } else {
        talk = &rpmsg.talk;
        rpmsg.config = (struct ivshmem_rpmsg_config) {
            .memory = at, .address = (uintptr_t)at, .size = TALK_REGION,
            .host = first,
        };
        ivshmem_rpmsg_layout_zephyr(&rpmsg.config.layout, TALK_REGION,
                                    buffer < RPMSG_TALK_BUFFER_SIZE ?
                                    RPMSG_TALK_BUFFER_SIZE : buffer,
                                    RPMSG_TALK_ALIGN);
    }
    talk->protocol->open(talk);
    for (;;) {
        enum talk_state state;

        rung = false;
        state = talk->protocol->poll(talk);
        ring_talk(talk);
        if (state == TALK_BOUND) {
            return talk;
        }
        sleep_unless(&rung);
    }
}

/* Each message begins with its number. */
static void talk_send_one(struct talk *talk, uint32_t number)
{
    *(uint32_t *)(void *)payload = number;
    while (talk->protocol->send(talk, payload, own->size) == TALK_FULL) {
        /* nobody rings when it is not */
    }
}

/* Sleep until a message has come; was it this one? */
static bool talk_receive_one(struct talk *talk, uint32_t number)
{
    for (;;) {
        int32_t length;

        rung = false;
        length = talk->protocol->receive(talk, payload, sizeof(payload));
        if (length != TALK_EMPTY) {
            return length == (int32_t)own->size &&
                   *(uint32_t *)(void *)payload == number;
        }
        sleep_unless(&rung);
    }
}

static void talk_send(void)
{
    struct talk *talk = bind(true);
    uint32_t start = COUNTER;
    uint32_t i;

    for (i = 0; i < own->count; i++) {
        talk_send_one(talk, i);
        ring_talk(talk);
    }
    wait_round(own->count);
    own->ticks = COUNTER - start;
    store(&own->round, 0);
}

/* result: how many were good */
static void talk_receive(void)
{
    struct talk *talk = bind(false);
    uint32_t i, good = 0;

    for (i = 0; i < own->count; i++) {
        good += talk_receive_one(talk, i);
        ring_talk(talk);
    }
    own->result = good;
    next_round(own->count);
}

/* result: how many answers were good */
static void talk_ping(void)
{
    struct talk *talk = bind(true);
    uint32_t start = COUNTER;
    uint32_t i, good = 0;

    for (i = 0; i < own->count; i++) {
        talk_send_one(talk, i);
        ring_talk(talk);
        good += talk_receive_one(talk, i);
    }
    own->ticks = COUNTER - start;
    own->result = good;
}

static void talk_pong(void)
{
    struct talk *talk = bind(false);
    uint32_t i;

    for (i = 0; i < own->count; i++) {
        talk_receive_one(talk, i);
        talk_send_one(talk, i);
        ring_talk(talk);
    }
}

static void uart_init(void)
{
    UART_BAUDDIV = UART_BAUDDIV_MIN;
    UART_CTRL = UART_CTRL_TX_EN | UART_CTRL_RX_EN | UART_CTRL_RX_INT_EN;
    nvic_enable(BOARD_UART1_RX_INPUT);
}

/* Byte i of what is sent has the value i. */
static void uart_send(uint32_t length)
{
    uint32_t i;

    for (i = 0; i < length; i++) {
        while (UART_STATE & UART_STATE_TXFULL) {
        }
        UART_DATA = (uint8_t)i;
    }
}

static void uart_receive(uint32_t length)
{
    uint32_t i = 0;

    while (i < length) {
        rung = false;
        if (!(UART_STATE & UART_STATE_RXFULL)) {
            sleep_unless(&rung);
            continue;
        }
        own->result += UART_DATA == (uint8_t)i;
        i++;
    }
}

/* result: how many bytes were good */
static void uart_ping(bool first)
{
    uint32_t i;

    own->result = 0;
    for (i = 0; i < own->count; i++) {
        if (first) {
            uart_send(own->size);
            uart_receive(own->batch);
        } else {
            uart_receive(own->size);
            uart_send(own->batch);
        }
    }
}

static void do_job(void)
{
    uint32_t start = COUNTER;

    switch (own->job) {
    case BENCH_PING:
        ping();
        break;
    case BENCH_PONG:
        pong();
        break;
    case BENCH_DOORBELL:
        store_register(IVSHMEM_FLAT_DOORBELL, own->peer << 16);
        break;
    case BENCH_REGISTER:
        store_register(IVSHMEM_FLAT_INTRMASK, own->peer << 16);
        break;
    case BENCH_WALK:
        walk();
        break;
    case BENCH_INTERRUPTS:
        own->result = ivshmem.vector[0].interrupts;
        break;
    case BENCH_SEND:
    case BENCH_SEND_IN_PLACE:
        send();
        return;
    case BENCH_RECEIVE:
    case BENCH_RECEIVE_IN_PLACE:
        receive();
        break;
    case BENCH_MESSAGE_PING:
        message_ping();
        return;
    case BENCH_MESSAGE_PONG:
        message_pong();
        break;
    case BENCH_UART_PING:
    case BENCH_UART_PONG:
        uart_ping(own->job == BENCH_UART_PING);
        break;
    case BENCH_TALK_SEND:
        talk_send();
        return;
    case BENCH_TALK_RECEIVE:
        talk_receive();
        break;
    case BENCH_TALK_PING:
        talk_ping();
        return;
    case BENCH_TALK_PONG:
        talk_pong();
        break;
    default:
        use_memories();
        break;
    }
    own->ticks = COUNTER - start;
}

int main(void)
{
    uint32_t done = 0;

    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    ring(HOST);         /* for who measures how long it took to come here */
    nvic_enable(inputs[0]);
    uart_init();
    own = &blocks[ivshmem_flat_id(&ivshmem)];

    for (;;) {
        rung = false;
        if (load(&own->number) == done) {
            sleep_unless(&rung);
            continue;
        }
        done = own->number;
        do_job();
        store(&own->done, done);
        ring(HOST);
    }
}
