#!/usr/bin/env python3
"""Peers on the host: build/guest/ivshmem-peer, and python/.

Each of them exchanges messages with the firmware and with the other one, and
speaks ICMsg with both, too.
Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin) and what
`make -C guest` builds.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import itertools
import os
import random
import socket
import struct
import tempfile
import threading
import time
import unittest
import unittest.mock

from lab_case import BIN, ROOT, LabCase
import ivshmem_flat.icmsg
import ivshmem_flat.messages
from ivshmem_flat.icmsg import ICMsg, NotBound
from ivshmem_flat.lab import Lab
from ivshmem_flat.machines import cortex_m
from ivshmem_flat.messages import (FOREIGN, LEFT, LINKED, BadCrc, Broken,
                                   Evicted, Messages, Mismatch, NoLink)
from ivshmem_flat.peer import Peer, ServerError
from ivshmem_flat.words import OrderedWords
from tree import FIRMWARE

GUEST = ROOT / 'build/guest'
HOST_PEER = GUEST / 'ivshmem-peer'
DEADLINE = LabCase.deadline


class Exchange:
    """What guest/exchange.c does: the demonstration's side in Python."""
    DATA, REPORT = 1, 2

    def __init__(self, peer, messages=1000, control=None, crc=False):
        self.peer = peer
        self.messages = messages
        self.control = control
        self.crc = crc

    @staticmethod
    def payload(sender, sequence):
        """What the sender's message of this number must say."""
        state = (sender << 16 ^ sequence) * 2654435761 & 0xffffffff | 1

        def random_word():
            nonlocal state
            state ^= state << 13 & 0xffffffff
            state ^= state >> 17
            state ^= state << 5 & 0xffffffff
            return state
        length = random_word() % 257
        return bytes(random_word() >> 24 for _ in range(length))

    def run(self):
        """Exchange with one peer; return how many good messages it says that
        it got, and how many we got."""
        deadline = time.monotonic() + DEADLINE
        sent = received = 0
        theirs, told = None, False
        with Messages(self.peer, control=self.control,
                      crc=self.crc) as messages:
            while theirs is None or not told:
                messages.poll()
                message = messages.receive()
                if message and message.type == self.REPORT:
                    theirs, = struct.unpack('<I', message.payload)
                elif message:
                    assert message.sequence == received
                    assert message.payload == self.payload(
                        messages.id(message.slot), received)
                    received += 1
                for slot in messages.linked():
                    if sent < self.messages and sent <= received and \
                            messages.send(slot, self.DATA, self.payload(
                                self.peer.id, sent)):
                        sent += 1
                    if sent == received == self.messages and not told:
                        told = messages.send(slot, self.REPORT,
                                             struct.pack('<I', received))
                messages.ring()
                if not message and (theirs is None or not told) and \
                        not self.peer.wait(deadline - time.monotonic()):
                    raise AssertionError('no doorbell came')
        return theirs, received


class PeerTest(LabCase):
    needs = (*LabCase.needs, HOST_PEER)

    def start_server(self, *options):
        self.server = self.lab.start_server(
            self.lab.server_command(BIN, *options))

    def start_host_peer(self, *words):
        return self.lab.start('host', [HOST_PEER, self.lab.socket_path,
                                       *words])

    def start_firmware(self, words=''):
        return self.lab.start('firmware', cortex_m(
            BIN / 'qemu-system-arm', self.lab.socket_path, FIRMWARE,
            words=words))

    def assert_passed(self, program):
        self.wait_for_end(program)
        self.assertEqual(program.status, 0)
        self.assertEqual(program.lines[-1], 'passed')

    def python_peer(self):
        peer = Peer(self.lab.socket_path)
        self.addCleanup(peer.close)
        return peer


class WithFirmware(PeerTest):

    def test_c_peer_comes_first(self):
        self.start_server()
        host = self.start_host_peer()
        self.lab.wait_for_line(host, 'waiting for a peer')
        self.assert_passed(self.start_firmware())
        self.assert_passed(host)

    def test_c_peer_comes_last(self):
        self.start_server()
        firmware = self.start_firmware()
        self.lab.wait_for_line(firmware, 'waiting for a peer')
        self.assert_passed(self.start_host_peer())
        self.assert_passed(firmware)

    def test_python_peer_comes_first(self):
        self.start_server()
        peer = self.python_peer()
        firmware = self.start_firmware()
        self.assertEqual(Exchange(peer).run(), (1000, 1000))
        self.assert_passed(firmware)

    def test_python_peer_comes_last(self):
        self.start_server()
        firmware = self.start_firmware()
        self.lab.wait_for_line(firmware, 'waiting for a peer')
        self.assertEqual(Exchange(self.python_peer()).run(), (1000, 1000))
        self.assert_passed(firmware)


    def test_a_vector_for_control(self):
        self.start_server('-n', '2')
        for peer in (lambda: self.assert_passed(self.start_host_peer(
                         'exchange', 'vectors=2')),
                     lambda: self.assertEqual(Exchange(
                         self.python_peer(), control=1).run(), (1000, 1000))):
            with self.subTest():
                firmware = self.start_firmware('vectors=2')
                peer()
                self.assert_passed(firmware)

    def test_messages_with_a_crc(self):
        self.start_server()
        for peer in (lambda: self.assert_passed(self.start_host_peer(
                         'exchange', 'crc=1')),
                     lambda: self.assertEqual(Exchange(
                         self.python_peer(), crc=True).run(), (1000, 1000))):
            with self.subTest():
                firmware = self.start_firmware('crc=1')
                peer()
                self.assert_passed(firmware)


