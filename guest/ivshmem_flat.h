/*
 * Bare-metal driver for ivshmem-flat, QEMU's inter-VM shared memory device
 * without PCI
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The device is two things on the bus: a page of registers and the shared
 * memory. Each of its vectors is an interrupt of its own, a pulse: in device
 * revision 1 there is nothing to acknowledge. Section names below are those of
 * QEMU's docs/specs/ivshmem-spec.rst, "PCI device registers".
 *
 * Use:
 *
 *     static struct ivshmem_flat ivshmem;
 *
 *     void vector_0_isr(void) { ivshmem_flat_interrupt(&ivshmem, 0); }
 *     void vector_1_isr(void) { ivshmem_flat_interrupt(&ivshmem, 1); }
 *
 *     ivshmem_flat_init(&ivshmem, 0x50000000);
 *     ivshmem_flat_on_interrupt(&ivshmem, 0, wake_my_task, my_task);
 *     ivshmem_flat_on_interrupt(&ivshmem, 1, wake_another, another);
 *     ... enable the interrupts in the interrupt controller ...
 *     ivshmem_flat_ring(&ivshmem, peer, 0);
 *
 * With -device ivshmem-flat,revision=0, where the interrupt is a level, call
 * ivshmem_flat_use_level() after ivshmem_flat_init().
 *
 * The registers must be mapped as Device memory and the shared memory as
 * Normal memory, which the addresses 0x40000000-0x5fffffff and
 * 0x60000000-0x9fffffff are on ARMv7-M by default. On a core with a data
 * cache that other bus masters do not snoop, shared memory must be mapped
 * as shareable or not cacheable; QEMU models no caches.
 *
 * The header stands alone and holds no state of its own. It serves the PCI
 * device's BAR 0 as well: the registers are the same.
 */

#ifndef IVSHMEM_FLAT_H
#define IVSHMEM_FLAT_H

#include <stdbool.h>
#include <stdint.h>

/* Byte offsets of the registers; all are 32 bits wide and little-endian */
#define IVSHMEM_FLAT_INTRMASK   0x00    /* read/write; revision 0 only */
#define IVSHMEM_FLAT_INTRSTATUS 0x04    /* read clears it; revision 0 only */
#define IVSHMEM_FLAT_IVPOSITION 0x08    /* read-only: own id */
#define IVSHMEM_FLAT_DOORBELL   0x0c    /* write-only: peer << 16 | vector */
/* The peer registers, with -device ivshmem-flat,peer-registers=on; else 0 */
#define IVSHMEM_FLAT_FEATURES     0x10  /* read-only: bit 0, they are there */
#define IVSHMEM_FLAT_VECTORS      0x14  /* read-only: own vectors */
#define IVSHMEM_FLAT_CHANGES      0x18  /* read-only: counts what is new */
#define IVSHMEM_FLAT_SELECT       0x1c  /* read/write: an id */
#define IVSHMEM_FLAT_NEXT         0x20  /* read-only: the next peer from there */
#define IVSHMEM_FLAT_NEXT_VECTORS 0x24  /* read-only: how many vectors it has */
#define IVSHMEM_FLAT_SHMEM_SIZE   0x28  /* read-only: in pages of 4 KiB */

/** Bytes that the registers take on the bus. */
#define IVSHMEM_FLAT_REGISTERS_SIZE 0x100

/** For ivshmem_flat_next_peer(): there is none. */
#define IVSHMEM_FLAT_NO_PEER 0xffffffffu

/** Own vectors that can have a handler; at most 64 make sense. */
#ifndef IVSHMEM_FLAT_VECTORS
#define IVSHMEM_FLAT_VECTORS 4
#endif

/**
 * struct ivshmem_flat_vector: one own vector
 */
struct ivshmem_flat_vector {
    /** what ivshmem_flat_interrupt() calls, or NULL */
    void (*handler)(void *opaque);
    /** the handler's argument */
    void *opaque;
    /** interrupts taken since init; for statistics, wraps */
    volatile uint32_t interrupts;
};

