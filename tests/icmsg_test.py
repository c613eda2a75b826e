#!/usr/bin/env python3
"""Tests of ICMsg (guest/ivshmem_icmsg.c, ivshmem_flat.icmsg) on the host.

Those in C are in icmsg_test.c. The two are compared with each other over the
same memory: each of them in each role.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import ctypes
import mmap
import os
import random
import struct
import tempfile
import unittest
from pathlib import Path

import compiled
from lab_case import CleanCase
from ivshmem_flat.icmsg import (BOUND, DEAD, OPENING, UNBOUND, Broken, ICMsg,
                                NotBound)


class Layer:
    tests = 'icmsg_test',
    sources = ('ivshmem_icmsg.c', 'icmsg_talk.c', 'talk.c')


class Plain(Layer, compiled.Compiled):
    pass


class Memory(Layer, compiled.Memory):
    pass


class Threads(Layer, compiled.Threads):
    pass


compiled.add_tests(Plain, Memory, Threads)


class Portable(compiled.Portable):
    sources = Layer.sources


class Host:
    """What an ICMsg needs of a Peer; other programs are called in wait()."""

    def __init__(self, memory, others=()):
        self.memory = memory
        self.others = others
        self.rung = []
        self.id = 7
        self.peers = {5: [], 7: [], 9: []}

    def update(self):
        pass

    def ring(self, peer, vector=0):
        self.rung.append((peer, vector))

    def wait(self, timeout=None):
        for other in self.others:
            other.poll()


class CConfig(ctypes.Structure):
    _fields_ = [('tx', ctypes.c_void_p), ('tx_size', ctypes.c_size_t),
                ('rx', ctypes.c_void_p), ('rx_size', ctypes.c_size_t),
                ('alignment', ctypes.c_uint32), ('sessions', ctypes.c_bool)]


class CSide:
    """ICMsg's C, with the interface of the one in Python."""
    STATES = (OPENING, BOUND, UNBOUND, DEAD)
    FULL, NOT_BOUND, BROKEN = -2, -3, -5

    def __init__(self, library, memory, tx, rx, alignment=0, sessions=False):
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.library = library
        self.config = CConfig(start + tx[0], tx[1], start + rx[0], rx[1],
                              alignment, sessions)
        self.icmsg = ctypes.create_string_buffer(1024)  # more than it has
        self.open()

    def open(self):
        assert self.library.ivshmem_icmsg_open(
            self.icmsg, ctypes.byref(self.config)) == 0

    def close(self):
        self.library.ivshmem_icmsg_close(self.icmsg)

    def poll(self):
        return self.STATES[self.library.ivshmem_icmsg_poll(self.icmsg)]

    def _check(self, result):
        if result == self.NOT_BOUND:
            raise NotBound
        if result == self.BROKEN:
            raise Broken
        return result

    def send(self, message):
        return self._check(self.library.ivshmem_icmsg_send(
            self.icmsg, message, len(message))) == 0

    def receive(self):
        buffer = ctypes.create_string_buffer(0xffff)
        length = self._check(self.library.ivshmem_icmsg_receive(
            self.icmsg, buffer, len(buffer)))
        return buffer.raw[:length] if length > 0 else None


