#!/usr/bin/env python3
"""Tests of the package in python/: what it relies upon, fixtures, installation.

Peers, messages and ICMsg have tests of their own: peer_test.py, icmsg_test.py.
Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin), the
firmware in build/guest, and pytest.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import functools
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, CleanCase, LabCase
from ivshmem_flat.words import words_of


@functools.cache
def python_with(*modules):
    """This Python, or Debian's where this is another; None: neither has them"""
    for python in sys.executable, '/usr/bin/python3':
        if subprocess.run([python, '-c', f'import {", ".join(modules)}'],
                          stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return python
    return None


class Words(CleanCase):
    def test_in_one_piece(self):
        """Another process sees the one value or the other, and no mixture."""
        values = 0, 0xffffffff
        with mmap.mmap(-1, 4096) as memory, memoryview(memory) as view:
            words = words_of(view)
            child = os.fork()
            if not child:
                try:
                    while not words[1]:
                        for value in values:
                            words[0] = value
                finally:
                    os._exit(0)
            try:
                seen = {}
                # until it has run beside us for long, whatever else runs here
                while min(seen.get(value, 0) for value in values) < 200_000:
                    value = words[0]
                    seen[value] = seen.get(value, 0) + 1
            finally:
                words[1] = 1
                os.waitpid(child, 0)
                words.release()
            self.assertEqual(set(seen), set(values))


class Fixtures(LabCase):
    """The package as pytest sees it: a test of a user's, run by itself."""
    needs = (*LabCase.needs, ROOT / 'build/guest/echo-mps2.elf')
    BOARD = ("'-machine', 'mps2-an385-ivshmem,ivshmem-chardev=ivshmem', "
             f"'-kernel', '{ROOT}/build/guest/echo-mps2.elf'")

    def setUp(self):
        super().setUp()
        if not python_with('pytest'):
            self.skipTest('no pytest')
        # short, as sockets are below
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(
            prefix='ivshmem-test-')))
        self.labs = self.folder / 'labs'
        self.labs.mkdir()

    def command(self, *words, package=ROOT / 'python/src',
                plugin=('-p', 'ivshmem_flat.pytest_plugin'),
                python=None):
        return ['env', '-C', self.folder, '--default-signal=HUP',
                '--default-signal=INT', f'TMPDIR={self.labs}',
                f'PYTHONPATH={package}', 'PYTHONDONTWRITEBYTECODE=1',
                python or python_with('pytest'), '-m', 'pytest', '-p', 'no:cacheprovider',
                *plugin, *words]

    def pytest(self, *words, **kwargs):
        return self.lab.start('pytest', self.command(*words, **kwargs))

    def run_pytest(self, *words, **kwargs):
        run = self.pytest(*words, **kwargs)
        self.wait_for_end(run)
        self.assertEqual(os.listdir(self.labs), [])
        return run

    def run_sh(self, folder, commands):
        """What is pasted from the page, with this package nowhere else."""
        run = self.lab.start('sh', [
            'env', '-C', folder, '-u', 'PYTHONPATH', f'TMPDIR={self.labs}',
            'PYTHONDONTWRITEBYTECODE=1', 'PYTEST_ADDOPTS=-p no:cacheprovider',
            'sh', '-ec', commands])
        self.wait_for_end(run)
        return run

    def write_test(self, text):
        path = self.folder / 'test_it.py'
        path.write_text('import pytest\n' + text.replace('BOARD', self.BOARD))
        return path

    def with_bin(self, *words):
        return [f'--ivshmem-bin={BIN}', *words]

    def assert_summary(self, run, status, summary):
        self.assertEqual(run.status, status, run.lines)
        self.assertRegex(run.lines[-1], summary)

    def nobody_uses(self, folder):
        """No process has the folder in its command line."""
        def command_of(process):
            try:
                return (process / 'cmdline').read_bytes()
            except OSError:
                return b''
        return not any(f'{folder}/ivshmem-'.encode() in command_of(process)
                       for process in Path('/proc').glob('[0-9]*'))

    def test_example(self):
        run = self.run_pytest(*self.with_bin(ROOT / 'python/example'))
        self.assert_summary(run, 0, r'=+ 8 passed in .*=')

    def test_installed(self):
        """By pip, as a user does it; it brings the plugin with it."""
        python = python_with('ensurepip', 'pytest', 'setuptools', 'wheel')
        if not python:
            self.skipTest('no Python with ensurepip, pytest, setuptools, wheel')
        shutil.copytree(ROOT / 'python', self.folder / 'python',
                        ignore=shutil.ignore_patterns('__pycache__', 'build',
                                                      '*.egg-info'))
        page = (ROOT / 'docs/testing-firmware.md').read_text()
        commands, = re.findall(r'\n\n(    \S+ -m venv .*\n.*\n)', page)
        venv = str(self.folder / 'venv')
        run = self.run_sh(self.folder, commands.replace('/tmp/venv', venv)
                          .replace('/usr/bin/python3', python))
        self.assertEqual(run.status, 0)
        test = self.write_test(
            'import ivshmem_flat.icmsg, ivshmem_flat.machines\n'
            'def test_it(ivshmem_machine, ivshmem_messages):\n'
            '    ivshmem_machine(BOARD)\n'
            '    ivshmem_messages.link(30)\n'
            '    print(ivshmem_flat.__file__)\n')
        command, = re.findall(r'\n\n    (/tmp/venv/bin/\S+ -m pytest .*)\n', page)
        run = self.run_sh(self.folder, command.replace('/tmp/venv', venv)
                          .replace('build/bin', str(BIN))
                          .replace('test_mine.py test_hello.py', f'-rP {test}'))
        self.assert_summary(run, 0, '1 passed')
        self.assertRegex('\n'.join(run.lines),
                         f'\n{venv}/.*/ivshmem_flat/__init__.py')
        # beside the sources is the package's description now
        run = self.run_pytest(*self.with_bin(test),
                              package=self.folder / 'python/src')
        self.assert_summary(run, 0, '1 passed')

    def test_page(self):
        """The tests in docs/testing-firmware.md."""
        page = (ROOT / 'docs/testing-firmware.md').read_text()
        tests = re.findall(r'```python\n# (test_\w+\.py)\n(.*?)```', page,
                           re.S)
        self.assertEqual([name for name, _ in tests],
                         ['test_mine.py', 'test_hello.py', 'test_icmsg.py'])
        subprocess.run(['make', '-s', '-C', ROOT / 'guest/hello',
                        'BOARD=lm3s6965evb', f'OUT={self.folder}'], check=True)
        for name, text in tests:
            (self.folder / name).write_text(text.replace(
                'build/guest/hello', f'{self.folder}/hello').replace(
                'build/guest', f'{ROOT}/build/guest'))
        command, = re.findall(r'\n\n    \S+ -m pytest (.*)\n', page)
        self.assertEqual(command,
                         '--ivshmem-bin=build/bin test_mine.py test_hello.py')
        run = self.run_pytest(*command.replace('build/bin', str(BIN)).split(),
                              'test_icmsg.py')
        self.assert_summary(run, 0, '4 passed')

    def test_page_example(self):
        """Its command, from the repository's root."""
        page = (ROOT / 'docs/testing-firmware.md').read_text()
        command, = re.findall(r'\n\n    (PYTHONPATH=.*\n.*)\n', page)
        run = self.run_sh(ROOT, command.replace('build/bin', str(BIN))
                          .replace('/usr/bin/python3', python_with('pytest')))
        self.assert_summary(run, 0, '8 passed')

    def test_program_on_path_and_in_configuration(self):
        test = self.write_test('def test_it(ivshmem_server):\n    pass\n')
        run = self.lab.start('pytest', [
            'env', f'PATH={BIN}:{os.environ["PATH"]}', *self.command(test)])
        self.wait_for_end(run)
        self.assert_summary(run, 0, '1 passed')
        (self.folder / 'pytest.ini').write_text(
            f'[pytest]\nivshmem_bin = {os.path.relpath(BIN, self.folder)}\n')
        self.assert_summary(self.run_pytest(test), 0, '1 passed')

    def test_program_is_missing(self):
        test = self.write_test('def test_it(ivshmem_server):\n    pass\n')
        run = self.run_pytest(f'--ivshmem-bin={self.labs}', test)
        self.assertEqual(run.status, 1)
        self.assertIn(f'{self.labs}/ivshmem-server is no program, expected '
                      '--ivshmem-bin to name the directory of ivshmem-server',
                      run.lines)
        run = self.lab.start('pytest', [
            'env', f'PATH={self.folder}', shutil.which('env'),
            *self.command(test)[1:]])
        self.wait_for_end(run)
        self.assertEqual(run.status, 1)
        self.assertIn('ivshmem-server is not on PATH, expected '
                      '--ivshmem-bin=DIR or ivshmem_bin in the configuration '
                      'of pytest', run.lines)

    def test_failure_shows_what_machines_said(self):
        test = self.write_test(
            'def test_it(ivshmem_machine, ivshmem_lab):\n'
            '    machine = ivshmem_machine(BOARD, name="A")\n'
            '    ivshmem_lab.wait_for_line(machine, "echoes")\n'
            '    assert False\n')
        run = self.run_pytest(*self.with_bin(test))
        self.assert_summary(run, 1, '1 failed')
        self.assertIn('A | id 0 echoes', run.lines)

    def test_time_is_over(self):
        test = self.write_test(
            'def test_it(ivshmem_machine, ivshmem_lab):\n'
            '    machine = ivshmem_machine(BOARD)\n'
            '    ivshmem_lab.wait_for_line(machine, "never")\n')
        run = self.run_pytest(*self.with_bin(test, '--ivshmem-timeout=10'))
        self.assert_summary(run, 1, '1 failed')
        self.assertIn('ivshmem_flat.lab.LabError: 10 s are over, and still '
                      'waiting for machine machine to say "never"',
                      ' '.join(run.lines).replace('E       ', ''))

    def test_signals(self):
        """Also if the test waits by itself, and of several tests."""
        test = self.write_test(
            '@pytest.mark.parametrize("n", [1, 2])\n'
            'def test_it(ivshmem_machine, ivshmem_messages, ivshmem_peer, n):\n'
            '    ivshmem_machine(BOARD)\n'
            '    ivshmem_messages.link(60)\n'
            '    print("linked", flush=True)\n'
            '    while True:\n'
            '        ivshmem_peer.wait()\n')
        for number, status in ((signal.SIGINT, 2), (signal.SIGTERM, 143),
                               (signal.SIGHUP, 129)):
            with self.subTest(number.name):
                run = self.pytest(*self.with_bin('-s', test))
                self.lab.wait_for_line(run, 'linked')
                os.kill(run.pid, number)
                self.wait_for_end(run)
                self.assertEqual(run.status, status)
                self.assertEqual(os.listdir(self.labs), [])
                self.assertTrue(self.nobody_uses(self.labs))
        run = self.pytest(*self.with_bin('-s', test))
        self.lab.wait_for_line(run, 'linked')
        os.kill(run.pid, signal.SIGKILL)
        self.lab.wait(lambda: self.nobody_uses(self.labs),
                      'the programs to end', tick=0.01)


if __name__ == '__main__':
    unittest.main()
