/*
 * A protocol in use: one side sends messages, the other one sends them back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "talk.h"

/* Fill @bytes with what message @number must say; return its length. */
static size_t make_message(uint8_t *bytes, uint32_t number)
{
    uint32_t x = number * 2654435761u;
    size_t length = 1 + number % TALK_MAX_SENT;
    size_t i;

    for (i = 0; i < length; i++) {
        x = x * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(x >> 24);
    }
    return length;
}

/* All that is for this peer has come back. */
static bool complete(const struct talk *talk)
{
    return talk->messages && talk->good + talk->wrong >=
                             talk->messages * (talk->served + 1);
}

/* Are we bound? Say when that changes. */
static bool bound(struct talk *talk)
{
    talk->state = talk->protocol->poll(talk);
    switch (talk->state) {
    case TALK_BOUND:
        if (!talk->bound) {
            talk->say("the peer is there\n");
        }
        talk->bound = true;
        return true;
    case TALK_LEFT:
        talk->say("the peer has left\n");
        if (!talk->messages ||
            (complete(talk) && talk->served < talk->more)) {
            talk->state = TALK_WAITING;
            talk->served++;
            talk->bound = false;
            talk->waiting = false;
            talk->pending = 0;
            talk->idle = false;
            talk->protocol->open(talk);
        }
        return false;
    case TALK_DEAD:
        talk->say("the peer wrote nonsense\n");
        return false;
    default:
        return false;
    }
}

static bool over(const struct talk *talk)
{
    return talk->state == TALK_DEAD ||
           (talk->messages && talk->state == TALK_LEFT) ||
           (complete(talk) && talk->served == talk->more);
}

/* What came is what we have sent, or is to be sent back. */
static void take_message(struct talk *talk, size_t length)
{
    uint8_t expected[TALK_MAX_SENT];

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
    if (complete(talk) && talk->served < talk->more) {
        talk->say("all came back: %u more peers to ask\n",
                  (unsigned)(talk->more - talk->served));
    }
}

bool talk_step(struct talk *talk)
{
    int32_t result;

    talk->idle = true;
    while (bound(talk) && !over(talk)) {
        if (talk->messages && !talk->waiting && !talk->pending &&
            !complete(talk)) {
            talk->pending = make_message(talk->buffer,
                                         talk->good + talk->wrong);
        }
        if (talk->pending) {
            result = talk->protocol->send(talk, talk->buffer, talk->pending);
            if (result == TALK_FULL) {
                talk->idle = false;     /* nobody rings when it is not */
                break;
            }
            talk->pending = 0;
            talk->waiting = true;
        }
        result = talk->protocol->receive(talk, talk->buffer,
                                         sizeof(talk->buffer));
        if (result > 0) {
            take_message(talk, (size_t)result);
        } else if (result == TALK_EMPTY) {
            break;
        }
    }
    return over(talk);
}

bool talk_verdict(const struct talk *talk)
{
    talk->say("%u messages came back, %u wrong\n", (unsigned)talk->good,
              (unsigned)talk->wrong);
    return talk->good == talk->messages * (talk->more + 1) && !talk->wrong &&
           talk->state != TALK_DEAD;
}
