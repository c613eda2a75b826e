/*
 * What firmware that talks with one peer has in common
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef TALK_MAIN_H
#define TALK_MAIN_H

#include "talk.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * talk_main: talk with a peer until there is no more to do
 *
 * @talk: not open yet, with what the command line says of the protocol
 * @line: the command line, of which peer=N, messages=N and more=N are used
 *        here; that a peer has left, ICMsg tells with sessions=1 alone. Who the
 *        peer is need not be said if the device has peer registers; if it has
 *        none either, it is 0.
 *
 * Returns the exit status: 0 if all came back; 1 if not; 2 if the shared
 * memory cannot be used.
 */
int talk_main(struct talk *talk, const char *line);

#ifdef __cplusplus
}
#endif

#endif /* TALK_MAIN_H */
