/*
 * ICMsg in use: see talk.h
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "icmsg_talk.h"

_Static_assert(TALK_FULL == (int)IVSHMEM_ICMSG_FULL &&
               TALK_EMPTY == (int)IVSHMEM_ICMSG_EMPTY, "not converted");

static struct icmsg_talk *of(struct talk *talk)
{
    return (void *)talk;        /* its first member */
}

static bool talk_open(struct talk *talk)
{
    return ivshmem_icmsg_open(&of(talk)->icmsg, &of(talk)->config) == 0;
}

static enum talk_state talk_poll(struct talk *talk)
{
    switch (ivshmem_icmsg_poll(&of(talk)->icmsg)) {
    case IVSHMEM_ICMSG_BOUND:
        return TALK_BOUND;
    case IVSHMEM_ICMSG_UNBOUND:
        return TALK_LEFT;
    case IVSHMEM_ICMSG_DEAD:
        return TALK_DEAD;
    default:
        return TALK_WAITING;
    }
}

static int talk_send(struct talk *talk, const void *message, size_t length)
{
    return ivshmem_icmsg_send(&of(talk)->icmsg, message, length);
}

static int32_t talk_receive(struct talk *talk, void *buffer, size_t capacity)
{
    return ivshmem_icmsg_receive(&of(talk)->icmsg, buffer, capacity);
}

static bool talk_doorbell(struct talk *talk)
{
    return ivshmem_icmsg_doorbell(&of(talk)->icmsg);
}

static void talk_close(struct talk *talk)
{
    ivshmem_icmsg_close(&of(talk)->icmsg);
}

const struct talk_protocol icmsg_talk_protocol = {
    .open = talk_open,
    .poll = talk_poll,
    .send = talk_send,
    .receive = talk_receive,
    .doorbell = talk_doorbell,
    .close = talk_close,
};
