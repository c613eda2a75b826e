"""A test case that has a lab, and shows in a failure what its programs said.

Import it first: it puts tools/ on the path.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
from ivshmem_lab import BUILD, Lab                          # noqa: E402

BIN = BUILD / 'bin'


class LabCase(unittest.TestCase):
    deadline = 120      # seconds for each test, on a machine under load
    needs = (BIN / 'qemu-system-arm', BIN / 'ivshmem-server')

    def setUp(self):
        for path in self.needs:
            self.assertTrue(path.exists(), f'{path} is missing')
        self.shown = []
        self.lab = Lab(self.deadline, lambda program, line: self.shown.append(
            f'{program.name} | {line}'))
        self.lab.__enter__()
        self.addCleanup(self.lab.__exit__)

    def _formatMessage(self, msg, standardMsg):
        return '\n'.join([super()._formatMessage(msg, standardMsg),
                          *self.shown])

    def fail_with_output(self, why):
        """Fail, when the programs have said all that they will."""
        self.lab.kill_all()
        self.fail('\n'.join([why, *self.shown]))

    def wait_for_end(self, program):
        self.lab.wait(lambda: program.ended, f'{program.name} to end')
