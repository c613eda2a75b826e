/*
 * A peer on the host: a client of ivshmem-server
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The protocol is that of QEMU's docs/specs/ivshmem-spec.rst, section
 * "The ivshmem Client-Server Protocol": messages of 8 bytes, little-endian,
 * some with a file descriptor. First the version, the own id, and the shared
 * memory (-1); from then on, at any time, a vector of a peer or our own (the
 * peer's id, with an eventfd), or a peer's end (its id alone).
 */

#include <endian.h>
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "ivshmem.h"

#define PROTOCOL_VERSION 0
#define MAX_PEERS 65536
/* for all that it has to say at first */
#define GREETING_MS 10000
/* without a word for so long, a server has said it; and as soon as we have a
   vector, for so long */
#define QUIET_MS 250
#define BRIEF_MS 50

struct peer {
    unsigned vectors;
    int eventfd[IVSHMEM_MAX_VECTORS];
};

struct client {
    struct ivshmem ivshmem;

    int server;                     /* -1 after its end */
    uint8_t message[8];             /* one that is not complete yet */
    size_t received;
    int fd;                         /* what came with it, or -1 */
    struct peer *peer[MAX_PEERS];   /* we are one of them */
};

enum result { MESSAGE, NOTHING, END };

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool readable(int fd, int timeout_ms)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    return poll(&pfd, 1, timeout_ms) > 0;
}

/* Keep the descriptor that came with a message; there is one at most. */
static void take_fds(struct client *c, struct msghdr *header)
{
    for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control;
         control = CMSG_NXTHDR(header, control)) {
        size_t n = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (control->cmsg_level != SOL_SOCKET ||
            control->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
            if (c->fd < 0) {
                c->fd = fd;
            } else {
                close(fd);
            }
        }
    }
}

/*
 * Take what is there of the next message, without waiting.
 *
 * @fd: what came with it, then the caller's, or -1
 */
static enum result receive(struct client *c, int64_t *message, int *fd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec io = {
        .iov_base = c->message + c->received,
        .iov_len = sizeof(c->message) - c->received,
    };
    struct msghdr header = {
        .msg_iov = &io, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof(control),
    };
    ssize_t n = recvmsg(c->server, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    uint64_t word;

    if (n < 0) {
        return errno == EAGAIN || errno == EINTR ? NOTHING : END;
    }
    if (n == 0) {
        return END;
    }
    take_fds(c, &header);
    if (header.msg_flags & MSG_CTRUNC) {
        warnx("a descriptor from the server is lost: too many are open");
    }
    c->received += (size_t)n;
    if (c->received < sizeof(c->message)) {
        return NOTHING;
    }
    memcpy(&word, c->message, sizeof(word));
    *message = (int64_t)le64toh(word);
    *fd = c->fd;
    c->received = 0;
    c->fd = -1;
    return MESSAGE;
}

/* One of the first three messages; false, with a word on stderr, if bad. */
static bool greeting(struct client *c, const char *what, int64_t deadline,
                     int64_t *message, int *fd)
{
    enum result result;

    while ((result = receive(c, message, fd)) == NOTHING) {
        int64_t left = deadline - now_ms();

        if (left <= 0 || !readable(c->server, (int)left)) {
            warnx("the server did not send %s in %d s", what,
                  GREETING_MS / 1000);
            return false;
        }
    }
    if (result == END) {
        warnx("the server closed the connection instead of sending %s", what);
        return false;
    }
    return true;
}

static bool map_memory(struct client *c, int fd)
{
    struct stat status;
    void *memory;

    if (fstat(fd, &status) < 0 || status.st_size <= 0) {
        warnx("the server's shared memory has no size");
        return false;
    }
    memory = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE,
                  MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        warn("cannot map the shared memory");
        return false;
    }
    c->ivshmem.memory = memory;
    c->ivshmem.size = (size_t)status.st_size;
    return true;
}

static bool expect_greeting(struct client *c, int64_t deadline)
{
    int64_t message;
    bool good;
    int fd;

    if (!greeting(c, "its version", deadline, &message, &fd)) {
        return false;
    }
    if (message != PROTOCOL_VERSION || fd >= 0) {
        warnx("the server sent protocol version %lld, expected %d",
              (long long)message, PROTOCOL_VERSION);
        return false;
    }
    if (!greeting(c, "our id", deadline, &message, &fd)) {
        return false;
    }
    if (message < 0 || message >= MAX_PEERS || fd >= 0) {
        warnx("the server sent id %lld, expected 0 to %d",
              (long long)message, MAX_PEERS - 1);
        return false;
    }
    c->ivshmem.id = (uint32_t)message;
    if (!greeting(c, "the shared memory", deadline, &message, &fd)) {
        return false;
    }
    if (message != -1 || fd < 0) {
        warnx("the server sent message %lld %s descriptor, expected -1 with "
              "one", (long long)message, fd < 0 ? "without" : "with");
        return false;
    }
    good = map_memory(c, fd);
    close(fd);
    return good;
}

static void forget_peer(struct client *c, uint32_t id)
{
    struct peer *peer = c->peer[id];

    if (peer) {
        for (unsigned i = 0; i < peer->vectors; i++) {
            close(peer->eventfd[i]);
        }
        free(peer);
        c->peer[id] = NULL;
    }
}

/* Peers' vectors come in their order, and so do ours. */
static void add_vector(struct client *c, uint32_t id, int fd)
{
    if (!c->peer[id]) {
        c->peer[id] = calloc(1, sizeof(*c->peer[id]));
    }
    if (!c->peer[id] || c->peer[id]->vectors == IVSHMEM_MAX_VECTORS) {
        close(fd);
        return;
    }
    c->peer[id]->eventfd[c->peer[id]->vectors++] = fd;
    if (id == c->ivshmem.id) {
        c->ivshmem.vectors = c->peer[id]->vectors;
    }
}

