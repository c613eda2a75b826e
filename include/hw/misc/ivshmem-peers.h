/*
 * The peers of an ivshmem server, and the doorbells between them and us
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Each client of an ivshmem server, ourselves included, has an id and vectors.
 * A vector is an eventfd: peers write to it, its owner waits for that. Here are
 * the eventfds that the server has handed out; how it does that is the
 * business of hw/misc/ivshmem-client.h, which fills this table. A device rings
 * with it, listens, and looks in.
 *
 * The server's messages are a stream, which the main loop reads when it comes
 * to that, and a guest rings when it pleases. The specification ignores a
 * doorbell to a peer that is not connected. Connected means here: announced by
 * the server, read by us or not. So a doorbell that is rung while there is
 * something to read is kept until the stream has been read up to the place
 * where it ended then. It goes to whoever has the id by then: an id that the
 * server gives again is the new peer's.
 *
 * All functions are for the main loop or a vCPU, under the BQL.
 */

#ifndef HW_MISC_IVSHMEM_PEERS_H
#define HW_MISC_IVSHMEM_PEERS_H

#include "qemu/aio.h"
#include "qemu/hbitmap.h"

/**
 * IVSHMEM_MAX_PEERS:
 *
 * Ids that a server can give, 0 to one less than this.
 */
#define IVSHMEM_MAX_PEERS (UINT16_MAX + 1)

/**
 * IVSHMEM_MAX_KEPT:
 *
 * Doorbells to unknown vectors that wait for the server's messages to be read.
 */
#define IVSHMEM_MAX_KEPT 64

/**
 * IvshmemInterrupt: a peer has rung one of our vectors
 * @opaque: as given to ivshmem_peers_init()
 * @vector: which one
 *
 * Called with the BQL held, from the main loop or an IOThread.
 */
typedef void IvshmemInterrupt(void *opaque, unsigned vector);

/**
 * IvshmemChanged: there is something new in the table
 * @opaque: as given to ivshmem_peers_init()
 *
 * @IvshmemPeers::changes has counted. From the main loop.
 */
typedef void IvshmemChanged(void *opaque);

/**
 * IvshmemPeer: another client of the server
 * @nvectors: how many elements @vectors has
 * @vectors: the peer's eventfds, in the order of their vectors; owned
 */
typedef struct IvshmemPeer {
    uint32_t nvectors;
    int vectors[];
} IvshmemPeer;

typedef struct IvshmemReceiver IvshmemReceiver;

/**
 * IvshmemVector: one of our own vectors
 * @receiver: there is one if the server has given us this vector
 * @listens: somebody wants its interrupts
 * @interrupts: how many it has taken
 * @held_until: with ivshmem_peers_interrupt_in_order(): value of
 *              IvshmemPeers::place at which all has been read that was in the
 *              socket when it was rung, and the interrupt is taken; 0: none is
 *              held
 * @held_later_until: likewise, when it was rung the last time since
 */
typedef struct IvshmemVector {
    IvshmemReceiver *receiver;
    bool listens;
    uint64_t interrupts;
    uint64_t held_until;
    uint64_t held_later_until;
} IvshmemVector;

/**
 * IvshmemPeers: what is known of a server's clients
 *
 * To look in, only.
 */
typedef struct IvshmemPeers {
    AioContext *ctx;                /* serves the own eventfds */
    IvshmemInterrupt *interrupt;
    IvshmemChanged *changed;        /* or NULL */
    void *opaque;
    unsigned max_vectors;           /* of another peer */
    IvshmemPeer **others;           /* by id; NULL: not connected */
    HBitmap *connected;             /* a bit per id of @others */
    uint32_t changes;               /* of ids and vectors; wraps */

    uint16_t id;                    /* our own */
    bool is_hidden;                 /* what came since the last greeting */
    unsigned vectors;               /* elements of @own */
    unsigned nvectors;              /* those that the server has given us */
    IvshmemVector *own;
    bool is_in_order;               /* interrupts are */

    int socket;                     /* that tells of them, or -1 */
    uint64_t place;                 /* how far that has been read */
    GHashTable *kept;               /* IvshmemKept by peer and vector */

    uint64_t doorbells_sent;
    uint64_t doorbells_dropped;
} IvshmemPeers;

/**
 * ivshmem_peers_init: an empty table
 * @p: the table
 * @vectors: how many vectors of our own we want, 1 to 65536
 * @max_vectors: how many of another peer's can be rung, 1 to 65536
 * @ctx: where own eventfds are to be waited for
 * @interrupt: is called for each interrupt on a vector that is listened to
 * @changed: is called when a peer has come or gone, or got a vector, and when
 *           we have got an id or a vector; or NULL
 * @opaque: for both
 *
 * Id and counters stay what they were in a former life, or are 0.
 */
