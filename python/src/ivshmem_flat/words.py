"""Words of shared memory, loaded and stored in an order that peers rely on.

Python has neither barriers nor atomic accesses to offer. This is what is relied
upon, of CPython on Linux:

- An element of a memoryview of format 'I' is loaded and stored in one piece,
  when it is aligned, as it is here. CPython copies four bytes, which compilers
  make one instruction of. tests/package_test.py looks whether that holds.
- No byte code is done ahead of another one by CPython; only the CPU reorders.
- x86-64 orders loads among themselves, and stores, and no store comes ahead of
  a load before it; what is missing is a barrier between a store and a later load.
- threading.Lock is taken by a read-modify-write that acquires, and given back by
  one that releases. On x86-64 the first is a full barrier. On arm64, what was
  before the release is not after it, nor is what follows the acquire before it,
  and an acquire does not pass a release; so to give it back and take it again
  is a full barrier.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

import platform
import threading

_lock = threading.Lock()


def full_barrier():
    """All loads and stores before are seen before any later one."""
    for _ in range(2):
        with _lock:
            pass


class OrderedWords:
    """Loads acquire and stores release, on CPUs that do not see to it."""

    def __init__(self, view):
        self._words = view.cast('I')

    def __getitem__(self, index):
        value = self._words[index]
        full_barrier()
        return value

    def __setitem__(self, index, value):
        full_barrier()
        self._words[index] = value

    def __len__(self):
        return len(self._words)

    def release(self):
        self._words.release()


def words_of(view):
    """Words of a view of shared memory: little-endian, as its hosts are.

    A load comes before all that follows it, a store after all that was before.
    """
    if platform.machine() == 'x86_64':
        return view.cast('I')
    return OrderedWords(view)
