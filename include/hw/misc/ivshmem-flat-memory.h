/*
 * An ivshmem server's object as RAM
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MISC_IVSHMEM_FLAT_MEMORY_H
#define HW_MISC_IVSHMEM_FLAT_MEMORY_H

#include "hw/core/sysbus.h"
#include "qom/object.h"

/**
 * TYPE_IVSHMEM_FLAT_MEMORY:
 *
 * QOM type of what owns a server's object, not user-creatable.
 */
#define TYPE_IVSHMEM_FLAT_MEMORY "ivshmem-flat-memory"
OBJECT_DECLARE_SIMPLE_TYPE(IvshmemFlatMemory, IVSHMEM_FLAT_MEMORY)

/**
 * IvshmemFlatMemory: the server's object as RAM
 * @ram: owns the object's fd
 *
 * A memory region lives as long as its owner, and an old address space may
 * hold on to it for a while: each object has an owner of its own, so that one
 * can take the place of another.
 */
struct IvshmemFlatMemory {
    Object parent_obj;

    MemoryRegion ram;
};

/**
 * ivshmem_flat_memory_new: map an object
 *
 * @name: of the RAM block
 * @fd: the object; it belongs to what is returned, or, if that is NULL, still
 *      to the caller
 * @size: of the object, in bytes
 * @errp: says why it cannot be mapped
 *
 * Warns if the object's file system has less room than that.
 */
IvshmemFlatMemory *ivshmem_flat_memory_new(const char *name, int fd,
                                           uint64_t size, Error **errp);

/**
 * ivshmem_flat_memory_is: is @fd the same object?
 */
bool ivshmem_flat_memory_is(IvshmemFlatMemory *m, int fd);

#endif /* HW_MISC_IVSHMEM_FLAT_MEMORY_H */
