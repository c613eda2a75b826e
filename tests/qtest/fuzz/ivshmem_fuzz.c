/*
 * What the fuzzers of ivshmem have in common: a server, and a model
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/config-file.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "tests/unit/ivshmem-client/fake-server.h"
#include "ivshmem_fuzz.h"

#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define MAX_KEPT 64
#define MAX_SHMEM_SIZE (64 * GiB)

#define FULL (UINT64_MAX - 1)   /* of an eventfd's counter */

/* More than the main loop needs for whatever one input can say. */
#define MANY_ITERATIONS 100000
#define MAX_COMEBACKS 4
#define PATIENCE_US (20 * G_USEC_PER_SEC)

typedef struct Slot {
    uint64_t base;              /* what others have written */
    uint64_t min, max;          /* how often the client is to have written */
    bool disowned;              /* it was an own one until the server went */
} Slot;

/* Doorbells to a vector, rung while the client had something to read. */
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

Thing ivfuzz_things[NUM_THINGS];
unsigned ivfuzz_pulses[MAX_VECTORS];
IOThread *ivfuzz_iothread;

static Slot slots[SLOTS];
static QemuSemaphore iothread_turns;
static bool never_sleep;
static bool is_first;           /* QEMU opens some things once, to stay */
static int listener;
static char *listener_name;

/* The client reads the stream in pieces of these lengths, over and over. */
static uint8_t cuts[4];
static unsigned next_cut;
static ssize_t (*real_readv)(QIOChannel *, const struct iovec *, size_t,
                             int **, size_t *, int, Error **);

/* The input */

uint64_t ivfuzz_take(Run *r, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && r->len; i++, r->data++, r->len--) {
        value |= (uint64_t)*r->data << (i * 8);
    }
    return value;
}

/* An id from a small range, or one at or near a limit, or any number. */
int64_t ivfuzz_take_id(Run *r)
{
    static const int64_t limits[] = {
        -1, -2, MAX_PEERS - 1, MAX_PEERS, INT64_MIN, INT64_MAX, 1LL << 32,
        256
    };
    uint8_t selector = ivfuzz_take(r, 1);

    switch (selector >> 4) {
    case 0 ... 7:
        return selector & 3;
    case 8 ... 11:
        return r->new_id;
    case 12 ... 13:
        return limits[selector % ARRAY_SIZE(limits)];
    case 14:
        return ivfuzz_take(r, 2);
    default:
        return ivfuzz_take(r, 8);
    }
}

/* The eventfds */

/* Empties an eventfd's counter, whether or not reading it may block. */
static uint64_t take_count(unsigned slot)
{
    uint64_t count;
    struct iovec iov = { .iov_base = &count, .iov_len = sizeof(count) };

    if (preadv2(ivfuzz_things[slot].fd, &iov, 1, -1, RWF_NOWAIT) ==
        sizeof(count)) {
        return count;
    }
    CHECK(errno == EAGAIN, "preadv2: %s", strerror(errno));
    return 0;
}

/* Somebody else writes to an eventfd. */
void ivfuzz_peer_write(unsigned slot, uint64_t value)
{
    uint64_t count;

    if (slots[slot].max) {
        return; /* its counter has yet to be looked at */
    }
    count = MIN(take_count(slot), FULL - value) + value;
    CHECK(write(ivfuzz_things[slot].fd, &count, sizeof(count)) == sizeof(count),
          "write: %s", strerror(errno));
    slots[slot].base = count;
}

/* The server */

void ivfuzz_server_hang_up(Run *r)
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
    int fds[FAKE_SERVER_MAX_FDS];

    for (unsigned i = 0; i < nfds; i++) {
        fds[i] = ivfuzz_things[attach[i]].fd;
    }
    if (!fake_server_send(r->conn, bytes, len, nfds, fds, MSG_DONTWAIT)) {
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
        r->is_started) {
        ivfuzz_poll_client(r); /* which makes room */
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
    uint8_t selector = ivfuzz_take(r, 1);
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
            if (r->is_started) {
                attach[i] = DEV_NULL;
            } else {
                r->vague = true;
            }
        }
    }
    return nfds;
}

