/*
 * Fuzzing targets for ivshmem-flat
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Each input is the life of one device: it is created, connects to a server,
 * is realized, used, and taken away again. The server's bytes and file
 * descriptors, and the guest's accesses, come from the input:
 *
 *  + ivshmem-flat-server: a stream of any bytes, cut anywhere, with any file
 *    descriptors attached anywhere, in the greeting and after it, and again
 *    from servers that come back;
 *  + ivshmem-flat-mmio: a server that greets as it should, then accesses to
 *    both regions mixed with that server's messages.
 *
 * Both are compared with a model of the protocol and of the registers, which
 * follows docs/specs/ivshmem-spec.rst and the device's documentation: does
 * realize succeed, what do registers read, which eventfds move, which
 * interrupts come, which peers are known. The fake server holds every eventfd,
 * so it sees each that should not have moved. In the end the process has as
 * many file descriptors as before. Any difference aborts.
 *
 * An input always does the same. What the server says before realize waits in
 * the socket, and where the device would have to wait for more, the server
 * hangs up.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/config-file.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "chardev/char-socket.h"
#include "hw/core/boards.h"
#include "hw/core/irq.h"
#include "hw/core/qdev-properties.h"
#include "hw/core/qdev-properties-system.h"
#include "hw/core/sysbus.h"
#include "hw/misc/ivshmem-flat.h"
#include "io/channel-socket.h"
#include "qom/qom-qobject.h"
#include "system/iothread.h"
#include "tests/qtest/libqtest.h"
#include "fuzz.h"

#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define IOMEM 0x50000000
#define IOMEM_SIZE 0x100
#define SHMEM 0x70000000

#define INTRMASK 0x0
#define INTRSTATUS 0x4
#define IVPOSITION 0x8
#define DOORBELL 0xc

#define MAX_PEERS 65536
#define MAX_VECTORS 64          /* of one peer, own or other */
#define MAX_KEPT 64
#define MAX_SHMEM_SIZE (64 * GiB)

/* Eventfds that the server has; the same one may be announced often. */
#define SLOTS 8
#define FULL (UINT64_MAX - 1)   /* of an eventfd's counter */

/* More than the main loop needs for whatever one input can say. */
#define MANY_ITERATIONS 100000
#define PATIENCE_US (20 * G_USEC_PER_SEC)

/* What a server may attach to a message. The first SLOTS are eventfds. */
enum {
    GOOD_MEMORY = SLOTS,
    TWIN_MEMORY,                /* of the same size */
    OTHER_MEMORY,
    HUGE_MEMORY,
    TOO_HUGE_MEMORY,
    EMPTY_FILE,
    ONE_BYTE,
    PAGE_LESS_ONE,
    PAGE_AND_ONE,
    READ_ONLY,
    WRITE_ONLY,
    SEALED,                     /* against writing */
    PIPE_READER,
    PIPE_WRITER,
    SOCKET,
    DIRECTORY,
    PATH_ONLY,
    DEV_NULL,
    NUM_THINGS
};

typedef struct Thing {
    int fd;
    uint64_t size;              /* as shared memory; 0: it cannot be that */
} Thing;

typedef struct Slot {
    uint64_t base;              /* what others have written */
    uint64_t min, max;          /* how often the device is to have written */
    bool disowned;              /* it was an own one until the server went */
} Slot;

typedef struct Peer {
    unsigned nvectors;
    uint8_t slot[MAX_VECTORS];
} Peer;

/* Doorbells to a vector, rung while the device had something to read. */
typedef struct Kept {
    uint16_t peer;
    uint16_t vector;
    uint64_t until;             /* bytes sent before the first of them */
    unsigned count;             /* of those */
    uint64_t later_until;       /* and before the last one */
    unsigned later_count;       /* of all but those */
} Kept;

typedef struct Attached {
    uint64_t offset;            /* in the stream: the byte it came with */
    unsigned nfds;
    uint8_t thing;              /* the first of them */
} Attached;

typedef enum Outcome {
    UNKNOWN,
    FAILURE,
    SUCCESS,
} Outcome;

/* One input. */
typedef struct Run {
    QTestState *qts;
    const uint8_t *data;
    size_t len;

    /* the device and its properties */
    Chardev *chr;
    DeviceState *dev;
    uint32_t vectors;
    uint32_t revision;
    uint64_t wired;             /* bit per output */
    uint64_t shmem_size;        /* 0: unset */
    OnOffAuto master;
    bool placed;                /* where no other device is */
    bool reconnects;
    bool in_iothread;           /* its own eventfds are served there */

    /* the server's side of the connection */
    int conn;
    bool hung_up;
    GByteArray *stream;         /* all bytes sent */
    GArray *attached;           /* all Attached */

    /* the model, as far as the device has read the stream */
    uint64_t seen;              /* bytes */
    uint64_t read;              /* in whole messages */
    unsigned messages;
    bool greeted;               /* it has had all of the greeting */
    unsigned next_attached;
    bool vague;                 /* QEMU 10.2 hangs up on an fd with O_PATH */
    bool bad_greeting;
    bool server_gone;
    uint16_t new_id;
    uint16_t id;
    unsigned memory;            /* the thing */
    GHashTable *peers;
    unsigned nown;
    uint8_t own[MAX_VECTORS];   /* slots */
    GArray *kept;
    uint32_t intrmask;
    uint32_t intrstatus;
} Run;

static Thing things[NUM_THINGS];
static Slot slots[SLOTS];
static qemu_irq *irqs;
static IOThread *iothread;
static QemuSemaphore iothread_turns;
static unsigned pulses[MAX_VECTORS];
static int level;               /* of output 0 */
static bool never_sleep;
static bool is_first;           /* QEMU opens some things once, to stay */
static int listener;
static char *listener_name;

