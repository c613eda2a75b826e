/*
 * As much of Zephyr as its drivers of ivshmem-flat ask for, for a test
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Each <zephyr/...> that a driver includes is this file. The devicetree has
 * three devices: 0 with three vectors, 1 with one and revision 0, whose
 * controller has flags, 2 with none; and four mailboxes: 0 looks for the peer
 * among two, 1 among five, 2 has the peer's ID, 3 its index. What a driver does to the
 * device and to the interrupt controller goes to a log.
 */

#ifndef ZEPHYR_STUB_H
#define ZEPHYR_STUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define CAT3(a, b, c) CAT(CAT(a, b), c)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define ARG_UNUSED(x) (void)(x)
#define BUILD_ASSERT(...) _Static_assert(__VA_ARGS__)

#define STRIP_(...) __VA_ARGS__
#define COND_CODE_1(flag, yes, no) CAT(COND_, flag)(yes, no)
#define COND_1(yes, no) STRIP_ yes
#define COND_0(yes, no) STRIP_ no

#define COUNTED_1 ,
#define IS_ENABLED(config) IS_ENABLED_(CAT(COUNTED_, config))
#define IS_ENABLED_(comma) IS_ENABLED__(comma 1, 0)
#define IS_ENABLED__(ignored, value, ...) value

#define LISTIFY(n, f, sep, ...) CAT(LISTIFY_, n)(f, sep, __VA_ARGS__)
#define LISTIFY_0(f, sep, ...)
#define LISTIFY_1(f, sep, ...) f(0, __VA_ARGS__)
#define LISTIFY_3(f, sep, ...) \
    f(0, __VA_ARGS__) STRIP_ sep f(1, __VA_ARGS__) STRIP_ sep f(2, __VA_ARGS__)

/* the devicetree */

#define DT_INST_FOREACH_STATUS_OKAY(f) CAT(FOREACH_, DT_DRV_COMPAT)(f)
#define FOREACH_qemu_ivshmem_flat(f) f(0) f(1) f(2)
#define FOREACH_qemu_ivshmem_flat_mbox(f) f(0) f(1) f(2) f(3)
#define DT_DRV_INST(inst) CAT3(DT_DRV_COMPAT, _, inst)
#define DT_PROP(node, name) CAT3(node, _, name)

#define qemu_ivshmem_flat_0_irqs 3
#define qemu_ivshmem_flat_1_irqs 1
#define qemu_ivshmem_flat_2_irqs 0
#define qemu_ivshmem_flat_0_irq 25
#define qemu_ivshmem_flat_1_irq 112
#define qemu_ivshmem_flat_2_irq -1
#define qemu_ivshmem_flat_0_qemu_revision 1
#define qemu_ivshmem_flat_1_qemu_revision 0
#define qemu_ivshmem_flat_2_qemu_revision 1
#define vector0_index 0
#define vector1_index 1
#define vector2_index 2
#define REGISTERS_SIZE 0x100
#define SHMEM_SIZE 0x2000

#define DT_NUM_IRQS(node) CAT(node, _irqs)
#ifndef ZEPHYR_3_5
#define DT_INST_IRQN_BY_IDX(inst, n) DT_INST_IRQ_BY_IDX(inst, n, irq)
#endif
#define DT_INST_IRQ_BY_IDX(inst, n, cell) CAT(CELL_, cell)(inst, n)
#define DT_INST_IRQ_BY_NAME(inst, name, cell) \
    CAT(CELL_, cell)(inst, CAT(name, _index))
#define CELL_irq(inst, n) (DT_PROP(DT_DRV_INST(inst), irq) + (n))
#define CELL_priority(inst, n) (3 + (n))
#define CELL_flags(inst, n) 7
#define DT_INST_IRQ_HAS_CELL_AT_IDX(inst, n, cell) CAT(HAS_FLAGS_, inst)
#define HAS_FLAGS_0 0
#define HAS_FLAGS_1 1
#define DT_INST_PROP(inst, name) DT_PROP(DT_DRV_INST(inst), name)
#define DT_REG_SIZE_BY_NAME(node, name) CAT(SIZE_, name)
#define DT_INST_REG_SIZE_BY_NAME(inst, name) CAT(SIZE_, name)
#define SIZE_registers REGISTERS_SIZE
#define SIZE_shmem SHMEM_SIZE

#define qemu_ivshmem_flat_mbox_0_ivshmem qemu_ivshmem_flat_0
#define qemu_ivshmem_flat_mbox_1_ivshmem qemu_ivshmem_flat_0
#define qemu_ivshmem_flat_mbox_2_ivshmem qemu_ivshmem_flat_0
#define qemu_ivshmem_flat_mbox_3_ivshmem qemu_ivshmem_flat_0
#define qemu_ivshmem_flat_mbox_0_peers 2
#define qemu_ivshmem_flat_mbox_1_peers 5
#define qemu_ivshmem_flat_mbox_2_peers 2
#define qemu_ivshmem_flat_mbox_3_peers 2
#define DT_INST_PHANDLE(inst, name) DT_PROP(DT_DRV_INST(inst), name)
#define DT_INST_PROP_OR(inst, name, other) CAT3(name, _OR_, inst)(other)
#define peer_id_OR_0(other) (other)
#define peer_id_OR_1(other) (other)
#define peer_id_OR_2(other) 65535
#define peer_id_OR_3(other) (other)
#define peer_index_OR_0(other) (other)
#define peer_index_OR_1(other) (other)
#define peer_index_OR_2(other) (other)
#define peer_index_OR_3(other) 1

