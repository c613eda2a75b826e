/*
 * A Linux program's access to an ivshmem device or server
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * One interface, three ways to be a peer; a program links one of them:
 *
 *     ivshmem_vfio.c      in a virtual machine, through the PCI device
 *                         ivshmem-doorbell, which vfio-pci drives
 *     ivshmem_uio.c       in a virtual machine, through ivshmem-flat on its
 *                         platform bus, which uio_pdrv_genirq drives
 *     ivshmem_client.c    on the host, as a client of ivshmem-server
 *
 *     struct ivshmem *ivshmem = ivshmem_open(where);
 *
 *     ... ivshmem->id, ivshmem->memory, ivshmem->size ...
 *     ivshmem_ring(ivshmem, peer, 0);
 *     ivshmem_wait(ivshmem, NULL, -1);
 *     ivshmem_close(ivshmem);
 *
 * A doorbell that rings between two calls of ivshmem_wait() ends the second
 * one, so a program that looks at the memory and then waits misses nothing.
 */

#ifndef IVSHMEM_H
#define IVSHMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** For ivshmem_next_peer(): there is none. */
#define IVSHMEM_NO_PEER 0xffffffffu

/** Own vectors beyond these are not looked at. */
#define IVSHMEM_MAX_VECTORS 64

/**
 * struct ivshmem: one connection; for reading only
 */
struct ivshmem {
    uint32_t id;        /* under which peers ring us, 0 to 65535 */
    unsigned vectors;   /* own vectors, at most IVSHMEM_MAX_VECTORS; a busy
                           server may tell of some later */
    bool finds_peers;   /* it is known who is there: on the host, and through
                           an ivshmem-flat with peer registers */
    void *memory;       /* the shared memory */
    size_t size;        /* of the shared memory in bytes */
};

/**
 * ivshmem_open: connect, and listen to the own vectors
 *
 * @where: in a virtual machine the device's PCI address, as 0000:00:01.0, or
 *         /dev/uio0; on the host the path of the server's socket
 *
 * The memory may be mapped as device memory: access it with aligned loads and
 * stores, byte by byte if need be, and not with memcpy().
 *
 * Returns a connection to be closed with ivshmem_close(), or NULL after
 * saying why on stderr.
 */
struct ivshmem *ivshmem_open(const char *where);

/** ivshmem_close: disconnect */
void ivshmem_close(struct ivshmem *ivshmem);

/**
 * ivshmem_ring: interrupt a peer
 *
 * @peer: the peer's id, 0 to 65535; the own id rings ourselves
 * @vector: which of the peer's vectors
 *
 * What was written to the memory before is seen by the peer that is woken.
 *
 * Returns false if it is known that there is no such peer or vector. In a
 * virtual machine that is never known.
 */
bool ivshmem_ring(struct ivshmem *ivshmem, uint32_t peer, uint32_t vector);

/**
 * ivshmem_next_peer: walk over the peers that are there, if ->finds_peers
 *
 * @from: any number
 *
 * Whoever has rung is among them.
 *
 * Returns the smallest id of a peer that is at least @from, or IVSHMEM_NO_PEER.
 */
uint32_t ivshmem_next_peer(struct ivshmem *ivshmem, uint32_t from);

/**
 * ivshmem_wait: sleep until the own doorbell has rung
 *
 * @vectors: set to the vectors that rang, a bit each; may be NULL
 * @timeout_ms: how long to wait at most; -1: for ever
 *
 * Several doorbells on a vector may become one.
 *
 * Returns false if none has rung in that time.
 */
bool ivshmem_wait(struct ivshmem *ivshmem, uint64_t *vectors, int timeout_ms);

#ifdef __cplusplus
}
#endif

#endif /* IVSHMEM_H */
