#!/usr/bin/env python3
"""Tests of RPMsg (guest/ivshmem_rpmsg.c) on the host: those in rpmsg_test.c."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import unittest

import compiled


class Layer:
    tests = 'rpmsg_test',
    sources = ('ivshmem_rpmsg.c', 'rpmsg_talk.c', 'talk.c')


class Plain(Layer, compiled.Compiled):
    pass


class Memory(Layer, compiled.Memory):
    pass


class Threads(Layer, compiled.Threads):
    pass


compiled.add_tests(Plain, Memory, Threads)


class Portable(compiled.Portable):
    sources = Layer.sources


if __name__ == '__main__':
    unittest.main()
