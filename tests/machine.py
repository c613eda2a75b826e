"""Machines whose registers and memory tests read and write.

MachineTest has an ivshmem server and starts machines with ivshmem-flat, whose
CPUs do not run: the tests speak QEMU's qtest protocol in their place.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import json
import os
import re
import struct
import subprocess
import tempfile
from collections import namedtuple

from lab_case import BIN, LabCase
from ivshmem_flat.peer import Peer
from registers_test import Qtest, accept, listen

DEADLINE = LabCase.deadline
SIZE = 4 << 20      # of the shared memory
WINDOW = 256        # bytes of registers
INTRMASK, IVPOSITION, DOORBELL = 0x00, 0x08, 0x0c

# Where an interrupt controller shows which interrupts are pending, a bit for
# each; which interrupt is that of input 0; which revision of the device it
# takes as it is after reset: a GIC samples levels until it is told otherwise;
# and where it is told so, two bits for each.
Controller = namedtuple('Controller', 'pending first revision triggers')
NVIC = Controller(0xe000e200, 0, 1, None)
PLIC = Controller(0x0c001000, 0, 1, None)


@functools.cache
def version(program):
    """Of which QEMU it is: (10, 2)"""
    said = subprocess.run([program, '--version'], text=True, check=True,
                          stdout=subprocess.PIPE, timeout=DEADLINE).stdout
    return tuple(map(int, re.search(r'version (\d+)\.(\d+)', said).groups()))


def gic(distributor):
    return Controller(distributor + 0x200, 32, 0, distributor + 0xc00)


class Monitor:
    """QEMU's monitor protocol."""

    def __init__(self, test, listener):
        self.test = test
        self.connection = accept(test, listener)
        self.answers = self.connection.makefile('r')
        test.addCleanup(self.answers.close)
        self.answers.readline()                 # the greeting
        self.execute('qmp_capabilities')

    def execute(self, command, **arguments):
        request = {'execute': command, 'arguments': arguments}
        self.connection.sendall(json.dumps(request).encode())
        for line in self.answers:
            answer = json.loads(line)
            if 'error' in answer:
                raise AssertionError(f'{command}: {answer["error"]["desc"]}')
            if 'return' in answer:
                return answer['return']
        self.test.fail_with_output(f'QEMU ended in {command}')

    def word(self, address):
        """What the first CPU reads there; Secure, where it has that state."""
        with tempfile.NamedTemporaryFile(prefix='ivshmem-test-') as file:
            self.execute('memsave', val=address, size=4, filename=file.name)
            return struct.unpack('<I', file.read())[0]


class MachineTest(LabCase):
    """Has a server, and is a peer itself: the one with id 0."""
    maxDiff = None
    needs = (BIN / 'ivshmem-server',)
    size = SIZE         # of the shared memory

    def setUp(self):
        super().setUp()
        self.lab.start_server(self.lab.server_command(
            BIN, '-l', str(self.size), '-n', '4'))
        self.peer = Peer(self.lab.socket_path)
        self.addCleanup(self.peer.close)

    def program(self, target):
        """The QEMU for this target, if this build has that."""
        if os.environ.get('FLAVOUR') == 'arm' and target.startswith('riscv'):
            self.skipTest(f'FLAVOUR=arm has no {target}')
        return BIN / f'qemu-system-{target}'

    def arguments(self, program, machine, devices):
        """The command line of a machine whose CPUs do not run."""
        arguments = [program, '-machine', machine, '-display', 'none',
                     '-nodefaults', '-S', '-accel', 'tcg']
        if ('riscv' in str(program) and
                machine not in ('opentitan', 'shakti_c')):  # have none
            arguments += ['-bios', 'none']      # it may not be installed
        if machine == 'microchip-icicle-kit':
            arguments += ['-kernel', __file__]  # from 11.1 on wants any
        for number, device in enumerate(devices):
            arguments += [
                '-chardev', f'socket,id=s{number},path={self.lab.socket_path}',
                '-device', f'ivshmem-flat,id=ivs{number},chardev=s{number}'
                f'{device}']
        return arguments

    def start(self, program, machine, *devices):
        """Start it; from then on there are self.qtest, self.monitor and
        self.machine, its Program."""
        folder = tempfile.mkdtemp(dir=os.path.dirname(self.lab.socket_path))
        qtest, qmp = (os.path.join(folder, name) for name in ('qtest', 'qmp'))
        listeners = listen(self, qtest), listen(self, qmp)
        self.machine = self.lab.start(machine, [
            *self.arguments(program, machine, devices),
            '-qtest', f'unix:{qtest}', '-qtest-log', '/dev/null',
            '-qmp', f'unix:{qmp}'])
        try:
            self.qtest = Qtest(self, listeners[0])
            self.monitor = Monitor(self, listeners[1])
        except OSError as error:
            self.fail_with_output(f'QEMU is not there: {error}')

    def wait_until(self, condition, what):
        self.lab.wait(condition, what, tick=0.01)

    def check_device(self, registers, memory, own_id, controller, inputs):
        """Check registers, shared memory at both ends, and that each vector
        of the device becomes pending at its input of the controller."""
        qtest, shared = self.qtest, self.peer.memory
        self.assertEqual(qtest.read(registers + IVPOSITION), own_id)
        qtest.write(registers + INTRMASK, 0x89abcdef)
        self.assertEqual(qtest.read(registers + INTRMASK), 0x89abcdef)
        qtest.write(registers + INTRMASK, 1)
        self.assertEqual(qtest.read(registers + WINDOW - 4), 0)
        for offset in (0, self.size - 4):
            shared[offset:offset + 4] = struct.pack('<I', own_id << 16 | 1)
            self.assertEqual(qtest.read(memory + offset), own_id << 16 | 1)
            qtest.write(memory + offset, 0xfee1900d)
            self.assertEqual(shared[offset:offset + 4],
                             struct.pack('<I', 0xfee1900d))
        for vector, number in enumerate(inputs):
            self.check_interrupt(
                controller, number, f'vector {vector}',
                lambda vector=vector: qtest.write(registers + DOORBELL,
                                                  own_id << 16 | vector))

    def check_interrupt(self, controller, number, what, ring):
        """Check that to ring makes this input of the controller pending."""
        number += controller.first
        address = controller.pending + number // 32 * 4

        def is_pending():
            return self.monitor.word(address) >> number % 32 & 1
        self.assertFalse(is_pending(), what)
        ring()
        self.wait_until(is_pending, f'{what} to be pending')

    def latch_edges(self, controller, inputs):
        """What firmware does that uses revision 1"""
        for number in inputs if controller.triggers else ():
            number += controller.first
            address = controller.triggers + number // 16 * 4
            self.qtest.write(address, self.qtest.read(address) |
                             2 << number % 16 * 2)
