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
 * Choices where the specification leaves one:
 *  + Version and own ID come first and in that order, the shared memory any
 *    time after them: there are servers that tell of peers before it, and the
 *    PCI device takes that, too. Whatever a server sends is checked before it
 *    is used.
 *  + "Configured for interrupts" means that a board or the user has wired an
 *    output when the machine is done. Otherwise notification is off both
 *    ways and IVPosition reads 0.
 *  + Only a 32-bit store rings. A narrower one cannot name peer and vector.
 *  + The specification ignores a doorbell to a peer that is not connected.
 *    Connected means here: announced by the server, read by us or not. An ID
 *    that the server gives again is so the new peer's.
 *  + A peer's first IVSHMEM_FLAT_MAX_VECTORS vectors can be rung.
 *  + A server that comes back greets a device anew, with a new id, as if the
 *    device had been plugged into it then.
 *
 * Not modelled: memory without a server (ivshmem-plain).
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "chardev/char-socket.h"
#include "hw/core/cpu.h"
#include "hw/core/irq.h"
#include "hw/core/platform-bus.h"
#include "hw/core/qdev-properties.h"
#include "hw/core/qdev-properties-system.h"
#include "hw/core/registerfields.h"
#include "hw/misc/ivshmem-flat.h"
#include "hw/misc/unimp.h"
#include "io/task.h"
#include "migration/blocker.h"
#include "migration/misc.h"
#include "migration/vmstate.h"
#include "system/iothread.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "system/system.h"
#include "trace.h"

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/uio.h>

REG32(INTRMASK, 0x00)
REG32(INTRSTATUS, 0x04)
REG32(IVPOSITION, 0x08)
REG32(DOORBELL, 0x0c)
    FIELD(DOORBELL, VECTOR, 0, 16)
    FIELD(DOORBELL, PEER, 16, 16)

#define INTRSTATUS_PEER 1       /* revision 0: a peer's interrupt */

#define IOMEM_SIZE 0x100

#define PROTOCOL_VERSION 0
#define SHMEM_MESSAGE (-1)
#define MAX_PEERS (UINT16_MAX + 1)

/*
 * A bound on what a server can make QEMU allocate: its bitmaps of dirty
 * pages take up to 1/2730 of the memory's size.
 */
#define MAX_SHMEM_SIZE (64 * GiB)

/* Memory that starts inside a page of the guest would be slow, or no RAM. */
#define SHMEM_ALIGN (4 * KiB)

#define GREETING_MS 10000       /* the whole greeting, and the first batch */
#define QUIET_MS 250            /* ends the first batch */
#define LOOK_MS 1000            /* between looks for a server that is gone */

/* Each is reported once until the next greeting: a server may repeat itself. */
typedef enum IvshmemFlatBadMessage {
    BAD_ID,
    BAD_FD_COUNT,
    BAD_SHMEM,
    BAD_EVENTFD,
    BAD_NO_FDS,
    BAD_OWN_GONE,
    BAD_UNKNOWN_GONE,
    BAD_GREETING,
} IvshmemFlatBadMessage;

/* Doorbells */

/* Returns the peer's eventfd for @vector, or -1 if it is not known (yet). */
static int ivshmem_flat_find_vector(IvshmemFlat *s, unsigned peer,
                                    unsigned vector)
{
    if (s->is_early) {
        return -1; /* the greeting may still go wrong */
    }
    if (peer == s->id) {
        return vector < s->nvectors ? s->own[vector].receiver->eventfd : -1;
    }
    if (s->peers[peer] && vector < s->peers[peer]->nvectors) {
        return s->peers[peer]->vectors[vector];
    }
    return -1;
}

static void ivshmem_flat_drop_doorbell(IvshmemFlat *s, unsigned peer,
                                       unsigned vector, const char *reason)
{
    s->doorbells_dropped++;
    trace_ivshmem_flat_doorbell_dropped(peer, vector, reason);
}

/*
 * One look at an eventfd and, unless it is -1, at the server's socket. Returns
 * G_IO_OUT if one can write to the former, G_IO_IN if one can read from the
 * latter, or both.
 *
 * A write to a full counter may block, though we set O_NONBLOCK: it belongs to
 * the open file that all peers share, and each QEMU that joins clears it for a
 * moment. A full counter means that the interrupt is pending already.
 */
static unsigned ivshmem_flat_look(int eventfd, int socket)
{
    GPollFD pfds[] = {
        { .fd = eventfd, .events = G_IO_OUT },
        { .fd = socket, .events = G_IO_IN },
    };

    g_poll(pfds, socket >= 0 ? 2 : 1, 0);
    return pfds[0].revents | pfds[1].revents;
}

/* After a look at the eventfd. */
static void ivshmem_flat_ring(IvshmemFlat *s, int eventfd, unsigned ready,
                              unsigned peer, unsigned vector)
{
    static const uint64_t one = 1;

    if (!(ready & G_IO_OUT) ||
        RETRY_ON_EINTR(write(eventfd, &one, sizeof(one))) != sizeof(one)) {
        ivshmem_flat_drop_doorbell(s, peer, vector, "counter is full");
        return;
    }
    s->doorbells_sent++;
    trace_ivshmem_flat_doorbell_sent(peer, vector);
}

/* Bytes that the server has sent after its greeting and we have not read. */
static unsigned ivshmem_flat_unread(IvshmemFlat *s)
{
    int unread = 0;

    if (s->socket < 0 || ioctl(s->socket, FIONREAD, &unread) < 0) {
        return 0;
    }
    return unread;
}

/*
 * A kept doorbell goes to whoever has the id once all has been read that the
 * server had said when it was rung: that may bring a peer, take one away, or
 * both. What a socket holds is bounded, and the main loop reads it, so the wait
 * ends, even if the server goes on talking. Now it has been read up to @place.
 */
static void ivshmem_flat_retry_kept(IvshmemFlat *s, uint64_t place)
{
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, s->kept);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        unsigned peer = FIELD_EX32(GPOINTER_TO_UINT(key), DOORBELL, PEER);
        unsigned vector = FIELD_EX32(GPOINTER_TO_UINT(key), DOORBELL, VECTOR);
        int eventfd = ivshmem_flat_find_vector(s, peer, vector);
        IvshmemFlatKept *k = value;

        while (k->count && k->until <= place) {
            for (; k->count; k->count--) {
                if (eventfd < 0) {
                    ivshmem_flat_drop_doorbell(s, peer, vector,
                                               "not announced");
                } else {
                    ivshmem_flat_ring(s, eventfd,
                                      ivshmem_flat_look(eventfd, -1), peer,
                                      vector);
                }
            }
            k->until = k->later_until;
            k->count = k->later_count;
            k->later_count = 0;
        }
        if (!k->count) {
            g_hash_table_iter_remove(&iter);
        }
    }
}

/* Those behind the first to a vector wait together, until the last place. */
static void ivshmem_flat_keep_doorbell(IvshmemFlat *s, uint32_t doorbell,
                                       bool is_known, unsigned unread)
{
    unsigned peer = FIELD_EX32(doorbell, DOORBELL, PEER);
    unsigned vector = FIELD_EX32(doorbell, DOORBELL, VECTOR);
    gpointer key = GUINT_TO_POINTER(doorbell);
    uint64_t until = s->received + unread;
    IvshmemFlatKept *k = g_hash_table_lookup(s->kept, key);

    /* Those that are known are as many as there are eventfds. */
    if (!is_known && g_hash_table_size(s->kept) - !!k >=
                     IVSHMEM_FLAT_MAX_KEPT) {
        ivshmem_flat_drop_doorbell(s, peer, vector, "too many wait");
        return;
    }
    if (!k) {
        k = g_new0(IvshmemFlatKept, 1);
        k->until = until;
        g_hash_table_insert(s->kept, key, k);
    }
    if (k->until == until) {
        k->count++;
    } else {
        k->later_until = until;
        k->later_count++;
    }
    trace_ivshmem_flat_doorbell_kept(peer, vector);
}

