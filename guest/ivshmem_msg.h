/*
 * Messages between the peers of an ivshmem server, through shared memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The layer turns one piece of shared memory into a directory of peers and a
 * ring of messages for each ordered pair of them. It runs the same on
 * Cortex-M, on aarch64 and on the host, allocates nothing and never waits. It
 * never rings either: it says whom to ring, and the caller, who has the
 * doorbell, decides when, after each message or after a batch. Of libraries it
 * needs what GCC calls on its own in any program: libgcc, and memcpy(),
 * memset() and memcmp(), which cortex-m/string.c has for who has no C library.
 *
 *     ivshmem_msg_open(&msg, memory, size, 8, IVSHMEM_MSG_ANY_SLOT, own_id, 0);
 *     for (;;) {
 *         ivshmem_msg_poll(&msg);              who came, who left?
 *         ... ivshmem_msg_receive(), ivshmem_msg_send() ...
 *         while ((peer = ivshmem_msg_doorbell(&msg)) >= 0) {
 *             ring(peer, vector);
 *         }
 *         ... sleep until the own doorbell rings ...
 *     }
 *
 * The sleep must not miss a doorbell that rang since poll() was called:
 * on Cortex-M mask, look, WFI, unmask; on Linux read an eventfd.
 *
 * One writer per word
 *
 * The atomic instructions of a guest may not be atomic against another
 * QEMU process, and small cores have none. So each word in shared memory has
 * a single writer, and aligned 32-bit loads and stores with barriers are
 * enough. Everything is little-endian.
 *
 * Memory, from its start (n slots):
 *
 *     n     directory entries    struct ivshmem_msg_entry; [slot]
 *     n * n sides                struct ivshmem_msg_side; [writer][reader]
 *     n * (n - 1) rings          of a size that is a power of two
 *
 * A peer moves into a slot: it writes that slot's entry and, as writer,
 * that slot's row of sides and rings. Each time it takes a session, a number
 * that this slot did not have before. Two peers are linked when each has
 * written both sessions into its side; from then on their rings, which start
 * empty, carry messages. A peer that comes back, with a new id perhaps and
 * with no goodbye, has another session, so that nothing old is taken for new.
 * A peer that is given another id while it runs, because the server was
 * started anew, keeps its session, and only says whom to ring from now on.
 * What memory holds from a former generation never links, for the same
 * reason.
 *
 * All of the other side's words are suspect: read once, checked, and never
 * used to reach outside of the ring. The worst that a hostile peer can do is
 * to send bad messages, to make itself unheard, or to occupy slots; who shares
 * the memory can also take a slot from another one, who is told.
 *
 * What guards a message is the order of the stores, and that indices are
 * checked. Memory that is shared does not damage what it holds, so there is no
 * checksum unless all peers choose one: it finds somebody who writes where he
 * should not, by a mistake; one who means it makes the right checksum.
 *
 * The layout has a version, in each directory entry. A peer of another
 * version, or with another choice of checksum, size or slots, is
 * IVSHMEM_MSG_FOREIGN to us and we to it: its slot counts as occupied, it can
 * never be linked, and nothing of it is taken for a message. That goes for the
 * first version too, which had its fields where they are now, 0 for its number
 * and always a CRC.
 */

#ifndef IVSHMEM_MSG_H
#define IVSHMEM_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Slots that one struct ivshmem_msg can serve; at most 31. */
#ifndef IVSHMEM_MSG_MAX_SLOTS
#define IVSHMEM_MSG_MAX_SLOTS 16
#endif

/** For ivshmem_msg_open(): choose a slot. */
#define IVSHMEM_MSG_ANY_SLOT (-1)

/** Marks a directory entry, "IVM1", in all versions of the layout. */
#define IVSHMEM_MSG_MAGIC 0x314d5649u

/** This layout's version. */
#define IVSHMEM_MSG_VERSION 2u

/** For ivshmem_msg_open(): each message has a CRC. */
#define IVSHMEM_MSG_CRC 1u

/**
 * Bytes of table for the CRC: 64, 1024 or 4096, which take 8, 4 or 1 dependent
 * look-ups for 32 bits. To be set when ivshmem_msg.c is compiled; what is in
 * memory is the same with each.
 */