/* Read one message, or that there are no more; false if there is nothing yet. */
static bool read_message(struct client *c)
{
    int64_t message;
    int fd;
    enum result result = receive(c, &message, &fd);

    if (result == NOTHING) {
        return false;
    }
    if (result == END) {
        warnx("the server is gone: peers that come now stay unknown");
        close(c->server);
        c->server = -1;
    } else if (message < 0 || message >= MAX_PEERS) {
        warnx("the server sent id %lld, expected 0 to %d",
              (long long)message, MAX_PEERS - 1);
        if (fd >= 0) {
            close(fd);
        }
    } else if (fd >= 0) {
        add_vector(c, (uint32_t)message, fd);
    } else if (message != c->ivshmem.id) {
        forget_peer(c, (uint32_t)message);
    }
    return true;
}

/* Read all that the server has sent; true if it was anything. */
static bool read_server(struct client *c)
{
    bool any = false;

    while (c->server >= 0 && read_message(c)) {
        any = true;
    }
    return any;
}

/* The peers that are there, and then our own vectors, follow the greeting. */
static void read_first_batch(struct client *c, int64_t deadline)
{
    while (c->server >= 0 && now_ms() < deadline &&
           readable(c->server, c->ivshmem.vectors ? BRIEF_MS : QUIET_MS)) {
        read_message(c);
    }
}

static bool connect_server(struct client *c, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(address.sun_path)) {
        warnx("%s: too long for a socket's path", path);
        return false;
    }
    strcpy(address.sun_path, path);
    c->server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->server < 0 || connect(c->server, (struct sockaddr *)&address,
                                 sizeof(address)) < 0) {
        warn("cannot connect to %s", path);
        return false;
    }
    return true;
}

struct ivshmem *ivshmem_open(const char *where)
{
    int64_t deadline = now_ms() + GREETING_MS;
    struct client *c = calloc(1, sizeof(*c));

    if (!c) {
        warn("%s", where);
        return NULL;
    }
    c->server = c->fd = -1;
    if (!connect_server(c, where) || !expect_greeting(c, deadline)) {
        ivshmem_close(&c->ivshmem);
        return NULL;
    }
    read_first_batch(c, deadline);
    c->ivshmem.finds_peers = true;
    return &c->ivshmem;
}

void ivshmem_close(struct ivshmem *ivshmem)
{
    struct client *c = (struct client *)ivshmem;

    for (uint32_t id = 0; id < MAX_PEERS; id++) {
        forget_peer(c, id);
    }
    if (ivshmem->memory) {
        munmap(ivshmem->memory, ivshmem->size);
    }
    if (c->fd >= 0) {
        close(c->fd);
    }
    if (c->server >= 0) {
        close(c->server);
    }
    free(c);
}

bool ivshmem_ring(struct ivshmem *ivshmem, uint32_t peer, uint32_t vector)
{
    struct client *c = (struct client *)ivshmem;
    static const uint64_t one = 1;
    struct pollfd pfd = { .events = POLLOUT };

    /* who has just come or gone? the server may have said so already */
    read_server(c);
    if (peer >= MAX_PEERS || !c->peer[peer] ||
        vector >= c->peer[peer]->vectors) {
        return false;
    }
    pfd.fd = c->peer[peer]->eventfd[vector];
    /* a full counter would block us, and does not need another doorbell */
    if (poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLOUT) &&
        write(pfd.fd, &one, sizeof(one)) != sizeof(one)) {
        warn("cannot ring peer %u", peer);
    }
    return true;
}

uint32_t ivshmem_next_peer(struct ivshmem *ivshmem, uint32_t from)
{
    struct client *c = (struct client *)ivshmem;

    read_server(c);
    while (from < MAX_PEERS && (!c->peer[from] || from == ivshmem->id)) {
        from++;
    }
    return from < MAX_PEERS ? from : IVSHMEM_NO_PEER;
}

/* Take the doorbells that have rung; a bit for each vector. */
static uint64_t take_doorbells(struct client *c, const struct pollfd *vector)
{
    uint64_t count, rang = 0;

    for (unsigned i = 0; i < c->ivshmem.vectors; i++) {
        if (vector[i].revents & POLLIN &&
            read(vector[i].fd, &count, sizeof(count)) == sizeof(count)) {
            rang |= UINT64_C(1) << i;
        }
    }
    return rang;
}

bool ivshmem_wait(struct ivshmem *ivshmem, uint64_t *vectors, int timeout_ms)
{
    struct client *c = (struct client *)ivshmem;
    int64_t deadline = now_ms() + timeout_ms;
    uint64_t rang = 0;

    for (;;) {
        struct pollfd pfd[IVSHMEM_MAX_VECTORS + 1];
        unsigned n = ivshmem->vectors;
        int64_t left = deadline - now_ms();

        for (unsigned i = 0; i < n; i++) {
            pfd[i] = (struct pollfd) {
                .fd = c->peer[ivshmem->id]->eventfd[i], .events = POLLIN,
            };
        }
        /* poll() passes over -1 */
        pfd[n] = (struct pollfd) { .fd = c->server, .events = POLLIN };
        if (poll(pfd, n + 1, timeout_ms < 0 ? -1 : left < 0 ? 0 : (int)left)
            > 0) {
            rang = take_doorbells(c, pfd);
            if (pfd[n].revents) {
                read_server(c);
            }
        }
        if (rang || (timeout_ms >= 0 && left <= 0)) {
            break;
        }
    }
    if (vectors) {
        *vectors = rang;
    }
    /* what was written before the doorbell is read after it */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return rang != 0;
}
