/*
 * RPMsg, OpenAMP's protocol between two cores, over one region of shared memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * Who synchronises with whom: a buffer, and its descriptor, pass from one side
 * to the other by the release of the index of the ring in which it is, which
 * the other side acquires. A doorbell comes after the stores that it announces;
 * the driver sees to that.
 *
 * A side takes buffers out of the ring that the other one writes, and gives
 * them into its own: for the host these are "used" and "avail", for the remote
 * "avail" and "used".
 *
 * Data is copied in aligned words: the memory may be mapped as device memory.
 */

#include "ivshmem_rpmsg.h"

#define MAX_REGION (1u << 30)
#define MAX_COUNT 32768u
#define HEADER IVSHMEM_RPMSG_HEADER

#define DESC_SIZE 16u
#define DESC_F_WRITE 2u
#define DESC_F_CHAINED 5u       /* another one follows, or it is a table */
#define FLAGS 0u                /* in both rings */
#define INDEX 2u
#define RING 4u
#define F_NO_DOORBELL 1u        /* in both rings' flags */

#define STATUS_DRIVER_OK 4u

#define FIRST_ADDRESS 1024u
#define NAME_SERVICE 53u
#define ANNOUNCEMENT (IVSHMEM_RPMSG_NAME_SIZE + 8u)
#define GONE 1u

/* Little-endian in memory; its own inverse. */
static uint32_t le32(uint32_t value)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap32(value);
#else
    return value;
#endif
}

static uint16_t le16(uint16_t value)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap16(value);
#else
    return value;
#endif
}

static uint32_t get32(const uint8_t *at)
{
    return le32(__atomic_load_n((const uint32_t *)(const void *)at,
                                __ATOMIC_RELAXED));
}

static void put32(uint8_t *at, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)at, le32(value), __ATOMIC_RELAXED);
}

static uint16_t get16(const uint8_t *at)
{
    return le16(__atomic_load_n((const uint16_t *)(const void *)at,
                                __ATOMIC_RELAXED));
}

static void put16(uint8_t *at, uint32_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, le16((uint16_t)value),
                     __ATOMIC_RELAXED);
}

static uint16_t acquire16(const uint8_t *at)
{
    return le16(__atomic_load_n((const uint16_t *)(const void *)at,
                                __ATOMIC_ACQUIRE));
}

static void release16(uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, le16(value), __ATOMIC_RELEASE);
}

/*
 * Where things are
 */

static uint64_t round_up(uint64_t value, uint32_t align)
{
    return (value + align - 1) & ~(uint64_t)(align - 1);
}

static bool is_power_of_two(uint32_t value)
{
    return value && !(value & (value - 1));
}

/* From the start of a vring to its used ring */
static uint64_t used_offset(uint32_t count, uint32_t align)
{
    return round_up(DESC_SIZE * (uint64_t)count + RING + 2 * count + 2, align);
}

static uint64_t vring_bytes(uint32_t count, uint32_t align)
{
    return used_offset(count, align) + RING + 8 * (uint64_t)count + 2;
}

int ivshmem_rpmsg_layout_zephyr(struct ivshmem_rpmsg_layout *layout,
                                size_t size, uint32_t buffer_size,
                                uint32_t align)
{
    uint64_t vring, buffers;
    uint32_t count;

    if (!is_power_of_two(align) || size > MAX_REGION) {
        return IVSHMEM_RPMSG_BAD_MEMORY;
    }
    for (count = MAX_COUNT; count; count /= 2) {
        vring = round_up(vring_bytes(count, align), align);
        buffers = round_up((uint64_t)buffer_size * count, align);
        if (align + 2 * (vring + buffers) < size) {
            *layout = (struct ivshmem_rpmsg_layout) {
                .vring[1] = (uint32_t)(align + 2 * buffers),
                .vring[0] = (uint32_t)(align + 2 * buffers + vring),
                .buffers = align,
                .buffer_size = buffer_size,
                .align = align,
                .count = (uint16_t)count,
            };
            return 0;
        }
    }
    return IVSHMEM_RPMSG_BAD_MEMORY;
}

