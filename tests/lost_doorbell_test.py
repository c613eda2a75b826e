#!/usr/bin/env python3
"""No doorbell is lost that is rung at the first moment possible.

One machine sleeps until its doorbell rings; another rings it, once, as soon as
it sees in shared memory that the first is there (guest/doorbell.h). They are
started in each order, many times, while busy loops occupy all CPUs. If a
doorbell were lost, the sleeper would sleep for ever.

STARTS=N in the environment says how often in each order (default 10). With
Linux machines, whose QEMU is Debian's, only if it is set: see `make stress`.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import signal
import unittest

from lab_case import BIN, ROOT, LabCase
from ivshmem_flat.machines import cortex_m, linux
from tree import LINUX, QEMU_AARCH64

FIRMWARE = ROOT / 'build/guest/doorbell-mps2.elf'
HOST_PEER = ROOT / 'build/guest/ivshmem-peer'
STARTS = int(os.environ.get('STARTS') or 10)
DEADLINE = LabCase.deadline     # for each start

# what each says before the other is started
READY = {'sleeper': 'sleeps', 'ringer': 'looks for a sleeper'}
# each role with the other
ORDERS = (('sleeper', 'ringer'), ('ringer', 'sleeper'))

WITH_LINUX = unittest.skipUnless('STARTS' in os.environ,
                                 'takes long, see make stress')


class LostDoorbell(LabCase):
    needs = (*LabCase.needs, FIRMWARE)

    def setUp(self):
        super().setUp()
        self.assertGreaterEqual(STARTS, 1, 'STARTS is too few')
        for _ in range(len(os.sched_getaffinity(0))):
            self.lab.start('load', ['sh', '-c', 'while :; do :; done'])

    def cortex_m(self, lab, role, on_board=True):
        return lab.start(role, cortex_m(
            BIN / 'qemu-system-arm', lab.socket_path, FIRMWARE,
            words=role, on_board=on_board))

    def wait_for_end(self, lab, machine):
        lab.wait(lambda: machine.ended, f'the {machine.name} to end')
        self.assertEqual((machine.status, machine.lines[-1]), (0, 'passed'))

    def start_pairs(self, first, second, stop_first=False):
        """Two Cortex-M machines, both started anew each time.

        stop_first  stop the first one's QEMU while the second one starts
        """
        for start in range(STARTS):
            with self.new_lab(DEADLINE) as lab:
                lab.start_server(lab.server_command(BIN))
                machines = [self.cortex_m(lab, first, on_board=start % 2)]
                lab.wait_for_line(machines[0], READY[first])
                if stop_first:
                    os.kill(machines[0].pid, signal.SIGSTOP)
                machines.append(self.cortex_m(lab, second))
                if stop_first:
                    lab.wait_for_line(machines[1], READY[second])
                    os.kill(machines[0].pid, signal.SIGCONT)
                for machine in machines:
                    self.wait_for_end(lab, machine)

    def test_sleeper_is_there_first(self):
        """The ringer's first instructions ring."""
        self.start_pairs('sleeper', 'ringer')

    def test_ringer_is_there_first(self):
        """The sleeper is rung before the ringer's QEMU may know of it."""
        self.start_pairs('ringer', 'sleeper')

    def test_ringer_is_stopped_meanwhile(self):
        """The CPU finds the sleeper before QEMU has read what the server
        said: the doorbell has to be kept until then."""
        self.start_pairs('ringer', 'sleeper', stop_first=True)

    def join_one_who_stays(self, start_old):
        """Start a Cortex-M machine, many times, beside a peer that stays."""
        for role, other in ORDERS:
            with self.subTest(role), self.new_lab(STARTS * DEADLINE) as lab:
                lab.start_server(lab.server_command(BIN))
                old = start_old(lab, f'{other} {STARTS}')
                for start in range(1, STARTS + 1):
                    self.wait_for_nth_line(lab, old, READY[other], start)
                    self.wait_for_end(lab, self.cortex_m(lab, role))
                    self.wait_for_nth_line(lab, old, 'passed', start)

    def wait_for_nth_line(self, lab, program, text, n):
        lab.wait(lambda: program.ended or
                 sum(text in line for line in program.lines) >= n,
                 f'"{text}" from {program.name}, {n} times')
        self.assertGreaterEqual(
            sum(text in line for line in program.lines), n, program.lines)

    def linux(self, lab, words):
        return lab.start('linux', linux(
            QEMU_AARCH64, lab.socket_path, LINUX, words))

    def test_host_peer_stays(self):
        self.join_one_who_stays(lambda lab, words: lab.start('host', [
            HOST_PEER, lab.socket_path, *words.split()]))

    @WITH_LINUX
    def test_linux_stays(self):
        self.join_one_who_stays(self.linux)

    @WITH_LINUX
    def test_linux_is_started(self):
        """A Linux machine, and a Cortex-M machine that is there already."""
        for _ in range(-(-STARTS // 10)):
            for role, other in ORDERS:
                with self.new_lab(DEADLINE) as lab:
                    lab.start_server(lab.server_command(BIN))
                    old = self.cortex_m(lab, other)
                    lab.wait_for_line(old, READY[other])
                    new = self.linux(lab, role)
                    self.wait_for_end(lab, old)
                    lab.wait(lambda: new.ended, 'Linux to end')
                    self.assertIn('passed', new.lines)


if __name__ == '__main__':
    unittest.main()
