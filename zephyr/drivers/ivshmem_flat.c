/*
 * Driver for QEMU's inter-VM shared memory without PCI
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 * SPDX-License-Identifier: Apache-2.0
 */

/*
 * Zephyr's ivshmem API on a device whose place, size and interrupts the device
 * tree tells. Vector n is the node's interrupt n. A node without interrupts is
 * shared memory alone, as ivshmem-plain is among the PCI devices.
 *
 * The interrupt controller holds what peers ring while a vector is disabled,
 * which it is as long as nobody has asked for it: a doorbell that comes before
 * its handler is not lost.
 */

#define DT_DRV_COMPAT qemu_ivshmem_flat

#include <errno.h>

#include <zephyr/device.h>
#include <zephyr/devicetree.h>
#include <zephyr/drivers/virtualization/ivshmem.h>
#include <zephyr/irq.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/byteorder.h>
#include <zephyr/sys/device_mmio.h>
#include <zephyr/sys/sys_io.h>
#include <zephyr/sys/util.h>

#include <ivshmem_flat/ivshmem_flat.h>

#ifndef DEVICE_API
#define DEVICE_API(class, name) const struct class##_driver_api name
#endif

/* Before Zephyr 3.6, the number in the devicetree is the one to connect. */
#ifndef DT_INST_IRQN_BY_IDX
#define DT_INST_IRQN_BY_IDX(inst, n) DT_INST_IRQ_BY_IDX(inst, n, irq)
#endif

#define DEV_CFG(dev)  ((const struct ivshmem_flat_config *)(dev)->config)
#define DEV_DATA(dev) ((struct ivshmem_flat_data *)(dev)->data)

/** What the ISR is told: whose interrupt it is. */
struct ivshmem_flat_line {
	const struct device *dev;
	unsigned int irq;
	uint16_t vector;
};

/** Who wants to know of a vector; NULL if nobody does. */
struct ivshmem_flat_handler {
	struct k_poll_signal *signal;
	ivshmem_flat_callback_t callback;
	void *user_data;
};

struct ivshmem_flat_config {
	DEVICE_MMIO_NAMED_ROM(registers);
	DEVICE_MMIO_NAMED_ROM(shmem);
	size_t shmem_size;
	void (*connect)(void);
	const struct ivshmem_flat_line *lines;
	uint16_t vectors;
	uint8_t revision;
};

struct ivshmem_flat_data {
	DEVICE_MMIO_NAMED_RAM(registers);
	DEVICE_MMIO_NAMED_RAM(shmem);
	struct k_spinlock lock;
	struct ivshmem_flat_handler *handlers;
	bool finds_peers;
};

static uint32_t ivshmem_flat_read(const struct device *dev, unsigned int offset)
{
	return sys_le32_to_cpu(sys_read32(DEVICE_MMIO_NAMED_GET(dev, registers) + offset));
}

static void ivshmem_flat_write(const struct device *dev, unsigned int offset, uint32_t value)
{
	sys_write32(sys_cpu_to_le32(value), DEVICE_MMIO_NAMED_GET(dev, registers) + offset);
}

static void ivshmem_flat_isr(const void *arg)
{
	const struct ivshmem_flat_line *line = arg;
	struct ivshmem_flat_data *data = DEV_DATA(line->dev);
	struct ivshmem_flat_handler handler;
	k_spinlock_key_t key;

	if (DEV_CFG(line->dev)->revision == 0) {
		/* lowers the line; what comes after this is a new interrupt */
		(void)ivshmem_flat_read(line->dev, IVSHMEM_FLAT_INTRSTATUS);
	}

	key = k_spin_lock(&data->lock);
	handler = data->handlers[line->vector];
	k_spin_unlock(&data->lock, key);

	if (handler.callback != NULL) {
		handler.callback(line->dev, line->vector, handler.user_data);
	}
	if (handler.signal != NULL) {
		k_poll_signal_raise(handler.signal, line->vector);
	}
}

/** 0 if the device has this vector, else what the API returns. */
static int ivshmem_flat_check(const struct device *dev, uint16_t vector)
{
	uint16_t vectors = DEV_CFG(dev)->vectors;

	if (vectors == 0) {
		return -ENOSYS;
	}
	return vector < vectors ? 0 : -EINVAL;
}

/** A vector is enabled while somebody wants to know of it. */
static void ivshmem_flat_enable(const struct device *dev, uint16_t vector)
{
	const struct ivshmem_flat_handler *handler = &DEV_DATA(dev)->handlers[vector];
	unsigned int irq = DEV_CFG(dev)->lines[vector].irq;

	if (handler->signal != NULL || handler->callback != NULL) {
		irq_enable(irq);
	} else {
		irq_disable(irq);
	}
}

