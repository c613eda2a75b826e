/*
 * Firmware of a test: walk over the peers, and mark and count them
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * It sleeps until its doorbell rings, then walks once. Byte N of shared memory
 * becomes 1 if there is a peer N. It needs no -semihosting.
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "ivshmem_flat.h"

#define COUNTER CORTEX_M_REGISTER(BOARD_COUNTER)

static const unsigned inputs[] = BOARD_IVSHMEM_INPUTS;
static struct ivshmem_flat ivshmem;
static volatile bool rung;

void interrupt(unsigned input)
{
    (void)input;        /* none but the device's is enabled */
    rung = true;
}

static void walk(void)
{
    volatile uint8_t *marks = (void *)BOARD_IVSHMEM_MEMORY;
    uint32_t id, start = COUNTER;
    unsigned n = 0;

    for (id = ivshmem_flat_next_peer(&ivshmem, 0); id != IVSHMEM_FLAT_NO_PEER;
         id = ivshmem_flat_next_peer(&ivshmem, id + 1)) {
        marks[id] = 1;
        n++;
    }
    print("%u peers in %u us\n", n,
          (unsigned)((COUNTER - start) / (BOARD_CLOCK_HZ / 1000000)));
}

int main(void)
{
    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    nvic_enable(inputs[0]);
    print("id %u sleeps\n", (unsigned)ivshmem_flat_id(&ivshmem));
    while (!rung) {
        sleep_unless(&rung);
    }
    if (ivshmem_flat_finds_peers(&ivshmem)) {
        walk();
    } else {
        print("there are no peer registers\n");
    }
    for (;;) {
        rung = false;
        sleep_unless(&rung);
    }
}
