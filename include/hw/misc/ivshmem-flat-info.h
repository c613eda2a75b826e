/*
 * What an ivshmem-flat tells of itself
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * QEMU interface, beside that of hw/misc/ivshmem-flat.h, all of it read-only:
 *  + QOM property "id": own id
 *  + QOM property "connected": is the server there?
 *  + QOM property "peers": the peers that are known: id and number of vectors
 *  + QOM properties "doorbells-sent" and "doorbells-dropped": those that have
 *    reached a peer's eventfd, and those that have reached nobody
 *  + QOM property "interrupts": those taken, for each own vector
 */

#ifndef HW_MISC_IVSHMEM_FLAT_INFO_H
#define HW_MISC_IVSHMEM_FLAT_INFO_H

#include "qom/object.h"

/**
 * ivshmem_flat_info_add_properties: let a user look into the device
 * @klass: that of the device
 */
void ivshmem_flat_info_add_properties(ObjectClass *klass);

#endif /* HW_MISC_IVSHMEM_FLAT_INFO_H */