static size_t ivshmem_flat_get_mem(const struct device *dev, uintptr_t *memmap)
{
	*memmap = DEVICE_MMIO_NAMED_GET(dev, shmem);

	return DEV_CFG(dev)->shmem_size;
}

static uint32_t ivshmem_flat_get_id(const struct device *dev)
{
	/* not kept: it changes when the server comes back */
	return ivshmem_flat_read(dev, IVSHMEM_FLAT_IVPOSITION);
}

static uint16_t ivshmem_flat_get_vectors(const struct device *dev)
{
	return DEV_CFG(dev)->vectors;
}

static int ivshmem_flat_int_peer(const struct device *dev, uint32_t peer_id, uint16_t vector)
{
	int ret = ivshmem_flat_check(dev, vector);

	if (ret < 0) {
		return ret;
	}
	if (peer_id > UINT16_MAX) {
		return -EINVAL;
	}

	ivshmem_flat_ring(DEVICE_MMIO_NAMED_GET(dev, registers), peer_id, vector);

	return 0;
}

static int ivshmem_flat_register_handler(const struct device *dev, struct k_poll_signal *signal,
					 uint16_t vector)
{
	int ret = ivshmem_flat_check(dev, vector);
	k_spinlock_key_t key;

	if (ret < 0) {
		return ret;
	}

	key = k_spin_lock(&DEV_DATA(dev)->lock);
	DEV_DATA(dev)->handlers[vector].signal = signal;
	ivshmem_flat_enable(dev, vector);
	k_spin_unlock(&DEV_DATA(dev)->lock, key);

	return 0;
}

int ivshmem_flat_set_callback(const struct device *dev, uint16_t vector,
			      ivshmem_flat_callback_t callback, void *user_data)
{
	int ret = ivshmem_flat_check(dev, vector);
	k_spinlock_key_t key;

	if (ret < 0) {
		return ret;
	}

	key = k_spin_lock(&DEV_DATA(dev)->lock);
	DEV_DATA(dev)->handlers[vector].callback = callback;
	DEV_DATA(dev)->handlers[vector].user_data = user_data;
	ivshmem_flat_enable(dev, vector);
	k_spin_unlock(&DEV_DATA(dev)->lock, key);

	return 0;
}

int ivshmem_flat_next_peer(const struct device *dev, uint32_t from, uint16_t *peer_id)
{
	k_spinlock_key_t key;
	uint32_t next;

	if (!DEV_DATA(dev)->finds_peers) {
		return -ENOTSUP;
	}

	/* the device has one register to select with */
	key = k_spin_lock(&DEV_DATA(dev)->lock);
	ivshmem_flat_write(dev, IVSHMEM_FLAT_SELECT, from);
	next = ivshmem_flat_read(dev, IVSHMEM_FLAT_NEXT);
	k_spin_unlock(&DEV_DATA(dev)->lock, key);

	if (next > UINT16_MAX) {
		return -ENOENT;
	}
	*peer_id = next;

	return 0;
}

uint32_t ivshmem_flat_changes(const struct device *dev)
{
	return ivshmem_flat_read(dev, IVSHMEM_FLAT_CHANGES);
}

static int ivshmem_flat_init(const struct device *dev)
{
	uint32_t shmem_flags = K_MEM_CACHE_WB;

	/* Partitions and IPC name the memory by its physical address. */
	if (IS_ENABLED(CONFIG_KERNEL_DIRECT_MAP)) {
		shmem_flags |= K_MEM_DIRECT_MAP;
	}
	if (IS_ENABLED(CONFIG_IVSHMEM_FLAT_USER_SHMEM)) {
		shmem_flags |= K_MEM_PERM_USER;
	}
	ARG_UNUSED(shmem_flags);	/* without an MMU */

	DEVICE_MMIO_NAMED_MAP(dev, registers, K_MEM_CACHE_NONE);
	DEVICE_MMIO_NAMED_MAP(dev, shmem, shmem_flags);

	if (DEV_CFG(dev)->revision == 0) {
		/* masked after reset; revision 1 does not look at it */
		ivshmem_flat_write(dev, IVSHMEM_FLAT_INTRMASK, 1);
	}
	DEV_DATA(dev)->finds_peers = ivshmem_flat_read(dev, IVSHMEM_FLAT_FEATURES) & 1;
	DEV_CFG(dev)->connect();

	return 0;
}

