/*
 * Makes one file descriptor of many, for tests/walk_test.py
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Preloaded into QEMU. Each message brings it at most one file descriptor. The
 * first two, the shared memory and the own eventfd, stay as they are. All that
 * follow are the same eventfd, of which QEMU would have a file descriptor for
 * each peer: it gets the number of the first one for all, which is never
 * closed. So there can be more peers than open files.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned own = 2;
static int peers = -1;

static void share(int *received)
{
    if (own) {
        own--;
    } else if (peers < 0) {
        peers = *received;
    } else {
        syscall(SYS_close, *received);
        *received = peers;
    }
}

ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
    ssize_t (*next)(int, struct msghdr *, int) = dlsym(RTLD_NEXT, "recvmsg");
    ssize_t len = next(fd, msg, flags);
    struct cmsghdr *cmsg = len > 0 ? CMSG_FIRSTHDR(msg) : NULL;

    if (cmsg && cmsg->cmsg_level == SOL_SOCKET &&
        cmsg->cmsg_type == SCM_RIGHTS) {
        int received;

        memcpy(&received, CMSG_DATA(cmsg), sizeof(received));
        share(&received);
        memcpy(CMSG_DATA(cmsg), &received, sizeof(received));
    }
    return len;
}

int close(int fd)
{
    return fd >= 0 && fd == peers ? 0 : syscall(SYS_close, fd);
}
