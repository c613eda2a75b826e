/*
 * Messages between the peers of an ivshmem server, through shared memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * Who synchronises with whom:
 *
 *  + A store with release of a word that its reader loads with acquire makes
 *    all that was written before visible: an entry by its session, a side by
 *    its link, a message by head, free space by tail.
 *  + A side's indices are loaded when what is known of them does not suffice.
 *    All other loads of the other side's words need no order.
 *  + Where one side writes and then asks whether the other sleeps, and the
 *    other says that it sleeps and then looks once more, only a full_barrier()
 *    between store and load keeps both from missing each other.
 *  + A doorbell comes after the stores that it announces; the driver sees to
 *    that.
 */

#include "ivshmem_msg.h"

/*
 * What every message goes through is inlined into send, receive and the like:
 * to an emulated CPU, a return costs as much as dozens of other instructions.
 * Who links with --gc-sections pays only for what is called.
 */
#define ON_EACH_MESSAGE static inline __attribute__((always_inline))

#define HEADER_SIZE ((uint32_t)sizeof(struct ivshmem_msg_header))
#define MAX_RING (1u << 30)

_Static_assert(IVSHMEM_MSG_MAX_SLOTS >= 2 && IVSHMEM_MSG_MAX_SLOTS <= 31,
               "masks of slots are 31 bits wide");
_Static_assert(sizeof(struct ivshmem_msg_header) == IVSHMEM_MSG_ALIGN,
               "a header never wraps");
_Static_assert(sizeof(struct ivshmem_msg_entry) == 64, "layout");
_Static_assert(offsetof(struct ivshmem_msg_entry, doorbell) == 20, "layout");
_Static_assert(sizeof(struct ivshmem_msg_side) == 64, "layout");
_Static_assert(offsetof(struct ivshmem_msg_side, gone) == 16, "layout");
_Static_assert(sizeof(struct ivshmem_msg_header) == 16, "layout");
_Static_assert(offsetof(struct ivshmem_msg_header, crc) == 12, "layout");

/* Little-endian on the wire; its own inverse. */
static uint32_t le32(uint32_t value)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap32(value);
#else
    return value;
#endif
}

static uint32_t load(const uint32_t *word)
{
    return le32(__atomic_load_n(word, __ATOMIC_ACQUIRE));
}

/* The same where it does not matter what else is seen. */
static uint32_t look(const uint32_t *word)
{
    return le32(__atomic_load_n(word, __ATOMIC_RELAXED));
}

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, le32(value), __ATOMIC_RELEASE);
}

static void full_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/*
 * The CRC's tables. An entry is the sum of the entries of its index' bits, so
 * the compiler makes a table from these.
 */
#define SUM4(i, b0, b1, b2, b3) \
    (((i) & 1 ? (b0) : 0u) ^ ((i) & 2 ? (b1) : 0u) ^ \
     ((i) & 4 ? (b2) : 0u) ^ ((i) & 8 ? (b3) : 0u))
#define SUM8(i, b0, b1, b2, b3, b4, b5, b6, b7) \
    (SUM4(i, b0, b1, b2, b3) ^ SUM4((i) >> 4, b4, b5, b6, b7))
#define TIMES4(sum, i, ...) \
    sum(i, __VA_ARGS__), sum((i) + 1, __VA_ARGS__), \
    sum((i) + 2, __VA_ARGS__), sum((i) + 3, __VA_ARGS__)
#define TIMES16(sum, i, ...) \
    TIMES4(sum, i, __VA_ARGS__), TIMES4(sum, (i) + 4, __VA_ARGS__), \
    TIMES4(sum, (i) + 8, __VA_ARGS__), TIMES4(sum, (i) + 12, __VA_ARGS__)
#define TIMES64(sum, i, ...) \
    TIMES16(sum, i, __VA_ARGS__), TIMES16(sum, (i) + 16, __VA_ARGS__), \
    TIMES16(sum, (i) + 32, __VA_ARGS__), TIMES16(sum, (i) + 48, __VA_ARGS__)
#define TIMES256(sum, ...) \
    TIMES64(sum, 0, __VA_ARGS__), TIMES64(sum, 64, __VA_ARGS__), \
    TIMES64(sum, 128, __VA_ARGS__), TIMES64(sum, 192, __VA_ARGS__)

