/*
 * Inter-VM shared memory without PCI, for the system bus
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * This is a model of the device that docs/specs/ivshmem-spec.rst describes,
 * for machines without PCI: what is BAR 0 and BAR 2 there are sysbus MMIO
 * regions here. MSI-X vector k is sysbus IRQ k, a pulse, in revision 1; INTx
 * is sysbus IRQ 0, a level, in revision 0.
 *
 * The server, its peers and their eventfds are hw/misc/ivshmem-client.h's.
 * Choices where the specification leaves one, here:
 *  + "Configured for interrupts" means that a board or the user has wired an
 *    output when the machine is done. Otherwise notification is off both
 *    ways and IVPosition reads 0.
 *  + Only a 32-bit store rings. A narrower one cannot name peer and vector.
 *  + A peer's first IVSHMEM_FLAT_MAX_VECTORS vectors can be rung.
 *
 * Not modelled: memory without a server (ivshmem-plain).
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "hw/core/irq.h"
#include "hw/core/qdev-properties.h"
#include "hw/core/qdev-properties-system.h"
#include "hw/core/registerfields.h"
#include "hw/misc/ivshmem-flat.h"
#include "hw/misc/ivshmem-flat-board.h"
#include "hw/misc/ivshmem-flat-info.h"
#include "hw/misc/ivshmem-flat-peer-registers.h"
#include "hw/misc/ivshmem-flat-user.h"
#include "migration/blocker.h"
#include "migration/misc.h"
#include "migration/vmstate.h"
#include "system/iothread.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "system/system.h"
#include "trace.h"

REG32(INTRMASK, 0x00)
REG32(INTRSTATUS, 0x04)
REG32(IVPOSITION, 0x08)
REG32(DOORBELL, 0x0c)
    FIELD(DOORBELL, VECTOR, 0, 16)
    FIELD(DOORBELL, PEER, 16, 16)

#define INTRSTATUS_PEER 1       /* revision 0: a peer's interrupt */

#define IOMEM_SIZE 0x100

/* Interrupts */

/* Revision 0: the output is a level. */
static void ivshmem_flat_update_irq(IvshmemFlat *s)
{
    if (s->revision == 0) {
        qemu_set_irq(s->irq[0], (s->intrstatus & s->intrmask) != 0);
    }
}

static void ivshmem_flat_interrupt(void *opaque, unsigned vector)
{
    IvshmemFlat *s = opaque;

    if (s->revision == 0) {
        s->intrstatus |= INTRSTATUS_PEER;
        ivshmem_flat_update_irq(s);
    } else {
        qemu_irq_pulse(s->irq[vector]);
    }
}

/* Of what is on a platform bus, sysbus knows no address. */
static hwaddr ivshmem_flat_address(const MemoryRegion *mr)
{
    hwaddr address = 0;

    for (; mr; mr = mr->container) {
        address += mr->addr;
    }
    return address;
}

/* An output without a wire is off. */
static void ivshmem_flat_machine_done(Notifier *notifier, void *data)
{
    IvshmemFlat *s = container_of(notifier, IvshmemFlat, machine_done);
    SysBusDevice *sbd = SYS_BUS_DEVICE(s);
    g_autofree char *path = object_get_canonical_path(OBJECT(s));
    g_autoptr(GString) off = g_string_new(NULL);

    trace_ivshmem_flat_place(path, ivshmem_flat_address(&s->iomem),
                             ivshmem_flat_address(&s->shmem),
                             memory_region_size(&s->shmem));
    for (unsigned i = 0; i < s->vectors; i++) {
        qemu_irq input = sysbus_get_connected_irq(sbd, i);

        if (input) {
            g_autofree char *to = object_get_canonical_path(OBJECT(input));

            s->any_wired = true;
            trace_ivshmem_flat_input(path, i, to);
            ivshmem_flat_board_check_input(DEVICE(s), i);
            ivshmem_peers_listen(&s->client.peers, i);
        } else {
            g_string_append_printf(off, "%s%u", off->len ? ", " : "", i);
        }
    }
    trace_ivshmem_flat_interrupts(s->any_wired);
    if (!s->any_wired) {
        warn_report("ivshmem-flat %s: interrupts are disabled, no interrupt "
                    "input is wired; sysbus-irq[0]=PATH wires one, 'info "
                    "qom-tree' lists the paths", path);
    } else if (off->len) {
        warn_report("ivshmem-flat %s: vectors without an interrupt input are "
                    "off: %s; sysbus-irq[N]=PATH wires one, 'info qom-tree' "
                    "lists the paths", path, off->str);
    }
}

