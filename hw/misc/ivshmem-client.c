/*
 * A client of an ivshmem server
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/sockets.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "chardev/char-socket.h"
#include "hw/misc/ivshmem-client.h"
#include "io/task.h"
#include "trace.h"

#include <sys/resource.h>

#define PROTOCOL_VERSION 0
#define SHMEM_MESSAGE (-1)

/*
 * A bound on what a server can make QEMU allocate: its bitmaps of dirty
 * pages take up to 1/2730 of the memory's size.
 */
#define MAX_SHMEM_SIZE (64 * GiB)

#define GREETING_MS 10000       /* the whole greeting, and the first batch */
#define QUIET_MS 250            /* ends the first batch */
#define LOOK_MS 1000            /* between looks for a server that is gone */
#define MAX_AT_ONCE 64          /* messages, then others have their turn */

/* Each is reported once until the next greeting: a server may repeat itself. */
typedef enum IvshmemBadMessage {
    BAD_ID,
    BAD_FD_COUNT,
    BAD_SHMEM,
    BAD_EVENTFD,
    BAD_NO_FDS,
    BAD_OWN_GONE,
    BAD_UNKNOWN_GONE,
    BAD_GREETING,
} IvshmemBadMessage;

/* The chardev */

static SocketChardev *ivshmem_client_socket(IvshmemClient *c)
{
    return SOCKET_CHARDEV(qemu_chr_fe_get_driver(&c->chr));
}

static const char *ivshmem_client_label(IvshmemClient *c)
{
    return qemu_chr_fe_get_driver(&c->chr)->label;
}

/* A chardev with reconnect-ms tries again until the server is back. */
static bool ivshmem_client_reconnects(IvshmemClient *c)
{
    return ivshmem_client_socket(c)->reconnect_time_ms;
}

static bool ivshmem_client_lacks_fds(IvshmemClient *c)
{
    int fd = fcntl(ivshmem_client_socket(c)->sioc->fd, F_DUPFD_CLOEXEC, 0);

    if (fd >= 0) {
        close(fd);
    }
    return fd < 0;
}

static uint64_t ivshmem_client_max_fds(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) < 0 ? 0 : limit.rlim_cur;
}

/* A server that is not there */

/*
 * What keeps the chardev from connecting, as an errno; 0 if nothing does. A
 * socket of another type gets the same answers, and reaches no server.
 */
static int ivshmem_client_connect_error(IvshmemClient *c)
{
    UnixSocketAddress *sa = &ivshmem_client_socket(c)->addr->u.q_unix;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int err, fd;

    if (sa->abstract) {
        return 0; /* it has no permissions */
    }
    fd = qemu_socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0) {
        return c->connect_error; /* one cannot tell now */
    }
    memcpy(addr.sun_path, sa->path, MIN(strlen(sa->path),
                                        sizeof(addr.sun_path)));
    err = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? errno : 0;
    close(fd);
    return err == EPROTOTYPE ? 0 : err;
}

/*
 * The chardev says why it cannot connect when it has tried, and not again: let
 * it, if something has changed since.
 */
static void ivshmem_client_look_for_server(IvshmemClient *c)
{
    int err = ivshmem_client_connect_error(c);

    if (c->connect_error >= 0 && err != c->connect_error) {
        ivshmem_client_socket(c)->connect_err_reported = false;
    }
    c->connect_error = err;
}

/*
 * From the timer, as QEMU frees the address before it tells of the end when it
 * leaves.
 */