/**
 * struct ivshmem_flat: one device
 *
 * Owned by the caller; initialise it with ivshmem_flat_init(). Several
 * devices may be in use, each with a struct of its own.
 */
struct ivshmem_flat {
    /** the registers */
    volatile uint32_t *registers;
    /** the device is of revision 0: the interrupt must be acknowledged */
    bool level;
    /** doorbells rung since init; for statistics, wraps */
    uint32_t doorbells;
    /** the own vectors */
    struct ivshmem_flat_vector vector[IVSHMEM_FLAT_VECTORS];
};

/**
 * ivshmem_flat_barrier: order shared memory against the registers
 *
 * All of this CPU's earlier loads and stores, of Normal and of Device memory,
 * are seen by everybody before any later one. Arm orders accesses to one
 * device among themselves, but not those to Normal memory against those to
 * Device memory: without a barrier the doorbell may ring before the message
 * is there.
 */
static inline void ivshmem_flat_barrier(void)
{
#if defined(__arm__)
    __asm__ volatile("dmb" ::: "memory");
#elif defined(__aarch64__)
    __asm__ volatile("dmb sy" ::: "memory");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/**
 * ivshmem_flat_init: take hold of a device
 *
 * @dev: filled in; there is nothing else to release
 * @registers: address of the register page
 *
 * Does not touch the device: after reset there is nothing to set up. In
 * revision 1, bits of INTRMASK and INTRSTATUS are reserved.
 */
static inline void ivshmem_flat_init(struct ivshmem_flat *dev,
                                     uintptr_t registers)
{
    unsigned vector;

    dev->registers = (volatile uint32_t *)registers;
    dev->level = false;
    dev->doorbells = 0;
    for (vector = 0; vector < IVSHMEM_FLAT_VECTORS; vector++) {
        dev->vector[vector].handler = 0;
        dev->vector[vector].opaque = 0;
        dev->vector[vector].interrupts = 0;
    }
}

/**
 * ivshmem_flat_use_level: the device is of revision 0
 *
 * Lets interrupts through at the device, by INTRMASK, and has
 * ivshmem_flat_interrupt() acknowledge them, by a read of INTRSTATUS (section
 * "Interrupt Status Register"). Revision 0 has one vector. Software cannot
 * find out the revision: its author must know how the machine is started. In
 * revision 1 these registers are reserved, so do not call it there.
 */
static inline void ivshmem_flat_use_level(struct ivshmem_flat *dev)
{
    dev->level = true;
    dev->registers[IVSHMEM_FLAT_INTRMASK / 4] = 1;
}

/**
 * ivshmem_flat_id: own id
 *
 * Returns the id under which peers ring this device, 0 to 65535. It changes
 * with each connection to the server, so peers must learn it anew after a
 * restart. It is also 0 if no interrupt is wired; software cannot tell
 * (section "IVPosition Register").
 */
static inline uint32_t ivshmem_flat_id(const struct ivshmem_flat *dev)
{
    return dev->registers[IVSHMEM_FLAT_IVPOSITION / 4];
}

/**
 * ivshmem_flat_finds_peers: are the peer registers there?
 *
 * Without them, who is there must be known in another way, and
 * ivshmem_flat_next_peer() must not be called (section "Peer registers of the
 * flat device").
 */
static inline bool ivshmem_flat_finds_peers(const struct ivshmem_flat *dev)
{
    return dev->registers[IVSHMEM_FLAT_FEATURES / 4] & 1;
}

/**
 * ivshmem_flat_next_peer: walk over the peers that are connected
 *
 * @from: any number
 *
 * Returns the smallest id of a peer that is at least @from, or
 * IVSHMEM_FLAT_NO_PEER. We are no peer of ourselves. A walk over all is
 *
 *     for (id = ivshmem_flat_next_peer(&ivshmem, 0);
 *          id != IVSHMEM_FLAT_NO_PEER;
 *          id = ivshmem_flat_next_peer(&ivshmem, id + 1))
 *
 * and has seen all who are there if ivshmem_flat_changes() is the same before
 * and afterwards. It writes a register that the device has once: of several
 * CPUs, threads, or interrupt handlers only one may be in here at a time.
 */
static inline uint32_t ivshmem_flat_next_peer(struct ivshmem_flat *dev,
                                              uint32_t from)
{
    dev->registers[IVSHMEM_FLAT_SELECT / 4] = from;
    return dev->registers[IVSHMEM_FLAT_NEXT / 4];
}

/**
 * ivshmem_flat_peer_vectors: how many vectors a peer has, 0 if it is not there
 *
 * @peer: the peer's id
 *
 * As ivshmem_flat_next_peer(), it is for one at a time.
 */
static inline uint32_t ivshmem_flat_peer_vectors(struct ivshmem_flat *dev,
                                                 uint32_t peer)
{
    return ivshmem_flat_next_peer(dev, peer) == peer ?
           dev->registers[IVSHMEM_FLAT_NEXT_VECTORS / 4] : 0;
}

/**
 * ivshmem_flat_changes: counts when a peer comes or goes, and when our id is
 * another one; wraps
 *
 * It does not interrupt, unless the device has a changes-vector.
 */
static inline uint32_t ivshmem_flat_changes(const struct ivshmem_flat *dev)
{
    return dev->registers[IVSHMEM_FLAT_CHANGES / 4];
}

/**
 * ivshmem_flat_ring: interrupt a peer
 *
 * @peer: the peer's id, 0 to 65535; the own id rings this device itself
 * @vector: which of the peer's vectors, from 0 on, less than 65536
 *
 * What this CPU has written to shared memory before is seen by the peer that
 * is woken. A peer that is not connected, or a vector that it does not have,
 * is ignored without a sign (section "Doorbell Register"). Several doorbells
 * may become one interrupt. Only a 32-bit store rings, as here.
 */
static inline void ivshmem_flat_ring(struct ivshmem_flat *dev,
                                     uint32_t peer, uint32_t vector)
{
    ivshmem_flat_barrier();
    dev->registers[IVSHMEM_FLAT_DOORBELL / 4] = peer << 16 | (vector & 0xffff);
    dev->doorbells++;
}

/**
 * ivshmem_flat_on_interrupt: hook a function to a vector's interrupt
 *
 * @vector: own vector, less than IVSHMEM_FLAT_VECTORS
 * @handler: called from ivshmem_flat_interrupt(), so in the context of the
 *           interrupt; NULL for none
 * @opaque: its argument; must live as long as the hook
 *
 * Set it while the interrupt is disabled.
 */
static inline void ivshmem_flat_on_interrupt(struct ivshmem_flat *dev,
                                             unsigned vector,
                                             void (*handler)(void *opaque),
                                             void *opaque)
{
    dev->vector[vector].opaque = opaque;
    dev->vector[vector].handler = handler;
}

/**
 * ivshmem_flat_interrupt: to be called by the interrupt service routine
 *
 * @vector: whose interrupt it is, less than IVSHMEM_FLAT_VECTORS
 *
 * Shared memory that the handler reads is at least as new as the doorbell.
 */
static inline void ivshmem_flat_interrupt(struct ivshmem_flat *dev,
                                          unsigned vector)
{
    struct ivshmem_flat_vector *v = &dev->vector[vector];

    if (dev->level) {
        /*
         * The read lowers the line; a doorbell from here on raises it again.
         * After the handler it would also clear what the handler has missed.
         */
        (void)dev->registers[IVSHMEM_FLAT_INTRSTATUS / 4];
    }
    v->interrupts = v->interrupts + 1;
    /* no load may have been made ahead of the interrupt that announces it */
    ivshmem_flat_barrier();
    if (v->handler) {
        v->handler(v->opaque);
    }
}

#endif /* IVSHMEM_FLAT_H */