/* The device reads the stream in pieces of these lengths, over and over. */
static uint8_t cuts[4];
static unsigned next_cut;
static ssize_t (*real_readv)(QIOChannel *, const struct iovec *, size_t,
                             int **, size_t *, int, Error **);

#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { \
            error_report(__VA_ARGS__); \
            abort(); \
        } \
    } while (0)

static void model_read(Run *r);
static void poll_device(Run *r);

/* The input */

static uint64_t take(Run *r, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && r->len; i++, r->data++, r->len--) {
        value |= (uint64_t)*r->data << (i * 8);
    }
    return value;
}

/* An id from a small range, or one at or near a limit, or any number. */
static int64_t take_id(Run *r)
{
    static const int64_t limits[] = {
        -1, -2, MAX_PEERS - 1, MAX_PEERS, INT64_MIN, INT64_MAX, 1LL << 32,
        256
    };
    uint8_t selector = take(r, 1);

    switch (selector >> 4) {
    case 0 ... 7:
        return selector & 3;
    case 8 ... 11:
        return r->new_id;
    case 12 ... 13:
        return limits[selector % ARRAY_SIZE(limits)];
    case 14:
        return take(r, 2);
    default:
        return take(r, 8);
    }
}

/* The eventfds */

/* Empties an eventfd's counter, whether or not reading it may block. */
static uint64_t take_count(unsigned slot)
{
    uint64_t count;
    struct iovec iov = { .iov_base = &count, .iov_len = sizeof(count) };

    if (preadv2(things[slot].fd, &iov, 1, -1, RWF_NOWAIT) == sizeof(count)) {
        return count;
    }
    CHECK(errno == EAGAIN, "preadv2: %s", strerror(errno));
    return 0;
}

/* Somebody else writes to an eventfd. */
static void peer_write(unsigned slot, uint64_t value)
{
    uint64_t count;

    if (slots[slot].max) {
        return; /* its counter has yet to be looked at */
    }
    count = MIN(take_count(slot), FULL - value) + value;
    CHECK(write(things[slot].fd, &count, sizeof(count)) == sizeof(count),
          "write: %s", strerror(errno));
    slots[slot].base = count;
}

/* The server */

static void server_hang_up(Run *r)
{
    if (!r->hung_up) {
        shutdown(r->conn, SHUT_WR);
        r->hung_up = true;
    }
}

/* Returns whether the socket took it. */
static bool server_try_send(Run *r, const uint8_t *bytes, size_t len,
                            const uint8_t *attach, unsigned nfds)
{
    struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(32 * sizeof(int))];
    } control = {};
    struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (nfds) {
        struct cmsghdr *cmsg;

        hdr.msg_control = control.buf;
        hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&hdr);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        for (unsigned i = 0; i < nfds; i++) {
            memcpy(CMSG_DATA(cmsg) + i * sizeof(int),
                   &things[attach[i]].fd, sizeof(int));
        }
    }
    if (sendmsg(r->conn, &hdr, MSG_NOSIGNAL | MSG_DONTWAIT) != len) {
        return false;
    }
    if (nfds) {
        Attached a = {
            .offset = r->stream->len,
            .nfds = nfds,
            .thing = attach[0],
        };

        g_array_append_val(r->attached, a);
    }
    g_byte_array_append(r->stream, bytes, len);
    return true;
}

static void server_send(Run *r, const uint8_t *bytes, size_t len,
                        const uint8_t *attach, unsigned nfds)
{
    if (!r->hung_up && !server_try_send(r, bytes, len, attach, nfds) &&
        r->dev->realized) {
        poll_device(r); /* which makes room */
        if (!r->hung_up) {
            server_try_send(r, bytes, len, attach, nfds);
        }
    }
}

static void server_send_value(Run *r, int64_t value, const uint8_t *attach,
                              unsigned nfds)
{
    uint8_t bytes[8];

    stq_le_p(bytes, value);
    server_send(r, bytes, sizeof(bytes), attach, nfds);
}

static unsigned take_attachment(Run *r, uint8_t *attach)
{
    uint8_t selector = take(r, 1);
    unsigned nfds;

    switch (selector >> 5) {
    case 0 ... 1:
        return 0;
    case 2 ... 5:
        attach[0] = selector % SLOTS;
        return 1;
    case 6:
        attach[0] = selector % 32 % NUM_THINGS;
        nfds = 1;
        break;
    default:
        nfds = selector % 32;
        for (unsigned i = 0; i < nfds; i++) {
            attach[i] = (selector + i) % NUM_THINGS;
        }
        break;
    }
    for (unsigned i = 0; i < nfds; i++) {
        if (attach[i] == PATH_ONLY) {
            if (r->dev->realized) {
                attach[i] = DEV_NULL;
            } else {
                r->vague = true;
            }
        }
    }
    return nfds;
}

/* A message in whole. */
static void server_message(Run *r)
{
    int64_t id = take_id(r);
    uint8_t attach[32];
    unsigned nfds = take_attachment(r, attach);

    server_send_value(r, id, attach, nfds);
}

/* Any bytes. */
static void server_bytes(Run *r)
{
    uint8_t bytes[16];
    unsigned len = take(r, 1) % sizeof(bytes) + 1;
    uint8_t attach[32];
    unsigned nfds = take_attachment(r, attach);

    for (unsigned i = 0; i < len; i++) {
        bytes[i] = take(r, 1);
    }
    server_send(r, bytes, len, attach, nfds);
}

/* As a real server does it: our own vectors come last. */
static void server_greeting(Run *r)
{
    const uint8_t good_memory = GOOD_MEMORY;
    const uint8_t eventfd = take(r, 1) % SLOTS;
    const uint16_t id = take(r, 1) % 4;
    unsigned nothers = take(r, 1) % 16;

    server_send_value(r, 0, NULL, 0);
    server_send_value(r, id, NULL, 0);
    server_send_value(r, -1, &good_memory, 1);
    model_read(r);
    for (unsigned i = 0; i < nothers; i++) {
        server_message(r);
    }
    server_send_value(r, id, &eventfd, 1);
}