int ivshmem_rpmsg_layout_lite(struct ivshmem_rpmsg_layout *layout, size_t size,
                              uint32_t buffer_size, uint16_t count,
                              uint32_t vring_size, uint32_t align)
{
    if (!is_power_of_two(align) || size > MAX_REGION ||
        vring_bytes(count, align) > vring_size ||
        2 * ((uint64_t)vring_size + (uint64_t)count * buffer_size) > size) {
        return IVSHMEM_RPMSG_BAD_MEMORY;
    }
    *layout = (struct ivshmem_rpmsg_layout) {
        .status = IVSHMEM_RPMSG_NO_STATUS,
        .vring[0] = 0,
        .vring[1] = vring_size,
        .buffers = 2 * vring_size,
        .buffer_size = buffer_size,
        .align = align,
        .count = count,
        .returned = true,
        .ring_always = true,
    };
    return 0;
}

static bool check_config(const struct ivshmem_rpmsg_config *c)
{
    const struct ivshmem_rpmsg_layout *l = &c->layout;
    unsigned i;

    if ((uintptr_t)c->memory % 4 || c->size > MAX_REGION || l->align < 4 ||
        !is_power_of_two(l->align) || c->address & (l->align - 1) ||
        !is_power_of_two(l->count) || l->count > MAX_COUNT ||
        (l->status != IVSHMEM_RPMSG_NO_STATUS && l->status >= c->size)) {
        return false;
    }
    for (i = 0; i < 2; i++) {
        if (l->vring[i] & (l->align - 1) ||
            l->vring[i] + vring_bytes(l->count, l->align) > c->size) {
            return false;
        }
    }
    return !c->host ||
           (l->buffers % 4 == 0 && l->buffer_size % 4 == 0 &&
            l->buffer_size > HEADER &&
            l->buffers + 2 * (uint64_t)l->count * l->buffer_size <= c->size);
}

static void open_vring(const struct ivshmem_rpmsg_config *c,
                       struct ivshmem_rpmsg_vring *vring, unsigned number)
{
    vring->desc = (uint8_t *)c->memory + c->layout.vring[number];
    vring->avail = vring->desc + DESC_SIZE * c->layout.count;
    vring->used = vring->desc + (size_t)used_offset(c->layout.count,
                                                    c->layout.align);
}

static uint8_t *status_byte(const struct ivshmem_rpmsg *rpmsg)
{
    return rpmsg->config.layout.status == IVSHMEM_RPMSG_NO_STATUS ? NULL :
           (uint8_t *)rpmsg->config.memory + rpmsg->config.layout.status;
}

/*
 * Buffers
 */

/* A buffer that is ours to read or fill */
struct buffer {
    uint16_t id;
    uint8_t *start;
    uint32_t size;
};

static int broken(struct ivshmem_rpmsg *rpmsg)
{
    rpmsg->state = IVSHMEM_RPMSG_DEAD;
    return IVSHMEM_RPMSG_BROKEN;
}

static uint32_t buffer_offset(const struct ivshmem_rpmsg *rpmsg,
                              const struct ivshmem_rpmsg_vring *vring,
                              uint16_t id)
{
    const struct ivshmem_rpmsg_layout *l = &rpmsg->config.layout;

    return l->buffers +
           ((vring == &rpmsg->out ? l->count : 0u) + id) * l->buffer_size;
}

/* Where is it? A host knows, a remote must believe the descriptor. */
static bool find_buffer(const struct ivshmem_rpmsg *rpmsg,
                        const struct ivshmem_rpmsg_vring *vring,
                        struct buffer *buffer)
{
    const struct ivshmem_rpmsg_config *c = &rpmsg->config;
    const uint8_t *desc = vring->desc + DESC_SIZE * buffer->id;
    uint64_t offset;

    if (c->host) {
        offset = buffer_offset(rpmsg, vring, buffer->id);
        buffer->size = c->layout.buffer_size;
    } else {
        offset = (get32(desc) | (uint64_t)get32(desc + 4) << 32) - c->address;
        buffer->size = get32(desc + 8);
        if (get16(desc + 12) & DESC_F_CHAINED || offset % 4 ||
            buffer->size % 4 || buffer->size < HEADER || offset > c->size ||
            buffer->size > c->size - offset) {
            return false;
        }
    }
    buffer->start = (uint8_t *)c->memory + offset;
    return true;
}