#ifndef IVSHMEM_MSG_CRC_TABLE
#define IVSHMEM_MSG_CRC_TABLE 1024
#endif

/** Messages start at multiples of this in a ring, so no header ever wraps. */
#define IVSHMEM_MSG_ALIGN 16u

/** The smallest ring; memory that has no room for it is refused. */
#define IVSHMEM_MSG_MIN_RING 256u

/**
 * struct ivshmem_msg_entry: who is in a slot; written by the slot's owner
 */
struct ivshmem_msg_entry {
    uint32_t magic;         /* IVSHMEM_MSG_MAGIC */
    uint32_t layout;        /* flags << 24 | IVSHMEM_MSG_VERSION << 16 |
                               number of slots << 8 | log2 of a ring's size */
    uint32_t id;            /* the owner's id at the server when it came */
    uint32_t counter;       /* the slot's last session, kept when it is left */
    uint32_t session;       /* 1 to 65535, or 0: nobody is here */
    uint32_t doorbell;      /* the owner's id now: whom to ring */
    uint32_t reserved[10];
};

/**
 * struct ivshmem_msg_side: one side of a link, written by one peer for another
 *
 * Indices count bytes since the link began, modulo 2^32.
 */
struct ivshmem_msg_side {
    uint32_t link;          /* writer's session << 16 | reader's; 0: none */
    uint32_t head;          /* end of what was put into writer's ring */
    uint32_t tail;          /* end of what was taken from reader's ring */
    uint32_t wants;         /* when to ring the writer, IVSHMEM_MSG_WANT_* */
    uint32_t gone;          /* the reader's session, if the server has told the
                               writer that the reader is gone; else 0 */
    uint32_t reserved[11];
};

/** The reader of the ring wants to be rung for each new message. */
#define IVSHMEM_MSG_WANT_MESSAGES 1u
/** The writer of the ring waits for space in it. */
#define IVSHMEM_MSG_WANT_SPACE 2u

/**
 * struct ivshmem_msg_header: what comes before each message in a ring
 *
 * The payload follows, then bytes of no meaning up to a multiple of
 * IVSHMEM_MSG_ALIGN.
 */
struct ivshmem_msg_header {
    uint32_t length;        /* of the payload in bytes */
    uint32_t sequence;      /* 0 for a link's first message, then 1 more */
    uint32_t type;          /* of the payload; the layer only carries it */
    uint32_t crc;           /* CRC-32 of the fields above and the payload,
                               or 0 on a link without, unread */
};

/** What functions here return when they fail; all are negative. */
enum ivshmem_msg_error {
    IVSHMEM_MSG_EMPTY = -1,     /* there is no message */
    IVSHMEM_MSG_FULL = -2,      /* no space now; the peer will ring */
    IVSHMEM_MSG_NO_LINK = -3,   /* not linked with that slot (any more) */
    IVSHMEM_MSG_TOO_LONG = -4,  /* longer than the ring or the buffer */
    IVSHMEM_MSG_BAD_CRC = -5,   /* a message was damaged, and is dropped */
    IVSHMEM_MSG_BROKEN = -6,    /* nonsense from the peer; the link is dead */
    IVSHMEM_MSG_EVICTED = -7,   /* somebody else has moved into our slot */
    IVSHMEM_MSG_BAD_MEMORY = -8 /* too small, too many slots, not aligned,
                                   flags that there are not */
};

/** How we stand with a slot. */
enum ivshmem_msg_state {
    IVSHMEM_MSG_ABSENT,     /* nobody is there */
    IVSHMEM_MSG_FOREIGN,    /* somebody whose layout or version is another */
    IVSHMEM_MSG_GREETING,   /* somebody who has not answered yet, or is dead */
    IVSHMEM_MSG_LINKED,     /* messages can go both ways */
    IVSHMEM_MSG_LEFT,       /* said goodbye; what is in the ring can be read */
    IVSHMEM_MSG_DEAD        /* broke the rules; not listened to any more */
};

/**
 * struct ivshmem_msg_peer: our view of one slot
 *
 * For reading only. The counters begin anew with each link.
 */