static void server_stream(Run *r)
{
    for (unsigned n = take(r, 1); n && r->len; n--) {
        if (take(r, 1) & 1) {
            server_bytes(r);
        } else {
            server_message(r);
        }
        model_read(r);
    }
}

/* The model: doorbells and interrupts */

static bool is_served(Run *r, unsigned slot)
{
    for (unsigned i = 0; i < r->nown && r->greeted; i++) {
        if (r->own[i] == slot && r->wired & BIT_ULL(i)) {
            return true;
        }
    }
    return false;
}

static int model_find(Run *r, unsigned peer, unsigned vector)
{
    Peer *p;

    if (!r->greeted) {
        return -1;
    }
    if (peer == r->id) {
        return vector < r->nown ? r->own[vector] : -1;
    }
    p = g_hash_table_lookup(r->peers, GUINT_TO_POINTER(peer));
    return p && vector < p->nvectors ? p->slot[vector] : -1;
}

static void model_ring(unsigned slot)
{
    if (slots[slot].base < FULL) {
        slots[slot].min++;
        slots[slot].max++;
    }
}

static void model_keep(Run *r, Kept k, bool is_known)
{
    for (guint i = 0; i < r->kept->len; i++) {
        Kept *other = &g_array_index(r->kept, Kept, i);

        if (other->peer != k.peer || other->vector != k.vector) {
            continue;
        }
        if (!is_known && r->kept->len > MAX_KEPT) {
            return;
        }
        if (other->until == k.until) {
            other->count++;
        } else {
            other->later_until = k.until;
            other->later_count++;
        }
        return;
    }
    if (is_known || r->kept->len < MAX_KEPT) {
        g_array_append_val(r->kept, k);
    }
}

static void model_doorbell(Run *r, uint32_t value)
{
    Kept k = {
        .peer = value >> 16,
        .vector = value & 0xffff,
        .until = r->stream->len,
        .count = 1,
    };
    bool unread = r->greeted && !r->server_gone && r->seen < r->stream->len;
    int slot = model_find(r, k.peer, k.vector);

    if (!r->wired) {
        return;
    }
    if (slot >= 0 && (!unread || k.peer == r->id)) {
        model_ring(slot);
    } else if (unread && k.vector < MAX_VECTORS) {
        model_keep(r, k, slot >= 0);
    }
}

/* All up to this place in the stream has been read, and no message more. */
static void model_retry_kept(Run *r, uint64_t place)
{
    for (guint i = r->kept->len; i-- > 0; ) {
        Kept *k = &g_array_index(r->kept, Kept, i);

        int slot = model_find(r, k->peer, k->vector);

        while (k->count && k->until <= place) {
            for (; k->count; k->count--) {
                if (slot >= 0) {
                    model_ring(slot);
                }
            }
            k->until = k->later_until;
            k->count = k->later_count;
            k->later_count = 0;
        }
        if (!k->count) {
            g_array_remove_index(r->kept, i);
        }
    }
}

/* The model: the protocol */

/* As shared memory: it must have the size that is known or was asked for. */
static bool model_takes_memory(Run *r, unsigned thing)
{
    if (!things[thing].size ||
        (r->shmem_size && r->shmem_size != things[thing].size)) {
        return false;
    }
    /* It cannot be mapped, or reaches into other devices. */
    return thing != SEALED && !(thing == HUGE_MEMORY && r->placed);
}

static void model_peer(Run *r, int64_t value, unsigned nfds, unsigned thing)
{
    Peer *peer;

    if (nfds > 1 || value < 0 || value >= MAX_PEERS ||
        (nfds && thing >= SLOTS)) {
        r->bad_greeting = !r->greeted;
        return;
    }
    if (value == r->new_id) {
        if (nfds && r->nown < r->vectors) {
            r->own[r->nown++] = thing;
        }
        r->bad_greeting = !r->greeted && !nfds;
        return;
    }
    if (!nfds) {
        r->bad_greeting = !g_hash_table_remove(r->peers,
                                               GUINT_TO_POINTER(value)) &&
                          !r->greeted;
        return;
    }
    peer = g_hash_table_lookup(r->peers, GUINT_TO_POINTER(value));
    if (!peer) {
        peer = g_new0(Peer, 1);
        g_hash_table_insert(r->peers, GUINT_TO_POINTER(value), peer);
    }
    if (peer->nvectors < MAX_VECTORS) {
        peer->slot[peer->nvectors++] = thing;
    }
}

static void model_message(Run *r, int64_t value, unsigned nfds, unsigned thing)
{
    if (r->messages == 0) {
        r->bad_greeting = value != 0 || nfds;
    } else if (r->messages == 1) {
        r->bad_greeting = value < 0 || value >= MAX_PEERS || nfds;
        r->new_id = value;
    } else if (r->greeted || value != -1) {
        model_peer(r, value, nfds, thing);
    } else if (nfds != 1 || !model_takes_memory(r, thing)) {
        r->bad_greeting = true;
    } else {
        r->greeted = true;
        r->id = r->new_id;
        r->memory = thing;
        r->shmem_size = things[thing].size;
    }
    r->messages++;
}

static void model_server_gone(Run *r)
{
    r->server_gone = true;
    g_array_set_size(r->kept, 0);
    if (r->reconnects || !r->greeted) {
        for (unsigned i = 0; i < r->nown; i++) {
            slots[r->own[i]].disowned |= r->greeted && (r->wired >> i) & 1;
        }
        g_hash_table_remove_all(r->peers);
        r->nown = 0;
    }
}

