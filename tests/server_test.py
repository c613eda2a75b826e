#!/usr/bin/env python3
"""What ivshmem-server says when it starts, and when it does not; patches/
has the edits.

Needs ivshmem-server in build/bin (or $BUILD/bin).
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import signal
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, LabCase
from ivshmem_peer import Peer

SERVER = BIN / 'ivshmem-server'
NOTICE = '*** Example code, do not use in production ***'
DEADLINE = 60       # seconds for what must come, on a machine under load


class Server(LabCase):
    needs = (SERVER,)

    def setUp(self):
        super().setUp()
        self.command = self.lab.server_command(BIN)
        self.socket = self.lab.socket_path

    def listening(self, *options):
        """Start it, wait for its line alone; return its Program."""
        server = self.lab.start('server', [*self.command, *options])
        self.lab.wait_for_line(server, 'listening on ')
        return server

    def test_says_when_it_listens(self):
        server = self.listening()
        self.assertEqual(server.lines[-1], f'listening on {self.socket}')
        with Peer(self.socket) as peer:
            self.assertEqual(peer.id, 0)

    def test_says_nothing_more_as_a_daemon(self):
        folder = os.path.dirname(self.socket)
        pid_file = Path(folder, 'pid')
        command = [word for word in self.command if word != '-F']
        # its standard output stays open with the daemon: not a pipe
        with tempfile.TemporaryFile('w+') as said:
            subprocess.run([*command, '-p', pid_file], check=True, stdout=said,
                           stderr=said, timeout=DEADLINE)
            try:
                with Peer(self.socket) as peer:
                    self.assertEqual(peer.id, 0)
            finally:
                self.lab.wait(lambda: pid_file.exists() and
                              pid_file.read_text(), 'the PID', tick=0.01)
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
                self.lab.wait(lambda: not os.path.exists(self.socket),
                              'the daemon to end', tick=0.01)
            said.seek(0)
            self.assertNotIn('listening', said.read())


if __name__ == '__main__':
    unittest.main()
