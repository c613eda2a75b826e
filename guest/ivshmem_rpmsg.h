/*
 * RPMsg, OpenAMP's protocol between two cores, over one region of shared memory
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The other side may be Zephyr's IPC service with the backend
 * zephyr,ipc-openamp-static-vrings, unmodified, NXP's rpmsg-lite, or this file.
 *
 *     ivshmem_rpmsg_layout_zephyr(&config.layout, config.size, 512, 4);
 *     ivshmem_rpmsg_open(&rpmsg, &config);
 *     endpoint = ivshmem_rpmsg_add(&rpmsg, "name");
 *     for (;;) {
 *         while (ivshmem_rpmsg_receive(&rpmsg, &to, buffer, sizeof(buffer))
 *                > 0) {
 *             ... a message for endpoint number to ...
 *         }
 *         ... ivshmem_rpmsg_bound(), ivshmem_rpmsg_send() ...
 *         if (ivshmem_rpmsg_doorbell(&rpmsg)) {
 *             ring(peer, vector);
 *         }
 *         ... sleep until the own doorbell rings ...
 *     }
 *
 * As in ivshmem_msg.h: it runs the same on Cortex-M, on aarch64 and on the
 * host, needs as little of libraries, allocates nothing, never waits, and
 * leaves ringing to the caller; the sleep must not miss a doorbell that rang
 * since receive().
 *
 * One side is the host, who owns all buffers; the other one is the remote. Two
 * vrings lie in the region, as virtio 1.x describes split virtqueues, section
 * 2.7, without any feature: the host is the driver, the remote the device. In
 * vring 0 the host offers buffers for the remote to fill, in vring 1 it passes
 * those that it has filled. Each is a descriptor of its own.
 *
 * A descriptor has an address, which is where the host's processor sees the
 * buffer. Zephyr and rpmsg-lite take it for a pointer of their own, on either
 * side. So wherever two of them talk, and where one of them is the remote of
 * this file, the shared memory has to be at an address that both agree upon,
 * which x-bus-address-shmem sets in QEMU. This file maps it anywhere: it
 * converts with config.address, the address of its region for the other side.
 *
 * A message begins with 16 bytes: from which endpoint, to which endpoint,
 * reserved, 32 bits each; its length and flags, 16 bits each. All numbers are
 * little-endian. Endpoint 53 is the name service: 32 bytes of a name, the
 * address of the endpoint that has it, and 0 if it is new or 1 if it is gone. A
 * remote announces its endpoints to the host, which answers with an empty
 * message, so that the remote learns the host's address.
 *
 * Nothing tells one side that the other one has started again. A remote of this
 * file goes on where its earlier life ended, and announces its endpoints anew;
 * else start both again, the host first, or with memory that is clear.
 *
 * All of the other side's words are suspect: read once, checked, and never used
 * to reach outside of the region. The worst that a hostile peer can do is to
 * send bad messages, or to make itself unheard.
 */

#ifndef IVSHMEM_RPMSG_H
#define IVSHMEM_RPMSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** So many endpoints a side can have, and the peer can announce. */
#ifndef IVSHMEM_RPMSG_ENDPOINTS
#define IVSHMEM_RPMSG_ENDPOINTS 8
#endif

/** Of an endpoint's name, the 0 at its end included */
#define IVSHMEM_RPMSG_NAME_SIZE 32

/** Bytes before each message, in its buffer */
#define IVSHMEM_RPMSG_HEADER 16u

/** What functions here return when they fail; all are negative. */
enum ivshmem_rpmsg_error {
    IVSHMEM_RPMSG_EMPTY = -1,       /* there is no message */
    IVSHMEM_RPMSG_FULL = -2,        /* no buffer, or endpoint, is free */
    IVSHMEM_RPMSG_NOT_BOUND = -3,   /* there is no peer's endpoint to it yet */
    IVSHMEM_RPMSG_BAD_LENGTH = -4,  /* 0, or more than the buffer holds */
    IVSHMEM_RPMSG_BROKEN = -5,      /* nonsense from the peer: open again */
    IVSHMEM_RPMSG_BAD_MEMORY = -6,  /* too small, or not aligned */
    IVSHMEM_RPMSG_BAD_NAME = -7     /* none, too long, or already there */
};

