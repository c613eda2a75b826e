/*
 * Where a user puts an ivshmem-flat
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "hw/core/irq.h"
#include "hw/core/qdev-properties.h"
#include "hw/misc/ivshmem-flat.h"
#include "hw/misc/ivshmem-flat-user.h"

/* Memory that starts inside a page of the guest would be slow, or no RAM. */
#define SHMEM_ALIGN (4 * KiB)

#define IOMEM "x-bus-address-iomem"
#define SHMEM "x-bus-address-shmem"

static uint64_t *ivshmem_flat_user_address(Object *obj, const char *property)
{
    IvshmemFlat *s = IVSHMEM_FLAT(obj);

    return g_str_equal(property, SHMEM) ? &s->bus_address_shmem
                                        : &s->bus_address_iomem;
}

static void ivshmem_flat_user_get_address(Object *obj, Visitor *v,
                                          const char *name, void *opaque,
                                          Error **errp)
{
    visit_type_uint64(v, name, ivshmem_flat_user_address(obj, name), errp);
}

static void ivshmem_flat_user_set_address(Object *obj, Visitor *v,
                                          const char *name, void *opaque,
                                          Error **errp)
{
    /* KVM maps in pages of the host */
    uint64_t align = g_str_equal(name, SHMEM) ?
                     MAX(SHMEM_ALIGN, qemu_real_host_page_size()) : 4;
    uint64_t addr;

    if (DEVICE(obj)->realized) {
        qdev_prop_set_after_realize(DEVICE(obj), name, errp);
        return;
    }
    if (!visit_type_uint64(v, name, &addr, errp)) {
        return;
    }
    if (addr != UINT64_MAX && addr % align) {
        error_setg(errp, "%s: 0x%" PRIx64 " is not aligned, expected a "
                   "multiple of 0x%" PRIx64, name, addr, align);
        return;
    }
    *ivshmem_flat_user_address(obj, name) = addr;
}

static char *ivshmem_flat_user_get_irq(Object *obj, Error **errp)
{
    return object_property_get_str(obj, SYSBUS_DEVICE_GPIO_IRQ "[0]", errp);
}

/* Says in one line what the link's own setter says without the path. */
static void ivshmem_flat_user_set_irq(Object *obj, const char *path,
                                      Error **errp)
{
    const char *hint = "expected the QOM path of an interrupt input, 'info "
                       "qom-tree' in the monitor lists them";
    bool ambiguous = false;
    Object *input = object_resolve_path(path, &ambiguous);

    if (ambiguous) {
        error_setg(errp, "x-irq-qompath: '%s' is ambiguous, %s", path, hint);
    } else if (!input) {
        error_setg(errp, "x-irq-qompath: '%s' does not exist, %s", path, hint);
    } else if (!object_dynamic_cast(input, TYPE_IRQ)) {
        error_setg(errp, "x-irq-qompath: '%s' is of type %s, %s", path,
                   object_get_typename(input), hint);
    } else {
        object_property_set_link(obj, SYSBUS_DEVICE_GPIO_IRQ "[0]", input,
                                 errp);
    }
}

void ivshmem_flat_user_add_properties(ObjectClass *klass)
{
    static const char *const addresses[][2] = {
        { IOMEM, "Address of the registers, 256 bytes" },
        { SHMEM, "Address of the shared memory" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
        object_class_property_add(klass, addresses[i][0], "uint64",
                                  ivshmem_flat_user_get_address,
                                  ivshmem_flat_user_set_address, NULL, NULL);
        object_class_property_set_description(klass, addresses[i][0],
                                              addresses[i][1]);
    }
    object_class_property_add_str(klass, "x-irq-qompath",
                                  ivshmem_flat_user_get_irq,
                                  ivshmem_flat_user_set_irq);
    object_class_property_set_description(klass, "x-irq-qompath",
                                          "QOM path of the interrupt input "
                                          "that vector 0 drives");
}