/* Vring 1's index of what came back begins with so many. */
static uint16_t returned(const struct ivshmem_rpmsg *rpmsg)
{
    return rpmsg->config.layout.returned ? rpmsg->config.layout.count : 0;
}

/* So many buffers the other side can have passed to us since we looked. */
static uint16_t most(const struct ivshmem_rpmsg *rpmsg,
                     const struct ivshmem_rpmsg_vring *vring)
{
    if (!rpmsg->config.host) {
        return rpmsg->config.layout.count;
    }
    /* a host gets back what it has given, and no more */
    return (uint16_t)(vring->given - vring->taken +
                      (vring == &rpmsg->out ? returned(rpmsg) : 0));
}

/*
 * Look at the next buffer that the other side has passed to us; taken++ takes
 * it.
 *
 * Returns 0, IVSHMEM_RPMSG_EMPTY or _BROKEN.
 */
static int peek(struct ivshmem_rpmsg *rpmsg,
                const struct ivshmem_rpmsg_vring *vring, struct buffer *buffer)
{
    const struct ivshmem_rpmsg_config *c = &rpmsg->config;
    const uint8_t *ring = c->host ? vring->used : vring->avail;
    uint16_t passed = (uint16_t)(acquire16(ring + INDEX) - vring->taken);
    unsigned slot = vring->taken & (c->layout.count - 1u);
    uint32_t id;

    if (!passed) {
        return IVSHMEM_RPMSG_EMPTY;
    }
    if (passed > most(rpmsg, vring)) {
        return broken(rpmsg);
    }
    id = c->host ? get32(ring + RING + 8 * slot) : get16(ring + RING + 2 * slot);
    if (id >= c->layout.count) {
        return broken(rpmsg);
    }
    buffer->id = (uint16_t)id;
    if (!find_buffer(rpmsg, vring, buffer)) {
        return broken(rpmsg);
    }
    return 0;
}

/* Pass it to the other side, and know whether that wants to be told. */
static void give(struct ivshmem_rpmsg *rpmsg, struct ivshmem_rpmsg_vring *vring,
                 uint16_t id, uint32_t bytes)
{
    const struct ivshmem_rpmsg_config *c = &rpmsg->config;
    uint8_t *mine = c->host ? vring->avail : vring->used;
    const uint8_t *theirs = c->host ? vring->used : vring->avail;
    unsigned slot = vring->given & (c->layout.count - 1u);

    if (c->host) {
        put16(mine + RING + 2 * slot, id);
    } else {
        put32(mine + RING + 8 * slot, id);
        put32(mine + RING + 8 * slot + 4, bytes);
    }
    vring->given++;
    release16(mine + INDEX, vring->given);
    /* it looks at the index after it has asked for a doorbell */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(get16(theirs + FLAGS) & F_NO_DOORBELL) ||
        (vring == &rpmsg->out && c->layout.ring_always)) {
        rpmsg->due = true;
    }
}

/* A buffer for a message: one that was kept, one never used, or one taken */
static int take_free(struct ivshmem_rpmsg *rpmsg, struct buffer *buffer)
{
    struct ivshmem_rpmsg_vring *out = &rpmsg->out;
    int result = 0;

    if (out->holds || (rpmsg->config.host &&
                       rpmsg->fresh < rpmsg->config.layout.count)) {
        buffer->id = out->holds ? out->held : rpmsg->fresh++;
        if (!find_buffer(rpmsg, out, buffer)) {
            return broken(rpmsg);
        }
    } else {
        result = peek(rpmsg, out, buffer);
        out->taken = (uint16_t)(out->taken + (result == 0));
    }
    if (result == 0) {
        out->holds = true;
        out->held = buffer->id;
    }
    return result == IVSHMEM_RPMSG_EMPTY ? IVSHMEM_RPMSG_FULL : result;
}

/* By words, on the side that is shared; the last one may be filled up. */
static void copy_in(uint8_t *to, const uint8_t *from, size_t bytes)
{
    uint32_t word;

    for (; bytes >= sizeof(word); bytes -= sizeof(word)) {
        __builtin_memcpy(&word, from, sizeof(word));
        put32(to, le32(word));
        to += sizeof(word);
        from += sizeof(word);
    }
    if (bytes) {
        for (word = 0; bytes--;) {
            word |= (uint32_t)from[bytes] << 8 * bytes;
        }
        put32(to, word);
    }
}

