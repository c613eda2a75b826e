/*
 * Start of a Cortex-R52: vectors, reset, its GIC
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The core comes out of reset in Hyp mode (EL2) and stays there, with its MPU
 * off. To be compiled with -marm: vectors are Arm instructions after reset.
 */

#include "board.h"
#include "cortex_r.h"

#define GIC_REGISTER(offset) \
    (*(volatile uint32_t *)(BOARD_GIC + (offset)))
#define GICD_CTLR GIC_REGISTER(0x0000)
#define GICD_CTLR_ENABLE_GRP1 (1u << 1)
#define GICD_CTLR_ARE (1u << 4)
#define GICD_IGROUPR(n) GIC_REGISTER(0x0080 + 4 * (n))
#define GICD_ISENABLER(n) GIC_REGISTER(0x0100 + 4 * (n))
#define GICD_ICFGR(n) GIC_REGISTER(0x0c00 + 4 * (n))
#define GICR_WAKER GIC_REGISTER(BOARD_GICR + 0x0014)
#define GICR_WAKER_PROCESSOR_SLEEP (1u << 1)
#define GICR_WAKER_CHILDREN_ASLEEP (1u << 2)
#define SPI 32u             /* the first interrupt of a shared peripheral */
#define SPURIOUS 1020u      /* from here on, an interrupt is none */

/* from the linker script */
extern uint32_t data_start[], data_end[], bss_start[], bss_end[];
extern const uint32_t data_load[];

int main(void);
void start(void);
void any_interrupt(void);

/*
 * LR is not banked in Hyp mode, so it is saved with what a function may
 * change; a function wants a stack that is aligned to 8 bytes.
 */
__asm__(
    ".section .vectors, \"ax\"\n"
    ".arm\n"
    ".balign 32\n"
    "vectors: .global vectors\n"
    "    b reset\n"
    "    b .\n"                /* undefined instruction */
    "    b .\n"                /* HVC */
    "    b .\n"                /* prefetch abort */
    "    b .\n"                /* data abort */
    "    b .\n"                /* a trap to Hyp mode */
    "    b irq\n"
    "    b .\n"                /* FIQ */
    "reset: .global reset\n"
    "    ldr sp, =stack_top\n"
    "    ldr r0, =vectors\n"
    "    mcr p15, 4, r0, c12, c0, 0\n"     /* HVBAR */
    "    b start\n"
    "irq:\n"
    "    push {r0-r3, r12, lr}\n"
    "    mov r0, sp\n"
    "    bic sp, sp, #7\n"
    "    push {r0, r1}\n"
    "    bl any_interrupt\n"
    "    pop {r0, r1}\n"
    "    mov sp, r0\n"
    "    pop {r0-r3, r12, lr}\n"
    "    eret\n"
    "    .ltorg\n"
    ".text\n");

/* Its own interface to the CPU, and the CPU's to it */
static void gic_init(void)
{
    uint32_t value;

    GICR_WAKER &= ~GICR_WAKER_PROCESSOR_SLEEP;
    while (GICR_WAKER & GICR_WAKER_CHILDREN_ASLEEP) {
    }
    GICD_CTLR = GICD_CTLR_ARE | GICD_CTLR_ENABLE_GRP1;
    /* ICC_PMR: all priorities; ICC_IGRPEN1; HCR.IMO: interrupts come here */
    __asm__ volatile("mcr p15, 0, %0, c4, c6, 0" :: "r" (0xffu));
    __asm__ volatile("mcr p15, 0, %0, c12, c12, 7" :: "r" (1u));
    __asm__ volatile("mrc p15, 4, %0, c1, c1, 0" : "=r" (value));
    __asm__ volatile("mcr p15, 4, %0, c1, c1, 0\n\tisb"
                     :: "r" (value | 1u << 4));
}

void gic_enable(unsigned input)
{
    unsigned number = SPI + input;

    GICD_IGROUPR(number / 32) |= 1u << number % 32;
    GICD_ICFGR(number / 16) |= 2u << number % 16 * 2;
    GICD_ISENABLER(number / 32) = 1u << number % 32;
    __asm__ volatile("cpsie i" ::: "memory");
}

void start(void)
{
    const uint32_t *from = data_load;
    uint32_t *to;

    for (to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    gic_init();
    main();
    for (;;) {
    }
}

void any_interrupt(void)
{
    uint32_t number;

    /* ICC_IAR1 and ICC_EOIR1: from here to there no other one comes */
    __asm__ volatile("mrc p15, 0, %0, c12, c12, 0" : "=r" (number));
    if (number < SPURIOUS) {
        interrupt(number - SPI);
        __asm__ volatile("mcr p15, 0, %0, c12, c12, 1" :: "r" (number));
    }
}
