#!/usr/bin/env python3
"""Linux and Cortex-M machines on one server, and tools/demo-linux.

The Linux machines run on Debian's qemu-system-aarch64, or on QEMU_AARCH64 of
the environment, and one of the party's on that in build/bin. Needs what `make
demo-linux` builds; qemu-system-arm and ivshmem-server are looked for in
build/bin (or $BUILD/bin).
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import shutil
import sys
import tempfile
import textwrap
import types
import unittest

from lab_case import BIN, ROOT, LabCase
from exchange import check_exchange
from ivshmem_flat.icmsg import ICMsg
from ivshmem_flat.lab import LabError, listens
from ivshmem_flat.machines import cortex_m, linux, linux_flat
from ivshmem_flat.peer import Peer
from tree import FIRMWARE, LINUX, QEMU_AARCH64

ICMSG_FIRMWARE = ROOT / 'build/guest/icmsg-mps2.elf'
RPMSG_FIRMWARE = ROOT / 'build/guest/rpmsg-mps2.elf'


class LinuxTest(LabCase):
    needs = (*LabCase.needs, FIRMWARE, LINUX / 'kernel', LINUX / 'initramfs')

    def setUp(self):
        super().setUp()
        self.assertTrue(shutil.which(QEMU_AARCH64),
                        f'{QEMU_AARCH64} is missing')

    def assert_all_came_back(self, machine, messages=500):
        self.wait_for_end(machine)
        self.assertIn(f'{messages} messages came back, 0 wrong', machine.lines)
        self.assertIn('passed', machine.lines)


class Demo(LinuxTest):
    """tools/demo-linux, as a user starts it."""

    def start(self, *options):
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-test-')
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        return self.lab.start('demo', [
            'env', f'TMPDIR={self.folder}', ROOT / 'tools/demo-linux',
            '--bin', BIN, '--timeout', self.deadline, *options])

    def test_pair_and_party(self):
        demo = self.start()
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 0)
        reports = {}
        for line in demo.lines:
            name, _, rest = line.partition('| ')
            if '1000 messages sent, 1000 received, 0 bad CRCs, 0 wrong' in rest:
                reports[name.strip()] = reports.get(name.strip(), 0) + 1
        self.assertEqual(reports, {'Linux': 1, 'an385': 1 + 4, 'an386': 4,
                                   'an511': 4, 'Linux 1': 4, 'Linux 2': 4})
        self.assertEqual(demo.lines[-1],
                         '1000 messages each way, pair and party: passed')
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_missing_program_is_named(self):
        for option, value, message in (
                ('--bin', '/nonexistent',
                 '/nonexistent/qemu-system-arm is missing: '
                 '`make demo-linux` builds it'),
                ('--qemu-aarch64', 'qemu-none',
                 'qemu-none is missing: `make demo-linux` installs it')):
            with self.subTest(option):
                demo = self.start(option, value)
                self.wait_for_end(demo)
                self.assertEqual(demo.status, 1)
                self.assertEqual(demo.lines, [f'demo-linux: {message}'])

    def test_a_bad_peer_is_a_failure(self):
        """A Linux machine that ends early, with QEMU's status 0."""
        qemu = os.path.join(self.lab._folder, 'qemu')
        with open(qemu, 'w', encoding='utf-8') as script:
            script.write('#!/bin/sh\necho FAILED\n')
        os.chmod(qemu, 0o755)
        demo = self.start('--act', 'pair', '--qemu-aarch64', qemu)
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 1)
        self.assertEqual(demo.lines[-1], 'demo-linux: machine Linux ended '
                         'without a good verdict')
        self.assertEqual(os.listdir(self.folder), [])


