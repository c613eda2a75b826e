#!/usr/bin/env python3
"""Tests of the package in python/: what it relies upon.

Peers, messages and ICMsg have tests of their own: peer_test.py, icmsg_test.py.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import mmap
import os
import unittest

from lab_case import CleanCase
from ivshmem_flat.words import words_of


class Words(CleanCase):
    def test_in_one_piece(self):
        """Another process sees the one value or the other, and no mixture."""
        values = 0, 0xffffffff
        with mmap.mmap(-1, 4096) as memory, memoryview(memory) as view:
            words = words_of(view)
            child = os.fork()
            if not child:
                try:
                    while not words[1]:
                        for value in values:
                            words[0] = value
                finally:
                    os._exit(0)
            try:
                seen = {}
                # until it has run beside us for long, whatever else runs here
                while min(seen.get(value, 0) for value in values) < 200_000:
                    value = words[0]
                    seen[value] = seen.get(value, 0) + 1
            finally:
                words[1] = 1
                os.waitpid(child, 0)
                words.release()
            self.assertEqual(set(seen), set(values))


if __name__ == '__main__':
    unittest.main()