/* Row n: what a byte does to the CRC when n more have followed it. */
#if IVSHMEM_MSG_CRC_TABLE == 64
static const uint32_t crc_table[16] = {
    TIMES16(SUM4, 0, 0x1db71064, 0x3b6e20c8, 0x76dc4190, 0xedb88320)
};
#elif IVSHMEM_MSG_CRC_TABLE == 1024 || IVSHMEM_MSG_CRC_TABLE == 4096
static const uint32_t crc_table[IVSHMEM_MSG_CRC_TABLE / 1024][256] = {
    { TIMES256(SUM8, 0x77073096, 0xee0e612c, 0x076dc419, 0x0edb8832,
               0x1db71064, 0x3b6e20c8, 0x76dc4190, 0xedb88320) },
#if IVSHMEM_MSG_CRC_TABLE == 4096
    { TIMES256(SUM8, 0x191b3141, 0x32366282, 0x646cc504, 0xc8d98a08,
               0x4ac21251, 0x958424a2, 0xf0794f05, 0x3b83984b) },
    { TIMES256(SUM8, 0x01c26a37, 0x0384d46e, 0x0709a8dc, 0x0e1351b8,
               0x1c26a370, 0x384d46e0, 0x709a8dc0, 0xe1351b80) },
    { TIMES256(SUM8, 0xb8bc6765, 0xaa09c88b, 0x8f629757, 0xc5b428ef,
               0x5019579f, 0xa032af3e, 0x9b14583d, 0xed59b63b) },
#endif
};
#else
#error "IVSHMEM_MSG_CRC_TABLE is to be 64, 1024 or 4096"
#endif

/* The CRC after the low byte of what was added to it. */
static uint32_t crc_byte(uint32_t crc)
{
#if IVSHMEM_MSG_CRC_TABLE == 64
    crc = crc_table[crc & 15] ^ crc >> 4;
    return crc_table[crc & 15] ^ crc >> 4;
#else
    return crc_table[0][crc & 255] ^ crc >> 8;
#endif
}

static uint32_t crc_word(uint32_t crc)
{
#if IVSHMEM_MSG_CRC_TABLE == 4096
    return crc_table[3][crc & 255] ^ crc_table[2][crc >> 8 & 255] ^
           crc_table[1][crc >> 16 & 255] ^ crc_table[0][crc >> 24];
#else
    return crc_byte(crc_byte(crc_byte(crc_byte(crc))));
#endif
}

/* Aligned words: @data may lie in device memory, see copy_to_shared(). */
uint32_t ivshmem_msg_crc(uint32_t crc, const volatile void *data,
                         size_t length)
{
    const volatile uint8_t *byte = data;

    crc = ~crc;
    for (; length && (uintptr_t)byte % sizeof(uint32_t); length--) {
        crc = crc_byte(crc ^ *byte++);
    }
    for (; length >= sizeof(uint32_t); length -= sizeof(uint32_t)) {
        crc = crc_word(crc ^ le32(*(const volatile uint32_t *)
                                  (const volatile void *)byte));
        byte += sizeof(uint32_t);
    }
    for (; length; length--) {
        crc = crc_byte(crc ^ *byte++);
    }
    return ~crc;
}

/*
 * Where things are
 */

static uint32_t layout(const struct ivshmem_msg *msg)
{
    return msg->flags << 24 | IVSHMEM_MSG_VERSION << 16 | msg->slots << 8 |
           (uint32_t)__builtin_ctz(msg->ring_size);
}

static size_t rings_offset(size_t slots)
{
    return slots * sizeof(struct ivshmem_msg_entry) +
           slots * slots * sizeof(struct ivshmem_msg_side);
}

static struct ivshmem_msg_entry *entry(const struct ivshmem_msg *msg,
                                       unsigned slot)
{
    return (struct ivshmem_msg_entry *)(void *)msg->memory + slot;
}

static struct ivshmem_msg_side *side(const struct ivshmem_msg *msg,
                                     unsigned writer, unsigned reader)
{
    return (struct ivshmem_msg_side *)(void *)entry(msg, msg->slots) +
           writer * msg->slots + reader;
}

static struct ivshmem_msg_side *ours(const struct ivshmem_msg *msg,
                                     unsigned slot)
{
    return side(msg, msg->slot, slot);
}

static struct ivshmem_msg_side *theirs(const struct ivshmem_msg *msg,
                                       unsigned slot)
{
    return side(msg, slot, msg->slot);
}

/* Nobody has a ring to itself, so row @writer is one ring shorter. */
static uint8_t *ring(const struct ivshmem_msg *msg, unsigned writer,
                     unsigned reader)
{
    size_t index = (size_t)writer * (msg->slots - 1) +
                   (reader < writer ? reader : reader - 1);

    return msg->memory + rings_offset(msg->slots) + index * msg->ring_size;
}

