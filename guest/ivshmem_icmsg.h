/*
 * ICMsg, Zephyr's protocol between two cores, over two regions of shared memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The other side may be Zephyr's IPC service with the backend
 * zephyr,ipc-icmsg, unmodified, or this file, or ivshmem_flat.icmsg in python/.
 * The protocol is that of Zephyr's documentation, "ICMsg backend", section
 * "Detailed Protocol Specification"; of sessions, it is what Zephyr 4.1 does
 * with the property unbound = "enable".
 *
 *     ivshmem_icmsg_open(&icmsg, &config);
 *     for (;;) {
 *         ivshmem_icmsg_poll(&icmsg);          is the other side there?
 *         ... ivshmem_icmsg_receive(), ivshmem_icmsg_send() ...
 *         if (ivshmem_icmsg_doorbell(&icmsg)) {
 *             ring(peer, vector);
 *         }
 *         ... sleep until the own doorbell rings ...
 *     }
 *
 * As in ivshmem_msg.h: it runs the same on Cortex-M, on aarch64 and on the
 * host, needs as little of libraries, allocates nothing, never waits, and
 * leaves ringing to the caller; the sleep must not miss a doorbell that rang
 * since poll().
 *
 * Each side writes the region that is the other's to read. A region, whose
 * words are little-endian and aligned:
 *
 *     offset          word         written by
 *     0               rd_idx       the reader: where the next packet begins
 *     4               handshake    the reader; only with sessions
 *     a               wr_idx       the writer: where the last packet ends
 *     a + 4           data         the writer, up to the end of the region
 *
 * a is the alignment: Zephyr's property dcache-alignment, and at least 4, or
 * 8 with sessions. The indices count bytes of data, and begin again at its
 * end. A packet is its length in 16 bits, big-endian; 16 bits of zero; so many
 * bytes; and as many as make it a multiple of 4. Equal indices mean that there
 * is none, so 4 bytes of data are always free.
 *
 * Without sessions, the first packet of each side is a magic one. A side that
 * starts again has the other one start again, too; and what an earlier life
 * has left in memory looks like a peer, so clear it before both start. With
 * sessions, either side may come back at any time: the reader of a region asks
 * in handshake for a session (bits 0 to 15), and confirms the one for which
 * its own peer has asked (bits 16 to 31).
 *
 * All of the other side's words are suspect: read once, checked, and never
 * used to reach outside of the regions. The worst that a hostile peer can do
 * is to send bad messages, or to make itself unheard.
 */

#ifndef IVSHMEM_ICMSG_H
#define IVSHMEM_ICMSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What functions here return when they fail; all are negative. */
enum ivshmem_icmsg_error {
    IVSHMEM_ICMSG_EMPTY = -1,       /* there is no message */
    IVSHMEM_ICMSG_FULL = -2,        /* no space now, and nobody will ring */
    IVSHMEM_ICMSG_NOT_BOUND = -3,   /* the peer is not there, or has left */
    IVSHMEM_ICMSG_BAD_LENGTH = -4,  /* 0, or more than ring or buffer hold */
    IVSHMEM_ICMSG_BROKEN = -5,      /* nonsense from the peer: open again */
    IVSHMEM_ICMSG_BAD_MEMORY = -6   /* regions too small, not aligned, or that
                                       overlap */
};

/** How we stand with the peer. */
enum ivshmem_icmsg_state {
    IVSHMEM_ICMSG_OPENING,  /* it has not answered yet */
    IVSHMEM_ICMSG_BOUND,    /* messages can go both ways */
    IVSHMEM_ICMSG_UNBOUND,  /* it has closed, or come back: open again */
    IVSHMEM_ICMSG_DEAD      /* it broke the rules; not listened to any more */
};

/**
 * struct ivshmem_icmsg_config: where the regions are
 *
 * The peer has the same ones the other way
 * round, and the same alignment and sessions.
 */
