#!/usr/bin/env python3
"""A big-endian guest: the registers are little-endian, the memory is bytes.

A Cortex-R52 whose data accesses are big-endian writes its own ID to the shared
memory and rings a peer on the host. Needs qemu-system-arm and ivshmem-server
in build/bin (or $BUILD/bin).
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import struct
import tempfile
import unittest

from lab_case import BIN, LabCase
from ivshmem_flat.peer import Peer

REGISTERS, MEMORY = 0xe7000000, 0x14000000      # free on mps3-an536
PEER, OWN_ID = 1, 2     # not 0, which is the same in each byte order

# Instructions are little-endian in memory, whatever data is.
PROGRAM = struct.pack(
    '<10I',
    0xf1010200,     # setend be
    0xe3a004e7,     # mov    r0, #REGISTERS
    0xe3a01305,     # mov    r1, #MEMORY
    0xe5902008,     # ldr    r2, [r0, #IVPOSITION]
    0xe6bf2f32,     # rev    r2, r2
    0xe5812000,     # str    r2, [r1]
    0xe3a03801,     # mov    r3, #PEER << 16
    0xe6bf3f33,     # rev    r3, r3
    0xe580300c,     # str    r3, [r0, #DOORBELL]
    0xeafffffe)     # b      .


class BigEndianGuest(LabCase):
    def test_registers_and_memory(self):
        program = self.enterContext(tempfile.NamedTemporaryFile(
            prefix='ivshmem-test-'))
        program.write(PROGRAM)
        program.flush()
        self.lab.start_server(self.lab.server_command(
            BIN, '-l', '1M', '-n', '1'))
        self.enterContext(Peer(self.lab.socket_path))
        peer = self.enterContext(Peer(self.lab.socket_path))
        self.assertEqual(peer.id, PEER)
        machine = self.lab.start('A', [
            BIN / 'qemu-system-arm', '-machine', 'mps3-an536',
            '-display', 'none',
            '-chardev', f'socket,id=ivshmem,path={self.lab.socket_path}',
            '-device', 'ivshmem-flat,chardev=ivshmem,'
            'x-irq-qompath=/machine/gic/unnamed-gpio-in[80],'
            f'x-bus-address-iomem={REGISTERS},x-bus-address-shmem={MEMORY}',
            '-device', f'loader,file={program.name},addr=0,force-raw=on'])
        rang = set()

        def heard():
            rang.update(peer.wait(0))
            return rang or machine.ended
        self.lab.wait(heard, 'the guest to ring', tick=0.01)
        self.assertEqual(rang, {0})
        self.assertEqual(peer.memory[:4], struct.pack('>I', OWN_ID))


if __name__ == '__main__':
    unittest.main()