uint32_t ivshmem_msg_ring_size(size_t size, unsigned slots)
{
    uint32_t ring_size = MAX_RING;
    size_t room;

    if (slots < 2 || slots > IVSHMEM_MSG_MAX_SLOTS ||
        size < rings_offset(slots)) {
        return 0;
    }
    room = (size - rings_offset(slots)) / ((size_t)slots * (slots - 1));
    while (ring_size > room && ring_size >= IVSHMEM_MSG_MIN_RING) {
        ring_size /= 2;
    }
    return ring_size >= IVSHMEM_MSG_MIN_RING ? ring_size : 0;
}

/*
 * The directory
 */

static bool valid_session(uint32_t session)
{
    return session >= 1 && session <= UINT16_MAX;
}

static bool occupied(const struct ivshmem_msg *msg, unsigned slot)
{
    const struct ivshmem_msg_entry *e = entry(msg, slot);
    uint32_t session = load(&e->session);
    unsigned witness;

    if (load(&e->magic) != IVSHMEM_MSG_MAGIC || !valid_session(session)) {
        return false;
    }
    /* whoever comes later has another session, so is not meant */
    for (witness = 0; witness < msg->slots; witness++) {
        if (load(&entry(msg, witness)->magic) == IVSHMEM_MSG_MAGIC &&
            load(&side(msg, witness, slot)->gone) == session) {
            return false;
        }
    }
    return true;
}

/* Ids are unique: an entry with our id was left behind by somebody dead. */
static unsigned choose_slot(const struct ivshmem_msg *msg)
{
    unsigned home = msg->id % msg->slots;
    unsigned i;

    for (i = 0; i < msg->slots; i++) {
        unsigned slot = (home + i) % msg->slots;

        if (!occupied(msg, slot) ||
            load(&entry(msg, slot)->doorbell) == msg->id) {
            return slot;
        }
    }
    return home;
}

static bool evicted(const struct ivshmem_msg *msg)
{
    const struct ivshmem_msg_entry *e = entry(msg, msg->slot);

    return look(&e->session) != msg->session || look(&e->id) != msg->id;
}

static uint32_t bit(unsigned slot)
{
    return 1u << slot;
}

static void due_control(struct ivshmem_msg *msg, unsigned slot)
{
    msg->due_control |= bit(slot);
}

/* Whoever we greet, or have greeted, is told when we go or move. */
static void due_control_all(struct ivshmem_msg *msg)
{
    unsigned slot;

    for (slot = 0; slot < msg->slots; slot++) {
        if (msg->peer[slot].state == IVSHMEM_MSG_GREETING ||
            msg->peer[slot].state == IVSHMEM_MSG_LINKED) {
            due_control(msg, slot);
        }
    }
}

/*
 * Let a peer see how far we are in the rings, and ring it if it waits for that.
 */
ON_EACH_MESSAGE void publish(struct ivshmem_msg *msg, unsigned slot)
{
    const struct ivshmem_msg_peer *peer = &msg->peer[slot];
    struct ivshmem_msg_side *our = ours(msg, slot);
    uint32_t want = 0;

    if (msg->committed & bit(slot)) {
        store(&our->head, peer->head);
        want |= IVSHMEM_MSG_WANT_MESSAGES;
    }
    if (msg->released & bit(slot)) {
        store(&our->tail, peer->tail);
        want |= IVSHMEM_MSG_WANT_SPACE;
    }
    msg->committed &= ~bit(slot);
    msg->released &= ~bit(slot);
    if (want) {
        full_barrier();
        if (look(&theirs(msg, slot)->wants) & want) {
            msg->due |= bit(slot);
        }
    }
}

static void publish_all(struct ivshmem_msg *msg)
{
    uint32_t slots = msg->committed | msg->released;

    for (; slots; slots &= slots - 1) {
        publish(msg, (unsigned)__builtin_ctz(slots));
    }
}

void ivshmem_msg_publish(struct ivshmem_msg *msg, unsigned slot)
{
    if (!evicted(msg)) {
        publish(msg, slot);
    }
}