/* Registers */

static void ivshmem_flat_doorbell(IvshmemFlat *s, uint32_t value)
{
    uint16_t peer = FIELD_EX32(value, DOORBELL, PEER);
    uint16_t vector = FIELD_EX32(value, DOORBELL, VECTOR);

    if (s->any_wired) {
        ivshmem_peers_ring(&s->client.peers, peer, vector);
    } else {
        ivshmem_peers_drop(&s->client.peers, peer, vector,
                           "interrupts are disabled");
    }
}

static uint64_t ivshmem_flat_read(void *opaque, hwaddr offset, unsigned size)
{
    IvshmemFlat *s = opaque;
    uint32_t value = 0;

    switch (offset & ~3) {
    case A_INTRMASK:
        value = s->intrmask;
        break;
    case A_INTRSTATUS:
        value = s->intrstatus;
        s->intrstatus = 0;
        ivshmem_flat_update_irq(s);
        break;
    case A_IVPOSITION:
        value = s->any_wired ? s->client.peers.id : 0;
        break;
    case A_DOORBELL:
        qemu_log_mask(LOG_GUEST_ERROR, "ivshmem-flat: read of the write-only "
                      "register DOORBELL\n");
        break;
    default:
        qemu_log_mask(LOG_GUEST_ERROR, "ivshmem-flat: read of the reserved "
                      "offset 0x%" HWADDR_PRIx "\n", offset);
        break;
    }
    value = extract32(value, (offset & 3) * 8, size * 8);
    trace_ivshmem_flat_read(offset, size, value);
    return value;
}

static void ivshmem_flat_write(void *opaque, hwaddr offset, uint64_t value,
                               unsigned size)
{
    IvshmemFlat *s = opaque;
    unsigned shift = (offset & 3) * 8;

    trace_ivshmem_flat_write(offset, size, value);
    switch (offset & ~3) {
    case A_INTRMASK:
        s->intrmask = deposit32(s->intrmask, shift, size * 8, value);
        ivshmem_flat_update_irq(s);
        break;
    case A_INTRSTATUS:
        s->intrstatus = deposit32(s->intrstatus, shift, size * 8, value);
        ivshmem_flat_update_irq(s);
        break;
    case A_IVPOSITION:
        qemu_log_mask(LOG_GUEST_ERROR, "ivshmem-flat: write to the read-only "
                      "register IVPOSITION\n");
        break;
    case A_DOORBELL:
        if (size != 4) {
            qemu_log_mask(LOG_GUEST_ERROR, "ivshmem-flat: write of %u bytes "
                          "to DOORBELL, expected 4\n", size);
            break;
        }
        ivshmem_flat_doorbell(s, value);
        break;
    default:
        qemu_log_mask(LOG_GUEST_ERROR, "ivshmem-flat: write to the reserved "
                      "offset 0x%" HWADDR_PRIx "\n", offset);
        break;
    }
}

static const MemoryRegionOps ivshmem_flat_ops = {
    .read = ivshmem_flat_read,
    .write = ivshmem_flat_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid.min_access_size = 1,
    .valid.max_access_size = 8,
    .impl.min_access_size = 1,
    .impl.max_access_size = 4,
};

static void ivshmem_flat_reset_enter(Object *obj, ResetType type)
{
    IvshmemFlat *s = IVSHMEM_FLAT(obj);

    s->intrmask = 0;
    s->intrstatus = 0;
    ivshmem_flat_peer_registers_reset(s);
}