/* The device has read all that was sent. */
static void model_read(Run *r)
{
    while (r->stream->len - r->read >= 8 && !r->bad_greeting) {
        int64_t value = ldq_le_p(r->stream->data + r->read);
        unsigned nfds = 0;
        unsigned thing = 0;

        r->read += 8;
        for (; r->next_attached < r->attached->len; r->next_attached++) {
            Attached *a = &g_array_index(r->attached, Attached,
                                         r->next_attached);

            if (a->offset >= r->read) {
                break;
            }
            thing = nfds ? thing : a->thing;
            nfds += a->nfds;
        }
        model_retry_kept(r, r->read - 1);
        model_message(r, value, nfds, thing);
    }
    r->seen = r->stream->len;
    model_retry_kept(r, r->seen);
    if (r->bad_greeting) {
        r->hung_up = true; /* the device does that */
    }
    if (r->hung_up && !r->server_gone) {
        model_server_gone(r);
    }
}

/* The model: registers */

static uint32_t model_read_register(Run *r, unsigned offset)
{
    uint32_t value;

    switch (offset) {
    case INTRMASK:
        return r->intrmask;
    case INTRSTATUS:
        value = r->intrstatus;
        r->intrstatus = 0;
        return value;
    case IVPOSITION:
        return r->wired ? r->id : 0;
    default:
        return 0;
    }
}

static void model_write_register(Run *r, unsigned offset, uint32_t value,
                                 unsigned size)
{
    unsigned shift = offset % 4 * 8;
    uint32_t mask = (size == 4 ? UINT32_MAX : (1U << (size * 8)) - 1) << shift;

    switch (offset & ~3) {
    case INTRMASK:
        r->intrmask = (r->intrmask & ~mask) | ((value << shift) & mask);
        break;
    case INTRSTATUS:
        r->intrstatus = (r->intrstatus & ~mask) | ((value << shift) & mask);
        break;
    case DOORBELL:
        if (size == 4) {
            model_doorbell(r, value);
        }
        break;
    }
}

static void check_level(Run *r)
{
    int expected = r->revision == 0 && r->wired & 1 &&
                   r->intrstatus & r->intrmask;

    CHECK(level == expected, "the output is %d, expected %d with INTRSTATUS "
          "0x%x and INTRMASK 0x%x", level, expected, r->intrstatus,
          r->intrmask);
}

/* The bus splits an access into naturally aligned ones of up to 32 bits. */
static unsigned piece(unsigned offset, unsigned size)
{
    unsigned align = offset ? offset & -offset : 4;

    return MIN(MIN(align, 4), size >= 4 ? 4 : size >= 2 ? 2 : 1);
}

/* The guest */

static void guest_read(Run *r, unsigned offset, unsigned size)
{
    uint8_t expected[8] = {};
    uint8_t found[8];

    size = MIN(size, IOMEM_SIZE - offset);
    for (unsigned at = 0, n; at < size; at += n) {
        uint32_t value = model_read_register(r, (offset + at) & ~3) >>
                         ((offset + at) % 4 * 8);

        n = piece(offset + at, size - at);
        for (unsigned i = 0; i < n; i++) {
            expected[at + i] = value >> (i * 8);
        }
    }
    qtest_memread(r->qts, IOMEM + offset, found, size);
    for (unsigned i = 0; i < size; i++) {
        CHECK(found[i] == expected[i],
              "offset 0x%x, read with %u bytes at 0x%x: 0x%02x, expected "
              "0x%02x", offset + i, size, offset, found[i], expected[i]);
    }
    check_level(r);
}

static void guest_write(Run *r, unsigned offset, unsigned size, uint64_t value)
{
    size = MIN(size, IOMEM_SIZE - offset);
    for (unsigned at = 0, n; at < size; at += n) {
        n = piece(offset + at, size - at);
        model_write_register(r, offset + at, value >> (at * 8), n);
    }
    value = cpu_to_le64(value);
    qtest_memwrite(r->qts, IOMEM + offset, &value, size);
    check_level(r);
}

static void guest_ring(Run *r, uint16_t peer, uint16_t vector)
{
    guest_write(r, DOORBELL, 4, (uint32_t)peer << 16 | vector);
}

/* Shared memory is the server's file, at the same offset. */
static void guest_shmem(Run *r, uint64_t offset, unsigned size, uint64_t value)
{
    Thing *memory = &things[r->memory];
    uint64_t found = 0;

    offset %= memory->size;
    size = MIN(size, memory->size - offset);
    qtest_memwrite(r->qts, SHMEM + offset, &value, size);
    CHECK(pread(memory->fd, &found, size, offset) == size &&
          !memcmp(&found, &value, size),
          "shared memory: a store to 0x%" PRIx64 " is not in the server's file",
          offset);
    value = ~value;
    CHECK(pwrite(memory->fd, &value, size, offset) == size, "pwrite: %s",
          strerror(errno));
    qtest_memread(r->qts, SHMEM + offset, &found, size);
    CHECK(!memcmp(&found, &value, size), "shared memory: a load from 0x%"
          PRIx64 " is not what the server's file has", offset);
}

static void guest_reset(Run *r)
{
    device_cold_reset(r->dev);
    r->intrmask = 0;
    r->intrstatus = 0;
    check_level(r);
}

/* Where the model and the device meet */

/* In revision 0: an interrupt has come, or may have come. */
static void take_intrstatus(Run *r, bool must)
{
    uint32_t found;

    if (must) {
        r->intrstatus |= 1;
    } else {
        /* Either is right: make it the same again. */
        qtest_memread(r->qts, IOMEM + INTRSTATUS, &found, sizeof(found));
        r->intrstatus = 0;
    }
}