static void copy_out(uint8_t *to, const uint8_t *from, size_t bytes)
{
    uint32_t word;

    for (; bytes >= sizeof(word); bytes -= sizeof(word)) {
        word = le32(get32(from));
        __builtin_memcpy(to, &word, sizeof(word));
        to += sizeof(word);
        from += sizeof(word);
    }
    if (bytes) {
        word = get32(from);
        while (bytes--) {
            to[bytes] = (uint8_t)(word >> 8 * bytes);
        }
    }
}

static int send_to(struct ivshmem_rpmsg *rpmsg, uint32_t from, uint32_t to,
                   const void *message, size_t length)
{
    struct buffer buffer;
    int result = take_free(rpmsg, &buffer);

    if (result) {
        return result;
    }
    if (length > UINT16_MAX || length > buffer.size - HEADER) {
        return IVSHMEM_RPMSG_BAD_LENGTH;
    }
    put32(buffer.start, from);
    put32(buffer.start + 4, to);
    put32(buffer.start + 8, 0);
    put32(buffer.start + 12, (uint32_t)length);
    copy_in(buffer.start + HEADER, message, length);
    rpmsg->out.holds = false;
    give(rpmsg, &rpmsg->out, buffer.id, buffer.size);
    return 0;
}

/*
 * Endpoints
 */

static uint32_t address_of(int endpoint)
{
    return FIRST_ADDRESS + (uint32_t)endpoint;
}

static bool same_name(const char *one, const char *other)
{
    unsigned i;

    for (i = 0; i < IVSHMEM_RPMSG_NAME_SIZE - 1 && one[i] == other[i]; i++) {
        if (!one[i]) {
            break;
        }
    }
    return one[i] == other[i];
}

/* The one of that name, "" being a free one; or NULL */
static struct ivshmem_rpmsg_endpoint *
find_name(struct ivshmem_rpmsg_endpoint *endpoints, const char *name)
{
    unsigned i;

    for (i = 0; i < IVSHMEM_RPMSG_ENDPOINTS; i++) {
        if (same_name(endpoints[i].name, name)) {
            return &endpoints[i];
        }
    }
    return NULL;
}

static void set_name(struct ivshmem_rpmsg_endpoint *endpoint, const char *name)
{
    unsigned i;

    *endpoint = (struct ivshmem_rpmsg_endpoint) { .name = "" };
    for (i = 0; i < IVSHMEM_RPMSG_NAME_SIZE - 1 && name[i]; i++) {
        endpoint->name[i] = name[i];
    }
}

static void bind_to(struct ivshmem_rpmsg *rpmsg,
                    struct ivshmem_rpmsg_endpoint *endpoint, uint32_t peer)
{
    endpoint->peer = peer;
    endpoint->bound = true;
    endpoint->due = rpmsg->config.host;     /* who greets the remote */
}

/* Tell the peer that the endpoint is there, or gone. */
static int announce(struct ivshmem_rpmsg *rpmsg, int number, uint32_t flags)
{
    uint8_t text[ANNOUNCEMENT];
    uint32_t words[2] = { address_of(number), flags };
    unsigned i;

    for (i = 0; i < IVSHMEM_RPMSG_NAME_SIZE; i++) {
        text[i] = (uint8_t)rpmsg->endpoint[number].name[i];
    }
    for (i = 0; i < 8; i++) {
        text[IVSHMEM_RPMSG_NAME_SIZE + i] =
            (uint8_t)(words[i / 4] >> 8 * (i % 4));
    }
    return send_to(rpmsg, address_of(number), NAME_SERVICE, text,
                   sizeof(text));
}

static void tell_peer(struct ivshmem_rpmsg *rpmsg)
{
    int i;

    for (i = 0; i < IVSHMEM_RPMSG_ENDPOINTS; i++) {
        struct ivshmem_rpmsg_endpoint *e = &rpmsg->endpoint[i];

        if (e->due && rpmsg->state == IVSHMEM_RPMSG_LINKED) {
            int result = rpmsg->config.host ?
                send_to(rpmsg, address_of(i), e->peer, NULL, 0) :
                announce(rpmsg, i, 0);

            /* buffers that are too small for a name will not get larger */
            e->due = result == IVSHMEM_RPMSG_FULL;
        }
    }
}

