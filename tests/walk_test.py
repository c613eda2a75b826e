#!/usr/bin/env python3
"""A guest finds 65,535 peers by itself: in how much of its time, in how much
of QEMU's memory.

Each peer takes a file descriptor of QEMU, and there may be no limit for open
files that allows so many. tests/one-fd-shim.c makes all of them one. As many
peers as the limit allows, without it, has the qtest
/arm/ivshmem-flat/peer-registers/many-peers.

With -icount QEMU's time is what the guest has executed, whatever else the host
does.

Needs qemu-system-arm in build/bin (or $BUILD/bin), the firmware in build/guest
and a C compiler.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import fcntl
import mmap
import os
import re
import socket
import struct
import subprocess
import tempfile
import termios
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, LabCase
from ivshmem_flat.machines import cortex_m
from registers_test import accept, listen

FIRMWARE = ROOT / 'build/guest/walk-mps2.elf'
SIZE = 4 << 20          # of the shared memory
OWN_ID = 0
PEERS = range(1, 1 << 16)
ICOUNT = '-icount', 'shift=6'   # an instruction takes 64 ns
SECOND = 1_000_000      # in us
PER_PEER = 64           # bytes: the registers cost less


def setUpModule():
    global shim
    tools = tempfile.TemporaryDirectory(prefix='ivshmem-walk-')
    unittest.addModuleCleanup(tools.cleanup)
    shim = f'{tools.name}/shim.so'
    subprocess.run(['cc', '-O1', '-Wall', '-Wextra', '-Werror', '-shared',
                    '-fPIC', '-o', shim, ROOT / 'tests/one-fd-shim.c', '-ldl'],
                   check=True)


class Walk(LabCase):
    needs = (BIN / 'qemu-system-arm', FIRMWARE)

    def own(self, fd):
        self.addCleanup(os.close, fd)
        return fd

    def start(self, peer_registers):
        """A machine that has read of all peers; its doorbell, and memory."""
        folder = self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-walk-'))
        listener = listen(self, f'{folder}/socket')
        memory, doorbell, nobody = map(self.own, (
            os.memfd_create('ivshmem-walk'), os.eventfd(0), os.eventfd(0)))
        os.truncate(memory, SIZE)
        machine = self.lab.start(f'peer-registers={peer_registers}', [
            'env', f'LD_PRELOAD={shim}', *cortex_m(
                BIN / 'qemu-system-arm', f'{folder}/socket', FIRMWARE,
                on_board=False), *ICOUNT,
            '-global', f'ivshmem-flat.peer-registers={peer_registers}'])
        connection = accept(self, listener)

        def send(number, *fds):
            socket.send_fds(connection, [struct.pack('<q', number)], fds)
        send(0)
        send(OWN_ID)
        send(-1, memory)
        send(OWN_ID, doorbell)
        for peer in PEERS:
            send(peer, nobody)
        self.lab.wait(
            lambda: not any(fcntl.ioctl(connection, termios.TIOCOUTQ,
                                        bytes(4))),
            'QEMU to read of all peers', tick=0.01)
        return machine, doorbell, self.enterContext(mmap.mmap(memory, SIZE))

    def walk(self, peer_registers, said):
        """A machine that has said this after its doorbell, and its memory."""
        machine, doorbell, memory = self.start(peer_registers)
        os.eventfd_write(doorbell, 1)
        self.lab.wait_for_line(machine, said)
        return machine, memory

    def test_time(self):
        machine, memory = self.walk('on', ' us')
        self.assertEqual(memory[:len(PEERS) + 2],
                         b'\0' + b'\1' * len(PEERS) + b'\0')
        count, time = map(int, re.fullmatch(r'(\d+) peers in (\d+) us',
                                            machine.lines[-1]).groups())
        self.assertEqual(count, len(PEERS))
        self.assertLess(time, SECOND)

    def test_memory(self):
        on, off = (int(re.search(
            r'RssAnon:\s*(\d+) kB',
            Path(f'/proc/{machine.pid}/status').read_text())[1]) << 10
            for machine, _ in (self.walk('on', ' us'),
                               self.walk('off', 'no peer registers')))
        self.assertLess(on - off, PER_PEER * len(PEERS))


if __name__ == '__main__':
    unittest.main()
