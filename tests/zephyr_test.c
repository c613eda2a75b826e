/*
 * Tests of Zephyr's drivers (zephyr/drivers) on the host
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * zephyr_test NAME runs one test and ends with 0 if it passes; zephyr_test.py
 * runs them all. The drivers are compiled as they are, with zephyr_stub.h for
 * Zephyr. A test looks at what they log here.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ivshmem_flat/ivshmem_flat.h>

#include "check.h"
#include "zephyr_stub.h"

#define FLAT(n) (&qemu_ivshmem_flat_##n##_device)
#define MBOX(n) (&qemu_ivshmem_flat_mbox_##n##_device)

/* How the shared memory is mapped: K_MEM_CACHE_WB, and what was asked for */
#if defined(CONFIG_KERNEL_DIRECT_MAP) && defined(CONFIG_IVSHMEM_FLAT_USER_SHMEM)
#define SHMEM_FLAGS "14"
#elif !defined(CONFIG_KERNEL_DIRECT_MAP) && \
      !defined(CONFIG_IVSHMEM_FLAT_USER_SHMEM)
#define SHMEM_FLAGS "2"
#endif

/* What was logged since the last time */
#define CHECK_LOG(should) \
    do { \
        if (strcmp(log_text, should)) { \
            fprintf(stderr, "%s:%d: the log is \"%s\", should be \"%s\"\n", \
                    __FILE__, __LINE__, log_text, should); \
            _exit(1); \
        } \
        log_text[0] = '\0'; \
    } while (0)

static char log_text[4096];
static int locks_held;

static void __attribute__((format(printf, 1, 2))) add_log(const char *format,
                                                          ...)
{
    size_t used = strlen(log_text);
    va_list args;

    va_start(args, format);
    vsnprintf(log_text + used, sizeof(log_text) - used, format, args);
    va_end(args);
}

/* The hardware: the mapping's address tells device and region. */

#define AT(device, shmem) (0x10000u * ((device) + 1) + 0x8000u * (shmem))

static uint32_t own_id;
static bool has_peer_registers;
static uint64_t peers;          /* a bit for each ID that is connected */
static uint32_t selected;
static uint32_t changes;
static struct {
    void (*isr)(const void *arg);
    const void *arg;
} irqs[128];

uintptr_t map(const char *node, const char *name, uint32_t flags)
{
    unsigned device = node[strlen("qemu_ivshmem_flat_")] - '0';

    add_log("map %s%u %u;", name, device, flags);
    return AT(device, !strcmp(name, "shmem"));
}

uint32_t sys_read32(uintptr_t address)
{
    uint32_t value = 0;

    add_log("load %zx;", (size_t)address);
    switch (address & 0xff) {
    case 0x8:
        value = own_id;
        break;
    case 0x10:
        value = has_peer_registers;
        break;
    case 0x18:
        value = changes;
        break;
    case 0x20:
        for (value = selected; value < 64 && !(peers >> value & 1); value++) {
        }
        value = value < 64 ? value : UINT32_MAX;
        break;
    }
    return sys_cpu_to_le32(value);
}

void sys_write32(uint32_t value, uintptr_t address)
{
    value = sys_le32_to_cpu(value);
    add_log("store %zx %x;", (size_t)address, value);
    if ((address & 0xff) == 0x1c) {
        CHECK_EQUAL(locks_held, 1);
        selected = value;
    }
}

void barrier_dmem_fence_full(void)
{
    add_log("fence;");
}

void connect_irq(int irq, int priority, void (*isr)(const void *),
                 const void *arg, int flags)
{
    add_log("connect %d %d %d;", irq, priority, flags);
    irqs[irq].isr = isr;
    irqs[irq].arg = arg;
}

void irq_enable(unsigned int irq)
{
    add_log("enable %u;", irq);
}

void irq_disable(unsigned int irq)
{
    add_log("disable %u;", irq);
}

static void interrupt(int irq)
{
    irqs[irq].isr(irqs[irq].arg);
    CHECK_EQUAL(locks_held, 0);
}

/* The kernel */

k_spinlock_key_t k_spin_lock(struct k_spinlock *lock)
{
    CHECK_EQUAL(lock->held, false);
    lock->held = true;
    return ++locks_held;
}

void k_spin_unlock(struct k_spinlock *lock, k_spinlock_key_t key)
{
    CHECK_EQUAL(lock->held, true);
    CHECK_EQUAL(key, locks_held);
    lock->held = false;
    locks_held--;
}

int k_poll_signal_raise(struct k_poll_signal *signal, int result)
{
    CHECK_EQUAL(locks_held, 0);
    add_log("signal %d;", result);
    signal->signaled++;
    signal->result = result;
    return 0;
}

