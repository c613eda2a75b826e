/*
 * The peer registers of ivshmem-flat: who is there?
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * What they tell is what has been read of the server's messages, see
 * hw/misc/ivshmem-peers.h. A peer whose announcement is still in the socket is
 * not seen yet, though it can be rung; CHANGES counts when it is. Its own
 * doorbell waits for that.
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qapi/error.h"
#include "hw/core/registerfields.h"
#include "hw/misc/ivshmem-flat.h"
#include "hw/misc/ivshmem-flat-peer-registers.h"
#include "system/runstate.h"
#include "trace.h"

/* Where the region is in the bank; the offsets are those in the bank. */
#define START 0x10
#define SIZE 0x20

REG32(FEATURES, 0x10)
    FIELD(FEATURES, PEER_REGISTERS, 0, 1)
REG32(VECTORS, 0x14)
REG32(CHANGES, 0x18)
REG32(SELECT, 0x1c)
REG32(NEXT, 0x20)
REG32(NEXT_VECTORS, 0x24)
REG32(SHMEM_SIZE, 0x28)

#define NEXT_NONE UINT32_MAX
#define SHMEM_SIZE_SHIFT 12     /* it is in pages of 4 KiB */

/* Nothing is told of what is hidden: the greeting may still go wrong. */

/* Own vectors that are there, and whose output is wired */
static uint32_t peer_registers_vectors(IvshmemPeers *peers)
{
    uint32_t n = 0;

    for (unsigned i = 0; !peers->is_hidden && i < peers->nvectors; i++) {
        n += peers->own[i].listens;
    }
    return n;
}

static uint32_t peer_registers_next(IvshmemFlat *s)
{
    IvshmemPeers *peers = &s->client.peers;
    unsigned id = IVSHMEM_MAX_PEERS;

    if (!peers->is_hidden) {
        id = ivshmem_peers_next(peers, s->peer_registers.select);
    }
    return id < IVSHMEM_MAX_PEERS ? id : NEXT_NONE;
}

static uint32_t peer_registers_next_vectors(IvshmemFlat *s)
{
    uint32_t id = peer_registers_next(s);

    return id == NEXT_NONE ? 0 : s->client.peers.others[id]->nvectors;
}

static uint64_t peer_registers_read(void *opaque, hwaddr offset, unsigned size)
{
    IvshmemFlat *s = opaque;
    uint32_t value = 0;

    offset += START;
    switch (offset & ~3) {
    case A_FEATURES:
        value = R_FEATURES_PEER_REGISTERS_MASK;
        break;
    case A_VECTORS:
        value = peer_registers_vectors(&s->client.peers);
        break;
    case A_CHANGES:
        value = s->client.peers.changes;
        break;
    case A_SELECT:
        value = s->peer_registers.select;
        break;
    case A_NEXT:
        value = peer_registers_next(s);
        break;
    case A_NEXT_VECTORS:
        value = peer_registers_next_vectors(s);
        break;
    case A_SHMEM_SIZE:
        value = memory_region_size(&s->shmem) >> SHMEM_SIZE_SHIFT;
        break;
    default:
        qemu_log_mask(LOG_GUEST_ERROR, "ivshmem-flat: read of the reserved "
                      "offset 0x%" HWADDR_PRIx "\n", offset);
        break;
    }
    value = extract32(value, (offset & 3) * 8, size * 8);
    trace_ivshmem_flat_peer_registers_read(offset, size, value);
    return value;
}

static void peer_registers_write(void *opaque, hwaddr offset, uint64_t value,
                                 unsigned size)
{
    IvshmemFlat *s = opaque;
    uint32_t *select = &s->peer_registers.select;

    offset += START;
    trace_ivshmem_flat_peer_registers_write(offset, size, value);
    if ((offset & ~3) == A_SELECT) {
        *select = deposit32(*select, (offset & 3) * 8, size * 8, value);
    } else {
        qemu_log_mask(LOG_GUEST_ERROR, "ivshmem-flat: write to the read-only "
                      "or reserved offset 0x%" HWADDR_PRIx "\n", offset);
    }
}

