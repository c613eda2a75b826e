#!/usr/bin/env python3
"""guest/hello on each of its boards, as `make hello` says that it is started.

Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin), and
gcc-arm-none-eabi.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import shlex
import struct
import subprocess
import tempfile
from pathlib import Path

from lab_case import BIN, ROOT, LabCase
from ivshmem_flat.peer import Peer

MAKEFILE = ROOT / 'guest/hello/Makefile'
# at least one board of each of these cores
CORES = ('Cortex-M0', 'Cortex-M3', 'Cortex-M4', 'Cortex-M7', 'Cortex-M33',
         'Cortex-M55', 'Cortex-R52')
FIRMWARE, PEER, QUESTION, ANSWER = range(4)     # words of struct hello


def boards():
    return re.findall(r'^memory_(\S+) :=', MAKEFILE.read_text(), re.M)


class Hello(LabCase):
    """A test for each board is added below."""

    def setUp(self):
        super().setUp()
        folder = self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-hello-'))
        self.out = Path(folder)

    def make(self, *words):
        return subprocess.run(
            ['make', '-s', '-C', MAKEFILE.parent, f'OUT={self.out}',
             f'EMULATOR={BIN}/qemu-system-arm', *words], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=self.deadline, check=False)

    def start(self, board):
        made = self.make(f'BOARD={board}', 'start')
        self.assertEqual((made.returncode, made.stderr), (0, ''))
        command = made.stdout.replace('\\\n', '').replace(
            '/tmp/ivshmem.sock', self.lab.socket_path)
        return self.lab.start(board, shlex.split(command))

    def wait_for(self, peer, machine, condition):
        def done():
            peer.wait(0)
            return condition() or machine.ended
        self.lab.wait(done, f'{machine.name} to answer', tick=0.01)
        if machine.ended:
            self.fail_with_output(f'{machine.name} has ended')

    def check(self, board):
        self.lab.start_server(self.lab.server_command(BIN, '-l', '4M',
                                                      '-n', '1'))
        machine = self.start(board)
        with Peer(self.lab.socket_path) as peer, \
                memoryview(peer.memory) as memory, memory.cast('I') as words:
            # first it tells its id, and waits for a peer
            self.wait_for(peer, machine, lambda: words[FIRMWARE])
            firmware = words[FIRMWARE] - 1
            self.assertEqual({firmware, peer.id}, {0, 1})
            self.assertEqual(words[ANSWER], 0)
            words[PEER] = peer.id + 1
            for question in (41, 1, 0x7fffffff):
                words[QUESTION] = question
                self.assertTrue(peer.ring(firmware))
                rung = peer.wait(timeout=self.deadline)
                self.assertEqual((rung, words[ANSWER]), ({0}, question + 1))

            # the peer that was there before it is rung at once
            machine.kill()
            self.wait_for_end(machine)
            words[QUESTION] = 6
            machine = self.start(board)
            self.assertEqual(peer.wait(timeout=self.deadline), {0})
            self.assertEqual((words[FIRMWARE], words[ANSWER]), (3, 7))

    def test_a_board_of_each_core(self):
        page = (ROOT / 'docs/system/devices/ivshmem-flat.rst').read_text()
        cores = {board: re.search(rf'^``{board}`` +(\S+)', page, re.M)[1]
                 for board in boards()}
        self.assertEqual(set(cores.values()), set(CORES))

    def test_another_board(self):
        for board in ('mps4', ''):
            made = self.make(f'BOARD={board}')
            self.assertEqual(made.returncode, 2)
            self.assertRegex(made.stderr, rf"^Makefile:\d+: \*\*\* BOARD="
                             f"'{board}', expected one of: .*microbit")
            self.assertEqual(len(made.stderr.splitlines()), 1)


for _board in boards():
    setattr(Hello, 'test_' + re.sub(r'\W', '_', _board),
            lambda self, board=_board: self.check(board))


if __name__ == '__main__':
    import unittest
    unittest.main()
