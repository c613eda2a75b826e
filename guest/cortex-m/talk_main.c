/*
 * What firmware that talks with one peer has in common
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "ivshmem_flat.h"
#include "option.h"
#include "talk_main.h"

static const unsigned inputs[] = BOARD_IVSHMEM_INPUTS;
static struct ivshmem_flat ivshmem;
static volatile bool rung;

void interrupt(unsigned input)
{
    (void)input;        /* none but the device's is enabled */
    rung = true;
}

int talk_main(struct talk *talk, const char *line)
{
    uint32_t peer = option(line, " peer=", 0);
    bool over, good;

    talk->messages = option(line, " messages=", 0);
    talk->say = print;
    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    nvic_enable(inputs[0]);
    if (!talk->protocol->open(talk)) {
        print("such memory cannot be used: %s\n", line);
        return 2;
    }
    print("id %u is there for peer %u\n",
          (unsigned)ivshmem_flat_id(&ivshmem), (unsigned)peer);
    do {
        /* before we look: what rings from here on keeps us awake */
        rung = false;
        over = talk_step(talk);
        if (talk->protocol->doorbell(talk)) {
            ivshmem_flat_ring(&ivshmem, peer, 0);
        }
        if (!over && talk->idle) {
            sleep_unless(&rung);
        }
    } while (!over);
    talk->protocol->close(talk);
    if (talk->protocol->doorbell(talk)) {
        ivshmem_flat_ring(&ivshmem, peer, 0);
    }

    good = talk_verdict(talk);
    print(good ? "passed\n" : "FAILED\n");
    return good ? 0 : 1;
}