class Exchange(LinuxTest):

    def start_server(self, *options):
        self.lab.start_server(self.lab.server_command(BIN, *options))

    def start_linux(self, words, **kwargs):
        return self.lab.start('linux', linux(
            QEMU_AARCH64, self.lab.socket_path, LINUX, words, **kwargs))

    def start_cortex_m(self, words=''):
        return self.lab.start('cortex-m', cortex_m(
            BIN / 'qemu-system-arm', self.lab.socket_path, FIRMWARE,
            words=words))

    def assert_exchanged(self, *machines, messages=1000):
        for machine in machines:
            self.wait_for_end(machine)
            self.assertEqual(len(check_exchange(machine, messages)), 1)

    def test_linux_is_there_first(self):
        self.start_server()
        one = self.start_linux('exchange')
        self.lab.wait_for_line(one, 'waiting for a peer')
        self.assert_exchanged(one, self.start_cortex_m())

    def test_linux_is_killed_and_comes_back(self):
        self.start_server()
        words = 'messages=3000'
        stays = self.start_cortex_m(words)
        # it has more to say than the other, and so waits if we are late
        dies = self.start_linux('exchange messages=6000')
        self.lab.wait_for_line(stays, 'is there')
        dies.kill()
        comes = self.start_linux(f'exchange {words}')
        self.wait_for_end(comes)
        self.wait_for_end(stays)
        self.assertIn('passed', comes.lines)
        self.assertEqual((stays.status, stays.lines[-1]), (0, 'passed'))

    def test_a_vector_for_control(self):
        self.start_server('-n', '2')
        one = self.start_cortex_m('vectors=2')
        self.assert_exchanged(one, self.start_linux('exchange vectors=2',
                                                    vectors=2))

    def test_icmsg(self):
        """Linux sends to the firmware."""
        self.start_server()
        firmware = self.lab.start('cortex-m', cortex_m(
            BIN / 'qemu-system-arm', self.lab.socket_path, ICMSG_FIRMWARE,
            words='peer=1 sessions=1'))
        self.lab.wait_for_line(firmware, 'id 0 is there for peer 1')
        machine = self.start_linux('icmsg 0 tx=0x1000 rx=0 messages=500 '
                                   'sessions=1')
        self.assert_all_came_back(machine)
        self.lab.wait_for_line(firmware, 'the peer has left')

    def test_rpmsg(self):
        """Linux is the remote, and finds the memory at another address."""
        self.start_server()
        firmware = self.lab.start('cortex-m', cortex_m(
            BIN / 'qemu-system-arm', self.lab.socket_path,
            words='peer=1 host=1', firmware=RPMSG_FIRMWARE))
        self.lab.wait_for_line(firmware, 'id 0 is there for peer 1')
        machine = self.start_linux('rpmsg 0 remote messages=500 '
                                   'address=0x70000000')
        self.assert_all_came_back(machine)
        self.lab.wait_for_line(firmware, 'the peer has left')

    def test_icmsg_with_the_host(self):
        """Linux sends back what comes from Python."""
        self.start_server()
        with Peer(self.lab.socket_path) as peer, \
                ICMsg(peer, 1, tx=(0x1000, 0x1000), rx=(0, 0x1000)) as icmsg:
            self.start_linux('icmsg 0')
            icmsg.bind(timeout=self.deadline)
            for length in range(1, 501):
                message = bytes(i * length & 0xff for i in range(length))
                self.assertTrue(icmsg.send(message))
                self.assertEqual(icmsg.receive(timeout=self.deadline), message)

    def test_vectors(self):
        """Each of the PCI device's vectors reaches the Linux program."""
        self.start_server('-n', '3')
        machine = self.start_linux('wait 3', vectors=3)
        self.lab.wait_for_line(machine, 'id 0 waits')
        for vector in (2, 0, 1):
            ring = self.lab.start('host', [
                ROOT / 'build/guest/ivshmem-peer', self.lab.socket_path,
                'ring', '0', str(vector)])
            self.wait_for_end(ring)
            self.assertEqual(ring.status, 0)
            self.lab.wait_for_line(machine, f'vector {vector}')
        self.wait_for_end(machine)
        self.assertIn('ivshmem-peer ended with status 0', machine.lines)


