#!/usr/bin/env python3
"""tools/sniff: what peers say to each other is shown, and to Wireshark too.

Needs ivshmem-server in build/bin (or $BUILD/bin), and build/guest/ivshmem-peer.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, CleanCase, LabCase, load_program
from ivshmem_flat.messages import Messages

SNIFF = ROOT / 'tools/sniff'
HOST_PEER = ROOT / 'build/guest/ivshmem-peer'
DISSECTOR = ROOT / 'tools/ivshmem-msg.lua'
FIELDS = ('from_slot', 'to_slot', 'from_id', 'to_id', 'no_time', 'sequence',
          'type', 'length', 'payload')


sniff = load_program('tools/sniff')


class FakePeer:
    """What Messages needs of a Peer."""

    def __init__(self, memory, peer_id):
        self.memory = memory
        self.id = peer_id
        self.peers = self.gone = frozenset()

    def update(self):
        pass

    def ring(self, peer, vector=0):
        return True


def packets(file):
    """The packets of a pcap file."""
    data = Path(file).read_bytes()
    found, at = [], 24
    while at < len(data):
        length = struct.unpack_from('<I', data, at + 8)[0]
        found.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return data[:24], found


def tshark(test, file, *options):
    """What tshark prints of a file, with our dissector."""
    if not shutil.which('tshark'):
        test.skipTest('no tshark: `tools/deps see` installs it')
    # It runs no scripts for root; and others cannot read where we are.
    with tempfile.TemporaryDirectory(prefix='ivshmem-test-') as folder:
        copies = [shutil.copy(path, folder) for path in (file, DISSECTOR)]
        user = {}
        if os.geteuid() == 0:
            user = {'user': 65534, 'group': 65534, 'extra_groups': []}
            os.chmod(folder, 0o755)
            for path in copies:
                os.chmod(path, 0o644)
        run = subprocess.run(
            ['tshark', '-X', f'lua_script:{copies[1]}', '-r', copies[0],
             *options], cwd=folder, text=True, check=False, timeout=120,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, 'HOME': folder}, **user)
    test.assertEqual(run.returncode, 0, run.stderr)
    return run.stdout


def decoded(test, file):
    """What the dissector makes of each packet."""
    fields = [option for field in FIELDS
              for option in ('-e', f'ivshmem.{field}')]
    lines = tshark(test, file, '-T', 'fields', '-E', 'separator=|',
                   *fields).splitlines()
    # none is cut, and none is left to others
    test.assertEqual(tshark(test, file, '-Y',
                            '!ivshmem || ivshmem.cut || _ws.malformed'), '')
    return [line.split('|') for line in lines]


class Dump(CleanCase):
    """What can be seen in a copy of the memory."""
    SIZE = 2 * 64 + 4 * 64 + 2 * 1024

    def setUp(self):
        self.folder = Path(self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-test-')))

    def link(self, crc=False, slots=2):
        self.memory = bytearray(self.SIZE)
        peers = [Messages(FakePeer(self.memory, 5 + slot), slots=slots,
                          slot=slot, crc=crc) for slot in range(2)]
        for messages in peers * 2:
            messages.poll()
        self.assertEqual(peers[0].linked(), [1])
        return peers

    def seen(self):
        seen, said = [], []
        memory = sniff.Memory(bytes(self.memory))
        sniffer = sniff.Sniffer(memory, seen.append, said.append)
        sniffer.look_at_dump()
        return seen, [line for line in said if 'is there' not in line]

    def payloads(self):
        seen, said = self.seen()
        self.assertEqual(said, [])
        return [(each.writer, each.reader, each.message.payload)
                for each in seen]

    def test_each_message_that_is_left(self):
        """However many have gone before, taken or not."""
        for crc in (False, True):
            one, other = self.link(crc)
            lengths = random.Random(3)
            sent = []
            for count in range(300):
                payload = lengths.randbytes(lengths.choice([0, 1, 16, 100]))
                while not one.send(1, 7, payload):
                    other.receive(0)
                sent.append((0, 1, payload))
                if lengths.random() < 0.4:
                    other.receive(0)
                shown = self.payloads()
                with self.subTest(crc=crc, count=count):
                    self.assertEqual(shown, sent[-len(shown):])
                    room = sum(16 + -(-len(payload) // 16) * 16
                               for _, _, payload in shown)
                    # of the oldest a part is left, of others all
                    self.assertTrue(len(shown) == len(sent) or
                                    room + 16 + 112 > 1024)

    def test_all_taken(self):
        one, other = self.link()
        for number in range(100):
            one.send(1, number, bytes([number]) * 20)
            other.receive(0)
        shown = self.payloads()
        self.assertEqual(shown, [(0, 1, bytes([number]) * 20) for number in
                                 range(100 - 1024 // 48, 100)])

    def test_text_and_pcap(self):
        one, other = self.link()
        one.send(1, 0xabc, b'twenty bytes of text')
        other.send(0, 2, b'')
        dump, pcap = self.folder / 'dump', self.folder / 'pcap'
        dump.write_bytes(self.memory)
        run = subprocess.run([SNIFF, dump], text=True, timeout=60, check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual([line.strip() for line in run.stdout.splitlines()], [
            'id 5 > id 6  #0  type 0xabc  20 B  '
            '74 77 65 6e 74 79 20 62 79 74 65 73 20 6f 66 20...',
            'id 6 > id 5  #0  type 0x2  0 B'])
        subprocess.run([SNIFF, dump, '--pcap', pcap], timeout=60, check=True,
                       stderr=subprocess.DEVNULL)
        header, found = packets(pcap)
        self.assertEqual(header, bytes.fromhex(
            'd4c3b2a1 0200 0400 00000000 00000000 ffffff7f 93000000'))
        self.assertEqual(found, [
            bytes.fromhex('00 01 0100 0500 0600 14000000 00000000 bc0a0000 '
                          '00000000') + b'twenty bytes of text',
            bytes.fromhex('01 00 0100 0600 0500 00000000 00000000 02000000 '
                          '00000000')])
        self.assertEqual(decoded(self, pcap), [
            ['0', '1', '5', '6', '1', '0', '0x00000abc', '20',
             b'twenty bytes of text'.hex()],
            ['1', '0', '6', '5', '1', '0', '0x00000002', '0', '']])

    def test_nonsense_does_no_harm(self):
        one, other = self.link()
        random_ = random.Random(5)
        for _ in range(300):
            one.send(1, 1, b'x' * 40)
            if one.send(1, 1, b'y') is False:
                other.receive(0)
            before = bytes(self.memory)
            for _ in range(random_.randrange(1, 6)):
                at = random_.randrange(0, 6 * 64 + 64, 4)
                struct.pack_into('<I', self.memory, at, random_.choice(
                    [0, 16, 0xffffffff, random_.getrandbits(32),
                     random_.randrange(2048)]))
            seen, _ = self.seen()
            for each in seen:
                self.assertLessEqual(len(each.message.payload), 1024)
            self.memory[:] = before

    def test_what_is_no_dump(self):
        for data, why in ((b'', '0 bytes'), (bytes(5000), '5000 bytes')):
            dump = self.folder / 'dump'
            dump.write_bytes(data)
            run = subprocess.run([SNIFF, dump], text=True, timeout=60,
                                 check=False, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
            self.assertEqual((run.returncode, run.stdout), (1, ''))
            self.assertEqual(
                run.stderr, f'sniff: {dump}: {why}, expected a socket, or a '
                'dump of shared memory with a directory of version 2\n')

    def test_another_version_is_named(self):
        self.link()
        struct.pack_into('<I', self.memory, 64 + 4, 2 << 8 | 10)
        self.assertEqual(self.seen(), ([], [
            'slot 1: version 1 of the layout, word 0x20a: not followed']))


class Live(LabCase):
    needs = (BIN / 'ivshmem-server', HOST_PEER)

    def setUp(self):
        super().setUp()
        self.folder = Path(self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-test-')))

    def start_sniff(self, *options):
        program = self.lab.start('sniff', [SNIFF, self.lab.socket_path,
                                           *options])
        self.lab.wait_for_line(program, 'bytes of shared memory')
        return program

    def exchange(self, words):
        """Two peers, which are gone before what they said is overwritten."""
        peers = [self.lab.start(name, [HOST_PEER, self.lab.socket_path,
                                       'exchange', *words]) for name in 'AB']
        for peer in peers:
            self.wait_for_end(peer)
            self.assertEqual(peer.lines[-1], 'passed')

    def test_each_message_is_decoded(self):
        for words in (['messages=200'], ['messages=200', 'crc=1']):
            with self.subTest(words):
                server = self.lab.start_server(self.lab.server_command(
                    BIN, '-l', '32M'))
                pcap = self.folder / 'pcap'
                program = self.start_sniff('--pcap', pcap)
                self.exchange(words)
                os.kill(program.pid, signal.SIGINT)
                self.wait_for_end(program)
                self.assertEqual(program.status, 0)
                self.assertFalse([line for line in program.lines
                                  if 'missed' in line or 'cannot' in line])
                server.kill()
                self.wait_for_end(server)
                os.unlink(self.lab.socket_path)
                ways = {}
                for from_slot, to_slot, from_id, to_id, no_time, sequence, \
                        kind, length, payload in decoded(self, pcap):
                    way = ways.setdefault((from_slot, to_slot), [])
                    self.assertEqual((from_id, to_id, no_time),
                                     (from_slot, to_slot, '0'))
                    self.assertEqual(int(sequence), len(way))
                    self.assertEqual(len(payload), 2 * int(length))
                    way.append(kind)
                # and the report
                self.assertEqual(list(ways.values()), 2 * [
                    200 * ['0x00000001'] + ['0x00000002']])

    def test_it_ends_with_the_server(self):
        server = self.lab.start_server(self.lab.server_command(BIN))
        program = self.start_sniff()
        server.kill()
        self.wait_for_end(program)
        self.assertEqual(program.status, 0)

    def test_no_server(self):
        run = subprocess.run([SNIFF, self.folder / 'none'], text=True,
                             check=False, timeout=60, stderr=subprocess.PIPE)
        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, r'^sniff: \[Errno 2\] No such file.*\n$')


if __name__ == '__main__':
    unittest.main()
