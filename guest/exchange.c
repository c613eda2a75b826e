/*
 * The demonstration: peers that exchange messages and check each other
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "exchange.h"

/* Marsaglia's xorshift; @x must not be 0. */
static uint32_t next_random(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    *x ^= *x << 5;
    return *x;
}

/*
 * Fill @payload with what @sender's message number @sequence must say, and
 * return its length.
 */
static uint32_t make_payload(uint8_t *payload, uint32_t sender,
                             uint32_t sequence)
{
    uint32_t x = (sender << 16 ^ sequence) * 2654435761u | 1;
    uint32_t length = next_random(&x) % (EXCHANGE_MAX_PAYLOAD + 1);
    uint32_t i;

    for (i = 0; i < length; i++) {
        payload[i] = (uint8_t)(next_random(&x) >> 24);
    }
    return length;
}

/* Bad ones too: lockstep goes on, and the verdict tells. */
static uint32_t arrived(const struct exchange_pair *pair)
{
    return pair->good + pair->bad_crc + pair->wrong;
}

static bool complete(const struct exchange_pair *pair)
{
    return pair->report_sent && pair->report_received;
}

static void check_data(struct exchange_pair *pair,
                       const struct ivshmem_msg_header *header,
                       const uint8_t *payload)
{
    uint8_t expected[EXCHANGE_MAX_PAYLOAD];
    uint32_t length = make_payload(expected, pair->peer, header->sequence);

    if (header->type == EXCHANGE_DATA && header->sequence == arrived(pair) &&
        header->length == length &&
        __builtin_memcmp(payload, expected, length) == 0) {
        pair->good++;
    } else {
        pair->wrong++;
    }
}

/* Take one message; false if there is none. */
static bool receive(struct exchange *x, unsigned slot)
{
    struct exchange_pair *pair = &x->pair[slot];
    struct ivshmem_msg_header header;
    uint8_t payload[EXCHANGE_MAX_PAYLOAD];
    int32_t length = ivshmem_msg_receive(x->msg, slot, &header, payload,
                                         sizeof(payload));

    switch (length) {
    case IVSHMEM_MSG_EMPTY:
    case IVSHMEM_MSG_NO_LINK:
        return false;
    case IVSHMEM_MSG_BAD_CRC:
        pair->bad_crc++;
        return true;
    case IVSHMEM_MSG_TOO_LONG:
        pair->wrong++;
        return true;
    default:
        break;
    }
    if (length < 0) {
        x->say("peer %u: link failed\n", (unsigned)pair->peer);
        x->failed = true;
        return false;
    }
    if (header.type == EXCHANGE_REPORT && length == 4) {
        pair->reported = (uint32_t)payload[0] | (uint32_t)payload[1] << 8 |
                         (uint32_t)payload[2] << 16 |
                         (uint32_t)payload[3] << 24;
        pair->report_received = true;
    } else {
        check_data(pair, &header, payload);
    }
    return true;
}

/* Send what is our turn to send; a full ring lets us try again later. */
static void send(struct exchange *x, unsigned slot)
{
    struct exchange_pair *pair = &x->pair[slot];
    uint8_t payload[EXCHANGE_MAX_PAYLOAD];

    if (pair->sent < x->messages && pair->sent <= arrived(pair)) {
        uint32_t length = make_payload(payload, x->msg->id, pair->sent);

        if (ivshmem_msg_send(x->msg, slot, EXCHANGE_DATA, payload,
                             length) == 0) {
            pair->sent++;
        }
    }
    if (pair->sent == x->messages && arrived(pair) >= x->messages &&
        !pair->report_sent) {
        payload[0] = (uint8_t)pair->good;
        payload[1] = (uint8_t)(pair->good >> 8);
        payload[2] = (uint8_t)(pair->good >> 16);
        payload[3] = (uint8_t)(pair->good >> 24);
        pair->report_sent = ivshmem_msg_send(x->msg, slot, EXCHANGE_REPORT,
                                             payload, 4) == 0;
    }
}

/* A slot's state has changed. */
static void notice(struct exchange *x, unsigned slot)
{
    const struct ivshmem_msg_peer *peer = &x->msg->peer[slot];
    struct exchange_pair *pair = &x->pair[slot];

    switch (peer->state) {
    case IVSHMEM_MSG_LINKED:
        /* a peer that comes back begins anew, and so do we */
        *pair = (struct exchange_pair) { .peer = peer->id, .begun = true };
        x->say("peer %u is there\n", (unsigned)peer->id);
        break;
    case IVSHMEM_MSG_FOREIGN:
        x->say("slot %u: a peer with another version, choice of CRC, number "
               "of slots or size of shared memory\n", slot);
        break;
    case IVSHMEM_MSG_ABSENT:
    case IVSHMEM_MSG_GREETING:
    case IVSHMEM_MSG_LEFT:
    case IVSHMEM_MSG_DEAD:
        break;
    }
}

static void step_pair(struct exchange *x, unsigned slot)
{
    struct exchange_pair *pair = &x->pair[slot];

    if (receive(x, slot)) {
        x->idle = false;
    } else if (x->msg->peer[slot].state == IVSHMEM_MSG_LEFT &&
               !complete(pair) && !pair->left) {
        x->say("peer %u has left\n", (unsigned)pair->peer);
        pair->left = true;
    }
    send(x, slot);
}

bool exchange_step(struct exchange *x)
{
    int32_t changed = ivshmem_msg_poll(x->msg);
    unsigned slot, completed = 0;
    bool begun = false;

    if (changed < 0) {
        x->say("another peer has taken slot %u\n", (unsigned)x->msg->slot);
        x->failed = true;
    }
    x->idle = true;
    for (slot = 0; slot < x->msg->slots && !x->failed; slot++) {
        if ((uint32_t)changed & 1u << slot) {
            notice(x, slot);
        }
        if (x->pair[slot].begun) {
            step_pair(x, slot);
            begun = true;
            completed += complete(&x->pair[slot]);
        }
    }
    if (!begun && !x->waiting) {
        x->say("waiting for a peer\n");
        x->waiting = true;
    }
    return x->failed || completed >= x->peers;
}

bool exchange_verdict(const struct exchange *x)
{
    unsigned slot, passed = 0;
    bool good = !x->failed;

    for (slot = 0; slot < x->msg->slots; slot++) {
        const struct exchange_pair *pair = &x->pair[slot];

        if (!pair->begun) {
            continue;
        }
        x->say("id %u, peer %u: %u messages sent, %u received, "
               "%u bad CRCs, %u wrong\n",
               (unsigned)x->msg->id, (unsigned)pair->peer,
               (unsigned)pair->sent, (unsigned)pair->good,
               (unsigned)pair->bad_crc, (unsigned)pair->wrong);
        if (complete(pair)) {
            passed++;
            good = good && pair->good == x->messages &&
                   pair->reported == x->messages &&
                   arrived(pair) == x->messages;
        }
    }
    return good && passed >= x->peers;
}
