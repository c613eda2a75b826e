#!/usr/bin/env python3
"""The firmware's exchange from end to end, and tools/demo that shows it.

Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin) and the
firmware in build/guest.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import mmap
import os
import re
import signal
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, LabCase
from ivshmem_flat.machines import cortex_m
from machine import Monitor
from registers_test import listen
from tree import FIRMWARE

FOR_EVER = 10 ** 9  # messages


def children(pid):
    """The pids of a process's children."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            # the second field, a name in brackets, may contain anything
            fields = stat.read_text().rpartition(')')[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def runs(pid):
    """Is there such a process, and is it no zombie?"""
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(')')[2].split()[0] not in 'ZX'


def without_repeats(lines):
    """What a demo says, but for exchanges that it had to do once more."""
    kept = []
    for line in lines:
        if re.match(r'\$ .*ivshmem-server', line):
            begin = len(kept)
        kept.append(line)
        if line.startswith('The exchange was over before'):
            del kept[begin:]
    return kept


def command_of(pid):
    return Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')


class LabTest(LabCase):
    needs = (*LabCase.needs, FIRMWARE)

    def eventually(self, condition, what):
        self.lab.wait(condition, what, tick=0.02)


class Demo(LabTest):
    """tools/demo, as a user starts it."""

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-test-')
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, *options, name='demo'):
        # We may be run by nohup, and a signal ignored is so by our children.
        return self.lab.start(name, ['env', '--default-signal=HUP',
                                     f'TMPDIR={self.folder}',
                                     ROOT / 'tools/demo', '--bin', BIN,
                                     '--firmware', FIRMWARE, '--timeout',
                                     self.deadline, *options])

    def start_endless(self):
        """A demo that is in the midst of its exchange, and its children."""
        demo = self.start('--variant', 'board', '--messages', FOR_EVER)
        self.lab.wait_for_line(demo, 'A | peer')
        self.lab.wait_for_line(demo, 'B | peer')
        pids = children(demo.pid)
        self.assertEqual(len(pids), 3)
        return demo, pids

    def start_wrapped(self, script, *options):
        """A demo for which the script starts "$qemu" "$@"."""
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-bin-')
        self.addCleanup(folder.cleanup)
        qemu = Path(folder.name) / 'qemu-system-arm'
        qemu.write_text(f'#!/bin/sh\nqemu="{BIN / qemu.name}"\n{script}\n')
        qemu.chmod(0o755)
        qemu.with_name('ivshmem-server').symlink_to(
            (BIN / 'ivshmem-server').resolve())
        return self.start('--bin', folder.name, *options)

    def assert_passed(self, demo, variants=1, machines='AB', reports=1,
                      messages=1000):
        """It ended well, and each machine made so many reports."""
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 0)
        lines = without_repeats(demo.lines)
        messages = '|'.join(
            [str(messages), *re.findall(r'restart \(([0-9]+)\)', lines[-1])])
        for machine in machines:
            found = [line for line in lines
                     if line.startswith(f'{machine} | id')
                     and 'messages sent' in line]
            self.assertEqual(len(found), reports)
            for report in found:
                self.assertRegex(report, 'id [0-3], peer [0-3]: '
                                 f'({messages}) messages sent, \\1 received, '
                                 '0 bad CRCs, 0 wrong$')
            counts = [line for line in lines
                      if line.startswith(f'{machine} | id')
                      and 'interrupts taken' in line]
            self.assertEqual(len(counts), variants)
        self.assert_nothing_left()

    def assert_all_passed(self, demo):
        self.assert_passed(demo, variants=4, reports=6)     # 1 + 1 + 1 + 3
        self.assertRegex(demo.lines[-1], '^1000 messages each way, device, '
                         r'board, vectors, restart( \([0-9]+\))?: passed$')

    def assert_failed(self, demo, message, pids=()):
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 1)
        self.assertRegex(demo.lines[-1], f'^demo: {message}')
        self.assert_nothing_left(pids)

    def assert_nothing_left(self, pids=()):
        self.assertEqual([pid for pid in pids if runs(pid)], [])
        self.assertEqual(os.listdir(self.folder), [])

    def named_memory(self, lines):
        """The shared memory object of variant restart, as the demo says."""
        name, = re.findall(r'-M (\S+)$', '\n'.join(lines), re.M)
        return Path('/dev/shm', name)

    def test_all_variants(self):
        self.assert_all_passed(self.start())

    def test_device_other_order(self):
        self.assert_passed(self.start('--variant', 'device', '--first', 'B'))

    def test_board_other_order(self):
        self.assert_passed(self.start('--variant', 'board', '--first', 'B'))

    def test_vectors(self):
        demo = self.start('--variant', 'vectors')
        self.assert_passed(demo)
        for machine in 'AB':
            for vector, input, taken in ((0, 25, '[1-9][0-9]*'),
                                         (1, 26, '[1-9]'), (2, 27, '0'),
                                         (3, 28, '0')):
                self.assertRegex('\n'.join(demo.lines), re.compile(
                    fr'^{machine} \| vector {vector}: [0-9]+ doorbells rung, '
                    fr'{taken} interrupts on input {input}$', re.M))

    def test_interrupts_on_a_wrong_input_are_a_failure(self):
        # 500 interrupts on input 26
        demo = self.start_wrapped(
            '"$qemu" "$@" | '
            'sed -u "s/^\\(vector 1: .* rung, \\)[0-9]*/\\1500/"',
            '--variant', 'vectors')
        self.assert_failed(demo, 'machine [AB] was not interrupted by messages '
                           'on vector 0 and control on vector 1')

    def test_interrupts_on_no_input_are_a_failure(self):
        demo = self.start_wrapped(
            '"$qemu" "$@" | grep --line-buffered -v "^vector 1:"',
            '--variant', 'vectors')
        self.assert_failed(demo, 'machine [AB] does not say what came on which '
                           'input')

    def test_server_is_killed_and_comes_back(self):
        # without doorbells after the restart, it would take twice as long
        demo = self.start('--variant', 'restart', '--messages', 4000,
                          '--timeout', 240)
        self.assert_restarted(demo, messages=4000)

    def test_an_exchange_too_short_for_a_restart_is_repeated(self):
        # Until it is over, nobody hears of the one that has no messages=.
        demo = self.start_wrapped(
            'case "$*" in *messages=*) exec "$qemu" "$@";; esac\n'
            'said=$("$qemu" "$@") && echo "$said"',
            '--variant', 'restart')
        self.assert_restarted(demo)
        self.assertIn('The exchange was over before the server was back: once '
                      'more with 4000 messages.', demo.lines)
        self.assertRegex(demo.lines[-1], r'restart \([0-9]*\): passed$')

    def assert_restarted(self, demo, messages=1000):
        self.assert_passed(demo, machines='ABCD', reports=3, messages=messages)
        lines = without_repeats(demo.lines)
        self.assertFalse(self.named_memory(lines).exists())
        back = lines.index('The server is back.')
        self.assertLess(lines.index('The server is killed.'), back)
        for machine in 'ABCD':
            self.assertTrue(any(line.startswith(f'{machine} | ') and
                                'is gone' in line for line in lines))
            self.assertGreater(lines.index(f'{machine} | passed'), back)

    def test_a_signal_leaves_no_named_memory_behind(self):
        demo = self.start('--variant', 'restart', '--messages', FOR_EVER)
        for machine in 'ABCD':
            self.lab.wait_for_line(demo, f'{machine} | peer')
        pids = children(demo.pid)
        self.assertEqual(len(pids), 5)
        memory = self.named_memory(demo.lines)
        self.assertTrue(memory.exists())
        os.kill(demo.pid, signal.SIGTERM)
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 143)
        self.assertFalse(memory.exists())
        self.assert_nothing_left(pids)

    def test_seconds_later(self):
        for first, second in ('AB', 'BA'):
            with self.subTest(first=first):
                demo = self.start('--variant', 'board', '--first', first,
                                  '--delay', '2')
                self.assert_passed(demo)
                lines = demo.lines
                self.assertLess(
                    lines.index(f'{first} | waiting for a peer'),
                    lines.index(f'{second} | id 1, slot 1'))

    def test_two_at_once(self):
        demos = [self.start(name=f'demo {n}') for n in (1, 2)]
        for demo in demos:
            self.wait_for_end(demo)
        for demo in demos:
            self.assert_all_passed(demo)

    def test_signals_leave_nothing_behind(self):
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143),
                               (signal.SIGHUP, 129)):
            with self.subTest(number):
                demo, pids = self.start_endless()
                os.kill(demo.pid, number)
                self.wait_for_end(demo)
                self.assertEqual(demo.status, status)
                self.assert_nothing_left(pids)

    def test_killed_demo_leaves_no_process(self):
        demo, pids = self.start_endless()
        os.kill(demo.pid, signal.SIGKILL)
        self.eventually(lambda: not any(map(runs, pids)),
                        'the children of a killed demo to end')

    def test_a_killed_child_is_a_failure(self):
        for victim, message in (
                (b'-kernel', 'machine [AB] was killed by SIGKILL'),
                (b'-S', 'ivshmem-server was killed by SIGKILL')):
            with self.subTest(message):
                demo, pids = self.start_endless()
                os.kill(next(pid for pid in pids
                             if victim in command_of(pid)), signal.SIGKILL)
                self.assert_failed(demo, message, pids)

    def test_wrong_firmware_is_a_failure(self):
        self.assert_failed(self.start('--firmware', '/bin/true'),
                           'machine [AB] ')

    def test_time_is_limited(self):
        demo = self.start('--variant', 'board', '--messages', FOR_EVER,
                          '--timeout', '10')
        self.assert_failed(demo, '10 s are over, and still waiting for machine '
                           'A to end and machine B to end$')

    def test_a_missing_program_is_named(self):
        demo = self.start('--bin', '/nonexistent')
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 1)
        self.assertEqual(demo.lines, ['demo: /nonexistent/qemu-system-arm is '
                                      'missing: `make demo` builds it'])

    def test_reader_goes_away(self):
        demo = self.lab.start('sh', [
            'sh', '-c', 'TMPDIR=$0 "$@" | head -n 3', self.folder,
            ROOT / 'tools/demo', '--bin', BIN, '--firmware', FIRMWARE])
        self.wait_for_end(demo)
        self.assertEqual(len(demo.lines), 3)
        self.eventually(lambda: not os.listdir(self.folder),
                        'the demo to clean up')


