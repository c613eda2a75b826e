#!/usr/bin/env python3
"""Tests of the message layer (guest/ivshmem_msg.c) on the host.

Each test in msg_test.c, msg_hostile_test.c and msg_threads_test.c is a test
case here for each kind of link, as it is and with the sanitizers that have
something to say about it. Each of these programs has another table for the CRC. The layer is also compiled for the oldest and
the newest kind of core that it promises to suit.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import unittest

import compiled


class Layer:
    tests = 'msg_test', 'msg_hostile_test', 'msg_threads_test'
    sources = ('ivshmem_msg.c', 'exchange.c')
    kinds = ('plain', 'crc')


def table(size):
    return (f'-DIVSHMEM_MSG_CRC_TABLE={size}',)


class Plain(Layer, compiled.Compiled):
    flags = table(1024)


class Memory(Layer, compiled.Memory):
    flags = (*compiled.Memory.flags, *table(64))


class Threads(Layer, compiled.Threads):
    flags = (*compiled.Threads.flags, *table(4096))


compiled.add_tests(Plain, Memory, Threads)
for _, test_name in compiled.tests_in(Layer.tests):
    if test_name.startswith('crc_'):    # with each table
        compiled.add_test(Threads, test_name)


class Portable(compiled.Portable):
    """And the driver, too."""
    sources = (*Layer.sources, 'ivshmem_flat.h')

    def test_cortex_m0(self):
        for size in (64, 4096):
            self.compile('arm-none-eabi-gcc', '-mcpu=cortex-m0', '-mthumb',
                         *table(size))


if __name__ == '__main__':
    unittest.main()
