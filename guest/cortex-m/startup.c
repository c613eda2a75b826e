/*
 * Start of a Cortex-M: vector table, reset, faults
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "semihosting.h"

#define NVIC_INPUTS 64

/* from the linker script */
extern uint32_t data_start[], data_end[], bss_start[], bss_end[], stack_top[];
extern const uint32_t data_load[];

int main(void);
void reset(void);

void reset(void)
{
    const uint32_t *from = data_load;
    uint32_t *to;

    for (to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    console_init();
    semihosting_try();
    semihosting_exit(main());
}

static void fault(void)
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

/*
 * One handler for SysTick, which is exception 15, and all inputs of the NVIC,
 * which follow: the core knows which it is.
 */
static void any_interrupt(void)
{
    uint32_t exception;

    __asm__ volatile("mrs %0, ipsr" : "=r" (exception));
    interrupt(exception - 16);
}

static const struct {
    const void *stack;
    void (*exception[15])(void);
    void (*input[NVIC_INPUTS])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    .stack = stack_top,
    .exception = {
        reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0,
        fault, any_interrupt,
    },
    .input = { [0 ... NVIC_INPUTS - 1] = any_interrupt },
};
