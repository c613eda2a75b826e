/*
 * A protocol in use: one side sends messages, the other one sends them back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The same in firmware, in a Linux machine and on the host, with ICMsg
 * (icmsg_talk.h) or RPMsg (rpmsg_talk.h). The sender sends a message when the
 * last one has come back, so it would stand still for ever if a doorbell were
 * lost.
 */

#ifndef TALK_H
#define TALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Messages to be sent have 1 to this many bytes, Zephyr's default; ... */
#define TALK_MAX_SENT 128
/** ... a longer message than this is not sent back. */
#define TALK_MAX 1024

/** How a side stands with its peer. */
enum talk_state {
    TALK_WAITING,       /* it is not there yet */
    TALK_BOUND,         /* messages can go both ways */
    TALK_LEFT,          /* open again to wait for another one */
    TALK_DEAD           /* it broke the rules */
};

/** What send and receive return when there is no space, or no message */
#define TALK_FULL (-2)
#define TALK_EMPTY (-1)

struct talk;

/**
 * struct talk_protocol: how messages go there and back
 */
struct talk_protocol {
    /** be there, again or for the first time; false if the memory is unfit */
    bool (*open)(struct talk *talk);
    enum talk_state (*poll)(struct talk *talk);
    /** 0, TALK_FULL or another negative error; see ivshmem_icmsg_send() */
    int (*send)(struct talk *talk, const void *message, size_t length);
    /** a length, TALK_EMPTY or another error; see ivshmem_icmsg_receive() */
    int32_t (*receive)(struct talk *talk, void *buffer, size_t capacity);
    /** is the peer to be rung? */
    bool (*doorbell)(struct talk *talk);
    void (*close)(struct talk *talk);
};

/**
 * struct talk: one side; a part of what the protocol needs
 *
 * Owned by the caller, who sets protocol, messages, more and say, opens and
 * closes it.
 */
struct talk {
    const struct talk_protocol *protocol;
    uint32_t messages;      /* to be sent; 0: send back what comes */
    uint32_t more;          /* peers to send them to, too, in turn */
    /** printf for a line of text, of which %u and %s are used */
    void (*say)(const char *format, ...)
        __attribute__((format(printf, 1, 2)));
    bool idle;              /* nothing to do before the next doorbell */
    bool bound;
    bool waiting;           /* for what we have sent to come back */
    enum talk_state state;
    uint32_t served;        /* peers that had theirs, and have left */
    uint32_t good;          /* have come back */
    uint32_t wrong;         /* something else came */
    size_t pending;         /* bytes in the buffer, to be sent */
    uint8_t buffer[TALK_MAX];
};

/**
 * talk_step: do what there is to do
 *
 * Does not wait. After each call ring the peer if protocol->doorbell() says so,
 * and if it has left talk->idle set, sleep until the own doorbell rings.
 *
 * Returns true when there is no more to do: all messages have come back, or
 * the peer is not to be listened to. Who sends messages back, or has them for
 * more peers, waits for another one when one has left.
 */
bool talk_step(struct talk *talk);

/**
 * talk_verdict: say what came
 *
 * Returns true if all messages came back, and all that came was good.
 */
bool talk_verdict(const struct talk *talk);

#ifdef __cplusplus
}
#endif

#endif /* TALK_H */
