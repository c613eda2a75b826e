/*
 * What the firmware needs of the Armv6-M and Armv7-M architectures
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef CORTEX_M_H
#define CORTEX_M_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CORTEX_M_REGISTER(address) (*(volatile uint32_t *)(address))

#define SYST_CSR CORTEX_M_REGISTER(0xe000e010u)
#define SYST_CSR_ENABLE (1u << 0)
#define SYST_CSR_TICKINT (1u << 1)
#define SYST_CSR_CLKSOURCE (1u << 2)    /* the core's clock */
#define SYST_RVR CORTEX_M_REGISTER(0xe000e014u)
#define SYST_CVR CORTEX_M_REGISTER(0xe000e018u)
#define SYST_MAX_CYCLES (1u << 24)
#define NVIC_ISER(n) CORTEX_M_REGISTER(0xe000e100u + 4 * (n))
#define SCB_SHCSR CORTEX_M_REGISTER(0xe000ed24u)
#define SCB_SHCSR_FAULTS (7u << 16)     /* MemManage, BusFault, UsageFault */
#define SCB_CFSR CORTEX_M_REGISTER(0xe000ed28u)
#define SCB_CFSR_BFARVALID (1u << 15)
#define SCB_HFSR CORTEX_M_REGISTER(0xe000ed2cu)
#define SCB_HFSR_FORCED (1u << 30)
#define SCB_BFAR CORTEX_M_REGISTER(0xe000ed38u)

/** nvic_enable: let an input of the NVIC interrupt this CPU */
static inline void nvic_enable(unsigned input)
{
    NVIC_ISER(input / 32) = 1u << input % 32;
}

/**
 * systick_start: interrupt this CPU from now on, again and again
 *
 * @cycles: of the core's clock from one to the next, 2 to SYST_MAX_CYCLES
 */
static inline void systick_start(uint32_t cycles)
{
    SYST_RVR = cycles - 1;
    SYST_CVR = 0;       /* any write clears it: count from the start */
    SYST_CSR = SYST_CSR_CLKSOURCE | SYST_CSR_TICKINT | SYST_CSR_ENABLE;
}

/**
 * start: what follows reset, when variables have their values
 *
 * vectors.c has one, which calls main(), and which firmware may replace.
 */
void start(void);

/**
 * fault: what follows a fault, or a start() that returns; must not return
 *
 * vectors.c has one, which stays there, and which firmware may replace.
 */
void fault(void);

/**
 * sleep_unless: WFI, unless an interrupt has set a flag before
 *
 * @flag: set by an interrupt handler; the caller clears it before it looks
 *        for work
 *
 * An interrupt that comes between the look at the flag and WFI is not lost:
 * PRIMASK keeps it pending, and a pending interrupt ends WFI, or does not let
 * it begin, masked or not (Armv7-M ARM, "Wait For Interrupt"). The handler
 * runs once the mask is lifted, before this function returns.
 */
static inline void sleep_unless(const volatile bool *flag)
{
    __asm__ volatile("cpsid i" ::: "memory");
    if (!*flag) {
        /* complete what is under way before the core may lose its clock */
        __asm__ volatile("dsb\n\twfi" ::: "memory");
    }
    /* ISB: take the pending interrupt here, not an instruction later */
    __asm__ volatile("cpsie i\n\tisb" ::: "memory");
}

/** For interrupt(): it was SysTick. */
#define INTERRUPT_SYSTICK (-1u)

/**
 * interrupt: called for each interrupt of the NVIC or SysTick, in its context
 *
 * @input: which input of the NVIC, or INTERRUPT_SYSTICK
 *
 * The firmware's main file defines it.
 */
void interrupt(unsigned input);

#ifdef __cplusplus
}
#endif

#endif /* CORTEX_M_H */
