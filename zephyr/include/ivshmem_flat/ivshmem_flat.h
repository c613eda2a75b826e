/*
 * Copyright (c) 2026 The ivshmem-flat authors
 * SPDX-License-Identifier: Apache-2.0
 */

/**
 * @file
 * What ivshmem-flat has beyond Zephyr's ivshmem API: callbacks in the ISR, and
 * memory partitions by which user threads get at the device.
 */

#ifndef IVSHMEM_FLAT_IVSHMEM_FLAT_H_
#define IVSHMEM_FLAT_IVSHMEM_FLAT_H_

#include <stdint.h>

#include <zephyr/device.h>
#include <zephyr/devicetree.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/barrier.h>
#include <zephyr/sys/byteorder.h>
#include <zephyr/sys/sys_io.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Registers, 32 bits each, little-endian; QEMU's ivshmem-spec tells of each. */
#define IVSHMEM_FLAT_INTRMASK   0x0
#define IVSHMEM_FLAT_INTRSTATUS 0x4
#define IVSHMEM_FLAT_IVPOSITION 0x8
#define IVSHMEM_FLAT_DOORBELL   0xc
/* The peer registers, which QEMU has to be asked for; else they read 0. */
#define IVSHMEM_FLAT_FEATURES   0x10
#define IVSHMEM_FLAT_CHANGES    0x18
#define IVSHMEM_FLAT_SELECT     0x1c
#define IVSHMEM_FLAT_NEXT       0x20

/**
 * Ring a peer, which then sees all that was written to the shared memory
 * before. Also for user threads that have the registers; nobody checks whether
 * there is such a peer, or such a vector, but the device, which does nothing
 * then.
 *
 * @param registers the address of the registers
 * @param peer_id of the machine that is to be interrupted
 * @param vector of that machine
 */
static inline void ivshmem_flat_ring(mem_addr_t registers, uint16_t peer_id, uint16_t vector)
{
	barrier_dmem_fence_full();
#ifdef CONFIG_RISCV
	/* whose fence of memory does not order I/O */
	__asm__ volatile("fence w, o" ::: "memory");
#endif
	sys_write32(sys_cpu_to_le32((uint32_t)peer_id << 16 | vector),
		    registers + IVSHMEM_FLAT_DOORBELL);
}

/**
 * Called in the ISR when a peer has rung a vector, once for one or more
 * doorbells: look into the shared memory for all that there is to do.
 *
 * @param dev the ivshmem-flat device
 * @param vector the vector that was rung
 * @param user_data what ivshmem_flat_set_callback() was given
 */
typedef void (*ivshmem_flat_callback_t)(const struct device *dev, uint16_t vector,
					void *user_data);

/**
 * Have a function called for each interrupt of a vector, beside the signal
 * that ivshmem_register_handler() may have set. For the kernel alone.
 *
 * A vector is enabled while it has a callback or a signal. What a peer rings
 * before that stays pending, and is delivered once it has one.
 *
 * @param dev the ivshmem-flat device
 * @param vector the vector
 * @param callback the function, or NULL for none
 * @param user_data is handed to the function
 *
 * @retval 0 on success
 * @retval -EINVAL if the device has no such vector
 * @retval -ENOSYS if it has no vector at all
 */
int ivshmem_flat_set_callback(const struct device *dev, uint16_t vector,
			      ivshmem_flat_callback_t callback, void *user_data);

/**
 * Walk over the peers that are connected, in the order of their IDs. Whoever
 * has rung is among them. May be called in an ISR; for the kernel alone.
 *
 * @param dev the ivshmem-flat device
 * @param from where to begin: 0, or one more than the ID of the peer before
 * @param peer_id is set to the smallest ID of a peer that is not below @p from
 *
 * @retval 0 on success
 * @retval -ENOENT if there is none
 * @retval -ENOTSUP if the device has no peer registers (qemu,peer-registers)
 */
int ivshmem_flat_next_peer(const struct device *dev, uint32_t from, uint16_t *peer_id);

/**
 * Tell whether peers have come or gone: the number is another one then. So it is
 * when the own ID is.
 *
 * @param dev the ivshmem-flat device
 *
 * @return the number; 0 if the device has no peer registers
 */
uint32_t ivshmem_flat_changes(const struct device *dev);

#if defined(CONFIG_USERSPACE) || defined(__DOXYGEN__)

/**
 * Define a partition by which user threads may read and write the shared
 * memory, at the address that ivshmem_get_mem() gives. With an MMU this takes
 * CONFIG_KERNEL_DIRECT_MAP.
 *
 * @param name of the struct k_mem_partition, for k_mem_domain_add_partition()
 * @param node_id of the ivshmem-flat device
 */
#define IVSHMEM_FLAT_SHMEM_PARTITION_DEFINE(name, node_id)                                         \
	BUILD_ASSERT(!IS_ENABLED(CONFIG_MMU) || IS_ENABLED(CONFIG_KERNEL_DIRECT_MAP),              \
		     "a partition with the shared memory takes CONFIG_KERNEL_DIRECT_MAP");         \
	K_MEM_PARTITION_DEFINE(name, DT_REG_ADDR_BY_NAME(node_id, shmem),                          \
			       DT_REG_SIZE_BY_NAME(node_id, shmem), K_MEM_PARTITION_P_RW_U_RW)

/* Each architecture has its own way to say Device memory. */
#if defined(MPU_MAIR_INDEX_DEVICE)
#define IVSHMEM_FLAT_DEVICE_RW                                                                     \
	((k_mem_partition_attr_t){P_RW_U_RW_Msk | NOT_EXEC, MPU_MAIR_INDEX_DEVICE})
#elif defined(DEVICE_NON_SHAREABLE)
#define IVSHMEM_FLAT_DEVICE_RW                                                                     \
	((k_mem_partition_attr_t){P_RW_U_RW_Msk | NOT_EXEC | DEVICE_NON_SHAREABLE})
#elif defined(CONFIG_RISCV_PMP)
#define IVSHMEM_FLAT_DEVICE_RW K_MEM_PARTITION_P_RW_U_RW
#endif

#if defined(IVSHMEM_FLAT_DEVICE_RW) || defined(__DOXYGEN__)

/**
 * Define a partition by which user threads may read and write the registers,
 * so that a doorbell costs no system call. Such a thread can ring any peer.
 *
 * There is none where Zephyr cannot make a partition Device memory (arm64).
 *
 * @param name of the struct k_mem_partition, for k_mem_domain_add_partition()
 * @param node_id of the ivshmem-flat device
 */
#define IVSHMEM_FLAT_REGISTERS_PARTITION_DEFINE(name, node_id)                                     \
	K_MEM_PARTITION_DEFINE(name, DT_REG_ADDR_BY_NAME(node_id, registers),                      \
			       DT_REG_SIZE_BY_NAME(node_id, registers), IVSHMEM_FLAT_DEVICE_RW)

#endif
#endif /* CONFIG_USERSPACE */

#ifdef __cplusplus
}
#endif

#endif /* IVSHMEM_FLAT_IVSHMEM_FLAT_H_ */
