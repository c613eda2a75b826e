#!/usr/bin/env python3
"""The registers of ivshmem-flat, compared with those of the PCI device.

The same loads and stores go to BAR 0 of ivshmem-doorbell and to ivshmem-flat,
through QEMU's qtest protocol. What they read, and which of a peer's doorbells
they ring, must be the same; DIFFERENCES lists all exceptions.

Needs qemu-system-arm in build/bin (or $BUILD/bin), which has both devices.
The PCI device of Debian's qemu-system-aarch64 is compared too.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import collections
import os
import random
import select
import shutil
import socket
import struct
import tempfile
import unittest

from lab_case import BIN, LabCase
from ivshmem_flat.machines import MEMORY, NVIC_INPUT, REGISTERS

QEMU = BIN / 'qemu-system-arm'
DEADLINE = 60       # seconds for whatever QEMU has to do

INTRMASK, INTRSTATUS, IVPOSITION, DOORBELL = 0x00, 0x04, 0x08, 0x0c
OWN_ID, PEER = 1, 0
OWN_VECTORS = 2         # of the PCI device; ivshmem-flat has 1
PEER_VECTORS = 300      # more than a vector of 8 bits can name


class Server:
    """What an ivshmem server is to one device; with a peer whose doorbells
    this process holds."""

    def __init__(self, test, folder, own_vectors):
        self.path = os.path.join(folder, 'server')
        self.test = test
        self.listener = listen(test, self.path)
        self.memory = os.memfd_create('shared')
        self.own = [os.eventfd(0) for _ in range(own_vectors)]
        self.peer = [os.eventfd(0) for _ in range(PEER_VECTORS)]
        for fd in [self.memory, *self.own, *self.peer]:
            test.addCleanup(os.close, fd)
        os.truncate(self.memory, 1 << 20)
        self.poll = select.epoll()
        test.addCleanup(self.poll.close)
        for fd in self.peer:
            self.poll.register(fd, select.EPOLLIN)

    def greet(self):
        self.connection = accept(self.test, self.listener)
        self.send(0)
        self.send(OWN_ID)
        self.send(-1, self.memory)
        for fd in self.peer:
            self.send(PEER, fd)
        for fd in self.own:
            self.send(OWN_ID, fd)

    def send(self, number, *fds):
        socket.send_fds(self.connection, [struct.pack('<q', number)], fds)

    def take_rung(self):
        """The peer's vectors that were rung since the last call."""
        rung = set()
        for fd, _ in self.poll.poll(0, PEER_VECTORS):
            os.eventfd_read(fd)
            rung.add(self.peer.index(fd))
        return rung


class Qtest:
    """QEMU's qtest protocol: a line for each load and store."""
    SUFFIX = {1: 'b', 2: 'w', 4: 'l', 8: 'q'}

    def __init__(self, test, listener):
        self.test = test
        self.connection = accept(test, listener)
        self.answers = self.connection.makefile('r')
        test.addCleanup(self.answers.close)

    def command(self, text):
        self.connection.sendall(f'{text}\n'.encode())
        kind = 'IRQ'
        while kind == 'IRQ':
            line = self.answers.readline()
            kind, *words = line.split() or ['nothing']
        if kind != 'OK':
            self.test.fail_with_output(f'qtest: {text}: {line!r}')
        return words

    def read(self, address, size=4):
        return int(self.command(f'read{self.SUFFIX[size]} {address:#x}')[0], 0)

    def write(self, address, value, size=4):
        self.command(f'write{self.SUFFIX[size]} {address:#x} {value:#x}')


class Device:
    """A machine with a device, and the server that it is connected to."""

    def __init__(self, test, name, own_vectors, command):
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-test-')
        test.addCleanup(folder.cleanup)
        self.server = Server(test, folder.name, own_vectors)
        qtest = os.path.join(folder.name, 'qtest')
        listener = listen(test, qtest)
        # Without -accel qtest, which not every QEMU has: no CPU runs.
        test.lab.start(name, [
            *command, '-S', '-accel', 'tcg', '-display', 'none', '-nodefaults',
            '-qtest', f'unix:{qtest}', '-qtest-log', '/dev/null',
            '-chardev', f'socket,id=ivshmem,path={self.server.path}'])
        self.server.greet()
        self.qtest = Qtest(test, listener)
        self.registers = REGISTERS

    def run(self, case):
        """Do a case's accesses. Returns for each what was read, None for a
        store; and at the end, which vectors were rung."""
        for offset in (INTRMASK, INTRSTATUS):
            self.qtest.write(self.registers + offset, 0)
        answers = []
        for access in case:
            address = self.registers + access.offset
            if access.value is None:
                answers.append(self.qtest.read(address, access.size))
            else:
                self.qtest.write(address, access.value, access.size)
                answers.append(None)
        return [*answers, self.server.take_rung()]


