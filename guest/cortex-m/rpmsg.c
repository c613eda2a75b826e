/*
 * Firmware that speaks RPMsg: it sends messages, or sends them back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * -append "peer=N messages=N" as for icmsg.c, and these words, of numbers in
 * decimal; what they are otherwise is in ../rpmsg_talk.h:
 *
 *   host=1              it is the host; else the remote
 *   at=N, size=N        where the region is, and its size
 *   buffer=N, align=N   zephyr,buffer-size and the vrings' alignment
 */

#include "board.h"
#include "option.h"
#include "rpmsg_talk.h"
#include "semihosting.h"
#include "talk_main.h"

static struct rpmsg_talk rpmsg = {
    .talk.protocol = &rpmsg_talk_protocol, .name = RPMSG_TALK_NAME,
};

int main(void)
{
    static char line[512];
    uint32_t at;

    semihosting_command_line(line, sizeof(line));
    at = BOARD_IVSHMEM_MEMORY + option(line, " at=", RPMSG_TALK_AT);
    rpmsg.config = (struct ivshmem_rpmsg_config) {
        .memory = (void *)at,
        .address = at,
        .size = option(line, " size=", RPMSG_TALK_SIZE),
        .host = option(line, " host=", 0),
    };
    /* an unfit layout stays 0, and is refused when that is opened */
    ivshmem_rpmsg_layout_zephyr(&rpmsg.config.layout, rpmsg.config.size,
                                option(line, " buffer=",
                                       RPMSG_TALK_BUFFER_SIZE),
                                option(line, " align=", RPMSG_TALK_ALIGN));
    return talk_main(&rpmsg.talk, line);
}
