#!/usr/bin/env python3
"""Tests that --help of each of our programs helps, and does nothing else."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What it is called with goes to clang, --help too.
COMPILER = 'clang-for-tests'


class Help(unittest.TestCase):
    def check(self, program):
        with tempfile.TemporaryDirectory(prefix='ivshmem-help-') as folder:
            for option in '--help', '-h':
                # what a user has set, or not built yet, has no say
                run = subprocess.run(
                    [program, option], cwd=folder, text=True, check=False,
                    env={'PATH': os.environ['PATH'], 'HOME': folder,
                         'QEMU_SRC': f'{folder}/none',
                         'BUILD': f'{folder}/build'},
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, timeout=60)
                self.assertEqual((run.returncode, run.stderr), (0, ''))
                lines = run.stdout.splitlines()
                self.assertRegex(lines[0], f'^(usage: .*|tools/){program.name} ')
                self.assertGreater(len(lines), 1)
            self.assertEqual(os.listdir(folder), [])

    def test_tools(self):
        programs = [path for path in sorted((ROOT / 'tools').iterdir())
                    if path.is_file() and os.access(path, os.X_OK)
                    and path.name != COMPILER]
        self.assertGreater(len(programs), 10)
        for program in [*programs, ROOT / 'tests/run']:
            with self.subTest(program.name):
                self.check(program)

    def test_host_peer(self):
        if not shutil.which('make'):
            self.skipTest('no make')
        with tempfile.TemporaryDirectory(prefix='ivshmem-help-') as folder:
            subprocess.run(['make', '-s', '-C', ROOT / 'guest',
                            f'OUT={folder}', 'host'], check=True)
            self.check(Path(folder) / 'ivshmem-peer')


if __name__ == '__main__':
    unittest.main()
