/*
 * ICMsg in use: one side sends messages, the other one sends them back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "icmsg_talk.h"

/* Fill @bytes with what message @number must say; return its length. */
static size_t make_message(uint8_t *bytes, uint32_t number)
{
    uint32_t x = number * 2654435761u;
    size_t length = 1 + number % ICMSG_TALK_MAX_SENT;
    size_t i;

    for (i = 0; i < length; i++) {
        x = x * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(x >> 24);
    }
    return length;
}

int icmsg_talk_open(struct icmsg_talk *talk)
{
    talk->bound = false;
    talk->waiting = false;
    talk->pending = 0;
    return ivshmem_icmsg_open(&talk->icmsg, &talk->config);
}

/* Are we bound? Say when that changes. */
static bool bound(struct icmsg_talk *talk)
{
    switch (ivshmem_icmsg_poll(&talk->icmsg)) {
    case IVSHMEM_ICMSG_BOUND:
        if (!talk->bound) {
            talk->say("the peer is there\n");
        }
        talk->bound = true;
        return true;
    case IVSHMEM_ICMSG_UNBOUND:
        talk->say("the peer has left\n");
        if (!talk->messages) {
            icmsg_talk_open(talk);
            talk->idle = false;
        }
        return false;
    case IVSHMEM_ICMSG_DEAD:
        talk->say("the peer wrote nonsense\n");
        talk->failed = true;
        return false;
    default:
        return false;
    }
}

static bool over(const struct icmsg_talk *talk)
{
    return talk->icmsg.state == IVSHMEM_ICMSG_DEAD ||
           (talk->messages &&
            (talk->icmsg.state == IVSHMEM_ICMSG_UNBOUND ||
             talk->good + talk->wrong >= talk->messages));
}

/* What came is what we have sent, or is to be sent back. */
static void take_message(struct icmsg_talk *talk, size_t length)
{
    uint8_t expected[ICMSG_TALK_MAX_SENT];

    if (!talk->messages) {
        talk->pending = length;
    } else if (talk->waiting &&
               length == make_message(expected, talk->good + talk->wrong) &&
               __builtin_memcmp(talk->buffer, expected, length) == 0) {
        talk->good++;
    } else {
        talk->wrong++;
    }
    talk->waiting = false;
}

bool icmsg_talk_step(struct icmsg_talk *talk)
{
    int32_t result;

    talk->idle = true;
    while (bound(talk) && !over(talk)) {
        if (talk->messages && !talk->waiting && !talk->pending) {
            talk->pending = make_message(talk->buffer,
                                         talk->good + talk->wrong);
        }
        if (talk->pending) {
            result = ivshmem_icmsg_send(&talk->icmsg, talk->buffer,
                                        talk->pending);
            if (result == IVSHMEM_ICMSG_FULL) {
                talk->idle = false;     /* nobody rings when it is not */
                break;
            }
            talk->pending = 0;
            talk->waiting = true;
        }
        result = ivshmem_icmsg_receive(&talk->icmsg, talk->buffer,
                                       sizeof(talk->buffer));
        if (result > 0) {
            take_message(talk, (size_t)result);
        } else if (result == IVSHMEM_ICMSG_EMPTY) {
            break;
        }
    }
    return over(talk);
}

bool icmsg_talk_verdict(const struct icmsg_talk *talk)
{
    talk->say("%u messages came back, %u wrong\n", (unsigned)talk->good,
              (unsigned)talk->wrong);
    return talk->good == talk->messages && !talk->wrong && !talk->failed;
}
