/*
 * Boards that place an ivshmem-flat which the user plugs
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MISC_IVSHMEM_FLAT_PLUG_H
#define HW_MISC_IVSHMEM_FLAT_PLUG_H

#include "exec/hwaddr.h"
#include "hw/core/boards.h"

/**
 * IVSHMEM_FLAT_PLUG_INPUTS: interrupt inputs that a board has for a device
 */
#define IVSHMEM_FLAT_PLUG_INPUTS 4

/**
 * IVSHMEM_FLAT_PLUG_PLACES: devices that a board has a place for, at most
 */
#define IVSHMEM_FLAT_PLUG_PLACES 2

/**
 * IvshmemFlatPlace: where one device goes
 * @registers: address of the 256 bytes of registers, aligned to their size
 * @shmem: address of the shared memory, aligned to 4 MiB or more, and with room
 *         for as much
 * @inputs: of the board's interrupt controller, those of vectors 0 to 3
 *
 * Nothing else of the board is at these addresses. The inputs are there on the
 * hardware, and no model of QEMU's drives them.
 */
typedef struct IvshmemFlatPlace {
    hwaddr registers;
    hwaddr shmem;
    unsigned inputs[IVSHMEM_FLAT_PLUG_INPUTS];
} IvshmemFlatPlace;

/**
 * IvshmemFlatBoard: what a board has for ivshmem-flat
 * @controller: QOM path of the interrupt controller, whose children the inputs
 *              are
 * @places: a device gets the first one that is free; one with @registers 0, if
 *          there is one, ends them
 */
typedef struct IvshmemFlatBoard {
    const char *controller;
    IvshmemFlatPlace places[IVSHMEM_FLAT_PLUG_PLACES];
} IvshmemFlatBoard;

/**
 * ivshmem_flat_plug_allow: let users of a machine plug ivshmem-flat
 * @mc: the machine's class; classes that it is the parent of are meant, too
 * @board: is copied, but for @controller
 *
 * To be called from class_init. A device that lacks an address when it is
 * realized gets that of a place, and the inputs of that place for the vectors
 * that are not wired. This goes for one of the machine's own, too.
 *
 * Sets @mc's get_hotplug_handler, so the machine must have none of its own.
 */
void ivshmem_flat_plug_allow(MachineClass *mc, const IvshmemFlatBoard *board);

#endif /* HW_MISC_IVSHMEM_FLAT_PLUG_H */