static void check_slots(Run *r)
{
    unsigned come[SLOTS] = {};

    for (unsigned i = 0; i < r->nown && r->revision == 1; i++) {
        Slot *slot = &slots[r->own[i]];

        CHECK(!pulses[i] || slot->base + slot->max,
              "vector %u: %u interrupts that nobody rang", i, pulses[i]);
        come[r->own[i]] += pulses[i];
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        Slot *slot = &slots[i];
        uint64_t count = take_count(i);

        if (is_served(r, i)) {
            CHECK(!count, "eventfd %u is an own one, and was left at %" PRIu64,
                  i, count);
            if (r->revision == 0 && slot->base + slot->max) {
                take_intrstatus(r, slot->base + slot->min);
            } else if (r->revision == 1) {
                CHECK(come[i] || !(slot->base + slot->min),
                      "eventfd %u was rung %" PRIu64 " times, and no interrupt "
                      "came", i, slot->base + slot->min);
            }
        } else if (slot->disowned &&
                   count <= (r->in_iothread ? slot->base + slot->max : 0)) {
            /* It was served before the device knew of the server's end. */
            if (r->revision == 0) {
                take_intrstatus(r, false);
            }
        } else {
            CHECK(count - slot->base >= slot->min &&
                  count - slot->base <= slot->max,
                  "eventfd %u has moved from %" PRIu64 " to %" PRIu64
                  ", expected %" PRIu64 " to %" PRIu64 " rings", i,
                  slot->base, count, slot->min, slot->max);
        }
        *slot = (Slot) {};
    }
    memset(pulses, 0, sizeof(pulses));
    check_level(r);
}

static void iothread_turned(void *opaque)
{
    qemu_sem_post(&iothread_turns);
}

/*
 * Let the IOThread finish what it has begun. Each time that it turns it polls,
 * runs bottom halves, then handlers.
 */
static void wait_for_iothread(void)
{
    for (unsigned i = 0; i < 2; i++) {
        aio_bh_schedule_oneshot(iothread_get_aio_context(iothread),
                                iothread_turned, NULL);
        bql_unlock();
        qemu_sem_wait(&iothread_turns);
        bql_lock();
    }
}

/* It may turn a few times before it looks at an eventfd. */
static void wait_for_own_eventfds(Run *r)
{
    int64_t deadline = g_get_monotonic_time() + PATIENCE_US;

    for (unsigned i = 0; i < SLOTS; i++) {
        GPollFD pfd = { .fd = things[i].fd, .events = G_IO_IN };

        while (is_served(r, i) && g_poll(&pfd, 1, 0) == 1) {
            CHECK(g_get_monotonic_time() < deadline, "eventfd %u is an own "
                  "one, and is not served", i);
            wait_for_iothread();
        }
    }
    wait_for_iothread();
}

/*
 * The chardev makes each that it receives block, and the device undoes that:
 * for all that came with a message that it has read, or begun to read.
 */
static void check_nonblocking(Run *r)
{
    for (guint i = 0; i < r->attached->len; i++) {
        Attached *a = &g_array_index(r->attached, Attached, i);

        for (unsigned j = 0; j < MIN(a->nfds, TCP_MAX_FDS) &&
                             a->offset < r->seen; j++) {
            unsigned thing = (a->thing + j) % NUM_THINGS;

            CHECK(thing >= SLOTS || r->bad_greeting || r->vague ||
                  fcntl(things[thing].fd, F_GETFL) & O_NONBLOCK,
                  "eventfd %u blocks", thing);
        }
    }
}

/* Let the device do all it has to do, then compare. */
static void poll_device(Run *r)
{
    unsigned iterations = 0;
    int unread;

    do {
        CHECK(++iterations < MANY_ITERATIONS, "the main loop spins");
        main_loop_wait(true);
        CHECK(ioctl(r->conn, SIOCOUTQ, &unread) == 0, "SIOCOUTQ: %s",
              strerror(errno));
    } while (unread || g_main_context_pending(NULL));
    model_read(r);
    if (r->in_iothread) {
        wait_for_own_eventfds(r);
    }
    check_slots(r);
    check_nonblocking(r);
}

/* What the device says of itself. */
static void check_properties(Run *r)
{
    Object *obj = OBJECT(r->dev);
    g_autoptr(QList) peers =
        qobject_to(QList, object_property_get_qobject(obj, "peers",
                                                      &error_abort));
    g_autoptr(QList) interrupts =
        qobject_to(QList, object_property_get_qobject(obj, "interrupts",
                                                      &error_abort));
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(peers, entry) {
        QDict *dict = qobject_to(QDict, qlist_entry_obj(entry));
        int64_t id = qdict_get_int(dict, "id");
        Peer *peer = g_hash_table_lookup(r->peers, GUINT_TO_POINTER(id));

        CHECK(peer && peer->nvectors == qdict_get_int(dict, "vectors"),
              "peer %" PRId64 " has %" PRId64 " vectors, expected %u", id,
              qdict_get_int(dict, "vectors"), peer ? peer->nvectors : 0);
    }
    CHECK(qlist_size(peers) == g_hash_table_size(r->peers),
          "%zu peers, expected %u", qlist_size(peers),
          g_hash_table_size(r->peers));
    CHECK(qlist_size(interrupts) == r->nown, "%zu own vectors, expected %u",
          qlist_size(interrupts), r->nown);
    CHECK(object_property_get_uint(obj, "id", &error_abort) == r->id,
          "the id is not %u", r->id);
    CHECK(object_property_get_bool(obj, "connected", &error_abort) ==
          (r->greeted && !r->server_gone), "connected is not %d",
          r->greeted && !r->server_gone);
    CHECK(object_property_get_uint(obj, "shmem-size", &error_abort) ==
          r->shmem_size, "shmem-size is not %" PRIu64, r->shmem_size);
}

static void irq_handler(void *opaque, int n, int value)
{
    pulses[n] += value;
    if (n == 0) {
        level = value;
    }
}