/** How we stand with the peer. */
enum ivshmem_rpmsg_state {
    IVSHMEM_RPMSG_OPENING,  /* a remote: the host is not there yet */
    IVSHMEM_RPMSG_LINKED,   /* messages both ways, once a name is bound */
    IVSHMEM_RPMSG_DEAD      /* it broke the rules, or we have closed */
};

/** In struct ivshmem_rpmsg_layout: there is no status. */
#define IVSHMEM_RPMSG_NO_STATUS UINT32_MAX

/**
 * struct ivshmem_rpmsg_layout: what is where in the region
 *
 * Both sides have the same. Offsets are in bytes from the region's start.
 */
struct ivshmem_rpmsg_layout {
    uint32_t status;        /* of the byte in which a host says that it is
                               there, or IVSHMEM_RPMSG_NO_STATUS */
    uint32_t vring[2];      /* of the vrings; multiples of 4 */
    uint32_t buffers;       /* of the buffers, those of vring 0 first; a
                               multiple of 4; for a host */
    uint32_t buffer_size;   /* in bytes, a multiple of 4 with the
                               IVSHMEM_RPMSG_HEADER; for a host */
    uint32_t align;         /* of a vring's used ring; a power of two from 4
                               on */
    uint16_t count;         /* of buffers in each vring; a power of two, at
                               most 32768 */
    bool returned;          /* vring 1 begins as if all its buffers had been
                               used, and had come back */
    bool ring_always;       /* for each message, also one for which the other
                               side's flags ask for no doorbell */
};

/**
 * struct ivshmem_rpmsg_config: where the region is, and whose side is ours
 */
struct ivshmem_rpmsg_config {
    void *memory;           /* the region as we see it; aligned to 4 */
    size_t size;            /* in bytes, at most 1 GiB */
    uint64_t address;       /* the region as descriptors have it */
    bool host;              /* else the remote */
    struct ivshmem_rpmsg_layout layout;
};

/**
 * struct ivshmem_rpmsg_vring: our view of one vring
 */
struct ivshmem_rpmsg_vring {
    uint8_t *desc;
    uint8_t *avail;
    uint8_t *used;
    uint16_t taken;         /* the index up to which we have taken */
    uint16_t given;         /* our own of the two indices, never read back */
    bool holds;             /* a buffer was taken, and is kept for a message: */
    uint16_t held;
};

/**
 * struct ivshmem_rpmsg_endpoint: one that we have, or that the peer announced
 */
struct ivshmem_rpmsg_endpoint {
    char name[IVSHMEM_RPMSG_NAME_SIZE];     /* empty: this one is free */
    uint32_t peer;          /* the peer's address, if it is bound */
    bool bound;
    bool due;               /* there is something to tell the peer */
};

/**
 * struct ivshmem_rpmsg: one side of one instance
 *
 * Owned by the caller, for reading only. One thread at a time may use it; the
 * peer may be another thread, process or machine.
 */
struct ivshmem_rpmsg {
    enum ivshmem_rpmsg_state state;
    bool due;               /* the peer is to be rung */
    uint16_t fresh;         /* a host: of vring 1's buffers, never used yet */
    struct ivshmem_rpmsg_config config;
    struct ivshmem_rpmsg_vring in;
    struct ivshmem_rpmsg_vring out;
    struct ivshmem_rpmsg_endpoint endpoint[IVSHMEM_RPMSG_ENDPOINTS];
    struct ivshmem_rpmsg_endpoint announced[IVSHMEM_RPMSG_ENDPOINTS];
};

/**
 * ivshmem_rpmsg_layout_zephyr: as Zephyr's static vrings divide a region
 *
 * @layout: filled in
 * @size: of the region in bytes
 * @buffer_size: Zephyr's property zephyr,buffer-size, 512 by default
 * @align: CONFIG_IPC_SERVICE_STATIC_VRINGS_MEM_ALIGNMENT, 4 by default
 *
 * The status comes first, then the buffers, then vring 1, then vring 0. There
 * are as many buffers as find space, a power of two.
 *
 * Returns 0, or IVSHMEM_RPMSG_BAD_MEMORY if not even one has.
 */
int ivshmem_rpmsg_layout_zephyr(struct ivshmem_rpmsg_layout *layout,
                                size_t size, uint32_t buffer_size,
                                uint32_t align);