static void ivshmem_flat_doorbell(IvshmemFlat *s, uint32_t value)
{
    unsigned peer = FIELD_EX32(value, DOORBELL, PEER);
    unsigned vector = FIELD_EX32(value, DOORBELL, VECTOR);
    unsigned ready = G_IO_IN, unread = 0;
    int eventfd;

    if (!s->any_wired) {
        ivshmem_flat_drop_doorbell(s, peer, vector,
                                   "interrupts are disabled");
        return;
    }
    eventfd = ivshmem_flat_find_vector(s, peer, vector);
    if (eventfd >= 0) {
        /* A server takes none of our own away. */
        ready = ivshmem_flat_look(eventfd, peer == s->id ? -1 : s->socket);
    }
    if (ready & G_IO_IN && vector < IVSHMEM_FLAT_MAX_VECTORS) {
        unread = ivshmem_flat_unread(s);
    }
    if (unread) {
        ivshmem_flat_keep_doorbell(s, value, eventfd >= 0, unread);
    } else if (eventfd >= 0) {
        ivshmem_flat_ring(s, eventfd, ready, peer, vector);
    } else {
        ivshmem_flat_drop_doorbell(s, peer, vector, "not connected");
    }
}

/* Interrupts */

/* Revision 0: the output is a level. */
static void ivshmem_flat_update_irq(IvshmemFlat *s)
{
    if (s->revision == 0) {
        qemu_set_irq(s->irq[0], (s->intrstatus & s->intrmask) != 0);
    }
}

/*
 * Empty the eventfd; return whether it was rung. Somebody else who has it, too,
 * may have emptied it since poll, and the read must not block.
 */
static bool ivshmem_flat_test_and_clear(IvshmemFlatReceiver *r)
{
    uint64_t count;
    struct iovec iov = { .iov_base = &count, .iov_len = sizeof(count) };
    ssize_t len = preadv2(r->eventfd, &iov, 1, -1, RWF_NOWAIT);

    if (len < 0 && errno == EOPNOTSUPP) {
        /* Linux before 5.8, where another reader can come in between. */
        GPollFD pfd = { .fd = r->eventfd, .events = G_IO_IN };

        if (g_poll(&pfd, 1, 0) == 1) {
            len = read(r->eventfd, &count, sizeof(count));
        }
    }
    return len == sizeof(count);
}

/* The eventfd was rung, and has been emptied. */
static void ivshmem_flat_interrupt(IvshmemFlatReceiver *r)
{
    IvshmemFlat *s;

    BQL_LOCK_GUARD();
    s = r->s;
    if (!s) {
        return;
    }
    s->own[r->vector].interrupts++;
    trace_ivshmem_flat_interrupt(r->vector);
    if (s->revision == 0) {
        s->intrstatus |= INTRSTATUS_PEER;
        ivshmem_flat_update_irq(s);
    } else {
        qemu_irq_pulse(s->irq[r->vector]);
    }
}

static void ivshmem_flat_eventfd_ready(void *opaque)
{
    IvshmemFlatReceiver *r = opaque;

    if (r->rung || ivshmem_flat_test_and_clear(r)) {
        r->rung = false;
        ivshmem_flat_interrupt(r);
    }
}

/*
 * From an IOThread that waits awake. What follows may be the handler for this
 * or, if the file descriptor's monitor has seen the doorbell too, as io_uring
 * can, the one that reads.
 */
static bool ivshmem_flat_eventfd_poll(void *opaque)
{
    IvshmemFlatReceiver *r = opaque;

    r->rung = r->rung || ivshmem_flat_test_and_clear(r);
    return r->rung;
}

/* Once the machine is done: an output without a wire is off. */
static void ivshmem_flat_serve_vector(IvshmemFlat *s, unsigned vector)
{
    IvshmemFlatReceiver *r = s->own[vector].receiver;

    if (s->own[vector].wired) {
        aio_set_fd_handler(s->ctx, r->eventfd, ivshmem_flat_eventfd_ready, NULL,
                           ivshmem_flat_eventfd_poll,
                           ivshmem_flat_eventfd_ready, r);
    }
}

static void ivshmem_flat_machine_done(Notifier *notifier, void *data)
{
    IvshmemFlat *s = container_of(notifier, IvshmemFlat, machine_done);
    g_autofree char *path = object_get_canonical_path(OBJECT(s));
    g_autoptr(GString) off = g_string_new(NULL);

    for (unsigned i = 0; i < s->vectors; i++) {
        s->own[i].wired = sysbus_is_irq_connected(SYS_BUS_DEVICE(s), i);
        s->any_wired |= s->own[i].wired;
        if (!s->own[i].wired) {
            g_string_append_printf(off, "%s%u", off->len ? ", " : "", i);
        }
        if (i < s->nvectors) {
            ivshmem_flat_serve_vector(s, i);
        }
    }
    trace_ivshmem_flat_interrupts(s->any_wired);
    if (!s->any_wired) {
        warn_report("%s: interrupts are disabled, no interrupt input is "
                    "wired; x-irq-qompath=PATH wires one, 'info qom-tree' "
                    "lists the paths", path);
    } else if (off->len) {
        warn_report("%s: vectors without an interrupt input are off: %s; "
                    "sysbus-irq[N]=PATH wires one, 'info qom-tree' lists the "
                    "paths", path, off->str);
    }
}

/* Registers */

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
        value = s->any_wired ? s->id : 0;
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
}

static void ivshmem_flat_reset_hold(Object *obj, ResetType type)
{
    ivshmem_flat_update_irq(IVSHMEM_FLAT(obj));
}

/* Places on the bus */

/* A placeholder, or this device, which stays mapped when it is unrealized. */
static bool ivshmem_flat_may_cover(IvshmemFlat *s, MemoryRegion *mr)
{
    Object *owner = memory_region_owner(mr);

    return owner == OBJECT(s) ||
           object_dynamic_cast(owner, TYPE_UNIMPLEMENTED_DEVICE);
}

/* The first section in the way, with a reference to its mr; or with none. */
static MemoryRegionSection
ivshmem_flat_find_obstacle(IvshmemFlat *s, AddressSpace *as, hwaddr addr,
                           hwaddr end)
{
    while (addr < end) {
        MemoryRegionSection found = memory_region_find(as->root, addr,
                                                       end - addr);

        if (!found.mr || !ivshmem_flat_may_cover(s, found.mr)) {
            return found;
        }
        memory_region_unref(found.mr);
        addr = found.offset_within_address_space + int128_get64(found.size);
    }
    return (MemoryRegionSection) {};
}

static bool ivshmem_flat_check_free(IvshmemFlat *s, AddressSpace *as,
                                    const char *property, hwaddr addr,
                                    uint64_t size, Error **errp)
{
    MemoryRegionSection found = ivshmem_flat_find_obstacle(s, as, addr,
                                                           addr + size);
    hwaddr start = found.offset_within_address_space;
    g_autofree char *path = NULL;
    Object *owner;

    if (!found.mr) {
        return true;
    }
    owner = memory_region_owner(found.mr);
    path = owner ? object_get_canonical_path(owner) : NULL;
    error_setg(errp, "%s: 0x%" HWADDR_PRIx "-0x%" HWADDR_PRIx
               " is not free, '%s'%s%s has 0x%" HWADDR_PRIx "-0x%"
               HWADDR_PRIx, property, addr, addr + size - 1,
               memory_region_name(found.mr), path ? " of " : "", path ?: "",
               start, start + int128_get64(found.size) - 1);
    memory_region_unref(found.mr);
    return false;
}

