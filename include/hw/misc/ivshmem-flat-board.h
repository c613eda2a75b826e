/*
 * What a board has already, where an ivshmem-flat is to go
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MISC_IVSHMEM_FLAT_BOARD_H
#define HW_MISC_IVSHMEM_FLAT_BOARD_H

#include "exec/hwaddr.h"
#include "hw/core/sysbus.h"

/**
 * ivshmem_flat_board_check_range: is the range there, and does no CPU see
 * anything in it?
 *
 * @dev: the device that is to be mapped there; what it has there itself, and
 *       placeholders (unimplemented-device), do not count
 * @what: goes there, for the error
 * @addr: where it begins
 * @size: in bytes, not 0
 * @errp: says what is in the way, and where
 */
bool ivshmem_flat_board_check_range(DeviceState *dev, const char *what,
                                    hwaddr addr, uint64_t size, Error **errp);

/**
 * ivshmem_flat_board_check_input: warn if another device drives the input, too
 *
 * @dev: the device, whose output @vector is wired
 *
 * A board may wire an output in ways that leave no link: it is not found.
 */
void ivshmem_flat_board_check_input(DeviceState *dev, unsigned vector);

#endif /* HW_MISC_IVSHMEM_FLAT_BOARD_H */
