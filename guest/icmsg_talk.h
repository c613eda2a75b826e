/*
 * ICMsg in use: see talk.h
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef ICMSG_TALK_H
#define ICMSG_TALK_H

#include "ivshmem_icmsg.h"
#include "talk.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where the regions are in shared memory, unless the user says otherwise: */
#define ICMSG_TALK_TX 0u
#define ICMSG_TALK_RX 0x1000u
#define ICMSG_TALK_SIZE 0x1000u

/**
 * struct icmsg_talk: one side
 */
struct icmsg_talk {
    struct talk talk;       /* with protocol = &icmsg_talk_protocol */
    struct ivshmem_icmsg_config config;
    struct ivshmem_icmsg icmsg;
};

extern const struct talk_protocol icmsg_talk_protocol;

#ifdef __cplusplus
}
#endif

#endif /* ICMSG_TALK_H */