/* Check that the range exists, and that no CPU sees anything there. */
static bool ivshmem_flat_check_range(IvshmemFlat *s, const char *property,
                                     hwaddr addr, uint64_t size, Error **errp)
{
    CPUState *cpu;

    if (addr > UINT64_MAX - size) {
        error_setg(errp, "%s: 0x%" HWADDR_PRIx " leaves no room for 0x%" PRIx64
                   " bytes", property, addr, size);
        return false;
    }
    CPU_FOREACH(cpu) {
        for (int i = 0; i <= IVSHMEM_FLAT_LAST_AS(cpu); i++) {
            AddressSpace *as = cpu_get_address_space(cpu, i);

            if (as && !ivshmem_flat_check_free(s, as, property, addr, size,
                                               errp)) {
                return false;
            }
        }
    }
    return true;
}

static bool ivshmem_flat_has_address(IvshmemFlat *s)
{
    return s->bus_address_iomem != UINT64_MAX;
}

/* Check both places, now that the size of the memory is known. */
static bool ivshmem_flat_check_places(IvshmemFlat *s, uint64_t shmem_size,
                                      Error **errp)
{
    hwaddr iomem = s->bus_address_iomem;
    hwaddr shmem = s->bus_address_shmem;

    if (!ivshmem_flat_has_address(s) || s->memory) { /* or: we are there */
        return true;
    }
    if (!ivshmem_flat_check_range(s, "x-bus-address-iomem", iomem, IOMEM_SIZE,
                                  errp) ||
        !ivshmem_flat_check_range(s, "x-bus-address-shmem", shmem, shmem_size,
                                  errp)) {
        return false;
    }
    if (iomem < shmem + shmem_size && shmem < iomem + IOMEM_SIZE) {
        error_setg(errp, "x-bus-address-iomem: 0x%" HWADDR_PRIx
                   " is inside the shared memory at 0x%" HWADDR_PRIx "-0x%"
                   HWADDR_PRIx, iomem, shmem, shmem + shmem_size - 1);
        return false;
    }
    return true;
}

/* Peers, and the own vectors that the server gave along with them */

static void ivshmem_flat_free_peer(IvshmemFlat *s, unsigned id)
{
    IvshmemFlatPeer *peer = g_steal_pointer(&s->peers[id]);

    for (unsigned i = 0; peer && i < peer->nvectors; i++) {
        close(peer->vectors[i]);
    }
    g_free(peer);
}

/* In the thread that serves it, which so has left its handler. */
static void ivshmem_flat_free_receiver(void *opaque)
{
    IvshmemFlatReceiver *r = opaque;

    aio_set_fd_handler(r->ctx, r->eventfd, NULL, NULL, NULL, NULL, NULL);
    close(r->eventfd);
    g_free(r);
}

/*
 * In the IOThread, its handler may just wait for the BQL, or be called once
 * more. It will find that nobody is interested.
 */
static void ivshmem_flat_forget_receiver(IvshmemFlat *s,
                                         IvshmemFlatReceiver *r)
{
    r->s = NULL;
    aio_bh_schedule_oneshot(s->ctx, ivshmem_flat_free_receiver, r);
}

static void ivshmem_flat_forget_peers(IvshmemFlat *s)
{
    while (s->nvectors) {
        IvshmemFlatVector *v = &s->own[--s->nvectors];

        ivshmem_flat_forget_receiver(s, g_steal_pointer(&v->receiver));
    }
    for (unsigned i = 0; i < MAX_PEERS; i++) {
        ivshmem_flat_free_peer(s, i);
    }
}

/* The server's messages: shared memory */

static const char *ivshmem_flat_file_kind(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFIFO:
        return "a pipe";
    case S_IFSOCK:
        return "a socket";
    case S_IFDIR:
        return "a directory";
    case S_IFCHR:
        return "a character device";
    default:
        return "something else";
    }
}

static uint64_t ivshmem_flat_get_size(IvshmemFlat *s)
{
    return s->memory ? memory_region_size(&s->memory->ram) : s->shmem_size;
}

/* Check the object; returns its size, or 0 if it will not do. */
static uint64_t ivshmem_flat_check_shmem(IvshmemFlat *s, int fd, Error **errp)
{
    uint64_t page_size = qemu_real_host_page_size();
    /* a host of 32 bits cannot have more */
    uint64_t max_size = MIN(MAX_SHMEM_SIZE,
                            QEMU_ALIGN_DOWN(RAM_ADDR_MAX, page_size));
    uint64_t size = ivshmem_flat_get_size(s);
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "cannot examine the shared memory");
        return 0;
    }
    if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "server sent %s as shared memory, expected a regular "
                   "file", ivshmem_flat_file_kind(st.st_mode));
        return 0;
    }
    if ((flags & O_ACCMODE) != O_RDWR) {
        error_setg(errp, "server sent shared memory that is not open for "
                   "reading and writing, expected both");
        return 0;
    }
    if (st.st_size <= 0 || st.st_size > max_size ||
        st.st_size % page_size) {
        error_setg(errp, "server sent shared memory of %" PRId64 " bytes, "
                   "expected a multiple of the host's page size %" PRIu64
                   " up to %" PRIu64, (int64_t)st.st_size, page_size,
                   max_size);
        return 0;
    }
    if (size && size != st.st_size) {
        error_setg(errp, "server sent shared memory of %" PRId64 " bytes, "
                   "expected shmem-size %" PRIu64, (int64_t)st.st_size, size);
        return 0;
    }
    return st.st_size;
}

static void ivshmem_flat_unmap_shmem(IvshmemFlat *s)
{
    if (s->memory) {
        memory_region_del_subregion(&s->shmem, &s->memory->ram);
        vmstate_unregister_ram(&s->memory->ram, DEVICE(s));
        object_unref(g_steal_pointer(&s->memory));
    }
}

