/*
 * What the benchmark tells its machines, and they it, in shared memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * Each machine has a block of its own, found by its id. The benchmark writes
 * a job into it, last of all its number, and rings. The machine does the job,
 * times it by its own clock, writes what came out, last of all the job's
 * number, and rings the benchmark, which is peer 0. tools/bench has the same
 * layout.
 */

#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

/** Jobs; those of two machines are given to the second one first. */
enum bench_job {
    /** ring @peer, wait for its answer; @count times */
    BENCH_PING,
    /** answer @peer's ring; @count times */
    BENCH_PONG,
    /** store to DOORBELL, vector 0 of @peer, @count times */
    BENCH_DOORBELL,
    /** store to INTRMASK, @count times */
    BENCH_REGISTER,
    /**
     * copy, fill or touch @size bytes of either memory, in turn, @count times;
     * what each took is in the struct bench_turn at BENCH_MESSAGES
     */
    BENCH_COPY,
    BENCH_FILL,
    BENCH_RANDOM,
    /** tell how many interrupts have come since the start */
    BENCH_INTERRUPTS,
    /** send @count messages of @size bytes to @peer, ring each @batch */
    BENCH_SEND,
    /** receive @count messages from @peer */
    BENCH_RECEIVE,
    /** the same, payloads written to the ring and read from it by words */
    BENCH_SEND_IN_PLACE,
    BENCH_RECEIVE_IN_PLACE,
    /** send a message of @size bytes, wait for its answer; @count times */
    BENCH_MESSAGE_PING,
    /** answer @peer's message with one as long; @count times */
    BENCH_MESSAGE_PONG,
    /** send @size bytes by UART, wait for @batch bytes; @count times */
    BENCH_UART_PING,
    /** wait for @size bytes, send @batch bytes by UART; @count times */
    BENCH_UART_PONG,
    /**
     * as BENCH_SEND, ..., BENCH_MESSAGE_PONG, by @protocol; the benchmark has
     * cleared the memory at BENCH_MESSAGES
     */
    BENCH_TALK_SEND,
    BENCH_TALK_RECEIVE,
    BENCH_TALK_PING,
    BENCH_TALK_PONG,
    /** walk over the peers, by registers, again and again: @count steps */
    BENCH_WALK,
};

/** By what BENCH_TALK_... send. */
enum bench_protocol {
    BENCH_ICMSG,
    BENCH_RPMSG,
};

/** How BENCH_PING and BENCH_PONG wait. */
enum bench_wait {
    BENCH_WAIT_WFI,         /* asleep until the interrupt */
    BENCH_WAIT_SPIN,        /* awake until the interrupt */
    BENCH_WAIT_MEMORY,      /* awake, looking into memory; nobody rings */
};

/** struct bench_block: little-endian */
struct bench_block {
    /* written by the benchmark */
    uint32_t number;
    uint32_t job;
    uint32_t count;
    uint32_t peer;
    uint32_t wait;
    uint32_t address[2];
    uint32_t size;
    uint32_t batch;
    uint32_t protocol;
    /* written by the machine */
    uint32_t done;
    uint32_t ticks;         /* of BENCH_HZ */
    uint32_t result;
    uint32_t reserved[3];
    /* written by the other machine: which round it is */
    uint32_t round;
    uint32_t padding[15];
};

/** struct bench_turn: how long each memory took, in ticks */
struct bench_turn {
    uint32_t ticks[2];
};

/** What the machine's clock counts in a second. */
#define BENCH_HZ 25000000u

/** Blocks are at the start of memory; messages, or turns, behind them. */
#define BENCH_MESSAGES 4096u

#endif /* BENCH_H */
