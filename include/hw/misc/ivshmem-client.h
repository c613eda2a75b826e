/*
 * A client of an ivshmem server
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * This is the client's side of what docs/specs/ivshmem-spec.rst calls the
 * ivshmem Client-Server Protocol, for a device to be built upon. The device
 * has a property for the chardev (IvshmemClient::chr), gives the guest the
 * shared memory that it is offered, rings and listens by IvshmemClient::peers,
 * and says whatever else there is to say to the guest. It need not care what
 * comes from the server, and when:
 *
 *  + Whatever a server sends is checked before it is used. What is wrong in the
 *    greeting is an error; what is wrong later is reported once and ignored.
 *  + Version and own id come first and in that order, the shared memory any
 *    time after them: there are servers that tell of peers before it.
 *  + ivshmem_client_connect() waits for the greeting, and for the peers that
 *    come with it, so that the guest can ring them in its first instruction.
 *    All that comes later is the main loop's.
 *  + A chardev that reconnects is waited for, and a server that comes back
 *    greets anew, with another id, as if the device had been plugged into it
 *    then. Without that, the end of the server leaves all as it is.
 *  + What cannot be returned as an Error is reported: each kind of bad message,
 *    and a bad greeting, once until the next greeting.
 *
 * All functions are for the main loop, and all callbacks but @interrupt come
 * from it, under the BQL.
 */

#ifndef HW_MISC_IVSHMEM_CLIENT_H
#define HW_MISC_IVSHMEM_CLIENT_H

#include "chardev/char-fe.h"
#include "hw/misc/ivshmem-flat-compat.h"
#include "hw/misc/ivshmem-peers.h"
#include "qemu/timer.h"

/**
 * IvshmemClientOps: what a device does about what happens
 * @name: of the device, for what is reported to the user
 * @max_peer_vectors: how many vectors of a peer the device can ring
 * @take_memory: The server offers an object of @size bytes: a regular file,
 *               open for reading and writing, of whole pages of the host.
 *               Returns true and owns @fd from then on, or false with an error,
 *               which ends the greeting. On a server that is back, the object
 *               may be another one than before.
 * @server_gone: The server is gone, and its peers are forgotten: the chardev
 *               will connect to one that gives us another id. Not called if
 *               the chardev does not reconnect.
 * @interrupt: A peer has rung a vector that the device listens to. The one
 *             callback that may come from another thread: see
 *             ivshmem_client_connect().
 * @changed: A peer has come or gone, or got a vector, or we have got an id or
 *           a vector; NULL if the device does not want to know. Also called
 *           in ivshmem_client_connect().
 */
typedef struct IvshmemClientOps {
    const char *name;
    unsigned max_peer_vectors;
    bool (*take_memory)(void *opaque, int fd, uint64_t size, Error **errp);
    void (*server_gone)(void *opaque);
    IvshmemInterrupt *interrupt;
    IvshmemChanged *changed;
} IvshmemClientOps;

/**
 * IvshmemClientPhase: what the next message from the server must be
 *
 * The order of the first three is that of the specification.
 *
 * @IVSHMEM_CLIENT_AWAIT_VERSION: the protocol's version
 * @IVSHMEM_CLIENT_AWAIT_ID: the own id
 * @IVSHMEM_CLIENT_AWAIT_SHMEM: the shared memory, or a peer ahead of it
 * @IVSHMEM_CLIENT_CONNECTED: a peer that comes or goes
 * @IVSHMEM_CLIENT_DISCONNECTED: none, there is no server (yet, or any more)
 */
typedef enum IvshmemClientPhase {
    IVSHMEM_CLIENT_AWAIT_VERSION,
    IVSHMEM_CLIENT_AWAIT_ID,
    IVSHMEM_CLIENT_AWAIT_SHMEM,
    IVSHMEM_CLIENT_CONNECTED,
    IVSHMEM_CLIENT_DISCONNECTED,
} IvshmemClientPhase;

/**
 * IvshmemClient: the connection to a server
 * @chr: where the server is; the device's property
 * @peers: to ring, to listen, and to look in
 * @phase: to look in
 * @greeting_ms: how long a greeting may take, and the peers that come with it,
 *               10 s each unless the device says otherwise
 *
 * What follows is the client's own.
 */
typedef struct IvshmemClient {
    CharFrontend chr;
    IvshmemPeers peers;
    IvshmemClientPhase phase;
    unsigned greeting_ms;

    const IvshmemClientOps *ops;
    void *opaque;                   /* for @ops */
    bool is_starting;               /* in ivshmem_client_connect() */

    /* the message that is being received */
    uint8_t msg[8];
    unsigned msg_len;               /* bytes of @msg that are there */
    int msg_fd;                     /* first fd that came with them, or -1 */
    bool msg_fd_is_eventfd;
    int fd_dir;                     /* where each fd of ours has its name */
    unsigned msg_nfds;              /* how many came */
    uint64_t received;              /* bytes since the connection began */

    uint16_t new_id;                /* what the server calls us */
    Error *greeting_error;          /* until it is reported; owned */
    QEMUTimer *server_timer;        /* of its greeting; or to look for it */
    int connect_error;              /* errno; 0: none; -1: not looked yet */

    uint32_t reported;              /* bit per kind of bad message */
    bool is_gone;                   /* the server, and @report_timer says so */
    unsigned lost;                  /* eventfds, for want of fds */
    QEMUTimer *report_timer;        /* reports these two */
} IvshmemClient;

/**
 * ivshmem_client_init: before the device's properties are set
 * @c: the client, all zeroes
 * @ops: the device's callbacks
 * @opaque: for @ops
 */
void ivshmem_client_init(IvshmemClient *c, const IvshmemClientOps *ops,
                         void *opaque);

/**
 * ivshmem_client_connect: connect to the server
 * @c: the client
 * @vectors: how many vectors of its own the device wants, 1 to 65536; the
 *           server may have more or fewer
 * @ctx: whose thread calls @IvshmemClientOps::interrupt
 * @errp: why it went wrong: the property is not set, or is no chardev that
 *        connects to a UNIX socket; nobody is there; what was wrong in the
 *        greeting; or the device's own error
 *
 * Waits until the server has greeted and has told of the peers it has, no
 * longer than @IvshmemClient::greeting_ms for either. If the chardev
 * reconnects, waits for a server as long as it takes. When this returns true,
 * the memory has been taken and the own id is known.
 *
 * Returns: true, or false with all undone but what the device's callbacks did.
 */
bool ivshmem_client_connect(IvshmemClient *c, unsigned vectors, AioContext *ctx,
                            Error **errp);

/**
 * ivshmem_client_disconnect: undo ivshmem_client_connect()
 * @c: the client
 *
 * The connection ends, so that peers see us go. There are no callbacks any
 * more when this returns, and ivshmem_client_connect() may begin anew.
 */
void ivshmem_client_disconnect(IvshmemClient *c);

#endif /* HW_MISC_IVSHMEM_CLIENT_H */