static ssize_t cut_readv(QIOChannel *ioc, const struct iovec *iov, size_t niov,
                         int **fds, size_t *nfds, int flags, Error **errp)
{
    struct iovec piece = iov[0];

    if (cuts[0]) {
        piece.iov_len = MIN(piece.iov_len,
                            cuts[next_cut++ % ARRAY_SIZE(cuts)]);
        niov = 1;
        iov = &piece;
    }
    return real_readv(ioc, iov, niov, fds, nfds, flags, errp);
}

/*
 * In place of GLib's: QEMU's RCU thread sleeps up to 50 ms, so that callbacks
 * pile up. Each input waits for it, and would be done in one.
 */
void g_usleep(gulong microseconds)
{
    if (!never_sleep) {
        usleep(microseconds);
    }
}

/* The device's life */

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(dir)) {
        n++;
    }
    closedir(dir);
    return n;
}

/* With reconnect-ms, a thread connects. */
static void finish_connecting(Run *r)
{
    while (SOCKET_CHARDEV(r->chr)->connect_task) {
        main_loop_wait(true);
    }
}

/* A new connection, and nothing has been said. */
static void server_accept(Run *r)
{
    int64_t deadline = g_get_monotonic_time() + PATIENCE_US;

    do {
        CHECK(g_get_monotonic_time() < deadline, "the chardev does not come");
        if (r->dev) {
            main_loop_wait(true);
        }
        r->conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    } while (r->conn < 0);
    if (r->dev) {
        finish_connecting(r);
    }
    r->hung_up = false;
    g_byte_array_set_size(r->stream, 0);
    g_array_set_size(r->attached, 0);
    r->seen = 0;
    r->read = 0;
    r->messages = 0;
    r->greeted = false;
    r->next_attached = 0;
    r->bad_greeting = false;
    r->server_gone = false;
}

static void connect_chardev(Run *r)
{
    g_autofree char *options = NULL;
    QemuOpts *opts;

    r->reconnects = take(r, 1) % 4 == 3;
    options = g_strdup_printf("socket,id=ivshmem,path=%s,abstract=on%s",
                              listener_name,
                              r->reconnects ? ",reconnect-ms=1" : "");
    opts = qemu_opts_parse_noisily(qemu_find_opts("chardev"), options, true);
    r->chr = qemu_chr_new_from_opts(opts, NULL, &error_abort);
    qemu_opts_del(opts);
    server_accept(r);
}