class PciDevice(Device):
    """ivshmem-doorbell; this is its firmware, which places its BARs."""
    ECAM = 0x3f000000           # of virt with highmem=off
    MMIO = 0x10000000
    ID = 0x11101af4
    BAR0, COMMAND, COMMAND_MEMORY = 0x10, 0x04, 2

    def __init__(self, test, qemu):
        super().__init__(test, 'pci', OWN_VECTORS, [
            qemu, '-machine', 'virt,highmem=off', '-device',
            f'ivshmem-doorbell,chardev=ivshmem,vectors={OWN_VECTORS},'
            'addr=1.0'])
        config = self.ECAM + (1 << 15)
        assert self.qtest.read(config) == self.ID
        self.registers = self.MMIO
        self.qtest.write(config + self.BAR0, self.registers)
        self.qtest.write(config + self.COMMAND, self.COMMAND_MEMORY, 2)
        self.wait_for_vectors()

    def wait_for_vectors(self):
        """The device reads what the server says as it comes."""
        last = OWN_VECTORS - 1
        rung = select.epoll()
        rung.register(self.server.peer[last], select.EPOLLIN)
        for _ in range(DEADLINE * 100):
            self.qtest.write(self.registers + DOORBELL, PEER << 16 | last)
            if rung.poll(0.01):
                break
        rung.close()
        assert last in self.server.take_rung()


class FlatDevice(Device):

    def __init__(self, test, wired=True):
        wire = f'x-irq-qompath={NVIC_INPUT},' if wired else ''
        super().__init__(test, 'flat', 1, [
            QEMU, '-machine', 'mps2-an385', '-device',
            f'ivshmem-flat,chardev=ivshmem,{wire}'
            f'x-bus-address-iomem={REGISTERS:#x},'
            f'x-bus-address-shmem={MEMORY:#x}'])


class Access:
    """A load, or a store if there is a value."""

    def __init__(self, offset, size=4, value=None):
        self.offset = offset
        self.size = size
        self.value = value

    def __repr__(self):
        name = f'{self.size * 8} bits at {self.offset:#x}'
        return f'load {name}' if self.value is None else \
            f'store {self.value:#x}, {name}'

    def is_narrow(self):
        """Does it become accesses of less than 32 bits? An unaligned one
        does, on its way through the bus."""
        return self.size < 4 or self.offset % 4 != 0

    def registers(self):
        """The registers of which it loads or stores some bytes."""
        return range(self.offset & ~3, self.offset + self.size, 4)

    def vector(self):
        """The vector that it rings with PEER; None if it does not ring."""
        if self.value is None or self.is_narrow():
            return None
        value = self.value
        if self.size == 8 and self.offset == DOORBELL - 4:
            value >>= 32
        elif self.offset != DOORBELL:
            return None
        value &= 0xffffffff
        return value & 0xffff if value >> 16 == PEER else None


# The only differences: why there is one, and whether it may concern an access
# to ivshmem-flat with an interrupt wired, or with none. They are those of
# docs/system/devices/ivshmem-flat.rst, "Together with the PCI device", but for
# when a new peer can be rung, of which lost_doorbell_test.py is a test.
DIFFERENCES = {
    'a narrow access names its own bytes; the PCI device makes a full one '
    'of it, so that a lone byte rings peer 0':
        lambda access, wired: access.is_narrow(),
    'a vector has 16 bits, as specified; the PCI device looks at 8 of them, '
    'so that 256 rings vector 0':
        lambda access, wired: wired and (access.vector() or 0) > 255,
    'the first 64 vectors of a peer can be rung; with the PCI device, as many '
    'as it has itself':
        lambda access, wired: wired and
        access.vector() in range(OWN_VECTORS, 64),
    'with no interrupt wired, nobody is rung':
        lambda access, wired: not wired and access.vector() is not None,
    'with no interrupt wired, IVPOSITION is 0':
        lambda access, wired: not wired and access.value is None and
        IVPOSITION in access.registers(),
}