static void ivshmem_client_await_server(IvshmemClient *c)
{
    c->connect_error = -1;
    if (ivshmem_client_reconnects(c)) {
        timer_mod(c->server_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
    }
}

/*
 * From the main loop, because that does not turn any more when QEMU leaves and
 * closes its chardevs; and so that, at start-up, it tells of all eventfds that
 * were lost until the machine starts. What was lost would have come on top of
 * the limit.
 */
static void ivshmem_client_report(void *opaque)
{
    IvshmemClient *c = opaque;
    uint64_t max_fds = ivshmem_client_max_fds();

    if (c->lost && !(c->reported & BIT(BAD_NO_FDS))) {
        c->reported |= BIT(BAD_NO_FDS);
        error_report("%s: %u eventfds from chardev '%s' were lost for want of "
                     "file descriptors, or their peers are gone: the limit of "
                     "open files (ulimit -n) is %" PRIu64 ", expected %" PRIu64
                     " or more", c->ops->name, c->lost, ivshmem_client_label(c),
                     max_fds, max_fds + c->lost);
    }
    if (c->is_gone) {
        c->is_gone = false;
        warn_report("%s: the server at chardev '%s' is gone, %s",
                    c->ops->name, ivshmem_client_label(c),
                    ivshmem_client_reconnects(c) ?
                    "waiting for it to come back" :
                    "going on with the peers that are known");
    }
}

static void ivshmem_client_report_soon(IvshmemClient *c)
{
    timer_mod(c->report_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
}

/* The server's messages: the greeting */

static const char *ivshmem_client_file_kind(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFIFO:
        return "a pipe";
    case S_IFSOCK:
        return "a socket";
    case S_IFDIR:
        return "a directory";
    case S_IFCHR:
        return "a character device";
    default:
        return "something else";
    }
}

/* Check the object; returns its size, or 0 if it will not do. */
static uint64_t ivshmem_client_check_shmem(int fd, Error **errp)
{
    uint64_t page_size = qemu_real_host_page_size();
    /* a host of 32 bits cannot have more */
    uint64_t max_size = MIN(MAX_SHMEM_SIZE,
                            QEMU_ALIGN_DOWN(SIZE_MAX, page_size));
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "cannot examine the shared memory");
        return 0;
    }
    if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "server sent %s as shared memory, expected a regular "
                   "file", ivshmem_client_file_kind(st.st_mode));
        return 0;
    }
    if ((flags & O_ACCMODE) != O_RDWR) {
        error_setg(errp, "server sent shared memory that is not open for "
                   "reading and writing, expected both");
        return 0;
    }
    if (st.st_size <= 0 || st.st_size > max_size ||
        st.st_size % page_size) {
        error_setg(errp, "server sent shared memory of %" PRId64 " bytes, "
                   "expected a multiple of the host's page size %" PRIu64
                   " up to %" PRIu64, (int64_t)st.st_size, page_size,
                   max_size);
        return 0;
    }
    return st.st_size;
}

/* The shared memory ends the greeting. Takes @fd. */
static void ivshmem_client_shmem(IvshmemClient *c, int fd)
{
    uint64_t size = ivshmem_client_check_shmem(fd, &c->greeting_error);

    if (!size ||
        !c->ops->take_memory(c->opaque, fd, size, &c->greeting_error)) {
        close(fd);
        return;
    }
    ivshmem_peers_show(&c->peers, c->new_id,
                       ivshmem_client_socket(c)->sioc->fd);
    c->phase = IVSHMEM_CLIENT_CONNECTED;
    c->reported = 0;
    c->lost = 0;
    timer_del(c->server_timer);
    trace_ivshmem_client_greeting(c->new_id, size);
}

static const char *ivshmem_client_expected(IvshmemClient *c)
{
    switch (c->phase) {
    case IVSHMEM_CLIENT_AWAIT_VERSION:
        return "the protocol version";
    case IVSHMEM_CLIENT_AWAIT_ID:
        return "the own id";
    default:
        return "the shared memory";
    }
}

static void ivshmem_client_greeting(IvshmemClient *c, int64_t value, int fd,
                                    unsigned nfds)
{
    unsigned expected_nfds = c->phase == IVSHMEM_CLIENT_AWAIT_SHMEM ? 1 : 0;

    if (c->phase == IVSHMEM_CLIENT_AWAIT_VERSION && value != PROTOCOL_VERSION) {
        error_setg(&c->greeting_error, "server sent protocol version %" PRId64
                   ", expected %d", value, PROTOCOL_VERSION);
    } else if (c->phase == IVSHMEM_CLIENT_AWAIT_ID &&
               (value < 0 || value >= IVSHMEM_MAX_PEERS)) {
        error_setg(&c->greeting_error, "server sent own id %" PRId64
                   ", expected 0 to %d", value, IVSHMEM_MAX_PEERS - 1);
    } else if (nfds < expected_nfds && ivshmem_client_lacks_fds(c)) {
        error_setg(&c->greeting_error, "the shared memory was lost for want "
                   "of file descriptors, the limit of open files (ulimit -n) "
                   "is %" PRIu64, ivshmem_client_max_fds());
    } else if (nfds != expected_nfds) {
        error_setg(&c->greeting_error, "server sent %s with %u file "
                   "descriptors, expected %u", ivshmem_client_expected(c), nfds,
                   expected_nfds);
    } else if (c->phase == IVSHMEM_CLIENT_AWAIT_VERSION) {
        c->phase = IVSHMEM_CLIENT_AWAIT_ID;
    } else if (c->phase == IVSHMEM_CLIENT_AWAIT_ID) {
        c->new_id = value;
        c->phase = IVSHMEM_CLIENT_AWAIT_SHMEM;
    } else {
        ivshmem_client_shmem(c, fd);
        return;
    }
    if (fd >= 0) {
        close(fd);
    }
}

