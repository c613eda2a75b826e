/*
 * Copyright (c) 2026 The ivshmem-flat authors
 * SPDX-License-Identifier: Apache-2.0
 */

/*
 * Two machines, with the IDs 0 and 1, play ball: each of them writes a number
 * to its part of the shared memory, rings the other, and waits until the other
 * has written that number too. Each number goes by the next vector.
 *
 * With CONFIG_USERSPACE the game is played by a user thread. It has a partition
 * with the shared memory and, where there is such a thing, one with the
 * registers: it rings without a system call.
 */

#include <errno.h>

#include <zephyr/drivers/virtualization/ivshmem.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include <ivshmem_flat/ivshmem_flat.h>

#define IVSHMEM DT_NODELABEL(ivshmem0)
#define ROUNDS  10

/* so much later it is rung again: the other may not have been there yet */
#define PATIENCE K_MSEC(500)

/* one of the two, in the shared memory */
struct side {
	volatile uint32_t number;
	uint32_t unused[15];
};

static const struct device *const ivshmem = DEVICE_DT_GET(IVSHMEM);
static struct k_poll_signal signal;

#ifdef CONFIG_USERSPACE
IVSHMEM_FLAT_SHMEM_PARTITION_DEFINE(shmem_partition, IVSHMEM);
#ifdef IVSHMEM_FLAT_REGISTERS_PARTITION_DEFINE
IVSHMEM_FLAT_REGISTERS_PARTITION_DEFINE(registers_partition, IVSHMEM);
#endif
#endif

static void ring(uint32_t peer, uint16_t vector)
{
#if defined(CONFIG_USERSPACE) && defined(IVSHMEM_FLAT_REGISTERS_PARTITION_DEFINE)
	ivshmem_flat_ring(DT_REG_ADDR_BY_NAME(IVSHMEM, registers), peer, vector);
#else
	(void)ivshmem_int_peer(ivshmem, peer, vector);
#endif
}

/* Wait for a doorbell; false if none came for some time. */
static bool wait(int *vector)
{
	struct k_poll_event event = K_POLL_EVENT_INITIALIZER(
		K_POLL_TYPE_SIGNAL, K_POLL_MODE_NOTIFY_ONLY, &signal);
	unsigned int signaled;
	int ret = k_poll(&event, 1, PATIENCE);

	if (ret < 0 && ret != -EAGAIN) {
		printk("failed: cannot wait: %d\n", ret);
		k_oops();
	}
	k_poll_signal_check(&signal, &signaled, vector);
	k_poll_signal_reset(&signal);

	return signaled;
}

static void play(void *a, void *b, void *c)
{
	uint32_t id = ivshmem_get_id(ivshmem);
	uint16_t vectors = ivshmem_get_vectors(ivshmem);
	unsigned int doorbells = 0;
	struct side *sides;
	struct side *own;
	struct side *other;
	uintptr_t memory;
	int vector;

	ARG_UNUSED(a);
	ARG_UNUSED(b);
	ARG_UNUSED(c);

	if (ivshmem_get_mem(ivshmem, &memory) < 2 * sizeof(*sides) || id > 1 || vectors == 0) {
		printk("failed: the ID is %u, expected 0 or 1, and there are %u vectors\n", id,
		       vectors);
		return;
	}
	sides = (struct side *)memory;
	own = &sides[id];
	other = &sides[1 - id];

	own->number = 0;
	printk("machine %u waits for machine %u\n", id, 1 - id);
	/* What is there from an earlier game does not count. */
	while (other->number > 1) {
		(void)wait(&vector);
	}

	for (uint32_t number = 1; number <= ROUNDS; number++) {
		own->number = number;
		do {
			ring(1 - id, number % vectors);
			while (other->number < number && wait(&vector)) {
				doorbells++;
				printk("machine %u: vector %d, number %u\n", id, vector,
				       other->number);
			}
		} while (other->number < number);
	}

	if (doorbells > 0) {
		printk("machine %u passed: %u numbers, %u doorbells\n", id, ROUNDS, doorbells);
	} else {
		printk("machine %u failed: no doorbell came\n", id);
	}
}

int main(void)
{
	if (!device_is_ready(ivshmem)) {
		printk("failed: no ivshmem device\n");
		return 0;
	}
	k_poll_signal_init(&signal);
	for (uint16_t vector = 0; vector < ivshmem_get_vectors(ivshmem); vector++) {
		(void)ivshmem_register_handler(ivshmem, &signal, vector);
	}

#ifdef CONFIG_USERSPACE
	(void)k_mem_domain_add_partition(&k_mem_domain_default, &shmem_partition);
#ifdef IVSHMEM_FLAT_REGISTERS_PARTITION_DEFINE
	(void)k_mem_domain_add_partition(&k_mem_domain_default, &registers_partition);
#endif
	k_object_access_grant(ivshmem, k_current_get());
	k_object_access_grant(&signal, k_current_get());
	/* k_poll() takes memory for a user thread */
	k_thread_system_pool_assign(k_current_get());
	k_thread_user_mode_enter(play, NULL, NULL, NULL);
#else
	play(NULL, NULL, NULL);
#endif
	return 0;
}