static void ivshmem_flat_reset_hold(Object *obj, ResetType type)
{
    ivshmem_flat_update_irq(IVSHMEM_FLAT(obj));
}

/* Places on the bus */

static bool ivshmem_flat_has_address(uint64_t bus_address)
{
    return bus_address != UINT64_MAX;
}

/* Check the places that are given, now that the memory's size is known. */
static bool ivshmem_flat_check_places(IvshmemFlat *s, uint64_t shmem_size,
                                      Error **errp)
{
    hwaddr iomem = s->bus_address_iomem;
    hwaddr shmem = s->bus_address_shmem;
    bool has_iomem = ivshmem_flat_has_address(iomem);
    bool has_shmem = ivshmem_flat_has_address(shmem);

    if (s->memory) { /* we are there */
        return true;
    }
    if ((has_iomem &&
         !ivshmem_flat_board_check_range(DEVICE(s), "registers", iomem,
                                         IOMEM_SIZE, errp)) ||
        (has_shmem &&
         !ivshmem_flat_board_check_range(DEVICE(s), "shared memory", shmem,
                                         shmem_size, errp))) {
        return false;
    }
    if (has_iomem && has_shmem &&
        iomem < shmem + shmem_size && shmem < iomem + IOMEM_SIZE) {
        error_setg(errp, "registers: 0x%" HWADDR_PRIx
                   " is inside the shared memory at 0x%" HWADDR_PRIx "-0x%"
                   HWADDR_PRIx, iomem, shmem, shmem + shmem_size - 1);
        return false;
    }
    return true;
}

/* The shared memory */

static uint64_t ivshmem_flat_get_size(IvshmemFlat *s)
{
    return s->memory ? memory_region_size(&s->memory->ram) : s->shmem_size;
}

static void ivshmem_flat_unmap_shmem(IvshmemFlat *s)
{
    if (s->memory) {
        memory_region_del_subregion(&s->shmem, &s->memory->ram);
        vmstate_unregister_ram(&s->memory->ram, DEVICE(s));
        object_unref(g_steal_pointer(&s->memory));
    }
}

/*
 * Put the server's object into the container, in place of the one that is
 * there. The guest sees either the one or the other.
 */
static bool ivshmem_flat_take_memory(void *opaque, int fd, uint64_t size,
                                     Error **errp)
{
    IvshmemFlat *s = opaque;
    uint64_t expected_size = ivshmem_flat_get_size(s);
    g_autofree char *path = object_get_canonical_path(OBJECT(s));
    /* unique, and the same when the same machine is started again */
    g_autofree char *name = g_strconcat("ivshmem-flat:", path, NULL);
    IvshmemFlatMemory *old = s->memory, *new;
    /* until realize is over, that is ivshmem_flat_decide_master()'s */
    bool migrates = DEVICE(s)->realized && s->master == ON_OFF_AUTO_ON;

    if (expected_size && size != expected_size) {
        error_setg(errp, "server sent shared memory of %" PRIu64 " bytes, "
                   "expected shmem-size %" PRIu64, size, expected_size);
        return false;
    }
    if (old && ivshmem_flat_memory_is(old, fd)) {
        close(fd);
        return true;
    }
    if (migrates && (migration_is_running() ||
                     migration_in_incoming_postcopy() ||
                     runstate_check(RUN_STATE_INMIGRATE))) {
        error_setg(errp, "server sent other shared memory during a migration, "
                   "expected the same");
        return false;
    }
    if (!ivshmem_flat_check_places(s, size, errp)) {
        return false;
    }
    new = ivshmem_flat_memory_new(name, fd, size, errp);
    if (!new) {
        return false;
    }
    memory_region_transaction_begin();
    ivshmem_flat_unmap_shmem(s);
    if (migrates) {
        vmstate_register_ram(&new->ram, DEVICE(s));
    }
    memory_region_set_size(&s->shmem, size);
    memory_region_add_subregion(&s->shmem, 0, &new->ram);
    memory_region_transaction_commit();
    s->memory = new;
    return true;
}

