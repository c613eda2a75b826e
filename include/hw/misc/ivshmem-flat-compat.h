/*
 * What older QEMU versions lack and ivshmem-flat uses
 *
 * The device, its board and its tests are written for the newest QEMU. This
 * is the only file that asks for QEMU's version: dropping an old QEMU deletes
 * lines here and nowhere else. But for headers that have moved: tools/apply
 * has them included by their former names.
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MISC_IVSHMEM_FLAT_COMPAT_H
#define HW_MISC_IVSHMEM_FLAT_COMPAT_H

#if QEMU_VERSION_MAJOR < 10 || \
    (QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR < 2)

/* Renamed in 10.2. */
#define CharFrontend CharBackend

/* Came with 10.2, which takes an Error. */
#include <glib-unix.h>
#define qemu_set_blocking(fd, block, errp) \
    g_unix_set_fd_nonblocking(fd, !(block), NULL)

/* Came with 10.2; before, what a channel receives is made to block. */
#define QIO_CHANNEL_READ_FLAG_FD_PRESERVE_BLOCKING 0

/* class_init's data became const in 10.1, which is not supported. */
#define IvshmemFlatClassData void

/* It had a list of modes, and one was not there. */
#include "migration/blocker.h"
#define migrate_add_blocker_modes(reasonp, modes, errp) \
    migrate_add_blocker_modes(reasonp, errp, MIG_MODE_CPR_TRANSFER, -1)

#else

#define IvshmemFlatClassData const void

#endif

#if QEMU_VERSION_MAJOR < 11

/* A CPU knew the number of its address spaces; now its class, the last one. */
#define IVSHMEM_FLAT_LAST_AS(cpu) ((cpu)->num_ases - 1)

#else

#define IVSHMEM_FLAT_LAST_AS(cpu) ((cpu)->cc->max_as)

#endif

#endif /* HW_MISC_IVSHMEM_FLAT_COMPAT_H */