int ivshmem_msg_open(struct ivshmem_msg *msg, void *memory, size_t size,
                     unsigned slots, int slot, uint32_t id, uint32_t flags)
{
    struct ivshmem_msg_entry *e;
    unsigned reader;

    __builtin_memset(msg, 0, sizeof(*msg));
    msg->memory = memory;
    msg->slots = slots;
    msg->flags = flags;
    msg->id = id;
    msg->doorbell = id;
    msg->former = -1;
    msg->ring_size = ivshmem_msg_ring_size(size, slots);
    if (!msg->ring_size || (uintptr_t)memory % 64 || slot >= (int)slots ||
        flags & ~IVSHMEM_MSG_CRC) {
        return IVSHMEM_MSG_BAD_MEMORY;
    }
    msg->slot = slot < 0 ? choose_slot(msg) : (unsigned)slot;

    e = entry(msg, msg->slot);
    if (occupied(msg, msg->slot) && load(&e->doorbell) != id) {
        msg->former = (int32_t)(load(&e->doorbell) & UINT16_MAX);
    }
    msg->session = load(&e->counter) % UINT16_MAX + 1;

    /*
     * Nobody may see a mixture of the former owner and us: the entry is
     * empty while it is written, and none of our sides links.
     */
    store(&e->session, 0);
    store(&e->counter, msg->session);
    store(&e->id, id);
    store(&e->doorbell, id);
    store(&e->layout, layout(msg));
    store(&e->magic, IVSHMEM_MSG_MAGIC);
    for (reader = 0; reader < slots; reader++) {
        store(&ours(msg, reader)->link, 0);
        store(&ours(msg, reader)->gone, 0);
    }
    store(&e->session, msg->session);
    /* of two peers that come at once, at least one must see the other */
    full_barrier();
    return 0;
}

void ivshmem_msg_close(struct ivshmem_msg *msg)
{
    if (!evicted(msg)) {
        publish_all(msg);
        store(&entry(msg, msg->slot)->session, 0);
        due_control_all(msg);
    }
}

void ivshmem_msg_move(struct ivshmem_msg *msg, uint32_t id)
{
    if (id != msg->doorbell && !evicted(msg)) {
        msg->doorbell = id;
        store(&entry(msg, msg->slot)->doorbell, id);
        due_control_all(msg);
    }
}

/* Begin a link with a peer that was not here the last time. */
static void greet(struct ivshmem_msg *msg, unsigned slot, uint32_t id,
                  uint32_t session)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    struct ivshmem_msg_side *our = ours(msg, slot);

    *peer = (struct ivshmem_msg_peer) {
        .state = IVSHMEM_MSG_GREETING,
        .id = id,
        .session = session,
        .there = peer->there,
        .wants = IVSHMEM_MSG_WANT_MESSAGES,
    };
    msg->committed &= ~bit(slot);
    msg->released &= ~bit(slot);
    /* indices count for one link only: see index_counts() */
    store(&our->link, 0);
    store(&our->head, 0);
    store(&our->tail, 0);
    store(&our->wants, peer->wants);
    store(&our->gone, 0);
    store(&our->link, msg->session << 16 | session);
    due_control(msg, slot);
}

static bool linked(const struct ivshmem_msg *msg, unsigned slot)
{
    return load(&theirs(msg, slot)->link) ==
           (msg->peer[slot].session << 16 | msg->session);
}

/* Look at one slot; true if its state or session is another than before. */
static bool poll_slot(struct ivshmem_msg *msg, unsigned slot)
{
    const struct ivshmem_msg_entry *e = entry(msg, slot);
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    enum ivshmem_msg_state old_state = peer->state;
    uint32_t old_session = peer->session;
    uint32_t session = load(&e->session);
    uint32_t magic = load(&e->magic);
    uint32_t their_layout = load(&e->layout);
    uint32_t id = load(&e->id);
    uint32_t doorbell = load(&e->doorbell);

    if (load(&e->session) != session) {
        /* it is being written, and who writes it rings us afterwards */
        return false;
    }
    if (magic != IVSHMEM_MSG_MAGIC || !valid_session(session) ||
        (peer->gone == session && peer->doorbell == doorbell)) {
        if (peer->state == IVSHMEM_MSG_LINKED) {
            peer->state = IVSHMEM_MSG_LEFT;
        } else if (peer->state != IVSHMEM_MSG_LEFT) {
            peer->state = IVSHMEM_MSG_ABSENT;
        }
    } else if (their_layout != layout(msg) ||
               (id | doorbell) > UINT16_MAX) {
        peer->state = IVSHMEM_MSG_FOREIGN;
    } else if (peer->session != session || peer->id != id ||
               peer->state == IVSHMEM_MSG_ABSENT ||
               peer->state == IVSHMEM_MSG_FOREIGN) {
        greet(msg, slot, id, session);
        peer->doorbell = doorbell;
    } else if (peer->doorbell != doorbell) {
        /* what we have rung since it moved has not reached it */
        peer->doorbell = doorbell;
        due_control(msg, slot);
        if (peer->gone) {
            /* it was, and is back under another id */
            peer->gone = 0;
            store(&ours(msg, slot)->gone, 0);
            if (peer->state == IVSHMEM_MSG_LEFT) {
                peer->state = IVSHMEM_MSG_GREETING;
            }
        }
    }
    if (peer->state == IVSHMEM_MSG_GREETING && linked(msg, slot)) {
        peer->state = IVSHMEM_MSG_LINKED;
    }
    return peer->state != old_state || peer->session != old_session;
}

