/*
 * Firmware that speaks ICMsg: it sends messages, or sends them back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * -append "peer=N messages=N" says whom to talk with, 0 by default, and how
 * many messages to send; 0, the default, is to send back what comes, for ever.
 * QEMU's exit status is 0 if all came back; 1 if not; 2 if the shared memory
 * cannot be used, 3 after a fault. More words, of numbers in decimal:
 *
 *   tx=N, rx=N, size=N  where the regions are, and their size; see
 *                       ../icmsg_talk.h for what they are otherwise
 *   align=N             their alignment
 *   sessions=1          peers may leave and come back
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "icmsg_talk.h"
#include "ivshmem_flat.h"
#include "option.h"
#include "semihosting.h"

static const unsigned inputs[] = BOARD_IVSHMEM_INPUTS;
static struct ivshmem_flat ivshmem;
static struct icmsg_talk talk = { .say = print };
static volatile bool rung;

void interrupt(unsigned input)
{
    (void)input;        /* none but the device's is enabled */
    rung = true;
}

int main(void)
{
    static char line[512];
    uint32_t peer;
    bool over, good;

    semihosting_command_line(line, sizeof(line));
    peer = option(line, " peer=", 0);
    talk.messages = option(line, " messages=", 0);
    talk.config = (struct ivshmem_icmsg_config) {
        .tx = (void *)(BOARD_IVSHMEM_MEMORY +
                       option(line, " tx=", ICMSG_TALK_TX)),
        .rx = (void *)(BOARD_IVSHMEM_MEMORY +
                       option(line, " rx=", ICMSG_TALK_RX)),
        .tx_size = option(line, " size=", ICMSG_TALK_SIZE),
        .rx_size = option(line, " size=", ICMSG_TALK_SIZE),
        .alignment = option(line, " align=", 0),
        .sessions = option(line, " sessions=", 0),
    };

    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    nvic_enable(inputs[0]);
    if (icmsg_talk_open(&talk)) {
        print("regions of %u bytes cannot be used\n",
              (unsigned)talk.config.tx_size);
        return 2;
    }
    print("id %u is there for peer %u\n",
          (unsigned)ivshmem_flat_id(&ivshmem), (unsigned)peer);
    do {
        /* before we look: what rings from here on keeps us awake */
        rung = false;
        over = icmsg_talk_step(&talk);
        if (ivshmem_icmsg_doorbell(&talk.icmsg)) {
            ivshmem_flat_ring(&ivshmem, peer, 0);
        }
        if (!over && talk.idle) {
            sleep_unless(&rung);
        }
    } while (!over);
    ivshmem_icmsg_close(&talk.icmsg);
    if (ivshmem_icmsg_doorbell(&talk.icmsg)) {
        ivshmem_flat_ring(&ivshmem, peer, 0);
    }

    good = icmsg_talk_verdict(&talk);
    print(good ? "passed\n" : "FAILED\n");
    return good ? 0 : 1;
}