/* Until the guest has seen one, another server's may be of another size. */
static void ivshmem_flat_server_gone(void *opaque)
{
    IvshmemFlat *s = opaque;

    if (!DEVICE(s)->realized) {
        ivshmem_flat_unmap_shmem(s);
    }
}

static const IvshmemClientOps ivshmem_flat_client_ops = {
    .name = "ivshmem-flat",
    .max_peer_vectors = IVSHMEM_FLAT_MAX_VECTORS,
    .take_memory = ivshmem_flat_take_memory,
    .server_gone = ivshmem_flat_server_gone,
    .interrupt = ivshmem_flat_interrupt,
    .changed = ivshmem_flat_peer_registers_changed,
};

/* The device */

/*
 * As in the PCI device: the first on a server may take the memory along.
 * Without that the memory has no name in a stream, so none can overwrite it.
 */
static bool ivshmem_flat_decide_master(IvshmemFlat *s, Error **errp)
{
    if (s->master == ON_OFF_AUTO_AUTO) {
        s->master = s->client.peers.id == 0 ? ON_OFF_AUTO_ON : ON_OFF_AUTO_OFF;
    }
    if (s->master == ON_OFF_AUTO_ON) {
        if (s->client.peers.id != 0) {
            error_setg(errp, "master=on with own id %u, expected 0: the "
                       "master connects before its peers, or it would "
                       "overwrite the memory that they use",
                       s->client.peers.id);
            return false;
        }
        /* CPR hands memory over in place of its content. */
        error_setg(&s->migration_blocker, "ivshmem-flat with master=on: the "
                   "next QEMU gets its shared memory from a server");
        if (migrate_add_blocker_modes(&s->migration_blocker,
                                      BIT(MIG_MODE_CPR_TRANSFER) |
                                      BIT(MIG_MODE_CPR_EXEC), errp) < 0) {
            return false;
        }
        vmstate_register_ram(&s->memory->ram, DEVICE(s));
        return true;
    }
    /* The memory's content comes first in a stream: too late to refuse it. */
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "ivshmem-flat with master=off and own id %u cannot "
                   "take an incoming migration: it would overwrite the memory "
                   "that peers use", s->client.peers.id);
        return false;
    }
    error_setg(&s->migration_blocker, "ivshmem-flat with master=off: its "
               "shared memory belongs to a server and stays behind");
    return migrate_add_blocker(&s->migration_blocker, errp) == 0;
}

static bool ivshmem_flat_check_properties(IvshmemFlat *s, Error **errp)
{
    if (replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "ivshmem-flat cannot be recorded or replayed: peers "
                   "write to its memory when they please");
        return false;
    }
    if (s->vectors < 1 || s->vectors > IVSHMEM_FLAT_MAX_VECTORS) {
        error_setg(errp, "vectors is %" PRIu32 ", expected 1 to %d",
                   s->vectors, IVSHMEM_FLAT_MAX_VECTORS);
        return false;
    }
    if (s->revision > 1) {
        error_setg(errp, "revision is %" PRIu32 ", expected 0 or 1",
                   s->revision);
        return false;
    }
    if (s->revision == 0 && s->vectors > 1) {
        error_setg(errp, "vectors is %" PRIu32 ", expected 1 in revision 0",
                   s->vectors);
        return false;
    }
    for (unsigned i = s->vectors; i < IVSHMEM_FLAT_MAX_VECTORS; i++) {
        if (sysbus_is_irq_connected(SYS_BUS_DEVICE(s), i)) {
            error_setg(errp, "sysbus-irq[%u] is wired, expected none beyond "
                       "sysbus-irq[%u] with vectors=%" PRIu32, i,
                       s->vectors - 1, s->vectors);
            return false;
        }
    }
    if (!ivshmem_flat_peer_registers_check(s, errp)) {
        return false;
    }
    return true;
}

