/*
 * The peer registers of ivshmem-flat: who is there?
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Registers by which a guest finds its peers: docs/specs/ivshmem-spec.rst,
 * "Peer registers of the flat device". They are in the place of reserved ones,
 * in a memory region of their own, and only if the user wants them.
 */

#ifndef HW_MISC_IVSHMEM_FLAT_PEER_REGISTERS_H
#define HW_MISC_IVSHMEM_FLAT_PEER_REGISTERS_H

#include "hw/core/sysbus.h"
#include "migration/vmstate.h"

typedef struct IvshmemFlat IvshmemFlat;

/**
 * IvshmemFlatPeerRegisters: the part of the device that they are
 * @on: are they there? The property "peer-registers"
 * @changes_vector: whose output tells of changes; -1: none. The property
 *                  "changes-vector"
 * @mr: over the reserved registers, if @on
 * @select: the register SELECT
 * @was_loaded: from a stream, and the machine has not run since
 * @vm_state: to see it run
 */
typedef struct IvshmemFlatPeerRegisters {
    bool on;
    int32_t changes_vector;
    MemoryRegion mr;
    uint32_t select;
    bool was_loaded;
    VMChangeStateEntry *vm_state;
} IvshmemFlatPeerRegisters;

/**
 * ivshmem_flat_peer_registers_check: are the two properties right?
 * @s: the device, with all properties set
 * @errp: says what is wrong with them
 */
bool ivshmem_flat_peer_registers_check(IvshmemFlat *s, Error **errp);

/* The parts of the device's instance_init, realize, unrealize and reset */
void ivshmem_flat_peer_registers_init(IvshmemFlat *s);
void ivshmem_flat_peer_registers_realize(IvshmemFlat *s);
void ivshmem_flat_peer_registers_unrealize(IvshmemFlat *s);
void ivshmem_flat_peer_registers_reset(IvshmemFlat *s);

/**
 * ivshmem_flat_peer_registers_changed: CHANGES has counted
 * @opaque: the device
 */
void ivshmem_flat_peer_registers_changed(void *opaque);

/* The device's subsections: one, there only if the registers are. */
extern const VMStateDescription *const ivshmem_flat_peer_registers_vmstate[];

#endif /* HW_MISC_IVSHMEM_FLAT_PEER_REGISTERS_H */
