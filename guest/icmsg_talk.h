/*
 * ICMsg in use: one side sends messages, the other one sends them back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The same in firmware, in a Linux machine and on the host. The sender sends a
 * message when the last one has come back, so it would stand still for ever if
 * a doorbell were lost.
 */

#ifndef ICMSG_TALK_H
#define ICMSG_TALK_H

#include "ivshmem_icmsg.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where the regions are in shared memory, unless the user says otherwise: */
#define ICMSG_TALK_TX 0u
#define ICMSG_TALK_RX 0x1000u
#define ICMSG_TALK_SIZE 0x1000u

/** Messages to be sent have 1 to this many bytes, Zephyr's default; ... */
#define ICMSG_TALK_MAX_SENT 128
/** ... a longer message than this is not sent back. */
#define ICMSG_TALK_MAX 1024

/**
 * struct icmsg_talk: one side; owned by the caller
 */
struct icmsg_talk {
    struct ivshmem_icmsg_config config;
    uint32_t messages;      /* to be sent; 0: send back what comes */
    /** printf for a line of text, of which %u and %s are used */
    void (*say)(const char *format, ...)
        __attribute__((format(printf, 1, 2)));
    bool idle;              /* nothing to do before the next doorbell */
    bool bound;
    bool waiting;           /* for what we have sent to come back */
    bool failed;            /* the peer is not to be listened to */
    uint32_t good;          /* have come back */
    uint32_t wrong;         /* something else came */
    struct ivshmem_icmsg icmsg;
    size_t pending;         /* bytes in the buffer, to be sent */
    uint8_t buffer[ICMSG_TALK_MAX];
};

/**
 * icmsg_talk_open: be there for the peer
 *
 * @talk: with config, messages and say set, and otherwise 0
 *
 * Returns 0 or IVSHMEM_ICMSG_BAD_MEMORY.
 */
int icmsg_talk_open(struct icmsg_talk *talk);

/**
 * icmsg_talk_step: do what there is to do
 *
 * Does not wait. After each call ring the peer if ivshmem_icmsg_doorbell()
 * says so, and if it has left talk->idle set, sleep until the own doorbell
 * rings.
 *
 * Returns true when there is no more to do: all messages have come back, or
 * the peer is not to be listened to. Who sends messages back, and has
 * sessions, waits for another peer when one has left.
 */
bool icmsg_talk_step(struct icmsg_talk *talk);

/**
 * icmsg_talk_verdict: say what came
 *
 * Returns true if all messages came back, and all that came was good.
 */
bool icmsg_talk_verdict(const struct icmsg_talk *talk);

#ifdef __cplusplus
}
#endif

#endif /* ICMSG_TALK_H */
