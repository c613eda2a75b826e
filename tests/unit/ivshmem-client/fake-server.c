/*
 * A server for tests, see the header
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tests/unit/ivshmem-client/fake-server.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

int fake_server_listen(const char *name)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    socklen_t len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(len, <, sizeof(addr));
    strcpy(addr.sun_path + 1, name);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    return fd;
}

int fake_server_memory(off_t size)
{
    int fd = memfd_create("ivshmem-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    return fd;
}

bool fake_server_send(int conn, const void *bytes, size_t len, unsigned nfds,
                      const int *fds, int flags)
{
    struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(FAKE_SERVER_MAX_FDS * sizeof(int))];
    } control = {};
    struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

    g_assert_cmpint(nfds, <=, FAKE_SERVER_MAX_FDS);
    if (nfds) {
        struct cmsghdr *cmsg;

        hdr.msg_control = control.buf;
        hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&hdr);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, nfds * sizeof(int));
    }
    return sendmsg(conn, &hdr, MSG_NOSIGNAL | flags) == len;
}
