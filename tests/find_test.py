#!/usr/bin/env python3
"""Machines that find each other, with no id in firmware or on a command line.

The device has peer registers, and the firmware walks over them. Whichever of
the two is started or started anew, and in which order, they talk, and all that
the one asks comes back from the other. The server stays, so that ids grow with
each start.

STARTS=N in the environment says how often (default 20). Needs qemu-system-arm
and ivshmem-server in build/bin (or $BUILD/bin) and what is in build/guest.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import unittest

from lab_case import BIN, ROOT, LabCase
from ivshmem_flat.machines import cortex_m
from tree import FIRMWARE

GUEST = ROOT / 'build/guest'
STARTS = int(os.environ.get('STARTS') or 20)
MESSAGES = 20


class Find(LabCase):
    deadline = LabCase.deadline + 10 * STARTS
    needs = (*LabCase.needs, FIRMWARE, GUEST / 'icmsg-mps2.elf')

    def start(self, name, words, on_board):
        return self.lab.start(name, [
            *cortex_m(BIN / 'qemu-system-arm', self.lab.socket_path,
                      GUEST / 'icmsg-mps2.elf', words=words,
                      on_board=on_board),
            '-global', 'ivshmem-flat.peer-registers=on'])

    def start_echo(self, on_board):
        echo = self.start('echo', 'sessions=1', on_board)
        self.lab.wait_for_line(echo, 'is there for all')
        return echo

    def start_asker(self, on_board, more=0):
        asker = self.start('asker', f'messages={MESSAGES} more={more} '
                           'sessions=1 tx=4096 rx=0', on_board)
        self.lab.wait_for_line(asker, 'is there for all')
        return asker

    def wait_for_asker(self, asker, more=0):
        self.wait_for_end(asker)
        self.assertEqual((asker.status, asker.lines[-1]), (0, 'passed'))
        self.assertIn(f'{(1 + more) * MESSAGES} messages came back, '
                      '0 wrong', asker.lines)

    def stop(self, machine):
        machine.kill()
        self.wait_for_end(machine)

    def start_pairs(self, *order):
        """Both anew, each time; in turns with the device on board."""
        self.lab.start_server(self.lab.server_command(BIN))
        for number in range(STARTS):
            machines = {name: getattr(self, f'start_{name}')(
                on_board=bool(number & 1)) for name in order}
            self.wait_for_asker(machines['asker'])
            self.stop(machines['echo'])

    def test_echo_is_there_first(self):
        self.start_pairs('echo', 'asker')

    def test_asker_is_there_first(self):
        self.start_pairs('asker', 'echo')

    def test_asker_is_restarted(self):
        """It leaves with a goodbye, and the echo waits for the next."""
        self.lab.start_server(self.lab.server_command(BIN))
        echo = self.start_echo(on_board=True)
        for number in range(STARTS):
            self.wait_for_asker(self.start_asker(on_board=bool(number & 1)))
        self.stop(echo)

    def test_echo_is_restarted(self):
        """It is killed, and the asker asks the next."""
        self.lab.start_server(self.lab.server_command(BIN))
        asker = self.start_asker(on_board=True, more=STARTS)
        for more in range(STARTS, 0, -1):
            echo = self.start_echo(on_board=bool(more & 1))
            self.lab.wait_for_line(asker, f': {more} more peers')
            self.stop(echo)
        self.start_echo(on_board=False)
        self.wait_for_asker(asker, STARTS)

    def start_exchange(self, name, words):
        return self.lab.start(name, [
            *cortex_m(BIN / 'qemu-system-arm', self.lab.socket_path, FIRMWARE,
                      words=words),
            '-global', 'ivshmem-flat.peer-registers=on',
            '-global', 'ivshmem-flat.changes-vector=0'])

    def test_who_is_killed_has_left(self):
        """The firmware sleeps, and is woken by the change alone; the slot is
        the next one's."""
        self.lab.start_server(self.lab.server_command(BIN))
        stays = self.start_exchange('stays', f'messages={MESSAGES}')
        self.lab.wait_for_line(stays, 'id 0, slot 0')
        for number in range(1, 10):
            # one with more to say than the other has, so that it waits
            other = self.start_exchange(f'other {number}',
                                        f'messages={2 * MESSAGES}')
            # its own slot, or for the 8th the first that somebody has left
            self.lab.wait_for_line(other,
                                   f'id {number}, slot {number % 8 or 1}')
            self.lab.wait_for_line(stays, f'peer {number} is there')
            self.stop(other)
            self.lab.wait_for_line(stays, f'peer {number} has left')
        last = self.start_exchange('last', f'messages={MESSAGES}')
        for machine in (stays, last):
            self.wait_for_end(machine)
            self.assertEqual((machine.status, machine.lines[-1]),
                             (0, 'passed'))


if __name__ == '__main__':
    unittest.main()
