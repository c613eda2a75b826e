#!/usr/bin/env python3
"""guest/hello on each of its boards, and what docs/firmware.md says.

Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin), and
gcc-arm-none-eabi.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, LabCase, dumped
from ivshmem_flat.lab import listens
from ivshmem_flat.peer import Peer

MAKEFILE = ROOT / 'guest/hello/Makefile'
# at least one board of each of these cores
CORES = ('Cortex-M0', 'Cortex-M3', 'Cortex-M4', 'Cortex-M7', 'Cortex-M33',
         'Cortex-M55', 'Cortex-R52')
FIRMWARE, PEER, QUESTION, ANSWER = range(4)     # words of struct hello


def boards():
    return re.findall(r'^memory_(\S+) :=', MAKEFILE.read_text(), re.M)


class HelloCase(LabCase):
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

    def start(self, board, *words, options=(), **kwargs):
        made = self.make(f'BOARD={board}', *words, 'start')
        self.assertEqual((made.returncode, made.stderr), (0, ''))
        command = made.stdout.replace('\\\n', '').replace(
            '/tmp/ivshmem.sock', self.lab.socket_path)
        return self.lab.start(board, [*shlex.split(command), *options],
                              **kwargs)

    def wait_for(self, peer, machine, condition):
        def done():
            peer.wait(0)
            return condition() or machine.ended
        self.lab.wait(done, f'{machine.name} to answer', tick=0.01)
        if machine.ended:
            self.fail_with_output(f'{machine.name} has ended')

    def start_server(self):
        self.lab.start_server(self.lab.server_command(BIN, '-l', '4M',
                                                      '-n', '1'))


class Hello(HelloCase):
    """A test for each board is added below."""

    def check(self, board):
        self.start_server()
        machine = self.start(board)
        with Peer(self.lab.socket_path) as peer:
            words = peer.words
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

    def check_finds_peers(self, board):
        """With peer registers it has to be told no id, in either order."""
        on = ('-global', 'ivshmem-flat.peer-registers=on')
        self.start_server()
        question = 40
        for firmware_first in (True, False) * 3:
            machine = self.start(board, options=on) if firmware_first else None
            with Peer(self.lab.socket_path) as peer:
                words = peer.words
                if not machine:
                    words[FIRMWARE] = 0
                    machine = self.start(board, options=on)
                self.wait_for(peer, machine, lambda: words[FIRMWARE])
                for _ in range(3):
                    question += 1
                    self.ask(peer, machine, question)
                self.assertEqual(words[PEER], 0)
            machine.kill()
            self.wait_for_end(machine)

    def ask(self, peer, machine, question):
        rang = set()

        def answered():
            rang.update(peer.wait(0))
            return machine.ended or (
                rang and peer.words[ANSWER] == question + 1)
        peer.words[QUESTION] = question
        self.lab.wait(lambda: peer.ring(peer.words[FIRMWARE] - 1),
                      'the firmware to be there', tick=0.01)
        self.lab.wait(answered, f'{machine.name} to answer', tick=0.01)
        self.assertEqual((machine.ended, rang), (False, {0}))

    def test_finds_peers_on_cortex_m(self):
        self.check_finds_peers('lm3s6965evb')

    def test_finds_peers_on_cortex_r(self):
        self.check_finds_peers('mps3-an536')

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


class Page(HelloCase):
    """What docs/firmware.md says."""
    # What comes between the page's code and the rest of a program
    UNPRIVILEGED = """
        #include "cortex_m.h"
        /* not from there: it is for privileged code */
        #define nvic_enable(input) ((void)(input))
        #define main hello
        #include "hello.c"
        #undef main
        #undef nvic_enable
        #define CTRL CORTEX_M_REGISTER(0xe000ed94u)
        #define MPU ((struct { volatile uint32_t RNR, RBAR, RASR; } *)0xe000ed98u)

        void fault(void)
        {
            ((volatile struct hello *)BOARD_IVSHMEM_MEMORY)->answer = 0xfa17;
            for (;;) {
            }
        }

        int main(void)
        {
            nvic_enable(BOARD_IVSHMEM_INPUT);
            MPU->RNR = 0;
            MPU->RBAR = 0;
            MPU->RASR = 0x06020023;     /* 256 KiB of code, read-only */
            MPU->RNR = 1;
            MPU->RBAR = 0x20000000;
            MPU->RASR = 0x1306001f;     /* 64 KiB of data */
            %s
            CTRL = 5;                   /* on; the default map if privileged */
            __asm__ volatile("dsb\\n\\tisb\\n\\tmsr control, %%0\\n\\tisb"
                             :: "r" (1));
            return hello();
        }
        """
    FREERTOS = """
        #include "cortex_m.h"
        #include "ivshmem_flat.h"
        typedef void *TaskHandle_t;
        typedef long BaseType_t;
        #define pdTRUE 1L
        #define pdFALSE 0L
        #define portMAX_DELAY 0xffffffffu
        #define configLIBRARY_MAX_SYSCALL_INTERRUPT_PRIORITY 5
        #define IVSHMEM_IRQ BOARD_IVSHMEM_INPUT
        void NVIC_SetPriority(int number, uint32_t priority);
        void NVIC_EnableIRQ(int number);
        TaskHandle_t xTaskGetCurrentTaskHandle(void);
        void vTaskNotifyGiveFromISR(TaskHandle_t task, BaseType_t *woken);
        void portYIELD_FROM_ISR(BaseType_t woken);
        uint32_t ulTaskNotifyTake(BaseType_t clear, uint32_t ticks);
        void ivshmem_isr(void);
        %s
        void (*const use)(void *) = answer;
        """

    def setUp(self):
        super().setUp()
        self.text = (ROOT / 'docs/firmware.md').read_text()

    def blocks(self, heading):
        """Indented or fenced, below this heading."""
        section = self.text.split(f'\n{heading}')[1].split('\n##')[0]
        return [textwrap.dedent(indented or fenced) for indented, fenced in
                re.findall(r'\n\n((?:    [^\n]*\n)+)|```\w+\n(.*?)```',
                           section, re.S)]

    def wait_for_firmware(self, machine, words):
        self.lab.wait(lambda: words[FIRMWARE] or machine.ended,
                      'the firmware to tell its id', tick=0.01)
        self.assertFalse(machine.ended)

    def test_hello(self):
        make, server, machine, monitor, program, output = \
            self.blocks('## hello')
        self.assertEqual(make, 'make hello BOARD=lm3s6965evb\n')
        command = self.lab.server_command(BIN, '-l', '4M', '-n', '1')
        self.assertEqual(server.split(), [
            *'build/bin/ivshmem-server -F -S /tmp/ivshmem.sock'.split(),
            *command[4:]])
        self.start_server()
        environment = {key: value for key, value in os.environ.items()
                       if key not in ('QEMU', 'QEMU_SRC', 'FLAVOUR', 'BUILD',
                                      'MAKEFLAGS')}
        made = subprocess.run(
            [*make.split(), '-s', f'OUT={self.out}'], cwd=ROOT, check=True,
            env=environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, timeout=self.deadline)
        self.assertEqual(made.stdout.replace(f'{self.out}/', 'build/guest/'),
                         machine)
        firmware = self.start('lm3s6965evb', interactive=True)
        question, answer = monitor.splitlines()

        def answered():
            # until it is there, and there may be a peer of it
            firmware.type(question.removeprefix('(qemu) ').encode() + b'\n')
            return dumped(answer) in map(dumped, firmware.lines) or \
                firmware.ended
        self.lab.wait(answered, f'the monitor to say {answer}', tick=0.1)
        self.assertFalse(firmware.ended)
        run = subprocess.run(
            [sys.executable, '-c', program.replace('/tmp/ivshmem.sock',
                                                   self.lab.socket_path)],
            cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, timeout=self.deadline, check=True)
        self.assertEqual(run.stdout, output)
        firmware.type(b'quit\n')
        self.wait_for_end(firmware)
        self.assertEqual(firmware.status, 0)

    def test_boards_of_hello(self):
        page = (ROOT / 'docs/system/devices/ivshmem-flat.rst').read_text()
        section = ' '.join(self.text.split('\nbuilds guest/hello')[1]
                           .split('Start a server')[0].split())
        for board in boards():
            core = re.search(rf'^``{board}`` +Cortex-(\S+)', page, re.M)[1]
            self.assertRegex(section + ' lm3s6965evb (M3)',
                             rf'\b{board}\b[^()]*\((?:Cortex-)?{core}\)')

    def test_directory_of_your_own(self):
        commands, = self.blocks('## What to take into your project')
        mine = self.out / 'mine'
        subprocess.run(['bash', '-ec', commands.replace('/tmp/mine', str(mine))],
                       cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
        self.start_server()
        with Peer(self.lab.socket_path) as peer:
            peer.words[QUESTION], peer.words[PEER] = 41, peer.id + 1
            # of two -kernel, QEMU takes the last
            self.start('lm3s6965evb', options=['-kernel', mine / 'hello.elf'])
            self.assertEqual(peer.wait(timeout=self.deadline), {0})
            self.assertEqual(peer.words[ANSWER], 42)

    def test_mpu(self):
        """Unprivileged code with these regions, and with one of them less."""
        self.start_server()
        regions, = self.blocks('### With an MPU')
        without = regions.replace('MPU->RASR = 0x130c002b;', '')
        self.assertNotEqual(regions, without)
        with Peer(self.lab.socket_path) as peer:
            words = peer.words
            for code, answers in ((regions, True), (without, False)):
                words[FIRMWARE], words[PEER] = 0, peer.id + 1
                (self.out / 'main.c').write_text(self.UNPRIVILEGED % code)
                machine = self.start(
                    'lm3s6965evb', f'SOURCES={self.out}/main.c '
                    '../cortex-m/vectors.c', '-B')
                if answers:
                    self.assertEqual(peer.wait(timeout=self.deadline), {0})
                    self.assertTrue(words[FIRMWARE])
                else:
                    self.lab.wait(lambda: words[ANSWER] == 0xfa17,
                                  'the fault', tick=0.01)
                    self.assertFalse(words[FIRMWARE])
                machine.kill()
                self.wait_for_end(machine)

    def test_freertos(self):
        service, = self.blocks('## With FreeRTOS')
        (self.out / 'main.c').write_text(self.FREERTOS % service)
        guest = ROOT / 'guest'
        compiled = subprocess.run(
            ['arm-none-eabi-gcc', '-mcpu=cortex-m3', '-mthumb', '-std=gnu11',
             '-Wall', '-Wextra', '-Werror', '-ffreestanding', '-I', guest,
             '-I', guest / 'cortex-m', '-DBOARD_IVSHMEM_INPUT=25', '-c',
             self.out / 'main.c', '-o', self.out / 'main.o'], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        self.assertEqual((compiled.returncode, compiled.stdout), (0, ''))

    def test_gdb_reads_intrstatus(self):
        self.start_server()
        path = f'{self.lab.socket_path}-gdb'
        self.start('lm3s6965evb', options=[
            '-S', '-global', 'ivshmem-flat.revision=0',
            '-chardev', f'socket,id=gdb,server=on,wait=off,path={path}',
            '-gdb', 'chardev:gdb'])
        with Peer(self.lab.socket_path) as peer, \
                socket.socket(socket.AF_UNIX) as gdb:
            def is_there():
                peer.update()
                return 1 - peer.id in peer.peers and listens(path)
            self.lab.wait(is_there, 'the machine', tick=0.01)
            gdb.settimeout(self.deadline)
            gdb.connect(path)

            def read(address):
                packet = f'm{address:x},4'
                gdb.sendall(f'${packet}#{sum(packet.encode()) % 256:02x}'
                            .encode())
                answer = b''
                while not re.search(rb'#..$', answer):
                    answer += gdb.recv(64)
                gdb.sendall(b'+')
                return int.from_bytes(bytes.fromhex(
                    re.search(rb'\$(.*)#', answer)[1].decode()), 'little')
            self.assertEqual(read(0x50000008), 1 - peer.id)
            self.assertEqual(read(0x50000004), 0)
            peer.ring(1 - peer.id)
            self.lab.wait(lambda: read(0x50000004) == 1,
                          'INTRSTATUS to be set', tick=0.01)
            self.assertEqual(read(0x50000004), 0)

    def test_my_board_is_not_in_the_table(self):
        said = self.blocks('## My board is not in the table')[0].strip()
        self.start_server()
        machine = self.lab.start('sabrelite', [
            BIN / 'qemu-system-arm', '-machine', 'sabrelite', '-S',
            '-display', 'none', '-chardev',
            f'socket,id=ivshmem,path={self.lab.socket_path}', '-device',
            'ivshmem-flat,chardev=ivshmem,x-irq-qompath=/machine/soc/a9mpcore/'
            'gic/unnamed-gpio-in[100],x-bus-address-iomem=0x60000000,'
            'x-bus-address-shmem=0x64000000'])
        self.wait_for_end(machine)
        self.assertEqual(machine.status, 1)
        self.assertTrue(machine.lines[-1].endswith(said), machine.lines)


for _board in boards():
    setattr(Hello, 'test_' + re.sub(r'\W', '_', _board),
            lambda self, board=_board: self.check(board))


if __name__ == '__main__':
    unittest.main()