static void look_at_slot(struct ivshmem_msg *msg, unsigned slot,
                         bool (*connected)(void *opaque, uint32_t id),
                         void *opaque)
{
    const struct ivshmem_msg_entry *e = entry(msg, slot);
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    uint32_t session = load(&e->session);
    uint32_t doorbell = load(&e->doorbell);

    if (load(&e->magic) != IVSHMEM_MSG_MAGIC || !valid_session(session) ||
        load(&e->session) != session) {
        return;
    }
    if (connected(opaque, doorbell)) {
        peer->there = session;
    } else if (peer->there == session) {
        /* who has not been seen yet may be about to be announced */
        peer->there = 0;
        peer->gone = session;
        peer->doorbell = doorbell;
        store(&ours(msg, slot)->gone, session);
    }
}

void ivshmem_msg_look_around(struct ivshmem_msg *msg,
                             bool (*connected)(void *opaque, uint32_t id),
                             void *opaque)
{
    unsigned slot;

    for (slot = 0; slot < msg->slots && !evicted(msg); slot++) {
        if (slot != msg->slot) {
            look_at_slot(msg, slot, connected, opaque);
        }
    }
}

int32_t ivshmem_msg_poll(struct ivshmem_msg *msg)
{
    uint32_t changed = 0;
    unsigned slot;

    if (evicted(msg)) {
        return IVSHMEM_MSG_EVICTED;
    }
    for (slot = 0; slot < msg->slots; slot++) {
        if (slot != msg->slot && poll_slot(msg, slot)) {
            changed |= bit(slot);
        }
    }
    return (int32_t)changed;
}

static int32_t next_due(const struct ivshmem_msg *msg, uint32_t *mask)
{
    unsigned slot;

    if (!*mask) {
        return -1;
    }
    slot = (unsigned)__builtin_ctz(*mask);
    *mask &= *mask - 1;
    return (int32_t)msg->peer[slot].doorbell;
}

int32_t ivshmem_msg_doorbell(struct ivshmem_msg *msg)
{
    if ((msg->committed | msg->released) && !evicted(msg)) {
        publish_all(msg);
    }
    /* who has not rung for control apart does both at once */
    msg->due |= msg->due_control;
    msg->due_control = 0;
    return next_due(msg, &msg->due);
}

int32_t ivshmem_msg_doorbell_control(struct ivshmem_msg *msg)
{
    return next_due(msg, &msg->due_control);
}

/*
 * The rings
 */

/*
 * Whether one of the peer's indices, which was just loaded, means something. It
 * does as long as the peer stands by the link: one that restarts takes back the
 * link before it resets its indices. That the link was there before, poll has
 * seen.
 */
static bool index_counts(const struct ivshmem_msg *msg, unsigned slot)
{
    return look(&theirs(msg, slot)->link) ==
           (msg->peer[slot].session << 16 | msg->session);
}

ON_EACH_MESSAGE void set_wants(struct ivshmem_msg *msg, unsigned slot,
                               uint32_t wants)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    uint32_t more = wants & ~peer->wants;

    if (peer->wants != wants) {
        peer->wants = wants;
        store(&ours(msg, slot)->wants, wants);
    }
    if (more) {
        full_barrier();
    }
}

static uint32_t padded(uint32_t length)
{
    return (length + IVSHMEM_MSG_ALIGN - 1) & ~(IVSHMEM_MSG_ALIGN - 1);
}

static int broken(struct ivshmem_msg_peer *peer)
{
    peer->state = IVSHMEM_MSG_DEAD;
    return IVSHMEM_MSG_BROKEN;
}

/* How much of a ring is in use, if the two indices make sense. */
static bool ring_used(const struct ivshmem_msg *msg, uint32_t head,
                      uint32_t tail, uint32_t *used)
{
    *used = head - tail;
    return *used <= msg->ring_size && *used % IVSHMEM_MSG_ALIGN == 0;
}