/* An announcement has come, with all its bytes suspect. */
static void hear(struct ivshmem_rpmsg *rpmsg, const uint8_t *at)
{
    char name[IVSHMEM_RPMSG_NAME_SIZE];
    uint32_t peer = get32(at + IVSHMEM_RPMSG_NAME_SIZE);
    uint32_t flags = get32(at + IVSHMEM_RPMSG_NAME_SIZE + 4);
    struct ivshmem_rpmsg_endpoint *ours, *theirs;

    copy_out((uint8_t *)name, at, sizeof(name));
    name[sizeof(name) - 1] = '\0';
    if (!name[0]) {
        return;
    }
    ours = find_name(rpmsg->endpoint, name);
    theirs = find_name(rpmsg->announced, name);
    if (flags & GONE) {
        if (ours && ours->peer == peer) {
            ours->bound = false;
        }
        if (theirs && theirs->peer == peer) {
            theirs->name[0] = '\0';
        }
    } else if (ours) {
        bind_to(rpmsg, ours, peer);
    } else {
        theirs = theirs ? theirs : find_name(rpmsg->announced, "");
        if (theirs) {
            set_name(theirs, name);
            theirs->peer = peer;
        }
    }
}

int ivshmem_rpmsg_add(struct ivshmem_rpmsg *rpmsg, const char *name)
{
    struct ivshmem_rpmsg_endpoint *ours, *theirs;
    unsigned length;

    for (length = 0; length < IVSHMEM_RPMSG_NAME_SIZE && name[length];
         length++) {
    }
    if (length == 0 || length == IVSHMEM_RPMSG_NAME_SIZE ||
        find_name(rpmsg->endpoint, name)) {
        return IVSHMEM_RPMSG_BAD_NAME;
    }
    ours = find_name(rpmsg->endpoint, "");
    if (!ours) {
        return IVSHMEM_RPMSG_FULL;
    }
    set_name(ours, name);
    ours->due = !rpmsg->config.host;        /* who announces it */
    theirs = find_name(rpmsg->announced, name);
    if (theirs) {
        bind_to(rpmsg, ours, theirs->peer);
        theirs->name[0] = '\0';
    }
    ivshmem_rpmsg_poll(rpmsg);
    return (int)(ours - rpmsg->endpoint);
}

bool ivshmem_rpmsg_bound(const struct ivshmem_rpmsg *rpmsg, int endpoint)
{
    return endpoint >= 0 && endpoint < IVSHMEM_RPMSG_ENDPOINTS &&
           rpmsg->endpoint[endpoint].bound;
}

/*
 * Coming and leaving
 */

static void clear(uint8_t *start, uint64_t bytes)
{
    uint64_t i;

    for (i = 0; i + 2 <= bytes; i += 2) {
        put16(start + i, 0);
    }
}

static void write_vring(struct ivshmem_rpmsg *rpmsg,
                        struct ivshmem_rpmsg_vring *vring)
{
    const struct ivshmem_rpmsg_config *c = &rpmsg->config;
    unsigned id;

    clear(vring->desc, vring_bytes(c->layout.count, c->layout.align));
    for (id = 0; id < c->layout.count; id++) {
        uint8_t *desc = vring->desc + DESC_SIZE * id;
        uint64_t address = c->address +
                           buffer_offset(rpmsg, vring, (uint16_t)id);

        put32(desc, (uint32_t)address);
        put32(desc + 4, (uint32_t)(address >> 32));
        put32(desc + 8, c->layout.buffer_size);
        put16(desc + 12, vring == &rpmsg->in ? DESC_F_WRITE : 0);
    }
}