class WithEachOther(PeerTest):

    def test_c_with_c(self):
        self.start_server()
        for peer in [self.start_host_peer(), self.start_host_peer()]:
            self.assert_passed(peer)

    def test_c_with_python(self):
        self.start_server()
        host = self.start_host_peer('exchange', 'messages=200')
        self.assertEqual(Exchange(self.python_peer(), 200).run(), (200, 200))
        self.assert_passed(host)

    def test_party_of_seven(self):
        self.start_server()
        for peer in [self.start_host_peer('exchange', 'peers=6')
                     for _ in range(7)]:
            self.assert_passed(peer)

    def test_echo(self):
        """Messages of all lengths, more than a ring holds at a time."""
        self.start_server('-l', '1M')
        self.start_host_peer('echo')
        lengths = random.Random(4)
        with self.python_peer() as peer, Messages(peer) as messages:
            self.wait_for_state(messages, LINKED)
            slot, = messages.linked()
            expected = []
            sent = received = 0
            while received < 300:
                while sent < 300:
                    length = lengths.choice(
                        [0, 1, 15, 16, 17, 500, messages.ring_size - 16])
                    payload = lengths.randbytes(length)
                    if not messages.send(slot, sent, payload):
                        break
                    expected.append(payload)
                    sent += 1
                messages.ring()
                message = messages.receive(slot)
                if message is None:
                    self.assertTrue(peer.wait(DEADLINE))
                    continue
                self.assertEqual(message, (slot, received, received,
                                           expected[received]))
                received += 1

    def test_ring_and_wait(self):
        self.start_server('-n', '3')
        with self.python_peer() as peer:
            # nobody rings, but the server may still be telling of them
            self.lab.wait(lambda: peer.update() or len(peer.vectors) == 3,
                          'three vectors', tick=0.01)
            self.assertEqual(peer.wait(0), set())
            host = self.start_host_peer('ring', str(peer.id), '2')
            self.assertEqual(peer.wait(DEADLINE), {2})
            self.wait_for_end(host)
            self.assertEqual(host.status, 0)

            host = self.start_host_peer('wait', '1')
            def rung():
                peer.wait(0)        # hear of it; it gets the next free id
                return host.ended or peer.ring(2, 1)
            self.lab.wait(rung, 'the peer to be there', tick=0.01)
            self.lab.wait_for_line(host, 'vector 1')
            self.wait_for_end(host)
            self.assertEqual(host.status, 0)
            self.assertFalse(peer.ring(1, 0))
            self.assertFalse(peer.ring(0, 3))
            self.assertFalse(peer.ring(0, -1))

            peer.ring(peer.id, 0)
            peer.ring(peer.id, 2)
            self.assertEqual(peer.wait(DEADLINE), {0, 2})
            self.assertEqual(peer.wait(0), set())

    def test_nobody_to_ring(self):
        self.start_server()
        host = self.start_host_peer('ring', 'all')
        self.wait_for_end(host)
        self.assertEqual(host.status, 1)
        self.assertEqual(host.lines, ['ivshmem-peer: there is no peer with a '
                                      'vector 0'])
        host = self.start_host_peer('ring', '7')
        self.wait_for_end(host)
        self.assertEqual(host.status, 1)
        self.assertEqual(host.lines, ['ivshmem-peer: there is no peer 7 with '
                                      'a vector 0'])

    def test_wrong_words_are_refused(self):
        self.start_server()
        for word in ('peers=0', 'peers=8', 'vectors=0', 'vectors=65', 'crc=2',
                     'peer=1'):
            with self.subTest(word):
                host = self.start_host_peer('exchange', word)
                self.wait_for_end(host)
                self.assertEqual(host.status, 2)
                self.assertEqual(host.lines, [
                    f"ivshmem-peer: exchange: '{word}', expected messages=N, "
                    'peers=1 to 7, vectors=1 to 64 or crc=0 to 1'])

    def test_all_see_the_same_memory(self):
        self.start_server('-l', '64K')
        with self.python_peer() as one, self.python_peer() as other:
            self.assertEqual(len(one.memory), 65536)
            one.memory[65535] = 42
            self.assertEqual(other.memory[65535], 42)

    def test_python_keeps_a_full_counter(self):
        """One who does not read its doorbell blocks nobody."""
        self.start_server()
        with self.python_peer() as one, self.python_peer() as other:
            one.ring(other.id)
            os.eventfd_write(one.peers[other.id][0], 2 ** 64 - 3)
            self.assertTrue(one.ring(other.id))
            self.assertTrue(one.ring(other.id))
            self.assertEqual(other.wait(DEADLINE), {0})

    def test_python_messages_among_themselves(self):
        self.start_server('-l', '64K')
        with self.python_peer() as one, self.python_peer() as other, \
                Messages(one, slots=2, crc=True) as a:
            b = Messages(other, slots=2, crc=True)
            for messages in (a, b, a, b):
                messages.poll()
            self.assertEqual(a.linked(), [b.slot])

            # damage is found, and the next message comes
            for payload in (b'first', b'second'):
                self.assertTrue(a.send(b.slot, 1, payload))
            place = one.memory.find(b'first')
            one.memory[place] ^= 1
            with self.assertRaises(BadCrc):
                b.receive(a.slot)
            self.assertEqual(b.receive(a.slot), (a.slot, 1, 1, b'second'))
            self.assertIsNone(b.receive(a.slot))

            # the last words of one who leaves are heard
            b.send(a.slot, 2, b'bye')
            b.close()
            self.assertEqual(one.wait(0), {0})
            self.assertEqual(a.poll(), [b.slot])
            self.assertEqual(a.state(b.slot), LEFT)
            self.assertEqual(a.receive(b.slot).payload, b'bye')

            # nonsense is not listened to
            with Messages(other, slots=2, crc=True) as b:
                for messages in (a, b, a, b):
                    messages.poll()
                head = b._ours(a.slot) + b._HEAD
                b._words[head] = 0x80000000
                with self.assertRaises(Broken):
                    a.receive(b.slot)
                with self.assertRaises(Broken):
                    a.receive(b.slot)

            # who takes our place is noticed
            with Messages(other, slots=2, slot=a.slot):
                with self.assertRaises(Evicted):
                    a.poll()

    def test_strangers_refuse_each_other(self):
        """Another choice of CRC, or the first version of the layout."""
        self.start_server()
        host = self.start_host_peer('exchange', 'crc=1')
        self.lab.wait_for_line(host, 'id 0, slot 0')
        with self.python_peer() as peer, Messages(peer) as messages:
            messages.poll()
            self.assertEqual(messages.state(0), FOREIGN)
            # nobody rings a stranger by itself
            peer.ring(0)
            self.lab.wait_for_line(host, 'slot 1: a peer with another version, '
                                   'choice of CRC, number of slots or size of '
                                   'shared memory')
            messages._words[messages._entry(0) + messages._LAYOUT] = \
                messages._layout & 0xffff
            messages.poll()
            self.assertEqual(messages.state(0), FOREIGN)

    def test_link_and_receive_wait(self):
        self.start_server('-l', '64K')
        with self.python_peer() as one, self.python_peer() as other, \
                Messages(one, slots=2) as a:
            with self.assertRaisesRegex(TimeoutError,
                                        '^nobody came in 0.01 s$'):
                a.link(timeout=0.01)
            self.assertIsNone(a.receive(timeout=0.01))

            def answer():
                with Messages(other, slots=2) as b:
                    message = b.receive(b.link(DEADLINE), DEADLINE)
                    b.send(message.slot, message.type, message.payload * 2)
                    b.ring()
            thread = threading.Thread(target=answer)
            thread.start()
            slot = a.link(DEADLINE)
            a.send(slot, 1, b'two')
            a.ring()
            self.assertEqual(a.receive(slot, DEADLINE).payload, b'twotwo')
            thread.join()
            with self.assertRaises(NoLink):     # long before the time is over
                a.receive(slot, DEADLINE)

    def test_python_sees_who_has_gone(self):
        self.start_server('-l', '64K')
        with self.python_peer() as one, Messages(one, slots=2) as a:
            other = self.python_peer()
            b = Messages(other, slots=2)
            thread = threading.Thread(target=b.link, args=(DEADLINE,))
            thread.start()
            slot = a.link(DEADLINE)
            thread.join()
            self.assertTrue(b.send(a.slot, 1, b'last words'))
            del b
            other.close()       # without goodbye
            self.lab.wait(lambda: a.poll() == [slot], 'a change', tick=0.01)
            self.assertEqual((a.state(slot), a.linked()), (LEFT, []))
            self.assertEqual(a.receive(slot).payload, b'last words')
            with self.assertRaises(NoLink):
                a.receive(slot, DEADLINE)
            self.assertIn(other.id, one.gone)

    def test_python_goes_on_with_who_has_gone_and_is_back(self):
        """A machine that connects again has another id, and its session."""
        self.start_server('-l', '64K')
        with self.python_peer() as one, Messages(one, slots=2) as a, \
                self.python_peer() as new:
            other = self.python_peer()
            b = Messages(other, slots=2)
            for messages in (a, b, a, b):
                messages.poll()
            a.send(b.slot, 1, b'first')
            self.assertEqual(b.receive(a.slot).payload, b'first')
            other.update()
            memory = b.peer = new
            other._socket.close()
            self.lab.wait(lambda: a.poll() == [b.slot], 'a change', tick=0.01)
            self.assertEqual(a.state(b.slot), LEFT)
            # what ivshmem_msg_move() does in C
            b._words[b._entry(b.slot) + b._DOORBELL] = new.id
            self.assertEqual(a.poll(), [b.slot])
            self.assertEqual(a.state(b.slot), LINKED)
            a.send(b.slot, 1, b'second')
            a.ring()
            self.assertEqual(memory.wait(DEADLINE), {0})
            # and its slot is not to be had
            self.assertEqual(b._words[b._side(a.slot, b.slot) + b._GONE], 0)

    def test_firmware_starts_again_and_again(self):
        """With one slot less than boots, and one test that stays."""
        self.start_server()
        with self.python_peer() as peer, Messages(peer) as messages:
            own = messages.slot
            for boot in range(messages.slots + 2):
                firmware = self.start_firmware()
                slot = messages.link(DEADLINE)
                self.assertEqual(messages.linked(), [slot])
                self.assertEqual(messages.id(slot), boot + 1)
                self.assertTrue(messages.receive(slot, DEADLINE))
                firmware.kill()
                self.wait_for_end(firmware)
                self.lab.wait(lambda: messages.poll() or
                              not messages.linked(), 'it to be gone', tick=0.01)
                self.assertEqual(messages.linked(), [])
            self.assertEqual(messages.slot, own)

    def test_another_number_of_slots(self):
        self.start_server()
        firmware = self.start_firmware()
        self.lab.wait_for_line(firmware, 'waiting for a peer')
        with self.python_peer() as peer:
            for slots in (2, 4, 16):
                before = bytes(peer.memory)
                with self.assertRaisesRegex(
                        Mismatch, f'^we have {slots} slots, and the peer with '
                        'id 0 has 8$'):
                    Messages(peer, slots=slots)
                self.assertEqual(peer.memory[:], before)

    def test_another_number_of_slots_comes_later(self):
        self.start_server()
        for boot, slots in enumerate((4, 16)):
            with self.python_peer() as peer, \
                    Messages(peer, slots=slots) as messages:
                firmware = self.start_firmware()
                with self.assertRaisesRegex(
                        Mismatch, f'^we have {slots} slots, and the peer with '
                        f'id {2 * boot + 1} has 8$'):
                    messages.link(DEADLINE)
                firmware.kill()
                self.wait_for_end(firmware)

    def test_another_layout(self):
        self.start_server()
        self.start_host_peer('exchange', 'crc=1')
        with self.python_peer() as peer, Messages(peer) as messages:
            with self.assertRaisesRegex(
                    Mismatch, r'^we have version 2, no CRC and rings of 2\^16 '
                    r'bytes, and the peer with id [01] has version 2, a CRC and '
                    r'rings of 2\^16 bytes$'):
                messages.link(DEADLINE)

    def test_wrong_numbers_of_slots(self):
        self.start_server()
        with self.python_peer() as peer:
            for kwargs, why in (({'slots': 1}, '1 slots, expected 2 to 31'),
                                ({'slots': 32}, '32 slots, expected 2 to 31'),
                                ({'slot': 8}, 'slot 8, expected 0 to 7')):
                with self.assertRaisesRegex(ValueError, f'^{why}$'):
                    Messages(peer, **kwargs)

    def test_ordered_words(self):
        """What an arm64 host would use, here."""
        def words_of(view):
            return OrderedWords(view)
        self.start_server()
        with unittest.mock.patch.object(ivshmem_flat.messages, 'words_of',
                                        words_of), \
                unittest.mock.patch.object(ivshmem_flat.icmsg, 'words_of',
                                           words_of):
            firmware = self.start_firmware('messages=100')
            self.assertEqual(Exchange(self.python_peer(), 100).run(),
                             (100, 100))
            self.assert_passed(firmware)
            peer = self.python_peer()
            regions = (0x200000, 0x1000), (0x201000, 0x1000)
            with ICMsg(peer, peer.id, *regions) as one, \
                    ICMsg(peer, peer.id, *reversed(regions)) as other:
                for side in (one, other, one):
                    side.poll()
                self.assertTrue(one.send(b'through OrderedWords'))
                self.assertEqual(other.receive(), b'through OrderedWords')

    def test_python_rings_a_moved_peer_under_its_new_id(self):
        self.start_server('-l', '64K')
        with self.python_peer() as one, self.python_peer() as other, \
                self.python_peer() as new, Messages(one, slots=2) as a, \
                Messages(other, slots=2) as b:
            for messages in (a, b, a, b):
                messages.poll()
                messages.ring()
            # what ivshmem_msg_move() does in C
            b._words[b._entry(b.slot) + b._DOORBELL] = new.id
            self.assertEqual(a.poll(), [])
            a.ring()
            self.assertEqual(new.wait(DEADLINE), {0})
            self.assertEqual(a.id(b.slot), other.id)
            self.assertTrue(a.send(b.slot, 1, b'still linked'))
            a.ring()
            self.assertEqual(new.wait(DEADLINE), {0})
            self.assertEqual(b.receive(a.slot).payload, b'still linked')

    def wait_for_state(self, messages, state):
        deadline = time.monotonic() + DEADLINE
        while state not in map(messages.state, range(messages.slots)):
            self.assertLess(time.monotonic(), deadline)
            messages.poll()
            messages.ring()
            messages.peer.wait(0.05)

    def test_server_ends(self):
        """Peers that know each other can go on."""
        self.start_server()
        with self.python_peer() as one, self.python_peer() as other:
            one.update()
            self.server.kill()
            self.assertTrue(one.ring(other.id))
            self.assertEqual(other.wait(DEADLINE), {0})
            deadline = time.monotonic() + DEADLINE
            while other.server and time.monotonic() < deadline:
                other.wait(0.01)
            self.assertFalse(other.server)


