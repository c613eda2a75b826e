#!/usr/bin/env python3
"""Tests of the message layer (guest/ivshmem_msg.c) on the host.

Each test in msg_test.c is a test case here, plain and with the sanitizers that
have something to say about it. The layer is also compiled for the oldest and
the newest kind of core that it promises to suit.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent
GUEST = TESTS.parent / 'guest'
SOURCES = [TESTS / 'msg_test.c', GUEST / 'ivshmem_msg.c', GUEST / 'exchange.c']
WARNINGS = ['-std=gnu11', '-Wall', '-Wextra', '-Wshadow', '-Werror']
NAMES = re.findall(r'^TEST(_OF_THREADS)?\((\w+)\)$', SOURCES[0].read_text(),
                   re.M)
DEADLINE = 300      # seconds for one test, on a machine under load


def run(argv, **kwargs):
    """Run a command to its end; give its status and all that it printed."""
    # a sanitizer's report must not be mixed with what a user has set
    environ = {k: v for k, v in os.environ.items()
               if not re.match('[ATU].*SAN_OPTIONS$', k)}
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, env=environ, timeout=DEADLINE, **kwargs)
    return done.returncode, done.stdout


class Compiled(unittest.TestCase):
    """msg_test.c, compiled with some flags."""
    flags = []

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-msg-')
        cls.addClassCleanup(folder.cleanup)
        cls.program = Path(folder.name) / 'msg_test'
        status, output = run([os.environ.get('CC', 'cc'), '-O2', '-g',
                              *WARNINGS, *cls.flags, '-pthread', '-I', GUEST,
                              *SOURCES, '-o', cls.program])
        if status:
            raise AssertionError(f'cannot compile msg_test.c:\n{output}')


class Plain(Compiled):
    """The tests as they are."""

    def test_none_is_forgotten(self):
        _, usage = run([self.program])
        self.assertEqual(re.findall(r'^  (\w+)$', usage, re.M),
                         [name for _, name in NAMES])


class Memory(Compiled):
    """With AddressSanitizer and UndefinedBehaviorSanitizer."""
    flags = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all']


class Threads(Compiled):
    """With ThreadSanitizer, which does not know fences, nor needs to here."""
    flags = ['-fsanitize=thread', '-Wno-tsan']


def add_test(cls, name):
    def test(self):
        status, output = run([self.program, name])
        self.assertEqual(status, 0, output)
    setattr(cls, f'test_{name}', test)


for of_threads, test_name in NAMES:
    add_test(Plain, test_name)
    add_test(Memory, test_name)
    if of_threads:
        add_test(Threads, test_name)


class Portable(unittest.TestCase):
    """The layer and the driver compile without any library."""

    def compile(self, compiler, *flags):
        if not shutil.which(compiler):
            self.skipTest(f'no {compiler}')
        with tempfile.TemporaryDirectory(prefix='ivshmem-msg-') as folder:
            for source in ('ivshmem_msg.c', 'exchange.c', 'driver.c'):
                path = GUEST / source
                if not path.exists():
                    path = Path(folder) / source
                    path.write_text('#include "ivshmem_flat.h"\n')
                status, output = run(
                    [compiler, '-O2', '-ffreestanding', *WARNINGS, *flags,
                     '-I', GUEST, '-c', path, '-o', Path(folder) / 'out.o'])
                self.assertEqual(status, 0, output)

    def test_cortex_m0(self):
        self.compile('arm-none-eabi-gcc', '-mcpu=cortex-m0', '-mthumb')

    def test_cortex_m33(self):
        self.compile('arm-none-eabi-gcc', '-mcpu=cortex-m33', '-mthumb')

    def test_aarch64(self):
        self.compile('aarch64-linux-gnu-gcc')

    def test_host(self):
        self.compile(os.environ.get('CC', 'cc'), '-Wconversion')


if __name__ == '__main__':
    unittest.main()