class Virt(LinuxTest):
    """Linux with ivshmem-flat on the platform bus; `make demo-virt` builds
    its kernel module."""

    def setUp(self):
        super().setUp()
        if not (LINUX / 'initramfs-uio').exists():
            self.skipTest('`make demo-virt` has not been run')

    def start_server(self, *options):
        self.lab.start_server(self.lab.server_command(BIN, *options))

    def exchange(self, device):
        self.start_server()
        machines = [
            self.lab.start('linux', linux_flat(
                BIN / 'qemu-system-aarch64', self.lab.socket_path, LINUX,
                device=device)),
            self.lab.start('cortex-m', cortex_m(
                BIN / 'qemu-system-arm', self.lab.socket_path, FIRMWARE))]
        for machine in machines:
            self.wait_for_end(machine)
            self.assertEqual(len(check_exchange(machine, 1000)), 1)

    def test_edge(self):
        self.exchange('')

    def test_level(self):
        self.exchange(',revision=0')

    def test_demo(self):
        """64 MiB of shared memory, which the bus cannot hold"""
        demo = self.lab.start('demo', [ROOT / 'tools/demo-linux', '--bin', BIN,
                                       '--act', 'virt', '--timeout',
                                       self.deadline])
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 0)
        said = '\n'.join(demo.lines)
        self.assertIn('-l 64M', said)
        self.assertEqual(said.count('1000 messages sent, 1000 received'), 2)
        self.assertEqual(demo.lines[-1],
                         '1000 messages each way, virt: passed')

    def test_icmsg(self):
        self.start_server()
        firmware = self.lab.start('cortex-m', cortex_m(
            BIN / 'qemu-system-arm', self.lab.socket_path, ICMSG_FIRMWARE,
            words='peer=1'))
        self.lab.wait_for_line(firmware, 'id 0 is there for peer 1')
        machine = self.lab.start('linux', linux_flat(
            BIN / 'qemu-system-aarch64', self.lab.socket_path, LINUX,
            'icmsg 0 tx=0x1000 rx=0 messages=500'))
        self.assert_all_came_back(machine)

    def test_icmsg_finds_its_peer(self):
        """By the device's registers, with no id anywhere, in either order."""
        on = ['-global', 'ivshmem-flat.peer-registers=on']

        def start_firmware():
            firmware = self.lab.start('cortex-m', cortex_m(
                BIN / 'qemu-system-arm', self.lab.socket_path, ICMSG_FIRMWARE,
                words='sessions=1') + on)
            self.lab.wait_for_line(firmware, 'is there for all')
            return firmware

        def start_machine():
            machine = self.lab.start('linux', linux_flat(
                BIN / 'qemu-system-aarch64', self.lab.socket_path, LINUX,
                'icmsg all tx=0x1000 rx=0 messages=100 sessions=1',
                device=',peer-registers=on'))
            self.lab.wait_for_line(machine, 'is there for all')
            return machine
        firmware = start_firmware()
        self.assert_all_came_back(start_machine(), 100)
        firmware.kill()
        self.wait_for_end(firmware)
        machine = start_machine()
        start_firmware()
        self.assert_all_came_back(machine, 100)

    def test_peers_that_are_not_told(self):
        machine = self.lab.start('linux', linux_flat(
            BIN / 'qemu-system-aarch64', self.lab.socket_path, LINUX,
            'ring all'))
        self.wait_for_end(machine)
        self.assertIn('ivshmem-peer: all: the device does not tell who is '
                      'there, expected the id of a peer', machine.lines)

    def test_rpmsg(self):
        """Linux is the host."""
        self.start_server()
        machine = self.lab.start('linux', linux_flat(
            BIN / 'qemu-system-aarch64', self.lab.socket_path, LINUX,
            'rpmsg 1 host messages=500 address=0x70000000'))
        self.lab.wait_for_line(machine, 'id 0 is there for peer 1')
        self.lab.start('cortex-m', cortex_m(
            BIN / 'qemu-system-arm', self.lab.socket_path,
            firmware=RPMSG_FIRMWARE))
        self.assert_all_came_back(machine)