struct ivshmem_msg_peer {
    enum ivshmem_msg_state state;
    uint32_t id;            /* with which it came; names it in this session */
    uint32_t doorbell;      /* whom to ring */
    uint32_t session;
    uint32_t there;         /* the session that was connected, ... */
    uint32_t gone;          /* ... and that is not any more; 0: none */
    uint32_t head;          /* our words, kept here: what stands in shared */
    uint32_t tail;          /*   memory is for the peer and never read back */
    uint32_t wants;
    uint32_t seen_head;     /* the peer's words when we last needed them */
    uint32_t seen_tail;
    uint32_t reserved;      /* bytes in our ring, header included; 0: none */
    uint32_t peeked;        /* the same of the message that is being looked */
    uint32_t sequence;      /*   at in the peer's ring, and its number */
    uint32_t sent;          /* messages sent, so the next one's sequence */
    uint32_t received;      /* good messages received */
    uint32_t expected;      /* the next message's sequence */
    uint32_t gaps;          /* good messages that were not the expected one */
    uint32_t bad_crc;       /* messages dropped for their CRC */
    uint32_t too_long;      /* messages dropped for the buffer's size */
};

/**
 * struct ivshmem_msg: one peer's place at the shared memory
 *
 * Owned by the caller. One thread at a time may use it; the peers may be
 * other threads, processes or machines.
 */
struct ivshmem_msg {
    uint8_t *memory;
    uint32_t slots;
    uint32_t flags;         /* IVSHMEM_MSG_CRC or 0 */
    uint32_t slot;          /* our own */
    uint32_t id;            /* with which we came; names us in this session */
    uint32_t doorbell;      /* under which we are rung */
    uint32_t session;
    uint32_t ring_size;
    uint32_t committed;     /* slots that are to see our head, a bit each, */
    uint32_t released;      /*   and our tail */
    uint32_t due;           /* slots to be rung, a bit each: for messages ... */
    uint32_t due_control;   /* ... and for who came, left or moved */
    int32_t former;         /* who had the slot and did not say goodbye; -1 */
    struct ivshmem_msg_peer peer[IVSHMEM_MSG_MAX_SLOTS];
};

/**
 * struct ivshmem_msg_span: a piece of a ring
 *
 * A payload is one piece, or two if it goes over the end of the ring: an array
 * of two of these then has the first part and the second. Each begins at a
 * multiple of IVSHMEM_MSG_ALIGN, and is 0 bytes long if there is none.
 *
 * It is shared memory: volatile, and perhaps device memory, which some CPUs
 * access only by aligned loads and stores, so not with memcpy().
 */
struct ivshmem_msg_span {
    volatile void *data;
    uint32_t length;        /* in bytes */
};

/**
 * ivshmem_msg_ring_size: the size of a ring
 *
 * @size: of the shared memory in bytes
 * @slots: number of slots, 2 to IVSHMEM_MSG_MAX_SLOTS
 *
 * Returns the size in bytes, a power of two, or 0 if the memory is too small.
 * All peers must use the same @size and @slots. 4 MiB give 8 slots rings of
 * 64 KiB, and 4 slots rings of 256 KiB.
 */
uint32_t ivshmem_msg_ring_size(size_t size, unsigned slots);

/**
 * ivshmem_msg_open: move into a slot
 *
 * @msg: filled in; needs no release
 * @memory: start of the shared memory, aligned to 64 bytes; stays the
 *          caller's, must live as long as @msg is used, and may contain
 *          anything
 * @size: of the memory in bytes, the same for all peers
 * @slots: how many peers there can be at a time, the same for all peers
 * @slot: 0 to @slots - 1: a place that this peer alone uses, so that it is
 *        found there again after a restart; or IVSHMEM_MSG_ANY_SLOT, for
 *        @id modulo @slots, or the next that is not occupied. If none is
 *        free, @id modulo @slots it is
 * @id: own id at the server (IVPosition), 0 to 65535
 * @flags: IVSHMEM_MSG_CRC or 0, the same for all peers
 *
 * Whether the peer who occupies a slot is alive cannot be seen in memory, but
 * a peer to whom the server says who has gone writes it there: of a peer that
 * ended without goodbye, the slot is free then: see ivshmem_msg_look_around().
 * One who was, and lost the slot, gets IVSHMEM_MSG_EVICTED from its next
 * call; msg->former says whose slot was taken. Call ivshmem_msg_poll() next.
 *
 * Returns 0 or IVSHMEM_MSG_BAD_MEMORY.
 */
