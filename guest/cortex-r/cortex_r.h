/*
 * What the firmware needs of Armv8-R (Cortex-R52) and its GIC, a GICv3
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef CORTEX_R_H
#define CORTEX_R_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * gic_enable: let an input of the GIC interrupt this CPU, by its edges
 *
 * @input: of a shared peripheral: its interrupt is 32 + @input
 *
 * After reset inputs are levels, and of a pulse nothing would be seen.
 */
void gic_enable(unsigned input);

/**
 * sleep_unless: WFI, unless an interrupt has set a flag before
 *
 * @flag: set by an interrupt handler; the caller clears it before it looks
 *        for work
 *
 * While CPSR.I is set an interrupt stays pending, and ends WFI or does not let
 * it begin. The handler runs once it is lifted, before this function returns.
 */
static inline void sleep_unless(const volatile bool *flag)
{
    __asm__ volatile("cpsid i" ::: "memory");
    if (!*flag) {
        __asm__ volatile("dsb\n\twfi" ::: "memory");
    }
    __asm__ volatile("cpsie i\n\tisb" ::: "memory");
}

/**
 * interrupt: called for each interrupt of the GIC's inputs, in its context
 *
 * @input: which
 *
 * The firmware's main file defines it.
 */
void interrupt(unsigned input);

#ifdef __cplusplus
}
#endif

#endif /* CORTEX_R_H */
