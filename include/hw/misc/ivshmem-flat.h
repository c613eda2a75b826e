/*
 * Inter-VM shared memory without PCI, for the system bus
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * This is a model of QEMU's inter-VM shared memory device as
 * docs/specs/ivshmem-spec.rst describes it, with its registers and its
 * shared memory mapped straight into the system's memory.
 *
 * QEMU interface:
 *  + QOM property "chardev": a socket chardev that connects to an ivshmem
 *    server; required
 *  + QOM property "x-irq-qompath": path of the interrupt input that vector 0
 *    drives; the same as setting the link "sysbus-irq[0]"
 *  + QOM properties "x-bus-address-iomem" and "x-bus-address-shmem": where
 *    realize maps the two regions on the system bus; both or neither
 *  + QOM property "shmem-size": size that the server's object must have;
 *    unset, and after realize: the size that it has
 *  + QOM property "vectors": number of own vectors, 1 to 64
 *  + QOM property "revision": device revision, as in the specification: 1 or,
 *    with one vector only, 0
 *  + QOM property "master": whether the shared memory's content migrates
 *  + QOM link "iothread": the IOThread that takes the interrupts of peers;
 *    unset: the main loop
 *  + QOM properties "id", "connected", "peers", "doorbells-sent",
 *    "doorbells-dropped", "interrupts": to look in, read-only
 *  + sysbus MMIO region 0: the registers, 256 bytes, as the PCI device's BAR 0
 *  + sysbus MMIO region 1: the shared memory, as BAR 2; its size is 0 until
 *    realize has learnt it from the server. Both regions exist from
 *    instance_init on, so a board may map them before or after realize.
 *  + sysbus IRQ k: vector k, a pulse per interrupt; a level in revision 0.
 *    There are 64 until realize, and as many as vectors from then on. A board
 *    may connect them before or after realize, until the machine is done.
 */

#ifndef HW_MISC_IVSHMEM_FLAT_H
#define HW_MISC_IVSHMEM_FLAT_H

#include "hw/core/sysbus.h"
#include "hw/misc/ivshmem-flat-compat.h"
#include "qemu/aio.h"
#include "chardev/char-fe.h"
#include "qemu/notify.h"
#include "qemu/timer.h"
#include "qom/object.h"
#include "system/iothread.h"

/**
 * TYPE_IVSHMEM_FLAT:
 *
 * QOM type of the device, user-creatable on the machines that allow it.
 */
#define TYPE_IVSHMEM_FLAT "ivshmem-flat"
OBJECT_DECLARE_SIMPLE_TYPE(IvshmemFlat, IVSHMEM_FLAT)

/**
 * IVSHMEM_FLAT_MAX_VECTORS:
 *
 * Vectors of one peer that can be rung, and outputs that a device can have.
 */
#define IVSHMEM_FLAT_MAX_VECTORS 64

/**
 * IVSHMEM_FLAT_MAX_KEPT:
 *
 * Doorbells to unknown peers that wait for the server's messages to be read.
 */
#define IVSHMEM_FLAT_MAX_KEPT 64

/**
 * IvshmemFlatPhase: what the next message from the server must be
 *
 * The order of the first three is that of the specification's section
 * "The ivshmem Client-Server Protocol".
 *
 * @IVSHMEM_FLAT_AWAIT_VERSION: the protocol's version
 * @IVSHMEM_FLAT_AWAIT_ID: the own id
 * @IVSHMEM_FLAT_AWAIT_SHMEM: the shared memory, or a peer ahead of it
 * @IVSHMEM_FLAT_CONNECTED: a peer that comes or goes
 * @IVSHMEM_FLAT_DISCONNECTED: none, there is no server (yet, or any more)
 */
typedef enum IvshmemFlatPhase {
    IVSHMEM_FLAT_AWAIT_VERSION,
    IVSHMEM_FLAT_AWAIT_ID,
    IVSHMEM_FLAT_AWAIT_SHMEM,
    IVSHMEM_FLAT_CONNECTED,
    IVSHMEM_FLAT_DISCONNECTED,
} IvshmemFlatPhase;

/**
 * TYPE_IVSHMEM_FLAT_MEMORY:
 *
 * QOM type of what owns a server's object, not user-creatable.
 */
#define TYPE_IVSHMEM_FLAT_MEMORY "ivshmem-flat-memory"
OBJECT_DECLARE_SIMPLE_TYPE(IvshmemFlatMemory, IVSHMEM_FLAT_MEMORY)

/**
 * IvshmemFlatMemory: the server's object as RAM
 * @ram: owns the object's fd
 *
 * A memory region lives as long as its owner, and an old address space may
 * hold on to it for a while: each object has an owner of its own, so that one
 * can take the place of another.
 */