/*
 * The greeting of a server that has come back went wrong, or a server ended
 * in its greeting: report it once, the chardev will try again. All else at
 * start-up is ivshmem_client_connect()'s business.
 */
static void ivshmem_client_greeting_failed(IvshmemClient *c)
{
    if (c->peers.is_hidden) {
        ivshmem_peers_forget(&c->peers); /* of this very greeting */
    }
    c->phase = IVSHMEM_CLIENT_DISCONNECTED;
    timer_del(c->server_timer);
    ivshmem_client_await_server(c);
    if (c->reported & BIT(BAD_GREETING)) {
        error_free(c->greeting_error);
    } else {
        c->reported |= BIT(BAD_GREETING);
        error_reportf_err(c->greeting_error, "%s: chardev '%s': ", c->ops->name,
                          ivshmem_client_label(c));
    }
    c->greeting_error = NULL;
}

static void ivshmem_client_greeting_timeout(IvshmemClient *c)
{
    error_setg(&c->greeting_error, "server sent %" PRIu64 " bytes in %u s, "
               "expected %s", c->received, c->greeting_ms / 1000,
               ivshmem_client_expected(c));
}

static void ivshmem_client_server_timer(void *opaque)
{
    IvshmemClient *c = opaque;

    if (c->phase == IVSHMEM_CLIENT_DISCONNECTED) {
        ivshmem_client_look_for_server(c);
        timer_mod(c->server_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LOOK_MS);
    } else {
        ivshmem_client_greeting_timeout(c);
        ivshmem_client_greeting_failed(c);
        qemu_chr_fe_disconnect(&c->chr);
    }
}

/* The server's messages: peers that come and go */

static void G_GNUC_PRINTF(5, 6)
ivshmem_client_bad_message(IvshmemClient *c, IvshmemBadMessage kind,
                           int64_t value, unsigned nfds, const char *fmt, ...)
{
    g_autofree char *why = NULL;
    va_list ap;

    va_start(ap, fmt);
    why = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace_ivshmem_client_bad_message(value, nfds, why);
    if (c->phase == IVSHMEM_CLIENT_AWAIT_SHMEM) {
        error_setg(&c->greeting_error, "server sent message %" PRId64 " with "
                   "%u file descriptors, expected %d with the shared memory: "
                   "%s", value, nfds, SHMEM_MESSAGE, why);
    } else if (!(c->reported & BIT(kind))) {
        c->reported |= BIT(kind);
        error_report("%s: ignored message %" PRId64 " with %u file "
                     "descriptors from chardev '%s': %s", c->ops->name, value,
                     nfds, ivshmem_client_label(c), why);
    }
}

/* The message of an eventfd looks like the end of its peer, and is taken so. */
static void ivshmem_client_eventfd_lost(IvshmemClient *c, unsigned id)
{
    IvshmemPeer *peer = c->peers.others[id];

    trace_ivshmem_client_bad_message(id, 0, "no file descriptors are left");
    if (c->phase == IVSHMEM_CLIENT_AWAIT_SHMEM) {
        error_setg(&c->greeting_error, "peer %u: its eventfd was lost for want "
                   "of file descriptors, the limit of open files (ulimit -n) "
                   "is %" PRIu64, id, ivshmem_client_max_fds());
        return;
    }
    c->lost += 1 + (peer ? peer->nvectors : 0);
    ivshmem_client_report_soon(c);
}

