/*
 * Inter-VM shared memory without PCI, for the system bus
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * This is a model of QEMU's inter-VM shared memory device as
 * docs/specs/ivshmem-spec.rst describes it, with its registers and its
 * shared memory mapped straight into the system's memory.
 *
 * QEMU interface:
 *  + QOM property "chardev": a socket chardev that connects to an ivshmem
 *    server; required
 *  + QOM property "shmem-size": size that the server's object must have;
 *    unset, and after realize: the size that it has
 *  + QOM property "vectors": number of own vectors, 1 to 64
 *  + QOM property "revision": device revision, as in the specification: 1 or,
 *    with one vector only, 0
 *  + QOM property "master": whether the shared memory's content migrates
 *  + QOM link "iothread": the IOThread that takes the interrupts of peers;
 *    unset: the main loop
 *  + QOM property "peer-registers": whether there are registers that tell the
 *    guest of its peers
 *  + QOM property "changes-vector": own vector that is interrupted, too, when a
 *    peer comes or goes; -1: none
 *  + sysbus MMIO region 0: the registers, 256 bytes, as the PCI device's BAR 0
 *  + sysbus MMIO region 1: the shared memory, as BAR 2; its size is 0 until
 *    realize has learnt it from the server. Both regions exist from
 *    instance_init on, so a board may map them before or after realize. A
 *    plug handler sets bus_address_iomem and bus_address_shmem before realize,
 *    which then checks that nothing else is there, and maps them.
 *  + sysbus IRQ k: vector k, a pulse per interrupt; a level in revision 0.
 *    There are 64 until realize, and as many as vectors from then on. A board
 *    may connect them before or after realize, until the machine is done.
 */

#ifndef HW_MISC_IVSHMEM_FLAT_H
#define HW_MISC_IVSHMEM_FLAT_H

#include "hw/core/sysbus.h"
#include "hw/misc/ivshmem-flat-compat.h"
#include "hw/misc/ivshmem-client.h"
#include "hw/misc/ivshmem-flat-memory.h"
#include "hw/misc/ivshmem-flat-peer-registers.h"
#include "qapi/qapi-types-common.h"
#include "qemu/notify.h"
#include "qom/object.h"
#include "system/iothread.h"

/**
 * TYPE_IVSHMEM_FLAT:
 *
 * QOM type of the device, user-creatable on the machines that allow it.
 */
#define TYPE_IVSHMEM_FLAT "ivshmem-flat"
OBJECT_DECLARE_SIMPLE_TYPE(IvshmemFlat, IVSHMEM_FLAT)

/**
 * IVSHMEM_FLAT_MAX_VECTORS:
 *
 * Vectors of one peer that can be rung, and outputs that a device can have.
 */
#define IVSHMEM_FLAT_MAX_VECTORS 64

struct IvshmemFlat {
    SysBusDevice parent_obj;

    /* properties */
    IvshmemClient client;           /* has the chardev */
    uint64_t shmem_size;            /* bytes; 0: any */
    uint64_t bus_address_iomem;     /* where realize maps it; UINT64_MAX: not */
    uint64_t bus_address_shmem;     /* likewise */
    uint32_t vectors;
    uint32_t revision;
    OnOffAuto master;
    IOThread *iothread;             /* NULL: the main loop */
    IvshmemFlatPeerRegisters peer_registers;

    /* wiring */
    MemoryRegion iomem;
    MemoryRegion shmem;             /* container of @memory */
    IvshmemFlatMemory *memory;      /* NULL: the server has sent none yet */
    qemu_irq irq[IVSHMEM_FLAT_MAX_VECTORS];
    bool any_wired;                 /* is any output? */
    Notifier machine_done;
    Error *migration_blocker;

    /* registers */
    uint32_t intrmask;
    uint32_t intrstatus;
};

#endif /* HW_MISC_IVSHMEM_FLAT_H */