class InPython(CleanCase):
    """The class, and its counterpart: in Python, and in C."""
    ONE, OTHER = (0, 128), (0x1000, 256)

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-icmsg-')
        cls.addClassCleanup(folder.cleanup)
        library = Path(folder.name) / 'icmsg.so'
        status, output = compiled.run([
            os.environ.get('CC', 'cc'), '-O2', '-shared', '-fPIC', '-o',
            library, compiled.GUEST / 'ivshmem_icmsg.c'])
        if status:
            raise AssertionError(output)
        cls.library = ctypes.CDLL(str(library))

    def setUp(self):
        self.memory = mmap.mmap(-1, 0x2000)

    def side(self, tx, rx, **kwargs):
        side = ICMsg(Host(self.memory), 5, tx=tx, rx=rx, **kwargs)
        self.addCleanup(side.close)
        return side

    def pair(self, in_c=False, **kwargs):
        """Two sides that are bound: the second one in C, or not."""
        one = self.side(self.ONE, self.OTHER, **kwargs)
        other = CSide(self.library, self.memory, self.OTHER, self.ONE,
                      **kwargs) if in_c else \
            self.side(self.OTHER, self.ONE, **kwargs)
        self.settle(one, other)
        return one, other

    def settle(self, *sides):
        for _ in range(3):
            for side in sides:
                side.poll()
        self.assertEqual([side.poll() for side in sides], [BOUND, BOUND])

    def word(self, offset):
        return struct.unpack_from('<I', self.memory, offset)[0]

    def set_word(self, offset, value):
        struct.pack_into('<I', self.memory, offset, value)

    def talk(self, one, other, messages=500):
        for _ in range(messages):
            sender, receiver = random.choice([(one, other), (other, one)])
            message = random.randbytes(random.randint(1, one.max_length))
            self.assertTrue(sender.send(message))
            self.assertEqual(receiver.receive(), message)
            self.assertIsNone(receiver.receive())

    def for_each_pair(self):
        for in_c in False, True:
            for kwargs in ({}, {'alignment': 32}, {'sessions': True},
                           {'alignment': 64, 'sessions': True}):
                with self.subTest(in_c=in_c, **kwargs):
                    self.setUp()
                    yield self.pair(in_c, **kwargs)

    def test_messages_arrive(self):
        for one, other in self.for_each_pair():
            self.talk(one, other)

    def test_full_ring(self):
        for one, other in self.for_each_pair():
            for n in range(100):
                # 4 bytes stay free, and each packet has 4 more of its own
                packet = 4 + n % 11 + 1
                fit = (one.max_length + 4) // (packet + 3 & ~3)
                for _ in range(fit):
                    self.assertTrue(one.send(bytes(packet - 4)))
                self.assertFalse(one.send(bytes(packet - 4)))
                for _ in range(fit):
                    self.assertEqual(other.receive(), bytes(packet - 4))
                self.assertIsNone(other.receive())

    def test_peer_comes_back(self):
        for in_c in False, True:
            self.setUp()
            one, other = self.pair(in_c, sessions=True)
            for _ in range(100):
                one.send(b'old')
                other.send(b'old')
                comes, stays = random.sample((one, other), 2)
                comes.open()
                with self.assertRaises(NotBound):
                    random.choice([stays.receive, lambda: stays.send(b'x')])()
                self.assertEqual(stays.poll(), UNBOUND)
                stays.open()
                self.settle(one, other)
                self.assertIsNone(one.receive())
                self.assertIsNone(other.receive())
                self.talk(one, other, 10)
            other.close()
            self.assertEqual(one.poll(), UNBOUND)
            one.close()
            self.assertRaises(NotBound, one.receive)

    def test_memory_may_contain_anything(self):
        for n in range(500):
            self.setUp()
            self.memory[:] = random.randbytes(len(self.memory))
            one, other = self.pair(in_c=n % 2, sessions=True)
            self.talk(one, other, 5)

    def test_doorbells(self):
        one = self.side(self.ONE, self.OTHER, vector=3)
        self.assertEqual(one.peer.rung, [(5, 3)])
        other = self.side(self.OTHER, self.ONE)
        one.poll()
        self.assertEqual(one.peer.rung, [(5, 3)] * 2)
        other.poll()
        one.send(b'message')
        self.assertEqual(one.peer.rung, [(5, 3)] * 3)
        one.poll()
        other.receive()
        self.assertEqual(len(one.peer.rung), 3)
        self.assertEqual(len(other.peer.rung), 2)

    def test_doorbells_for_all(self):
        one = ICMsg(Host(self.memory), None, self.ONE, self.OTHER)
        self.assertEqual(one.peer.rung, [(5, 0), (9, 0)])
        one.close()

    def test_waiting(self):
        one = self.side(self.ONE, self.OTHER)
        self.assertRaises(NotBound, one.send, b'x')
        with self.assertRaisesRegex(TimeoutError, 'peer 5 did not answer in '
                                    '0.01 s'):
            one.bind(timeout=0.01)
        other = self.side(self.OTHER, self.ONE)
        one.peer.others = [other]
        one.bind(timeout=10)
        self.assertIsNone(one.receive(timeout=0.01))
        other.poll()
        other.send(b'message')
        self.assertEqual(one.receive(timeout=10), b'message')

    def test_lengths(self):
        one, other = self.pair()
        self.assertEqual(one.max_length, 128 - 8 - 8)
        for length in 0, one.max_length + 1:
            with self.assertRaisesRegex(ValueError, f'^{length} bytes, '
                                        'expected 1 to 112$'):
                one.send(bytes(length))
        self.assertTrue(one.send(bytearray(one.max_length)))
        self.assertEqual(other.receive(), bytes(one.max_length))

    def test_bad_regions_are_refused(self):
        for tx, rx, kwargs, message in (
                ((2, 128), (0x1000, 128), {}, 'region 0x2 of 0x80 bytes'),
                ((-4, 128), (0x1000, 128), {}, 'region -0x4'),
                ((0, 28), (0x1000, 128), {}, 'expected at least 0x20'),
                ((0, 130), (0x1000, 128), {}, 'a multiple of 4'),
                ((0, 128), (0x1f84, 128), {}, 'within 0x2000 bytes'),
                ((0, 128), (124, 128), {}, 'overlap'),
                ((0, 128), (128, 128), {'alignment': 12}, 'alignment 12'),
                ((0, 128), (128, 128), {'alignment': 4, 'sessions': True},
                 'alignment 4, expected a power of two from 8 on')):
            with self.subTest(message), \
                    self.assertRaisesRegex(ValueError, message):
                ICMsg(Host(self.memory), 0, tx, rx, **kwargs)
        self.assertEqual(self.memory[:], bytes(len(self.memory)))
        self.memory.close()     # nothing holds it

    def test_nonsense_is_found(self):
        size = self.OTHER[1] - 8
        rx = self.OTHER[0]
        for offset, value in [
                (rx + 4, index) for index in (size, size + 4, 1, 2, 3,
                                              0x80000000, 0xffffffff)] + [
                # packets of 0, 5 and 0xffff bytes, where there are 4
                (rx + 8 + 20, length) for length in (0, 0x0500, 0xffff)]:
            for in_c in False, True:
                with self.subTest(offset=offset, value=value, in_c=in_c):
                    self.setUp()
                    one, other = self.pair(in_c)
                    other.send(b'text')
                    self.set_word(offset, value)
                    self.assertRaises(Broken, one.receive)
                    self.assertEqual(one.poll(), DEAD)
                    self.assertRaises(Broken, one.send, b'x')
                    self.assertEqual(self.word(rx), 20)
        self.setUp()
        one, _ = self.pair()
        self.set_word(self.ONE[0], 2)
        with self.assertRaisesRegex(Broken, 'index 0x2, expected a multiple '
                                    'of 4 below 0x78'):
            one.send(b'x')

    def test_magic_is_expected(self):
        for packet, good in ((b'Em1l1K0rn3li4', True),
                             (b'Em1l1K0rn3li4 and more', True),
                             (b'Em1l1K0rn3li', False),
                             (b'em1l1K0rn3li4', False)):
            self.setUp()
            one = self.side(self.ONE, self.OTHER)
            at = self.OTHER[0] + 8
            self.memory[at:at + 4] = struct.pack('>HH', len(packet), 0)
            self.memory[at + 4:at + 4 + len(packet)] = packet
            self.set_word(self.OTHER[0] + 4, 4 + (len(packet) + 3 & ~3))
            if good:
                self.assertEqual(one.poll(), BOUND)
            else:
                self.assertRaises(Broken, one.poll)
                self.assertEqual(one.poll(), DEAD)

    def test_peer_that_writes_while_we_open(self):
        for index in 2, 4:      # nonsense, and a ring that has no space
            self.setUp()
            one, _ = self.pair()
            empty = one._tx.empty

            def empty_and_write():
                empty()
                self.set_word(self.ONE[0], index)
            one._tx.empty = empty_and_write
            one.open()
            self.assertEqual(one.poll(), DEAD)
            self.assertRaises(Broken, one.receive)
            one.close()
            self.assertRaises(NotBound, one.receive)

    def test_hostile_peer(self):
        """Python and C take the same from a peer that writes anything."""
        seen = {'message': 0, 'broken': 0, 'left': 0, 'nothing': 0}
        for n in range(2000):
            self.setUp()
            kwargs = {'sessions': n % 2}
            copy = mmap.mmap(-1, len(self.memory))
            one = self.side(self.ONE, self.OTHER, **kwargs)
            # the same on a memory of its own, where the same happens
            twin = CSide(self.library, copy, self.ONE, self.OTHER, **kwargs)
            other = self.side(self.OTHER, self.ONE, **kwargs)
            for _ in range(3):
                one.poll()
                copy[:] = self.memory[:]
                twin.poll()
                other.poll()
            self.assertEqual((one.poll(), twin.poll()), (BOUND, BOUND))
            for _ in range(20):
                with contextlib.suppress(Broken, NotBound):
                    other.send(random.randbytes(random.randint(1, 40)))
                if random.random() < 0.3:
                    region, size = random.choice([self.ONE, self.OTHER])
                    self.set_word(
                        region + random.randrange(0, size, 4),
                        random.choice([random.randrange(0, size, 4),
                                       random.randrange(1 << 32)]))
                copy[:] = self.memory[:]
                results = []
                for side in one, twin:
                    try:
                        results.append(side.receive())
                    except Broken:
                        results.append('broken')
                    except NotBound:
                        results.append('left')
                self.assertEqual(results[0], results[1])
                self.assertEqual(copy[:], self.memory[:])
                result = results[0]
                seen[result if isinstance(result, str) else
                     'message' if result else 'nothing'] += 1
                if isinstance(result, str):
                    break
        self.assertTrue(all(count > 50 for count in seen.values()), seen)


if __name__ == '__main__':
    unittest.main()