int ivshmem_rpmsg_open(struct ivshmem_rpmsg *rpmsg,
                       const struct ivshmem_rpmsg_config *config)
{
    uint8_t *status;
    unsigned id;

    *rpmsg = (struct ivshmem_rpmsg) {
        .state = IVSHMEM_RPMSG_DEAD,
        .config = *config,
    };
    if (!check_config(config)) {
        return IVSHMEM_RPMSG_BAD_MEMORY;
    }
    open_vring(config, &rpmsg->in, config->host ? 0 : 1);
    open_vring(config, &rpmsg->out, config->host ? 1 : 0);
    if (!config->host) {
        rpmsg->state = IVSHMEM_RPMSG_OPENING;
        ivshmem_rpmsg_poll(rpmsg);
        return 0;
    }
    status = status_byte(rpmsg);
    if (status) {
        __atomic_store_n(status, 0, __ATOMIC_SEQ_CST);
    }
    write_vring(rpmsg, &rpmsg->in);
    write_vring(rpmsg, &rpmsg->out);
    put16(rpmsg->out.avail + FLAGS, F_NO_DOORBELL);
    put16(rpmsg->out.used + INDEX, returned(rpmsg));
    rpmsg->out.taken = returned(rpmsg);
    for (id = 0; id < config->layout.count; id++) {
        give(rpmsg, &rpmsg->in, (uint16_t)id, 0);
    }
    if (status) {
        __atomic_store_n(status, STATUS_DRIVER_OK, __ATOMIC_RELEASE);
    }
    rpmsg->state = IVSHMEM_RPMSG_LINKED;
    rpmsg->due = true;
    return 0;
}

/* The host is there when it says so, and has buffers for us. */
static void look_for_host(struct ivshmem_rpmsg *rpmsg)
{
    const struct ivshmem_rpmsg_layout *l = &rpmsg->config.layout;
    struct ivshmem_rpmsg_vring *in = &rpmsg->in, *out = &rpmsg->out;
    const uint8_t *status = status_byte(rpmsg);
    uint16_t offered;

    if (status && !(__atomic_load_n(status, __ATOMIC_ACQUIRE) &
                    STATUS_DRIVER_OK)) {
        return;
    }
    offered = (uint16_t)(acquire16(out->avail + INDEX) -
                         get16(out->used + INDEX));
    if (offered == 0 || offered > l->count) {
        return;
    }
    /* an earlier life of ours may have begun: go on after what it gave back */
    out->given = out->taken = get16(out->used + INDEX);
    in->given = get16(in->used + INDEX);
    in->taken = (uint16_t)(in->given - returned(rpmsg));
    put16(out->used + FLAGS, F_NO_DOORBELL);
    rpmsg->state = IVSHMEM_RPMSG_LINKED;
}

/* What is at the beginning of a message, as it was when we read it */
struct header {
    uint32_t from;
    uint32_t to;
    uint32_t length;
};

static bool read_header(struct ivshmem_rpmsg *rpmsg,
                        const struct buffer *buffer, struct header *header)
{
    header->from = get32(buffer->start);
    header->to = get32(buffer->start + 4);
    header->length = get32(buffer->start + 12) & 0xffff;
    if (header->length > buffer->size - HEADER) {
        broken(rpmsg);
        return false;
    }
    return true;
}

/* The endpoint for which it is, or NULL */
static struct ivshmem_rpmsg_endpoint *addressee(struct ivshmem_rpmsg *rpmsg,
                                                const struct header *header)
{
    uint32_t number = header->to - FIRST_ADDRESS;

    return number < IVSHMEM_RPMSG_ENDPOINTS &&
           rpmsg->endpoint[number].name[0] ? &rpmsg->endpoint[number] : NULL;
}

static void give_back(struct ivshmem_rpmsg *rpmsg, const struct buffer *buffer)
{
    rpmsg->in.taken++;
    give(rpmsg, &rpmsg->in, buffer->id, buffer->size);
}

/*
 * Take what is not for the caller, up to the first message that is. Not for
 * ever, even if the peer goes on sending: it rings for what it has sent since.
 */
static void take_control(struct ivshmem_rpmsg *rpmsg)
{
    struct ivshmem_rpmsg_endpoint *e;
    struct buffer buffer;
    struct header header;
    unsigned left;

    for (left = rpmsg->config.layout.count; left; left--) {
        if (peek(rpmsg, &rpmsg->in, &buffer) ||
            !read_header(rpmsg, &buffer, &header)) {
            return;
        }
        e = addressee(rpmsg, &header);
        if (e && !e->bound) {
            e->peer = header.from;
            e->bound = true;
        }
        if (e && header.length) {
            return;
        }
        if (header.to == NAME_SERVICE && header.length == ANNOUNCEMENT) {
            hear(rpmsg, buffer.start + HEADER);
        }
        give_back(rpmsg, &buffer);
    }
}