class FakeServer(unittest.TestCase):
    """What a bad server sends is an error, in C as in Python."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-test-')
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, 'socket')
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.settimeout(DEADLINE)

    def memory(self, size=4096):
        fd = os.memfd_create('shared')
        self.addCleanup(os.close, fd)
        os.truncate(fd, size)
        return fd

    @staticmethod
    def send(connection, message):
        """A number, or a pair of a number and a descriptor."""
        number, *fds = message if isinstance(message, tuple) else (message,)
        socket.send_fds(connection, [struct.pack('<q', number)], fds)

    def serve(self, messages, close=True):
        connection, _ = self.listener.accept()
        self.addCleanup(connection.close)
        for message in messages:
            self.send(connection, message)
        if close:
            connection.close()
        return connection

    def assert_refused(self, messages, error):
        with self.subTest(error), Lab(DEADLINE) as lab:
            host = lab.start('host', [HOST_PEER, self.path, 'wait'])
            self.serve(messages)
            lab.wait(lambda: host.ended, 'host to end')
            self.assertEqual(host.status, 2)
            self.assertEqual(host.lines, [f'ivshmem-peer: {error}'])

    def test_bad_greetings_in_c(self):
        self.assert_refused([], 'the server closed the connection instead of '
                                'sending its version')
        self.assert_refused([1], 'the server sent protocol version 1, '
                                 'expected 0')
        self.assert_refused([0, 65536], 'the server sent id 65536, expected '
                                        '0 to 65535')
        self.assert_refused([0, 5, -1], 'the server sent message -1 without '
                                        'descriptor, expected -1 with one')
        self.assert_refused([0, 5, (-1, self.memory(0))],
                            "the server's shared memory has no size")

    def test_bad_greetings_in_python(self):
        for messages, error in (
                ([], 'closed the connection instead of sending its version'),
                ([1], 'sent 1 without a descriptor, expected its version, 0'),
                ([0, -1], 'sent -1 without a descriptor, expected our id'),
                ([0, 5, 3], 'sent 3 without a descriptor, expected the shared '
                            'memory'),
                ([0, 5, (-1, self.memory(0))], 'cannot be mapped')):
            with self.subTest(error):
                before = len(os.listdir('/proc/self/fd'))
                with self.assertRaisesRegex(ServerError, error):
                    self.connect_python(messages)
                self.assertEqual(len(os.listdir('/proc/self/fd')), before)

    def own_vectors(self):
        """A server's messages for us, id 5; and our vectors, as it has them."""
        fds = [os.eventfd(0) for _ in range(3)]
        for fd in fds:
            self.addCleanup(os.close, fd)
        return [0, 5, (-1, self.memory(8192)), *((5, fd) for fd in fds)], fds

    def serve_slowly(self, messages, pauses):
        """The same as serve(), with a pause before each message, in seconds."""
        self.slowest, self.said_all = 0, False
        connection, _ = self.listener.accept()
        with connection:
            for message, pause in zip(messages, pauses):
                before = time.monotonic()
                if pause:
                    time.sleep(pause)
                try:
                    self.send(connection, message)
                except ConnectionError:
                    break
                self.slowest = max(self.slowest, time.monotonic() - before)
            else:
                self.said_all = True
            # until the other end closes it, too
            connection.settimeout(DEADLINE)
            with contextlib.suppress(ConnectionError):
                connection.recv(1)

    def with_slow_server(self, messages, pauses, connect, *args):
        server = threading.Thread(target=self.serve_slowly,
                                  args=(messages, pauses))
        server.start()
        try:
            return connect(*args)
        finally:
            server.join()

    def has_all_vectors(self, connect):
        """The server loses its CPU for a moment between our vectors."""
        for _ in range(20):
            messages, fds = self.own_vectors()
            found = self.with_slow_server(messages, [0, 0, 0, 0, .002, .002],
                                          connect, fds)
            if self.slowest < Peer.BRIEF / 2:
                self.assertTrue(found)
                return
        self.skipTest('this machine is too busy: no server was ever slow for '
                      'a moment only')

    def test_slow_server(self):
        def connect(_):
            with Peer(self.path) as peer:
                return len(peer.vectors) == 3
        self.has_all_vectors(connect)

    def test_slow_server_in_c(self):
        def connect(fds):
            with Lab(DEADLINE) as lab:
                host = lab.start('host', [HOST_PEER, self.path, 'ring', '5',
                                          '2'])
                lab.wait(lambda: host.ended, 'host to end')
            return host.status == 0 and os.eventfd_read(fds[2]) == 1
        self.has_all_vectors(connect)

    def never_stops(self, connect, pause=0):
        """Somebody comes and goes all the time."""
        messages, fds = self.own_vectors()
        until = time.monotonic() + DEADLINE

        def going_on():
            while time.monotonic() < until:
                yield (6, fds[0])
                yield 6
        self.with_slow_server(itertools.chain(messages, going_on()),
                              itertools.repeat(pause), connect)
        self.assertFalse(self.said_all)

    def test_server_that_never_stops(self):
        self.never_stops(lambda: Peer(self.path, timeout=2).close())

    def test_server_that_never_stops_in_c(self):
        def connect():
            with Lab(DEADLINE) as lab:
                host = lab.start('host', [HOST_PEER, self.path, 'ring', '5'])
                lab.wait(lambda: host.ended, 'host to end')
            self.assertEqual(host.status, 0)
        self.never_stops(connect, pause=.001)

    def test_silent_server(self):
        with self.assertRaisesRegex(ServerError, 'did not send our id'):
            self.connect_python([0], close=False, timeout=3)

    def test_nobody_listens(self):
        """The error names the socket, whether it is there or not."""
        for path in (f'{self.path}-else', self.path):
            with self.assertRaises(OSError) as caught:
                Peer(path)
            self.assertIn(repr(path), str(caught.exception))
            self.listener.close()

    def test_server_without_vectors(self):
        with self.connect_python([0, 5, (-1, self.memory(8192))],
                                 close=False) as peer:
            self.assertEqual((peer.id, len(peer.memory), peer.peers),
                             (5, 8192, {}))
            self.assertEqual(peer.wait(0), set())

    def connect_python(self, messages, close=True, timeout=10):
        server = threading.Thread(target=self.serve, args=(messages, close))
        server.start()
        try:
            return Peer(self.path, timeout)
        finally:
            server.join()


