/*
 * ivshmem-doorbell through vfio-pci
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * The device must be bound to vfio-pci, and be behind an IOMMU: without one
 * VFIO does not hand out a device. It does no DMA, so nothing is mapped for
 * it.
 *
 * vfio-pci maps BAR 2 as device memory on Arm, where an unaligned access is a
 * bus error.
 */

#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ivshmem.h"
#include "ivshmem_flat.h"

struct vfio_ivshmem {
    struct ivshmem ivshmem;

    int container;
    int group;
    int device;
    void *registers;
    size_t registers_size;
    struct ivshmem_flat flat;
    struct pollfd vector[IVSHMEM_MAX_VECTORS];
};

/* The IOMMU group is what VFIO hands out: its name is a number. */
static int open_group(const char *address)
{
    char path[PATH_MAX], link[PATH_MAX];
    ssize_t length;
    int group;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group",
             address);
    length = readlink(path, link, sizeof(link) - 1);
    if (length < 0) {
        warn("%s has no IOMMU group: is there such a device, and an IOMMU?",
             address);
        return -1;
    }
    link[length] = '\0';
    snprintf(path, sizeof(path), "/dev/vfio/%s", basename(link));
    group = open(path, O_RDWR | O_CLOEXEC);
    if (group < 0) {
        warn("cannot open %s: is %s bound to vfio-pci?", path, address);
    }
    return group;
}

static bool open_device(struct vfio_ivshmem *v, const char *address)
{
    struct vfio_group_status status = { .argsz = sizeof(status) };

    v->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    if (v->container < 0) {
        warn("cannot open /dev/vfio/vfio: is the module vfio there?");
        return false;
    }
    if (ioctl(v->container, VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU) <= 0) {
        warnx("VFIO has no type 1 IOMMU: is the module vfio_iommu_type1 "
              "there?");
        return false;
    }
    v->group = open_group(address);
    if (v->group < 0) {
        return false;
    }
    if (ioctl(v->group, VFIO_GROUP_GET_STATUS, &status) < 0 ||
        !(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
        warnx("%s: other devices of its IOMMU group are not bound to vfio-pci",
              address);
        return false;
    }
    if (ioctl(v->group, VFIO_GROUP_SET_CONTAINER, &v->container) < 0 ||
        ioctl(v->container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) < 0) {
        warn("%s: cannot use its IOMMU group", address);
        return false;
    }
    v->device = ioctl(v->group, VFIO_GROUP_GET_DEVICE_FD, address);
    if (v->device < 0) {
        warn("%s: cannot get the device", address);
        return false;
    }
    return true;
}

static void *map_bar(struct vfio_ivshmem *v, uint32_t bar, size_t *size)
{
    struct vfio_region_info info = {
        .argsz = sizeof(info),
        .index = VFIO_PCI_BAR0_REGION_INDEX + bar,
    };
    void *memory;

    if (ioctl(v->device, VFIO_DEVICE_GET_REGION_INFO, &info) < 0) {
        warn("no information about BAR %u", bar);
        return NULL;
    }
    if (!info.size || !(info.flags & VFIO_REGION_INFO_FLAG_MMAP)) {
        warnx("BAR %u cannot be mapped", bar);
        return NULL;
    }
    memory = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED,
                  v->device, (off_t)info.offset);
    if (memory == MAP_FAILED) {
        warn("cannot map BAR %u", bar);
        return NULL;
    }
    *size = info.size;
    return memory;
}

