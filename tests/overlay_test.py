#!/usr/bin/env python3
"""Tests of the way from Debian's archive to a QEMU with the overlay in it:
tools/deps, tools/fetch-qemu, tools/apply, tools/build-qemu. No network needed.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or
             Path.home() / '.cache') / 'ivshmem-flat'
NOBODY = 65534

# A QEMU in small, with an ivshmem-flat of its own; each trace of that says
# OLD, or is the name.
TREE = {
    'VERSION': '10.0.13\n',
    'MAINTAINERS': 'before\n\n'
                   'ivshmem-flat\nM: OLD\n\n'
                   'after\n',
    'chardev/char.c': ''.join(f'line {i}\n' for i in range(1, 21)),
    'docs/system/device-emulation.rst': '   devices/cxl.rst\n'
                                        '   devices/ivshmem-flat.rst\n'
                                        '   devices/net.rst\n',
    'docs/system/devices/ivshmem-flat.rst': 'OLD\n',
    'hw/misc/Kconfig': 'config A\n    bool\n\n'
                       'config IVSHMEM_FLAT_DEVICE\n    bool\n    # OLD\n\n'
                       'config B\n    bool\n',
    'hw/misc/ivshmem-flat.c': 'OLD\n',
    'hw/misc/meson.build': "a\nadd(files('ivshmem-flat.c')) # OLD\nb\n",
    'hw/misc/trace-events': '# a.c\na()\n\n# ivshmem-flat.c\nold() "OLD"\n',
    'include/hw/misc/ivshmem-flat.h': 'OLD\n',
    'tests/qtest/meson.build': 'first\nanchor\nlast \f\n',
}

OVERLAY = {
    'MAINTAINERS': '# behind: before\n\nivshmem-flat\nM: us\n',
    'docs/system/device-emulation.rst': '.. behind:    devices/cxl.rst\n'
                                        '   devices/ivshmem-flat.rst\n',
    'docs/system/devices/ivshmem-flat.rst': 'page\n',
    'hw/arm/board-ivshmem.c': 'board\n',
    'hw/misc/Kconfig': '\nconfig IVSHMEM_FLAT_DEVICE\n    bool\n',
    'hw/misc/ivshmem-flat.c': 'device\n',
    'hw/misc/meson.build': "add(files('ivshmem-flat.c'))\n",
    'hw/misc/trace-events': '\n# ivshmem-flat.c\nnew() "new"\n',
    'include/hw/misc/ivshmem-flat.h': 'header\n',
    'patches/char.edit': 'Subject: chardev: ring\n\nbecause\n\n'
                         '--- chardev/char.c\n line 10\n+ivshmem\n',
    'tests/qtest/meson.build': 'at the end\n# behind: anchor\nbehind\n',
}

RESULT = {
    'VERSION': '10.0.13\n',
    'MAINTAINERS': 'before\n\nivshmem-flat\nM: us\n\nafter\n',
    'chardev/char.c': TREE['chardev/char.c'].replace('line 10\n',
                                                     'line 10\nivshmem\n'),
    'docs/system/device-emulation.rst': TREE['docs/system/device-emulation.rst'],
    'docs/system/devices/ivshmem-flat.rst': 'page\n',
    'hw/arm/board-ivshmem.c': 'board\n',
    'hw/misc/Kconfig': 'config A\n    bool\n\nconfig B\n    bool\n\n'
                       'config IVSHMEM_FLAT_DEVICE\n    bool\n',
    'hw/misc/ivshmem-flat.c': 'device\n',
    'hw/misc/meson.build': "a\nb\nadd(files('ivshmem-flat.c'))\n",
    'hw/misc/trace-events': '# a.c\na()\n\n# ivshmem-flat.c\nnew() "new"\n',
    'include/hw/misc/ivshmem-flat.h': 'header\n',
    'tests/qtest/meson.build': 'first\nanchor\nbehind\nlast \f\nat the end\n',
}


def lay(directory, files):
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def snapshot(directory):
    """Everything there is to a tree: names, modes, times and contents."""
    return {path.relative_to(directory).as_posix():
            (path.lstat().st_mode,
             path.lstat().st_mtime_ns if path.is_file() else None,
             path.read_bytes() if path.is_file() else None)
            for path in directory.rglob('*')}


def contents(directory):
    return {name: data.decode() for name, (_, _, data)
            in snapshot(directory).items()
            if data is not None and name != '.ivshmem-flat.json'}


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = Path(self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-overlay-')))

    def check_one_line(self, run, *words):
        """A failure: one line on stderr with these words, exit status 1."""
        self.assertEqual(run.returncode, 1, run.stdout + run.stderr)
        self.assertEqual(len(run.stderr.splitlines()), 1, run.stderr)
        for word in words:
            self.assertIn(word, run.stderr)


class Apply(Case):
    """tools/apply with an overlay and a tree in small"""

    def setUp(self):
        super().setUp()
        self.tree = self.dir / 'tree'
        self.overlay = self.dir / 'overlay'
        lay(self.tree, TREE)
        lay(self.overlay, OVERLAY)
        (self.overlay / 'tools').mkdir()
        shutil.copy(ROOT / 'tools/apply', self.overlay / 'tools')

    def apply(self, *options, **kwargs):
        return subprocess.run(
            [self.overlay / 'tools/apply', *options, self.tree], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
            **kwargs)

    def apply_well(self, *options):
        run = self.apply(*options)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run

    def apply_unprivileged(self, **kwargs):
        """Root may write everywhere, so become somebody who may not."""
        if os.geteuid() != 0:
            return self.apply(**kwargs)
        for path in [self.dir, *self.dir.rglob('*')]:
            os.chown(path, NOBODY, NOBODY)
        return self.apply(user=NOBODY, group=NOBODY, extra_groups=[], **kwargs)

    def check_refused(self, run, before, *words):
        self.check_one_line(run, *words)
        self.assertEqual(snapshot(self.tree), before)

    def test_fresh_tree(self):
        run = self.apply_well()
        self.assertEqual(contents(self.tree), RESULT)
        for line in ('added    hw/arm/board-ivshmem.c',
                     'changed  hw/misc/ivshmem-flat.c',
                     'changed  chardev/char.c'):
            self.assertIn(line, run.stdout.splitlines())
        self.assertNotIn('VERSION', run.stdout)

    def test_second_time_changes_nothing(self):
        self.apply_well()
        before = snapshot(self.tree)
        run = self.apply_well()
        self.assertEqual(snapshot(self.tree), before)
        self.assertIn('nothing to change', run.stdout)

    def test_second_time_without_the_record(self):
        self.apply_well()
        (self.tree / '.ivshmem-flat.json').unlink()
        self.apply_well()
        self.assertEqual(contents(self.tree), RESULT)

    def test_older_device_leaves_no_trace(self):
        for name in OVERLAY:
            (self.overlay / name).unlink()
        run = self.apply_well()
        for name, text in contents(self.tree).items():
            self.assertNotRegex(name + text, '(?i)OLD|ivshmem[-_]flat')
        self.assertEqual(contents(self.tree)['hw/misc/trace-events'],
                         '# a.c\na()\n')
        self.assertIn('removed  hw/misc/ivshmem-flat.c', run.stdout)

    def test_newer_overlay_replaces_former(self):
        self.apply_well()
        lay(self.overlay, {
            'hw/misc/meson.build': 'other\n',
            'tests/qtest/meson.build': '# behind: first\nbehind first\n',
            'patches/char.edit':
                OVERLAY['patches/char.edit'].replace('ivshmem', 'new')})
        (self.overlay / 'hw/arm/board-ivshmem.c').unlink()
        run = self.apply_well()
        self.assertIn('removed  hw/arm/board-ivshmem.c', run.stdout)
        expected = RESULT | {
            'hw/misc/meson.build': 'a\nb\nother\n',
            'tests/qtest/meson.build': 'first\nbehind first\nanchor\nlast \f\n',
            'chardev/char.c': RESULT['chardev/char.c'].replace('ivshmem', 'new')}
        del expected['hw/arm/board-ivshmem.c']
        self.assertEqual(contents(self.tree), expected)

    def test_overlay_of_patches_is_replaced(self):
        """Overlays had unified diffs in the place of .edit files once."""
        lay(self.tree, {
            'chardev/char.c': RESULT['chardev/char.c'].replace(
                'line 5\n', 'line 5\nfive\n').replace(
                'line 18\n', 'line 18\neighteen\n'),
            '.ivshmem-flat.json': json.dumps({
                'files': [], 'fragments': {}, 'patches': {
                    'patches/0001-char.patch':
                        'From: me\n\ndiff --git a/chardev/char.c b/chardev/char.c\n'
                        '--- a/chardev/char.c\n+++ b/chardev/char.c\n'
                        '@@ -4,4 +4,5 @@ x\n line 4\n line 5\n'
                        '+five\n line 6\n line 7\n'
                        '@@ -9,4 +10,5 @@ x\n line 9\n line 10\n'
                        '+ivshmem\n line 11\n line 12\n'
                        'diff --git a/hw/gone.c b/hw/gone.c\n'
                        '--- a/hw/gone.c\n+++ b/hw/gone.c\n'
                        '@@ -1,1 +1,2 @@\n line\n+ivshmem\n',
                    'patches/0002-char.patch':
                        '--- a/chardev/char.c\n+++ b/chardev/char.c\n'
                        '@@ -18,2 +20,3 @@ x\n line 17\n line 18\n'
                        '+eighteen\n line 19\n'}})})
        self.apply_well()
        self.assertEqual(contents(self.tree), RESULT)

    def test_edit_already_there(self):
        lay(self.tree, {'chardev/char.c': RESULT['chardev/char.c']})
        self.apply_well()
        self.assertEqual(contents(self.tree), RESULT)

    def test_edit_leaves_alone_what_the_user_has(self):
        """A line like ours, but elsewhere, is not ours."""
        lay(self.tree, {'chardev/char.c': TREE['chardev/char.c'] + 'ivshmem\n'})
        for _ in range(2):
            self.apply_well()
            self.assertEqual(contents(self.tree)['chardev/char.c'],
                             RESULT['chardev/char.c'] + 'ivshmem\n')

    BLOCKS = ('config A\n    bool\n\n    # more\n    default y\n'
              'config B\n    bool\n    default y\n'
              'int f(int a,\n      int b)\n{\n    x;\n    if (x) {\n'
              '        y;\n    }\n    z;\n}\n'
              'int g(void)\n{\n    x;\n    z;\n}\n')

    def test_edit_in_a_block(self):
        lines = self.BLOCKS.splitlines(keepends=True)
        for anchor, number in (
                (' config A\n     default y\n', 5),
                (' config B\n     default y\n', 8),
                (' int f(int a,\n     x;\n', 12),
                (' int f(int a,\n     if (x) {\n     }\n', 15),
                (' int f(int a,\n }\n', 17),
                (' int g(void)\n     x;\n', 20)):
            lay(self.overlay, {'patches/b.edit':
                               f'--- hw/b.c\n{anchor}+one\n+\n+two\n'})
            lay(self.tree, {'hw/b.c': self.BLOCKS})
            with self.subTest(anchor):
                for _ in range(2):
                    self.apply_well()
                    self.assertEqual(contents(self.tree)['hw/b.c'], ''.join(
                        [*lines[:number], 'one\n\ntwo\n', *lines[number:]]))
                (self.tree / '.ivshmem-flat.json').unlink()

    def test_edit_not_in_the_block(self):
        lay(self.tree, {'hw/b.c': self.BLOCKS})
        for anchor, line, times in (
                (' config A\n     z;\n', '    z;', 0),
                (' int f(int a,\n int g(void)\n', 'int g(void)', 0),
                (' int f(int a,\n     if (x) {\n     z;\n', '    z;', 0),
                (' config A\n     bool\n     default y\n', '    default y', 0),
                (' bool\n', 'bool', 0),
                ('     bool\n', '    bool', 2)):
            lay(self.overlay, {'patches/b.edit': f'--- hw/b.c\n{anchor}+x\n'})
            with self.subTest(anchor):
                self.check_refused(self.apply(), snapshot(self.tree), 'hw/b.c',
                                   f'"{line}" once', f'{times} times')

    def test_edits_with_one_anchor(self):
        """The later one comes between it and the earlier one."""
        lay(self.overlay, {'patches/d.edit': '--- chardev/char.c\n line 10\n'
                                             '+later\n ivshmem\n+last\n'})
        for _ in range(2):
            self.apply_well()
            self.assertEqual(contents(self.tree)['chardev/char.c'],
                             RESULT['chardev/char.c'].replace(
                                 'ivshmem\n', 'later\nivshmem\nlast\n'))

    def test_edit_that_is_none(self):
        for number, text in ((2, '+x\n'), (2, '-x\n'), (2, 'line 10\n'),
                             (3, ' line 10\n*x\n')):
            lay(self.overlay, {'patches/b.edit': f'--- chardev/char.c\n{text}'})
            with self.subTest(text):
                self.check_refused(self.apply(), snapshot(self.tree),
                                   f'patches/b.edit:{number}:', '+LINE TO ADD')
        # Without a line that only we have, nobody can tell if it is done.
        for text in ('', '-line 11\n', '-line 11\n line 12\n+x\n',
                     '-line 11\n-line 12\n+line 11\n'):
            lay(self.overlay, {'patches/b.edit':
                               f'--- chardev/char.c\n line 10\n{text}'})
            with self.subTest(text):
                self.check_refused(self.apply(), snapshot(self.tree),
                                   'patches/b.edit', 'chardev/char.c',
                                   '"line 10"', 'lines to add')

    TAKE = '--- chardev/char.c\n line 3\n-line 4\n-line 5\n+four\n+5\n+six\n'

    def test_edit_that_takes_lines_away(self):
        """Done once; with the record lost, too; and undone with the edit."""
        lay(self.overlay, {'patches/b.edit': self.TAKE})
        taken = RESULT['chardev/char.c'].replace('line 4\nline 5\n',
                                                 'four\n5\nsix\n')
        for _ in range(2):
            for _ in range(2):
                self.apply_well()
                self.assertEqual(contents(self.tree)['chardev/char.c'], taken)
            (self.tree / '.ivshmem-flat.json').unlink()
        self.apply_well()
        (self.overlay / 'patches/b.edit').unlink()
        self.apply_well()
        self.assertEqual(contents(self.tree), RESULT)

    def test_edit_that_takes_other_lines_away_than_before(self):
        lay(self.overlay, {'patches/b.edit': self.TAKE})
        self.apply_well()
        lay(self.overlay, {'patches/b.edit':
                           '--- chardev/char.c\n line 4\n-line 5\n+five\n'})
        self.apply_well()
        self.assertEqual(contents(self.tree)['chardev/char.c'],
                         RESULT['chardev/char.c'].replace('line 5', 'five'))

    def test_edit_takes_lines_away_beside_other_edits(self):
        lay(self.overlay, {
            'patches/b.edit': self.TAKE,
            'patches/d.edit': '--- chardev/char.c\n line 3\n+d\n'
                              ' line 6\n-line 7\n+seven\n line 8\n+e\n'})
        for _ in range(2):
            self.apply_well()
            self.assertEqual(
                contents(self.tree)['chardev/char.c'],
                RESULT['chardev/char.c'].replace(
                    'line 4\nline 5\n', 'd\nfour\n5\nsix\n').replace(
                    'line 7\nline 8\n', 'seven\nline 8\ne\n'))
        for name in 'bd':
            (self.overlay / f'patches/{name}.edit').unlink()
        self.apply_well()
        self.assertEqual(contents(self.tree), RESULT)

    def test_edit_takes_away_what_is_not_there(self):
        """Also if it stands elsewhere, or the user has changed it since"""
        for text, line, behind in (
                (' line 3\n-line 5\n', 'line 5', 'line 3'),
                (' line 3\n-line 4\n-line 6\n', 'line 6', 'line 4'),
                (' line 20\n-line 21\n', 'line 21', 'line 20')):
            lay(self.overlay, {'patches/b.edit':
                               f'--- chardev/char.c\n{text}+x\n'})
            with self.subTest(text):
                self.check_refused(self.apply(), snapshot(self.tree),
                                   'chardev/char.c: expected the line '
                                   f'"{line}" directly behind "{behind}"')
        lay(self.overlay, {'patches/b.edit': self.TAKE})
        self.apply_well()
        path = self.tree / 'chardev/char.c'
        path.write_text(path.read_text().replace('5\nsix', '5\nuser'))
        self.check_refused(self.apply(), snapshot(self.tree),
                           'chardev/char.c', '"line 4"', '"line 3"')

    def test_record_of_edits_that_took_nothing_away(self):
        """A record of those has no place for it."""
        self.apply_well()
        record = self.tree / '.ivshmem-flat.json'
        before = json.loads(record.read_text())
        part, = before['edits']['char.edit']['chardev/char.c']
        self.assertEqual(part.pop(), [])
        record.write_text(json.dumps(before))
        lay(self.overlay, {'patches/char.edit': self.TAKE})
        self.apply_well()
        self.assertEqual(contents(self.tree)['chardev/char.c'],
                         TREE['chardev/char.c'].replace(
                             'line 4\nline 5\n', 'four\n5\nsix\n'))

    def test_section_of_maintainers_grows(self):
        """Ours stays apart from it."""
        grown = {path: text.replace('before\n', 'before\nF: new\n')
                 for path, text in (('MAINTAINERS', TREE['MAINTAINERS']),
                                    ('result', RESULT['MAINTAINERS']))}
        lay(self.tree, {'MAINTAINERS': grown['MAINTAINERS']})
        for _ in range(2):
            self.apply_well()
            self.assertEqual(contents(self.tree)['MAINTAINERS'],
                             grown['result'])

    def test_edit_for_older_versions(self):
        """It takes the other's place in its own QEMU, and in older ones: not in
        what comes behind that."""
        def edit(word):
            return f'--- chardev/char.c\n ivshmem\n+{word}\n'
        lay(self.overlay, {
            'patches/d.edit': edit('newest'),
            'patches/11.0/d.edit': edit('older'),
            'patches/10.0/e.edit': 'QEMU 10.0 needs none.\n',
            'patches/e.edit': edit('not in ten')})
        for version, words in (('10.0.13', 'older\n'),
                               ('10.2.2', 'not in ten\nolder\n'),
                               ('11.1.0', 'not in ten\nnewest\n'),
                               ('9.2.0', 'older\n'),
                               ('10.2.50', 'not in ten\nolder\n'),
                               ('11.0.50', 'not in ten\nnewest\n'),
                               ('11.0.92', 'not in ten\nnewest\n'),
                               ('x', 'not in ten\nnewest\n'),
                               ('10.0.14', 'older\n')):
            with self.subTest(version):
                lay(self.tree, {'VERSION': version + '\n'})
                self.apply_well('--any-version')
                self.assertEqual(
                    contents(self.tree)['chardev/char.c'],
                    RESULT['chardev/char.c'].replace(
                        'ivshmem\n', f'ivshmem\n{words}'))

    def test_header_that_has_moved(self):
        """Where the tree has it, by the name that it has there"""
        ours = ('#include "hw/core/irq.h"\n#include "hw/core/cpu.h"\n'
                '#include "qemu/aio.h"\n#include "hw/core/none.h"\n')
        lay(self.overlay, {
            'hw/misc/ivshmem-flat.c': ours,
            'patches/char.edit': '--- chardev/char.c\n'
                                 ' #include "hw/core/irq.h"\n'
                                 '-#include "qemu/aio.h"\n'
                                 '+#include "hw/core/boards.h"\n'})
        former = {'hw/core/irq.h': 'hw/irq.h', 'qemu/aio.h': 'block/aio.h',
                  'hw/core/boards.h': 'hw/boards.h'}
        for names in (former, {new: new for new in former}):
            shutil.rmtree(self.tree)
            lay(self.tree, TREE | {
                f'include/{name}': '' for name in
                ('hw/core/cpu.h', 'hw/cpu.h', *names.values())} | {
                'chardev/char.c': f'#include "{names["hw/core/irq.h"]}"\n'
                                  f'#include "{names["qemu/aio.h"]}"\n'})
            with self.subTest(names):
                for _ in range(2):
                    self.apply_well()
                    there = contents(self.tree)
                    expected = ours
                    for new, name in names.items():
                        expected = expected.replace(new, name)
                    self.assertEqual(there['hw/misc/ivshmem-flat.c'], expected)
                    self.assertEqual(
                        there['chardev/char.c'],
                        f'#include "{names["hw/core/irq.h"]}"\n'
                        f'#include "{names["hw/core/boards.h"]}"\n')

    def test_keeps_modes(self):
        (self.tree / 'chardev/char.c').chmod(0o600)
        (self.overlay / 'hw/arm/board-ivshmem.c').chmod(0o755)
        self.apply_well()
        for name, mode in (('chardev/char.c', 0o600),
                           ('hw/arm/board-ivshmem.c', 0o755)):
            self.assertEqual((self.tree / name).stat().st_mode & 0o777, mode)

    def test_known_versions(self):
        """The newest one's with what is on the way behind it, QEMU's master"""
        for version in '10.0.0', '10.2.2', '11.1.0', '11.1.50':
            with self.subTest(version):
                lay(self.tree, {'VERSION': version + '\n'})
                self.assertEqual(self.apply_well().stderr, '')

    def test_unknown_version_refused(self):
        for version in ('9.2.4', '10.1.2', '10.20.1', '10.2.50', '11.0.92',
                        '10.0', 'x'):
            with self.subTest(version):
                lay(self.tree, {'VERSION': version + '\n'})
                self.check_refused(self.apply(), snapshot(self.tree),
                                   f'QEMU {version},',
                                   '10.0.x or 10.2.x or 11.1.x')

    def test_unknown_version_on_request(self):
        lay(self.tree, {'VERSION': '11.0.0\n'})
        run = self.apply_well('--any-version')
        self.assertRegex(run.stderr, r'warning: .* QEMU 11\.0\.0')
        self.assertEqual(contents(self.tree), RESULT | {'VERSION': '11.0.0\n'})

    def test_no_qemu_tree(self):
        (self.tree / 'VERSION').unlink()
        self.check_refused(self.apply(), snapshot(self.tree), 'VERSION')

    def test_no_tree(self):
        shutil.rmtree(self.tree)
        self.check_one_line(self.apply(), str(self.tree), 'no directory')

    def test_missing_anchor(self):
        lay(self.tree, {'tests/qtest/meson.build': 'anchor2\n'})
        self.check_refused(self.apply(), snapshot(self.tree),
                           'tests/qtest/meson.build', '"anchor"', '0 times')

    def test_ambiguous_anchor(self):
        lay(self.tree, {'tests/qtest/meson.build': 'anchor\nanchor\n'})
        self.check_refused(self.apply(), snapshot(self.tree),
                           'tests/qtest/meson.build', '"anchor"', '2 times')

    def test_missing_list(self):
        (self.tree / 'hw/misc/Kconfig').unlink()
        self.check_refused(self.apply(), snapshot(self.tree), 'hw/misc/Kconfig')

    def test_edit_to_another_line(self):
        for text, times in (('line 10 of another version', 0),
                            ('line 10\nline 10', 2)):
            lay(self.tree, {'chardev/char.c': TREE['chardev/char.c'].replace(
                'line 10', text)})
            self.check_refused(self.apply(), snapshot(self.tree),
                               'chardev/char.c', '"line 10"', f'{times} times')

    def test_edit_to_missing_file(self):
        (self.tree / 'chardev/char.c').unlink()
        self.check_refused(self.apply(), snapshot(self.tree),
                           'chardev/char.c', 'no such file')

    def test_file_in_the_way(self):
        lay(self.tree, {'hw/arm/board-ivshmem.c': "the user's own\n"})
        self.check_refused(self.apply(), snapshot(self.tree),
                           'hw/arm/board-ivshmem.c')

    def test_broken_record(self):
        lay(self.tree, {'.ivshmem-flat.json': '{'})
        self.check_refused(self.apply(), snapshot(self.tree),
                           '.ivshmem-flat.json')

    def test_read_only_file(self):
        (self.tree / 'hw/misc/meson.build').chmod(0o444)
        before = snapshot(self.tree)
        self.check_refused(self.apply_unprivileged(), before,
                           'hw/misc/meson.build', 'read-only')

    def test_unwritable_directory(self):
        # found late, when most files are in their places
        (self.tree / 'tests/qtest').chmod(0o555)
        before = snapshot(self.tree)
        self.check_refused(self.apply_unprivileged(), before,
                           'tests/qtest/meson.build', 'Permission denied')

    def test_disk_full(self):
        lay(self.overlay, {'include/hw/misc/ivshmem-flat.h': 'x' * 9000})
        limit = (8000, 8000)
        self.check_refused(
            self.apply(preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_FSIZE, limit)),
            snapshot(self.tree), 'include/hw/misc/ivshmem-flat.h')

    def test_two_at_once(self):
        (self.tree / '.ivshmem-flat.tmp').mkdir()
        self.check_refused(self.apply(), snapshot(self.tree),
                           '.ivshmem-flat.tmp')


class RealTree(Case):
    """tools/apply with this overlay and Debian's QEMUs, as far as in the cache"""

    def check(self, qemu):
        files = CACHE / f'qemu-{qemu}'
        if not (files / 'SHA256SUMS').exists():
            self.skipTest(f'no source of QEMU {qemu} in {CACHE}')
        dsc, = re.findall(r'\S+\.dsc$', (files / 'SHA256SUMS').read_text(), re.M)
        tree = self.dir / 'tree'
        subprocess.run(['dpkg-source', '--no-check', '--no-copy', '-x',
                        files / dsc, tree],
                       check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

        bare = self.dir / 'bare/tools'
        bare.mkdir(parents=True)
        shutil.copy(ROOT / 'tools/apply', bare)
        subprocess.run([bare / 'apply', tree], check=True,
                       stdout=subprocess.DEVNULL)
        grep = subprocess.run(['grep', '-rIli', 'ivshmem[-_]flat', '.'],
                              cwd=tree, text=True, stdout=subprocess.PIPE,
                              check=False)
        self.assertEqual(grep.stdout, '', 'traces of the older device')

        for expected in ('added    hw/misc/ivshmem-flat.c', 'nothing to change'):
            run = subprocess.run([ROOT / 'tools/apply', tree], text=True,
                                 stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, check=False)
            self.assertEqual(run.returncode, 0, run.stdout)
            self.assertIn(expected, run.stdout)

    def test_10_0(self):
        self.check('10.0')

    def test_10_2(self):
        self.check('10.2')

    def test_11_1(self):
        self.check('11.1')


class Tools(Case):
    """The shell tools with stand-ins for Debian's programs"""

    def setUp(self):
        super().setUp()
        shutil.copytree(ROOT / 'tools', self.dir / 'tools')
        self.files = self.dir / 'cache/ivshmem-flat/qemu-10.0'
        self.set = {}               # variables for the tool
        self.stand_in('apt-get', '''
            case $* in
            indextargets*) echo "bookworm main mirror:/debian" ;;
            *update) echo "E: Could not resolve the mirror"; exit 100 ;;
            *) exit 100 ;;
            esac''')
        # as dpkg-source --no-check --no-copy -x DSC DIR
        self.stand_in('dpkg-source', 'mkdir "$5"; cp "$4" "$5/VERSION"')

    def stand_in(self, name, script):
        lay(self.dir / 'bin', {name: f'#!/bin/bash\n{script}\n'})
        (self.dir / 'bin' / name).chmod(0o755)

    def tool(self, *argv, **kwargs):
        environ = {name: value for name, value in os.environ.items()
                   if name not in ('BUILD', 'FLAVOUR', 'QEMU', 'QEMU_SRC')}
        environ |= {'XDG_CACHE_HOME': str(self.dir / 'cache'),
                    'PATH': f'{self.dir}/bin:{os.environ["PATH"]}', **self.set}
        return subprocess.run([self.dir / 'tools' / argv[0], *argv[1:]],
                              env=environ, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False, **kwargs)

    def fill_cache(self):
        lay(self.files, {'qemu_10.0.dsc': '10.0.13\n', 'SHA256SUMS':
                         hashlib.sha256(b'10.0.13\n').hexdigest() +
                         '  qemu_10.0.dsc\n'})

    def test_fetch_unknown_version(self):
        self.check_one_line(self.tool('fetch-qemu', '9.2', self.dir / 'src'),
                            'QEMU=9.2', '10.0, 10.2 or 11.1')

    def test_fetch_without_network(self):
        self.check_one_line(self.tool('fetch-qemu', '10.0', self.dir / 'src'),
                            'Could not resolve the mirror', 'QEMU_SRC=DIR')
        self.assertFalse((self.dir / 'src').exists())

    def test_fetch_without_network_from_the_cache(self):
        self.fill_cache()
        run = self.tool('fetch-qemu', '10.0', self.dir / 'src')
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn('using the cache', run.stdout)
        self.assertEqual(contents(self.dir / 'src'), {'VERSION': '10.0.13\n'})

    def test_fetch_from_a_damaged_cache(self):
        self.fill_cache()
        lay(self.files, {'qemu_10.0.dsc': '10.0.14\n'})
        self.check_one_line(self.tool('fetch-qemu', '10.0', self.dir / 'src'),
                            'Could not resolve the mirror')

    def test_fetch_another_version_than_the_cached(self):
        """Of a version that is fixed, the cache may have an older one."""
        self.files = self.files.with_name('qemu-10.2')
        self.fill_cache()
        self.check_one_line(self.tool('fetch-qemu', '10.2', self.dir / 'src'),
                            'Could not resolve the mirror')
        self.assertIn('qemu_10.0.dsc', contents(self.files))

    def archive(self, *script):
        """An apt whose index may name what its mirror does not have"""
        self.stand_in('apt-get', f'''
            suite=$(sed -n 's/.* \\([^ ]*\\) main$/\\1/p' "{self.dir}"/cache/*/apt-*/sources.list)
            case $* in
            indextargets*) echo "bookworm main mirror:/debian" ;;
            *update) ;;
            {chr(10).join(script)}
            esac''')

    def uris(self, version):
        name = f'qemu_{version}.dsc'
        digest = hashlib.sha256(b'11.1.3\n').hexdigest()
        return f"""echo "'mirror:/{name}' {name} 7 SHA256:{digest}" ;;"""

    def test_fetch_what_a_mirror_lacks(self):
        self.archive('*--print-uris*) ' + self.uris('11.1.3'),
                     '*) echo "E: Failed to fetch x  404  Not Found"; exit 100 ;;')
        run = self.tool('fetch-qemu', '11.1', self.dir / 'src')
        self.assertEqual(run.returncode, 3, run.stdout + run.stderr)
        self.assertRegex(run.stderr, r"^fetch-qemu: .* QEMU 11\.1\.x .*"
                         r"trixie-backports \(its index names files that the "
                         r"mirror does not have\), sid \(.*\); "
                         r"give .* QEMU_SRC=DIR\n$")
        self.assertFalse((self.dir / 'src').exists())

    def test_fetch_from_the_suite_that_has_it(self):
        self.archive('*--print-uris*) [[ $suite == sid ]] && ' +
                     self.uris('11.1.3').replace(';;', '||') +
                     self.uris('11.2.0'),
                     '*) echo 11.1.3 >qemu_11.1.3.dsc ;;')
        run = self.tool('fetch-qemu', '11.1', self.dir / 'src')
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertEqual(contents(self.dir / 'src'), {'VERSION': '11.1.3\n'})

    def test_fetch_of_a_version_that_is_no_more(self):
        self.archive('*--print-uris*) ' + self.uris('11.2.0'), '*) exit 1 ;;')
        run = self.tool('fetch-qemu', '11.1', self.dir / 'src')
        self.assertEqual(run.returncode, 3, run.stdout + run.stderr)
        self.assertIn('sid (it has another version)', run.stderr)

    def test_fetch_once(self):
        lay(self.dir / 'src', {'VERSION': 'mine\n'})
        for tool, what in ('fetch-qemu', '10.0'), ('fetch-linux', 'trixie'):
            run = self.tool(tool, what, self.dir / 'src')
            self.assertEqual((run.returncode, run.stdout, run.stderr),
                             (0, '', ''))
        self.assertEqual(contents(self.dir / 'src'), {'VERSION': 'mine\n'})

    def test_fetch_unpacking_fails(self):
        self.fill_cache()
        self.stand_in('dpkg-source', 'mkdir "$5"; echo "No space left"; exit 1')
        self.check_one_line(self.tool('fetch-qemu', '10.0', self.dir / 'src'),
                            'qemu_10.0.dsc', 'No space left')
        self.assertFalse((self.dir / 'src').exists())

    def fill_linux_cache(self, name='linux-trixie'):
        files = {'linux-image-6.1.deb': 'kernel\n', 'busybox.deb': 'shell\n'}
        sums = ''.join(f'{hashlib.sha256(text.encode()).hexdigest()}  {name}\n'
                       for name, text in files.items())
        lay(self.dir / 'cache/ivshmem-flat' / name,
            {**files, 'SHA256SUMS': sums})
        # as dpkg-deb -x DEB DIR
        self.stand_in('dpkg-deb', 'mkdir -p "$3"; cp "$2" "$3"')

    def test_fetch_linux_of_unknown_suite(self):
        self.check_one_line(
            self.tool('fetch-linux', 'buster', self.dir / 'src'),
            'LINUX=buster', 'bookworm or trixie')

    def test_fetch_linux_without_network(self):
        self.check_one_line(
            self.tool('fetch-linux', 'trixie', self.dir / 'src'),
            'trixie', 'Could not resolve the mirror', 'check the network')
        self.assertFalse((self.dir / 'src').exists())

    def test_fetch_linux_without_network_from_the_cache(self):
        self.fill_linux_cache()
        run = self.tool('fetch-linux', 'trixie', self.dir / 'src')
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn('using the cache', run.stdout)
        self.assertEqual(contents(self.dir / 'src'), {
            'linux-image-6.1.deb': 'kernel\n', 'busybox.deb': 'shell\n'})

    def test_fetch_headers_from_the_cache_of_their_kernel(self):
        self.fill_linux_cache('linux-trixie-6.12.1-cloud-arm64')
        for kernel, status in ('6.12.1-cloud-arm64', 0), ('6.12.2', 1):
            run = self.tool('fetch-linux', 'trixie', self.dir / kernel, kernel)
            self.assertEqual(run.returncode, status, run.stderr)
        self.assertIn('busybox.deb', contents(self.dir / '6.12.1-cloud-arm64'))

    def test_build_linux_for_an_unknown_driver(self):
        self.check_one_line(self.tool('build-linux', 'xyz'),
                            "'xyz'", 'vfio or uio')

    def test_fetch_linux_from_a_damaged_cache(self):
        self.fill_linux_cache()
        lay(self.dir / 'cache/ivshmem-flat/linux-trixie',
            {'busybox.deb': 'another\n'})
        self.check_one_line(
            self.tool('fetch-linux', 'trixie', self.dir / 'src'),
            'Could not resolve the mirror')

    def test_check_series_without_patches(self):
        self.set['BUILD'] = str(self.dir / 'series')
        out = self.dir / 'out'
        out.mkdir()
        self.check_one_line(self.tool('check-series', self.dir, out), str(out),
                            'expected what make patches writes')

    def test_check_series_from_no_patch(self):
        self.set['BUILD'] = str(self.dir / 'series')
        out = self.dir / 'out'
        lay(out, {'0000-cover.patch': '', '0001-a.patch': ''})
        for number in ('0', '2', '-1', 'x', '1x'):
            self.set['FROM'] = number
            with self.subTest(number):
                self.check_one_line(
                    self.tool('check-series', self.dir, out),
                    f"FROM is '{number}'", 'expected 1 to 1')
        self.assertFalse((self.dir / 'series').exists())

    def test_check_qemu_with_a_tree_of_the_user(self):
        tree = self.dir / 'tree'
        self.set['QEMU_SRC'] = str(tree)
        self.check_one_line(self.tool('check-qemu'), str(tree),
                            'no QEMU source tree')
        lay(tree, {'VERSION': '11.1.0\n', '.ivshmem-flat.json': '{}'})
        self.check_one_line(self.tool('check-qemu'), str(tree),
                            'expected a tree without it')

    def test_check_qemu_builds_a_copy_of_the_users_tree(self):
        tree = self.dir / 'tree'
        lay(tree, {'VERSION': '11.1.0\n'})
        before = snapshot(tree)
        lay(self.dir / 'tools', {'build-qemu':
            '#!/bin/bash\necho "$QEMU_SRC" "$(<"$QEMU_SRC/VERSION")"\n'
            'touch "$QEMU_SRC/overlay"; exit 1\n'})
        self.set['QEMU_SRC'] = str(tree)
        run = self.tool('check-qemu', 'gates')
        self.assertEqual(run.stdout.split(),
                         [f'{self.dir}/build/own-gates/src', '11.1.0'])
        self.check_one_line(run, 'QEMU own does not build')
        self.assertEqual(snapshot(tree), before)

    def test_build_without_room(self):
        self.stand_in('df', 'echo Avail; echo 17')
        run = self.tool('build-qemu')
        self.check_one_line(run, str(self.dir / 'build'), '17 MB', '1500 MB')

    def test_build_of_no_tree(self):
        self.set['QEMU_SRC'] = str(self.dir / 'nothing')
        self.check_one_line(self.tool('build-qemu'),
                            str(self.dir / 'nothing'), 'no directory')

    def test_deps_unknown_group(self):
        self.check_one_line(self.tool('deps', 'nonsense'), "'nonsense'", 'qemu')

    def test_deps_nothing_missing(self):
        self.stand_in('dpkg-query', '''
            shift 3
            printf "installed %s 99\\n" "$@"''')
        self.stand_in('apt-get', 'echo "must not be called" >&2; exit 1')
        run = self.tool('deps', 'qemu', 'firmware', 'check')
        self.assertEqual((run.returncode, run.stdout, run.stderr), (0, '', ''))

    def test_deps_without_network(self):
        self.need_debian()
        if os.geteuid() != 0:
            self.skipTest('needs root')
        self.stand_in('dpkg-query', 'exit 1')
        self.check_one_line(self.tool('deps', 'check'),
                            'Could not resolve the mirror', 'check the network')

    def test_deps_asks_sudo(self):
        self.need_debian()
        self.stand_in('dpkg-query', 'exit 1')
        self.stand_in('sudo', 'echo "sudo $*"')
        kwargs = {}
        if os.geteuid() == 0:
            for path in [self.dir, *self.dir.rglob('*')]:
                os.chown(path, NOBODY, NOBODY)
            kwargs = {'user': NOBODY, 'group': NOBODY, 'extra_groups': []}
        run = self.tool('deps', 'check', **kwargs)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn(f'sudo -- {self.dir}/tools/deps check', run.stdout)

    def need_debian(self):
        release = Path('/etc/os-release').read_text()
        if not re.search('^ID=debian$', release, re.M):
            self.skipTest('needs Debian')


if __name__ == '__main__':
    unittest.main()
