/*
 * The peers of an ivshmem server, and the doorbells between them and us
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "hw/misc/ivshmem-peers.h"
#include "trace.h"

#include <sys/ioctl.h>
#include <sys/uio.h>

/**
 * IvshmemReceiver: where the interrupts of one own vector come in
 * @ctx: serves it
 * @eventfd: what a peer writes to interrupt us; owned
 * @vector: the vector
 * @rung: a doorbell was taken from @eventfd and is not handled yet; for the
 *        thread of @ctx alone
 * @p: the table; NULL once it is not interested any more; under the BQL
 *
 * The thread that serves it frees it: that may be busy with it when the table
 * forgets it.
 */
struct IvshmemReceiver {
    AioContext *ctx;
    int eventfd;
    unsigned vector;
    bool rung;
    IvshmemPeers *p;
};

/**
 * IvshmemKept: doorbells to one vector, rung while messages were unread
 * @until: value of IvshmemPeers::place at which all has been read that was
 *         in the socket at the first of them
 * @later_until: likewise, at the last one
 * @count: how many wait until @until
 * @later_count: how many wait until @later_until
 */
typedef struct IvshmemKept {
    uint64_t until;
    uint64_t later_until;
    unsigned count;
    unsigned later_count;
} IvshmemKept;

/* Doorbells */

/* Returns the peer's eventfd for @vector, or -1 if it is not known (yet). */
static int ivshmem_peers_find(IvshmemPeers *p, unsigned peer, unsigned vector)
{
    if (p->is_hidden) {
        return -1; /* the greeting may still go wrong */
    }
    if (peer == p->id) {
        return vector < p->nvectors ? p->own[vector].receiver->eventfd : -1;
    }
    if (p->others[peer] && vector < p->others[peer]->nvectors) {
        return p->others[peer]->vectors[vector];
    }
    return -1;
}

