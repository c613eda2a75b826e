/*
 * Where ivshmem-flat is on the board that hello is built for
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef BOARD_H
#define BOARD_H

/*
 * Makefile gives these, from the table of boards on the device's page:
 *
 *   BOARD_IVSHMEM_REGISTERS, BOARD_IVSHMEM_MEMORY   addresses
 *   BOARD_IVSHMEM_INPUT    of the interrupt controller, for vector 0
 */

/* the distributor, and from there the first CPU's redistributor (mps3-an536) */
#define BOARD_GIC 0xf0000000u
#define BOARD_GICR 0x00100000u

#endif /* BOARD_H */