/* A message in whole. */
void ivfuzz_server_message(Run *r)
{
    int64_t id = ivfuzz_take_id(r);
    uint8_t attach[32];
    unsigned nfds = take_attachment(r, attach);

    server_send_value(r, id, attach, nfds);
}

/* Any bytes. */
void ivfuzz_server_bytes(Run *r)
{
    uint8_t bytes[16];
    unsigned len = ivfuzz_take(r, 1) % sizeof(bytes) + 1;
    uint8_t attach[32];
    unsigned nfds = take_attachment(r, attach);

    for (unsigned i = 0; i < len; i++) {
        bytes[i] = ivfuzz_take(r, 1);
    }
    server_send(r, bytes, len, attach, nfds);
}

/* As a real server does it: our own vectors come last. */
void ivfuzz_server_greeting(Run *r)
{
    const uint8_t good_memory = GOOD_MEMORY;
    const uint8_t eventfd = ivfuzz_take(r, 1) % SLOTS;
    const uint16_t id = ivfuzz_take(r, 1) % 4;
    unsigned nothers = ivfuzz_take(r, 1) % 16;

    server_send_value(r, 0, NULL, 0);
    server_send_value(r, id, NULL, 0);
    server_send_value(r, -1, &good_memory, 1);
    ivfuzz_model_read(r);
    for (unsigned i = 0; i < nothers; i++) {
        ivfuzz_server_message(r);
    }
    server_send_value(r, id, &eventfd, 1);
}

void ivfuzz_server_stream(Run *r)
{
    for (unsigned n = ivfuzz_take(r, 1); n && r->len; n--) {
        if (ivfuzz_take(r, 1) & 1) {
            ivfuzz_server_bytes(r);
        } else {
            ivfuzz_server_message(r);
        }
        ivfuzz_model_read(r);
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

void ivfuzz_model_doorbell(Run *r, uint16_t peer, uint16_t vector)
{
    Kept k = {
        .peer = peer,
        .vector = vector,
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
    if (!ivfuzz_things[thing].size ||
        (r->shmem_size && r->shmem_size != ivfuzz_things[thing].size)) {
        return false;
    }
    /* It cannot be mapped, or reaches into other devices. */
    return !r->is_mapped ||
           (thing != SEALED && !(thing == HUGE_MEMORY && r->placed));
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
            r->changed |= r->greeted;
        }
        r->bad_greeting = !r->greeted && !nfds;
        return;
    }
    if (!nfds) {
        bool known = g_hash_table_remove(r->peers, GUINT_TO_POINTER(value));

        r->bad_greeting = !known && !r->greeted;
        r->changed |= known && r->greeted;
        return;
    }
    peer = g_hash_table_lookup(r->peers, GUINT_TO_POINTER(value));
    if (!peer) {
        peer = g_new0(Peer, 1);
        g_hash_table_insert(r->peers, GUINT_TO_POINTER(value), peer);
    }
    if (peer->nvectors < MAX_VECTORS) {
        peer->slot[peer->nvectors++] = thing;
        r->changed |= r->greeted;
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
        r->changed = true;
        r->memory = thing;
        r->shmem_size = ivfuzz_things[thing].size;
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
        r->changed |= r->greeted && (g_hash_table_size(r->peers) || r->nown);
        g_hash_table_remove_all(r->peers);
        r->nown = 0;
    }
}

/* The client has read all that was sent. */
void ivfuzz_model_read(Run *r)
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
        r->hung_up = true; /* the client does that */
    }
    if (r->hung_up && !r->server_gone) {
        model_server_gone(r);
    }
}

/* Where the model and the client meet */