/**
 * ivshmem_rpmsg_layout_lite: as rpmsg-lite divides a region
 *
 * @layout: filled in
 * @size: of the region in bytes
 * @buffer_size: RL_BUFFER_PAYLOAD_SIZE + 16
 * @count: RL_BUFFER_COUNT
 * @vring_size: VRING_SIZE of its platform
 * @align: VRING_ALIGN of its platform
 *
 * Vring 0 comes first, then vring 1, then the buffers. There is no status. Its
 * host (master) asks for no doorbell in both vrings, and yet waits for them.
 *
 * Returns 0, or IVSHMEM_RPMSG_BAD_MEMORY if that does not fit.
 */
int ivshmem_rpmsg_layout_lite(struct ivshmem_rpmsg_layout *layout, size_t size,
                              uint32_t buffer_size, uint16_t count,
                              uint32_t vring_size, uint32_t align);

/**
 * ivshmem_rpmsg_open: be there for the peer
 *
 * @rpmsg: filled in, without endpoints; needs no release
 * @config: copied; the memory stays the caller's, must live as long as @rpmsg
 *          is used, and may contain anything
 *
 * A host writes its vrings anew. A remote takes up what is there: see
 * ivshmem_rpmsg_poll().
 *
 * Returns 0 or IVSHMEM_RPMSG_BAD_MEMORY.
 */
int ivshmem_rpmsg_open(struct ivshmem_rpmsg *rpmsg,
                       const struct ivshmem_rpmsg_config *config);

/**
 * ivshmem_rpmsg_close: leave
 *
 * The peer is told that the endpoints are gone, as far as there are buffers
 * for that; ring it if it is due.
 */
void ivshmem_rpmsg_close(struct ivshmem_rpmsg *rpmsg);

/**
 * ivshmem_rpmsg_poll: see to all but messages: hosts, names, greetings
 *
 * Call it after each doorbell, or receive(), which does the same.
 *
 * Returns the state.
 */
enum ivshmem_rpmsg_state ivshmem_rpmsg_poll(struct ivshmem_rpmsg *rpmsg);

/**
 * ivshmem_rpmsg_doorbell: is the peer to be rung?
 *
 * Returns true if it waits for what we have done since the last call.
 */
bool ivshmem_rpmsg_doorbell(struct ivshmem_rpmsg *rpmsg);

/**
 * ivshmem_rpmsg_add: have an endpoint
 *
 * @name: of 1 to IVSHMEM_RPMSG_NAME_SIZE - 1 bytes; copied
 *
 * Its address is 1024 and its number. It is bound to the peer's endpoint of
 * the same name: a remote announces it, and the host that has one of this name
 * answers.
 *
 * Returns its number, from 0 on, or IVSHMEM_RPMSG_FULL or _BAD_NAME.
 */
int ivshmem_rpmsg_add(struct ivshmem_rpmsg *rpmsg, const char *name);

/** ivshmem_rpmsg_bound: does endpoint number @endpoint have a peer? */
bool ivshmem_rpmsg_bound(const struct ivshmem_rpmsg *rpmsg, int endpoint);

/**
 * ivshmem_rpmsg_send: send a message
 *
 * @endpoint: the number of the own one
 * @message: copied, the caller's afterwards
 * @length: in bytes, 1 to the peer's buffer's size without its header
 *
 * Nobody rings when a buffer has become free: try again a little later.
 *
 * Returns 0, or IVSHMEM_RPMSG_FULL, _NOT_BOUND, _BAD_LENGTH or _BROKEN.
 */
int ivshmem_rpmsg_send(struct ivshmem_rpmsg *rpmsg, int endpoint,
                       const void *message, size_t length);

/**
 * ivshmem_rpmsg_receive: take the next message
 *
 * @endpoint: is set to the number of the one to which it came, if there is one
 * @buffer: filled with the message; undefined if this fails
 * @capacity: of the buffer in bytes
 *
 * What is empty or for nobody is not returned.
 *
 * Returns the message's length, or IVSHMEM_RPMSG_EMPTY; or _BAD_LENGTH, in
 * which case the message was too long for the buffer, and is dropped; or
 * IVSHMEM_RPMSG_BROKEN.
 */
int32_t ivshmem_rpmsg_receive(struct ivshmem_rpmsg *rpmsg, int *endpoint,
                              void *buffer, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif /* IVSHMEM_RPMSG_H */