class Talk(PeerTest):
    """Two sides of a protocol, of which the firmware may be one."""

    def setUp(self):
        super().setUp()
        self.start_server()

    def start_firmware(self, words=''):
        return self.lab.start('firmware', cortex_m(
            BIN / 'qemu-system-arm', self.lab.socket_path, self.FIRMWARE,
            words=words))

    def assert_wrong_words(self, command, words, message):
        with self.subTest(words):
            host = self.start_host_peer(command, *words)
            self.wait_for_end(host)
            self.assertEqual((host.status, host.lines),
                             (2, [f'ivshmem-peer: {command}: {message}']))

    def assert_refused_by_firmware(self, words):
        machine = self.start_firmware(words)
        self.wait_for_end(machine)
        self.assertEqual((machine.status, machine.lines), (
            2, [f'such memory cannot be used: {self.FIRMWARE} {words}']))


class WithICMsg(Talk):
    FIRMWARE = GUEST / 'icmsg-mps2.elf'
    # where a peer writes and reads, unless told otherwise, and we the reverse
    THEIRS, OURS = (0, 0x1000), (0x1000, 0x1000)
    SWAPPED = ('tx=0x1000', 'rx=0')

    def python_side(self, peer, peer_id, **kwargs):
        side = ICMsg(peer, peer_id, tx=self.OURS, rx=self.THEIRS, **kwargs)
        self.addCleanup(side.close)
        return side

    def send_all(self, icmsg, messages=300):
        """Send messages; each is to come back before the next one."""
        for n in range(messages):
            message = random.randbytes(random.randint(1, 1024))
            self.assertTrue(icmsg.send(message), n)
            self.assertEqual(icmsg.receive(timeout=DEADLINE), message)

    def send_back(self, icmsg, messages):
        for _ in range(messages):
            message = icmsg.receive(timeout=DEADLINE)
            self.assertTrue(message)
            self.assertTrue(icmsg.send(message))

    def test_python_comes_first(self):
        for words, kwargs in (('', {}), (' sessions=1', {'sessions': True}),
                              (' align=32', {'alignment': 32})):
            with self.subTest(words):
                peer = self.python_peer()
                peer.memory[:0x2000] = bytes(0x2000)
                icmsg = self.python_side(peer, peer.id + 1, **kwargs)
                machine = self.start_firmware(f'peer={peer.id}{words}')
                icmsg.bind(timeout=DEADLINE)
                self.assertEqual(peer.id + 1, max(peer.peers))
                self.send_all(icmsg)
                machine.kill()
                self.wait_for_end(machine)

    def test_c_peer_finds_the_firmware(self):
        """And it finds us, if it is told nobody and has peer registers."""
        for firmware_first in (True, False):
            with self.subTest(firmware_first=firmware_first):
                def start_firmware():
                    return self.lab.start('firmware', cortex_m(
                        BIN / 'qemu-system-arm', self.lab.socket_path,
                        self.FIRMWARE, words='sessions=1') +
                        ['-global', 'ivshmem-flat.peer-registers=on'])
                machine = start_firmware() if firmware_first else None
                if machine:
                    self.lab.wait_for_line(machine, 'is there for all')
                host = self.start_host_peer('icmsg', 'all', 'messages=100',
                                            'sessions=1', *self.SWAPPED)
                self.lab.wait_for_line(host, 'is there for all')
                machine = machine or start_firmware()
                self.assert_passed(host)
                machine.kill()
                self.wait_for_end(machine)

    def test_firmware_comes_first(self):
        machine = self.start_firmware('peer=1')
        self.lab.wait_for_line(machine, 'id 0 is there for peer 1')
        icmsg = self.python_side(self.python_peer(), 0)
        icmsg.bind(timeout=DEADLINE)
        self.send_all(icmsg)

    def test_firmware_sends(self):
        peer = self.python_peer()
        icmsg = self.python_side(peer, 1)
        machine = self.start_firmware('messages=1000')
        icmsg.bind(timeout=DEADLINE)
        self.send_back(icmsg, 1000)
        self.assert_passed(machine)
        self.assertIn('1000 messages came back, 0 wrong', machine.lines)

    def test_firmware_comes_back(self):
        """Under another id, each time."""
        icmsg = self.python_side(self.python_peer(), None, sessions=True)
        for _ in range(3):
            machine = self.start_firmware('messages=50 sessions=1')
            icmsg.bind(timeout=DEADLINE)
            self.send_back(icmsg, 50)
            self.assert_passed(machine)
            with self.assertRaises(NotBound):
                icmsg.receive(timeout=DEADLINE)
            icmsg.open()

    def test_firmware_is_killed_and_comes_back(self):
        """It says nothing; its new life does."""
        icmsg = self.python_side(self.python_peer(), None, sessions=True)
        for life in range(3):
            machine = self.start_firmware('sessions=1')
            if life:
                with self.assertRaises(NotBound):
                    # the last one's answer may have come, and then nothing
                    while icmsg.receive(timeout=DEADLINE):
                        continue
                icmsg.open()
            icmsg.bind(timeout=DEADLINE)
            self.send_all(icmsg, 50)
            self.assertTrue(icmsg.send(b'to be answered, perhaps'))
            machine.kill()
            self.wait_for_end(machine)

    def test_python_comes_back(self):
        peer = self.python_peer()
        machine = self.start_firmware('sessions=1')
        for _ in range(3):
            icmsg = self.python_side(peer, 1, sessions=True)
            icmsg.bind(timeout=DEADLINE)
            self.send_all(icmsg, 50)
            icmsg.close()
        self.lab.wait(lambda: machine.lines.count('the peer has left') == 3,
                      'the firmware to see it leave')

    def test_c_peer_sends(self):
        host = self.start_host_peer('icmsg', '1', *self.SWAPPED,
                                    'messages=1000')
        self.lab.wait_for_line(host, 'id 0 is there for peer 1')
        machine = self.start_firmware()
        self.assert_passed(host)
        self.assertIn('1000 messages came back, 0 wrong', host.lines)
        self.assertIn('the peer is there', machine.lines)

    def test_c_peer_sends_back(self):
        host = self.start_host_peer('icmsg', '1', *self.SWAPPED, 'sessions=1')
        self.lab.wait_for_line(host, 'id 0 is there for peer 1')
        self.assert_passed(self.start_firmware('messages=1000 sessions=1'))
        self.lab.wait_for_line(host, 'the peer has left')

    def test_c_and_python(self):
        host = self.start_host_peer('icmsg', '1', 'messages=1000',
                                    'sessions=1', 'align=64', 'size=512')
        self.lab.wait_for_line(host, 'id 0 is there for peer 1')
        icmsg = ICMsg(self.python_peer(), 0, tx=(0x1000, 512), rx=(0, 512),
                      sessions=True, alignment=64)
        self.addCleanup(icmsg.close)
        icmsg.bind(timeout=DEADLINE)
        self.send_back(icmsg, 1000)
        self.assert_passed(host)

    def test_wrong_words(self):
        for words, message in (
                ([], 'expected a peer'),
                (['65536'], 'expected a peer'),
                (['1', 'messages=x'], "'messages=x', expected messages=N, "
                 'tx=OFFSET, rx=OFFSET, size=N, align=N or sessions=0 or 1'),
                (['1', 'tx=0x3ff004'], 'tx=0x3ff004, rx=0x1000, size=0x1000, '
                 'align=0 cannot be used in shared memory of 4194304 bytes'),
                (['1', 'size=16'], 'tx=0, rx=0x1000, size=0x10, align=0 '
                 'cannot be used in shared memory of 4194304 bytes')):
            self.assert_wrong_words('icmsg', words, message)
        self.assert_refused_by_firmware('align=3')

    def test_nonsense(self):
        peer = self.python_peer()
        self.python_side(peer, 1)
        machine = self.start_firmware()
        self.lab.wait_for_line(machine, 'the peer is there')
        struct.pack_into('<I', peer.memory, 0x1004, 3)
        peer.ring(1)
        self.wait_for_end(machine)
        self.assertEqual(machine.status, 1)
        self.assertIn('the peer wrote nonsense', machine.lines)
        self.assertEqual(machine.lines[-1], 'FAILED')


