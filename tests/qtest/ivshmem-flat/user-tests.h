/*
 * QTest testcase for ivshmem-flat: a machine whose user places the device
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_IVSHMEM_FLAT_USER_TESTS_H
#define TESTS_QTEST_IVSHMEM_FLAT_USER_TESTS_H

#include "ivshmem-flat/framework.h"

/* Where the board would place it, too, so that IOMEM and SHMEM are right */
#define AT "x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x70000000"

/* Who places a device wires it, too: this one has no interrupt. */
#define USERS_MACHINE WIRED_MACHINE "," AT

#endif /* TESTS_QTEST_IVSHMEM_FLAT_USER_TESTS_H */
