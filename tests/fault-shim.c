/*
 * Makes chosen system calls fail, for tests/fault_test.py
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Preloaded into QEMU. What is to fail stands in the file $FAULT_FILE, which
 * the test may change at any time. Only calls of ivshmem-flat are hit, or of
 * QEMU on its behalf: those about its socket and about its shared memory,
 * whose names contain MARK, and those that nothing else here does.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define MARK "ivshmem-fault"

/* The file; fault_test.py knows this layout too. */
static volatile struct {
    char call[16];      /* which call fails */
    int error;          /* with which errno */
    int times;          /* how often it still does; < 0: always */
    int hits;           /* how often it did */
} *fault;

static void __attribute__((constructor)) map_fault(void)
{
    const char *path = getenv("FAULT_FILE");
    int fd = path ? syscall(SYS_open, path, O_RDWR | O_CLOEXEC) : -1;

    fault = fd < 0 ? MAP_FAILED :
            (void *)syscall(SYS_mmap, NULL, sizeof(*fault),
                            PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fault == MAP_FAILED) {
        dprintf(2, "fault-shim: cannot map FAULT_FILE\n");
        _exit(1);
    }
    syscall(SYS_close, fd);
}

static bool fails(const char *call)
{
    if (!fault || strcmp((const char *)fault->call, call) || !fault->times) {
        return false;
    }
    if (fault->times > 0) {
        fault->times--;
    }
    fault->hits++;
    errno = fault->error;
    return true;
}

static bool is_shared_memory(int fd)
{
    char path[32];
    char target[256];
    ssize_t len;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    len = syscall(SYS_readlink, path, target, sizeof(target) - 1);
    target[len > 0 ? len : 0] = '\0';
    return strstr(target, "memfd:" MARK);
}

static bool is_server(int fd)
{
    struct sockaddr_un addr = {};
    socklen_t len = sizeof(addr) - 1;

    return syscall(SYS_getpeername, fd, &addr, &len) == 0 &&
           addr.sun_family == AF_UNIX && strstr(addr.sun_path, MARK);
}

#define NEXT(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

#define FCNTL(function) \
    int function(int fd, int cmd, ...) \
    { \
        va_list ap; \
        void *arg; \
        va_start(ap, cmd); \
        arg = va_arg(ap, void *); \
        va_end(ap); \
        if (cmd == F_GETFL && is_shared_memory(fd) && fails("fcntl")) { \
            return -1; \
        } \
        return NEXT(function)(fd, cmd, arg); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

#define FSTAT(function, type) \
    int function(int fd, struct type *st) \
    { \
        if (is_shared_memory(fd) && fails("fstat")) { \
            return -1; \
        } \
        return NEXT(function)(fd, st); \
    }
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)

#define MMAP(function, type) \
    void *function(void *addr, size_t len, int prot, int flags, int fd, \
                   type offset) \
    { \
        if (fd >= 0 && is_shared_memory(fd) && fails("mmap")) { \
            return MAP_FAILED; \
        } \
        /* Sanitizers map memory before dlsym() can be used. */ \
        return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset); \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
    if (is_server(fd) && fails("recvmsg")) {
        return -1;
    }
    return NEXT(recvmsg)(fd, msg, flags);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (request == FIONREAD && is_server(fd) && fails("ioctl")) {
        return -1;
    }
    return NEXT(ioctl)(fd, request, arg);
}

#define PREADV2(function, type) \
    ssize_t function(int fd, const struct iovec *iov, int n, type offset, \
                     int flags) \
    { \
        if (flags == RWF_NOWAIT && fails("preadv2")) { \
            return -1; \
        } \
        return NEXT(function)(fd, iov, n, offset, flags); \
    }
PREADV2(preadv2, off_t)
PREADV2(preadv64v2, off64_t)

/* QEMU's open() is one or the other. */
#define OPEN(function) \
    int function(const char *path, int flags, ...) \
    { \
        va_list args; \
        mode_t mode; \
        va_start(args, flags); \
        mode = va_arg(args, mode_t); \
        va_end(args); \
        if (!strcmp(path, "/proc/self/fd") && fails("open")) { \
            return -1; \
        } \
        return NEXT(function)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

/* Of what a number names: a file descriptor in /proc/self/fd. */
ssize_t readlinkat(int dir, const char *restrict path, char *restrict buf,
                   size_t len)
{
    if (*path && !path[strspn(path, "0123456789")] && fails("readlinkat")) {
        return -1;
    }
    return NEXT(readlinkat)(dir, path, buf, len);
}

static int rung = -1;       /* the eventfd that is to be written to next */

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    if (n && timeout == 0 && fds->events == POLLOUT) {
        rung = fds->fd;
        if (fails("poll")) {
            return -1;
        }
    }
    return NEXT(poll)(fds, n, timeout);
}

ssize_t write(int fd, const void *buf, size_t len)
{
    if (fd == rung && len == 8) {
        rung = -1;
        if (fails("write")) {
            return -1;
        }
    }
    return NEXT(write)(fd, buf, len);
}