struct IvshmemFlatMemory {
    Object parent_obj;

    MemoryRegion ram;
};

/**
 * IvshmemFlatPeer: another client of the server
 * @nvectors: how many elements @vectors has
 * @vectors: the peer's eventfds, in the order of their vectors; owned
 */
typedef struct IvshmemFlatPeer {
    uint32_t nvectors;
    int vectors[];
} IvshmemFlatPeer;

/**
 * IvshmemFlatReceiver: where the interrupts of one own vector come in
 * @ctx: serves it
 * @eventfd: what a peer writes to interrupt us; owned
 * @vector: the vector
 * @rung: a doorbell was taken from @eventfd and is not handled yet; for the
 *        thread of @ctx alone
 * @s: the device; NULL once it is not interested any more; under the BQL
 *
 * The thread that serves it frees it: that may be busy with it when the device
 * forgets it.
 */
typedef struct IvshmemFlatReceiver {
    AioContext *ctx;
    int eventfd;
    unsigned vector;
    bool rung;
    IvshmemFlat *s;
} IvshmemFlatReceiver;

/**
 * IvshmemFlatVector: one of the device's own vectors
 * @receiver: there is one if the server has given us this vector
 * @wired: its output goes somewhere; known when the machine is done
 * @interrupts: how many it has taken
 */
typedef struct IvshmemFlatVector {
    IvshmemFlatReceiver *receiver;
    bool wired;
    uint64_t interrupts;
} IvshmemFlatVector;

/**
 * IvshmemFlatKept: doorbells to one vector, rung while messages were unread
 * @until: value of IvshmemFlat::received at which all has been read that was
 *         in the socket at the first of them
 * @count: how many wait until then
 * @later_until: likewise, at the last one
 * @later_count: how many wait until then
 */
typedef struct IvshmemFlatKept {
    uint64_t until;
    uint64_t later_until;
    unsigned count;
    unsigned later_count;
} IvshmemFlatKept;

struct IvshmemFlat {
    SysBusDevice parent_obj;

    /* properties */
    CharFrontend chr;
    uint64_t shmem_size;            /* bytes; 0: any */
    uint64_t bus_address_iomem;     /* UINT64_MAX: not given */
    uint64_t bus_address_shmem;     /* UINT64_MAX: not given */
    uint32_t vectors;
    uint32_t revision;
    OnOffAuto master;
    IOThread *iothread;             /* NULL: the main loop */

    /* wiring */
    MemoryRegion iomem;
    MemoryRegion shmem;             /* container of @memory */
    IvshmemFlatMemory *memory;      /* NULL: the server has sent none yet */
    qemu_irq irq[IVSHMEM_FLAT_MAX_VECTORS];
    bool any_wired;                 /* is any output? */
    AioContext *ctx;                /* serves the own eventfds */
    Notifier machine_done;

    Error *migration_blocker;

    /* registers */
    uint32_t intrmask;
    uint32_t intrstatus;

    /* the server's message that is being received */
    uint8_t msg[8];
    unsigned msg_len;               /* bytes of @msg that are there */
    int msg_fd;                     /* first fd that came with them, or -1 */
    bool msg_fd_is_eventfd;
    unsigned msg_nfds;              /* how many came */
    uint64_t received;              /* bytes since the connection began */

    /* what the server said */
    IvshmemFlatPhase phase;
    int socket;                     /* to it, once it has greeted; or -1 */
    Error *greeting_error;          /* until it is reported; owned */
    QEMUTimer *server_timer;        /* of its greeting; or to look for it */
    int connect_error;              /* errno; 0: none; -1: not looked yet */
    uint16_t new_id;                /* what the server calls us */
    bool is_early;                  /* peers are those of this greeting */
    QEMUBH *gone_bh;                /* reports that the server is gone */
    uint32_t reported;              /* bit per IvshmemFlatBadMessage */
    unsigned lost;                  /* eventfds, for want of fds */
    QEMUBH *lost_bh;                /* reports that */
    uint16_t id;                    /* @new_id of the last whole greeting */
    IvshmemFlatPeer **peers;        /* by id; NULL: not connected */
    unsigned nvectors;              /* elements of @own in use */
    IvshmemFlatVector own[IVSHMEM_FLAT_MAX_VECTORS];

    /* statistics */
    uint64_t doorbells_sent;
    uint64_t doorbells_dropped;

    GHashTable *kept;               /* IvshmemFlatKept by value of DOORBELL */
};

#endif /* HW_MISC_IVSHMEM_FLAT_H */
