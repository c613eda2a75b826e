"""Test cases that leave nothing behind, one of them with a lab; and what more
than one test needs.

That one prints what its programs say; tests/run shows it of a failed test,
whatever made it fail. Import it first: it puts tools/ on the path.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import importlib.machinery
import importlib.util
import re
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
from ivshmem_flat.lab import Lab                            # noqa: E402
from tree import BUILD                                      # noqa: E402

BIN = BUILD / 'bin'


def dumped(line):
    """A line that the monitor's xp answers. Each QEMU shows an address in as
    many digits as it likes."""
    return re.sub(r'^0+(?=[0-9a-f]{8}: )', '', line)


def load_program(path):
    """A program of ours as a module, for tests of its parts."""
    loader = importlib.machinery.SourceFileLoader(Path(path).name,
                                                  str(ROOT / path))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class CleanCase(unittest.TestCase):
    """Cleans up even if a signal ends the tests, which unittest does not."""

    def run(self, result=None):
        try:
            return super().run(result)
        except BaseException:
            self.doCleanups()
            raise


class LabCase(CleanCase):
    deadline = 300      # seconds for each test, on a machine under load
    needs = (BIN / 'qemu-system-arm', BIN / 'ivshmem-server')

    def setUp(self):
        for path in self.needs:
            self.assertTrue(path.exists(), f'{path} is missing')
        self.lab = self.enterContext(self.new_lab(self.deadline))

    def new_lab(self, deadline):
        return Lab(deadline, lambda program, line:
                   print(f'{program.name} | {line}'))

    def fail_with_output(self, why):
        """Fail, when the programs have said all that they will."""
        self.lab.kill_all()
        self.fail(why)

    def wait_for_end(self, program):
        self.lab.wait(lambda: program.ended, f'{program.name} to end')