static void delete_chardev(Run *r)
{
    int conn;

    finish_connecting(r);
    object_unparent(OBJECT(r->chr));
    close(r->conn);
    while ((conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        close(conn);
    }
}

/* The server is back, with whatever it has to say. */
static void server_comes_back(Run *r)
{
    if (r->reconnects) {
        server_hang_up(r);
        poll_device(r);
        close(r->conn);
        server_accept(r);
    }
}

/* Returns whether they are as they should be. */
static bool set_properties(Run *r)
{
    static const struct {
        uint32_t vectors;
        uint32_t revision;
        bool ok;
        bool in_iothread;       /* not in revision 0: INTRSTATUS would race */
    } kinds[] = {
        { 1, 1, true }, { 1, 1, true }, { 1, 0, true }, { 1, 0, true },
        { 2, 1, true }, { 3, 1, true }, { 64, 1, true }, { 0, 1, false },
        { 65, 1, false }, { 2, 0, false }, { 1, 2, false },
        { 1, 1, true, true }, { 3, 1, true, true },
    };
    static const uint64_t wires[] = {
        UINT64_MAX, UINT64_MAX, UINT64_MAX, 0, 0x5555555555555555
    };
    uint64_t sizes[] = {
        0, 0, 0, things[GOOD_MEMORY].size, things[OTHER_MEMORY].size, 1
    };
    static const OnOffAuto masters[] = {
        ON_OFF_AUTO_OFF, ON_OFF_AUTO_OFF, ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON
    };
    unsigned kind = take(r, 1) % ARRAY_SIZE(kinds);
    uint8_t wire = take(r, 1);
    uint64_t used;
    uint64_t iomem = IOMEM;
    uint64_t shmem = SHMEM;
    bool ok = kinds[kind].ok;

    qdev_prop_set_chr(r->dev, "chardev", r->chr);
    r->vectors = kinds[kind].vectors;
    r->revision = kinds[kind].revision;
    qdev_prop_set_uint32(r->dev, "vectors", r->vectors);
    qdev_prop_set_uint32(r->dev, "revision", r->revision);
    r->in_iothread = kinds[kind].in_iothread;
    if (r->in_iothread) {
        object_property_set_link(OBJECT(r->dev), "iothread", OBJECT(iothread),
                                 &error_abort);
    }

    used = r->vectors < MAX_VECTORS ? BIT_ULL(r->vectors) - 1 : UINT64_MAX;
    r->wired = wires[wire % ARRAY_SIZE(wires)] & used;
    if (wire == UINT8_MAX && r->vectors < MAX_VECTORS) {
        r->wired |= BIT_ULL(r->vectors);
        ok = false;
    }
    for (unsigned i = 0; i < MAX_VECTORS; i++) {
        if (r->wired & BIT_ULL(i)) {
            sysbus_connect_irq(SYS_BUS_DEVICE(r->dev), i, irqs[i]);
        }
    }

    r->shmem_size = sizes[take(r, 1) % ARRAY_SIZE(sizes)];
    if (r->shmem_size) {
        object_property_set_uint(OBJECT(r->dev), "shmem-size", r->shmem_size,
                                 &error_abort);
    }
    r->master = masters[take(r, 1) % ARRAY_SIZE(masters)];
    object_property_set_str(OBJECT(r->dev), "master",
                            OnOffAuto_str(r->master), &error_abort);

    r->placed = take(r, 1) % 8 != 7;
    if (!r->placed) {
        iomem = take(r, 8);
        shmem = take(r, 8);
    }
    qdev_prop_set_uint64(r->dev, "x-bus-address-iomem", iomem);
    qdev_prop_set_uint64(r->dev, "x-bus-address-shmem", shmem);
    return ok;
}

/* Goes on to an own vector; returns whether the socket took it all. */
static bool server_complete(Run *r)
{
    const uint8_t memory = GOOD_MEMORY;
    const uint8_t eventfd = 0;

    server_send(r, (uint8_t[8]) {}, -r->stream->len & 7, NULL, 0);
    model_read(r);
    while (!r->bad_greeting && !(r->greeted && r->nown)) {
        unsigned messages = r->messages;

        if (messages < 2) {
            server_send_value(r, messages, NULL, 0);
        } else if (!r->greeted) {
            server_send_value(r, -1, &memory, 1);
        } else {
            server_send_value(r, r->id, &eventfd, 1);
        }
        model_read(r);
        if (r->messages == messages) {
            return false;
        }
    }
    return true;
}

static bool realize(Run *r, bool properties_ok)
{
    g_autoptr(Error) err = NULL;
    Outcome expected = SUCCESS;
    bool ok;

    /*
     * The device reads the first batch before it is realized, and so does the
     * model. An own vector ends it; without one the device waits for a while,
     * and without a server, if that may come back, for ever.
     */
    model_read(r);
    if (!r->bad_greeting && !(r->greeted && r->nown) && properties_ok) {
        if (!r->reconnects) {
            server_hang_up(r);
        } else if (!server_complete(r)) {
            return false;
        }
    }
    if (!properties_ok || r->bad_greeting || !r->greeted ||
        (r->master == ON_OFF_AUTO_ON && r->id != 0)) {
        expected = FAILURE;
    }
    if (r->vague || !r->placed) {
        expected = UNKNOWN;
    }
    ok = qdev_realize(r->dev, sysbus_get_default(), &err);
    CHECK(ok == !err, "realize returned %d, %s", ok,
          err ? error_get_pretty(err) : "no error");
    CHECK(expected != (ok ? FAILURE : SUCCESS), "realize: %s, expected %s",
          ok ? "success" : error_get_pretty(err),
          ok ? "failure" : "success");
    CHECK(ok || !strchr(error_get_pretty(err), '\n'), "an error of two lines");
    return ok;
}

static void unrealize(Run *r)
{
    if (!r->dev->realized) {
        return;
    }
    qdev_unrealize(r->dev);
    /* A bus that lets devices go would do this. */
    for (unsigned i = 0; i < 2; i++) {
        MemoryRegion *mr = sysbus_mmio_get_region(SYS_BUS_DEVICE(r->dev), i);

        if (mr->container) {
            memory_region_del_subregion(mr->container, mr);
        }
    }
}

static void use(Run *r, bool is_mmio)
{
    while (r->len) {
        uint8_t op = take(r, 1);
        unsigned width = 1 << (op / 16 % 4);
        uint64_t value;
        unsigned offset;

        switch (is_mmio ? op % 16 : op % 8) {
        case 0:
            server_message(r);
            break;
        case 1:
            server_bytes(r);
            break;
        case 2:
            poll_device(r);
            break;
        case 3:
            peer_write(take(r, 1) % SLOTS, 1);
            break;
        case 4:
            peer_write(take(r, 1) % SLOTS, FULL);
            break;
        case 5:
            value = take(r, 2);
            guest_ring(r, take_id(r), value & 0x100 ? value : value % 4);
            break;
        case 6:
            server_hang_up(r);
            break;
        case 7:
            server_comes_back(r);
            break;
        case 8:
        case 9:
            offset = take(r, 1);
            guest_read(r, op & 1 ? offset : offset % 16, width);
            break;
        case 10 ... 12:
            offset = take(r, 1);
            value = take(r, 8);
            guest_write(r, op & 1 ? offset : offset % 16, width, value);
            break;
        case 13:
            value = take(r, 8);
            guest_shmem(r, take(r, 2), width, value);
            break;
        case 14:
            guest_reset(r);
            break;
        case 15:
            poll_device(r);
            check_properties(r);
            break;
        }
    }
}

/* Whatever came before: each vector can be rung, and rings only its own. */
static void ring_all(Run *r)
{
    GHashTableIter iter;
    gpointer id, value;

    poll_device(r);
    check_properties(r);
    g_hash_table_iter_init(&iter, r->peers);
    while (g_hash_table_iter_next(&iter, &id, &value)) {
        Peer *peer = value;

        for (unsigned i = 0; i <= peer->nvectors; i++) {
            guest_ring(r, GPOINTER_TO_UINT(id), i);
            poll_device(r);
        }
    }
    for (unsigned i = 0; i < r->nown; i++) {
        guest_ring(r, r->id, i);
        poll_device(r);
    }
}

static void run(QTestState *qts, const uint8_t *data, size_t len, bool is_mmio)
{
    unsigned fds = count_fds();
    Run r = {
        .qts = qts,
        .data = data,
        .len = len,
        .stream = g_byte_array_new(),
        .attached = g_array_new(false, false, sizeof(Attached)),
        .peers = g_hash_table_new_full(NULL, NULL, NULL, g_free),
        .kept = g_array_new(false, false, sizeof(Kept)),
    };
    bool properties_ok;

    connect_chardev(&r);
    r.dev = qdev_new(TYPE_IVSHMEM_FLAT);
    r.dev->hotplugged = false; /* as one that was there from the start */
    object_property_add_child(qdev_get_machine(), "fuzz", OBJECT(r.dev));
    properties_ok = set_properties(&r);
    for (unsigned i = 0; i < ARRAY_SIZE(cuts); i++) {
        cuts[i] = take(&r, 1) % 8 + 1;
    }
    next_cut = 0;

    if (is_mmio) {
        server_greeting(&r);
    } else {
        server_stream(&r);
    }
    if (realize(&r, properties_ok) && r.placed && !r.vague) {
        use(&r, is_mmio);
        ring_all(&r);
    }

    unrealize(&r);
    object_unparent(OBJECT(r.dev));
    object_unref(OBJECT(r.dev));
    wait_for_iothread();
    delete_chardev(&r);
    g_byte_array_unref(r.stream);
    g_array_unref(r.attached);
    g_hash_table_unref(r.peers);
    g_array_unref(r.kept);
    /* RCU gives back the old address space, and then the memory in that. */
    drain_call_rcu();
    drain_call_rcu();
    flush_events(qts);
    for (unsigned i = 0; i < SLOTS; i++) {
        take_count(i);
    }
    memset(slots, 0, sizeof(slots));
    memset(pulses, 0, sizeof(pulses));
    level = 0;
    CHECK(count_fds() == fds || is_first,
          "%u file descriptors, expected %u as before", count_fds(), fds);
}

static void server_fuzz(QTestState *qts, const unsigned char *data, size_t len)
{
    run(qts, data, len, false);
}

static void mmio_fuzz(QTestState *qts, const unsigned char *data, size_t len)
{
    run(qts, data, len, true);
}

/* What all inputs share */

static int memory(off_t size)
{
    int fd = memfd_create("ivshmem-flat-fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0 && ftruncate(fd, size) == 0, "memfd: %s", strerror(errno));
    return fd;
}

static int memory_open_as(off_t size, int flags)
{
    int fd = memory(size);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    int again = open(path, flags | O_CLOEXEC);

    close(fd);
    return again;
}

static void make_things(void)
{
    uint64_t page = qemu_real_host_page_size();
    int pair[2];

    for (unsigned i = 0; i < SLOTS; i++) {
        /* Some may block until they are received: see check_nonblocking(). */
        things[i].fd = eventfd(0, EFD_CLOEXEC | (i & 1 ? EFD_NONBLOCK : 0));
    }
    things[GOOD_MEMORY] = (Thing) { memory(2 * page), 2 * page };
    things[TWIN_MEMORY] = (Thing) { memory(2 * page), 2 * page };
    things[OTHER_MEMORY] = (Thing) { memory(page), page };
    things[HUGE_MEMORY] = (Thing) { memory(MAX_SHMEM_SIZE), MAX_SHMEM_SIZE };
    things[TOO_HUGE_MEMORY].fd = memory(MAX_SHMEM_SIZE + page);
    things[EMPTY_FILE].fd = memory(0);
    things[ONE_BYTE].fd = memory(1);
    things[PAGE_LESS_ONE].fd = memory(page - 1);
    things[PAGE_AND_ONE].fd = memory(page + 1);
    things[READ_ONLY].fd = memory_open_as(page, O_RDONLY);
    things[WRITE_ONLY].fd = memory_open_as(page, O_WRONLY);
    things[SEALED] = (Thing) { memory(2 * page), 2 * page };
    CHECK(fcntl(things[SEALED].fd, F_ADD_SEALS, F_SEAL_WRITE) == 0,
          "F_SEAL_WRITE: %s", strerror(errno));
    CHECK(pipe2(pair, O_CLOEXEC) == 0, "pipe: %s", strerror(errno));
    things[PIPE_READER].fd = pair[0];
    things[PIPE_WRITER].fd = pair[1];
    things[SOCKET].fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    things[DIRECTORY].fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    things[PATH_ONLY].fd = memory_open_as(page, O_PATH);
    things[DEV_NULL].fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; i < NUM_THINGS; i++) {
        CHECK(things[i].fd >= 0, "cannot make thing %u", i);
    }
}

static void listen_as_server(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    listener_name = g_strdup_printf("ivshmem-flat-fuzz-%d", getpid());
    strcpy(addr.sun_path + 1, listener_name);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(bind(listener, (struct sockaddr *)&addr,
               offsetof(struct sockaddr_un, sun_path) + 1 +
               strlen(listener_name)) == 0 && listen(listener, 1) == 0,
          "bind: %s", strerror(errno));
}

static void pre_fuzz(QTestState *qts)
{
    QIOChannelClass *klass =
        QIO_CHANNEL_CLASS(object_class_by_name(TYPE_QIO_CHANNEL_SOCKET));

    real_readv = klass->io_readv;
    klass->io_readv = cut_readv;
    make_things();
    irqs = qemu_allocate_irqs(irq_handler, NULL, MAX_VECTORS);
    iothread = IOTHREAD(object_resolve_path("/objects/iothread", NULL));
    qemu_sem_init(&iothread_turns, 0);
    listen_as_server();

    never_sleep = true;
    is_first = true;
    run(qts, NULL, 0, true);
    run(qts, (const uint8_t *)"\3", 1, true);
    is_first = false;
}

static GString *command_line(FuzzTarget *t)
{
    return g_string_new(TARGET_NAME " -machine mps2-an385,accel=qtest"
                        " -display none -object iothread,id=iothread");
}

static void register_ivshmem_flat_fuzz_targets(void)
{
    fuzz_add_target(&(FuzzTarget) {
        .name = "ivshmem-flat-server",
        .description = "Fuzz ivshmem-flat with a server's bytes and file "
                       "descriptors",
        .get_init_cmdline = command_line,
        .pre_fuzz = pre_fuzz,
        .fuzz = server_fuzz,
    });
    fuzz_add_target(&(FuzzTarget) {
        .name = "ivshmem-flat-mmio",
        .description = "Fuzz ivshmem-flat with a guest's accesses and a "
                       "server's messages",
        .get_init_cmdline = command_line,
        .pre_fuzz = pre_fuzz,
        .fuzz = mmio_fuzz,
    });
}

fuzz_target_init(register_ivshmem_flat_fuzz_targets);
