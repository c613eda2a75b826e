/*
 * Firmware that speaks ICMsg: it sends messages, or sends them back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * -append "peer=N messages=N" says whom to talk with, and how many messages to
 * send; 0, the default, is to send back what comes, for ever. Without peer=N it
 * is whom the device's peer registers name, or 0 if it has none.
 * QEMU's exit status is 0 if all came back; 1 if not; 2 if the shared memory
 * cannot be used, 3 after a fault. More words, of numbers in decimal:
 *
 *   tx=N, rx=N, size=N  where the regions are, and their size; see
 *                       ../icmsg_talk.h for what they are otherwise
 *   align=N             their alignment
 *   sessions=1          peers may leave and come back
 *   more=N              with sessions: send messages to so many peers more, to
 *                       each when the one before has left
 */

#include "board.h"
#include "icmsg_talk.h"
#include "option.h"
#include "semihosting.h"
#include "talk_main.h"

static struct icmsg_talk icmsg = { .talk.protocol = &icmsg_talk_protocol };

int main(void)
{
    static char line[512];

    semihosting_command_line(line, sizeof(line));
    icmsg.config = (struct ivshmem_icmsg_config) {
        .tx = (void *)(BOARD_IVSHMEM_MEMORY +
                       option(line, " tx=", ICMSG_TALK_TX)),
        .rx = (void *)(BOARD_IVSHMEM_MEMORY +
                       option(line, " rx=", ICMSG_TALK_RX)),
        .tx_size = option(line, " size=", ICMSG_TALK_SIZE),
        .rx_size = option(line, " size=", ICMSG_TALK_SIZE),
        .alignment = option(line, " align=", 0),
        .sessions = option(line, " sessions=", 0),
    };
    return talk_main(&icmsg.talk, line);
}