class WithRPMsg(Talk):
    """Host and remote: one is the firmware, the other one a Linux program."""
    FIRMWARE = GUEST / 'rpmsg-mps2.elf'
    ADDRESS = 'address=0x70000000'      # where the firmware has the memory

    def start_host_first(self, *words):
        host = self.start_host_peer('rpmsg', '1', *words, self.ADDRESS)
        self.lab.wait_for_line(host, 'id 0 is there for peer 1')
        return host

    def assert_all_came_back(self, sender, other):
        self.assert_passed(sender)
        self.assertIn('1000 messages came back, 0 wrong', sender.lines)
        self.assertIn('the peer is there', other.lines)
        self.lab.wait_for_line(other, 'the peer has left')

    def test_remote_sends(self):
        machine = self.start_firmware('peer=1 host=1')
        self.lab.wait_for_line(machine, 'id 0 is there for peer 1')
        remote = self.start_host_peer('rpmsg', '0', 'remote', 'messages=1000',
                                      self.ADDRESS)
        self.assert_all_came_back(remote, machine)

    def test_host_sends(self):
        remote = self.start_host_first('remote')
        self.assert_all_came_back(
            self.start_firmware('host=1 messages=1000'), remote)

    def test_firmware_is_the_remote(self):
        host = self.start_host_first('host', 'messages=1000')
        self.assert_all_came_back(host, self.start_firmware())

    def test_firmware_is_the_remote_and_sends(self):
        host = self.start_host_first('host')
        self.assert_all_came_back(self.start_firmware('messages=1000'), host)

    def test_somewhere_else(self):
        where = {'at': 0x10000, 'size': 0x4000, 'buffer': 256, 'align': 64}
        words = [f'{name}={value}' for name, value in where.items()]
        host = self.start_host_first('host', 'messages=1000', *words)
        self.assert_all_came_back(host, self.start_firmware(' '.join(words)))

    def test_wrong_words(self):
        region = ('name=%s, at=%s, size=%s, buffer=512, align=4, address=0 '
                  'cannot be used in shared memory of 4194304 bytes')
        for words, message in (
                ([], 'expected a peer, and host or remote: what we are'),
                (['0', 'guest'],
                 'expected a peer, and host or remote: what we are'),
                (['0', 'host', 'x=1'], "'x=1', expected name=NAME, messages=N, "
                 'at=OFFSET, size=N, buffer=N, align=N or address=N'),
                (['0', 'host', 'name='], region % ('', '0', '0x8000')),
                (['0', 'host', 'at=0x400000'],
                 region % ('talk', '0x400000', '0x8000')),
                (['0', 'host', 'size=1000'], region % ('talk', '0', '0x3e8'))):
            self.assert_wrong_words('rpmsg', words, message)
        self.assert_refused_by_firmware('host=1 align=3')

    def test_nonsense(self):
        host = self.start_host_first('host')
        machine = self.start_firmware()
        self.lab.wait_for_line(machine, 'the peer is there')
        peer = self.python_peer()
        # vring 1's index of what the host has passed
        struct.pack_into('<H', peer.memory, 16388 + 16 * 16 + 2, 0xffff)
        peer.ring(1)
        self.wait_for_end(machine)
        self.assertEqual(machine.status, 1)
        self.assertIn('the peer wrote nonsense', machine.lines)
        self.assertEqual(machine.lines[-1], 'FAILED')
        self.assertNotIn('the peer wrote nonsense', host.lines)


if __name__ == '__main__':
    unittest.main()