int ivshmem_msg_open(struct ivshmem_msg *msg, void *memory, size_t size,
                     unsigned slots, int slot, uint32_t id, uint32_t flags);

/**
 * ivshmem_msg_close: say goodbye
 *
 * Messages that were sent can still be received by the peers, as long as
 * nobody moves into the slot. Ring those that are due afterwards.
 */
void ivshmem_msg_close(struct ivshmem_msg *msg);

/**
 * ivshmem_msg_poll: look who came and who left
 *
 * Greets who is new, so that they can link; call it after open and after
 * each doorbell. What a peer of a former session had sent and we had not
 * received is lost.
 *
 * Returns a mask of the slots whose state or session has changed, or
 * IVSHMEM_MSG_EVICTED.
 */
int32_t ivshmem_msg_poll(struct ivshmem_msg *msg);

/**
 * ivshmem_msg_look_around: find out who has gone without goodbye
 *
 * @connected: is the peer with this id connected to the server? So that it can
 *             tell, the device needs peer registers; on the host, the server
 *             tells
 * @opaque: for @connected
 *
 * Of a peer that was connected at an earlier call, and is not any more, the
 * next ivshmem_msg_poll() says what it says of one that has left, and others
 * may have the slot. Call it before each poll, or each one that follows a
 * change of who is connected or of who is in memory.
 */
void ivshmem_msg_look_around(struct ivshmem_msg *msg,
                             bool (*connected)(void *opaque, uint32_t id),
                             void *opaque);

/**
 * ivshmem_msg_doorbell: whom to ring
 *
 * Publishes first what was committed and released, see ivshmem_msg_publish().
 *
 * Returns the id of a peer that waits for what we have done since it was
 * rung the last time, or -1. Each call names another one.
 */
int32_t ivshmem_msg_doorbell(struct ivshmem_msg *msg);

/**
 * ivshmem_msg_doorbell_control: whom to ring about who is there
 *
 * For those who ring one vector for messages and another one for control:
 * that somebody came, left or moved. Such a caller rings whom this function
 * names first; ivshmem_msg_doorbell() then names those that have messages, or
 * space for some.
 *
 * Returns an id or -1, as ivshmem_msg_doorbell() does.
 */
int32_t ivshmem_msg_doorbell_control(struct ivshmem_msg *msg);

/**
 * ivshmem_msg_move: be rung under another id
 *
 * @id: own id at the server, 0 to 65535; nothing happens if it has not changed
 *
 * After a restart of the server. Links and messages stay. Until the peers
 * have polled they ring the old id, which may be another peer's now, so some
 * doorbells of that time are lost to us: look at the rings without one too.
 *
 * Whose servers may restart should choose their slots in open: with
 * IVSHMEM_MSG_ANY_SLOT, a peer that has been given our old id may take us for
 * its own former life, if it is started before we have moved.
 */
void ivshmem_msg_move(struct ivshmem_msg *msg, uint32_t id);

/**
 * ivshmem_msg_send: put a message into the ring to a peer
 *
 * @slot: the peer's
 * @type: for the receiver; any value
 * @payload: copied, the caller's afterwards; may be NULL if @length is 0
 * @length: in bytes, at most the ring's size less the header
 *
 * Reserves, copies, commits and publishes.
 *
 * Returns 0, or IVSHMEM_MSG_FULL, in which case the peer rings once there is
 * space again, or IVSHMEM_MSG_NO_LINK, _TOO_LONG, _BROKEN or _EVICTED.
 */
int ivshmem_msg_send(struct ivshmem_msg *msg, unsigned slot, uint32_t type,
                     const void *payload, size_t length);

/**
 * ivshmem_msg_receive: take the next message from a peer's ring
 *
 * @slot: the peer's
 * @header: filled in if the message is good; the fields in the CPU's order
 * @buffer: filled with the payload; undefined if the message is bad; may be
 *          NULL if @capacity is 0
 * @capacity: of the buffer in bytes
 *
 * The buffer must not lie in shared memory: what is checked is the copy, which
 * no peer can change any more. Publishes that the message was taken.
 *
 * Returns the payload's length, or IVSHMEM_MSG_EMPTY; or IVSHMEM_MSG_BAD_CRC
 * or _TOO_LONG, in which cases the message is dropped and the next can be
 * received; or IVSHMEM_MSG_NO_LINK, _BROKEN or _EVICTED.
 */