static void check_slots(Run *r)
{
    unsigned come[SLOTS] = {};
    GPollFD rung[SLOTS];

    for (unsigned i = 0; i < SLOTS; i++) {
        rung[i] = (GPollFD) { .fd = ivfuzz_things[i].fd, .events = G_IO_IN };
    }
    g_poll(rung, SLOTS, 0);
    for (unsigned i = 0; i < r->nown && r->revision == 1; i++) {
        Slot *slot = &slots[r->own[i]];

        come[r->own[i]] += ivfuzz_pulses[i];
        if (r->told >> i & 1) {
            continue;
        }
        CHECK(!ivfuzz_pulses[i] || slot->base + slot->max,
              "vector %u: %u interrupts that nobody rang", i, ivfuzz_pulses[i]);
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        Slot *slot = &slots[i];
        uint64_t count = rung[i].revents ? take_count(i) : 0;

        if (is_served(r, i)) {
            CHECK(!count, "eventfd %u is an own one, and was left at %" PRIu64,
                  i, count);
            if (r->revision == 0 && slot->base + slot->max) {
                r->interrupted(r, slot->base + slot->min);
            } else if (r->revision == 1) {
                CHECK(come[i] || !(slot->base + slot->min),
                      "eventfd %u was rung %" PRIu64 " times, and no interrupt "
                      "came", i, slot->base + slot->min);
            }
        } else if (slot->disowned &&
                   count <= (r->in_iothread ? slot->base + slot->max : 0)) {
            /* It was served before the client knew of the server's end. */
            if (r->revision == 0) {
                r->interrupted(r, false);
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
    memset(ivfuzz_pulses, 0, sizeof(ivfuzz_pulses));
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
        aio_bh_schedule_oneshot(iothread_get_aio_context(ivfuzz_iothread),
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
        GPollFD pfd = { .fd = ivfuzz_things[i].fd, .events = G_IO_IN };

        while (is_served(r, i) && g_poll(&pfd, 1, 0) == 1) {
            CHECK(g_get_monotonic_time() < deadline, "eventfd %u is an own "
                  "one, and is not served", i);
            wait_for_iothread();
        }
    }
    wait_for_iothread();
}

/*
 * The chardev makes each that it receives block, and the client undoes that:
 * for all that came with a message that it has read, or begun to read.
 */
static void check_nonblocking(Run *r)
{
    uint32_t received = 0;

    for (; r->next_checked < r->attached->len; r->next_checked++) {
        Attached *a = &g_array_index(r->attached, Attached, r->next_checked);

        if (a->offset >= r->seen) {
            break;
        }
        for (unsigned j = 0; j < MIN(a->nfds, TCP_MAX_FDS); j++) {
            received |= BIT((a->thing + j) % NUM_THINGS);
        }
    }
    if (r->bad_greeting || r->vague) {
        return;
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        CHECK(!(received & BIT(i)) ||
              fcntl(ivfuzz_things[i].fd, F_GETFL) & O_NONBLOCK,
              "eventfd %u blocks", i);
    }
}

/* Let the client do all it has to do, then compare. */
void ivfuzz_poll_client(Run *r)
{
    unsigned iterations = 0;
    int unread;

    do {
        CHECK(++iterations < MANY_ITERATIONS, "the main loop spins");
        main_loop_wait(true);
        CHECK(ioctl(r->conn, SIOCOUTQ, &unread) == 0, "SIOCOUTQ: %s",
              strerror(errno));
    } while (unread || g_main_context_pending(NULL));
    ivfuzz_model_read(r);
    if (r->in_iothread) {
        wait_for_own_eventfds(r);
    }
    check_slots(r);
    check_nonblocking(r);
}

/* The connection */

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
        main_loop_wait(false);
    }
}

/* A new connection, and nothing has been said. */
static void server_accept(Run *r)
{
    int64_t deadline = g_get_monotonic_time() + PATIENCE_US;
    GPollFD pfd = { .fd = listener, .events = G_IO_IN };

    while ((r->conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0) {
        CHECK(g_get_monotonic_time() < deadline, "the chardev does not come");
        if (r->is_started) {
            main_loop_wait(false);
        } else {
            g_poll(&pfd, 1, PATIENCE_US / 1000);
        }
    }
    if (r->is_started) {
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
    r->next_checked = 0;
    r->bad_greeting = false;
    r->server_gone = false;
}

static void connect_chardev(Run *r)
{
    g_autofree char *options = NULL;
    QemuOpts *opts;

    /* not as often as without: each time takes a thread and 1 ms */
    r->reconnects = ivfuzz_take(r, 1) % 16 == 3;
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
void ivfuzz_server_comes_back(Run *r)
{
    if (r->reconnects && r->comebacks++ < MAX_COMEBACKS) {
        ivfuzz_server_hang_up(r);
        ivfuzz_poll_client(r);
        close(r->conn);
        server_accept(r);
    }
}

/* Goes on to an own vector; returns whether the socket took it all. */
bool ivfuzz_server_complete(Run *r)
{
    const uint8_t memory = GOOD_MEMORY;
    const uint8_t eventfd = 0;

    server_send(r, (uint8_t[8]) {}, -r->stream->len & 7, NULL, 0);
    ivfuzz_model_read(r);
    while (!r->bad_greeting && !(r->greeted && r->nown)) {
        unsigned messages = r->messages;

        if (messages < 2) {
            server_send_value(r, messages, NULL, 0);
        } else if (!r->greeted) {
            server_send_value(r, -1, &memory, 1);
        } else {
            server_send_value(r, r->id, &eventfd, 1);
        }
        ivfuzz_model_read(r);
        if (r->messages == messages) {
            return false;
        }
    }
    return true;
}

bool ivfuzz_operation(Run *r, unsigned op)
{
    uint64_t value;

    switch (op) {
    case 0:
        ivfuzz_server_message(r);
        break;
    case 1:
        ivfuzz_server_bytes(r);
        break;
    case 2:
        ivfuzz_poll_client(r);
        break;
    case 3:
        ivfuzz_peer_write(ivfuzz_take(r, 1) % SLOTS, 1);
        break;
    case 4:
        ivfuzz_peer_write(ivfuzz_take(r, 1) % SLOTS, FULL);
        break;
    case 5:
        value = ivfuzz_take(r, 2);
        r->ring(r, ivfuzz_take_id(r), value & 0x100 ? value : value % 4);
        break;
    case 6:
        ivfuzz_server_hang_up(r);
        break;
    case 7:
        ivfuzz_server_comes_back(r);
        break;
    default:
        return false;
    }
    return true;
}

void ivfuzz_ring_all(Run *r)
{
    GHashTableIter iter;
    gpointer id, value;

    ivfuzz_poll_client(r);
    r->check(r);
    g_hash_table_iter_init(&iter, r->peers);
    while (g_hash_table_iter_next(&iter, &id, &value)) {
        Peer *peer = value;

        for (unsigned i = 0; i <= peer->nvectors; i++) {
            r->ring(r, GPOINTER_TO_UINT(id), i);
            if (i < peer->nvectors && is_served(r, peer->slot[i])) {
                ivfuzz_poll_client(r);
            } else {
                check_slots(r); /* nobody else has to do anything */
            }
        }
    }
    for (unsigned i = 0; i < r->nown; i++) {
        r->ring(r, r->id, i);
        ivfuzz_poll_client(r);
    }
}

/* The life of an input */

void ivfuzz_begin(Run *r, QTestState *qts, const uint8_t *data, size_t len)
{
    *r = (Run) {
        .qts = qts,
        .data = data,
        .len = len,
        .nfds = count_fds(),
        .revision = 1,
        .stream = g_byte_array_new(),
        .attached = g_array_new(false, false, sizeof(Attached)),
        .peers = g_hash_table_new_full(NULL, NULL, NULL, g_free),
        .kept = g_array_new(false, false, sizeof(Kept)),
    };
    connect_chardev(r);
}

void ivfuzz_take_cuts(Run *r)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cuts); i++) {
        cuts[i] = ivfuzz_take(r, 1) % 8 + 1;
    }
    next_cut = 0;
}

void ivfuzz_end(Run *r)
{
    if (r->in_iothread) { /* to wait for a thread takes longer than all else */
        wait_for_iothread();
    }
    delete_chardev(r);
    g_byte_array_unref(r->stream);
    g_array_unref(r->attached);
    g_hash_table_unref(r->peers);
    g_array_unref(r->kept);
    flush_events(r->qts);
    for (unsigned i = 0; i < SLOTS; i++) {
        take_count(i);
    }
    memset(slots, 0, sizeof(slots));
    memset(ivfuzz_pulses, 0, sizeof(ivfuzz_pulses));
    CHECK(count_fds() == r->nfds || is_first,
          "%u file descriptors, expected %u as before", count_fds(), r->nfds);
}

/* What all inputs share */

static Thing memory(uint64_t size)
{
    return (Thing) { fake_server_memory(size), size };
}

static int memory_open_as(off_t size, int flags)
{
    int fd = fake_server_memory(size);
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
        ivfuzz_things[i].fd = eventfd(0, EFD_CLOEXEC |
                                         (i & 1 ? EFD_NONBLOCK : 0));
    }
    ivfuzz_things[GOOD_MEMORY] = memory(2 * page);
    ivfuzz_things[TWIN_MEMORY] = memory(2 * page);
    ivfuzz_things[OTHER_MEMORY] = memory(page);
    ivfuzz_things[HUGE_MEMORY] = memory(MAX_SHMEM_SIZE);
    ivfuzz_things[TOO_HUGE_MEMORY].fd =
        fake_server_memory(MAX_SHMEM_SIZE + page);
    ivfuzz_things[EMPTY_FILE].fd = fake_server_memory(0);
    ivfuzz_things[ONE_BYTE].fd = fake_server_memory(1);
    ivfuzz_things[PAGE_LESS_ONE].fd = fake_server_memory(page - 1);
    ivfuzz_things[PAGE_AND_ONE].fd = fake_server_memory(page + 1);
    ivfuzz_things[READ_ONLY].fd = memory_open_as(page, O_RDONLY);
    ivfuzz_things[WRITE_ONLY].fd = memory_open_as(page, O_WRONLY);
    ivfuzz_things[SEALED] = memory(2 * page);
    CHECK(fcntl(ivfuzz_things[SEALED].fd, F_ADD_SEALS, F_SEAL_WRITE) == 0,
          "F_SEAL_WRITE: %s", strerror(errno));
    CHECK(pipe2(pair, O_CLOEXEC) == 0, "pipe: %s", strerror(errno));
    ivfuzz_things[PIPE_READER].fd = pair[0];
    ivfuzz_things[PIPE_WRITER].fd = pair[1];
    ivfuzz_things[SOCKET].fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ivfuzz_things[DIRECTORY].fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ivfuzz_things[PATH_ONLY].fd = memory_open_as(page, O_PATH);
    ivfuzz_things[DEV_NULL].fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; i < NUM_THINGS; i++) {
        CHECK(ivfuzz_things[i].fd >= 0, "cannot make thing %u", i);
    }
}

void ivfuzz_prepare(QTestState *qts, IvfuzzRun *run)
{
    QIOChannelClass *klass =
        QIO_CHANNEL_CLASS(object_class_by_name(TYPE_QIO_CHANNEL_SOCKET));

    real_readv = klass->io_readv;
    klass->io_readv = cut_readv;
    make_things();
    ivfuzz_iothread = IOTHREAD(object_resolve_path("/objects/iothread", NULL));
    qemu_sem_init(&iothread_turns, 0);
    listener_name = g_strdup_printf("ivshmem-fuzz-%d", getpid());
    listener = fake_server_listen(listener_name);

    never_sleep = true;
    is_first = true;
    run(qts, NULL, 0);
    run(qts, (const uint8_t *)"\3", 1);
    is_first = false;
}
