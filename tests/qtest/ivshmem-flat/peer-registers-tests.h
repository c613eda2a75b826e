/*
 * QTest testcase for ivshmem-flat: the peer registers
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_IVSHMEM_FLAT_PEER_REGISTERS_TESTS_H
#define TESTS_QTEST_IVSHMEM_FLAT_PEER_REGISTERS_TESTS_H

#include "ivshmem-flat/framework.h"

/* docs/specs/ivshmem-spec.rst, "Peer registers of the flat device" */
#define FEATURES (IOMEM + 0x10)
#define VECTORS (IOMEM + 0x14)
#define CHANGES (IOMEM + 0x18)
#define SELECT (IOMEM + 0x1c)
#define NEXT (IOMEM + 0x20)
#define NEXT_VECTORS (IOMEM + 0x24)
#define PAGES (IOMEM + 0x28)    /* SHMEM_SIZE */

#define NONE UINT32_MAX

#define ON ",peer-registers=on"

/* What NEXT is with this in SELECT */
static inline uint32_t next(QTestState *qts, uint32_t from)
{
    qtest_writel(qts, SELECT, from);
    return qtest_readl(qts, NEXT);
}

/* Has CHANGES counted since @before was its value? */
static inline bool has_changed(QTestState *qts, uint32_t *before)
{
    uint32_t now = qtest_readl(qts, CHANGES);
    bool changed = now != *before;

    *before = now;
    return changed;
}

#endif /* TESTS_QTEST_IVSHMEM_FLAT_PEER_REGISTERS_TESTS_H */
