/*
 * An ivshmem server's object as RAM
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "hw/misc/ivshmem-flat-memory.h"

#include <sys/statvfs.h>

/* Warn if the file system has no room for what the object has no blocks for. */
static void ivshmem_flat_memory_check_room(int fd)
{
    struct statvfs fs;
    struct stat st;
    uint64_t room;

    if (fstatvfs(fd, &fs) < 0 || fstat(fd, &st) < 0 ||
        fs.f_blocks == 0) { /* it has no limit */
        return;
    }
    room = (uint64_t)fs.f_bavail * fs.f_frsize + (uint64_t)st.st_blocks * 512;
    if (room < (uint64_t)st.st_size) {
        warn_report("ivshmem-flat: shared memory of %" PRId64 " bytes has room "
                    "for %" PRIu64 ": what uses more is killed by SIGBUS",
                    (int64_t)st.st_size, room);
    }
}

IvshmemFlatMemory *ivshmem_flat_memory_new(const char *name, int fd,
                                           uint64_t size, Error **errp)
{
    IvshmemFlatMemory *m =
        IVSHMEM_FLAT_MEMORY(object_new(TYPE_IVSHMEM_FLAT_MEMORY));

    if (!memory_region_init_ram_from_fd(&m->ram, OBJECT(m), name, size,
                                        RAM_SHARED, fd, 0, errp)) {
        object_unref(m);
        return NULL;
    }
    ivshmem_flat_memory_check_room(fd);
    return m;
}

bool ivshmem_flat_memory_is(IvshmemFlatMemory *m, int fd)
{
    struct stat ours, other;

    return fstat(memory_region_get_fd(&m->ram), &ours) == 0 &&
           fstat(fd, &other) == 0 &&
           ours.st_dev == other.st_dev && ours.st_ino == other.st_ino;
}

static const TypeInfo ivshmem_flat_memory_types[] = {
    {
        .name = TYPE_IVSHMEM_FLAT_MEMORY,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(IvshmemFlatMemory),
    },
};

DEFINE_TYPES(ivshmem_flat_memory_types)
