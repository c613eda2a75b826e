#!/usr/bin/env python3
"""Every board of docs/system/devices/ivshmem-flat.rst, one by one.

The tables of the page's section "Boards" are what is tested: each board is
started with its line, with a server whose memory this process has mapped too.

Needs the QEMUs and ivshmem-server in build/bin (or $BUILD/bin).
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import json
import os
import re
import subprocess
import tempfile
import time
import unittest
from collections import namedtuple
from pathlib import Path

from lab_case import BIN, ROOT
from ivshmem_flat import machines as layout
from machine import (DEADLINE, DOORBELL, NVIC, PLIC, SIZE, WINDOW, MachineTest,
                     gic, version)

PAGE = ROOT / 'docs/system/devices/ivshmem-flat.rst'
CONTROLLERS = {
    'mps3-an536': gic(0xf0000000),
    'xilinx-zynq-a9': gic(0xf8f01000),
    'virt, arm': gic(0x08000000),
    'virt, aarch64': gic(0x08000000),
    'opentitan': PLIC._replace(pending=0x48001000),
}           # all others have a PLIC at its usual place, or an NVIC
# the QEMU since which there are machines that the oldest lacks
SINCE = {'max78000fthr': (10, 2), 'ast1040-evb': (11, 1),
         'ast1060-evb': (11, 1)}
# How many interrupt inputs the chip has: one more than the highest number that a
# header, a device tree or Zephyr's CONFIG_NUM_IRQS knows. A PLIC's 0 counts.
CHIPS = {
    'lm3s811evb': 30,           # LM3S811's hw_ints.h: 29 is the flash
    'lm3s6965evb': 43,          # Zephyr
    # CMSDK_CM3.h: 31 is a pin of GPIO 0
    'mps2-an385': 32, 'mps2-an386': 32, 'mps2-an500': 32,
    'mps2-an511': 64,           # nobody but QEMU
    'mps2-an505': 124, 'mps2-an521': 124,   # TF-M: 123 is a pin of GPIO 3
    'mps3-an524': 128,          # TF-M: 127 is HDLCD
    'mps3-an547': 128,          # Zephyr
    'musca-a': 96,              # Zephyr, of another Musca; TF-M knows 77 of them
    'musca-b1': 128,            # TF-M
    'microbit': 26,             # nRF51, Zephyr: 25 is SWI5
    'netduino2': 81,            # stm32f205xx.h: 80 is RNG
    'netduinoplus2': 82, 'olimex-stm32-h405': 82,   # stm32f405xx.h: 81 is FPU
    'stm32vldiscovery': 56,     # stm32f100xb.h: 55 is TIM7
    'b-l475e-iot01a': 82,       # stm32l475xx.h: 81 is FPU
    'emcraft-sf2': 82,          # Emcraft's Linux: 50 to 81 are pins of GPIO
    'max78000fthr': 104,        # max78000.h: 103 is LPCMP
    'ast1030-evb': 240, 'ast1060-evb': 240,         # Aspeed's Zephyr
    'ast1040-evb': 240,         # what a Cortex-M4 can have; QEMU has 256
    'mps3-an536': 96,           # SPIs; nobody but QEMU
    'xilinx-zynq-a9': 64,       # SPIs; nobody but QEMU
    'sifive_e': 53,             # Zephyr's FE310: 52 is I2C
    'sifive_u': 54,             # Linux's FU540: 53 is Ethernet
    'opentitan': 185,           # top_earlgrey.h, of the commit that QEMU names
    'shakti_c': 28,             # nobody but QEMU
    'microchip-icicle-kit': 187,        # Linux: riscv,ndev is 186
}
# Secure code alone may set the GIC's inputs to edges, and qtest's is not.
SECURE = {'xilinx-zynq-a9'}
RISCV32 = {'opentitan'}         # the other RISC-V boards are in RISCV64 as well

Board = namedtuple('Board', 'name target machine core registers memory '
                            'controller inputs')


def section(title):
    text = PAGE.read_text(encoding='utf-8')
    return re.search(rf'^{title}\n~+\n(.*?)(?=^[^\n]+\n~+$|\Z)', text,
                     re.S | re.M)[1]


def tables(title):
    """The simple tables of a section, each a list of rows of cells."""
    found = re.findall(r'^(=+(?: +=+)+)\n.*?\n\1\n(.*?)\n\1$', section(title),
                       re.S | re.M)
    for ruler, rows in found:
        columns = [match.span() for match in re.finditer('=+', ruler)]
        columns[-1] = (columns[-1][0], None)
        yield [[row[slice(*column)].strip() for column in columns]
               for row in rows.split('\n')]


def numbers(text):
    return [int(number, 0) for number in re.split(', | and ', text)]


def read_boards(title):
    table, = tables(title)
    for names, core, registers, memory, controller, inputs in table:
        name = names.replace('`', '')
        machine, _, target = name.partition(', ')
        target = target or ('arm' if core != 'RISC-V' else
                            'riscv32' if machine in RISCV32 else 'riscv64')
        yield Board(name, target, machine, core, int(registers, 16),
                    int(memory, 16), controller.strip('`'), numbers(inputs))


def boards():
    """Those that place the device"""
    return read_boards('Boards')


def unable():
    """The machines without PCI that cannot have the device, and why"""
    table, = tables('Machines that cannot have it')
    return [(name.strip('`'), why) for name, why in table]


class Boards(MachineTest):
    """A test for each row of the tables is added below."""

    def begin(self, board, *devices):
        program = self.program(board.target)
        if board.machine not in machines(program):
            self.assertLess(version(program), SINCE.get(board.machine, (0, 0)))
            self.skipTest('this QEMU has no such machine')
        self.assertEqual(board.registers % WINDOW, 0)
        self.assertEqual(board.memory % SIZE, 0)
        self.start(program, board.machine, *devices)
        return CONTROLLERS.get(board.name,
                               PLIC if board.core == 'RISC-V' else NVIC)

    def end(self):
        self.machine.kill()
        self.wait_for_end(self.machine)
        self.assertEqual([line for line in self.machine.lines
                          if 'ivshmem' in line], [])

    def check(self, board):
        """Nothing but a chardev: a doorbell each way. Then, all vectors."""
        self.assertEqual(len(set(board.inputs)), 4)
        self.assertLess(max(board.inputs), CHIPS[board.machine])
        controller = self.begin(board, '')
        secure = board.machine in SECURE
        if not secure:
            self.latch_edges(controller, board.inputs)
            self.check_interrupt(controller, board.inputs[0], 'vector 0',
                                 lambda: self.peer.ring(1))
        self.qtest.write(board.registers + DOORBELL, 0)
        self.assertEqual(self.peer.wait(timeout=DEADLINE), {0})
        self.end()

        self.begin(board, ',vectors=4')
        self.check_place('ivs0', board.registers, board.memory,
                         board.controller, board.inputs)
        if not secure:
            self.latch_edges(controller, board.inputs)
            self.check_device(board.registers, board.memory, 2, controller,
                              board.inputs)
        self.end()

        for vector, number in enumerate(board.inputs if secure else ()):
            # each input, as vector 0 of a device with a level
            self.begin(board, f',revision=0,x-irq-qompath={board.controller}'
                       f'/unnamed-gpio-in[{number}]')
            self.check_device(board.registers, board.memory, 3 + vector,
                              controller, [number])
            self.end()

    def check_place(self, device, registers, memory, controller, inputs):
        """What QEMU says of it"""
        def ask(name):
            return self.monitor.execute(
                'qom-get', path=f'/machine/peripheral/{device}', property=name)
        self.assertEqual((ask('x-bus-address-iomem'),
                          ask('x-bus-address-shmem')), (registers, memory))
        self.assertEqual(
            [ask(f'sysbus-irq[{vector}]') for vector in range(len(inputs))],
            [f'{controller}/unnamed-gpio-in[{number}]' for number in inputs])

    def check_virt(self, board):
        """The user places the device."""
        number, = board.inputs
        controller = CONTROLLERS.get(board.name, PLIC)
        self.begin(board, f',x-irq-qompath={board.controller}'
                   f'/unnamed-gpio-in[{number}],'
                   f'revision={controller.revision},'
                   f'x-bus-address-iomem={board.registers:#x},'
                   f'x-bus-address-shmem={board.memory:#x}')
        self.check_device(board.registers, board.memory, 1, controller,
                          board.inputs)
        self.end()

    def test_second_device(self):
        text = ' '.join(section('Boards').split())
        names, *places, inputs = re.search(
            r'([^.]*) have a place for a second device, at (0x\w+) and (0x\w+), '
            r'with the inputs ([^.]*)\.', text).groups()
        names = re.findall(r'``([\w-]+)``', names)
        first = {board.machine: board for board in boards()}
        self.assertEqual(names, [name for name in first
                                 if f'{name}-ivshmem' in machines(
                                     self.program('arm'))])
        for name in names:
            with self.subTest(name):
                board = first[name]
                self.begin(board, ',vectors=4', ',vectors=4')
                self.check_place('ivs0', board.registers, board.memory,
                                 board.controller, board.inputs)
                self.check_place('ivs1', *(int(place, 16) for place in places),
                                 board.controller, numbers(inputs))
                self.assertLess(max(numbers(inputs)), CHIPS[name])
                self.end()

    def test_device_on_board(self):
        """The page's other table, and what firmware, demo and Python know"""
        first = {board.machine: board for board in boards()}
        table, = tables('Boards with the device on board')
        known = set()
        for name, core, registers, memory, inputs in table:
            board = first[name.strip('`').removesuffix('-ivshmem')]
            self.assertEqual(
                (core, int(registers, 16), int(memory, 16), numbers(inputs)),
                (board.core, board.registers, board.memory, board.inputs))
            known.add((board.registers, board.memory, board.controller,
                       *board.inputs))
        self.assertEqual(len(table), 4)
        (registers, memory, controller, *inputs), = known
        self.assertEqual((layout.REGISTERS, layout.MEMORY, layout.NVIC_INPUT),
                         (registers, memory,
                          f'{controller}/unnamed-gpio-in[{inputs[0]}]'))
        header = (ROOT / 'guest/cortex-m/mps2/board.h').read_text()
        for name, value in (('REGISTERS', registers), ('MEMORY', memory)):
            self.assertIn(f'#define BOARD_IVSHMEM_{name} {value:#x}u\n', header)
        self.assertIn('#define BOARD_IVSHMEM_INPUTS { '
                      f'{", ".join(map(str, inputs))} }}\n', header)
        self.assertIn(f'INPUTS = {(*inputs,)}\n',
                      (ROOT / 'tools/demo').read_text())

    def firmware(self):
        """A directory with what machines want before all else, as far as
        Debian's source lacks it"""
        firmware = tempfile.TemporaryDirectory(prefix='ivshmem-test-')
        self.addCleanup(firmware.cleanup)
        for name in ('ast27x0_bootrom.bin', 'canon-a1100-rom1.bin',
                     'npcm7xx_bootrom.bin', 'npcm8xx_bootrom.bin',
                     'vgabios-bochs-display.bin', 'kernel'):
            Path(firmware.name, name).write_bytes(bytes(1024))
        return firmware.name

    def run_to_its_end(self, program, machine, devices, firmware, *options,
                       **kwargs):
        if machine.startswith('sx1'):
            options += ('-kernel', f'{firmware}/kernel')
        if machine in ('boston-aia', 'xiangshan-kunminghu'):
            options += ('-bios', f'{firmware}/kernel')
        return subprocess.run(
            [*self.arguments(program, machine, devices), '-audio', 'none',
             '-L', firmware, *options], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=DEADLINE, check=False, **kwargs)

    def all_machines(self):
        """Each machine, in one of the programs that have it"""
        targets = ['aarch64', 'arm']
        if os.environ.get('FLAVOUR') != 'arm':
            targets += ['riscv64', 'riscv32']
        found = {}
        for target in targets:
            program = BIN / f'qemu-system-{target}'
            for name in machines(program):
                found.setdefault(name, program)
        return found

    def test_none_is_forgotten(self):
        """Each machine without PCI is listed, as one that has it, or not."""
        listed = {board.machine for board in boards()} | {
            board.machine for board in read_boards('Another place')}
        those = [name for name, _ in unable()]
        self.assertEqual(len(set(those)), len(those))
        self.assertEqual(listed & set(those), set())
        listed |= {'none', *those}
        left = {name: program for name, program in self.all_machines().items()
                if name not in listed and
                not name.endswith('-ivshmem') and
                not re.fullmatch(r'virt-[\d.]+', name)}
        self.assertIn('sabrelite', left)
        firmware = self.firmware()
        for name, program in left.items():
            with self.subTest(name):
                run = self.run_to_its_end(
                    program, name, [], firmware, '-qmp', 'stdio',
                    input='{"execute": "qmp_capabilities"}'
                          '{"execute": "query-pci"}{"execute": "quit"}')
                self.assertRegex(run.stdout, r'"return": \[\{.*"bus"',
                                 run.stderr)

    def test_ram_in_the_way(self):
        machine = 'xilinx-zynq-a9'
        run = self.run_to_its_end(
            self.all_machines()[machine], machine, [''], self.firmware(),
            '-m', '2G', stdin=subprocess.DEVNULL)
        self.assertEqual(run.returncode, 1)
        self.assertIn('none of them is free: registers: 0x40000000-0x400000ff '
                      "is not free, 'zynq.ext_ram'", run.stderr)

    def test_those_that_cannot(self):
        programs = self.all_machines()
        firmware = self.firmware()
        tried = 0
        reasons = re.findall(r'^(\w.*)\n  ',
                             section('Machines that cannot have it'), re.M)
        self.assertEqual({why.lower() for why in reasons},
                         {why.lower() for _, why in unable()})
        for machine, _ in unable():
            if machine not in programs:
                continue
            tried += 1
            with self.subTest(machine):
                run = self.run_to_its_end(programs[machine], machine, [''],
                                          firmware, stdin=subprocess.DEVNULL)
                self.assertEqual(run.returncode, 1)
                self.assertIn('dynamic sysbus', run.stderr)
        self.assertGreater(tried, 30)