static DEVICE_API(ivshmem, ivshmem_flat_api) = {
	.get_mem = ivshmem_flat_get_mem,
	.get_id = ivshmem_flat_get_id,
	.get_vectors = ivshmem_flat_get_vectors,
	.int_peer = ivshmem_flat_int_peer,
	.register_handler = ivshmem_flat_register_handler,
};

#define IVSHMEM_FLAT_IRQ_FLAGS(n, inst)                                                            \
	COND_CODE_1(DT_INST_IRQ_HAS_CELL_AT_IDX(inst, n, flags),                                   \
		    (DT_INST_IRQ_BY_IDX(inst, n, flags)), (0))

#define IVSHMEM_FLAT_CONNECT(n, inst)                                                              \
	IRQ_CONNECT(DT_INST_IRQN_BY_IDX(inst, n), DT_INST_IRQ_BY_IDX(inst, n, priority),           \
		    ivshmem_flat_isr, &ivshmem_flat_lines_##inst[n],                               \
		    IVSHMEM_FLAT_IRQ_FLAGS(n, inst))

#define IVSHMEM_FLAT_LINE(n, inst)                                                                 \
	{.dev = DEVICE_DT_INST_GET(inst), .irq = DT_INST_IRQN_BY_IDX(inst, n), .vector = n}

/* The names say which vector is whose, and must agree with the order. */
#define IVSHMEM_FLAT_CHECK_NAME(n, inst)                                                           \
	BUILD_ASSERT(DT_INST_IRQ_BY_NAME(inst, vector##n, irq) ==                                  \
			     DT_INST_IRQ_BY_IDX(inst, n, irq),                                     \
		     "interrupt-names must be vector0, vector1, ... in this order")

#define IVSHMEM_FLAT_DEFINE(inst)                                                                  \
	BUILD_ASSERT(DT_INST_REG_SIZE_BY_NAME(inst, registers) == 0x100,                           \
		     "the registers are 256 bytes");                                               \
	LISTIFY(DT_NUM_IRQS(DT_DRV_INST(inst)), IVSHMEM_FLAT_CHECK_NAME, (;), inst);               \
                                                                                                   \
	static struct ivshmem_flat_handler                                                         \
		ivshmem_flat_handlers_##inst[DT_NUM_IRQS(DT_DRV_INST(inst))];                      \
                                                                                                   \
	static const struct ivshmem_flat_line                                                      \
		ivshmem_flat_lines_##inst[DT_NUM_IRQS(DT_DRV_INST(inst))] = {                      \
			LISTIFY(DT_NUM_IRQS(DT_DRV_INST(inst)), IVSHMEM_FLAT_LINE, (,), inst)};    \
                                                                                                   \
	static void ivshmem_flat_connect_##inst(void)                                              \
	{                                                                                          \
		LISTIFY(DT_NUM_IRQS(DT_DRV_INST(inst)), IVSHMEM_FLAT_CONNECT, (;), inst);          \
	}                                                                                          \
                                                                                                   \
	static const struct ivshmem_flat_config ivshmem_flat_config_##inst = {                     \
		DEVICE_MMIO_NAMED_ROM_INIT_BY_NAME(registers, DT_DRV_INST(inst)),                  \
		DEVICE_MMIO_NAMED_ROM_INIT_BY_NAME(shmem, DT_DRV_INST(inst)),                      \
		.shmem_size = DT_INST_REG_SIZE_BY_NAME(inst, shmem),                               \
		.connect = ivshmem_flat_connect_##inst,                                            \
		.lines = ivshmem_flat_lines_##inst,                                                \
		.vectors = DT_NUM_IRQS(DT_DRV_INST(inst)),                                         \
		.revision = DT_INST_PROP(inst, qemu_revision),                                     \
	};                                                                                         \
                                                                                                   \
	static struct ivshmem_flat_data ivshmem_flat_data_##inst = {                               \
		.handlers = ivshmem_flat_handlers_##inst,                                          \
	};                                                                                         \
                                                                                                   \
	DEVICE_DT_INST_DEFINE(inst, ivshmem_flat_init, NULL, &ivshmem_flat_data_##inst,            \
			      &ivshmem_flat_config_##inst, POST_KERNEL,                            \
			      CONFIG_IVSHMEM_FLAT_INIT_PRIORITY, &ivshmem_flat_api);

DT_INST_FOREACH_STATUS_OKAY(IVSHMEM_FLAT_DEFINE)
