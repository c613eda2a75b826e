/*
 * ICMsg, Zephyr's protocol between two cores, over two regions of shared memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * Who synchronises with whom: a packet is made visible by the release of the
 * writer's wr_idx, which the reader acquires; free space by that of rd_idx; an
 * empty ring, and what a session begins with, by that of handshake. A doorbell
 * comes after the stores that it announces; the driver sees to that.
 *
 * Data is copied in aligned words: the memory may be mapped as device memory.
 */

#include "ivshmem_icmsg.h"

#define WORD ((uint32_t)sizeof(uint32_t))
#define MAX_REGION (1u << 30)
#define SESSION_MASK 0xffffu

static const uint8_t magic[] = {
    0x45, 0x6d, 0x31, 0x6c, 0x31, 0x4b, 0x30, 0x72, 0x6e, 0x33, 0x6c, 0x69,
    0x34,
};

/* The least that the data of a region must hold: magic, and 4 bytes free. */
#define MIN_DATA (WORD + 16 + WORD)

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

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, le32(value), __ATOMIC_RELEASE);
}

/*
 * The rings
 */

static bool open_ring(struct ivshmem_icmsg_ring *ring, void *region,
                      size_t size, uint32_t alignment)
{
    uint8_t *start = region;

    if ((uintptr_t)region % alignment || size % WORD || size > MAX_REGION ||
        size < (size_t)alignment + WORD + MIN_DATA) {
        return false;
    }
    ring->read = (uint32_t *)(void *)start;
    ring->handshake = ring->read + 1;
    ring->write = (uint32_t *)(void *)(start + alignment);
    ring->data = ring->write + 1;
    ring->size = (uint32_t)size - alignment - WORD;
    ring->index = 0;
    return true;
}

/* The index so many bytes, a multiple of 4 and not more than all, further */
static uint32_t advance(const struct ivshmem_icmsg_ring *ring, uint32_t index,
                        uint32_t bytes)
{
    index += bytes;
    return index < ring->size ? index : index - ring->size;
}

static uint32_t distance(const struct ivshmem_icmsg_ring *ring, uint32_t from,
                         uint32_t to)
{
    return to >= from ? to - from : ring->size - from + to;
}

static bool is_index(const struct ivshmem_icmsg_ring *ring, uint32_t value)
{
    return value < ring->size && value % WORD == 0;
}

static uint32_t padded(uint32_t length)
{
    return (length + WORD - 1) / WORD * WORD;
}

static uint32_t packet_header(uint32_t length)
{
    return (length & 0xff) << 8 | length >> 8;      /* big-endian, and first */
}

static uint32_t packet_length(uint32_t header)
{
    return (header & 0xff) << 8 | (header >> 8 & 0xff);
}

static void put_word(struct ivshmem_icmsg_ring *ring, uint32_t index,
                     uint32_t word)
{
    __atomic_store_n(&ring->data[index / WORD], le32(word), __ATOMIC_RELAXED);
}

static uint32_t get_word(const struct ivshmem_icmsg_ring *ring,
                         uint32_t index)
{
    return le32(__atomic_load_n(&ring->data[index / WORD], __ATOMIC_RELAXED));
}

/* Four bytes of a message, or the last ones, as a word of the ring */
static uint32_t to_word(const uint8_t *bytes, uint32_t count)
{
    uint32_t word = 0;

    if (count == WORD) {
        __builtin_memcpy(&word, bytes, WORD);
        return le32(word);
    }
    while (count--) {
        word |= (uint32_t)bytes[count] << 8 * count;
    }
    return word;
}

static void from_word(uint8_t *bytes, uint32_t count, uint32_t word)
{
    if (count == WORD) {
        word = le32(word);
        __builtin_memcpy(bytes, &word, WORD);
        return;
    }
    while (count--) {
        bytes[count] = (uint8_t)(word >> 8 * count);
    }
}

/* Put a packet of 1 to 65535 bytes into our ring. */
static int put_packet(struct ivshmem_icmsg_ring *ring, const uint8_t *bytes,
                      uint32_t length)
{
    uint32_t read = load(ring->read);
    uint32_t index = ring->index;

    if (!is_index(ring, read)) {
        return IVSHMEM_ICMSG_BROKEN;
    }
    if (WORD + padded(length) >
        ring->size - WORD - distance(ring, read, index)) {
        return IVSHMEM_ICMSG_FULL;
    }
    put_word(ring, index, packet_header(length));
    for (index = advance(ring, index, WORD); length;
         index = advance(ring, index, WORD)) {
        uint32_t count = length < WORD ? length : WORD;

        put_word(ring, index, to_word(bytes, count));
        bytes += count;
        length -= count;
    }
    ring->index = index;
    store(ring->write, index);
    return 0;
}

