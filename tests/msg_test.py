#!/usr/bin/env python3
"""Tests of the message layer (guest/ivshmem_msg.c) on the host."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import unittest

import compiled


class Layer:
    name = 'msg_test'
    sources = ('ivshmem_msg.c', 'exchange.c')


class Plain(Layer, compiled.Compiled):
    pass


class Memory(Layer, compiled.Memory):
    pass


class Threads(Layer, compiled.Threads):
    pass


compiled.add_tests(Plain, Memory, Threads)


class Portable(compiled.Portable):
    """And the driver, too."""
    sources = (*Layer.sources, 'ivshmem_flat.h')


if __name__ == '__main__':
    unittest.main()
