/*
 * RPMsg in use: see talk.h
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "rpmsg_talk.h"

_Static_assert(TALK_FULL == (int)IVSHMEM_RPMSG_FULL &&
               TALK_EMPTY == (int)IVSHMEM_RPMSG_EMPTY, "not converted");

static struct rpmsg_talk *of(struct talk *talk)
{
    return (void *)talk;        /* its first member */
}

static bool talk_open(struct talk *talk)
{
    struct rpmsg_talk *t = of(talk);

    t->was_bound = false;
    if (ivshmem_rpmsg_open(&t->rpmsg, &t->config)) {
        return false;
    }
    t->endpoint = ivshmem_rpmsg_add(&t->rpmsg, t->name);
    return t->endpoint >= 0;
}

static enum talk_state talk_poll(struct talk *talk)
{
    struct rpmsg_talk *t = of(talk);

    if (ivshmem_rpmsg_poll(&t->rpmsg) == IVSHMEM_RPMSG_DEAD) {
        return TALK_DEAD;
    }
    if (ivshmem_rpmsg_bound(&t->rpmsg, t->endpoint)) {
        t->was_bound = true;
        return TALK_BOUND;
    }
    return t->was_bound ? TALK_LEFT : TALK_WAITING;
}

static int talk_send(struct talk *talk, const void *message, size_t length)
{
    return ivshmem_rpmsg_send(&of(talk)->rpmsg, of(talk)->endpoint, message,
                              length);
}

static int32_t talk_receive(struct talk *talk, void *buffer, size_t capacity)
{
    int endpoint;   /* there is one */

    return ivshmem_rpmsg_receive(&of(talk)->rpmsg, &endpoint, buffer, capacity);
}

static bool talk_doorbell(struct talk *talk)
{
    return ivshmem_rpmsg_doorbell(&of(talk)->rpmsg);
}

static void talk_close(struct talk *talk)
{
    ivshmem_rpmsg_close(&of(talk)->rpmsg);
}

const struct talk_protocol rpmsg_talk_protocol = {
    .open = talk_open,
    .poll = talk_poll,
    .send = talk_send,
    .receive = talk_receive,
    .doorbell = talk_doorbell,
    .close = talk_close,
};