class Documentation(LinuxTest):
    """The commands of docs/tools.md do what it says."""

    def commands(self, heading):
        """The blocks below a heading, for this lab's socket."""
        page = (ROOT / 'docs/tools.md').read_text(encoding='utf-8')
        section = page.split(f'\n{heading}\n')[1].split('\n#')[0]
        blocks = re.findall(r'\n\n((?:    [^\n]*\n)+)|```python\n(.*?)```',
                            section, re.S)
        self.lab.server_command(BIN)
        return [textwrap.dedent(indented or fenced)
                .replace('/tmp/ivshmem.sock', self.lab.socket_path)
                .replace('build/bin/', f'{BIN}/')
                for indented, fenced in blocks]

    def run_block(self, name, block):
        return self.lab.start(name, ['sh', '-c', f'cd "$0" && exec {block}',
                                     ROOT])

    def test_by_hand(self):
        server, linux_machine, cortex_m_machine = self.commands('### By hand')
        self.run_block('server', server)
        self.lab.wait(lambda: listens(self.lab.socket_path),
                      'the server to listen', tick=0.01)
        machines = [self.run_block('linux', linux_machine),
                    self.run_block('cortex-m', cortex_m_machine)]
        for machine in machines:
            self.wait_for_end(machine)
            self.assertEqual(len(check_exchange(machine, 1000)), 1)

    def test_python(self):
        program, = self.commands('### In Python')
        self.lab.start_server(self.lab.server_command(BIN))
        echo = self.lab.start('echo', [ROOT / 'build/guest/ivshmem-peer',
                                       self.lab.socket_path, 'echo'])
        self.lab.wait_for_line(echo, 'id 0')
        test = self.lab.start('test', ['env', '-C', ROOT, sys.executable,
                                       '-c', program])
        self.wait_for_end(test)
        self.assertEqual((test.status, test.lines), (0, ["b'question'"]))

    def start_firmware(self, heading):
        """The firmware below the heading; give the other blocks."""
        *python, firmware, host = self.commands(heading)
        self.lab.start_server(self.lab.server_command(BIN))
        machine = self.run_block('firmware', firmware)
        self.lab.wait_for_line(machine, 'id 0 is there for peer 1')
        return *python, host

    def assert_host_passes(self, command):
        peer = self.run_block('host', command)
        self.wait_for_end(peer)
        self.assertEqual((peer.status, peer.lines[-2:]),
                         (0, ['1000 messages came back, 0 wrong', 'passed']))

    def test_icmsg_in_python(self):
        python, _ = self.start_firmware('## ICMsg, with Zephyr')
        test = self.lab.start('test', ['env', '-C', ROOT, sys.executable,
                                       '-c', python])
        self.wait_for_end(test)
        self.assertEqual((test.status, test.lines), (0, ["b'question'"]))

    def test_icmsg_in_c(self):
        _, host = self.start_firmware('## ICMsg, with Zephyr')
        self.assert_host_passes(host)

    def test_rpmsg(self):
        host, = self.start_firmware('## RPMsg, with Zephyr and others')
        self.assert_host_passes(host)


class Verdict(unittest.TestCase):
    """What a machine printed decides, not only its exit status."""

    def check(self, *lines, status=0):
        machine = types.SimpleNamespace(
            name='A', status=status, lines=list(lines),
            how_it_ended=lambda: f'ended with status {status}')
        return check_exchange(machine, 10)

    def test_good(self):
        self.assertEqual(self.check(
            'id 3, peer 1: 10 messages sent, 10 received, 0 bad CRCs, 0 wrong',
            'id 3, peer 2: 10 messages sent, 10 received, 0 bad CRCs, 0 wrong',
            'passed', '[    4.1] reboot: Power down'), {(3, 1), (3, 2)})

    def test_bad(self):
        report = 'id 3, peer 1: {} messages sent, {} received, {} bad CRCs, {}'
        for lines, status in (
                (['passed'], 1),
                ([report.format(10, 10, 0, '0 wrong'), 'FAILED'], 0),
                ([report.format(10, 10, 0, '0 wrong')], 0),
                ([report.format(9, 10, 0, '0 wrong'), 'passed'], 0),
                ([report.format(10, 9, 0, '0 wrong'), 'passed'], 0),
                ([report.format(10, 10, 1, '0 wrong'), 'passed'], 0),
                ([report.format(10, 10, 0, '1 wrong'), 'passed'], 0)):
            with self.subTest(lines), self.assertRaises(LabError):
                self.check(*lines, status=status)


if __name__ == '__main__':
    unittest.main()
