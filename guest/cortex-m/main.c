/*
 * Firmware of the demonstration: exchange messages with peers, and tell
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * -append "messages=N peers=N" says how many messages go to each peer, 1,000
 * by default, and how many peers there are, 1 by default. QEMU's exit status
 * is 0 if all went well; 1 if messages were bad or missing; 2 if the shared
 * memory cannot be used, 3 after a fault. More words:
 *
 *   vectors=N   the device and all peers have so many vectors, 1 by default,
 *               up to 4: from 2 on, control goes on a vector of its own
 *   revision=0  the device is of revision 0, whose interrupt is a level
 *   slot=N      our slot; by default it follows from the id
 *   crc=1       messages have a CRC, with all peers
 *   memory=N    the shared memory has N MiB, 4 by default, at most 256
 *   tick=N      look at device and memory each N ms too, at most 671
 *
 * If the device has peer registers, a peer that ends without goodbye has left;
 * with a changes-vector of 0 that is noticed at once.
 *
 * Without tick there is no timer: the core sleeps until a doorbell wakes it.
 * It is needed where the server may end and come back: until all of us are
 * connected again, doorbells are lost, and our id may be another one
 * afterwards, of which the device says nothing. Give slots too: there is no
 * telling who is who by ids then.
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "exchange.h"
#include "ivshmem_flat.h"
#include "option.h"
#include "semihosting.h"

/* SysTick counts 24 bits of the core's clock. */
#define MAX_TICK_MS (SYST_MAX_CYCLES / (BOARD_CLOCK_HZ / 1000))

/* Nothing else is on the board for so many. */
#define MAX_MEMORY_MIB 256

static const unsigned inputs[BOARD_IVSHMEM_VECTORS] = BOARD_IVSHMEM_INPUTS;
static uint32_t vectors = 1;
static uint32_t revision = 1;
static uint32_t slot = (uint32_t)IVSHMEM_MSG_ANY_SLOT;
static uint32_t crc;
static uint32_t memory = BOARD_IVSHMEM_MEMORY_SIZE >> 20;
static uint32_t tick;

static struct ivshmem_flat ivshmem;
static uint32_t doorbells[BOARD_IVSHMEM_VECTORS];
static struct ivshmem_msg msg;
static struct exchange exchange = {
    .msg = &msg, .messages = 1000, .peers = 1, .say = print,
};
static volatile bool rung;

static void doorbell_rang(void *opaque)
{
    (void)opaque;
    rung = true;
}

void interrupt(unsigned input)
{
    unsigned vector;

    if (input == INTERRUPT_SYSTICK) {
        rung = true;
        return;
    }
    for (vector = 0; vector < vectors; vector++) {
        if (input == inputs[vector]) {
            ivshmem_flat_interrupt(&ivshmem, vector);
        }
    }
}

static void ring(int32_t peer, unsigned vector)
{
    ivshmem_flat_ring(&ivshmem, (uint32_t)peer, vector);
    doorbells[vector]++;
}

static void ring_peers(void)
{
    int32_t peer;

    while (vectors > EXCHANGE_VECTOR_CONTROL &&
           (peer = ivshmem_msg_doorbell_control(&msg)) >= 0) {
        ring(peer, EXCHANGE_VECTOR_CONTROL);
    }
    while ((peer = ivshmem_msg_doorbell(&msg)) >= 0) {
        ring(peer, EXCHANGE_VECTOR);
    }
}

static void read_options(void)
{
    static char line[512];

    semihosting_command_line(line, sizeof(line));
    exchange.messages = option(line, " messages=", exchange.messages);
    exchange.peers = option(line, " peers=", exchange.peers);
    vectors = option(line, " vectors=", vectors);
    revision = option(line, " revision=", revision);
    slot = option(line, " slot=", slot);
    crc = option(line, " crc=", crc);
    memory = option(line, " memory=", memory);
    tick = option(line, " tick=", tick);
}

static bool options_are_good(void)
{
    return exchange.peers >= 1 && exchange.peers < EXCHANGE_SLOTS &&
           vectors >= 1 && vectors <= BOARD_IVSHMEM_VECTORS &&
           (revision == 1 || (revision == 0 && vectors == 1)) &&
           (slot < EXCHANGE_SLOTS || slot == (uint32_t)IVSHMEM_MSG_ANY_SLOT) &&
           crc <= 1 && memory >= 1 && memory <= MAX_MEMORY_MIB &&
           tick <= MAX_TICK_MS;
}