void ivshmem_peers_drop(IvshmemPeers *p, uint16_t peer, uint16_t vector,
                        const char *reason)
{
    p->doorbells_dropped++;
    trace_ivshmem_peers_doorbell_dropped(peer, vector, reason);
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
static unsigned ivshmem_peers_look(int eventfd, int socket)
{
    GPollFD pfds[] = {
        { .fd = eventfd, .events = G_IO_OUT },
        { .fd = socket, .events = G_IO_IN },
    };

    g_poll(pfds, socket >= 0 ? 2 : 1, 0);
    return pfds[0].revents | pfds[1].revents;
}

/* After a look at the eventfd. */
static void ivshmem_peers_write(IvshmemPeers *p, int eventfd, unsigned ready,
                                unsigned peer, unsigned vector)
{
    static const uint64_t one = 1;

    if (!(ready & G_IO_OUT) ||
        RETRY_ON_EINTR(write(eventfd, &one, sizeof(one))) != sizeof(one)) {
        ivshmem_peers_drop(p, peer, vector, "counter is full");
        return;
    }
    p->doorbells_sent++;
    trace_ivshmem_peers_doorbell_sent(peer, vector);
}

unsigned ivshmem_peers_unread(IvshmemPeers *p)
{
    int unread = 0;

    if (p->socket < 0 || ioctl(p->socket, FIONREAD, &unread) < 0) {
        return 0;
    }
    return unread;
}

static void ivshmem_peers_deliver(IvshmemPeers *p, unsigned vector)
{
    p->own[vector].interrupts++;
    trace_ivshmem_peers_interrupt(vector);
    p->interrupt(p->opaque, vector);
}

/* Those behind the first to a vector wait together, until the last place. */
static void ivshmem_peers_hold(IvshmemPeers *p, unsigned vector,
                               unsigned unread)
{
    IvshmemVector *v = &p->own[vector];
    uint64_t until = p->place + unread;

    if (!v->held_until) {
        v->held_until = until;
    } else if (v->held_until != until) {
        v->held_later_until = until;
    }
}

static void ivshmem_peers_deliver_held(IvshmemPeers *p)
{
    for (unsigned i = 0; p->is_in_order && i < p->nvectors; i++) {
        IvshmemVector *v = &p->own[i];

        while (v->held_until && v->held_until <= p->place) {
            v->held_until = v->held_later_until;
            v->held_later_until = 0;
            ivshmem_peers_deliver(p, i);
        }
    }
}

/*
 * That may bring a peer, take one away, or both. What a socket holds is
 * bounded, and the main loop reads it, so the wait ends, even if the server
 * goes on talking.
 */
void ivshmem_peers_read(IvshmemPeers *p, uint64_t place)
{
    GHashTableIter iter;
    gpointer key, value;

    p->place = place;
    ivshmem_peers_deliver_held(p);
    g_hash_table_iter_init(&iter, p->kept);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        unsigned peer = GPOINTER_TO_UINT(key) >> 16;
        unsigned vector = GPOINTER_TO_UINT(key) & UINT16_MAX;
        int eventfd = ivshmem_peers_find(p, peer, vector);
        IvshmemKept *k = value;

        while (k->count && k->until <= place) {
            for (; k->count; k->count--) {
                if (eventfd < 0) {
                    ivshmem_peers_drop(p, peer, vector, "not announced");
                } else {
                    ivshmem_peers_write(p, eventfd,
                                        ivshmem_peers_look(eventfd, -1), peer,
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
static void ivshmem_peers_keep(IvshmemPeers *p, uint16_t peer, uint16_t vector,
                               bool is_known, unsigned unread)
{
    gpointer key = GUINT_TO_POINTER((unsigned)peer << 16 | vector);
    uint64_t until = p->place + unread;
    IvshmemKept *k = g_hash_table_lookup(p->kept, key);

    /* Those that are known are as many as there are eventfds. */
    if (!is_known && g_hash_table_size(p->kept) - !!k >= IVSHMEM_MAX_KEPT) {
        ivshmem_peers_drop(p, peer, vector, "too many wait");
        return;
    }
    if (!k) {
        k = g_new0(IvshmemKept, 1);
        k->until = until;
        g_hash_table_insert(p->kept, key, k);
    }
    if (k->until == until) {
        k->count++;
    } else {
        k->later_until = until;
        k->later_count++;
    }
    trace_ivshmem_peers_doorbell_kept(peer, vector);
}

void ivshmem_peers_ring(IvshmemPeers *p, uint16_t peer, uint16_t vector)
{
    int eventfd = ivshmem_peers_find(p, peer, vector);
    unsigned ready = G_IO_IN, unread = 0;

    if (eventfd >= 0) {
        /* A server takes none of our own away. */
        ready = ivshmem_peers_look(eventfd, peer == p->id ? -1 : p->socket);
    }
    if (ready & G_IO_IN && vector < p->max_vectors) {
        unread = ivshmem_peers_unread(p);
    }
    if (unread) {
        ivshmem_peers_keep(p, peer, vector, eventfd >= 0, unread);
    } else if (eventfd >= 0) {
        ivshmem_peers_write(p, eventfd, ready, peer, vector);
    } else {
        ivshmem_peers_drop(p, peer, vector, "not connected");
    }
}

/* Interrupts */

/*
 * Empty the eventfd; return whether it was rung. Somebody else who has it, too,
 * may have emptied it since poll, and the read must not block.
 */
static bool ivshmem_receiver_test_and_clear(IvshmemReceiver *r)
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
static void ivshmem_receiver_interrupt(IvshmemReceiver *r)
{
    IvshmemPeers *p;

    BQL_LOCK_GUARD();
    p = r->p;
    if (p) {
        unsigned unread = p->is_in_order ? ivshmem_peers_unread(p) : 0;

        if (unread) {
            ivshmem_peers_hold(p, r->vector, unread);
        } else {
            ivshmem_peers_deliver(p, r->vector);
        }
    }
}

static void ivshmem_receiver_ready(void *opaque)
{
    IvshmemReceiver *r = opaque;

    if (r->rung || ivshmem_receiver_test_and_clear(r)) {
        r->rung = false;
        ivshmem_receiver_interrupt(r);
    }
}

/*
 * From an IOThread that waits awake. What follows may be the handler for this
 * or, if the file descriptor's monitor has seen the doorbell too, as io_uring
 * can, the one that reads.
 */
static bool ivshmem_receiver_poll(void *opaque)
{
    IvshmemReceiver *r = opaque;

    r->rung = r->rung || ivshmem_receiver_test_and_clear(r);
    return r->rung;
}

/* In the thread that serves it, which so has left its handler. */
static void ivshmem_receiver_free(void *opaque)
{
    IvshmemReceiver *r = opaque;

    aio_set_fd_handler(r->ctx, r->eventfd, NULL, NULL, NULL, NULL, NULL);
    close(r->eventfd);
    g_free(r);
}

/* Nobody is waited for that cannot be rung either. */
static void ivshmem_peers_serve(IvshmemPeers *p, unsigned vector)
{
    IvshmemReceiver *r = p->own[vector].receiver;

    if (p->own[vector].listens && r && !p->is_hidden) {
        aio_set_fd_handler(r->ctx, r->eventfd, ivshmem_receiver_ready, NULL,
                           ivshmem_receiver_poll, ivshmem_receiver_ready, r);
    }
}

void ivshmem_peers_listen(IvshmemPeers *p, unsigned vector)
{
    p->own[vector].listens = true;
    ivshmem_peers_serve(p, vector);
}

void ivshmem_peers_interrupt_in_order(IvshmemPeers *p)
{
    p->is_in_order = true;
}

/* The table */

/* What is hidden changes when it is shown. */
static void ivshmem_peers_count_change(IvshmemPeers *p)
{
    if (!p->is_hidden) {
        p->changes++;
        if (p->changed) {
            p->changed(p->opaque);
        }
    }
}

unsigned ivshmem_peers_next(IvshmemPeers *p, unsigned from)
{
    int64_t id = hbitmap_next_dirty(p->connected, from, INT64_MAX);

    return id < 0 ? IVSHMEM_MAX_PEERS : id;
}

void ivshmem_peers_add(IvshmemPeers *p, uint16_t id, int fd)
{
    IvshmemPeer *peer = p->others[id];
    unsigned vector = peer ? peer->nvectors : 0;

    if (vector == p->max_vectors) {
        trace_ivshmem_peers_extra_vector(id, vector);
        close(fd);
        return;
    }
    peer = g_realloc(peer, sizeof(*peer) +
                           (vector + 1) * sizeof(peer->vectors[0]));
    peer->nvectors = vector + 1;
    peer->vectors[vector] = fd;
    p->others[id] = peer;
    hbitmap_set(p->connected, id, 1);
    trace_ivshmem_peers_peer_vector(id, vector, fd);
    ivshmem_peers_count_change(p);
}

void ivshmem_peers_add_own(IvshmemPeers *p, uint16_t id, int fd)
{
    unsigned vector = p->nvectors;
    IvshmemReceiver *r;

    if (vector == p->vectors) {
        trace_ivshmem_peers_extra_vector(id, vector);
        close(fd);
        return;
    }
    r = g_new0(IvshmemReceiver, 1);
    r->ctx = p->ctx;
    r->eventfd = fd;
    r->vector = vector;
    r->p = p;
    p->own[vector].receiver = r;
    p->nvectors++;
    trace_ivshmem_peers_own_vector(vector, fd);
    ivshmem_peers_serve(p, vector);
    ivshmem_peers_count_change(p);
}

static void ivshmem_peers_close(IvshmemPeers *p, uint16_t id)
{
    IvshmemPeer *peer = g_steal_pointer(&p->others[id]);

    for (unsigned i = 0; i < peer->nvectors; i++) {
        close(peer->vectors[i]);
    }
    g_free(peer);
    hbitmap_reset(p->connected, id, 1);
}

void ivshmem_peers_remove(IvshmemPeers *p, uint16_t id)
{
    ivshmem_peers_close(p, id);
    ivshmem_peers_count_change(p);
}

void ivshmem_peers_forget(IvshmemPeers *p)
{
    unsigned id = ivshmem_peers_next(p, 0);
    bool is_change = p->nvectors || id < IVSHMEM_MAX_PEERS;

    while (p->nvectors) {
        IvshmemVector *v = &p->own[--p->nvectors];

        v->held_until = 0;
        v->held_later_until = 0;
        /*
         * In an IOThread, its handler may just wait for the BQL, or be called
         * once more. It will find that nobody is interested.
         */
        v->receiver->p = NULL;
        aio_bh_schedule_oneshot(p->ctx, ivshmem_receiver_free,
                                g_steal_pointer(&v->receiver));
    }
    for (; id < IVSHMEM_MAX_PEERS; id = ivshmem_peers_next(p, id)) {
        ivshmem_peers_close(p, id);
    }
    if (is_change) {
        ivshmem_peers_count_change(p);
    }
    p->is_hidden = false;
}

void ivshmem_peers_hide(IvshmemPeers *p)
{
    if (!p->is_hidden) {
        ivshmem_peers_forget(p);
        p->is_hidden = true;
    }
}

void ivshmem_peers_show(IvshmemPeers *p, uint16_t id, int socket)
{
    ivshmem_peers_hide(p); /* whoever is left of the server before */
    p->id = id;
    p->socket = socket;
    p->is_hidden = false;
    for (unsigned i = 0; i < p->nvectors; i++) {
        ivshmem_peers_serve(p, i);
    }
    ivshmem_peers_count_change(p);
}

void ivshmem_peers_end(IvshmemPeers *p)
{
    p->socket = -1;
    ivshmem_peers_read(p, UINT64_MAX);
}

void ivshmem_peers_init(IvshmemPeers *p, unsigned vectors, unsigned max_vectors,
                        AioContext *ctx, IvshmemInterrupt *interrupt,
                        IvshmemChanged *changed, void *opaque)
{
    p->ctx = ctx;
    p->interrupt = interrupt;
    p->changed = changed;
    p->opaque = opaque;
    p->vectors = vectors;
    p->max_vectors = max_vectors;
    p->is_in_order = false;
    p->own = g_new0(IvshmemVector, vectors);
    p->others = g_new0(IvshmemPeer *, IVSHMEM_MAX_PEERS);
    p->connected = hbitmap_alloc(IVSHMEM_MAX_PEERS, 0);
    p->kept = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    p->socket = -1;
}

void ivshmem_peers_cleanup(IvshmemPeers *p)
{
    ivshmem_peers_forget(p);
    g_clear_pointer(&p->kept, g_hash_table_unref);
    g_clear_pointer(&p->connected, hbitmap_free);
    g_clear_pointer(&p->others, g_free);
    g_clear_pointer(&p->own, g_free);
}
