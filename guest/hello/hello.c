/*
 * Hello: firmware that tells its id, and answers when it is rung
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "board.h"
#include "ivshmem_flat.h"

#if __ARM_ARCH_PROFILE == 'M'
#include "cortex_m.h"
#define enable nvic_enable
#else
#include "cortex_r.h"
#define enable gic_enable
#endif

/* the start of shared memory, where all is 0 at first; little-endian */
struct hello {
    uint32_t firmware;      /* our id + 1 */
    uint32_t peer;          /* its id + 1; 0 if we are to find it */
    uint32_t question;      /* a number from the peer, which then rings us */
    uint32_t answer;        /* one more, from us; then we ring it */
};

static struct ivshmem_flat ivshmem;
static volatile bool rung;

void interrupt(unsigned input)
{
    (void)input;            /* none but the device's is enabled */
    ivshmem_flat_interrupt(&ivshmem, 0);
    rung = true;
}

/* with peer registers: whoever is there, and so who has just rung us */
static void ring_all(void)
{
    uint32_t id;

    for (id = ivshmem_flat_next_peer(&ivshmem, 0); id != IVSHMEM_FLAT_NO_PEER;
         id = ivshmem_flat_next_peer(&ivshmem, id + 1)) {
        ivshmem_flat_ring(&ivshmem, id, 0);
    }
}

int main(void)
{
    volatile struct hello *hello = (void *)BOARD_IVSHMEM_MEMORY;
    uint32_t answered = 0;

    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    enable(BOARD_IVSHMEM_INPUT);
    hello->firmware = ivshmem_flat_id(&ivshmem) + 1;
    for (;;) {
        /* before we look: what rings from here on keeps us awake */
        rung = false;
        if (hello->peer) {
            hello->answer = hello->question + 1;
            ivshmem_flat_ring(&ivshmem, hello->peer - 1, 0);
        } else if (ivshmem_flat_finds_peers(&ivshmem) &&
                   hello->question != answered) {
            answered = hello->question;
            hello->answer = answered + 1;
            ring_all();
        }
        sleep_unless(&rung);
    }
}
