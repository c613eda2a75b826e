"""Tests in C of what is in guest/, as test cases.

Each test in a NAME.c is a test case, plain and with the sanitizers that have
something to say about it: see add_tests(). What they test is also compiled for
the oldest and the newest kind of core that it promises to suit: see Portable.
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
WARNINGS = ['-std=gnu11', '-Wall', '-Wextra', '-Wshadow', '-Werror']
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
    """The tests as they are.

    tests    where they are, without .c
    sources  what they test, in guest/
    flags    for the compiler
    kinds    of each test, the program's first argument; or none
    """
    tests = ()
    sources = ()
    flags = ()
    kinds = ()

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-compiled-')
        cls.addClassCleanup(folder.cleanup)
        cls.program = Path(folder.name) / cls.tests[0]
        status, output = run([
            os.environ.get('CC', 'cc'), '-O2', '-g', *WARNINGS, *cls.flags,
            '-pthread', '-I', GUEST, *(TESTS / f'{name}.c' for name in
                                       cls.tests),
            *(GUEST / source for source in cls.sources), '-o', cls.program])
        if status:
            raise AssertionError(f'cannot compile {cls.tests}:\n{output}')


class Memory(Compiled):
    """With AddressSanitizer and UndefinedBehaviorSanitizer."""
    flags = ('-fsanitize=address,undefined', '-fno-sanitize-recover=all')


class Threads(Compiled):
    """With ThreadSanitizer, which does not know fences, nor needs to here."""
    flags = ('-fsanitize=thread', '-Wno-tsan')


def tests_in(names):
    """What is there: whether it is a test of threads, and what it is called"""
    return [test for name in names for test in
            re.findall(r'^TEST(_OF_THREADS)?\((\w+)\)$',
                       (TESTS / f'{name}.c').read_text(), re.M)]


def add_test(cls, name):
    """Give this class a method for the test, or one for each kind."""
    for kind in [[kind] for kind in cls.kinds] or [[]]:
        def test(self, kind=kind):
            status, output = run([self.program, *kind, name])
            self.assertEqual(status, 0, output)
        setattr(cls, '_'.join(['test', name, *kind]), test)


def add_tests(plain, memory, threads):
    """Give these classes methods for each of their tests."""
    names = tests_in(plain.tests)

    def test_none_is_forgotten(self):
        _, usage = run([self.program])
        self.assertEqual(sorted(re.findall(r'^  (\w+)$', usage, re.M)),
                         sorted(name for _, name in names))
    plain.test_none_is_forgotten = test_none_is_forgotten

    for of_threads, name in names:
        add_test(plain, name)
        add_test(memory, name)
        if of_threads:
            add_test(threads, name)


class Portable(unittest.TestCase):
    """Some of guest/ needs no library but the compiler's own, and what
    guest/cortex-m/string.c has.

    sources  of it; headers, too
    """
    sources = ()

    def compile(self, compiler, *flags):
        if not shutil.which(compiler):
            self.skipTest(f'no {compiler}')
        with tempfile.TemporaryDirectory(prefix='ivshmem-compiled-') as folder:
            objects = []
            for source in (*self.sources, 'cortex-m/string.c'):
                path = GUEST / source
                if path.suffix == '.h':
                    path = Path(folder) / 'include.c'
                    path.write_text(f'#include "{source}"\n')
                objects.append(Path(folder) / f'{len(objects)}.o')
                status, output = run(
                    [compiler, '-O2', '-ffreestanding', *WARNINGS, *flags,
                     '-I', GUEST, '-c', path, '-o', objects[-1]])
                self.assertEqual(status, 0, output)
            status, output = run(
                [compiler, *flags, '-nostdlib', '-static', '-Wl,-e,0',
                 *objects, '-lgcc', '-o', Path(folder) / 'linked'])
            self.assertEqual(status, 0, output)

    def test_cortex_m0(self):
        self.compile('arm-none-eabi-gcc', '-mcpu=cortex-m0', '-mthumb')

    def test_cortex_m33(self):
        self.compile('arm-none-eabi-gcc', '-mcpu=cortex-m33', '-mthumb')

    def test_aarch64(self):
        self.compile('aarch64-linux-gnu-gcc')

    def test_host(self):
        self.compile(os.environ.get('CC', 'cc'), '-Wconversion')