class WaitForEvent(MachineTest):
    """A core that waits with WFE, of which the page's section "Interrupt" says
    what wakes it"""

    RAM, HANDLER, CODE = 0x20000000, 0x100, 0x102
    PROGRAM = (0x4770,                              # handler: bx lr
               0x22e0, 0x0612, 0x23e1, 0x021b,      # r2 = 0xe000e100
               0x18d2, 0x2301, 0x065b, 0x6013,      # enable input 25 in it
               0x2120, 0x0609,                      # r1 = RAM
               0x6808, 0x3001, 0x6008, 0xbf20,      # loop: (*r1)++; wfe
               0xe7fa)                              # b loop

    def test_interrupt_ends_it(self):
        program = self.program('arm')
        self.start(program, 'mps2-an385', '')
        qtest = self.qtest
        for address, word in ((0, self.RAM + 0x1000), (4, self.CODE | 1),
                              (4 * (16 + 25), self.HANDLER | 1)):
            qtest.write(address, word)
        for i in range(0, len(self.PROGRAM), 2):
            low, high = self.PROGRAM[i:i + 2]
            qtest.write(self.HANDLER + 2 * i, high << 16 | low)
        self.monitor.execute('system_reset')
        self.monitor.execute('cont')

        cpu, = self.monitor.execute('query-cpus-fast')
        state = Path(f'/proc/{self.machine.pid}/task/{cpu["thread-id"]}/stat')

        def sleeps():
            """It has run, and its thread waits now, and not for a CPU. Before
            11.0, WFE did not wait."""
            before = qtest.read(self.RAM)
            if version(program) < (11, 0):
                return before
            time.sleep(0.05)
            return before and state.read_text().rpartition(')')[2][1] == 'S' \
                and qtest.read(self.RAM) == before
        for _ in range(10):
            self.wait_until(sleeps, 'the core to sleep')
            before = qtest.read(self.RAM)
            self.peer.ring(1, 0)
            self.wait_until(lambda before=before:
                            qtest.read(self.RAM) > before, 'it to wake up')


for _board in boards():
    setattr(Boards, 'test_' + re.sub(r'\W+', '_', _board.name),
            lambda self, board=_board: self.check(board))
for _board in read_boards('Another place'):
    setattr(Boards, 'test_' + re.sub(r'\W+', '_', _board.name),
            lambda self, board=_board: self.check_virt(board))


@functools.cache
def machines(program):
    """The default CPU of each of its machines, '' if it has none."""
    run = subprocess.run(
        [program, '-machine', 'none', '-display', 'none', '-qmp', 'stdio'],
        input='{"execute": "qmp_capabilities"}{"execute": "query-machines"}'
              '{"execute": "quit"}',
        text=True, stdout=subprocess.PIPE, timeout=DEADLINE, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    found, = (answer['return'] for answer in answers
              if isinstance(answer.get('return'), list))
    return {machine['name']: machine.get('default-cpu-type', '')
            for machine in found} | {
            machine['alias']: machine.get('default-cpu-type', '')
            for machine in found if 'alias' in machine}


if __name__ == '__main__':
    unittest.main()
