/*
 * Where a user puts an ivshmem-flat
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * QEMU interface, beside that of hw/misc/ivshmem-flat.h:
 *  + QOM properties "x-bus-address-iomem" and "x-bus-address-shmem": where the
 *    two regions go on the system bus, in place of where the machine puts them
 *  + QOM property "x-irq-qompath": path of the interrupt input that vector 0
 *    drives; the same as setting the link "sysbus-irq[0]"
 */

#ifndef HW_MISC_IVSHMEM_FLAT_USER_H
#define HW_MISC_IVSHMEM_FLAT_USER_H

#include "qapi/error.h"
#include "qom/object.h"

/**
 * ivshmem_flat_user_add_properties: let a user place and wire the device
 * @klass: that of the device
 */
void ivshmem_flat_user_add_properties(ObjectClass *klass);

/**
 * ivshmem_flat_user_append_hint: say how a user can place one more device
 * @errp: the error that there is no more place
 */
static inline void ivshmem_flat_user_append_hint(Error *const *errp)
{
    error_append_hint(errp, "x-bus-address-iomem and x-bus-address-shmem place "
                      "another one\n");
}

#endif /* HW_MISC_IVSHMEM_FLAT_USER_H */
