#!/usr/bin/env python3
"""What ivshmem-server says when it starts, and when it does not; patches/
has the edits. And what it says of too little room, QEMU says too.

Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin) and a C
compiler.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import os
import select
import signal
import socket
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, LabCase
from ivshmem_flat.lab import LabError
from ivshmem_flat.peer import Peer

SERVER = BIN / 'ivshmem-server'
NOTICE = '*** Example code, do not use in production ***'
DEADLINE = 60       # seconds for what must come, on a machine under load


def setUpModule():
    global tools
    tools = tempfile.TemporaryDirectory(prefix='ivshmem-statvfs-')
    unittest.addModuleCleanup(tools.cleanup)
    subprocess.run([os.environ.get('CC', 'cc'), '-O1', '-Wall', '-Wextra',
                    '-shared', '-fPIC', '-o', f'{tools.name}/shim.so',
                    ROOT / 'tests/statvfs-shim.c'], check=True)


class Server(LabCase):
    needs = (BIN / 'qemu-system-arm', SERVER)

    def setUp(self):
        super().setUp()
        self.command = self.lab.server_command(BIN)
        self.socket = self.lab.socket_path

    def refused(self, *options):
        """What it says on stderr, when it ends at once."""
        run = subprocess.run([*self.command, *options], text=True, check=False,
                             capture_output=True, timeout=DEADLINE)
        self.assertEqual(run.returncode, 1, run)
        self.assertEqual(run.stdout.strip(), NOTICE)
        return run.stderr.removesuffix('\n')

    def listening(self, *options):
        """Start it, wait for its line alone; return its Program."""
        server = self.lab.start('server', [*self.command, *options])
        self.lab.wait_for_line(server, 'listening on ')
        return server

    @contextlib.contextmanager
    def daemon(self, said):
        """It runs as a daemon, and has ended behind the block.

        said  the file that its standard output and error are
        """
        if BIN.parent.name.endswith('-sanitize'):
            self.skipTest('what another thread holds of AddressSanitizer\'s '
                          'allocator at a fork stays locked in the daemon, '
                          'which then waits for ever when it ends')
        pid_file = Path(self.socket + '-pid')
        command = [word for word in self.command if word != '-F']
        subprocess.run([*command, '-p', pid_file], check=True, stdout=said,
                       stderr=said, timeout=DEADLINE)
        self.lab.wait(lambda: pid_file.exists() and pid_file.read_text(),
                      'the PID', tick=0.01)
        daemon = os.pidfd_open(int(pid_file.read_text()))
        self.addCleanup(os.close, daemon)
        try:
            yield
        finally:
            signal.pidfd_send_signal(daemon, signal.SIGTERM)
            ended, *_ = select.select([daemon], [], [], DEADLINE)
            if not ended:
                signal.pidfd_send_signal(daemon, signal.SIGKILL)
            self.assertTrue(ended, 'the daemon did not end')

    def test_says_when_it_listens(self):
        server = self.listening()
        self.assertEqual(server.lines[-1], f'listening on {self.socket}')
        with Peer(self.socket) as peer:
            self.assertEqual(peer.id, 0)

    def test_says_nothing_more_as_a_daemon(self):
        with tempfile.TemporaryFile('w+') as said:
            with self.daemon(said), Peer(self.socket) as peer:
                self.assertEqual(peer.id, 0)
            said.seek(0)
            self.assertNotIn('listening', said.read())

    def test_no_such_folder(self):
        path = os.path.join(os.path.dirname(self.socket), 'none', 'socket')
        self.assertEqual(self.refused('-S', path), f'cannot bind to {path}: '
                         'No such file or directory')

    def test_path_of_the_socket_is_too_long(self):
        path = '/tmp/' + 103 * 'x'
        self.assertEqual(self.refused('-S', path),
                         'socket path is too long, expected up to 107 bytes: '
                         + path)
        path = '/tmp/' + 5000 * 'x'
        self.assertEqual(self.refused('-S', path),
                         f'socket path is too long: {path}')

    def test_path_of_the_memory_is_too_long(self):
        path = '/tmp/' + 5000 * 'x'
        self.assertEqual(self.refused('-m', path),
                         f'shared memory path is too long: {path}')

    def test_a_file_is_in_the_way(self):
        Path(self.socket).write_text('mine')
        self.assertEqual(self.refused(), f'cannot bind to {self.socket}: '
                         'Address already in use')
        self.assertEqual(Path(self.socket).read_text(), 'mine')

    def test_socket_of_another_server(self):
        """It stays there, and hears nothing of that."""
        self.listening()
        with Peer(self.socket) as peer:
            self.assertEqual(self.refused(), f'cannot bind to {self.socket}: '
                             'Address already in use')
            with Peer(self.socket) as second:
                self.assertEqual(second.id, peer.id + 1)

    def test_socket_that_does_not_listen_yet(self):
        """Somebody has it, and it stays."""
        with socket.socket(socket.AF_UNIX) as owner:
            owner.bind(self.socket)
            self.assertIn('Address already in use', self.refused())
            self.assertTrue(stat.S_ISSOCK(os.lstat(self.socket).st_mode))

    def test_socket_that_was_left_behind(self):
        first = self.listening()
        first.kill()
        self.wait_for_end(first)
        self.assertTrue(os.path.exists(self.socket))
        self.listening()
        with Peer(self.socket) as peer:
            self.assertEqual(peer.id, 0)

    def test_link_to_a_socket_is_not_removed(self):
        with socket.socket(socket.AF_UNIX) as owner:
            owner.bind(self.socket + '-')
        os.symlink(self.socket + '-', self.socket)
        self.assertIn('Address already in use', self.refused())
        self.assertTrue(os.path.islink(self.socket))

    def test_sizes(self):
        for given, size in (('0', 0), ('2G', 2 << 30), ('100G', 100 << 30),
                            ('1073741825', (1 << 30) + 1)):
            with self.subTest(given):
                self.assertEqual(
                    self.refused('-l', given), f'size of shared memory is '
                    f'{size} bytes, expected 1 to 1073741824')
        for given, size in (('1', 1), ('3M', 4 << 20), ('1G', 1 << 30)):
            with self.subTest(given):
                server = self.listening('-l', given)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(self.socket)
                    client.settimeout(DEADLINE)
                    fds = []
                    while not fds:
                        _, fds, _, _ = socket.recv_fds(client, 8, 1)
                    self.assertEqual(os.fstat(fds[0]).st_size, size)
                    os.close(fds[0])
                server.kill()
                self.wait_for_end(server)

    def test_help_tells_of_sizes(self):
        run = subprocess.run([SERVER, '-h'], text=True, check=True,
                             capture_output=True, timeout=DEADLINE)
        self.assertIn('up to 1G, rounded up to a power of 2', run.stdout)

    def test_memory_of_another_server(self):
        """The first keeps it, a peer does not, and so it can be had later."""
        self.command = self.lab.server_command(BIN, restarts=True)
        name = self.lab.named_memory().name
        other = ('-S', self.socket + '2')
        first = self.listening('-l', '1M')
        with Peer(self.socket) as peer:
            peer.memory[0] = 42
            self.assertEqual(self.refused(*other, '-l', '2M'), 'shared memory '
                             f'{name} is in use by another server')
            self.assertEqual(self.lab.named_memory().stat().st_size, 1 << 20)
            first.kill()
            self.wait_for_end(first)
            self.listening(*other, '-l', '1M')
            with Peer(self.socket + '2') as later:
                self.assertEqual(later.memory[0], 42)

    def test_daemon_keeps_its_memory(self):
        """That is another process than the one that took it."""
        self.command = self.lab.server_command(BIN, restarts=True)
        with self.daemon(subprocess.DEVNULL):
            self.assertIn('is in use by another server',
                          self.refused('-S', self.socket + '2'))

    def warning(self, room, *options):
        """What it says when the file system has so much room."""
        server = self.lab.start('server', [
            'env', f'LD_PRELOAD={tools.name}/shim.so', f'ROOM={room}',
            *self.command, *options])
        self.lab.wait_for_line(server, 'listening on ')
        server.kill()
        self.wait_for_end(server)
        return [line for line in server.lines if line.startswith('warning')]

    def test_warns_of_too_little_room(self):
        self.assertEqual(
            self.warning(65536, '-l', '1M'),
            ['warning: shared memory /dev/shm of 1048576 bytes has room for '
             '65536: what uses more is killed by SIGBUS'])
        for room in (1 << 20, 'none'):
            with self.subTest(room):
                self.assertEqual(self.warning(room, '-l', '1M'), [])

    def test_what_the_memory_has_already_is_room(self):
        self.command = self.lab.server_command(BIN, restarts=True)
        self.lab.named_memory().write_bytes(bytes(1 << 20))
        self.assertEqual(self.warning(0, '-l', '1M'), [])
        self.assertEqual(len(self.warning(0, '-l', '2M')), 1)

    def test_qemu_warns_of_too_little_room(self):
        self.listening('-l', '1M')
        for room, warnings in (
                (65536, ['qemu-system-arm: warning: ivshmem-flat: shared '
                         'memory of 1048576 bytes has room for 65536: what '
                         'uses more is killed by SIGBUS']),
                (1 << 20, []), ('none', [])):
            with self.subTest(room):
                machine = self.lab.start('QEMU', [
                    'env', f'LD_PRELOAD={tools.name}/shim.so', f'ROOM={room}',
                    BIN / 'qemu-system-arm', '-machine',
                    'mps2-an385-ivshmem,ivshmem-chardev=c,accel=qtest',
                    '-display', 'none', '-chardev',
                    f'socket,id=c,path={self.socket}', '-qmp', 'stdio'],
                    interactive=True)
                machine.type(b'{"execute": "qmp_capabilities"}'
                             b'{"execute": "quit"}')
                self.wait_for_end(machine)
                self.assertEqual(machine.status, 0)
                self.assertEqual([line for line in machine.lines
                                  if 'warning' in line], warnings)

    def test_lab_says_what_the_server_said(self):
        with self.assertRaisesRegex(LabError, 'cannot bind to /none/s: No '):
            self.lab.start_server([*self.command, '-S', '/none/s'])


if __name__ == '__main__':
    unittest.main()