/*
 * Copy the next packet out of the peer's ring, as far as the buffer has room,
 * and leave it there.
 *
 * @next: where the packet ends
 *
 * Returns its length, or an error.
 */
static int32_t get_packet(const struct ivshmem_icmsg_ring *ring,
                          uint8_t *buffer, size_t capacity, uint32_t *next)
{
    uint32_t write = load(ring->write);
    uint32_t index = ring->index;
    uint32_t used, length, left;

    if (!is_index(ring, write)) {
        return IVSHMEM_ICMSG_BROKEN;
    }
    used = distance(ring, index, write);
    if (!used) {
        return IVSHMEM_ICMSG_EMPTY;
    }
    length = packet_length(get_word(ring, index));
    if (length == 0 || length > used - WORD) {
        return IVSHMEM_ICMSG_BROKEN;
    }
    index = advance(ring, index, WORD);
    *next = advance(ring, index, padded(length));
    if (length > capacity) {
        return IVSHMEM_ICMSG_BAD_LENGTH;
    }
    for (left = length; left; index = advance(ring, index, WORD)) {
        uint32_t count = left < WORD ? left : WORD;

        from_word(buffer, count, get_word(ring, index));
        buffer += count;
        left -= count;
    }
    return (int32_t)length;
}

/* Only then is its space free for another packet. */
static void drop_packet(struct ivshmem_icmsg_ring *ring, uint32_t next)
{
    ring->index = next;
    store(ring->read, next);
}

static void empty_ring(struct ivshmem_icmsg_ring *tx)
{
    tx->index = 0;
    store(tx->write, 0);
    store(tx->read, 0);
}

/*
 * Coming and leaving
 */

static uint32_t requested(uint32_t handshake)
{
    return handshake & SESSION_MASK;
}

static uint32_t confirmed(uint32_t handshake)
{
    return handshake >> 16;
}

/* For which session does the peer ask now, and which of ours does it know? */
static uint32_t their_handshake(const struct ivshmem_icmsg *icmsg)
{
    return load(icmsg->tx.handshake);
}

static void store_handshake(struct ivshmem_icmsg *icmsg)
{
    store(icmsg->rx.handshake, icmsg->local | icmsg->remote << 16);
    icmsg->due = true;
}

/* One that we did not have the last time, and the peer does not know. */
static uint32_t new_session(const struct ivshmem_icmsg *icmsg)
{
    uint32_t session = requested(load(icmsg->rx.handshake));

    do {
        session = (session + 1) & SESSION_MASK;
    } while (session == 0 || session == confirmed(their_handshake(icmsg)));
    return session;
}

static bool overlap(uintptr_t one, size_t one_size, uintptr_t other,
                    size_t other_size)
{
    return one < other ? one_size > other - one : other_size > one - other;
}

int ivshmem_icmsg_open(struct ivshmem_icmsg *icmsg,
                       const struct ivshmem_icmsg_config *config)
{
    uint32_t least = config->sessions ? 2 * WORD : WORD;
    uint32_t alignment = config->alignment ? config->alignment : least;

    *icmsg = (struct ivshmem_icmsg) {
        .state = IVSHMEM_ICMSG_OPENING,
        .sessions = config->sessions,
    };
    if (alignment < least || alignment & (alignment - 1) ||
        overlap((uintptr_t)config->tx, config->tx_size,
                (uintptr_t)config->rx, config->rx_size) ||
        !open_ring(&icmsg->tx, config->tx, config->tx_size, alignment) ||
        !open_ring(&icmsg->rx, config->rx, config->rx_size, alignment)) {
        icmsg->state = IVSHMEM_ICMSG_DEAD;
        return IVSHMEM_ICMSG_BAD_MEMORY;
    }
    if (icmsg->sessions) {
        /* the ring is emptied when the peer has asked for its session */
        icmsg->local = new_session(icmsg);
        store_handshake(icmsg);
    } else {
        empty_ring(&icmsg->tx);
        if (put_packet(&icmsg->tx, magic, sizeof(magic))) {
            /* the peer has written there since */
            icmsg->state = IVSHMEM_ICMSG_DEAD;
        }
        icmsg->due = true;
    }
    return 0;
}

void ivshmem_icmsg_close(struct ivshmem_icmsg *icmsg)
{
    if (icmsg->sessions && icmsg->state != IVSHMEM_ICMSG_DEAD) {
        icmsg->local = icmsg->remote = 0;
        store_handshake(icmsg);
    }
    icmsg->state = IVSHMEM_ICMSG_UNBOUND;
}

