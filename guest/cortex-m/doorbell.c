/*
 * Firmware of a test: one doorbell that must not be lost; see ../doorbell.h
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * -append ringer makes this machine the ringer, and otherwise it is the
 * sleeper. QEMU's exit status is 0, if it ends.
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "doorbell.h"
#include "ivshmem_flat.h"
#include "semihosting.h"

static const unsigned inputs[] = BOARD_IVSHMEM_INPUTS;
static struct ivshmem_flat ivshmem;
static volatile bool rung;

void interrupt(unsigned input)
{
    (void)input;        /* none but the device's is enabled */
    rung = true;
}

/* Is "ringer" the command line's last word? */
static bool is_ringer(void)
{
    static const char word[] = " ringer";
    static char line[512];
    uint32_t length = 0;

    semihosting_command_line(line, sizeof(line));
    while (line[length]) {
        length++;
    }
    return length >= sizeof(word) - 1 &&
           __builtin_memcmp(line + length - (sizeof(word) - 1), word,
                            sizeof(word) - 1) == 0;
}

int main(void)
{
    struct doorbell *doorbell = (void *)BOARD_IVSHMEM_MEMORY;
    bool ringer = is_ringer();
    uint32_t id;

    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    nvic_enable(inputs[0]);
    id = ivshmem_flat_id(&ivshmem);

    if (ringer) {
        /* printing takes time: if the sleeper is there, ring at once */
        if (!doorbell_look(&doorbell->sleeper)) {
            print("id %u looks for a sleeper\n", (unsigned)id);
        }
        ivshmem_flat_ring(&ivshmem, doorbell_wait(&doorbell->sleeper) - 1, 0);
        doorbell_wait(&doorbell->awake);
        doorbell_clear(doorbell);
    } else {
        doorbell_say(&doorbell->sleeper, id + 1);
        print("id %u sleeps\n", (unsigned)id);
        while (!rung) {
            sleep_unless(&rung);
        }
        doorbell_say(&doorbell->awake, 1);
    }
    print("passed\n");
    return 0;
}