struct ivshmem_icmsg_config {
    void *tx;               /* written by us; aligned to @alignment */
    size_t tx_size;         /* in bytes, a multiple of 4, at most 1 GiB */
    void *rx;               /* read by us, as @tx is by the peer */
    size_t rx_size;
    uint32_t alignment;     /* a power of two from 4 on, or 0: the least */
    bool sessions;          /* the peer may leave and come back */
};

/**
 * struct ivshmem_icmsg_ring: our view of one region
 */
struct ivshmem_icmsg_ring {
    uint32_t *read;
    uint32_t *handshake;
    uint32_t *write;
    uint32_t *data;
    uint32_t size;          /* of data in bytes */
    uint32_t index;         /* our own of the two indices, never read back */
};

/**
 * struct ivshmem_icmsg: one side of one instance
 *
 * Owned by the caller, for reading only. One thread at a time may use it; the
 * peer may be another thread, process or machine.
 */
struct ivshmem_icmsg {
    enum ivshmem_icmsg_state state;
    bool sessions;
    bool due;               /* the peer is to be rung */
    uint32_t local;         /* our session, 1 to 65535 */
    uint32_t remote;        /* the peer's, or 0: not known yet */
    struct ivshmem_icmsg_ring tx;
    struct ivshmem_icmsg_ring rx;
};

/**
 * ivshmem_icmsg_open: be there for the peer
 *
 * @icmsg: filled in; needs no release
 * @config: read; the memory stays the caller's, must live as long as @icmsg is
 *          used, and may contain anything
 *
 * To be called again when the peer has left (IVSHMEM_ICMSG_UNBOUND), and to
 * give a dead one another chance. Call ivshmem_icmsg_poll() next.
 *
 * Returns 0 or IVSHMEM_ICMSG_BAD_MEMORY.
 */
int ivshmem_icmsg_open(struct ivshmem_icmsg *icmsg,
                       const struct ivshmem_icmsg_config *config);

/**
 * ivshmem_icmsg_close: leave
 *
 * With sessions, the peer is told; ring it if it is due. Without, it is not,
 * as the protocol has no way to.
 */
void ivshmem_icmsg_close(struct ivshmem_icmsg *icmsg);

/**
 * ivshmem_icmsg_poll: look whether the peer has come or left
 *
 * Call it after open and after each doorbell.
 *
 * Returns the state.
 */
enum ivshmem_icmsg_state ivshmem_icmsg_poll(struct ivshmem_icmsg *icmsg);

/**
 * ivshmem_icmsg_doorbell: is the peer to be rung?
 *
 * Returns true if it waits for what we have done since the last call.
 */
bool ivshmem_icmsg_doorbell(struct ivshmem_icmsg *icmsg);

/**
 * ivshmem_icmsg_send: send a message
 *
 * @message: copied, the caller's afterwards
 * @length: in bytes, 1 to ivshmem_icmsg_max_length()
 *
 * Zephyr stops to listen, for ever, if a message is longer than its
 * CONFIG_PBUF_RX_READ_BUF_SIZE, 128 bytes by default. Nobody rings when a full
 * ring has space again: try again a little later.
 *
 * Returns 0, or IVSHMEM_ICMSG_FULL, _NOT_BOUND, _BAD_LENGTH or _BROKEN.
 */
int ivshmem_icmsg_send(struct ivshmem_icmsg *icmsg, const void *message,
                       size_t length);

/**
 * ivshmem_icmsg_receive: take the next message
 *
 * @buffer: filled with the message; undefined if this fails
 * @capacity: of the buffer in bytes
 *
 * Returns the message's length, or IVSHMEM_ICMSG_EMPTY; or _BAD_LENGTH, in
 * which case the message was too long for the buffer, and is dropped; or
 * IVSHMEM_ICMSG_NOT_BOUND or _BROKEN.
 */
int32_t ivshmem_icmsg_receive(struct ivshmem_icmsg *icmsg, void *buffer,
                              size_t capacity);

/** ivshmem_icmsg_max_length: of a message that we can send, in bytes */
uint32_t ivshmem_icmsg_max_length(const struct ivshmem_icmsg *icmsg);

#ifdef __cplusplus
}
#endif

#endif /* IVSHMEM_ICMSG_H */