/* Is the peer still in the session in which we were bound? */
static bool same_session(const struct ivshmem_icmsg *icmsg)
{
    return !icmsg->sessions ||
           requested(their_handshake(icmsg)) == icmsg->remote;
}

static int broken(struct ivshmem_icmsg *icmsg)
{
    icmsg->state = IVSHMEM_ICMSG_DEAD;
    return IVSHMEM_ICMSG_BROKEN;
}

static int unbound(struct ivshmem_icmsg *icmsg)
{
    icmsg->state = IVSHMEM_ICMSG_UNBOUND;
    return IVSHMEM_ICMSG_NOT_BOUND;
}

/* The peer's first packet must be magic; a later protocol may add to it. */
static void expect_magic(struct ivshmem_icmsg *icmsg)
{
    uint8_t packet[64];
    uint32_t next;
    int32_t length = get_packet(&icmsg->rx, packet, sizeof(packet), &next);

    if (length == IVSHMEM_ICMSG_EMPTY) {
        return;
    }
    if (length < (int32_t)sizeof(magic) ||
        __builtin_memcmp(packet, magic, sizeof(magic))) {
        broken(icmsg);
        return;
    }
    drop_packet(&icmsg->rx, next);
    icmsg->state = IVSHMEM_ICMSG_BOUND;
    icmsg->due = true;
}

static void expect_session(struct ivshmem_icmsg *icmsg)
{
    uint32_t handshake = their_handshake(icmsg);

    if (requested(handshake) && requested(handshake) != icmsg->remote) {
        /* it does not look at our ring before it is confirmed */
        empty_ring(&icmsg->tx);
        icmsg->remote = requested(handshake);
        store_handshake(icmsg);
    }
    if (icmsg->remote && confirmed(handshake) == icmsg->local) {
        icmsg->state = IVSHMEM_ICMSG_BOUND;
        icmsg->due = true;
    }
}

enum ivshmem_icmsg_state ivshmem_icmsg_poll(struct ivshmem_icmsg *icmsg)
{
    if (icmsg->state == IVSHMEM_ICMSG_OPENING) {
        if (icmsg->sessions) {
            expect_session(icmsg);
        } else {
            expect_magic(icmsg);
        }
    }
    if (icmsg->state == IVSHMEM_ICMSG_BOUND && !same_session(icmsg)) {
        unbound(icmsg);
    }
    return icmsg->state;
}

bool ivshmem_icmsg_doorbell(struct ivshmem_icmsg *icmsg)
{
    bool due = icmsg->due;

    icmsg->due = false;
    return due;
}

/*
 * Messages
 */

uint32_t ivshmem_icmsg_max_length(const struct ivshmem_icmsg *icmsg)
{
    uint32_t length = icmsg->tx.size - 2 * WORD;

    return length < UINT16_MAX ? length : UINT16_MAX;
}

/* 0 if messages can go both ways, or an error */
static int check_bound(struct ivshmem_icmsg *icmsg)
{
    switch (ivshmem_icmsg_poll(icmsg)) {
    case IVSHMEM_ICMSG_BOUND:
        return 0;
    case IVSHMEM_ICMSG_DEAD:
        return IVSHMEM_ICMSG_BROKEN;
    default:
        return IVSHMEM_ICMSG_NOT_BOUND;
    }
}

int ivshmem_icmsg_send(struct ivshmem_icmsg *icmsg, const void *message,
                       size_t length)
{
    int result = check_bound(icmsg);

    if (result) {
        return result;
    }
    if (length == 0 || length > ivshmem_icmsg_max_length(icmsg)) {
        return IVSHMEM_ICMSG_BAD_LENGTH;
    }
    result = put_packet(&icmsg->tx, message, (uint32_t)length);
    if (result == IVSHMEM_ICMSG_BROKEN) {
        return broken(icmsg);
    }
    icmsg->due |= result == 0;
    return result;
}

int32_t ivshmem_icmsg_receive(struct ivshmem_icmsg *icmsg, void *buffer,
                              size_t capacity)
{
    int32_t result = check_bound(icmsg);
    uint32_t next = 0;

    if (result) {
        return result;
    }
    result = get_packet(&icmsg->rx, buffer, capacity, &next);
    /*
     * If the peer came back before we read its index, that told us nothing. It
     * sends no packet before we have opened again.
     */
    if (!same_session(icmsg)) {
        return unbound(icmsg);
    }
    if (result == IVSHMEM_ICMSG_BROKEN) {
        return broken(icmsg);
    }
    if (result != IVSHMEM_ICMSG_EMPTY) {
        drop_packet(&icmsg->rx, next);
    }
    return result;
}
