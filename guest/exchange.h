/*
 * The demonstration: peers that exchange messages and check each other
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The same on every kind of peer. With each peer that appears, both sides
 * send their messages in lockstep, number k + 1 when number k of the other
 * has come, so the exchange would stand still for ever if a doorbell were
 * lost. Then both tell how many good ones they got, and neither leaves before
 * it knows.
 */

#ifndef EXCHANGE_H
#define EXCHANGE_H

#include "ivshmem_msg.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What all peers must have in common: the number of slots, ... */
#define EXCHANGE_SLOTS 8
/** ... and the vector that tells of messages, and of all else ... */
#define EXCHANGE_VECTOR 0
/** ... unless all peers have this one, for who came, left or moved. */
#define EXCHANGE_VECTOR_CONTROL 1

/** Payloads have 0 to this many bytes. */
#define EXCHANGE_MAX_PAYLOAD 256

/** Values of ivshmem_msg_header.type */
enum exchange_type {
    EXCHANGE_DATA = 1,      /* bytes that follow from sender and sequence */
    EXCHANGE_REPORT = 2     /* le32: how many good ones have come */
};

/**
 * struct exchange_pair: the exchange with one peer
 */
struct exchange_pair {
    uint32_t peer;          /* its id */
    bool begun;             /* there was a link with it */
    bool left;              /* it is gone, too early */
    bool report_sent;
    bool report_received;
    uint32_t sent;          /* messages sent, reports not counted */
    uint32_t good;          /* good ones received */
    uint32_t bad_crc;
    uint32_t wrong;         /* good CRC or none, but not what was expected */
    uint32_t reported;      /* good ones that the peer says it received */
};

/**
 * struct exchange: all exchanges of one peer; owned by the caller
 */
struct exchange {
    struct ivshmem_msg *msg;
    uint32_t messages;      /* to be sent to each peer */
    uint32_t peers;         /* over when so many exchanges are complete */
    /** printf for a line of text, of which %u and %s are used */
    void (*say)(const char *format, ...)
        __attribute__((format(printf, 1, 2)));
    bool waiting;           /* has said that it waits */
    bool idle;              /* nothing to do before the next doorbell */
    bool failed;            /* there is no going on */
    struct exchange_pair pair[IVSHMEM_MSG_MAX_SLOTS];
};

/**
 * exchange_step: take a message of each peer, and answer it
 *
 * @x: with msg (opened), messages, peers and say set, and otherwise 0
 *
 * Does not wait. After each call ring those whom ivshmem_msg_doorbell()
 * names, and if it has left x->idle set, sleep until the own doorbell rings.
 *
 * Returns true when the exchange is over.
 */
bool exchange_step(struct exchange *x);

/**
 * exchange_verdict: say what was exchanged with whom
 *
 * Returns true if enough peers, and we, got all messages, and all were good.
 */
bool exchange_verdict(const struct exchange *x);

#ifdef __cplusplus
}
#endif

#endif /* EXCHANGE_H */
