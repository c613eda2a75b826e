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
import re
import subprocess
import tempfile
import time
import unittest
from collections import namedtuple
from pathlib import Path

from lab_case import BIN, ROOT
from machine import (DEADLINE, NVIC, PLIC, SIZE, WINDOW, MachineTest, gic,
                     version)

PAGE = ROOT / 'docs/system/devices/ivshmem-flat.rst'
CONTROLLERS = {
    'mps3-an536': gic(0xf0000000),
    'xilinx-zynq-a9': gic(0xf8f01000),
    'virt, arm': gic(0x08000000),
    'virt, aarch64': gic(0x08000000),
    'virt, riscv32': PLIC,
    'virt, riscv64': PLIC,
}           # all others have an NVIC
# the QEMU since which there are machines that the oldest lacks
SINCE = {'max78000fthr': (10, 2), 'ast1040-evb': (11, 1),
         'ast1060-evb': (11, 1)}

Board = namedtuple('Board', 'name target machine core registers memory input')


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


def boards():
    able, _ = tables('Boards')
    for names, core, registers, memory, interrupt in able:
        name = names.replace('`', '')
        machine, _, target = name.partition(', ')
        yield Board(name, target or 'arm', machine, core, int(registers, 16),
                    int(memory, 16), interrupt.strip('`'))


def unable():
    _, rows = tables('Boards')
    return [name.strip('`') for name, _ in rows if name]


class Boards(MachineTest):
    """A test for each row of the table is added below."""

    def check(self, board):
        program = self.program(board.target)
        if board.machine not in machines(program):
            self.assertLess(version(program), SINCE.get(board.machine, (0, 0)))
            self.skipTest('this QEMU has no such machine')
        self.assertEqual(board.registers % WINDOW, 0)
        self.assertEqual(board.memory % SIZE, 0)
        number = int(re.search(r'\[(\d+)\]$', board.input)[1])
        controller = CONTROLLERS.get(board.name, NVIC)
        self.start(program, board.machine,
                   f',x-irq-qompath={board.input},'
                   f'revision={controller.revision},'
                   f'x-bus-address-iomem={board.registers:#x},'
                   f'x-bus-address-shmem={board.memory:#x}')
        self.check_device(board.registers, board.memory, 1, controller,
                          [number])
        self.machine.kill()
        self.wait_for_end(self.machine)
        self.assertNotIn('is driven by', '\n'.join(self.machine.lines))

    def test_none_is_forgotten(self):
        """Each machine with a Cortex-M is in one of the two tables."""
        listed = {board.machine for board in boards()} | set(unable())
        for target in ('arm', 'aarch64'):
            cores = machines(BIN / f'qemu-system-{target}')
            found = {name for name, core in cores.items()
                     if core.startswith('cortex-m')
                     and not name.endswith('-ivshmem')}
            self.assertGreater(len(found), 15)
            self.assertEqual(found - listed, set())

    def test_those_that_cannot(self):
        # ast2700fc wants this before all else, and Debian's source lacks it.
        firmware = tempfile.TemporaryDirectory(prefix='ivshmem-test-')
        self.addCleanup(firmware.cleanup)
        Path(firmware.name, 'ast27x0_bootrom.bin').write_bytes(bytes(1024))
        for machine in unable():
            for target in ('arm', 'aarch64'):
                program = BIN / f'qemu-system-{target}'
                if machine not in machines(program):
                    continue
                with self.subTest(machine, target=target):
                    run = subprocess.run(
                        self.arguments(program, machine, ['']) +
                        ['-L', firmware.name], text=True,
                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
                    self.assertEqual(run.returncode, 1)
                    self.assertIn('dynamic sysbus', run.stderr)


class WaitForEvent(MachineTest):
    """A core that waits with WFE, of which the page's section "Interrupt" says
    what wakes it"""

    RAM, HANDLER, CODE = 0x20000000, 0x100, 0x102
    PROGRAM = (0x4770,                              # handler: bx lr
               0x22e0, 0x0612, 0x23e1, 0x021b,      # r2 = 0xe000e100
               0x18d2, 0x2301, 0x041b, 0x6013,      # enable input 16 in it
               0x2120, 0x0609,                      # r1 = RAM
               0x6808, 0x3001, 0x6008, 0xbf20,      # loop: (*r1)++; wfe
               0xe7fa)                              # b loop

    def test_interrupt_ends_it(self):
        program = self.program('arm')
        self.start(program, 'mps2-an385',
                   ',x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[16],'
                   'x-bus-address-iomem=0x50000000,'
                   'x-bus-address-shmem=0x70000000')
        qtest = self.qtest
        for address, word in ((0, self.RAM + 0x1000), (4, self.CODE | 1),
                              (4 * (16 + 16), self.HANDLER | 1)):
            qtest.write(address, word)
        for i in range(0, len(self.PROGRAM), 2):
            low, high = self.PROGRAM[i:i + 2]
            qtest.write(self.HANDLER + 2 * i, high << 16 | low)
        self.monitor.execute('system_reset')
        self.monitor.execute('cont')

        def sleeps():
            """It has run, and does not now. Before 11.0, WFE did not wait."""
            before = qtest.read(self.RAM)
            time.sleep(0.05)
            return before and (qtest.read(self.RAM) == before or
                               version(program) < (11, 0))
        for _ in range(10):
            self.wait_until(sleeps, 'the core to sleep')
            before = qtest.read(self.RAM)
            self.peer.ring(1, 0)
            self.wait_until(lambda before=before:
                            qtest.read(self.RAM) > before, 'it to wake up')


for _board in boards():
    setattr(Boards, 'test_' + re.sub(r'\W+', '_', _board.name),
            lambda self, board=_board: self.check(board))


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