/* The server says so by a message without an eventfd. */
static void ivshmem_client_peer_gone(IvshmemClient *c, unsigned id)
{
    IvshmemPeer *peer = c->peers.others[id];

    if (ivshmem_client_lacks_fds(c)) {
        ivshmem_client_eventfd_lost(c, id);
    } else if (id == c->new_id) {
        ivshmem_client_bad_message(c, BAD_OWN_GONE, id, 0,
                                   "it is the own id, expected an eventfd");
    } else if (!peer && (c->peers.nvectors ||
                         c->phase == IVSHMEM_CLIENT_AWAIT_SHMEM)) {
        /* A server without vectors announces no peer, only its end later. */
        ivshmem_client_bad_message(c, BAD_UNKNOWN_GONE, id, 0,
                                   "peer is gone that never came");
    }
    if (peer) {
        trace_ivshmem_client_peer_gone(id, peer->nvectors);
        ivshmem_peers_remove(&c->peers, id);
    }
}

static void ivshmem_client_peer_message(IvshmemClient *c, int64_t value, int fd,
                                        unsigned nfds)
{
    if (nfds > 1) {
        ivshmem_client_bad_message(c, BAD_FD_COUNT, value, nfds,
                                   "expected at most one");
    } else if (value == SHMEM_MESSAGE) {
        ivshmem_client_bad_message(c, BAD_SHMEM, value, nfds,
                                   "the shared memory is there already");
    } else if (value < 0 || value >= IVSHMEM_MAX_PEERS) {
        ivshmem_client_bad_message(c, BAD_ID, value, nfds,
                                   "expected an id from 0 to %d",
                                   IVSHMEM_MAX_PEERS - 1);
    } else if (!nfds) {
        ivshmem_client_peer_gone(c, value);
    } else if (!c->msg_fd_is_eventfd) {
        ivshmem_client_bad_message(c, BAD_EVENTFD, value, nfds,
                                   "expected an eventfd");
    } else if (value == c->new_id) {
        ivshmem_peers_add_own(&c->peers, value, fd);
        return;
    } else {
        ivshmem_peers_add(&c->peers, value, fd);
        return;
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* The server's bytes */

static int ivshmem_client_can_receive(void *opaque)
{
    IvshmemClient *c = opaque;

    if (c->phase == IVSHMEM_CLIENT_DISCONNECTED || c->greeting_error) {
        return 0;
    }
    /* One message at a time, or fds could not be told apart. */
    return sizeof(c->msg) - c->msg_len;
}

static bool ivshmem_client_is_eventfd(IvshmemClient *c, int fd)
{
    static const char expected[] = "anon_inode:[eventfd]";
    char target[sizeof(expected) + 1] = ""; /* shows what is longer, too */
    char link[16];

    snprintf(link, sizeof(link), "%d", fd);
    return readlinkat(c->fd_dir, link, target, sizeof(target) - 1) > 0 &&
           g_str_equal(target, expected);
}

/*
 * The channel makes each fd that it receives block, for all who share the open
 * file: peers that read an eventfd until it is empty would hang.
 */
static void ivshmem_client_collect_fds(IvshmemClient *c, const int *fds,
                                       size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool is_eventfd = ivshmem_client_is_eventfd(c, fds[i]);

        if (is_eventfd) {
            qemu_set_blocking(fds[i], false, NULL);
        }
        if (c->msg_nfds++ == 0) {
            c->msg_fd = fds[i];
            c->msg_fd_is_eventfd = is_eventfd;
        } else {
            close(fds[i]);
        }
    }
}

/* A message is complete. */
static void ivshmem_client_message(IvshmemClient *c)
{
    int64_t value = ldq_le_p(c->msg);
    unsigned nfds = c->msg_nfds;
    int fd = c->msg_fd;

    c->msg_len = 0;
    c->msg_fd = -1;
    c->msg_nfds = 0;
    if (c->phase == IVSHMEM_CLIENT_CONNECTED) {
        ivshmem_client_peer_message(c, value, fd, nfds);
    } else if (c->phase == IVSHMEM_CLIENT_AWAIT_SHMEM &&
               value != SHMEM_MESSAGE) {
        /* A peer ahead of the memory takes the place of an old server's. */
        ivshmem_peers_hide(&c->peers);
        ivshmem_client_peer_message(c, value, fd, nfds);
    } else {
        ivshmem_client_greeting(c, value, fd, nfds);
    }
    if (c->greeting_error && !c->is_starting) {
        ivshmem_client_greeting_failed(c);
        qemu_chr_fe_disconnect(&c->chr);
    }
}

static void ivshmem_client_take(IvshmemClient *c, const uint8_t *buf,
                                size_t size, const int *fds, size_t nfds)
{
    assert(size <= ivshmem_client_can_receive(c));
    memcpy(c->msg + c->msg_len, buf, size);
    c->msg_len += size;
    c->received += size;
    ivshmem_client_collect_fds(c, fds, nfds);
    if (c->msg_len == sizeof(c->msg)) {
        /* Some were rung when not all of this message was there. */
        ivshmem_peers_read(&c->peers, c->received - 1);
        ivshmem_client_message(c);
    }
    ivshmem_peers_read(&c->peers, c->received);
}

/*
 * The chardev hands over one message for each turn of the main loop, which with
 * thousands of peers costs a third of the start. Read what else there is at
 * once; its end, and an error, are the chardev's to find.
 */
static void ivshmem_client_read_on(IvshmemClient *c)
{
    const int flags = QIO_CHANNEL_READ_FLAG_FD_PRESERVE_BLOCKING;

    for (unsigned i = 0; i < MAX_AT_ONCE && ivshmem_client_can_receive(c);
         i++) {
        uint8_t buf[sizeof(c->msg)];
        struct iovec iov = {
            .iov_base = buf,
            .iov_len = ivshmem_client_can_receive(c),
        };
        g_autofree int *fds = NULL;
        size_t nfds = 0;
        ssize_t size = qio_channel_readv_full(ivshmem_client_socket(c)->ioc,
                                              &iov, 1, &fds, &nfds, flags,
                                              NULL);

        if (size <= 0) {
            break;
        }
        ivshmem_client_take(c, buf, size, fds, nfds);
    }
}

static void ivshmem_client_receive(void *opaque, const uint8_t *buf, int size)
{
    IvshmemClient *c = opaque;
    int fds[TCP_MAX_FDS];
    int nfds = qemu_chr_fe_get_msgfds(&c->chr, fds, ARRAY_SIZE(fds));

    ivshmem_client_take(c, buf, size, fds, MAX(nfds, 0));
    ivshmem_client_read_on(c);
}

static void ivshmem_client_drop_message(IvshmemClient *c)
{
    if (c->msg_fd >= 0) {
        close(c->msg_fd);
    }
    c->msg_len = 0;
    c->msg_fd = -1;
    c->msg_nfds = 0;
}

/* The connection */

static void ivshmem_client_connected(IvshmemClient *c)
{
    if (c->phase == IVSHMEM_CLIENT_DISCONNECTED) {
        c->phase = IVSHMEM_CLIENT_AWAIT_VERSION;
        c->received = 0;
        ivshmem_peers_read(&c->peers, 0);
        timer_mod(c->server_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + c->greeting_ms);
    }
}

static void ivshmem_client_disconnected(IvshmemClient *c)
{
    ivshmem_client_drop_message(c);
    switch (c->phase) {
    case IVSHMEM_CLIENT_DISCONNECTED:
        return;
    case IVSHMEM_CLIENT_CONNECTED:
        c->phase = IVSHMEM_CLIENT_DISCONNECTED;
        ivshmem_peers_end(&c->peers);
        trace_ivshmem_client_server_gone();
        c->is_gone = true;
        ivshmem_client_report_soon(c);
        if (ivshmem_client_reconnects(c)) {
            ivshmem_client_await_server(c);
            /* The next server will give everybody another id. */
            ivshmem_peers_forget(&c->peers);
            c->ops->server_gone(c->opaque);
        }
        return;
    default:
        if (c->greeting_error) { /* it is about to be reported */
            return;
        }
        error_setg(&c->greeting_error, "server closed the connection after %"
                   PRIu64 " bytes, expected %s", c->received,
                   ivshmem_client_expected(c));
        if (!c->is_starting || ivshmem_client_reconnects(c)) {
            ivshmem_client_greeting_failed(c);
        }
        return;
    }
}

static void ivshmem_client_event(void *opaque, QEMUChrEvent event)
{
    switch (event) {
    case CHR_EVENT_CLOSED:
        ivshmem_client_disconnected(opaque);
        break;
    case CHR_EVENT_OPENED:
        ivshmem_client_connected(opaque);
        break;
    case CHR_EVENT_BREAK:
    case CHR_EVENT_MUX_IN:
    case CHR_EVENT_MUX_OUT:
        break;
    }
}

static void ivshmem_client_set_handlers(IvshmemClient *c, GMainContext *context)
{
    qemu_chr_fe_set_handlers(&c->chr, ivshmem_client_can_receive,
                             ivshmem_client_receive, ivshmem_client_event, NULL,
                             c, context, true);
}

/* The start, in a context of its own: the main loop does not run yet */

static gboolean ivshmem_client_timeout(void *opaque)
{
    return G_SOURCE_REMOVE;
}

/* Wait for events of @context until @deadline in us of the monotonic clock. */
static void ivshmem_client_iterate(GMainContext *context, int64_t deadline)
{
    int64_t us = MAX(deadline - g_get_monotonic_time(), 0);
    GSource *timer = g_timeout_source_new(DIV_ROUND_UP(us, 1000));

    g_source_set_callback(timer, ivshmem_client_timeout, NULL, NULL);
    g_source_attach(timer, context);
    g_main_context_iteration(context, true);
    g_source_destroy(timer);
    g_source_unref(timer);
}

static int64_t ivshmem_client_deadline(unsigned ms)
{
    return g_get_monotonic_time() + ms * 1000LL;
}

static bool ivshmem_client_recv_greeting(IvshmemClient *c,
                                         GMainContext *context, Error **errp)
{
    int64_t deadline = ivshmem_client_deadline(c->greeting_ms);

    while (c->phase < IVSHMEM_CLIENT_CONNECTED && !c->greeting_error) {
        if (g_get_monotonic_time() >= deadline) {
            ivshmem_client_greeting_timeout(c);
            break;
        }
        ivshmem_client_iterate(context, deadline);
    }
    if (c->greeting_error) {
        error_propagate_prepend(errp, g_steal_pointer(&c->greeting_error),
                                "chardev '%s': ", ivshmem_client_label(c));
        return false;
    }
    return true;
}

/*
 * The peers' eventfds come after the greeting, our own last. A guest may ring
 * in its first instruction, so read them before the machine starts: until an
 * own one came and the socket is empty, or nothing comes.
 */
static void ivshmem_client_recv_first_batch(IvshmemClient *c,
                                            GMainContext *context)
{
    int64_t deadline = ivshmem_client_deadline(c->greeting_ms);
    int64_t quiet = ivshmem_client_deadline(QUIET_MS);
    uint64_t received = c->received;

    while (c->phase == IVSHMEM_CLIENT_CONNECTED &&
           g_get_monotonic_time() < MIN(deadline, quiet) &&
           !(c->peers.nvectors && !ivshmem_peers_unread(&c->peers))) {
        ivshmem_client_iterate(context, MIN(deadline, quiet));
        if (c->received != received) {
            received = c->received;
            quiet = ivshmem_client_deadline(QUIET_MS);
        }
    }
}

/* As when the last connection ended while we were not connected to it. */
static bool ivshmem_client_reconnects_elsewhere(SocketChardev *sock,
                                                GMainContext *context)
{
    GSource *timer = sock->reconnect_timer;

    return timer && g_source_get_context(timer) != context;
}

/* Wait as long as it takes, if the user has asked for that. */
static bool ivshmem_client_wait_for_server(IvshmemClient *c,
                                           GMainContext *context, Error **errp)
{
    SocketChardev *sock = ivshmem_client_socket(c);

    /* Before the chardev complains, as the user may mend it at once. */
    c->connect_error = -1;
    ivshmem_client_look_for_server(c);
    if (sock->connect_task) {
        /* It was begun in the main context, which does not run yet. */
        qio_task_wait_thread(sock->connect_task);
    }
    if (c->phase != IVSHMEM_CLIENT_DISCONNECTED) {
        return true;
    }
    if (!ivshmem_client_reconnects(c)) {
        error_setg(errp, "chardev '%s' is not connected",
                   ivshmem_client_label(c));
        return false;
    }
    if (!(c->reported & BIT(BAD_GREETING))) { /* or it said so then */
        info_report("%s: waiting for a server at chardev '%s'", c->ops->name,
                    ivshmem_client_label(c));
    }
    if (ivshmem_client_reconnects_elsewhere(sock, context) &&
        qemu_chr_wait_connected(CHARDEV(sock), errp) < 0) {
        return false;
    }
    while (c->phase == IVSHMEM_CLIENT_DISCONNECTED) {
        ivshmem_client_look_for_server(c);
        g_main_context_iteration(context, true);
    }
    return true;
}

static bool ivshmem_client_start(IvshmemClient *c, Error **errp)
{
    g_autoptr(GMainContext) context = g_main_context_new();
    bool ok;

    c->is_starting = true;
    ivshmem_client_set_handlers(c, context);
    do {
        ok = ivshmem_client_wait_for_server(c, context, errp) &&
             ivshmem_client_recv_greeting(c, context, errp);
        if (ok) {
            ivshmem_client_recv_first_batch(c, context);
        }
        /* A server that is gone again is waited for in this context, too. */
    } while (ok && c->phase == IVSHMEM_CLIENT_DISCONNECTED &&
             ivshmem_client_reconnects(c));
    /* The chardev must let go of the context before that goes. */
    ivshmem_client_set_handlers(c, NULL);
    c->is_starting = false;
    return ok;
}

static bool ivshmem_client_check_chardev(IvshmemClient *c, Error **errp)
{
    Chardev *chr;

    if (!qemu_chr_fe_backend_connected(&c->chr)) {
        error_setg(errp, "property 'chardev' is not set, expected the id of a "
                   "socket chardev that connects to an ivshmem server");
        return false;
    }
    chr = qemu_chr_fe_get_driver(&c->chr);
    if (!object_dynamic_cast(OBJECT(chr), TYPE_CHARDEV_SOCKET) ||
        !qemu_chr_has_feature(chr, QEMU_CHAR_FEATURE_FD_PASS)) {
        error_setg(errp, "chardev '%s' is a %s, expected a UNIX socket that "
                   "connects to an ivshmem server", chr->label,
                   object_get_typename(OBJECT(chr)));
        return false;
    }
    if (SOCKET_CHARDEV(chr)->is_listen) {
        error_setg(errp, "chardev '%s' listens, expected one that connects to "
                   "an ivshmem server (server=off)", chr->label);
        return false;
    }
    return true;
}

/* The interface */

void ivshmem_client_init(IvshmemClient *c, const IvshmemClientOps *ops,
                         void *opaque)
{
    c->ops = ops;
    c->opaque = opaque;
    c->phase = IVSHMEM_CLIENT_DISCONNECTED;
    c->greeting_ms = GREETING_MS;
    c->msg_fd = -1;
}

bool ivshmem_client_connect(IvshmemClient *c, unsigned vectors, AioContext *ctx,
                            Error **errp)
{
    if (!ivshmem_client_check_chardev(c, errp)) {
        return false;
    }
    c->fd_dir = open("/proc/self/fd", O_PATH | O_CLOEXEC);
    if (c->fd_dir < 0) {
        error_setg_errno(errp, errno, "cannot open /proc/self/fd, by which "
                         "eventfds are recognized");
        return false;
    }
    ivshmem_peers_init(&c->peers, vectors, c->ops->max_peer_vectors, ctx,
                       c->ops->interrupt, c->ops->changed, c->opaque);
    c->server_timer = timer_new_ms(QEMU_CLOCK_REALTIME,
                                   ivshmem_client_server_timer, c);
    c->report_timer = timer_new_ms(QEMU_CLOCK_REALTIME, ivshmem_client_report,
                                   c);
    if (!ivshmem_client_start(c, errp)) {
        ivshmem_client_disconnect(c);
        return false;
    }
    return true;
}

void ivshmem_client_disconnect(IvshmemClient *c)
{
    ivshmem_peers_end(&c->peers);
    qemu_chr_fe_set_handlers(&c->chr, NULL, NULL, NULL, NULL, NULL, NULL,
                             true);
    if (qemu_chr_fe_backend_open(&c->chr)) {
        /* A greeting comes once, and peers shall see us go. */
        qemu_chr_fe_disconnect(&c->chr);
    }
    c->phase = IVSHMEM_CLIENT_DISCONNECTED;
    c->reported = 0;
    c->is_gone = false;
    ivshmem_client_drop_message(c);
    ivshmem_peers_cleanup(&c->peers);
    timer_free(g_steal_pointer(&c->server_timer));
    timer_free(g_steal_pointer(&c->report_timer));
    close(c->fd_dir);
}