static void start(struct device *dev)
{
    CHECK_EQUAL(dev->init(dev), 0);
    CHECK_EQUAL(locks_held, 0);
    dev->ready = true;
}

/* Device and mailbox are up, and what they did for that is not looked at. */
static void start_all(void)
{
    start(FLAT(0));
    start(FLAT(1));
    start(FLAT(2));
    start(MBOX(0));
    start(MBOX(1));
    start(MBOX(2));
    start(MBOX(3));
    log_text[0] = '\0';
}

static void on_vector(const struct device *dev, uint16_t vector,
                      void *user_data)
{
    CHECK_EQUAL(locks_held, 0);
    CHECK_EQUAL(dev == FLAT(0) || dev == FLAT(1), true);
    add_log("vector %u %s;", vector, (const char *)user_data);
}

static void on_channel(const struct device *dev, uint32_t id,
                       void *user_data, struct mbox_msg *msg)
{
    CHECK_EQUAL(locks_held, 0);
    CHECK_EQUAL(dev == MBOX(0), true);
    CHECK_EQUAL(msg == NULL, true);
    add_log("channel %u %s;", id, (const char *)user_data);
}

TEST(init_connects_and_enables_nothing)
{
    start(FLAT(0));
    CHECK_LOG("map registers0 1;map shmem0 " SHMEM_FLAGS ";load 10010;"
              "connect 25 3 0;connect 26 4 0;connect 27 5 0;");
}

TEST(init_unmasks_revision_0)
{
    start(FLAT(1));
    CHECK_LOG("map registers1 1;map shmem1 " SHMEM_FLAGS ";"
              "store 20000 1;load 20010;connect 112 3 7;");
}

TEST(init_without_interrupts)
{
    start(FLAT(2));
    CHECK_LOG("map registers2 1;map shmem2 " SHMEM_FLAGS ";load 30010;");
}

TEST(memory_is_where_it_was_mapped)
{
    uintptr_t memory = 0;

    start_all();
    CHECK_EQUAL(ivshmem_get_mem(FLAT(0), &memory), SHMEM_SIZE);
    CHECK_EQUAL(memory, AT(0, 1));
    CHECK_EQUAL(ivshmem_get_mem(FLAT(2), &memory), SHMEM_SIZE);
    CHECK_EQUAL(memory, AT(2, 1));
}

TEST(id_is_read_each_time)
{
    start_all();
    own_id = 3;
    CHECK_EQUAL(ivshmem_get_id(FLAT(0)), 3);
    own_id = 65535;
    CHECK_EQUAL(ivshmem_get_id(FLAT(0)), 65535);
    CHECK_LOG("load 10008;load 10008;");
}

TEST(vectors_are_the_interrupts)
{
    start_all();
    CHECK_EQUAL(ivshmem_get_vectors(FLAT(0)), 3);
    CHECK_EQUAL(ivshmem_get_vectors(FLAT(1)), 1);
    CHECK_EQUAL(ivshmem_get_vectors(FLAT(2)), 0);
}

TEST(doorbell_after_a_fence)
{
    start_all();
    CHECK_EQUAL(ivshmem_int_peer(FLAT(0), 2, 1), 0);
    CHECK_LOG("fence;store 1000c 20001;");
    CHECK_EQUAL(ivshmem_int_peer(FLAT(0), 65535, 0), 0);
    CHECK_LOG("fence;store 1000c ffff0000;");
}

TEST(doorbell_that_cannot_be_is_not_rung)
{
    start_all();
    CHECK_EQUAL(ivshmem_int_peer(FLAT(0), 2, 3), -EINVAL);
    CHECK_EQUAL(ivshmem_int_peer(FLAT(0), 65536, 0), -EINVAL);
    CHECK_EQUAL(ivshmem_int_peer(FLAT(1), 2, 1), -EINVAL);
    CHECK_EQUAL(ivshmem_int_peer(FLAT(2), 0, 0), -ENOSYS);
    CHECK_LOG("");
}

TEST(handler_that_cannot_be)
{
    struct k_poll_signal signal = { 0 };

    start_all();
    CHECK_EQUAL(ivshmem_register_handler(FLAT(0), &signal, 3), -EINVAL);
    CHECK_EQUAL(ivshmem_register_handler(FLAT(2), &signal, 0), -ENOSYS);
    CHECK_EQUAL(ivshmem_flat_set_callback(FLAT(0), 3, on_vector, ""), -EINVAL);
    CHECK_EQUAL(ivshmem_flat_set_callback(FLAT(2), 0, on_vector, ""), -ENOSYS);
    CHECK_LOG("");
}