/* The @length bytes at @index of a ring. */
static void set_span(const struct ivshmem_msg *msg, uint8_t *ring_start,
                     uint32_t index, uint32_t length,
                     struct ivshmem_msg_span span[2])
{
    uint32_t start = index & (msg->ring_size - 1);
    uint32_t room = msg->ring_size - start;
    uint32_t first = length < room ? length : room;

    span[0].data = ring_start + start;
    span[0].length = first;
    span[1].data = ring_start;
    span[1].length = length - first;
}

/*
 * Shared memory may be mapped as device memory, as Linux's VFIO does on Arm.
 * There an access that is not aligned is a fault, which rules out memcpy():
 * on the shared side, which starts at a multiple of IVSHMEM_MSG_ALIGN, copy
 * words of the CPU's size, and then bytes.
 */
typedef uintptr_t word_t;

_Static_assert(IVSHMEM_MSG_ALIGN % sizeof(word_t) == 0, "words are aligned");

/*
 * Copy four words at a time, of which all Arm cores of 32 bits are capable if
 * both sides are aligned. Returns how many bytes that were.
 */
static uint32_t copy_blocks(volatile void *to, const volatile void *from,
                            uint32_t length)
{
#ifdef __arm__
    const uint32_t block = 4 * sizeof(uint32_t);
    uint32_t blocks = length / block;

    if (((uintptr_t)to | (uintptr_t)from) % sizeof(uint32_t)) {
        return 0;
    }
    for (length = blocks * block; blocks; blocks--) {
        __asm__ volatile("ldmia %0!, {r3, r4, r5, r6}\n\t"
                         "stmia %1!, {r3, r4, r5, r6}"
                         : "+l" (from), "+l" (to)
                         : : "r3", "r4", "r5", "r6", "memory");
    }
    return length;
#else
    (void)to;
    (void)from;
    (void)length;
    return 0;
#endif
}

static void copy_to_shared(volatile void *to, const void *from,
                           uint32_t length)
{
    uint32_t done = copy_blocks(to, from, length);
    volatile uint8_t *t = (volatile uint8_t *)to + done;
    const uint8_t *f = (const uint8_t *)from + done;
    word_t word;

    for (length -= done; length >= sizeof(word);
         length -= (uint32_t)sizeof(word)) {
        __builtin_memcpy(&word, f, sizeof(word));
        *(volatile word_t *)(volatile void *)t = word;
        t += sizeof(word);
        f += sizeof(word);
    }
    while (length--) {
        *t++ = *f++;
    }
}

/* What was copied is what is looked at, whatever the peer does meanwhile. */
static void copy_from_shared(void *to, const volatile void *from,
                             uint32_t length)
{
    uint32_t done = copy_blocks(to, from, length);
    uint8_t *t = (uint8_t *)to + done;
    const volatile uint8_t *f = (const volatile uint8_t *)from + done;
    word_t word;

    for (length -= done; length >= sizeof(word);
         length -= (uint32_t)sizeof(word)) {
        word = *(const volatile word_t *)(const volatile void *)f;
        __builtin_memcpy(t, &word, sizeof(word));
        t += sizeof(word);
        f += sizeof(word);
    }
    while (length--) {
        *t++ = *f++;
    }
}

/* Where header number @index stands; it never wraps. */
static uint8_t *header_at(const struct ivshmem_msg *msg, uint8_t *ring_start,
                          uint32_t index)
{
    return ring_start + (index & (msg->ring_size - 1));
}

/* The CRC covers the header as it stands in the ring, and the payload. */
static uint32_t header_crc(const struct ivshmem_msg_header *wire)
{
    return ivshmem_msg_crc(0, wire, offsetof(struct ivshmem_msg_header, crc));
}

static uint32_t span_crc(const struct ivshmem_msg_header *wire,
                         const struct ivshmem_msg_span span[2])
{
    uint32_t crc = header_crc(wire);

    crc = ivshmem_msg_crc(crc, span[0].data, span[0].length);
    return ivshmem_msg_crc(crc, span[1].data, span[1].length);
}

/*
 * 0 if the ring to a peer has @need bytes of space. If it has not, the peer
 * is asked to ring when it takes a message; since it may have done so
 * just before we asked, look again.
 */
ON_EACH_MESSAGE int check_space(struct ivshmem_msg *msg, unsigned slot,
                                uint32_t need)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    uint32_t used = peer->head - peer->seen_tail;
    int attempt;

    for (attempt = 0; need > msg->ring_size - used; attempt++) {
        uint32_t tail = load(&theirs(msg, slot)->tail);

        if (!index_counts(msg, slot)) {
            return IVSHMEM_MSG_NO_LINK;
        }
        if (!ring_used(msg, peer->head, tail, &used)) {
            return broken(peer);
        }
        peer->seen_tail = tail;
        if (need > msg->ring_size - used) {
            if (attempt > 0) {
                return IVSHMEM_MSG_FULL;
            }
            set_wants(msg, slot, peer->wants | IVSHMEM_MSG_WANT_SPACE);
        }
    }
    set_wants(msg, slot, peer->wants & ~IVSHMEM_MSG_WANT_SPACE);
    return 0;
}