void ivshmem_peers_init(IvshmemPeers *p, unsigned vectors, unsigned max_vectors,
                        AioContext *ctx, IvshmemInterrupt *interrupt,
                        IvshmemChanged *changed, void *opaque);

/**
 * ivshmem_peers_cleanup: close all eventfds
 * @p: the table; its stream has ended
 *
 * There are no interrupts any more when this returns.
 */
void ivshmem_peers_cleanup(IvshmemPeers *p);

/**
 * ivshmem_peers_listen: take the interrupts of an own vector
 * @p: the table
 * @vector: which one, whether or not the server has given it to us (yet)
 */
void ivshmem_peers_listen(IvshmemPeers *p, unsigned vector);

/**
 * ivshmem_peers_interrupt_in_order: who rings is known first
 * @p: the table
 *
 * From now on, an interrupt is taken when all has been read that the server
 * had said before the vector was rung. A server that announces a peer to all
 * others before it tells the peer of them, as QEMU's own does, has said then
 * who the peer is that rang.
 */
void ivshmem_peers_interrupt_in_order(IvshmemPeers *p);

/**
 * ivshmem_peers_ring: ring a doorbell
 * @p: the table
 * @peer: the id of whom to ring; it may be our own
 * @vector: the peer's vector
 *
 * Rings at once, or later if the server's messages have to be read first. One
 * that reaches nobody is counted, and traced with the reason; that is no
 * error. Never blocks.
 */
void ivshmem_peers_ring(IvshmemPeers *p, uint16_t peer, uint16_t vector);

/**
 * ivshmem_peers_drop: count and trace a doorbell that goes nowhere
 * @p: the table
 * @peer: whom it was for
 * @vector: the peer's vector
 * @reason: why it goes nowhere
 */
void ivshmem_peers_drop(IvshmemPeers *p, uint16_t peer, uint16_t vector,
                        const char *reason);

/**
 * ivshmem_peers_next: walk over the other peers, in the order of their ids
 * @p: the table
 * @from: any number
 *
 * Takes as long with one peer as with all that there can be.
 *
 * Returns: the smallest id of a peer that is at least @from, hidden or not;
 * IVSHMEM_MAX_PEERS if there is none.
 */
unsigned ivshmem_peers_next(IvshmemPeers *p, unsigned from);

/* What follows is for the client, which reads what the server says. */

/**
 * ivshmem_peers_hide: begin with a new table
 * @p: the table
 *
 * What is added from now on cannot be rung, and does not interrupt, until
 * ivshmem_peers_show(). All that is known is forgotten first, unless that is
 * hidden, too.
 */
void ivshmem_peers_hide(IvshmemPeers *p);

/**
 * ivshmem_peers_show: the server has greeted us
 * @p: the table
 * @id: our own
 * @socket: where the server tells of peers; stays the caller's
 *
 * Nobody is known then but those who came since ivshmem_peers_hide().
 */
void ivshmem_peers_show(IvshmemPeers *p, uint16_t id, int socket);

/**
 * ivshmem_peers_add: another peer has a vector more
 * @p: the table
 * @id: the peer's
 * @fd: the vector's eventfd; taken
 */
void ivshmem_peers_add(IvshmemPeers *p, uint16_t id, int fd);

/**
 * ivshmem_peers_add_own: we have a vector more
 * @p: the table
 * @id: our own, as the server has just told
 * @fd: the vector's eventfd; taken
 */
void ivshmem_peers_add_own(IvshmemPeers *p, uint16_t id, int fd);

/**
 * ivshmem_peers_remove: another peer is gone
 * @p: the table, with that peer in it
 * @id: the peer's
 */
void ivshmem_peers_remove(IvshmemPeers *p, uint16_t id);

/**
 * ivshmem_peers_forget: forget all peers and our own vectors, hidden or not
 * @p: the table
 */
void ivshmem_peers_forget(IvshmemPeers *p);

/**
 * ivshmem_peers_unread: what the server has said, and nobody has read
 * @p: the table
 *
 * Returns: the number of bytes in the socket.
 */
unsigned ivshmem_peers_unread(IvshmemPeers *p);

/**
 * ivshmem_peers_read: the stream has been read up to a place
 * @p: the table
 * @place: where, in bytes from the connection's beginning
 *
 * Rings the doorbells that were kept until then.
 */
void ivshmem_peers_read(IvshmemPeers *p, uint64_t place);

/**
 * ivshmem_peers_end: the stream has ended, nothing more will be read
 * @p: the table
 */
void ivshmem_peers_end(IvshmemPeers *p);

#endif /* HW_MISC_IVSHMEM_PEERS_H */