static const MemoryRegionOps peer_registers_ops = {
    .read = peer_registers_read,
    .write = peer_registers_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid.min_access_size = 1,
    .valid.max_access_size = 8,
    .impl.min_access_size = 1,
    .impl.max_access_size = 4,
};

/*
 * Several changes are several pulses, or one if they come close together, as
 * with doorbells. Nobody is told before the machine is done.
 */
void ivshmem_flat_peer_registers_changed(void *opaque)
{
    IvshmemFlat *s = opaque;
    int32_t vector = s->peer_registers.changes_vector;

    if (vector >= 0 && s->any_wired) {
        s->client.ops->interrupt(s, vector);
    }
}

/*
 * What was loaded is another machine's, and so were the peers: that is a
 * change, and an interrupt, as soon as all of this machine is there.
 */
static void peer_registers_vm_state(void *opaque, bool running, RunState state)
{
    IvshmemFlat *s = opaque;

    if (running && s->peer_registers.was_loaded) {
        s->peer_registers.was_loaded = false;
        s->client.peers.changes++;
        ivshmem_flat_peer_registers_changed(s);
    }
}

bool ivshmem_flat_peer_registers_check(IvshmemFlat *s, Error **errp)
{
    int32_t vector = s->peer_registers.changes_vector;

    if (vector < -1 || vector >= (int64_t)s->vectors) {
        error_setg(errp, "changes-vector is %" PRId32 ", expected 0 to %"
                   PRIu32 ", or -1 for none", vector, s->vectors - 1);
        return false;
    }
    if (vector >= 0 && !s->peer_registers.on) {
        error_setg(errp, "changes-vector is %" PRId32 " and peer-registers is "
                   "off, expected it to be on", vector);
        return false;
    }
    return true;
}

void ivshmem_flat_peer_registers_init(IvshmemFlat *s)
{
    memory_region_init_io(&s->peer_registers.mr, OBJECT(s),
                          &peer_registers_ops, s,
                          "ivshmem-flat-peer-registers", SIZE);
}

void ivshmem_flat_peer_registers_realize(IvshmemFlat *s)
{
    if (s->peer_registers.on) {
        memory_region_add_subregion(&s->iomem, START, &s->peer_registers.mr);
        ivshmem_peers_interrupt_in_order(&s->client.peers);
        s->peer_registers.vm_state =
            qemu_add_vm_change_state_handler(peer_registers_vm_state, s);
    }
}

void ivshmem_flat_peer_registers_unrealize(IvshmemFlat *s)
{
    if (s->peer_registers.on) {
        qemu_del_vm_change_state_handler(s->peer_registers.vm_state);
        memory_region_del_subregion(&s->iomem, &s->peer_registers.mr);
    }
}

void ivshmem_flat_peer_registers_reset(IvshmemFlat *s)
{
    s->peer_registers.select = 0;
}

/* A guest that has seen the registers may use them on the destination. */
static int peer_registers_pre_load(void *opaque)
{
    IvshmemFlat *s = opaque;

    if (!s->peer_registers.on) {
        error_report("ivshmem-flat: the machine that was saved has peer "
                     "registers, expected peer-registers=on");
        return -EINVAL;
    }
    return 0;
}

static int peer_registers_post_load(void *opaque, int version_id)
{
    IvshmemFlat *s = opaque;

    s->peer_registers.was_loaded = true;
    return 0;
}

static bool peer_registers_needed(void *opaque)
{
    IvshmemFlat *s = opaque;

    return s->peer_registers.on;
}

static const VMStateDescription peer_registers_vmstate = {
    .name = TYPE_IVSHMEM_FLAT "/peer-registers",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = peer_registers_needed,
    .pre_load = peer_registers_pre_load,
    .post_load = peer_registers_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(peer_registers.select, IvshmemFlat),
        VMSTATE_UINT32(client.peers.changes, IvshmemFlat),
        VMSTATE_END_OF_LIST()
    },
};

const VMStateDescription *const ivshmem_flat_peer_registers_vmstate[] = {
    &peer_registers_vmstate,
    NULL
};
