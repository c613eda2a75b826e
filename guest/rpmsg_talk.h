/*
 * RPMsg in use: see talk.h
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef RPMSG_TALK_H
#define RPMSG_TALK_H

#include "ivshmem_rpmsg.h"
#include "talk.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The region in shared memory, and what is in it, unless the user says else: */
#define RPMSG_TALK_AT 0u
#define RPMSG_TALK_SIZE 0x8000u
#define RPMSG_TALK_BUFFER_SIZE 512u
#define RPMSG_TALK_ALIGN 4u
#define RPMSG_TALK_NAME "talk"

/**
 * struct rpmsg_talk: one side, with one endpoint
 */
struct rpmsg_talk {
    struct talk talk;       /* with protocol = &rpmsg_talk_protocol */
    struct ivshmem_rpmsg_config config;
    const char *name;       /* of the endpoint */
    int endpoint;
    bool was_bound;
    struct ivshmem_rpmsg rpmsg;
};

extern const struct talk_protocol rpmsg_talk_protocol;

#ifdef __cplusplus
}
#endif

#endif /* RPMSG_TALK_H */