/* devices */

struct device {
    const void *config;
    void *data;
    const void *api;
    int (*init)(const struct device *dev);
    int priority;
    bool ready;
};

extern struct device qemu_ivshmem_flat_0_device, qemu_ivshmem_flat_1_device,
                     qemu_ivshmem_flat_2_device, qemu_ivshmem_flat_mbox_0_device,
                     qemu_ivshmem_flat_mbox_1_device,
                     qemu_ivshmem_flat_mbox_2_device,
                     qemu_ivshmem_flat_mbox_3_device;

#define DEVICE_DT_GET(node) (&CAT(node, _device))
#define DEVICE_DT_INST_GET(inst) DEVICE_DT_GET(DT_DRV_INST(inst))
#define DEVICE_DT_INST_DEFINE(inst, init_, pm, data_, config_, level, \
                              priority_, api_) \
    struct device CAT(DT_DRV_INST(inst), _device) = { \
        .config = config_, .data = data_, .api = api_, .init = init_, \
        .priority = priority_, \
    };

static inline bool device_is_ready(const struct device *dev)
{
    return dev->ready;
}

#define CONFIG_IVSHMEM_FLAT_INIT_PRIORITY 35
#define CONFIG_MBOX_INIT_PRIORITY 40

/* registers, memory, interrupts: see zephyr_test.c */

typedef uintptr_t mem_addr_t;

#define K_MEM_CACHE_NONE 1
#define K_MEM_CACHE_WB 2
#define K_MEM_PERM_USER 4
#define K_MEM_DIRECT_MAP 8

#define DEVICE_MMIO_NAMED_ROM(name) const char *name##_rom
#define DEVICE_MMIO_NAMED_RAM(name) uintptr_t name
#define DEVICE_MMIO_NAMED_ROM_INIT_BY_NAME(name, node) .name##_rom = TEXT(node)
#define DEVICE_MMIO_NAMED_MAP(dev, name, flags) \
    (DEV_DATA(dev)->name = map(DEV_CFG(dev)->name##_rom, #name, flags))
#define DEVICE_MMIO_NAMED_GET(dev, name) (DEV_DATA(dev)->name)
#define IRQ_CONNECT(irq, priority, isr, arg, flags) \
    connect_irq(irq, priority, isr, arg, flags)

uintptr_t map(const char *node, const char *name, uint32_t flags);
uint32_t sys_read32(uintptr_t address);
void sys_write32(uint32_t value, uintptr_t address);
void barrier_dmem_fence_full(void);
void connect_irq(int irq, int priority, void (*isr)(const void *),
                 const void *arg, int flags);
void irq_enable(unsigned int irq);
void irq_disable(unsigned int irq);

/* A big-endian CPU is one that swaps, whatever this one is. */
#ifdef SWAPS
#define sys_cpu_to_le32(value) __builtin_bswap32(value)
#else
#define sys_cpu_to_le32(value) (value)
#endif
#define sys_le32_to_cpu(value) sys_cpu_to_le32(value)

/* the kernel */

struct k_spinlock {
    bool held;
};
typedef int k_spinlock_key_t;

k_spinlock_key_t k_spin_lock(struct k_spinlock *lock);
void k_spin_unlock(struct k_spinlock *lock, k_spinlock_key_t key);

struct k_poll_signal {
    unsigned int signaled;
    int result;
};

int k_poll_signal_raise(struct k_poll_signal *signal, int result);

/* the interfaces that the drivers are behind */

struct ivshmem_driver_api {
    size_t (*get_mem)(const struct device *dev, uintptr_t *memmap);
    uint32_t (*get_id)(const struct device *dev);
    uint16_t (*get_vectors)(const struct device *dev);
    int (*int_peer)(const struct device *dev, uint32_t peer_id,
                    uint16_t vector);
    int (*register_handler)(const struct device *dev,
                            struct k_poll_signal *signal, uint16_t vector);
};

#define IVSHMEM_API(dev) ((const struct ivshmem_driver_api *)(dev)->api)
#define ivshmem_get_mem(dev, memmap) IVSHMEM_API(dev)->get_mem(dev, memmap)
#define ivshmem_get_id(dev) IVSHMEM_API(dev)->get_id(dev)
#define ivshmem_get_vectors(dev) IVSHMEM_API(dev)->get_vectors(dev)
#define ivshmem_int_peer(dev, peer, vector) \
    IVSHMEM_API(dev)->int_peer(dev, peer, vector)
#define ivshmem_register_handler(dev, signal, vector) \
    IVSHMEM_API(dev)->register_handler(dev, signal, vector)

#ifndef ZEPHYR_3_5
typedef uint32_t mbox_channel_id_t;
#define MBOX_DT_SPEC_GET(node, name) /* an application's business */
#endif

struct mbox_msg {
    const void *data;
    size_t size;
};

typedef void (*mbox_callback_t)(const struct device *dev, uint32_t id,
                                void *user_data, struct mbox_msg *msg);

struct mbox_driver_api {
    int (*send)(const struct device *dev, uint32_t id,
                const struct mbox_msg *msg);
    int (*register_callback)(const struct device *dev, uint32_t id,
                             mbox_callback_t callback, void *user_data);
    int (*mtu_get)(const struct device *dev);
    uint32_t (*max_channels_get)(const struct device *dev);
    int (*set_enabled)(const struct device *dev, uint32_t id,
                       bool enabled);
};

#define MBOX_API(dev) ((const struct mbox_driver_api *)(dev)->api)

#endif