static void init_device(void)
{
    unsigned vector;

    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    for (vector = 0; vector < vectors; vector++) {
        ivshmem_flat_on_interrupt(&ivshmem, vector, doorbell_rang, 0);
        nvic_enable(inputs[vector]);
    }
    if (revision == 0) {
        ivshmem_flat_use_level(&ivshmem);
    }
}

/* All peers must agree on the size: if it is less, find out by a fault. */
static void touch_end_of_memory(void)
{
    (void)CORTEX_M_REGISTER(BOARD_IVSHMEM_MEMORY + (memory << 20) - 4);
}

/* The server may have come back, and have given us another id. */
static void follow_id(void)
{
    uint32_t id = ivshmem_flat_id(&ivshmem);

    if (id != msg.doorbell) {
        print("id %u is %u now\n", (unsigned)msg.doorbell, (unsigned)id);
        ivshmem_msg_move(&msg, id);
    }
}

static bool connected(void *opaque, uint32_t id)
{
    (void)opaque;
    return ivshmem_flat_next_peer(&ivshmem, id) == id;
}

/* Say once that half of the messages have come, from all peers. */
static void tell_half_way(void)
{
    static bool told;
    unsigned i, half_way = 0;

    for (i = 0; i < EXCHANGE_SLOTS; i++) {
        half_way += exchange.pair[i].begun &&
                    exchange.pair[i].good >= exchange.messages / 2;
    }
    if (half_way >= exchange.peers && !told) {
        print("half-way\n");
        told = true;
    }
}

static void tell_counts(void)
{
    uint32_t interrupts = 0;
    unsigned vector;

    for (vector = 0; vector < vectors; vector++) {
        interrupts += ivshmem.vector[vector].interrupts;
    }
    print("id %u: %u doorbells rung, %u interrupts taken\n",
          (unsigned)msg.doorbell, (unsigned)ivshmem.doorbells,
          (unsigned)interrupts);
    for (vector = 0; vector < vectors && vectors > 1; vector++) {
        print("vector %u: %u doorbells rung, %u interrupts on input %u\n",
              vector, (unsigned)doorbells[vector],
              (unsigned)ivshmem.vector[vector].interrupts, inputs[vector]);
    }
}

int main(void)
{
    uint32_t id;
    bool good;

    read_options();
    if (!options_are_good()) {
        print("expected peers=1 to %u, vectors=1 to %u, revision=0 (with "
              "vectors=1) or 1, slot=0 to %u, crc=0 or 1, memory=1 to %u, "
              "tick=0 to %u\n",
              EXCHANGE_SLOTS - 1, BOARD_IVSHMEM_VECTORS, EXCHANGE_SLOTS - 1,
              MAX_MEMORY_MIB, (unsigned)MAX_TICK_MS);
        return 2;
    }
    init_device();
    id = ivshmem_flat_id(&ivshmem);
    touch_end_of_memory();
    if (ivshmem_msg_open(&msg, (void *)BOARD_IVSHMEM_MEMORY, memory << 20,
                         EXCHANGE_SLOTS, (int)slot, id,
                         crc ? IVSHMEM_MSG_CRC : 0)) {
        print("shared memory at %x cannot be used\n", BOARD_IVSHMEM_MEMORY);
        return 2;
    }
    print("id %u, slot %u\n", (unsigned)id, (unsigned)msg.slot);
    if (tick) {
        systick_start(BOARD_CLOCK_HZ / 1000 * tick);
    }

    for (;;) {
        bool over;

        /* before we look: what rings from here on keeps us awake */
        rung = false;
        if (tick) {
            follow_id();
            tell_half_way();
        }
        if (ivshmem_flat_finds_peers(&ivshmem)) {
            ivshmem_msg_look_around(&msg, connected, 0);
        }
        over = exchange_step(&exchange);
        ring_peers();
        if (over) {
            break;
        }
        if (exchange.idle) {
            sleep_unless(&rung);
        }
    }
    ivshmem_msg_close(&msg);
    ring_peers();

    good = exchange_verdict(&exchange);
    tell_counts();
    print(good ? "passed\n" : "FAILED\n");
    return good ? 0 : 1;
}