int32_t ivshmem_msg_receive(struct ivshmem_msg *msg, unsigned slot,
                            struct ivshmem_msg_header *header,
                            void *buffer, size_t capacity);

/**
 * ivshmem_msg_reserve: have space for a message in the ring to a peer
 *
 * @slot: the peer's
 * @length: of the payload in bytes, at most the ring's size less the header
 * @span: filled in with where the payload is to be written, by the caller
 *
 * The peer sees nothing of it before ivshmem_msg_commit() and
 * ivshmem_msg_publish(). Until the commit, or until the peer's state or session
 * changes, the space is the caller's; another reserve or send for this slot
 * takes it back. After a batch of messages that were committed the ring may be
 * full until they are published.
 *
 * The ring is ours, but nothing keeps a hostile peer from writing to it too: do
 * not read back what was written and rely on it.
 *
 * Returns what ivshmem_msg_send() returns.
 */
int ivshmem_msg_reserve(struct ivshmem_msg *msg, unsigned slot, size_t length,
                        struct ivshmem_msg_span span[2]);

/**
 * ivshmem_msg_commit: the payload that was reserved is written
 *
 * @slot: the peer's
 * @type: for the receiver; any value
 * @length: in bytes, at most what was reserved, from its start
 *
 * Returns 0; IVSHMEM_MSG_TOO_LONG; or IVSHMEM_MSG_NO_LINK if nothing is
 * reserved, as after a change of the peer's session.
 */
int ivshmem_msg_commit(struct ivshmem_msg *msg, unsigned slot, uint32_t type,
                       size_t length);

/**
 * ivshmem_msg_peek: look at the next message in a peer's ring
 *
 * @slot: the peer's
 * @header: as for ivshmem_msg_receive()
 * @span: filled in with where the payload is
 *
 * The message stays where it is until ivshmem_msg_release(), and each call
 * before that gives the same one; until then, or until the peer's state or
 * session changes, an honest peer leaves it alone. A hostile one can change
 * the payload at any moment, also after the CRC was found good and between two
 * looks at the same byte. So whoever does not trust the peer takes each value
 * once, into a variable of its own, and checks that; or calls
 * ivshmem_msg_receive(). @header and the lengths in @span are copies, checked,
 * and stay as they are: no peer can make them reach outside of the ring.
 *
 * Returns what ivshmem_msg_receive() returns; never _TOO_LONG.
 */
int32_t ivshmem_msg_peek(struct ivshmem_msg *msg, unsigned slot,
                         struct ivshmem_msg_header *header,
                         struct ivshmem_msg_span span[2]);

/**
 * ivshmem_msg_release: be done with the message that was peeked at
 *
 * @slot: the peer's
 *
 * The peer gets the space with ivshmem_msg_publish(). Nothing happens if no
 * message was peeked at.
 */
void ivshmem_msg_release(struct ivshmem_msg *msg, unsigned slot);

/**
 * ivshmem_msg_publish: let a peer see what was committed and released
 *
 * @slot: the peer's
 *
 * For a batch: one store, and one look whether the peer is to be rung, however
 * many messages there were. ivshmem_msg_doorbell() does it for all slots,
 * ivshmem_msg_send(), ivshmem_msg_receive() for theirs, and ivshmem_msg_close()
 * for all; only who rings nobody need call it.
 */
void ivshmem_msg_publish(struct ivshmem_msg *msg, unsigned slot);

/**
 * ivshmem_msg_want_doorbell: be rung for each message, or not
 *
 * @slot: the peer's
 * @want: false while the caller polls the ring anyway; true, as it is when a
 *        link begins, before it sleeps
 *
 * Returns true if a message is there already, for which nobody may ring: do
 * not sleep then.
 */
bool ivshmem_msg_want_doorbell(struct ivshmem_msg *msg, unsigned slot,
                               bool want);

/**
 * ivshmem_msg_crc: CRC-32 as in IEEE 802.3 and zlib
 *
 * @crc: 0, or the result for the bytes before these
 */
uint32_t ivshmem_msg_crc(uint32_t crc, const volatile void *data,
                         size_t length);

#ifdef __cplusplus
}
#endif

#endif /* IVSHMEM_MSG_H */
