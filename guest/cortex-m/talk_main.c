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
static uint32_t peer;       /* its id; IVSHMEM_FLAT_NO_PEER: whoever is there */
static volatile bool rung;

void interrupt(unsigned input)
{
    (void)input;        /* none but the device's is enabled */
    rung = true;
}

/*
 * Who has rung us is among them, and who is none of ours looks into the memory
 * in vain. Who comes later begins, and rings us.
 */
static void ring(void)
{
    uint32_t id;

    if (peer != IVSHMEM_FLAT_NO_PEER) {
        ivshmem_flat_ring(&ivshmem, peer, 0);
        return;
    }
    for (id = ivshmem_flat_next_peer(&ivshmem, 0); id != IVSHMEM_FLAT_NO_PEER;
         id = ivshmem_flat_next_peer(&ivshmem, id + 1)) {
        ivshmem_flat_ring(&ivshmem, id, 0);
    }
}

static void find_peer(const char *line)
{
    if (ivshmem_flat_finds_peers(&ivshmem)) {
        peer = option(line, " peer=", IVSHMEM_FLAT_NO_PEER);
    } else {
        peer = option(line, " peer=", 0);
    }
    if (peer == IVSHMEM_FLAT_NO_PEER) {
        print("id %u is there for all\n",
              (unsigned)ivshmem_flat_id(&ivshmem));
    } else {
        print("id %u is there for peer %u\n",
              (unsigned)ivshmem_flat_id(&ivshmem), (unsigned)peer);
    }
}

int talk_main(struct talk *talk, const char *line)
{
    bool over, good;

    talk->messages = option(line, " messages=", 0);
    talk->more = option(line, " more=", 0);
    talk->say = print;
    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    nvic_enable(inputs[0]);
    if (!talk->protocol->open(talk)) {
        print("such memory cannot be used: %s\n", line);
        return 2;
    }
    find_peer(line);
    do {
        /* before we look: what rings from here on keeps us awake */
        rung = false;
        over = talk_step(talk);
        if (talk->protocol->doorbell(talk)) {
            ring();
        }
        if (!over && talk->idle) {
            sleep_unless(&rung);
        }
    } while (!over);
    talk->protocol->close(talk);
    if (talk->protocol->doorbell(talk)) {
        ring();
    }

    good = talk_verdict(talk);
    print(good ? "passed\n" : "FAILED\n");
    return good ? 0 : 1;
}