TEST(signal_tells_its_vector)
{
    struct k_poll_signal one = { 0 }, two = { 0 };

    start_all();
    CHECK_EQUAL(ivshmem_register_handler(FLAT(0), &one, 0), 0);
    CHECK_EQUAL(ivshmem_register_handler(FLAT(0), &two, 2), 0);
    CHECK_LOG("enable 25;enable 27;");
    interrupt(27);
    CHECK_LOG("signal 2;");
    CHECK_EQUAL(one.signaled, 0);
    CHECK_EQUAL(two.result, 2);
    interrupt(25);
    CHECK_EQUAL(one.signaled, 1);
    CHECK_EQUAL(one.result, 0);
}

TEST(vector_is_disabled_with_its_last_handler)
{
    struct k_poll_signal signal = { 0 };

    start_all();
    CHECK_EQUAL(ivshmem_register_handler(FLAT(0), &signal, 1), 0);
    CHECK_EQUAL(ivshmem_flat_set_callback(FLAT(0), 1, on_vector, "x"), 0);
    CHECK_LOG("enable 26;enable 26;");
    interrupt(26);
    CHECK_LOG("vector 1 x;signal 1;");
    CHECK_EQUAL(ivshmem_register_handler(FLAT(0), NULL, 1), 0);
    CHECK_LOG("enable 26;");
    interrupt(26);
    CHECK_LOG("vector 1 x;");
    CHECK_EQUAL(ivshmem_flat_set_callback(FLAT(0), 1, NULL, NULL), 0);
    CHECK_LOG("disable 26;");
    interrupt(26);
    CHECK_LOG("");
}

TEST(revision_0_is_acknowledged_before_its_handler)
{
    start_all();
    CHECK_EQUAL(ivshmem_flat_set_callback(FLAT(1), 0, on_vector, "x"), 0);
    CHECK_LOG("enable 112;");
    interrupt(112);
    CHECK_LOG("load 20004;vector 0 x;");
}

TEST(mailbox_comes_up_behind_the_device)
{
    start(FLAT(0));
    FLAT(0)->ready = false;
    CHECK_EQUAL(MBOX(0)->init(MBOX(0)), -ENODEV);
    CHECK_EQUAL(FLAT(0)->priority < MBOX(0)->priority, true);
}

TEST(mailbox_signals_only)
{
    struct mbox_msg msg = { "x", 1 };

    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(0))->mtu_get(MBOX(0)), 0);
    CHECK_EQUAL(MBOX_API(MBOX(0))->max_channels_get(MBOX(0)), 3);
    CHECK_EQUAL(MBOX_API(MBOX(0))->send(MBOX(0), 0, &msg), -EMSGSIZE);
    CHECK_LOG("");
}

TEST(mailbox_finds_the_other_of_two)
{
    start_all();
    own_id = 0;
    CHECK_EQUAL(MBOX_API(MBOX(0))->send(MBOX(0), 2, NULL), 0);
    CHECK_LOG("load 10008;fence;store 1000c 10002;");
    own_id = 1;
    CHECK_EQUAL(MBOX_API(MBOX(0))->send(MBOX(0), 2, NULL), 0);
    CHECK_LOG("load 10008;fence;store 1000c 2;");
}

TEST(mailbox_finds_it_among_more)
{
    start_all();
    own_id = 3;
    CHECK_EQUAL(MBOX_API(MBOX(1))->send(MBOX(1), 0, NULL), 0);
    CHECK_LOG("load 10008;fence;store 1000c 0;"
              "fence;store 1000c 10000;"
              "fence;store 1000c 20000;"
              "fence;store 1000c 40000;");
}

TEST(mailbox_has_its_peer)
{
    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(2))->send(MBOX(2), 0, NULL), 0);
    CHECK_LOG("fence;store 1000c ffff0000;");
}

TEST(walk_over_peers)
{
    uint16_t peer = 7;

    has_peer_registers = true;
    start_all();
    peers = 1ull << 3 | 1ull << 63;
    CHECK_EQUAL(ivshmem_flat_next_peer(FLAT(0), 0, &peer), 0);
    CHECK_LOG("store 1001c 0;load 10020;");
    CHECK_EQUAL(peer, 3);
    CHECK_EQUAL(ivshmem_flat_next_peer(FLAT(0), 4, &peer), 0);
    CHECK_EQUAL(peer, 63);
    CHECK_EQUAL(ivshmem_flat_next_peer(FLAT(0), 64, &peer), -ENOENT);
    CHECK_EQUAL(ivshmem_flat_next_peer(FLAT(0), 0x10003, &peer), -ENOENT);
    CHECK_EQUAL(peer, 63);
    changes = 42;
    CHECK_EQUAL(ivshmem_flat_changes(FLAT(0)), 42);
    CHECK_EQUAL(locks_held, 0);
}

