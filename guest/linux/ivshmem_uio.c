/*
 * ivshmem-flat through uio_pdrv_genirq
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The device's node in the device tree (docs/specs/qemu,ivshmem-flat.yaml)
 * makes Linux a platform device of it, which uio_pdrv_genirq drives when it
 * is loaded with of_id=qemu,ivshmem-flat. The driver takes the first vector's
 * interrupt, and disables it until it is told that the program has seen it.
 *
 * UIO maps the shared memory as device memory on Arm, where an unaligned
 * access is a bus error.
 */

#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ivshmem.h"
#include "ivshmem_flat.h"

/* in the order of the node's reg */
enum { MAP_REGISTERS, MAP_SHMEM };

struct uio_ivshmem {
    struct ivshmem ivshmem;

    int fd;
    void *registers;            /* all of the pages that they are in */
    size_t registers_size;
    struct ivshmem_flat flat;
};

/* Open a file below the device's directory in sysfs. */
static FILE *open_attribute(const char *where, const char *attribute)
{
    char device[PATH_MAX], path[PATH_MAX + 64];
    FILE *file;

    snprintf(device, sizeof(device), "%s", where);
    snprintf(path, sizeof(path), "/sys/class/uio/%s/%s", basename(device),
             attribute);
    file = fopen(path, "re");
    if (!file) {
        warn("cannot open %s: is %s the device?", path, where);
    }
    return file;
}

static bool read_map(const char *where, int map, const char *attribute,
                     size_t *value)
{
    char path[32];
    FILE *file;
    int n;

    snprintf(path, sizeof(path), "maps/map%d/%s", map, attribute);
    file = open_attribute(where, path);
    if (!file) {
        return false;
    }
    n = fscanf(file, "%zi", (ssize_t *)value);
    fclose(file);
    if (n != 1) {
        warnx("%s: %s is no number", where, path);
    }
    return n == 1;
}

/* Maps the pages of a region; *offset is where it begins in them. */
static void *map_region(struct uio_ivshmem *u, const char *where, int map,
                        size_t *size, size_t *offset)
{
    void *memory;

    if (!read_map(where, map, "size", size) ||
        !read_map(where, map, "offset", offset)) {
        return NULL;
    }
    memory = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd,
                  map * sysconf(_SC_PAGESIZE));
    if (memory == MAP_FAILED) {
        warn("cannot map region %d of %s", map, where);
        return NULL;
    }
    return memory;
}

static bool open_registers(struct uio_ivshmem *u, const char *where)
{
    uint32_t revision;
    size_t offset;
    FILE *file = open_attribute(where, "device/of_node/qemu,revision");
    bool known = file && fread(&revision, sizeof(revision), 1, file) == 1;

    if (file) {
        fclose(file);
    }
    if (!known) {
        return false;
    }
    u->registers = map_region(u, where, MAP_REGISTERS, &u->registers_size,
                              &offset);
    if (!u->registers) {
        return false;
    }
    ivshmem_flat_init(&u->flat, (uintptr_t)u->registers + offset);
    if (be32toh(revision) == 0) {
        ivshmem_flat_use_level(&u->flat);
    }
    u->ivshmem.id = ivshmem_flat_id(&u->flat);
    u->ivshmem.finds_peers = ivshmem_flat_finds_peers(&u->flat);
    return true;
}

static bool enable_interrupt(struct uio_ivshmem *u)
{
    int32_t on = 1;

    return write(u->fd, &on, sizeof(on)) == sizeof(on);
}

struct ivshmem *ivshmem_open(const char *where)
{
    struct uio_ivshmem *u = malloc(sizeof(*u));
    size_t offset;

    if (!u) {
        warn("%s", where);
        return NULL;
    }
    *u = (struct uio_ivshmem) {
        .ivshmem.vectors = 1,
        .fd = open(where, O_RDWR | O_CLOEXEC),
    };
    if (u->fd < 0) {
        warn("cannot open %s", where);
    } else if (open_registers(u, where) &&
               (u->ivshmem.memory = map_region(u, where, MAP_SHMEM,
                                               &u->ivshmem.size, &offset))) {
        /* one that came before the program is taken for seen */
        if (enable_interrupt(u)) {
            return &u->ivshmem;
        }
        warn("cannot enable the interrupt of %s", where);
    }
    ivshmem_close(&u->ivshmem);
    return NULL;
}

void ivshmem_close(struct ivshmem *ivshmem)
{
    struct uio_ivshmem *u = (struct uio_ivshmem *)ivshmem;

    if (u->registers) {
        munmap(u->registers, u->registers_size);
    }
    if (ivshmem->memory) {
        munmap(ivshmem->memory, ivshmem->size);
    }
    if (u->fd >= 0) {
        close(u->fd);
    }
    free(u);
}

bool ivshmem_ring(struct ivshmem *ivshmem, uint32_t peer, uint32_t vector)
{
    struct uio_ivshmem *u = (struct uio_ivshmem *)ivshmem;

    ivshmem_flat_ring(&u->flat, peer, vector);
    return true;
}

uint32_t ivshmem_next_peer(struct ivshmem *ivshmem, uint32_t from)
{
    struct uio_ivshmem *u = (struct uio_ivshmem *)ivshmem;

    return ivshmem_flat_next_peer(&u->flat, from);
}

bool ivshmem_wait(struct ivshmem *ivshmem, uint64_t *vectors, int timeout_ms)
{
    struct uio_ivshmem *u = (struct uio_ivshmem *)ivshmem;
    struct pollfd pollfd = { .fd = u->fd, .events = POLLIN };
    uint32_t count;
    bool rang;
    int n;

    do {
        n = poll(&pollfd, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    rang = n > 0 && read(u->fd, &count, sizeof(count)) == sizeof(count);
    if (rang) {
        /* a level must be low before its interrupt is enabled */
        ivshmem_flat_interrupt(&u->flat, 0);
        enable_interrupt(u);
    }
    if (vectors) {
        *vectors = rang;
    }
    ivshmem_flat_barrier();
    return rang;
}
