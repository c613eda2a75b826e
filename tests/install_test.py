#!/usr/bin/env python3
"""make install and uninstall, and what is there in between.

Needs qemu-system-arm, ivshmem-server and qemu-img in $BUILD; those of build/10.0
unless it is set. What FLAVOUR=full has beside, only build/10.0-full can show.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, LabCase

LIST = 'share/ivshmem-flat/installed'
FULL = ROOT / 'build/10.0-full'
PREFIX = '/opt/ivshmem'
MACHINE = ['-machine', 'mps2-an385-ivshmem,ivshmem-chardev=c', '-S',
           '-display', 'none', '-monitor', 'stdio']


def files(folder):
    return sorted(str(path.relative_to(folder))
                  for path in Path(folder).rglob('*') if not path.is_dir())


class Install(LabCase):
    needs = (BIN / 'qemu-system-arm', BIN / 'ivshmem-server',
             BIN.parent / 'obj/qemu-img')

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-install-')
        self.addCleanup(folder.cleanup)
        self.destdir = folder.name
        self.prefix = Path(self.destdir + PREFIX)

    def run_tool(self, action, build=BIN.parent, **environment):
        return subprocess.run(
            [ROOT / 'tools/install', action], text=True, check=False,
            env={**os.environ, 'BUILD': str(build), 'PREFIX': PREFIX,
                 'DESTDIR': self.destdir, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def install(self, build=BIN.parent):
        run = self.run_tool('install', build)
        self.assertEqual(run.returncode, 0, run.stderr)

    def check_refused(self, run, text):
        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, f'^install: .*{text}.*\n$')

    def test_what_is_listed_is_there(self):
        self.install()
        listed = (self.prefix / LIST).read_text().split('\n')[:-1]
        self.assertEqual(sorted([*listed, LIST]), files(self.prefix))
        for path in ('bin/qemu-system-arm', 'bin/qemu-img',
                     'bin/ivshmem-server', 'include/ivshmem/ivshmem_flat.h',
                     'include/ivshmem/ivshmem_msg.h',
                     'share/ivshmem-flat/guest/ivshmem_msg.c',
                     'share/ivshmem-flat/guest/cortex-m/vectors.c',
                     'share/doc/ivshmem-flat/docs/tools.md'):
            self.assertIn(path, listed)

    def test_uninstall_leaves_what_is_not_ours(self):
        other = self.prefix / 'bin/other'
        other.parent.mkdir(parents=True)
        other.write_text('other')
        self.install()
        self.assertEqual(self.run_tool('uninstall').returncode, 0)
        self.assertEqual(files(self.prefix), ['bin/other'])
        self.assertEqual([path.name for path in self.prefix.iterdir()],
                         ['bin'])
        self.check_refused(self.run_tool('uninstall'), LIST)

    def test_install_again_takes_away_what_is_gone(self):
        self.install()
        old = self.prefix / 'include/ivshmem/old.h'
        old.write_text('old')
        with open(self.prefix / LIST, 'a', encoding='utf-8') as list_file:
            list_file.write('include/ivshmem/old.h\n')
        self.install()
        self.assertFalse(old.exists())
        self.assertTrue((self.prefix / 'bin/qemu-img').exists())

    def test_uninstall_stays_inside(self):
        self.install()
        victim = Path(self.destdir, 'victim')
        victim.write_text('mine')
        for path in (str(victim), '../../victim', 'bin/../../../victim'):
            (self.prefix / LIST).write_text(f'{path}\n')
            with self.subTest(path):
                self.check_refused(self.run_tool('uninstall'), 'expected a path')
                self.assertTrue(victim.exists())

    def test_bad_requests(self):
        self.check_refused(self.run_tool('remove'), "'remove', expected check")
        for action in ('check', 'install'):
            self.check_refused(self.run_tool(action, PREFIX='here'),
                               'PREFIX=here, expected an absolute path')
        self.check_refused(self.run_tool('install', build='/none'),
                           'qemu-system-arm is missing')
        self.assertEqual(os.listdir(self.destdir), [])

    def test_is_refused_before_it_is_built(self):
        for destdir in (self.destdir, 'not-there-yet'):
            run = self.run_tool('check', DESTDIR=destdir)
            self.assertEqual((run.returncode, run.stderr), (0, ''))
        self.assertEqual(os.listdir(self.destdir), [])
        Path(self.destdir, 'opt').touch()
        self.check_refused(self.run_tool('check'),
                           f'cannot write to {self.prefix}')
        said = subprocess.run(['make', '-C', ROOT, '-n', 'install'], text=True,
                              stdout=subprocess.PIPE, check=True).stdout
        self.assertRegex(said, r'tools/install check\n(.*\n)*tools/build-qemu')

    def test_python_finds_its_package(self):
        self.install()
        run = subprocess.run(
            [sys.executable, '-c', 'import ivshmem_flat.messages, '
             'ivshmem_flat.icmsg; print(ivshmem_flat.__file__)'],
            cwd=self.destdir, stdout=subprocess.PIPE, text=True, check=True,
            env={'PYTHONPATH':
                 str(self.prefix / 'share/ivshmem-flat/python')})
        self.assertTrue(run.stdout.startswith(str(self.prefix)), run.stdout)

    def test_documents_lead_to_each_other(self):
        self.install()
        links = {text.parent / link
                 for text in (self.prefix / 'share/doc').rglob('*.md')
                 for link in re.findall(r'\]\(([^():#]+)',
                                        text.read_text())}
        self.assertGreaterEqual({link.name for link in links},
                                {'tools.md', 'ivshmem-flat.rst', 'performance.svg'})
        for link in links:
            self.assertTrue(link.exists(), link)

    def test_headers_are_complete(self):
        """They compile from there, with what is in guest/ there."""
        self.install()
        sources = list((self.prefix / 'share/ivshmem-flat/guest').glob('*.c'))
        self.assertTrue(sources)
        for source in sources:
            subprocess.run(
                [os.environ.get('CC', 'cc'), '-std=gnu11', '-fsyntax-only',
                 '-I', self.prefix / 'include/ivshmem', source], check=True)

    def start(self, *options):
        """The quick start's server and machine, from where they are."""
        programs = self.prefix / 'bin'
        self.lab.start_server(self.lab.server_command(programs))
        machine = self.lab.start('QEMU', [
            programs / 'qemu-system-arm', *MACHINE, '-chardev',
            f'socket,id=c,path={self.lab.socket_path}', *options],
            interactive=True)
        machine.type(b'qom-get /machine/ivshmem connected\nquit\n')
        self.wait_for_end(machine)
        self.assertEqual(machine.status, 0)
        self.assertIn('true', machine.lines)

    def test_it_runs_from_there(self):
        self.install()
        self.start()

    def need_full(self):
        if not (FULL / 'bin/qemu-system-arm').exists():
            self.skipTest(f'{FULL} is not built; make install builds it')
        self.install(FULL)

    def test_full_has_the_manual(self):
        self.need_full()
        manual = self.prefix / 'share/doc/ivshmem-flat/manual'
        self.assertTrue((manual / 'index.html').exists())
        for page in 'system/devices/ivshmem-flat', 'specs/ivshmem-spec':
            text = (manual / f'{page}.html').read_text().lower()
            self.assertTrue('doorbell' in text, page)
        self.assertEqual(self.run_tool('uninstall').returncode, 0)
        self.assertEqual(os.listdir(self.prefix), [])

    def test_full_has_user_network(self):
        self.need_full()
        self.start('-nic', 'user')

    def test_full_has_vnc(self):
        self.need_full()
        self.start('-vnc', f'unix:{self.destdir}/vnc')

    def test_full_sandbox(self):
        self.need_full()
        self.start('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,'
                   'spawn=deny,resourcecontrol=deny')

    def test_full_has_the_firmware_of_virt(self):
        """virt has a network card that wants a ROM, on board."""
        self.need_full()
        self.lab.start_server(self.lab.server_command(self.prefix / 'bin'))
        machine = self.lab.start('QEMU', [
            self.prefix / 'bin/qemu-system-aarch64', '-machine', 'virt', '-S',
            '-display', 'none', '-monitor', 'stdio', '-chardev',
            f'socket,id=c,path={self.lab.socket_path}', '-device',
            'ivshmem-flat,id=ivs,chardev=c'], interactive=True)
        machine.type(b'qom-get /machine/peripheral/ivs connected\nquit\n')
        self.wait_for_end(machine)
        self.assertEqual(machine.status, 0, machine.lines)
        self.assertIn('true', machine.lines)


if __name__ == '__main__':
    unittest.main()