TEST(walk_without_registers)
{
    uint16_t peer = 7;

    start_all();
    peers = 1;
    CHECK_EQUAL(ivshmem_flat_next_peer(FLAT(0), 0, &peer), -ENOTSUP);
    CHECK_EQUAL(peer, 7);
    CHECK_LOG("");
}

/* No property is needed, and no ID: all that are there are rung. */
TEST(mailbox_finds_peers)
{
    has_peer_registers = true;
    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(0))->send(MBOX(0), 2, NULL), 0);
    CHECK_LOG("store 1001c 0;load 10020;");
    peers = 1ull << 5 | 1ull << 40;
    CHECK_EQUAL(MBOX_API(MBOX(0))->send(MBOX(0), 2, NULL), 0);
    CHECK_LOG("store 1001c 0;load 10020;fence;store 1000c 50002;"
              "store 1001c 6;load 10020;fence;store 1000c 280002;"
              "store 1001c 29;load 10020;");
}

TEST(mailbox_has_its_index)
{
    has_peer_registers = true;
    start_all();
    peers = 1ull << 5;
    CHECK_EQUAL(MBOX_API(MBOX(3))->send(MBOX(3), 0, NULL), 0);
    CHECK_LOG("store 1001c 0;load 10020;store 1001c 6;load 10020;");
    peers |= 1ull << 40 | 1ull << 41;
    CHECK_EQUAL(MBOX_API(MBOX(3))->send(MBOX(3), 0, NULL), 0);
    CHECK_LOG("store 1001c 0;load 10020;store 1001c 6;load 10020;"
              "fence;store 1000c 280000;"
              "store 1001c 29;load 10020;store 1001c 2a;load 10020;");
}

TEST(mailbox_with_an_index_that_nothing_tells)
{
    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(3))->send(MBOX(3), 0, NULL), -ENOTSUP);
    CHECK_LOG("");
}

/* The peer's ID counts for more. */
TEST(mailbox_has_its_peer_nevertheless)
{
    has_peer_registers = true;
    peers = 1;
    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(2))->send(MBOX(2), 0, NULL), 0);
    CHECK_LOG("fence;store 1000c ffff0000;");
}

TEST(mailbox_without_such_a_channel)
{
    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(0))->send(MBOX(0), 3, NULL), -EINVAL);
    CHECK_EQUAL(MBOX_API(MBOX(0))->send(MBOX(0), 65536, NULL), -EINVAL);
    CHECK_EQUAL(MBOX_API(MBOX(0))->register_callback(MBOX(0), 3, on_channel,
                                                     NULL), -EINVAL);
    CHECK_EQUAL(MBOX_API(MBOX(0))->set_enabled(MBOX(0), 3, true), -EINVAL);
    CHECK_EQUAL(MBOX_API(MBOX(0))->set_enabled(MBOX(0), 0x10000, true),
                -EINVAL);
    CHECK_LOG("");
}

TEST(mailbox_calls_back_in_the_isr)
{
    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(0))->register_callback(MBOX(0), 1, on_channel,
                                                     "x"), 0);
    CHECK_LOG("");
    CHECK_EQUAL(MBOX_API(MBOX(0))->set_enabled(MBOX(0), 1, true), 0);
    CHECK_LOG("enable 26;");
    interrupt(26);
    CHECK_LOG("channel 1 x;");
    CHECK_EQUAL(MBOX_API(MBOX(0))->set_enabled(MBOX(0), 1, true), -EALREADY);
    CHECK_LOG("");
    CHECK_EQUAL(MBOX_API(MBOX(0))->set_enabled(MBOX(0), 1, false), 0);
    CHECK_LOG("disable 26;");
    CHECK_EQUAL(MBOX_API(MBOX(0))->set_enabled(MBOX(0), 1, false), -EALREADY);
    interrupt(26);
    CHECK_LOG("");
}

TEST(mailbox_enabled_without_a_callback)
{
    start_all();
    CHECK_EQUAL(MBOX_API(MBOX(0))->set_enabled(MBOX(0), 0, true), 0);
    CHECK_LOG("enable 25;");
    interrupt(25);
    CHECK_LOG("");
}

int main(int argc, char **argv)
{
    return run_test(argc == 2 ? argv[1] : NULL);
}
