/*
 * Firmware that QEMU runs with -semihosting: its start, its end, its faults
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "semihosting.h"

int main(void);

void start(void)
{
    console_init();
    semihosting_exit(main());
}

void fault(void)
{
    uint32_t cfsr = SCB_CFSR;

    if (cfsr & SCB_CFSR_BFARVALID) {
        uint32_t address = SCB_BFAR;

        print("bus fault at %x\n", (unsigned)address);
        if (address - BOARD_IVSHMEM_REGISTERS < 0x1000) {
            print("there is no ivshmem-flat device at %x\n",
                  BOARD_IVSHMEM_REGISTERS);
        } else if (address - BOARD_IVSHMEM_MEMORY <
                   BOARD_IVSHMEM_MEMORY_SIZE) {
            print("shared memory at %x is smaller than %u bytes\n",
                  BOARD_IVSHMEM_MEMORY, BOARD_IVSHMEM_MEMORY_SIZE);
        }
    } else if (cfsr == 0 && SCB_HFSR & SCB_HFSR_FORCED) {
        /* BKPT came here, as nobody takes it; one more would be a lockup. */
        print("semihosting is off, expected QEMU with -semihosting\n");
        for (;;) {
            __asm__ volatile("wfi");
        }
    } else {
        print("fault, CFSR %x\n", (unsigned)cfsr);
    }
    semihosting_exit(3);
}
