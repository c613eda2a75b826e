/*
 * Where things are on Arm's MPS2 boards with FPGA images AN385, AN386, AN500
 * and AN511, the same on all four
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef BOARD_H
#define BOARD_H

/* UART 0, a CMSDK APB UART */
#define BOARD_UART 0x40004000u

/* UART 1, another one, and its NVIC input for what it receives */
#define BOARD_UART1 0x40005000u
#define BOARD_UART1_RX_INPUT 2

/*
 * The FPGA's counter (Arm DAI 0385, "FPGA system control and I/O"): counts up,
 * at the core's clock. QEMU has a timer of the host for each of the board's
 * timers that run, but none for this one.
 */
#define BOARD_COUNTER 0x40028018u

/* ivshmem-flat: where QEMU's boards place it, with -device or on board */
#define BOARD_IVSHMEM_REGISTERS 0x50000000u
#define BOARD_IVSHMEM_MEMORY 0x70000000u
#define BOARD_IVSHMEM_MEMORY_SIZE (4u << 20)    /* the server's default */
/* inputs of the NVIC: vectors 0 to 3 */
#define BOARD_IVSHMEM_INPUTS { 25, 26, 27, 28 }
#define BOARD_IVSHMEM_VECTORS 4

/* what the core, and so SysTick, runs at */
#define BOARD_CLOCK_HZ 25000000u

#endif /* BOARD_H */
