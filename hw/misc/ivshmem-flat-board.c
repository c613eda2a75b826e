/*
 * What a board has already, where an ivshmem-flat is to go
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "hw/arm/armv7m.h"
#include "hw/core/cpu.h"
#include "hw/core/irq.h"
#include "hw/core/platform-bus.h"
#include "hw/misc/ivshmem-flat-board.h"
#include "hw/misc/ivshmem-flat-compat.h"
#include "hw/misc/unimp.h"

/* A placeholder, or this device, which stays mapped when it is unrealized. */
static bool board_may_cover(DeviceState *dev, MemoryRegion *mr)
{
    Object *owner = memory_region_owner(mr);

    return owner == OBJECT(dev) ||
           object_dynamic_cast(owner, TYPE_UNIMPLEMENTED_DEVICE);
}

/* The first section in the way, with a reference to its mr; or with none. */
static MemoryRegionSection
board_find_obstacle(DeviceState *dev, AddressSpace *as, hwaddr addr, hwaddr end)
{
    while (addr < end) {
        MemoryRegionSection found = memory_region_find(as->root, addr,
                                                       end - addr);

        if (!found.mr || !board_may_cover(dev, found.mr)) {
            return found;
        }
        memory_region_unref(found.mr);
        addr = found.offset_within_address_space + int128_get64(found.size);
    }
    return (MemoryRegionSection) {};
}

static void board_set_error(Error **errp, const char *what, hwaddr addr,
                            uint64_t size, MemoryRegion *mr, hwaddr start,
                            hwaddr last)
{
    Object *owner = memory_region_owner(mr);
    g_autofree char *path = owner ? object_get_canonical_path(owner) : NULL;

    error_setg(errp, "%s: 0x%" HWADDR_PRIx "-0x%" HWADDR_PRIx
               " is not free, '%s'%s%s has 0x%" HWADDR_PRIx "-0x%"
               HWADDR_PRIx, what, addr, addr + size - 1,
               memory_region_name(mr), path ? " of " : "", path ?: "",
               start, last);
}

static bool board_check_free(DeviceState *dev, AddressSpace *as,
                             const char *what, hwaddr addr, uint64_t size,
                             Error **errp)
{
    MemoryRegionSection found = board_find_obstacle(dev, as, addr, addr + size);
    hwaddr start = found.offset_within_address_space;

    if (!found.mr) {
        return true;
    }
    board_set_error(errp, what, addr, size, found.mr, start,
                    start + int128_get64(found.size) - 1);
    memory_region_unref(found.mr);
    return false;
}

/* All of a platform bus's range is its own: it fills that as devices come. */
static bool board_check_platform_bus(const char *what, hwaddr addr,
                                     uint64_t size, Error **errp)
{
    Object *bus = object_resolve_path_type("", TYPE_PLATFORM_BUS_DEVICE, NULL);
    MemoryRegion *mr;
    hwaddr last;

    if (!bus) {
        return true;
    }
    mr = sysbus_mmio_get_region(SYS_BUS_DEVICE(bus), 0);
    last = mr->addr + memory_region_size(mr) - 1;
    if (addr + size <= mr->addr || addr > last) {
        return true;
    }
    board_set_error(errp, what, addr, size, mr, mr->addr, last);
    return false;
}

/* Up to where a CPU addresses memory, as far as that can be told. */
static hwaddr board_last_address(CPUState *cpu)
{
    /* Arm's CPUs with an MPU in place of an MMU, and those without either */
    bool has_32_bits = object_property_find(OBJECT(cpu), "has-mpu") ||
                       object_dynamic_cast(OBJECT(cpu)->parent, TYPE_ARMV7M);

    return has_32_bits ? UINT32_MAX : UINT64_MAX;
}

bool ivshmem_flat_board_check_range(DeviceState *dev, const char *what,
                                    hwaddr addr, uint64_t size, Error **errp)
{
    CPUState *cpu;

    if (addr > UINT64_MAX - size) {
        error_setg(errp, "%s: 0x%" HWADDR_PRIx " leaves no room for 0x%" PRIx64
                   " bytes", what, addr, size);
        return false;
    }
    if (!board_check_platform_bus(what, addr, size, errp)) {
        return false;
    }
    CPU_FOREACH(cpu) {
        hwaddr last = board_last_address(cpu);

        if (addr + size - 1 > last) {
            error_setg(errp, "%s: 0x%" HWADDR_PRIx "-0x%" HWADDR_PRIx
                       " is not what the machine's CPUs address, expected "
                       "no more than 0x%" HWADDR_PRIx, what, addr,
                       addr + size - 1, last);
            return false;
        }
        for (int i = 0; i <= IVSHMEM_FLAT_LAST_AS(cpu); i++) {
            AddressSpace *as = cpu_get_address_space(cpu, i);

            if (as && !board_check_free(dev, as, what, addr, size, errp)) {
                return false;
            }
        }
    }
    return true;
}

/* What drives an input, but for one device */
typedef struct BoardDriver {
    DeviceState *except;
    qemu_irq input;
    char *name;             /* found: the output, and of what */
} BoardDriver;

static int board_find_driver(Object *obj, void *opaque)
{
    BoardDriver *driver = opaque;
    DeviceState *dev = (DeviceState *)object_dynamic_cast(obj, TYPE_DEVICE);
    NamedGPIOList *outputs;

    /* a platform bus hands its wires on to its devices, and drives nothing */
    if (!dev || dev == driver->except ||
        object_dynamic_cast(obj, TYPE_PLATFORM_BUS_DEVICE)) {
        return 0;
    }
    QLIST_FOREACH(outputs, &dev->gpios, node) {
        for (int i = 0; i < outputs->num_out; i++) {
            if (qdev_get_gpio_out_connector(dev, outputs->name, i) ==
                driver->input) {
                g_autofree char *path = object_get_canonical_path(obj);

                driver->name = g_strdup_printf(
                    "%s[%d] of %s", outputs->name ?: "unnamed-gpio-out", i,
                    path);
                return 1;
            }
        }
    }
    return 0;
}

void ivshmem_flat_board_check_input(DeviceState *dev, unsigned vector)
{
    BoardDriver driver = {
        .except = dev,
        .input = qdev_get_gpio_out_connector(dev, SYSBUS_DEVICE_GPIO_IRQ,
                                             vector),
    };

    object_child_foreach_recursive(object_get_root(), board_find_driver,
                                   &driver);
    if (driver.name) {
        g_autofree char *path = object_get_canonical_path(OBJECT(dev));
        g_autofree char *input =
            object_get_canonical_path(OBJECT(driver.input));

        warn_report("ivshmem-flat %s: the interrupt input of vector %u, %s, is "
                    "driven by %s, too: expected one that no other device "
                    "drives", path, vector, input, driver.name);
        g_free(driver.name);
    }
}
