/*
 * Start of a Cortex-M: vector table and reset
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include "cortex_m.h"

#define NVIC_INPUTS 240     /* as many as an Armv7-M core can have */

/* from the linker script */
extern uint32_t data_start[], data_end[], bss_start[], bss_end[], stack_top[];
extern const uint32_t data_load[];

int main(void);
void reset(void);

/* Firmware may have a start() and a fault() of its own. */
__attribute__((weak)) void start(void)
{
    main();
}

__attribute__((weak)) void fault(void)
{
    for (;;) {
    }
}

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
    start();
    fault();
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