/*
 * Outputs must be there before properties are set, so all were made, and a
 * platform bus wires each that it finds: leave it those that are in use.
 */
static void ivshmem_flat_remove_spare_outputs(IvshmemFlat *s)
{
    NamedGPIOList *list;

    for (unsigned i = s->vectors; i < IVSHMEM_FLAT_MAX_VECTORS; i++) {
        g_autofree char *name = g_strdup_printf(SYSBUS_DEVICE_GPIO_IRQ "[%u]",
                                                i);
        if (object_property_find(OBJECT(s), name)) { /* or it was here before */
            object_property_del(OBJECT(s), name);
        }
    }
    QLIST_FOREACH(list, &DEVICE(s)->gpios, node) {
        if (!g_strcmp0(list->name, SYSBUS_DEVICE_GPIO_IRQ)) {
            list->num_out = s->vectors;
        }
    }
}

static void ivshmem_flat_let_go(IvshmemFlat *s)
{
    ivshmem_flat_unmap_shmem(s);
    migrate_del_blocker(&s->migration_blocker);
}

static void ivshmem_flat_realize(DeviceState *dev, Error **errp)
{
    IvshmemFlat *s = IVSHMEM_FLAT(dev);
    SysBusDevice *sbd = SYS_BUS_DEVICE(dev);

    if (!ivshmem_flat_check_properties(s, errp)) {
        return;
    }
    if (!ivshmem_client_connect(&s->client, s->vectors,
                                s->iothread ?
                                iothread_get_aio_context(s->iothread) :
                                iohandler_get_aio_context(), errp)) {
        ivshmem_flat_let_go(s);
        return;
    }
    if (!ivshmem_flat_decide_master(s, errp)) {
        ivshmem_client_disconnect(&s->client);
        ivshmem_flat_let_go(s);
        return;
    }
    ivshmem_flat_remove_spare_outputs(s);
    ivshmem_flat_peer_registers_realize(s);
    if (ivshmem_flat_has_address(s->bus_address_iomem)) {
        sysbus_mmio_map(sbd, 0, s->bus_address_iomem);
    }
    if (ivshmem_flat_has_address(s->bus_address_shmem)) {
        sysbus_mmio_map(sbd, 1, s->bus_address_shmem);
    }
    s->machine_done.notify = ivshmem_flat_machine_done;
    qemu_add_machine_init_done_notifier(&s->machine_done);
}

static void ivshmem_flat_unrealize(DeviceState *dev)
{
    IvshmemFlat *s = IVSHMEM_FLAT(dev);

    qemu_remove_machine_init_done_notifier(&s->machine_done);
    s->any_wired = false;
    ivshmem_flat_peer_registers_unrealize(s);
    ivshmem_client_disconnect(&s->client);
    ivshmem_flat_let_go(s);
}

static void ivshmem_flat_init(Object *obj)
{
    IvshmemFlat *s = IVSHMEM_FLAT(obj);
    SysBusDevice *sbd = SYS_BUS_DEVICE(obj);

    s->bus_address_iomem = UINT64_MAX;
    s->bus_address_shmem = UINT64_MAX;
    ivshmem_client_init(&s->client, &ivshmem_flat_client_ops, s);
    memory_region_init_io(&s->iomem, obj, &ivshmem_flat_ops, s,
                          "ivshmem-flat-registers", IOMEM_SIZE);
    ivshmem_flat_peer_registers_init(s);
    memory_region_init(&s->shmem, obj, "ivshmem-flat-shmem", 0);
    sysbus_init_mmio(sbd, &s->iomem);
    sysbus_init_mmio(sbd, &s->shmem);
    for (unsigned i = 0; i < IVSHMEM_FLAT_MAX_VECTORS; i++) {
        sysbus_init_irq(sbd, &s->irq[i]);
    }
}

/* Properties */

static void ivshmem_flat_get_shmem_size(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp)
{
    uint64_t size = ivshmem_flat_get_size(IVSHMEM_FLAT(obj));

    visit_type_size(v, name, &size, errp);
}