/* An MSI is a write of the device's to memory, and VFIO forbids them first. */
static bool enable_bus_master(struct vfio_ivshmem *v)
{
    struct vfio_region_info info = {
        .argsz = sizeof(info),
        .index = VFIO_PCI_CONFIG_REGION_INDEX,
    };
    uint16_t command;
    off_t offset;

    if (ioctl(v->device, VFIO_DEVICE_GET_REGION_INFO, &info) < 0) {
        warn("no information about the configuration space");
        return false;
    }
    offset = (off_t)info.offset + PCI_COMMAND;
    if (pread(v->device, &command, sizeof(command), offset) !=
        sizeof(command)) {
        warn("cannot read the PCI command register");
        return false;
    }
    command |= htole16(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
    if (pwrite(v->device, &command, sizeof(command), offset) !=
        sizeof(command)) {
        warn("cannot write the PCI command register");
        return false;
    }
    return true;
}

static bool arm_vectors(struct vfio_ivshmem *v)
{
    struct vfio_irq_info info = {
        .argsz = sizeof(info),
        .index = VFIO_PCI_MSIX_IRQ_INDEX,
    };
    union {
        struct vfio_irq_set set;
        char space[sizeof(struct vfio_irq_set) +
                   IVSHMEM_MAX_VECTORS * sizeof(int)];
    } irq;

    if (ioctl(v->device, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0 ||
        !info.count) {
        warnx("the device has no MSI-X vectors");
        return false;
    }
    v->ivshmem.vectors = info.count < IVSHMEM_MAX_VECTORS
                         ? info.count : IVSHMEM_MAX_VECTORS;
    irq.set = (struct vfio_irq_set) {
        .argsz = (uint32_t)(sizeof(irq.set) +
                            v->ivshmem.vectors * sizeof(int)),
        .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        .index = VFIO_PCI_MSIX_IRQ_INDEX,
        .count = v->ivshmem.vectors,
    };
    for (unsigned i = 0; i < v->ivshmem.vectors; i++) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        if (fd < 0) {
            warn("cannot make an eventfd");
            return false;
        }
        v->vector[i] = (struct pollfd) { .fd = fd, .events = POLLIN };
        memcpy(irq.set.data + i * sizeof(int), &fd, sizeof(int));
    }
    if (ioctl(v->device, VFIO_DEVICE_SET_IRQS, &irq.set) < 0) {
        warn("cannot arm %u MSI-X vectors", v->ivshmem.vectors);
        return false;
    }
    return true;
}

struct ivshmem *ivshmem_open(const char *where)
{
    struct vfio_ivshmem *v = malloc(sizeof(*v));

    if (!v) {
        warn("%s", where);
        return NULL;
    }
    *v = (struct vfio_ivshmem) { .container = -1, .group = -1, .device = -1 };
    if (!open_device(v, where) ||
        !(v->registers = map_bar(v, 0, &v->registers_size)) ||
        !(v->ivshmem.memory = map_bar(v, 2, &v->ivshmem.size)) ||
        !enable_bus_master(v) || !arm_vectors(v)) {
        ivshmem_close(&v->ivshmem);
        return NULL;
    }
    ivshmem_flat_init(&v->flat, (uintptr_t)v->registers);
    v->ivshmem.id = ivshmem_flat_id(&v->flat);
    return &v->ivshmem;
}

void ivshmem_close(struct ivshmem *ivshmem)
{
    struct vfio_ivshmem *v = (struct vfio_ivshmem *)ivshmem;

    if (v->registers) {
        munmap(v->registers, v->registers_size);
    }
    if (ivshmem->memory) {
        munmap(ivshmem->memory, ivshmem->size);
    }
    /* the last file that is closed disarms the vectors */
    for (unsigned i = 0; i < ivshmem->vectors; i++) {
        if (v->vector[i].events) {
            close(v->vector[i].fd);
        }
    }
    if (v->device >= 0) {
        close(v->device);
    }
    if (v->group >= 0) {
        close(v->group);
    }
    if (v->container >= 0) {
        close(v->container);
    }
    free(v);
}

bool ivshmem_ring(struct ivshmem *ivshmem, uint32_t peer, uint32_t vector)
{
    struct vfio_ivshmem *v = (struct vfio_ivshmem *)ivshmem;

    ivshmem_flat_ring(&v->flat, peer, vector);
    return true;
}

/* The PCI device has no such registers. */
uint32_t ivshmem_next_peer(struct ivshmem *ivshmem, uint32_t from)
{
    (void)ivshmem;
    (void)from;
    return IVSHMEM_NO_PEER;
}

bool ivshmem_wait(struct ivshmem *ivshmem, uint64_t *vectors, int timeout_ms)
{
    struct vfio_ivshmem *v = (struct vfio_ivshmem *)ivshmem;
    uint64_t rang = 0;
    int n;

    do {
        n = poll(v->vector, ivshmem->vectors, timeout_ms);
    } while (n < 0 && errno == EINTR);
    for (unsigned i = 0; n > 0 && i < ivshmem->vectors; i++) {
        uint64_t count;

        if (v->vector[i].revents & POLLIN &&
            read(v->vector[i].fd, &count, sizeof(count)) == sizeof(count)) {
            rang |= UINT64_C(1) << i;
        }
    }
    if (vectors) {
        *vectors = rang;
    }
    ivshmem_flat_barrier();
    return rang != 0;
}