class Firmware(LabTest):
    """Machines in other constellations than the demo's."""

    def start_server(self, *options):
        return self.lab.start_server(
            self.lab.server_command(BIN, *options))

    def start_machine(self, name, append, board='mps2-an385', options=(),
                      **kwargs):
        return self.lab.start(name, [
            *cortex_m(BIN / 'qemu-system-arm', self.lab.socket_path, FIRMWARE,
                      board, append, **kwargs), *options])

    def assert_passed(self, *machines):
        for machine in machines:
            self.wait_for_end(machine)
            self.assertEqual(machine.status, 0)
            self.assertEqual(machine.lines[-1], 'passed')

    def test_all_boards_exchange_with_each_other(self):
        self.start_server()
        machines = [self.start_machine(board, 'peers=3 messages=200', board)
                    for board in ('mps2-an385', 'mps2-an386', 'mps2-an500',
                                  'mps2-an511')]
        for machine in machines:
            self.wait_for_end(machine)
            self.assertEqual(machine.status, 0)
            self.assertEqual(sum('200 messages sent, 200 received, 0 bad '
                                 'CRCs, 0 wrong' in line
                                 for line in machine.lines), 3)

    def test_peer_is_killed_and_comes_back(self):
        self.start_server()
        append = 'messages=20000'
        stays = self.start_machine('A', append)
        # it has more to say than the other, and so waits if we are late
        dies = self.start_machine('B', 'messages=40000')
        self.lab.wait_for_line(dies, 'is there')
        dies.kill()
        self.wait_for_end(dies)
        self.assertEqual(dies.how_it_ended(), 'was killed by SIGKILL')
        comes = self.start_machine('C', append)
        self.assert_passed(stays, comes)

    def test_revision_0(self):
        """The interrupt is a level, which the firmware acknowledges."""
        self.start_server()
        machines = [self.start_machine(
            name, 'revision=0', on_board=False,
            options=['-global', 'ivshmem-flat.revision=0']) for name in 'AB']
        self.assert_passed(*machines)
        for machine in machines:
            taken = re.search('([0-9]+) interrupts taken', machine.lines[-2])
            # an interrupt that was not acknowledged would come without end
            self.assertIn(int(taken[1]), range(1, 1011))

    def test_wrong_words_are_refused(self):
        self.start_server()
        for words in ('peers=0', 'peers=8', 'vectors=0', 'vectors=5',
                      'revision=2', 'slot=8', 'revision=0 vectors=2',
                      'crc=2', 'memory=0', 'memory=257', 'tick=672'):
            with self.subTest(words):
                machine = self.start_machine(words, words)
                self.wait_for_end(machine)
                self.assertEqual(machine.status, 2)
                self.assertEqual(
                    machine.lines, ['expected peers=1 to 7, vectors=1 to 4, '
                                    'revision=0 (with vectors=1) or 1, slot=0 '
                                    'to 7, crc=0 or 1, memory=1 to 256, tick=0 '
                                    'to 671'])

    def start_alone(self, name, *options):
        """Start firmware without what it needs."""
        return self.lab.start(name, [
            BIN / 'qemu-system-arm', '-machine', 'mps2-an500', '-nographic',
            '-kernel', FIRMWARE.with_name(f'{name}-mps2.elf'), *options])

    def check_says_and_sleeps(self, name, line):
        """It says this line, and then is in WFI for ever."""
        folder = self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-test-'))
        listener = listen(self, f'{folder}/qmp')
        machine = self.start_alone(name, '-qmp', f'unix:{folder}/qmp')
        monitor = Monitor(self, listener)

        def ask(command):
            return monitor.execute('human-monitor-command',
                                   **{'command-line': command})

        def is_asleep():
            next_one = re.search('R15=([0-9a-f]+)', ask('info registers'))[1]
            return '0xbf30' in ask(f'xp /1hx {int(next_one, 16) - 2:#x}')
        self.eventually(is_asleep, f'{name} to sleep')
        machine.kill()
        self.wait_for_end(machine)
        self.assertEqual(machine.lines, [line])

    def test_without_semihosting(self):
        for name in ('doorbell', 'exchange', 'icmsg', 'rpmsg'):
            with self.subTest(name):
                self.check_says_and_sleeps(
                    name, 'semihosting is off, expected QEMU with -semihosting')

    def test_without_a_device(self):
        """The one needs -semihosting, which ends QEMU, the other does not."""
        line = 'there is no ivshmem-flat device at 0x50000000'
        for name in ('doorbell', 'exchange'):
            with self.subTest(name):
                machine = self.start_alone(name, '-semihosting')
                self.wait_for_end(machine)
                self.assertEqual((machine.status, machine.lines), (3, [line]))
        for name in ('bench', 'echo'):
            with self.subTest(name):
                self.check_says_and_sleeps(name, line)

    def test_ids_are_exchanged_by_a_restart_of_the_server(self):
        command = self.lab.server_command(BIN, '-n', '4', restarts=True)
        server = self.lab.start_server(command)
        machines = []
        for slot, name in enumerate('AB'):
            machines.append(self.start_machine(
                name, f'vectors=4 slot={slot} tick=100 messages=20000',
                reconnect_ms=100))
            self.lab.wait_for_line(machines[-1], f'id {slot}, slot {slot}')
        first, second = machines
        self.lab.wait_for_line(first, 'is there')
        # who is stopped comes back last, and so gets the higher id
        os.kill(first.pid, signal.SIGSTOP)
        self.lab.restart_server(server, command)
        self.lab.wait_for_line(second, 'id 1 is 0 now')
        os.kill(first.pid, signal.SIGCONT)
        self.lab.wait_for_line(first, 'id 0 is 1 now')
        self.assert_passed(*machines)
        for machine, own, peer in ((first, 0, 1), (second, 1, 0)):
            self.assertIn(f'id {own}, peer {peer}: 20000 messages sent, '
                          '20000 received, 0 bad CRCs, 0 wrong', machine.lines)

    def test_damage_is_reported(self):
        server = self.start_server()
        machines = [self.start_machine(name, 'messages=20000 crc=1')
                    for name in 'AB']
        for machine in machines:
            self.lab.wait_for_line(machine, 'is there')
        fds = Path(f'/proc/{server.pid}/fd')
        path = next(fd for fd in fds.iterdir()
                    if os.readlink(fd).startswith('/dev/shm/'))
        rings = 8 * 64 + 8 * 8 * 64     # behind directory and sides
        with open(path, 'r+b') as file, \
                mmap.mmap(file.fileno(), 0) as memory:
            def damage():
                # all but what may be a message's length
                for block in range(rings, rings + 4096, 16):
                    memory[block + 8] ^= 1
                return all(machine.ended for machine in machines)
            self.lab.wait(damage, 'both machines to end', tick=0.001)
        for machine in machines:
            self.assertEqual(machine.status, 1)
            self.assertEqual(machine.lines[-1], 'FAILED')
        # either machine may be the one that receives from this ring
        self.assertTrue(any(re.search('[1-9][0-9]* bad CRCs', line)
                            for machine in machines
                            for line in machine.lines))

    def test_shared_memory_that_is_too_small(self):
        self.start_server('-l', '1M')
        machine = self.start_machine('A', '')
        self.wait_for_end(machine)
        self.assertEqual(machine.status, 3)
        self.assertEqual(machine.lines[-1], 'shared memory at 0x70000000 is '
                         'smaller than 4194304 bytes')


if __name__ == '__main__':
    unittest.main()