def excuses(case, wired):
    """For each thing that Device.run() returns, why it may differ: a register
    of which an access may differ may have another value from then on."""
    registers = collections.defaultdict(set)
    rung = set()
    answers = []
    for access in case:
        reasons = {reason for reason, concerns in DIFFERENCES.items()
                   if concerns(access, wired)}
        for register in access.registers():
            registers[register] |= reasons
        if access.value is not None and DOORBELL in access.registers():
            rung |= reasons
        answers.append(set().union(*(registers[register]
                                     for register in access.registers())))
    return [*answers, rung]


def cases():
    """Sequences of accesses; each begins with INTRMASK and INTRSTATUS 0."""
    offsets = [*range(0x20), *range(0xf0, 0x100)]
    fill = [Access(INTRMASK, value=0x89abcdef),
            Access(INTRSTATUS, value=0x01234567)]
    look = [Access(offset) for offset in
            (INTRMASK, INTRSTATUS, INTRSTATUS, IVPOSITION, DOORBELL)]
    for size in (1, 2, 4, 8):
        for offset in offsets:
            if offset + size <= 0x100:
                yield [*fill, Access(offset, size)]
                yield [*fill, Access(offset, size, 0), *look]
                yield [*fill, Access(offset, size,
                                     0xf1e2d3c4b5a69788 >> 64 - 8 * size),
                       *look]
    for vector in [*range(300), 511, 512, 0x7fff, 0x8000, 0xff00, 0xffff]:
        yield [Access(DOORBELL, value=PEER << 16 | vector)]
    for peer in (2, 3, 255, 256, 0x7fff, 0x8000, 0xffff):
        yield [Access(DOORBELL, value=peer << 16), *look]
    for value in (0, 1, PEER_VECTORS, 0xffffffff):
        yield [Access(IVPOSITION, 8, value << 32), *look]

    numbers = random.Random(4)
    for _ in range(300):
        accesses = []
        for _ in range(numbers.randrange(1, 8)):
            size = numbers.choice((1, 2, 4, 4, 4, 4, 8))
            offset = numbers.choice((0, 0, 4, 4, 8, 12, 12, 0x10, 0xf8))
            offset += numbers.choice((0, 0, 0, 0, 1, 2, 3)) if size < 4 else 0
            value = numbers.choice((
                None, None, numbers.getrandbits(8 * size), 0,
                numbers.randrange(OWN_VECTORS)))
            accesses.append(Access(offset, size, value))
        yield accesses + look


class Registers(LabCase):
    maxDiff = None
    deadline = DEADLINE
    needs = (QEMU,)

    def start(self, device, *args, **kwargs):
        try:
            return device(self, *args, **kwargs)
        except OSError as error:
            self.fail_with_output(f'QEMU is not there: {error}')

    def compare(self, pci, flat, wired):
        """Return the listed differences that there are."""
        seen = set()
        for case in cases():
            answers = zip(pci.run(case), flat.run(case), excuses(case, wired))
            for number, (expected, got, reasons) in enumerate(answers):
                if got == expected:
                    continue
                if not reasons:
                    self.assertEqual(
                        got, expected, f'{[*case, "who is rung"][number]} in '
                        f'{case}; ivshmem-flat is the first')
                if len(reasons) == 1:
                    seen |= reasons
        return seen

    def compare_with(self, qemu):
        pci = self.start(PciDevice, qemu)
        seen = self.compare(pci, self.start(FlatDevice), True) | \
            self.compare(pci, self.start(FlatDevice, wired=False), False)
        self.assertEqual(set(DIFFERENCES) - seen, set(), 'these differences '
                         'are listed, and there are none')

    def test_pci_device_of_the_same_qemu(self):
        self.compare_with(QEMU)

    def test_pci_device_of_debian(self):
        qemu = shutil.which('qemu-system-aarch64')
        if not qemu:
            self.skipTest('no qemu-system-aarch64')
        self.compare_with(qemu)


def listen(test, path):
    listener = socket.socket(socket.AF_UNIX)
    test.addCleanup(listener.close)
    listener.bind(path)
    listener.listen()
    listener.settimeout(DEADLINE)
    return listener


def accept(test, listener):
    connection, _ = listener.accept()
    test.addCleanup(connection.close)
    connection.settimeout(DEADLINE)
    return connection


if __name__ == '__main__':
    unittest.main()
