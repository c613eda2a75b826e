#!/usr/bin/env python3
"""The platform bus of virt, and the device tree nodes of what is on it.

Needs the QEMUs and ivshmem-server in build/bin (or $BUILD/bin). The nodes are
validated against docs/specs/qemu,ivshmem-flat.yaml by Debian 12's dt-schema.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, ROOT
from machine import (DEADLINE, PLIC, SIZE, WINDOW, Controller, MachineTest,
                     gic, version)

BINDING = ROOT / 'docs/specs/qemu,ivshmem-flat.yaml'
GICD = 0x08000000
APLIC = 0x0c000000          # that of machine mode
# its pending registers; it shows what is active in them alone
APLIC_PENDING = Controller(APLIC + 0x1c00, 0, 1, None)
EDGE, LEVEL = 1, 4
# where each of these machines has nothing, and where those of 64 bits have
BEYOND, FAR = 0xc0000000, 0x1000000000
# machine options: program, where the platform bus is, its first interrupt, its
# lines, and how the interrupt controller has an interrupt specified
MACHINES = {
    'virt': ('arm', 0x0c000000, 112, 64,
             lambda number, trigger: [0, number, trigger]),
    'virt,gic-version=3': ('aarch64', 0x0c000000, 112, 64,
                           lambda number, trigger: [0, number, trigger]),
    'virt,aia=none': ('riscv32', 0x04000000, 64, 32,
                      lambda number, trigger: [number]),
    'virt,aia=aplic': ('riscv64', 0x04000000, 64, 32,
                       lambda number, trigger: [number, trigger]),
    'virt,aia=aplic-imsic': ('riscv64', 0x04000000, 64, 32,
                             lambda number, trigger: [number, trigger]),
}


def parse_tree(blob):
    """A flattened device tree: {path: {property: bytes}}"""
    _, _, structure, strings = struct.unpack_from('>4I', blob)
    tree, path, at = {}, [], structure
    while True:
        token, = struct.unpack_from('>I', blob, at)
        at += 4
        if token == 1:                              # a node begins
            end = blob.index(b'\0', at)
            path.append(blob[at:end].decode())
            tree['/'.join(path) or '/'] = {}
            at = end + 4 & ~3
        elif token == 2:                            # it ends
            path.pop()
        elif token == 3:                            # a property
            length, offset = struct.unpack_from('>2I', blob, at)
            at += 8
            name = blob[strings + offset:blob.index(b'\0', strings + offset)]
            tree['/'.join(path) or '/'][name.decode()] = \
                blob[at:at + length]
            at = at + length + 3 & ~3
        elif token == 9:
            return tree


def cells(data):
    return list(struct.unpack(f'>{len(data) // 4}I', data))


class VirtTest(MachineTest):

    def dump(self, machine, *devices, target=None, options=()):
        """Returns the file with a machine's device tree."""
        program = self.program(target or MACHINES[machine][0])
        file = Path(self.enterContext(tempfile.TemporaryDirectory(
            prefix='ivshmem-test-')), 'tree.dtb')
        run = subprocess.run(
            self.arguments(program, f'{machine},dumpdtb={file}', devices) +
            [*options], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=DEADLINE, check=False)
        self.assertEqual(run.returncode, 0, run.stdout)
        return file

    def nodes(self, machine, *devices, **kwargs):
        """The nodes of ivshmem-flat: {path: properties}"""
        return self.nodes_of(self.dump(machine, *devices, **kwargs))

    def nodes_of(self, file):
        return {path: node for path, node in
                parse_tree(file.read_bytes()).items()
                if b'qemu,ivshmem-flat' in node.get('compatible', b'')}

    def bus_of(self, file):
        """The node of the platform bus"""
        bus, = (node for path, node in parse_tree(file.read_bytes()).items()
                if path.startswith('/platform-bus') and path.count('/') == 1)
        return bus

    def refuse(self, error, machine, *devices):
        program = self.program(MACHINES[machine][0])
        run = subprocess.run(
            self.arguments(program, machine, devices), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
        self.assertEqual(run.returncode, 1)
        self.assertIn(error, run.stderr)


class Nodes(VirtTest):

    def test_trace_of_the_place(self):
        for machine, (_, base, *_) in MACHINES.items():
            with self.subTest(machine), tempfile.NamedTemporaryFile(
                    'r', prefix='ivshmem-test-', encoding='utf-8') as log:
                node, = self.nodes(machine, '', options=(
                    '-trace', 'ivshmem_flat_place', '-D', log.name)).values()
                registers, _, memory, size = cells(node['reg'])
                self.assertIn(
                    f': registers at {base + registers:#x}, shared memory at '
                    f'{base + memory:#x} of {size} bytes\n', log.read())

    def test_two_devices_with_four_vectors(self):
        """In all: 64 lines on arm, 32 on riscv."""
        for machine, (_, base, first, _, specify) in MACHINES.items():
            with self.subTest(machine):
                nodes = self.nodes(machine, ',vectors=4', ',vectors=4')
                self.assertEqual(len(nodes), 2)
                interrupts = []
                for path, node in nodes.items():
                    registers, window, memory, size = cells(node['reg'])
                    self.assertEqual(
                        path, f'/platform-bus@{base:x}/ivshmem@{registers:x}')
                    self.assertEqual((window, size), (WINDOW, SIZE))
                    self.assertEqual(memory % SIZE, 0)
                    self.assertEqual(node['compatible'],
                                     b'qemu,ivshmem-flat\0')
                    self.assertEqual(node['reg-names'], b'registers\0shmem\0')
                    self.assertEqual(cells(node['qemu,revision']), [1])
                    self.assertEqual(node['interrupt-names'],
                                     b'vector0\0vector1\0vector2\0vector3\0')
                    interrupts.append(cells(node['interrupts']))
                self.assertEqual(
                    sorted(interrupts),
                    [sum((specify(number, EDGE)
                          for number in range(start, start + 4)), [])
                     for start in (first, first + 4)])

    def test_gicv5(self):
        """It numbers the types of interrupts in its own way."""
        if version(self.program('aarch64')) < (11, 1):
            self.skipTest('this QEMU has no GICv5')
        node, = self.nodes('virt,gic-version=x-5', ',vectors=2',
                           target='aarch64', options=('-cpu', 'max')).values()
        self.assertEqual(cells(node['interrupts']),
                         [3, 112, EDGE, 3, 113, EDGE])

    def test_interrupt_parent(self):
        """Interrupts are specified for whom the bus names."""
        for machine, (*_, specify) in MACHINES.items():
            with self.subTest(machine):
                file = self.dump(machine, '')
                bus = self.bus_of(file)
                parent, = (node for node in
                           parse_tree(file.read_bytes()).values()
                           if node.get('phandle') == bus['interrupt-parent'])
                self.assertEqual(cells(parent['#interrupt-cells']),
                                 [len(specify(0, 0))])
                self.assertIn('interrupt-controller', parent)

    def test_revision_0_is_a_level(self):
        for machine, (_, _, first, _, specify) in MACHINES.items():
            with self.subTest(machine):
                node, = self.nodes(machine, ',revision=0').values()
                self.assertEqual(cells(node['interrupts']),
                                 specify(first, LEVEL))
                self.assertEqual(cells(node['qemu,revision']), [0])

    def test_peer_registers(self):
        """Two properties say so, if they are there."""
        names = {'qemu,peer-registers', 'qemu,changes-vector'}
        for machine in MACHINES:
            with self.subTest(machine):
                node, = self.nodes(machine, '').values()
                self.assertEqual(names & set(node), set())
                node, = self.nodes(machine, ',peer-registers=on').values()
                self.assertEqual(node['qemu,peer-registers'], b'')
                self.assertNotIn('qemu,changes-vector', node)
                node, = self.nodes(machine, ',peer-registers=on,vectors=2,'
                                   'changes-vector=1').values()
                self.assertEqual(node['qemu,peer-registers'], b'')
                self.assertEqual(cells(node['qemu,changes-vector']), [1])

    def test_one_address(self):
        """What the user places is outside of the bus's ranges, so the node is
        not below the bus."""
        for machine, (_, base, first, _, specify) in MACHINES.items():
            registers, memory = base + 0x2000000, base + 0x2400000
            for device, expected in (
                    (f',x-bus-address-shmem={memory:#x}', (base, memory)),
                    (f',x-bus-address-iomem={registers:#x}',
                     (registers, base)),
                    (f',x-bus-address-iomem={registers:#x},'
                     f'x-bus-address-shmem={memory:#x}',
                     (registers, memory))):
                with self.subTest(machine, device=device):
                    file = self.dump(machine, device)
                    (path, node), = self.nodes_of(file).items()
                    self.assertEqual(path, f'/ivshmem@{expected[0]:x}')
                    self.assertEqual(cells(node['reg']), [
                        0, expected[0], 0, WINDOW, 0, expected[1], 0, SIZE])
                    self.assertEqual(cells(node['interrupts']),
                                     specify(first, EDGE))
                    self.assertEqual(node['interrupt-parent'],
                                     self.bus_of(file)['interrupt-parent'])

    def test_beside_one_on_the_bus(self):
        """The one has its node at the root, the other below the bus."""
        for machine, (_, base, *_) in MACHINES.items():
            with self.subTest(machine):
                self.assertEqual(
                    sorted(self.nodes(
                        machine, '', f',x-bus-address-shmem={BEYOND:#x}')),
                    [f'/ivshmem@{base + WINDOW:x}',
                     f'/platform-bus@{base:x}/ivshmem@0'])

    def test_wired_elsewhere(self):
        """An interrupt that is not the bus's is not in the node."""
        node, = self.nodes('virt', ',vectors=2,x-irq-qompath='
                           '/machine/gic/unnamed-gpio-in[200]').values()
        self.assertEqual(node['interrupt-names'], b'vector1\0')
        self.assertEqual(cells(node['interrupts']), [0, 112, EDGE])
        node, = self.nodes('virt', ',x-irq-qompath='
                           '/machine/gic/unnamed-gpio-in[200]').values()
        self.assertEqual({'interrupts', 'interrupt-names'} & set(node), set())

    def test_more_vectors_than_lines(self):
        for machine, (*_, lines, _) in MACHINES.items():
            with self.subTest(machine):
                self.refuse('Platform Bus: Can not fit IRQ line', machine,
                            f',vectors={lines}', '')

    def test_schema(self):
        if not shutil.which('dt-validate'):
            self.skipTest('no dt-validate, as in Debian 13')
        folder = Path(self.enterContext(tempfile.TemporaryDirectory(
            prefix='ivshmem-test-')))
        # a schema has to stand where its $id says
        schema = folder / 'schemas/misc' / BINDING.name
        schema.parent.mkdir(parents=True)
        shutil.copy(BINDING, schema)

        def run(*argv):
            return subprocess.run(
                argv, cwd=folder, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=DEADLINE, check=False).stdout
        self.assertEqual(run('dt-doc-validate', schema), '')

        def validate(blob):
            file = folder / 'tree.dtb'
            file.write_bytes(blob)
            return run('dt-validate', '-l', 'qemu,ivshmem-flat',
                       '-s', schema.parent, file)
        for devices in ((',vectors=4', ''), (',revision=0',),
                        (f',x-bus-address-shmem={BEYOND:#x}',),
                        (',peer-registers=on,changes-vector=0',)):
            for machine in MACHINES:
                with self.subTest(machine, devices=devices):
                    blob = self.dump(machine, *devices).read_bytes()
                    self.assertEqual(validate(blob), '')
                    # it does see the nodes
                    bad = blob.replace(b'registers\0', b'register_\0')
                    self.assertIn('reg-names', validate(bad))


class TooBig:
    """More than the bus holds: a mixin"""

    def test_hint(self):
        """On the bus there is no room for it, and the error says what to do."""
        for machine in MACHINES:
            with self.subTest(machine):
                self.refuse('Platform Bus: Can not fit MMIO region of size '
                            f'{self.size:x}\nThe bus has 0x2000000 bytes in '
                            'all; x-bus-address-shmem=ADDRESS places', machine,
                            '')

    def test_address(self):
        """With an address for it, the registers are on the bus, and there is
        a node."""
        for machine, (target, base, *_) in MACHINES.items():
            address = FAR if target.endswith('64') else BEYOND
            with self.subTest(machine, address=hex(address)):
                device = f',x-bus-address-shmem={address:#x}'
                (path, node), = self.nodes(machine, device).items()
                self.assertEqual(path, f'/ivshmem@{base:x}')
                self.assertEqual(list(struct.unpack('>4Q', node['reg'])),
                                 [base, WINDOW, address, self.size])

    def test_memory(self):
        """It is there, from the first byte to the last, and so is a peer's
        doorbell."""
        machine = 'virt,gic-version=3'
        target, base, first, *_ = MACHINES[machine]
        self.start(self.program(target), machine,
                   f',revision=0,x-bus-address-shmem={FAR:#x}')
        self.check_device(base, FAR, 1, gic(GICD), [first])


class AsBigAsTheBus(TooBig, VirtTest):
    """There is no room for the registers."""
    size = 32 << 20


class Big(TooBig, VirtTest):
    size = 64 << 20


class Huge(TooBig, VirtTest):
    """The most that ivshmem-server has"""
    size = 1 << 30


class Interrupts(VirtTest):
    """Each vector reaches the interrupt that the node names."""

    def check(self, machine, controller, prepare=lambda number: None):
        target, base, first, *_ = MACHINES[machine]
        program = self.program(target)
        devices = [',vectors=4'] * 2
        places = [[base + place for place in cells(node['reg'])[::2]]
                  for node in self.nodes(machine, *devices).values()]
        numbers = [cells(node['interrupts'])
                   for node in self.nodes(machine, *devices).values()]
        self.start(program, machine, *devices)
        for number in range(first, first + 8):
            prepare(number)
        for (registers, memory), interrupts in zip(places, numbers):
            own_id = self.qtest.read(registers + 8)
            self.assertNotEqual(own_id, 0)
            width = len(interrupts) // 4
            self.check_device(
                registers, memory, own_id, controller,
                interrupts[1 if width == 3 else 0::width])

    def gic_edge(self, number):
        """As a kernel does that reads the node."""
        interrupt = number + 32
        register = GICD + 0xc00 + interrupt // 16 * 4
        self.qtest.write(register, self.qtest.read(register) |
                         2 << interrupt % 16 * 2)

    def aplic_edge(self, number):
        self.qtest.write(APLIC + 4 * number, 4)

    def test_gicv2(self):
        self.check('virt', gic(GICD), self.gic_edge)

    def test_gicv3(self):
        self.check('virt,gic-version=3', gic(GICD), self.gic_edge)

    def test_plic(self):
        self.check('virt,aia=none', PLIC)

    def test_aplic(self):
        self.check('virt,aia=aplic', APLIC_PENDING, self.aplic_edge)

    def test_aplic_imsic(self):
        self.check('virt,aia=aplic-imsic', APLIC_PENDING, self.aplic_edge)


if __name__ == '__main__':
    unittest.main()