static bool ivshmem_flat_same_file(int a, int b)
{
    struct stat sa, sb;

    return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 &&
           sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/*
 * Put the server's object into the container, in place of the one that is
 * there. The guest sees either the one or the other. Takes @fd.
 */
static bool ivshmem_flat_map_shmem(IvshmemFlat *s, int fd, Error **errp)
{
    uint64_t size = ivshmem_flat_check_shmem(s, fd, errp);
    g_autofree char *path = object_get_canonical_path(OBJECT(s));
    /* unique, and the same when the same machine is started again */
    g_autofree char *name = g_strconcat("ivshmem-flat:", path, NULL);
    IvshmemFlatMemory *old = s->memory, *new;
    /* until realize is over, that is ivshmem_flat_decide_master()'s */
    bool migrates = DEVICE(s)->realized && s->master == ON_OFF_AUTO_ON;

    if (!size) {
        close(fd);
        return false;
    }
    if (old && ivshmem_flat_same_file(fd, memory_region_get_fd(&old->ram))) {
        close(fd);
        return true;
    }
    if (migrates && (migration_is_running() ||
                     migration_in_incoming_postcopy() ||
                     runstate_check(RUN_STATE_INMIGRATE))) {
        error_setg(errp, "server sent other shared memory during a migration, "
                   "expected the same");
        close(fd);
        return false;
    }
    new = IVSHMEM_FLAT_MEMORY(object_new(TYPE_IVSHMEM_FLAT_MEMORY));
    if (!ivshmem_flat_check_places(s, size, errp) ||
        !memory_region_init_ram_from_fd(&new->ram, OBJECT(new), name, size,
                                        RAM_SHARED, fd, 0, errp)) {
        close(fd);
        object_unref(new);
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

/* The server's messages: the greeting */

static bool ivshmem_flat_lacks_fds(IvshmemFlat *s)
{
    SocketChardev *sock = SOCKET_CHARDEV(qemu_chr_fe_get_driver(&s->chr));
    int fd = fcntl(sock->sioc->fd, F_DUPFD_CLOEXEC, 0);

    if (fd >= 0) {
        close(fd);
    }
    return fd < 0;
}

static uint64_t ivshmem_flat_max_fds(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) < 0 ? 0 : limit.rlim_cur;
}

static void ivshmem_flat_greeted(IvshmemFlat *s)
{
    SocketChardev *sock = SOCKET_CHARDEV(qemu_chr_fe_get_driver(&s->chr));

    if (!s->is_early) {
        /* They are there if the user, not the chardev, made the connection. */
        ivshmem_flat_forget_peers(s);
    }
    s->is_early = false;
    s->id = s->new_id;
    s->phase = IVSHMEM_FLAT_CONNECTED;
    s->socket = sock->sioc->fd;
    s->reported = 0;
    s->lost = 0;
    qemu_bh_cancel(s->lost_bh);
    timer_del(s->server_timer);
    for (unsigned i = 0; i < s->nvectors; i++) { /* those that came early */
        ivshmem_flat_serve_vector(s, i);
    }
    trace_ivshmem_flat_greeting(s->id, ivshmem_flat_get_size(s));
}

static const char *ivshmem_flat_expected(IvshmemFlatPhase phase)
{
    switch (phase) {
    case IVSHMEM_FLAT_AWAIT_VERSION:
        return "the protocol version";
    case IVSHMEM_FLAT_AWAIT_ID:
        return "the own id";
    default:
        return "the shared memory";
    }
}

static void ivshmem_flat_greeting(IvshmemFlat *s, int64_t value, int fd,
                                  unsigned nfds)
{
    unsigned expected_nfds = s->phase == IVSHMEM_FLAT_AWAIT_SHMEM ? 1 : 0;

    if (s->phase == IVSHMEM_FLAT_AWAIT_VERSION && value != PROTOCOL_VERSION) {
        error_setg(&s->greeting_error, "server sent protocol version %" PRId64
                   ", expected %d", value, PROTOCOL_VERSION);
    } else if (s->phase == IVSHMEM_FLAT_AWAIT_ID &&
               (value < 0 || value >= MAX_PEERS)) {
        error_setg(&s->greeting_error, "server sent own id %" PRId64
                   ", expected 0 to %d", value, MAX_PEERS - 1);
    } else if (nfds < expected_nfds && ivshmem_flat_lacks_fds(s)) {
        error_setg(&s->greeting_error, "the shared memory was lost for want "
                   "of file descriptors, the limit of open files (ulimit -n) "
                   "is %" PRIu64, ivshmem_flat_max_fds());
    } else if (nfds != expected_nfds) {
        error_setg(&s->greeting_error, "server sent %s with %u file "
                   "descriptors, expected %u",
                   ivshmem_flat_expected(s->phase), nfds, expected_nfds);
    } else if (s->phase == IVSHMEM_FLAT_AWAIT_VERSION) {
        s->phase = IVSHMEM_FLAT_AWAIT_ID;
    } else if (s->phase == IVSHMEM_FLAT_AWAIT_ID) {
        s->new_id = value;
        s->phase = IVSHMEM_FLAT_AWAIT_SHMEM;
    } else {
        if (ivshmem_flat_map_shmem(s, fd, &s->greeting_error)) {
            ivshmem_flat_greeted(s);
        }
        return;
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* A chardev with reconnect-ms tries again until the server is back. */
static bool ivshmem_flat_reconnects(IvshmemFlat *s)
{
    return SOCKET_CHARDEV(qemu_chr_fe_get_driver(&s->chr))->reconnect_time_ms;
}

/*
 * What keeps the chardev from connecting, as an errno; 0 if nothing does. A
 * socket of another type gets the same answers, and reaches no server.
 */
static int ivshmem_flat_connect_error(IvshmemFlat *s)
{
    UnixSocketAddress *sa =
        &SOCKET_CHARDEV(qemu_chr_fe_get_driver(&s->chr))->addr->u.q_unix;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int err, fd;

    if (sa->abstract) {
        return 0; /* it has no permissions */
    }
    fd = qemu_socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0) {
        return s->connect_error; /* one cannot tell now */
    }
    memcpy(addr.sun_path, sa->path, MIN(strlen(sa->path),
                                        sizeof(addr.sun_path)));
    err = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? errno : 0;
    close(fd);
    return err == EPROTOTYPE ? 0 : err;
}

/*
 * The chardev says why it cannot connect when it has tried, and not again: let
 * it, if something has changed since.
 */
static void ivshmem_flat_look_for_server(IvshmemFlat *s)
{
    int err = ivshmem_flat_connect_error(s);

    if (s->connect_error >= 0 && err != s->connect_error) {
        SOCKET_CHARDEV(qemu_chr_fe_get_driver(&s->chr))->connect_err_reported =
            false;
    }
    s->connect_error = err;
}

/*
 * From the timer, as QEMU frees the address before it tells of the end when it
 * leaves.
 */
static void ivshmem_flat_await_server(IvshmemFlat *s)
{
    s->connect_error = -1;
    if (ivshmem_flat_reconnects(s)) {
        timer_mod(s->server_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
    }
}

/*
 * The greeting of a server that has come back went wrong, or a server ended
 * in its greeting: report it once, the chardev will try again. All else at
 * start-up is realize's business.
 */
static void ivshmem_flat_greeting_failed(IvshmemFlat *s)
{
    if (s->is_early) {
        ivshmem_flat_forget_peers(s); /* of this very greeting */
        s->is_early = false;
    }
    s->phase = IVSHMEM_FLAT_DISCONNECTED;
    timer_del(s->server_timer);
    ivshmem_flat_await_server(s);
    if (s->reported & BIT(BAD_GREETING)) {
        error_free(s->greeting_error);
    } else {
        s->reported |= BIT(BAD_GREETING);
        error_reportf_err(s->greeting_error, "ivshmem-flat: chardev '%s': ",
                          qemu_chr_fe_get_driver(&s->chr)->label);
    }
    s->greeting_error = NULL;
}

static void ivshmem_flat_greeting_timeout(IvshmemFlat *s)
{
    error_setg(&s->greeting_error, "server sent %" PRIu64 " bytes in %d s, "
               "expected %s", s->received, GREETING_MS / 1000,
               ivshmem_flat_expected(s->phase));
    ivshmem_flat_greeting_failed(s);
    qemu_chr_fe_disconnect(&s->chr);
}

static void ivshmem_flat_server_timer(void *opaque)
{
    IvshmemFlat *s = opaque;

    if (s->phase == IVSHMEM_FLAT_DISCONNECTED) {
        ivshmem_flat_look_for_server(s);
        timer_mod(s->server_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LOOK_MS);
    } else {
        ivshmem_flat_greeting_timeout(s);
    }
}

/* The server's messages: peers that come and go */

static void G_GNUC_PRINTF(5, 6)
ivshmem_flat_bad_message(IvshmemFlat *s, IvshmemFlatBadMessage kind,
                         int64_t value, unsigned nfds, const char *fmt, ...)
{
    g_autofree char *why = NULL;
    va_list ap;

    va_start(ap, fmt);
    why = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace_ivshmem_flat_bad_message(value, nfds, why);
    if (s->phase == IVSHMEM_FLAT_AWAIT_SHMEM) {
        error_setg(&s->greeting_error, "server sent message %" PRId64 " with "
                   "%u file descriptors, expected %d with the shared memory: "
                   "%s", value, nfds, SHMEM_MESSAGE, why);
    } else if (!(s->reported & BIT(kind))) {
        s->reported |= BIT(kind);
        error_report("ivshmem-flat: ignored message %" PRId64 " with %u file "
                     "descriptors from chardev '%s': %s", value, nfds,
                     qemu_chr_fe_get_driver(&s->chr)->label, why);
    }
}

static bool ivshmem_flat_is_eventfd(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *target = g_file_read_link(link, NULL);

    return target && g_str_equal(target, "anon_inode:[eventfd]");
}

/*
 * From the main loop, so that at start-up it tells of all that were lost until
 * the machine starts. What was lost would have come on top of the limit.
 */
static void ivshmem_flat_report_lost(void *opaque)
{
    IvshmemFlat *s = opaque;
    uint64_t max_fds = ivshmem_flat_max_fds();

    error_report("ivshmem-flat: %u eventfds from chardev '%s' were lost for "
                 "want of file descriptors, or their peers are gone: the limit "
                 "of open files (ulimit -n) is %" PRIu64 ", expected %" PRIu64
                 " or more", s->lost,
                 qemu_chr_fe_get_driver(&s->chr)->label, max_fds,
                 max_fds + s->lost);
}

/* The message of an eventfd looks like the end of its peer, and is taken so. */
static void ivshmem_flat_eventfd_lost(IvshmemFlat *s, unsigned id)
{
    trace_ivshmem_flat_bad_message(id, 0, "no file descriptors are left");
    if (s->phase == IVSHMEM_FLAT_AWAIT_SHMEM) {
        error_setg(&s->greeting_error, "peer %u: its eventfd was lost for want "
                   "of file descriptors, the limit of open files (ulimit -n) "
                   "is %" PRIu64, id, ivshmem_flat_max_fds());
        return;
    }
    s->lost += 1 + (s->peers[id] ? s->peers[id]->nvectors : 0);
    if (!(s->reported & BIT(BAD_NO_FDS))) {
        s->reported |= BIT(BAD_NO_FDS);
        qemu_bh_schedule(s->lost_bh);
    }
}

/* The server says so by a message without an eventfd. */
static void ivshmem_flat_peer_gone(IvshmemFlat *s, unsigned id)
{
    if (ivshmem_flat_lacks_fds(s)) {
        ivshmem_flat_eventfd_lost(s, id);
    } else if (id == s->new_id) {
        ivshmem_flat_bad_message(s, BAD_OWN_GONE, id, 0,
                                 "it is the own id, expected an eventfd");
    } else if (!s->peers[id] &&
               (s->nvectors || s->phase == IVSHMEM_FLAT_AWAIT_SHMEM)) {
        /* A server without vectors announces no peer, only its end later. */
        ivshmem_flat_bad_message(s, BAD_UNKNOWN_GONE, id, 0,
                                 "peer is gone that never came");
    }
    if (s->peers[id]) {
        trace_ivshmem_flat_peer_gone(id, s->peers[id]->nvectors);
        ivshmem_flat_free_peer(s, id);
    }
}

/* Takes @fd. */
static void ivshmem_flat_own_vector(IvshmemFlat *s, int fd)
{
    unsigned vector = s->nvectors;
    IvshmemFlatReceiver *r;

    if (vector == s->vectors) {
        trace_ivshmem_flat_extra_vector(s->new_id, vector);
        close(fd);
        return;
    }
    r = g_new0(IvshmemFlatReceiver, 1);
    r->ctx = s->ctx;
    r->eventfd = fd;
    r->vector = vector;
    r->s = s;
    s->own[vector].receiver = r;
    s->nvectors++;
    trace_ivshmem_flat_own_vector(vector, fd);
    if (s->phase == IVSHMEM_FLAT_CONNECTED) {
        ivshmem_flat_serve_vector(s, vector);
    }
}

/* Takes @fd. */
static void ivshmem_flat_peer_vector(IvshmemFlat *s, unsigned id, int fd)
{
    IvshmemFlatPeer *peer = s->peers[id];
    unsigned vector = peer ? peer->nvectors : 0;

    if (vector == IVSHMEM_FLAT_MAX_VECTORS) {
        trace_ivshmem_flat_extra_vector(id, vector);
        close(fd);
        return;
    }
    peer = g_realloc(peer, sizeof(*peer) +
                           (vector + 1) * sizeof(peer->vectors[0]));
    peer->nvectors = vector + 1;
    peer->vectors[vector] = fd;
    s->peers[id] = peer;
    trace_ivshmem_flat_peer_vector(id, vector, fd);
}

static void ivshmem_flat_peer_message(IvshmemFlat *s, int64_t value, int fd,
                                      unsigned nfds)
{
    if (nfds > 1) {
        ivshmem_flat_bad_message(s, BAD_FD_COUNT, value, nfds,
                                 "expected at most one");
    } else if (value == SHMEM_MESSAGE) {
        ivshmem_flat_bad_message(s, BAD_SHMEM, value, nfds,
                                 "the shared memory is there already");
    } else if (value < 0 || value >= MAX_PEERS) {
        ivshmem_flat_bad_message(s, BAD_ID, value, nfds,
                                 "expected an id from 0 to %d", MAX_PEERS - 1);
    } else if (!nfds) {
        ivshmem_flat_peer_gone(s, value);
    } else if (!s->msg_fd_is_eventfd) {
        ivshmem_flat_bad_message(s, BAD_EVENTFD, value, nfds,
                                 "expected an eventfd");
    } else if (value == s->new_id) {
        ivshmem_flat_own_vector(s, fd);
        return;
    } else {
        ivshmem_flat_peer_vector(s, value, fd);
        return;
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* A peer ahead of the memory: these take the place of an old server's. */
static void ivshmem_flat_early_message(IvshmemFlat *s, int64_t value, int fd,
                                       unsigned nfds)
{
    if (!s->is_early) {
        ivshmem_flat_forget_peers(s);
        s->is_early = true;
    }
    ivshmem_flat_peer_message(s, value, fd, nfds);
}

/* The chardev */

static int ivshmem_flat_can_receive(void *opaque)
{
    IvshmemFlat *s = opaque;

    if (s->phase == IVSHMEM_FLAT_DISCONNECTED || s->greeting_error) {
        return 0;
    }
    /* One message at a time, or fds could not be told apart. */
    return sizeof(s->msg) - s->msg_len;
}

/*
 * The chardev makes each fd that it receives block, for all who share the open
 * file: peers that read an eventfd until it is empty would hang.
 */
static void ivshmem_flat_collect_fds(IvshmemFlat *s)
{
    int fds[TCP_MAX_FDS];
    int n = qemu_chr_fe_get_msgfds(&s->chr, fds, ARRAY_SIZE(fds));

    for (int i = 0; i < n; i++) {
        bool is_eventfd = ivshmem_flat_is_eventfd(fds[i]);

        if (is_eventfd) {
            qemu_set_blocking(fds[i], false, NULL);
        }
        if (s->msg_nfds++ == 0) {
            s->msg_fd = fds[i];
            s->msg_fd_is_eventfd = is_eventfd;
        } else {
            close(fds[i]);
        }
    }
}

/* A message is complete. */
static void ivshmem_flat_message(IvshmemFlat *s)
{
    int64_t value = ldq_le_p(s->msg);
    unsigned nfds = s->msg_nfds;
    int fd = s->msg_fd;

    s->msg_len = 0;
    s->msg_fd = -1;
    s->msg_nfds = 0;
    if (s->phase == IVSHMEM_FLAT_CONNECTED) {
        ivshmem_flat_peer_message(s, value, fd, nfds);
    } else if (s->phase == IVSHMEM_FLAT_AWAIT_SHMEM && value != SHMEM_MESSAGE) {
        ivshmem_flat_early_message(s, value, fd, nfds);
    } else {
        ivshmem_flat_greeting(s, value, fd, nfds);
    }
    if (s->greeting_error && DEVICE(s)->realized) {
        ivshmem_flat_greeting_failed(s);
        qemu_chr_fe_disconnect(&s->chr);
    }
}

static void ivshmem_flat_receive(void *opaque, const uint8_t *buf, int size)
{
    IvshmemFlat *s = opaque;

    assert(size <= ivshmem_flat_can_receive(s));
    memcpy(s->msg + s->msg_len, buf, size);
    s->msg_len += size;
    s->received += size;
    ivshmem_flat_collect_fds(s);
    if (s->msg_len == sizeof(s->msg)) {
        /* Some were rung when not all of this message was there. */
        ivshmem_flat_retry_kept(s, s->received - 1);
        ivshmem_flat_message(s);
    }
    ivshmem_flat_retry_kept(s, s->received);
}

static void ivshmem_flat_drop_message(IvshmemFlat *s)
{
    if (s->msg_fd >= 0) {
        close(s->msg_fd);
    }
    s->msg_len = 0;
    s->msg_fd = -1;
    s->msg_nfds = 0;
}

static void ivshmem_flat_connected(IvshmemFlat *s)
{
    if (s->phase == IVSHMEM_FLAT_DISCONNECTED) {
        s->phase = IVSHMEM_FLAT_AWAIT_VERSION;
        s->received = 0;
        timer_mod(s->server_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + GREETING_MS);
    }
}

/*
 * From the main loop, because that does not turn any more when QEMU leaves and
 * closes its chardevs.
 */
static void ivshmem_flat_report_gone(void *opaque)
{
    IvshmemFlat *s = opaque;

    warn_report("ivshmem-flat: the server at chardev '%s' is gone, %s",
                qemu_chr_fe_get_driver(&s->chr)->label,
                ivshmem_flat_reconnects(s) ?
                "waiting for it to come back" :
                "going on with the peers that are known");
}

static void ivshmem_flat_disconnected(IvshmemFlat *s)
{
    ivshmem_flat_drop_message(s);
    switch (s->phase) {
    case IVSHMEM_FLAT_DISCONNECTED:
        return;
    case IVSHMEM_FLAT_CONNECTED:
        s->phase = IVSHMEM_FLAT_DISCONNECTED;
        s->socket = -1;
        ivshmem_flat_retry_kept(s, UINT64_MAX);
        trace_ivshmem_flat_server_gone();
        qemu_bh_schedule(s->gone_bh);
        if (ivshmem_flat_reconnects(s)) {
            ivshmem_flat_await_server(s);
            /* The next server will give everybody another id. */
            ivshmem_flat_forget_peers(s);
            if (!DEVICE(s)->realized) {
                /* And it may have an object of another size. */
                ivshmem_flat_unmap_shmem(s);
            }
        }
        return;
    default:
        if (s->greeting_error) { /* realize is about to report it */
            return;
        }
        error_setg(&s->greeting_error, "server closed the connection after %"
                   PRIu64 " bytes, expected %s", s->received,
                   ivshmem_flat_expected(s->phase));
        if (DEVICE(s)->realized || ivshmem_flat_reconnects(s)) {
            ivshmem_flat_greeting_failed(s);
        }
        return;
    }
}

static void ivshmem_flat_event(void *opaque, QEMUChrEvent event)
{
    switch (event) {
    case CHR_EVENT_CLOSED:
        ivshmem_flat_disconnected(opaque);
        break;
    case CHR_EVENT_OPENED:
        ivshmem_flat_connected(opaque);
        break;
    case CHR_EVENT_BREAK:
    case CHR_EVENT_MUX_IN:
    case CHR_EVENT_MUX_OUT:
        break;
    }
}

static void ivshmem_flat_set_handlers(IvshmemFlat *s, GMainContext *context)
{
    qemu_chr_fe_set_handlers(&s->chr, ivshmem_flat_can_receive,
                             ivshmem_flat_receive, ivshmem_flat_event, NULL,
                             s, context, true);
}

static gboolean ivshmem_flat_timeout(void *opaque)
{
    return G_SOURCE_REMOVE;
}

/* Wait for events of @context until @deadline in us of the monotonic clock. */
static void ivshmem_flat_iterate(GMainContext *context, int64_t deadline)
{
    int64_t us = MAX(deadline - g_get_monotonic_time(), 0);
    GSource *timer = g_timeout_source_new(DIV_ROUND_UP(us, 1000));

    g_source_set_callback(timer, ivshmem_flat_timeout, NULL, NULL);
    g_source_attach(timer, context);
    g_main_context_iteration(context, true);
    g_source_destroy(timer);
    g_source_unref(timer);
}

static bool ivshmem_flat_recv_greeting(IvshmemFlat *s, GMainContext *context,
                                       Error **errp)
{
    int64_t deadline = g_get_monotonic_time() + GREETING_MS * 1000;

    while (s->phase < IVSHMEM_FLAT_CONNECTED && !s->greeting_error) {
        if (g_get_monotonic_time() >= deadline) {
            error_setg(&s->greeting_error, "server sent %" PRIu64 " bytes in "
                       "%d s, expected %s", s->received, GREETING_MS / 1000,
                       ivshmem_flat_expected(s->phase));
            break;
        }
        ivshmem_flat_iterate(context, deadline);
    }
    if (s->greeting_error) {
        error_propagate_prepend(errp, g_steal_pointer(&s->greeting_error),
                                "chardev '%s': ",
                                qemu_chr_fe_get_driver(&s->chr)->label);
        return false;
    }
    return true;
}

/*
 * The peers' eventfds come after the greeting, our own last. A guest may ring
 * in its first instruction, so read them before the machine starts: until an
 * own one came and the socket is empty, or nothing comes.
 */
static void ivshmem_flat_recv_first_batch(IvshmemFlat *s,
                                          GMainContext *context)
{
    int64_t deadline = g_get_monotonic_time() + GREETING_MS * 1000;
    int64_t quiet = g_get_monotonic_time() + QUIET_MS * 1000;
    uint64_t received = s->received;

    while (s->phase == IVSHMEM_FLAT_CONNECTED &&
           g_get_monotonic_time() < MIN(deadline, quiet) &&
           !(s->nvectors && !ivshmem_flat_unread(s))) {
        ivshmem_flat_iterate(context, MIN(deadline, quiet));
        if (s->received != received) {
            received = s->received;
            quiet = g_get_monotonic_time() + QUIET_MS * 1000;
        }
    }
}

/* As when the last connection ended while the device was not realized. */
static bool ivshmem_flat_reconnects_elsewhere(SocketChardev *sock,
                                              GMainContext *context)
{
    GSource *timer = sock->reconnect_timer;

    return timer && g_source_get_context(timer) != context;
}

/* Wait as long as it takes, if the user has asked for that. */
static bool ivshmem_flat_wait_for_server(IvshmemFlat *s, GMainContext *context,
                                         Error **errp)
{
    Chardev *chr = qemu_chr_fe_get_driver(&s->chr);
    SocketChardev *sock = SOCKET_CHARDEV(chr);

    /* Before the chardev complains, as the user may mend it at once. */
    s->connect_error = -1;
    ivshmem_flat_look_for_server(s);
    if (sock->connect_task) {
        /* It was begun in the main context, which does not run yet. */
        qio_task_wait_thread(sock->connect_task);
    }
    if (s->phase != IVSHMEM_FLAT_DISCONNECTED) {
        return true;
    }
    if (!ivshmem_flat_reconnects(s)) {
        error_setg(errp, "chardev '%s' is not connected", chr->label);
        return false;
    }
    if (!(s->reported & BIT(BAD_GREETING))) { /* or it said so then */
        info_report("ivshmem-flat: waiting for a server at chardev '%s'",
                    chr->label);
    }
    if (ivshmem_flat_reconnects_elsewhere(sock, context) &&
        qemu_chr_wait_connected(chr, errp) < 0) {
        return false;
    }
    while (s->phase == IVSHMEM_FLAT_DISCONNECTED) {
        ivshmem_flat_look_for_server(s);
        g_main_context_iteration(context, true);
    }
    return true;
}

static bool ivshmem_flat_connect(IvshmemFlat *s, Error **errp)
{
    g_autoptr(GMainContext) context = g_main_context_new();
    bool ok;

    ivshmem_flat_set_handlers(s, context);
    do {
        ok = ivshmem_flat_wait_for_server(s, context, errp) &&
             ivshmem_flat_recv_greeting(s, context, errp);
        if (ok) {
            ivshmem_flat_recv_first_batch(s, context);
        }
        /* A server that is gone again is waited for in this context, too. */
    } while (ok && s->phase == IVSHMEM_FLAT_DISCONNECTED &&
             ivshmem_flat_reconnects(s));
    /* The chardev must let go of the context before that goes. */
    ivshmem_flat_set_handlers(s, NULL);
    return ok;
}

/* The device */

static bool ivshmem_flat_check_chardev(IvshmemFlat *s, Error **errp)
{
    Chardev *chr;

    if (!qemu_chr_fe_backend_connected(&s->chr)) {
        error_setg(errp, "property 'chardev' is not set, expected the id of a "
                   "socket chardev that connects to an ivshmem server");
        return false;
    }
    chr = qemu_chr_fe_get_driver(&s->chr);
    if (!object_dynamic_cast(OBJECT(chr), TYPE_CHARDEV_SOCKET) ||
        !qemu_chr_has_feature(chr, QEMU_CHAR_FEATURE_FD_PASS)) {
        error_setg(errp, "chardev '%s' is a %s, expected a UNIX socket that "
                   "connects to an ivshmem server", chr->label,
                   object_get_typename(OBJECT(chr)));
        return false;
    }
    if (SOCKET_CHARDEV(chr)->is_listen) {
        error_setg(errp, "chardev '%s' listens, expected one that connects to "
                   "an ivshmem server (server=off)", chr->label);
        return false;
    }
    return true;
}

static bool ivshmem_flat_check_address(const char *property, uint64_t addr,
                                       uint64_t align, Error **errp)
{
    if (addr % align) {
        error_setg(errp, "%s: 0x%" PRIx64 " is not aligned, expected a "
                   "multiple of 0x%" PRIx64, property, addr, align);
        return false;
    }
    return true;
}

static bool ivshmem_flat_check_addresses(IvshmemFlat *s, Error **errp)
{
    bool has_iomem = s->bus_address_iomem != UINT64_MAX;
    bool has_shmem = s->bus_address_shmem != UINT64_MAX;
    bool platform_bus_is_ambiguous = false;
    /* KVM maps in pages of the host */
    uint64_t align = MAX(SHMEM_ALIGN, qemu_real_host_page_size());

    if (has_iomem != has_shmem) {
        error_setg(errp, "%s is set and %s is not, expected both or neither",
                   has_iomem ? "x-bus-address-iomem" : "x-bus-address-shmem",
                   has_iomem ? "x-bus-address-shmem" : "x-bus-address-iomem");
        return false;
    }
    if (has_iomem) {
        return ivshmem_flat_check_address("x-bus-address-iomem",
                                          s->bus_address_iomem, 4, errp) &&
               ivshmem_flat_check_address("x-bus-address-shmem",
                                          s->bus_address_shmem, align,
                                          errp);
    }
    /* A board places its own devices; who places one of the user's? */
    if (phase_check(PHASE_MACHINE_INITIALIZED) &&
        !object_resolve_path_type("", TYPE_PLATFORM_BUS_DEVICE,
                                  &platform_bus_is_ambiguous) &&
        !platform_bus_is_ambiguous) {
        error_setg(errp, "x-bus-address-iomem and x-bus-address-shmem are not "
                   "set, expected both: this machine cannot place the device");
        return false;
    }
    return true;
}

/*
 * As in the PCI device: the first on a server may take the memory along.
 * Without that the memory has no name in a stream, so none can overwrite it.
 */
static bool ivshmem_flat_decide_master(IvshmemFlat *s, Error **errp)
{
    if (s->master == ON_OFF_AUTO_AUTO) {
        s->master = s->id == 0 ? ON_OFF_AUTO_ON : ON_OFF_AUTO_OFF;
    }
    if (s->master == ON_OFF_AUTO_ON) {
        if (s->id != 0) {
            error_setg(errp, "master=on with own id %u, expected 0: the "
                       "master connects before its peers, or it would "
                       "overwrite the memory that they use", s->id);
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
                   "that peers use", s->id);
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
    return ivshmem_flat_check_addresses(s, errp) &&
           ivshmem_flat_check_chardev(s, errp);
}

/* Undo ivshmem_flat_connect(), however far it came. */
static void ivshmem_flat_disconnect(IvshmemFlat *s)
{
    ivshmem_flat_retry_kept(s, UINT64_MAX);
    qemu_chr_fe_set_handlers(&s->chr, NULL, NULL, NULL, NULL, NULL, NULL,
                             true);
    if (qemu_chr_fe_backend_open(&s->chr)) {
        /* A greeting comes once, and peers shall see us go. */
        qemu_chr_fe_disconnect(&s->chr);
    }
    s->phase = IVSHMEM_FLAT_DISCONNECTED;
    s->socket = -1;
    s->is_early = false;
    s->reported = 0;
    ivshmem_flat_drop_message(s);
    g_clear_pointer(&s->kept, g_hash_table_unref);
    ivshmem_flat_forget_peers(s);
    g_free(g_steal_pointer(&s->peers));
    timer_free(g_steal_pointer(&s->server_timer));
    qemu_bh_delete(g_steal_pointer(&s->gone_bh));
    qemu_bh_delete(g_steal_pointer(&s->lost_bh));
    ivshmem_flat_unmap_shmem(s);
    migrate_del_blocker(&s->migration_blocker);
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

static void ivshmem_flat_realize(DeviceState *dev, Error **errp)
{
    IvshmemFlat *s = IVSHMEM_FLAT(dev);
    SysBusDevice *sbd = SYS_BUS_DEVICE(dev);

    if (!ivshmem_flat_check_properties(s, errp)) {
        return;
    }
    s->ctx = s->iothread ? iothread_get_aio_context(s->iothread)
                         : iohandler_get_aio_context();
    s->peers = g_new0(IvshmemFlatPeer *, MAX_PEERS);
    s->kept = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    s->server_timer = timer_new_ms(QEMU_CLOCK_REALTIME,
                                   ivshmem_flat_server_timer, s);
    s->gone_bh = qemu_bh_new_guarded(ivshmem_flat_report_gone, s,
                                     &dev->mem_reentrancy_guard);
    s->lost_bh = qemu_bh_new_guarded(ivshmem_flat_report_lost, s,
                                     &dev->mem_reentrancy_guard);
    if (!ivshmem_flat_connect(s, errp) ||
        !ivshmem_flat_decide_master(s, errp)) {
        ivshmem_flat_disconnect(s);
        return;
    }
    ivshmem_flat_remove_spare_outputs(s);
    if (ivshmem_flat_has_address(s)) {
        sysbus_mmio_map(sbd, 0, s->bus_address_iomem);
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
    ivshmem_flat_disconnect(s);
}

static void ivshmem_flat_init(Object *obj)
{
    IvshmemFlat *s = IVSHMEM_FLAT(obj);
    SysBusDevice *sbd = SYS_BUS_DEVICE(obj);

    s->phase = IVSHMEM_FLAT_DISCONNECTED;
    s->socket = -1;
    s->msg_fd = -1;
    memory_region_init_io(&s->iomem, obj, &ivshmem_flat_ops, s,
                          "ivshmem-flat-registers", IOMEM_SIZE);
    memory_region_init(&s->shmem, obj, "ivshmem-flat-shmem", 0);
    sysbus_init_mmio(sbd, &s->iomem);
    sysbus_init_mmio(sbd, &s->shmem);
    object_property_add_uint16_ptr(obj, "id", &s->id, OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "doorbells-sent", &s->doorbells_sent,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "doorbells-dropped",
                                   &s->doorbells_dropped, OBJ_PROP_FLAG_READ);
    for (unsigned i = 0; i < IVSHMEM_FLAT_MAX_VECTORS; i++) {
        sysbus_init_irq(sbd, &s->irq[i]);
    }
}

/* Properties */

static char *ivshmem_flat_get_irq_qompath(Object *obj, Error **errp)
{
    return object_property_get_str(obj, SYSBUS_DEVICE_GPIO_IRQ "[0]", errp);
}

/* Says in one line what the link's own setter says without the path. */
static void ivshmem_flat_set_irq_qompath(Object *obj, const char *path,
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

static bool ivshmem_flat_get_connected(Object *obj, Error **errp)
{
    return IVSHMEM_FLAT(obj)->phase == IVSHMEM_FLAT_CONNECTED;
}

/* The peers that are known, and how many vectors each has. */
static void ivshmem_flat_get_peers(Object *obj, Visitor *v, const char *name,
                                   void *opaque, Error **errp)
{
    IvshmemFlat *s = IVSHMEM_FLAT(obj);
    bool ok = visit_start_list(v, name, NULL, 0, errp);

    if (!ok) {
        return;
    }
    for (uint32_t id = 0; ok && s->peers && id < MAX_PEERS; id++) {
        if (s->peers[id]) {
            ok = visit_start_struct(v, NULL, NULL, 0, errp);
            if (ok) {
                ok = visit_type_uint32(v, "id", &id, errp) &&
                     visit_type_uint32(v, "vectors", &s->peers[id]->nvectors,
                                       errp);
                visit_end_struct(v, NULL);
            }
        }
    }
    visit_end_list(v, NULL);
}

/* The interrupts that each own vector has taken. */
static void ivshmem_flat_get_interrupts(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp)
{
    IvshmemFlat *s = IVSHMEM_FLAT(obj);
    bool ok = visit_start_list(v, name, NULL, 0, errp);

    if (!ok) {
        return;
    }
    for (unsigned i = 0; ok && i < s->nvectors; i++) {
        ok = visit_type_uint64(v, NULL, &s->own[i].interrupts, errp);
    }
    visit_end_list(v, NULL);
}

static const Property ivshmem_flat_properties[] = {
    DEFINE_PROP_CHR("chardev", IvshmemFlat, chr),
    DEFINE_PROP_UINT64("x-bus-address-iomem", IvshmemFlat, bus_address_iomem,
                       UINT64_MAX),
    DEFINE_PROP_UINT64("x-bus-address-shmem", IvshmemFlat, bus_address_shmem,
                       UINT64_MAX),
    DEFINE_PROP_UINT32("vectors", IvshmemFlat, vectors, 1),
    DEFINE_PROP_UINT32("revision", IvshmemFlat, revision, 1),
    DEFINE_PROP_ON_OFF_AUTO("master", IvshmemFlat, master, ON_OFF_AUTO_OFF),
    DEFINE_PROP_LINK("iothread", IvshmemFlat, iothread, TYPE_IOTHREAD,
                     IOThread *),
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
};

static void ivshmem_flat_class_init(ObjectClass *klass,
                                    IvshmemFlatClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);
    static const char *const descriptions[][2] = {
        { "chardev", "Socket chardev that connects to an ivshmem server" },
        { "x-bus-address-iomem", "Address of the registers, 256 bytes" },
        { "x-bus-address-shmem", "Address of the shared memory" },
        { "vectors", "Number of own vectors and of interrupt outputs" },
        { "revision", "Device revision, as in the ivshmem specification" },
        { "master", "Whether the shared memory's content migrates" },
        { "iothread", "IOThread that takes the interrupts of peers" },
        { "x-irq-qompath",
          "QOM path of the interrupt input that vector 0 drives" },
        { "shmem-size", "Size that the server's shared memory must have" },
        { "connected", "Whether the server is there" },
        { "peers", "The peers that are known: id and number of vectors" },
        { "interrupts", "Interrupts taken, per own vector" },
    };

    dc->desc = "Inter-VM shared memory for machines without PCI";
    dc->realize = ivshmem_flat_realize;
    dc->unrealize = ivshmem_flat_unrealize;
    dc->vmsd = &ivshmem_flat_vmstate;
    rc->phases.enter = ivshmem_flat_reset_enter;
    rc->phases.hold = ivshmem_flat_reset_hold;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    device_class_set_props(dc, ivshmem_flat_properties);
    object_class_property_add_str(klass, "x-irq-qompath",
                                  ivshmem_flat_get_irq_qompath,
                                  ivshmem_flat_set_irq_qompath);
    object_class_property_add(klass, "shmem-size", "size",
                              ivshmem_flat_get_shmem_size,
                              ivshmem_flat_set_shmem_size, NULL, NULL);
    object_class_property_add_bool(klass, "connected",
                                   ivshmem_flat_get_connected, NULL);
    object_class_property_add(klass, "peers", "list", ivshmem_flat_get_peers,
                              NULL, NULL, NULL);
    object_class_property_add(klass, "interrupts", "list",
                              ivshmem_flat_get_interrupts, NULL, NULL, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(descriptions); i++) {
        object_class_property_set_description(klass, descriptions[i][0],
                                              descriptions[i][1]);
    }
}

static const TypeInfo ivshmem_flat_types[] = {
    {
        .name = TYPE_IVSHMEM_FLAT_MEMORY,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(IvshmemFlatMemory),
    }, {
        .name = TYPE_IVSHMEM_FLAT,
        .parent = TYPE_DYNAMIC_SYS_BUS_DEVICE,
        .instance_size = sizeof(IvshmemFlat),
        .instance_init = ivshmem_flat_init,
        .class_init = ivshmem_flat_class_init,
    },
};

DEFINE_TYPES(ivshmem_flat_types)