ON_EACH_MESSAGE int reserve(struct ivshmem_msg *msg, unsigned slot,
                            size_t length, struct ivshmem_msg_span span[2])
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    uint32_t need;
    int error;

    peer->reserved = 0;
    if (evicted(msg)) {
        return IVSHMEM_MSG_EVICTED;
    }
    if (peer->state != IVSHMEM_MSG_LINKED || !index_counts(msg, slot)) {
        return IVSHMEM_MSG_NO_LINK;
    }
    if (length > msg->ring_size - HEADER_SIZE) {
        return IVSHMEM_MSG_TOO_LONG;
    }
    need = HEADER_SIZE + padded((uint32_t)length);
    error = check_space(msg, slot, need);
    if (error) {
        return error;
    }
    peer->reserved = need;
    set_span(msg, ring(msg, msg->slot, slot), peer->head + HEADER_SIZE,
             (uint32_t)length, span);
    return 0;
}

int ivshmem_msg_reserve(struct ivshmem_msg *msg, unsigned slot, size_t length,
                        struct ivshmem_msg_span span[2])
{
    return reserve(msg, slot, length, span);
}

ON_EACH_MESSAGE int commit(struct ivshmem_msg *msg, unsigned slot,
                           uint32_t type, size_t length)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    struct ivshmem_msg_header wire;
    uint8_t *to;

    if (!peer->reserved) {
        return IVSHMEM_MSG_NO_LINK;
    }
    if (length > peer->reserved - HEADER_SIZE) {
        return IVSHMEM_MSG_TOO_LONG;
    }
    to = ring(msg, msg->slot, slot);
    wire.length = le32((uint32_t)length);
    wire.sequence = le32(peer->sent);
    wire.type = le32(type);
    wire.crc = 0;
    if (msg->flags & IVSHMEM_MSG_CRC) {
        struct ivshmem_msg_span span[2];

        set_span(msg, to, peer->head + HEADER_SIZE, (uint32_t)length, span);
        wire.crc = le32(span_crc(&wire, span));
    }
    copy_to_shared(header_at(msg, to, peer->head), &wire, HEADER_SIZE);
    peer->sent++;
    peer->head += HEADER_SIZE + padded((uint32_t)length);
    peer->reserved = 0;
    msg->committed |= bit(slot);
    return 0;
}

int ivshmem_msg_commit(struct ivshmem_msg *msg, unsigned slot, uint32_t type,
                       size_t length)
{
    return commit(msg, slot, type, length);
}

int ivshmem_msg_send(struct ivshmem_msg *msg, unsigned slot, uint32_t type,
                     const void *payload, size_t length)
{
    struct ivshmem_msg_span span[2];
    int error = reserve(msg, slot, length, span);

    if (error) {
        return error;
    }
    copy_to_shared(span[0].data, payload, span[0].length);
    if (span[1].length) {
        copy_to_shared(span[1].data, (const uint8_t *)payload + span[0].length,
                       span[1].length);
    }
    commit(msg, slot, type, length);
    publish(msg, slot);
    return 0;
}

/* How many bytes wait for us in a peer's ring, or an error. */
ON_EACH_MESSAGE int32_t waiting(struct ivshmem_msg *msg, unsigned slot)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    uint32_t head = peer->seen_head;
    uint32_t used;

    if (peer->state == IVSHMEM_MSG_DEAD) {
        return IVSHMEM_MSG_BROKEN;
    }
    if (head == peer->tail) {
        head = load(&theirs(msg, slot)->head);
    }
    if ((peer->state != IVSHMEM_MSG_LINKED &&
         peer->state != IVSHMEM_MSG_LEFT) || !index_counts(msg, slot)) {
        return IVSHMEM_MSG_NO_LINK;
    }
    if (!ring_used(msg, head, peer->tail, &used)) {
        return broken(peer);
    }
    peer->seen_head = head;
    return (int32_t)used;
}

/*
 * The next message's header, as it stands in the ring, and where its payload
 * is. Returns the payload's length or an error.
 */
