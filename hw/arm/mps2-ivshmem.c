/*
 * Arm MPS2 boards with inter-VM shared memory on board
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Each machine is QEMU's own mps2-* with an ivshmem-flat device where that
 * places the first one that a user plugs, with four vectors. So hw/arm/mps2.c
 * has the addresses and the NVIC's inputs.
 *
 * The machine option ivshmem-chardev=ID names the chardev that connects to
 * the ivshmem server. Without it the machine is the board without the device.
 * ivshmem-iothread=ID names the IOThread that takes the interrupts of peers.
 * ivshmem-peer-registers=on gives the device registers that tell of its peers.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "hw/core/boards.h"
#include "hw/core/qdev-properties.h"
#include "hw/misc/ivshmem-flat.h"
#include "hw/misc/ivshmem-flat-plug.h"
#include "qom/object.h"

/*
 * The state of QEMU's mps2 machines is private to their file, so a child
 * cannot extend it. What the machine has to remember, the device does: it is
 * there, unrealized, from the machine's instance_init on.
 */
static Object *mps2_ivshmem_device(Object *machine)
{
    return object_resolve_path_component(machine, "ivshmem");
}

static char *mps2_ivshmem_get(Object *machine, const char *property,
                              Error **errp)
{
    Object *dev = mps2_ivshmem_device(machine);

    return dev ? object_property_get_str(dev, property, errp) : g_strdup("");
}

static void mps2_ivshmem_set(Object *machine, const char *property,
                             const char *value, Error **errp)
{
    Object *dev = mps2_ivshmem_device(machine);

    if (!dev) {
        error_setg(errp, "this machine was started without ivshmem-chardev, "
                   "so it has no ivshmem-flat");
        return;
    }
    object_property_parse(dev, property, value, errp);
}

static char *mps2_ivshmem_get_chardev(Object *obj, Error **errp)
{
    return mps2_ivshmem_get(obj, "chardev", errp);
}

static void mps2_ivshmem_set_chardev(Object *obj, const char *id, Error **errp)
{
    mps2_ivshmem_set(obj, "chardev", id, errp);
}

static char *mps2_ivshmem_get_iothread(Object *obj, Error **errp)
{
    return mps2_ivshmem_get(obj, "iothread", errp);
}

static void mps2_ivshmem_set_iothread(Object *obj, const char *id,
                                      Error **errp)
{
    mps2_ivshmem_set(obj, "iothread", id, errp);
}

static bool mps2_ivshmem_get_peer_registers(Object *obj, Error **errp)
{
    Object *dev = mps2_ivshmem_device(obj);

    return dev && object_property_get_bool(dev, "peer-registers", errp);
}

static void mps2_ivshmem_set_peer_registers(Object *obj, bool on, Error **errp)
{
    mps2_ivshmem_set(obj, "peer-registers", on ? "on" : "off", errp);
}

static void mps2_ivshmem_init(MachineState *machine)
{
    ObjectClass *parent = object_class_get_parent(object_get_class(
        OBJECT(machine)));
    Object *obj = mps2_ivshmem_device(OBJECT(machine));
    g_autofree char *chardev = object_property_get_str(obj, "chardev",
                                                       &error_abort);
    g_autofree char *iothread = object_property_get_str(obj, "iothread",
                                                        &error_abort);
    DeviceState *dev = DEVICE(obj);

    MACHINE_CLASS(parent)->init(machine);
    if (!*chardev) {
        if (*iothread) {
            error_report("ivshmem-iothread is '%s' and ivshmem-chardev is not "
                         "set, expected both", iothread);
            exit(1);
        }
        if (mps2_ivshmem_get_peer_registers(OBJECT(machine), &error_abort)) {
            error_report("ivshmem-peer-registers is on and ivshmem-chardev is "
                         "not set, expected both");
            exit(1);
        }
        object_unparent(obj);
        return;
    }
    qdev_prop_set_uint32(dev, "vectors", IVSHMEM_FLAT_PLUG_INPUTS);
    sysbus_realize(SYS_BUS_DEVICE(dev), &error_fatal);
}

static void mps2_ivshmem_instance_init(Object *obj)
{
    Object *dev = object_new(TYPE_IVSHMEM_FLAT);

    object_property_add_child(obj, "ivshmem", dev);
    object_unref(dev);
}

static void mps2_ivshmem_class_init(ObjectClass *oc,
                                    IvshmemFlatClassData *data)
{
    MachineClass *mc = MACHINE_CLASS(oc);

    mc->desc = g_strdup_printf("%s, with inter-VM shared memory", mc->desc);
    mc->init = mps2_ivshmem_init;
    object_class_property_add_str(oc, "ivshmem-chardev",
                                  mps2_ivshmem_get_chardev,
                                  mps2_ivshmem_set_chardev);
    object_class_property_set_description(oc, "ivshmem-chardev",
        "ID of the socket chardev that connects to an ivshmem server");
    object_class_property_add_str(oc, "ivshmem-iothread",
                                  mps2_ivshmem_get_iothread,
                                  mps2_ivshmem_set_iothread);
    object_class_property_set_description(oc, "ivshmem-iothread",
        "ID of the IOThread that takes the interrupts of peers");
    object_class_property_add_bool(oc, "ivshmem-peer-registers",
                                   mps2_ivshmem_get_peer_registers,
                                   mps2_ivshmem_set_peer_registers);
    object_class_property_set_description(oc, "ivshmem-peer-registers",
        "Whether registers tell the guest of its peers");
}

#define MPS2_IVSHMEM(board) \
    { \
        .name = MACHINE_TYPE_NAME(board "-ivshmem"), \
        .parent = MACHINE_TYPE_NAME(board), \
        .instance_init = mps2_ivshmem_instance_init, \
        .class_init = mps2_ivshmem_class_init, \
    }

static const TypeInfo mps2_ivshmem_types[] = {
    MPS2_IVSHMEM("mps2-an385"),
    MPS2_IVSHMEM("mps2-an386"),
    MPS2_IVSHMEM("mps2-an500"),
    MPS2_IVSHMEM("mps2-an511"),
};

DEFINE_TYPES(mps2_ivshmem_types)
