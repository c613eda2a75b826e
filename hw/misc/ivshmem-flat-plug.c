/*
 * Boards that place an ivshmem-flat which the user plugs
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "hw/core/hotplug.h"
#include "hw/core/irq.h"
#include "hw/core/sysbus.h"
#include "hw/misc/ivshmem-flat.h"
#include "hw/misc/ivshmem-flat-board.h"
#include "hw/misc/ivshmem-flat-plug.h"
#include "hw/misc/ivshmem-flat-user.h"

#define TYPE_IVSHMEM_FLAT_PLUG "ivshmem-flat-plug"
OBJECT_DECLARE_SIMPLE_TYPE(IvshmemFlatPlug, IVSHMEM_FLAT_PLUG)

/* What a place has room for at least: the size is the server's to say, later */
#define SHMEM_ROOM (4 * MiB)

/* A machine's plug handler for ivshmem-flat, and for nothing else */
struct IvshmemFlatPlug {
    Object parent_obj;

    const IvshmemFlatBoard *board;
};

/* MachineClass: IvshmemFlatBoard; all that is handed to us is the machine */
static GHashTable *ivshmem_flat_boards;

static const IvshmemFlatBoard *ivshmem_flat_plug_board(MachineState *machine)
{
    ObjectClass *oc = object_get_class(OBJECT(machine));
    const IvshmemFlatBoard *board;

    do {
        board = g_hash_table_lookup(ivshmem_flat_boards, oc);
        oc = object_class_get_parent(oc);
    } while (!board);
    return board;
}

static HotplugHandler *ivshmem_flat_plug_get_handler(MachineState *machine,
                                                     DeviceState *dev)
{
    Object *plug;

    if (!object_dynamic_cast(OBJECT(dev), TYPE_IVSHMEM_FLAT)) {
        return NULL;
    }
    plug = object_resolve_path_component(OBJECT(machine),
                                         TYPE_IVSHMEM_FLAT_PLUG);
    if (!plug) {
        plug = object_new(TYPE_IVSHMEM_FLAT_PLUG);
        object_property_add_child(OBJECT(machine), TYPE_IVSHMEM_FLAT_PLUG,
                                  plug);
        object_unref(plug);
        IVSHMEM_FLAT_PLUG(plug)->board = ivshmem_flat_plug_board(machine);
    }
    return HOTPLUG_HANDLER(plug);
}

static bool ivshmem_flat_plug_is_free(const IvshmemFlatPlace *place,
                                      IvshmemFlat *s, Error **errp)
{
    return ivshmem_flat_board_check_range(DEVICE(s), "registers",
                                          place->registers,
                                          memory_region_size(&s->iomem),
                                          errp) &&
           ivshmem_flat_board_check_range(DEVICE(s), "shared memory",
                                          place->shmem, SHMEM_ROOM, errp);
}

/* The first place where nothing is, whoever has put it there; or NULL */
static const IvshmemFlatPlace *ivshmem_flat_plug_find(IvshmemFlatPlug *plug,
                                                      IvshmemFlat *s,
                                                      Error **errp)
{
    ERRP_GUARD();
    const IvshmemFlatPlace *places = plug->board->places;
    Error *reason = NULL;
    unsigned n;

    for (n = 0; n < IVSHMEM_FLAT_PLUG_PLACES && places[n].registers; n++) {
        error_free(reason);
        reason = NULL;
        if (ivshmem_flat_plug_is_free(&places[n], s, &reason)) {
            return &places[n];
        }
    }
    error_propagate_prepend(errp, reason, "this board has places for %u "
                            "ivshmem-flat, and none of them is free: ", n);
    ivshmem_flat_user_append_hint(errp);
    return NULL;
}

/*
 * By its path: a device may have handed its inputs on to the one around it, as
 * the NVIC does, and still is their parent.
 */
static qemu_irq ivshmem_flat_plug_input(const char *controller, unsigned n)
{
    g_autofree char *path = g_strdup_printf("%s/unnamed-gpio-in[%u]",
                                            controller, n);
    Object *input = object_resolve_path(path, NULL);

    assert(input);
    return IRQ(input);
}

static bool ivshmem_flat_plug_wire(IvshmemFlat *s, const char *controller,
                                   const unsigned *inputs, Error **errp)
{
    SysBusDevice *sbd = SYS_BUS_DEVICE(s);

    if (s->vectors > IVSHMEM_FLAT_MAX_VECTORS) {
        return true;            /* the device itself does not take so many */
    }
    for (unsigned i = 0; i < s->vectors; i++) {
        if (sysbus_is_irq_connected(sbd, i)) {
            continue;
        }
        if (i >= IVSHMEM_FLAT_PLUG_INPUTS) {
            error_setg(errp, "vectors is %" PRIu32 ", and this board has "
                       "interrupt inputs for %d: sysbus-irq[%u]=PATH wires "
                       "another one", s->vectors, IVSHMEM_FLAT_PLUG_INPUTS, i);
            return false;
        }
        sysbus_connect_irq(sbd, i, ivshmem_flat_plug_input(controller,
                                                           inputs[i]));
    }
    return true;
}

static void ivshmem_flat_plug_pre_plug(HotplugHandler *handler,
                                       DeviceState *dev, Error **errp)
{
    IvshmemFlatPlug *plug = IVSHMEM_FLAT_PLUG(handler);
    IvshmemFlat *s = IVSHMEM_FLAT(dev);
    bool has_iomem = s->bus_address_iomem != UINT64_MAX;
    bool has_shmem = s->bus_address_shmem != UINT64_MAX;
    const IvshmemFlatPlace *place;

    /* What has an address stays there. Who has placed all wires it, too. */
    if (has_iomem && has_shmem) {
        return;
    }

    place = ivshmem_flat_plug_find(plug, s, errp);
    if (!place || !ivshmem_flat_plug_wire(s, plug->board->controller,
                                          place->inputs, errp)) {
        return;
    }
    if (!has_iomem) {
        s->bus_address_iomem = place->registers;
    }
    if (!has_shmem) {
        s->bus_address_shmem = place->shmem;
    }
}

void ivshmem_flat_plug_allow(MachineClass *mc, const IvshmemFlatBoard *board)
{
    assert(!mc->get_hotplug_handler);
    mc->get_hotplug_handler = ivshmem_flat_plug_get_handler;
    machine_class_allow_dynamic_sysbus_dev(mc, TYPE_IVSHMEM_FLAT);
    if (!ivshmem_flat_boards) {
        ivshmem_flat_boards = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_insert(ivshmem_flat_boards, mc,
                        g_memdup2(board, sizeof(*board)));
}

static void ivshmem_flat_plug_class_init(ObjectClass *klass,
                                         IvshmemFlatClassData *data)
{
    HOTPLUG_HANDLER_CLASS(klass)->pre_plug = ivshmem_flat_plug_pre_plug;
}

static const TypeInfo ivshmem_flat_plug_types[] = {
    {
        .name = TYPE_IVSHMEM_FLAT_PLUG,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(IvshmemFlatPlug),
        .class_init = ivshmem_flat_plug_class_init,
        .interfaces = (InterfaceInfo[]) {
            { TYPE_HOTPLUG_HANDLER },
            { }
        },
    },
};

DEFINE_TYPES(ivshmem_flat_plug_types)