static void ivshmem_flat_set_shmem_size(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp)
{
    uint64_t size;

    if (DEVICE(obj)->realized) {
        qdev_prop_set_after_realize(DEVICE(obj), name, errp);
        return;
    }
    if (!visit_type_size(v, name, &size, errp)) {
        return;
    }
    if (!size) {
        error_setg(errp, "shmem-size is 0, expected the size of the server's "
                   "shared memory");
        return;
    }
    IVSHMEM_FLAT(obj)->shmem_size = size;
}

static const Property ivshmem_flat_properties[] = {
    DEFINE_PROP_CHR("chardev", IvshmemFlat, client.chr),
    DEFINE_PROP_UINT32("vectors", IvshmemFlat, vectors, 1),
    DEFINE_PROP_UINT32("revision", IvshmemFlat, revision, 1),
    DEFINE_PROP_ON_OFF_AUTO("master", IvshmemFlat, master, ON_OFF_AUTO_OFF),
    DEFINE_PROP_LINK("iothread", IvshmemFlat, iothread, TYPE_IOTHREAD,
                     IOThread *),
    DEFINE_PROP_BOOL("peer-registers", IvshmemFlat, peer_registers.on, false),
    DEFINE_PROP_INT32("changes-vector", IvshmemFlat,
                      peer_registers.changes_vector, -1),
};

static int ivshmem_flat_post_load(void *opaque, int version_id)
{
    ivshmem_flat_update_irq(opaque);
    return 0;
}

/* Connection, id and peers are the destination's own. */
static const VMStateDescription ivshmem_flat_vmstate = {
    .name = TYPE_IVSHMEM_FLAT,
    .version_id = 1,
    .minimum_version_id = 1,
    .post_load = ivshmem_flat_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(intrmask, IvshmemFlat),
        VMSTATE_UINT32(intrstatus, IvshmemFlat),
        VMSTATE_END_OF_LIST()
    },
    .subsections = ivshmem_flat_peer_registers_vmstate,
};

static void ivshmem_flat_class_init(ObjectClass *klass,
                                    IvshmemFlatClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);
    static const char *const descriptions[][2] = {
        { "chardev", "Socket chardev that connects to an ivshmem server" },
        { "vectors", "Number of own vectors and of interrupt outputs" },
        { "revision", "Device revision, as in the ivshmem specification" },
        { "master", "Whether the shared memory's content migrates" },
        { "iothread", "IOThread that takes the interrupts of peers" },
        { "peer-registers", "Whether registers tell the guest of its peers" },
        { "changes-vector", "Vector that tells of peers that come and go" },
        { "shmem-size", "Size that the server's shared memory must have" },
    };

    dc->desc = "Inter-VM shared memory for machines without PCI";
    dc->realize = ivshmem_flat_realize;
    dc->unrealize = ivshmem_flat_unrealize;
    dc->vmsd = &ivshmem_flat_vmstate;
    rc->phases.enter = ivshmem_flat_reset_enter;
    rc->phases.hold = ivshmem_flat_reset_hold;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    device_class_set_props(dc, ivshmem_flat_properties);
    object_class_property_add(klass, "shmem-size", "size",
                              ivshmem_flat_get_shmem_size,
                              ivshmem_flat_set_shmem_size, NULL, NULL);
    ivshmem_flat_info_add_properties(klass);
    ivshmem_flat_user_add_properties(klass);
    for (unsigned i = 0; i < ARRAY_SIZE(descriptions); i++) {
        object_class_property_set_description(klass, descriptions[i][0],
                                              descriptions[i][1]);
    }
}

static const TypeInfo ivshmem_flat_types[] = {
    {
        .name = TYPE_IVSHMEM_FLAT,
        .parent = TYPE_DYNAMIC_SYS_BUS_DEVICE,
        .instance_size = sizeof(IvshmemFlat),
        .instance_init = ivshmem_flat_init,
        .class_init = ivshmem_flat_class_init,
    },
};

DEFINE_TYPES(ivshmem_flat_types)