ON_EACH_MESSAGE int32_t next_message(struct ivshmem_msg *msg, unsigned slot,
                                     struct ivshmem_msg_header *wire,
                                     struct ivshmem_msg_span span[2])
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];
    uint8_t *from;
    uint32_t length;
    int32_t used;

    peer->peeked = 0;
    if (evicted(msg)) {
        return IVSHMEM_MSG_EVICTED;
    }
    used = waiting(msg, slot);
    if (used <= 0) {
        return used ? used : IVSHMEM_MSG_EMPTY;
    }

    /* used is a multiple of the header's size: a header at least is there */
    from = ring(msg, slot, msg->slot);
    copy_from_shared(wire, header_at(msg, from, peer->tail), HEADER_SIZE);
    length = le32(wire->length);
    if (length > (uint32_t)used - HEADER_SIZE) {
        return broken(peer);
    }
    peer->peeked = HEADER_SIZE + padded(length);
    peer->sequence = le32(wire->sequence);
    set_span(msg, from, peer->tail + HEADER_SIZE, length, span);
    return (int32_t)length;
}

/* Have done with the message that was peeked at. */
ON_EACH_MESSAGE void take(struct ivshmem_msg *msg, unsigned slot)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];

    peer->tail += peer->peeked;
    peer->peeked = 0;
    msg->released |= bit(slot);
}

/* The same if the message cannot be given to the caller. */
static int32_t drop(struct ivshmem_msg *msg, unsigned slot, int32_t error)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];

    peer->expected++;
    peer->bad_crc += error == IVSHMEM_MSG_BAD_CRC;
    peer->too_long += error == IVSHMEM_MSG_TOO_LONG;
    take(msg, slot);
    return error;
}

static void tell(struct ivshmem_msg_header *header,
                 const struct ivshmem_msg_header *wire)
{
    header->length = le32(wire->length);
    header->sequence = le32(wire->sequence);
    header->type = le32(wire->type);
    header->crc = le32(wire->crc);
}

int32_t ivshmem_msg_peek(struct ivshmem_msg *msg, unsigned slot,
                         struct ivshmem_msg_header *header,
                         struct ivshmem_msg_span span[2])
{
    struct ivshmem_msg_header wire;
    int32_t length = next_message(msg, slot, &wire, span);

    if (length < 0) {
        return length;
    }
    if (msg->flags & IVSHMEM_MSG_CRC && span_crc(&wire, span) !=
                                        le32(wire.crc)) {
        return drop(msg, slot, IVSHMEM_MSG_BAD_CRC);
    }
    tell(header, &wire);
    return length;
}

ON_EACH_MESSAGE void release(struct ivshmem_msg *msg, unsigned slot)
{
    struct ivshmem_msg_peer *peer = &msg->peer[slot];

    if (peer->peeked) {
        peer->gaps += peer->sequence != peer->expected;
        peer->expected = peer->sequence + 1;
        peer->received++;
        take(msg, slot);
    }
}

void ivshmem_msg_release(struct ivshmem_msg *msg, unsigned slot)
{
    release(msg, slot);
}

int32_t ivshmem_msg_receive(struct ivshmem_msg *msg, unsigned slot,
                            struct ivshmem_msg_header *header,
                            void *buffer, size_t capacity)
{
    struct ivshmem_msg_span span[2];
    struct ivshmem_msg_header wire;
    int32_t length = next_message(msg, slot, &wire, span);

    if (length < 0) {
        return length;
    }
    if ((uint32_t)length > capacity) {
        length = drop(msg, slot, IVSHMEM_MSG_TOO_LONG);
    } else {
        copy_from_shared(buffer, span[0].data, span[0].length);
        if (span[1].length) {
            copy_from_shared((uint8_t *)buffer + span[0].length, span[1].data,
                             span[1].length);
        }
        /* what is checked is the copy, which is what the caller gets */
        if (msg->flags & IVSHMEM_MSG_CRC &&
            ivshmem_msg_crc(header_crc(&wire), buffer, (uint32_t)length) !=
            le32(wire.crc)) {
            length = drop(msg, slot, IVSHMEM_MSG_BAD_CRC);
        } else {
            tell(header, &wire);
            release(msg, slot);
        }
    }
    publish(msg, slot);
    return length;
}

bool ivshmem_msg_want_doorbell(struct ivshmem_msg *msg, unsigned slot,
                               bool want)
{
    uint32_t wants = msg->peer[slot].wants & ~IVSHMEM_MSG_WANT_MESSAGES;

    set_wants(msg, slot, want ? wants | IVSHMEM_MSG_WANT_MESSAGES : wants);
    return waiting(msg, slot) != 0;
}
