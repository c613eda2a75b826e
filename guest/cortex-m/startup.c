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
    /* A fault in HardFault is a lockup, so let no other fault end there. */
    SCB_SHCSR = SCB_SHCSR_FAULTS;
    console_init();
    semihosting_exit(main());
}

static void tell_fault(uint32_t cfsr)
{
    uint32_t address = SCB_BFAR;

    if (!(cfsr & SCB_CFSR_BFARVALID)) {
        print("fault, CFSR %x\n", (unsigned)cfsr);
    } else if (address - BOARD_IVSHMEM_REGISTERS < 0x1000) {
        print("there is no ivshmem-flat device at %x\n",
              BOARD_IVSHMEM_REGISTERS);
    } else if (address - BOARD_IVSHMEM_MEMORY < BOARD_IVSHMEM_MEMORY_SIZE) {
        print("shared memory at %x is smaller than %u bytes\n",
              BOARD_IVSHMEM_MEMORY, BOARD_IVSHMEM_MEMORY_SIZE);
    } else {
        print("bus fault at %x\n", (unsigned)address);
    }
}

/* BKPT comes here, too, if nobody takes it: our own one after a fault, say. */
void fault(void)
{
    static bool told;
    uint32_t cfsr = SCB_CFSR;

    if (!told && cfsr == 0 && SCB_HFSR & SCB_HFSR_FORCED) {
        print("semihosting is off, expected QEMU with -semihosting\n");
    } else if (!told) {
        told = true;
        tell_fault(cfsr);
        semihosting_exit(3);
    }
    for (;;) {
        __asm__ volatile("wfi");
    }
}