enum ivshmem_rpmsg_state ivshmem_rpmsg_poll(struct ivshmem_rpmsg *rpmsg)
{
    if (rpmsg->state == IVSHMEM_RPMSG_OPENING) {
        look_for_host(rpmsg);
    }
    if (rpmsg->state == IVSHMEM_RPMSG_LINKED) {
        take_control(rpmsg);
    }
    tell_peer(rpmsg);
    return rpmsg->state;
}

void ivshmem_rpmsg_close(struct ivshmem_rpmsg *rpmsg)
{
    uint8_t *status = status_byte(rpmsg);
    int i;

    for (i = 0; i < IVSHMEM_RPMSG_ENDPOINTS; i++) {
        struct ivshmem_rpmsg_endpoint *e = &rpmsg->endpoint[i];

        /* one of a remote's is known to the host as soon as it is told */
        if (rpmsg->state == IVSHMEM_RPMSG_LINKED && e->name[0] &&
            (e->bound || (!rpmsg->config.host && !e->due))) {
            announce(rpmsg, i, GONE);
        }
        e->bound = false;
        e->due = false;
    }
    if (rpmsg->config.host && status && rpmsg->state != IVSHMEM_RPMSG_DEAD) {
        __atomic_store_n(status, 0, __ATOMIC_RELEASE);
    }
    rpmsg->state = IVSHMEM_RPMSG_DEAD;
}

bool ivshmem_rpmsg_doorbell(struct ivshmem_rpmsg *rpmsg)
{
    bool due = rpmsg->due;

    rpmsg->due = false;
    return due;
}

/*
 * Messages
 */

int ivshmem_rpmsg_send(struct ivshmem_rpmsg *rpmsg, int endpoint,
                       const void *message, size_t length)
{
    if (ivshmem_rpmsg_poll(rpmsg) == IVSHMEM_RPMSG_DEAD) {
        return IVSHMEM_RPMSG_BROKEN;
    }
    if (!ivshmem_rpmsg_bound(rpmsg, endpoint)) {
        return IVSHMEM_RPMSG_NOT_BOUND;
    }
    if (rpmsg->endpoint[endpoint].due) {
        return IVSHMEM_RPMSG_FULL;      /* the greeting comes first */
    }
    if (length == 0) {
        return IVSHMEM_RPMSG_BAD_LENGTH;
    }
    return send_to(rpmsg, address_of(endpoint),
                   rpmsg->endpoint[endpoint].peer, message, length);
}

int32_t ivshmem_rpmsg_receive(struct ivshmem_rpmsg *rpmsg, int *endpoint,
                              void *buffer, size_t capacity)
{
    const struct ivshmem_rpmsg_endpoint *e;
    struct buffer taken;
    struct header header;
    int32_t result;

    switch (ivshmem_rpmsg_poll(rpmsg)) {
    case IVSHMEM_RPMSG_OPENING:
        return IVSHMEM_RPMSG_EMPTY;
    case IVSHMEM_RPMSG_DEAD:
        return IVSHMEM_RPMSG_BROKEN;
    case IVSHMEM_RPMSG_LINKED:
        break;
    }
    result = peek(rpmsg, &rpmsg->in, &taken);
    if (result) {
        return result;
    }
    if (!read_header(rpmsg, &taken, &header)) {
        return IVSHMEM_RPMSG_BROKEN;
    }
    e = addressee(rpmsg, &header);
    if (!e || !header.length) {
        return IVSHMEM_RPMSG_EMPTY;     /* it came since, as will a doorbell */
    }
    *endpoint = (int)(e - rpmsg->endpoint);
    if (header.length > capacity) {
        result = IVSHMEM_RPMSG_BAD_LENGTH;
    } else {
        copy_out(buffer, taken.start + HEADER, header.length);
        result = (int32_t)header.length;
    }
    give_back(rpmsg, &taken);
    return result;
}
