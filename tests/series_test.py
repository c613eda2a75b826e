#!/usr/bin/env python3
"""Tests of tools/patches, on a tree and an overlay in small. That the real
series is good is for tools/check-series to see."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import shutil
import subprocess
import unittest

from lab_case import load_program
from overlay_test import Case, OVERLAY, ROOT, TREE, contents, lay

COMPAT = 'include/hw/misc/ivshmem-flat-compat.h'
SERIES = """# comment
(the ivshmem-flat that QEMU has)
    hw/misc: remove ivshmem-flat

hw/misc/*
include/hw/misc/*
    hw/misc/ivshmem-flat: add it

    # Why, in more
    than one line.

hw/arm/board-ivshmem.c
    hw/arm: add a board

*.edit

tests/qtest/meson.build
docs/*
    tests and docs
"""
SMALL = {
    **OVERLAY,
    'MAINTAINERS': '# behind: before\n\nivshmem-flat\nM: us\n'
                   'F: hw/arm/board*.c\nF: hw/misc/ivshmem-flat.c\n'
                   f'F: {COMPAT}\n',
    'hw/misc/ivshmem-flat.c': '#include "hw/misc/ivshmem-flat-compat.h"\n'
                              'Frontend Data *Datas\nLAST(cpu)\n',
    COMPAT: '#if OLD\n#define Frontend Backend\n#define Data void\n'
            '#else\n#define Data const void\n#endif\n'
            '#if OLD\n#define LAST(c) ((c)->n - 1)\n'
            '#else\n#define LAST(c) ((c)->last)\n#endif\n',
    'patches/cover-letter': '# comment\nA subject\n\nA text.\n',
    'patches/series': SERIES,
}


class Series(Case):
    def setUp(self):
        super().setUp()
        self.tree = self.dir / 'tree'
        self.out = self.dir / 'out'
        lay(self.tree, TREE)
        lay(self.dir / 'overlay', SMALL)
        (self.dir / 'overlay/tools').mkdir()
        for tool in ('apply', 'patches'):
            shutil.copy(ROOT / 'tools' / tool, self.dir / 'overlay/tools')
        lay(self.dir, {'gitconfig': '[user]\nname = A U Thor\n'
                                    'email = author@example.org\n'})

    def run_git(self, *argv, **kwargs):
        return subprocess.run(
            ['git', '-C', self.tree, *argv], env=self.environ(), text=True,
            stdout=subprocess.PIPE, check=True, **kwargs).stdout

    def environ(self):
        return {**os.environ, 'GIT_CONFIG_NOSYSTEM': '1', 'LC_ALL': 'C.UTF-8',
                'GIT_CONFIG_GLOBAL': str(self.dir / 'gitconfig'),
                'GIT_CEILING_DIRECTORIES': str(self.dir.parent)}

    def patches(self, *argv):
        return subprocess.run(
            [self.dir / 'overlay/tools/patches', self.tree, self.out, *argv],
            env=self.environ(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, check=False)

    def write(self, *argv):
        run = self.patches(*argv)
        self.assertEqual(run.returncode, 0, run.stderr)
        return sorted(self.out.iterdir())

    def take(self, patches):
        """git am on the pristine tree, patch by patch: what each changes"""
        self.run_git('init', '--quiet')
        self.run_git('add', '--all')
        self.run_git('commit', '--quiet', '--message', 'pristine')
        result = []
        for patch in patches[1:]:
            self.run_git('am', '--quiet', patch)
            shown = self.run_git('show', '--format=%s', '--name-only')
            result.append(shown.split('\n\n'))
        return [(subject, sorted(names.split())) for subject, names in result]

    def test_ends_where_apply_does(self):
        steps = self.take(self.write())
        self.assertEqual(steps, [
            ('hw/misc: remove ivshmem-flat',
             ['MAINTAINERS', 'docs/system/device-emulation.rst',
              'docs/system/devices/ivshmem-flat.rst', 'hw/misc/Kconfig',
              'hw/misc/ivshmem-flat.c', 'hw/misc/meson.build',
              'hw/misc/trace-events', 'include/hw/misc/ivshmem-flat.h']),
            ('hw/misc/ivshmem-flat: add it',
             ['MAINTAINERS', 'hw/misc/Kconfig', 'hw/misc/ivshmem-flat.c',
              'hw/misc/meson.build', 'hw/misc/trace-events', COMPAT,
              'include/hw/misc/ivshmem-flat.h']),
            ('hw/arm: add a board',
             ['MAINTAINERS', 'hw/arm/board-ivshmem.c']),
            ('chardev: ring', ['chardev/char.c']),
            ('tests and docs',
             ['docs/system/device-emulation.rst',
              'docs/system/devices/ivshmem-flat.rst',
              'tests/qtest/meson.build'])])
        other = self.dir / 'other'
        lay(other, TREE)
        subprocess.run([self.dir / 'overlay/tools/apply', other], check=True,
                       stdout=subprocess.PIPE)
        shutil.rmtree(self.tree / '.git')
        self.assertEqual(contents(self.tree), contents(other))

    def test_who_and_why(self):
        patches = self.write()
        self.take(patches)
        self.assertEqual(
            self.run_git('show', '--no-patch', '--format=%an %ae%n%B', ':/add it'),
            'A U Thor author@example.org\nhw/misc/ivshmem-flat: add it\n\n'
            '# Why, in more\nthan one line.\n\n'
            'Signed-off-by: A U Thor <author@example.org>\n\n')
        self.assertIn('because\n\nSigned-off-by: ',
                      self.run_git('show', '--format=%B', ':/ring'))
        cover = patches[0].read_text()
        self.assertIn('\nSubject: [PATCH 0/5] A subject\n', cover)
        self.assertIn('\n\nA text.\n\nThis series is made for QEMU 10.0.13.\n',
                      cover)

    def test_newest_qemu_needs_no_compat_header(self):
        lay(self.tree, {'VERSION': '11.1.0\n'})
        self.take(self.write())
        self.assertFalse((self.tree / COMPAT).exists())
        self.assertNotIn(COMPAT, (self.tree / 'MAINTAINERS').read_text())
        self.assertEqual((self.tree / 'hw/misc/ivshmem-flat.c').read_text(),
                         'Frontend const void *Datas\ncpu->last\n')

    def test_tree_without_the_older_device(self):
        lay(self.tree, {**RESTORED, 'VERSION': '11.0.0\n'})
        for path in ('hw/misc/ivshmem-flat.c', 'include/hw/misc/ivshmem-flat.h',
                     'docs/system/devices/ivshmem-flat.rst'):
            (self.tree / path).unlink()
        steps = self.take(self.write('--any-version'))
        self.assertEqual(steps[0][0], 'hw/misc/ivshmem-flat: add it')

    def test_unknown_version(self):
        lay(self.tree, {'VERSION': '11.0.0\n'})
        self.check_one_line(self.patches(), '11.0.0', '--any-version')

    def test_git_knows_no_user(self):
        for key, line in (('user.name', 'email = a@example.org'),
                          ('user.email', 'name = A')):
            lay(self.dir, {'gitconfig': f'[user]\n{line}\n'})
            with self.subTest(key):
                self.check_one_line(self.patches(), key, 'git config --global')

    def test_tree_with_the_overlay(self):
        subprocess.run([self.dir / 'overlay/tools/apply', self.tree],
                       stdout=subprocess.PIPE, check=True)
        self.check_one_line(self.patches(), 'has the overlay')

    def test_a_file_in_no_step(self):
        lay(self.dir / 'overlay', {'hw/char/new.c': 'new\n'})
        self.check_one_line(self.patches(), 'no step', 'hw/char/new.c')

    def test_a_step_without_its_file(self):
        (self.dir / 'overlay/hw/arm/board-ivshmem.c').unlink()
        self.check_one_line(self.patches(), 'hw/arm/board-ivshmem.c')

    def test_a_list_in_two_steps(self):
        lay(self.dir / 'overlay', {
            'hw/misc/trace-events': '\n# client.c\nclient() "client"\n'
                                    '\n# ivshmem-flat.c\nnew() "new"\n',
            'patches/series': SERIES.replace(
                'hw/misc/*\n', 'hw/misc/trace-events: client.c\n'
                '    hw/misc: add a client\n\nhw/misc/*\n', 1)})
        patches = self.write()
        steps = self.take(patches)
        self.assertEqual(steps[1], ('hw/misc: add a client',
                                    ['hw/misc/trace-events']))
        self.assertIn('hw/misc/trace-events', steps[2][1])
        text = patches[2].read_text()
        self.assertIn('\n+client() "client"\n', text)
        self.assertNotIn('new()', text)

    def test_lines_that_come_late(self):
        """Of any file, also QEMU's own: those with a word, or a block, which
        ends where its indentation does."""
        board = ('int board;\n\nvoid late(void)\n{\n    {\n    }\n}\n\n'
                 'int a; /* late */\nint b;\nint c; /* late */\n')
        lay(self.dir / 'overlay', {
            'docs/system/devices/ivshmem-flat.rst': 'page\n\nours\n\nend\n',
            'hw/arm/board-ivshmem.c': board,
            'patches/char.edit': OVERLAY['patches/char.edit'] + '+late\n',
            'patches/series': SERIES + '\n'
                              'hw/arm/board-ivshmem.c: void late(void) ... }\n'
                              'hw/arm/board-ivshmem.c: /* late */\n'
                              'chardev/char.c: late\n'
                              'docs/system/devices/ivshmem-flat.rst: ours ... '
                              'ours\n    late\n\n    Why.\n'})
        patches = self.write()
        steps = self.take(patches)
        self.assertEqual(steps[-1], ('late', [
            'chardev/char.c', 'docs/system/devices/ivshmem-flat.rst',
            'hw/arm/board-ivshmem.c']))
        self.assertEqual(
            self.run_git('show', 'HEAD^{/add a board}:hw/arm/board-ivshmem.c'),
            'int board;\n\nint b;\n')
        self.assertEqual(
            self.run_git('show', 'HEAD^{/tests and docs}:docs/system/devices/'
                         'ivshmem-flat.rst'), 'page\n\nend\n')
        self.assertEqual((self.tree / 'hw/arm/board-ivshmem.c').read_text(),
                         board)

    def test_lines_that_are_not_there(self):
        for lines in ('nothing', 'nothing ... }', 'same ... same',
                      'line ... nothing'):
            lay(self.dir / 'overlay', {
                'hw/arm/board-ivshmem.c': 'line\nsame\nsame\n',
                'patches/series': f'{SERIES}\nhw/arm/board-ivshmem.c: {lines}\n'
                                  '    late\n\n    Why.\n'})
            with self.subTest(lines):
                self.check_one_line(self.patches(), 'hw/arm/board-ivshmem.c',
                                    lines, 'no such lines')

    def test_a_word_that_a_list_lacks(self):
        lay(self.dir / 'overlay', {'patches/series':
                                   SERIES + '\nhw/misc/Kconfig: NOTHING\n'
                                            '    nothing\n'})
        self.check_one_line(self.patches(), 'hw/misc/Kconfig: NOTHING',
                            'no such paragraph')

    def test_an_edit_without_a_message(self):
        for text in ('Subject: x\n\n--- chardev/char.c\n line 1\n+x\n',
                     '--- chardev/char.c\n line 1\n+x\n'):
            lay(self.dir / 'overlay', {'patches/b.edit': text})
            with self.subTest(text):
                self.check_one_line(self.patches(), 'patches/b.edit',
                                    'expected "Subject: ..."')

    def test_a_file_that_maintainers_lack(self):
        lay(self.dir / 'overlay', {'MAINTAINERS': SMALL['MAINTAINERS'] +
                                   'F: hw/nothing.c\n'})
        self.check_one_line(self.patches(), 'MAINTAINERS')


# The small tree without each trace of QEMU's own ivshmem-flat
RESTORED = {
    'MAINTAINERS': 'before\n\nafter\n',
    'docs/system/device-emulation.rst': '   devices/cxl.rst\n'
                                        '   devices/net.rst\n',
    'hw/misc/Kconfig': 'config A\n    bool\n\nconfig B\n    bool\n',
    'hw/misc/meson.build': 'a\nb\n',
    'hw/misc/trace-events': '# a.c\na()\n',
}


class Overlay(unittest.TestCase):
    """The series itself, as far as that can be told without a QEMU"""

    LAST = 'hw/misc/ivshmem-flat-user.c'    # from here on it can be dropped

    @classmethod
    def setUpClass(cls):
        cls.patches = load_program('tools/patches')

        series = cls.patches.read_series(
            (ROOT / 'patches/series').read_text())
        cls.versions = []               # (version, steps, overlay)
        for version in cls.patches.apply.KNOWN:
            overlay = cls.patches.apply.read_overlay(
                cls.patches.apply.Tree(ROOT), f'{version}.0')
            edits = cls.patches.apply.edits_for(f'{version}.0')
            cls.versions.append((
                version, cls.patches.expand(series, overlay, edits), overlay))

    def added(self, steps, overlay):
        """What each step adds: {path: lines}"""
        there = {}
        for number, step in enumerate(steps, 1):
            result = {}
            for item in step.brings:
                if item in overlay['files']:
                    there[item] = []
                for path, parts in overlay['edits'].get(item, {}).items():
                    text = '\n'.join(sum((part[1] for part in parts), []))
                    result[path] = self.patches.without_later(
                        {path: text}, steps[number:])[path].splitlines()
            for path, before in there.items():
                text = (ROOT / path).read_text(encoding='utf-8')
                there[path] = self.patches.without_later(
                    {path: text}, steps[number:])[path].splitlines()
                result[path] = [line for line in there[path]
                                if line not in before]
            yield result

    def test_each_part_is_in_the_series_once(self):
        for version, steps, _ in self.versions:
            for step in steps:
                with self.subTest(version, step=step.brings):
                    self.assertRegex(step.message,
                                     r'^[^\n]{1,76}\n\n.')

    def test_what_a_step_includes_is_there(self):
        """No file includes a header that a later step brings."""
        for version, steps, overlay in self.versions:
            there = set()
            for step, files in zip(steps, self.added(steps, overlay)):
                there.update(step.brings)
                wanted = re.findall(r'^#include "(.*)"$',
                                    '\n'.join(sum(files.values(), [])), re.M)
                late = [path for path in set(overlay['files']) - there
                        if any(f'/{path}'.endswith(f'/{name}')
                               for name in wanted)]
                with self.subTest(version, step=step.brings):
                    self.assertEqual(late, [])

    def test_lines_that_come_late_are_there(self):
        """Else nobody can write the series."""
        for version, steps, overlay in self.versions:
            end = {path: (ROOT / path).read_text(encoding='utf-8')
                   for path in overlay['files']}
            for change in (overlay['fragments'], *overlay['edits'].values()):
                for path, parts in change.items():
                    end[path] = '\n'.join(
                        [end.get(path, ''), *sum((p[1] for p in parts), [])])
            with self.subTest(version):
                self.patches.check_lines(end, steps)

    def test_each_step_is_small(self):
        """No more than about 700 lines of C, or the message says why."""
        for version, steps, overlay in self.versions:
            for step, files in zip(steps, self.added(steps, overlay)):
                count = sum(len(lines) for path, lines in files.items()
                            if path.endswith(('.c', '.h'))
                            and not path.startswith('tests/'))
                if 'more than 700 lines' not in ' '.join(step.message.split()):
                    with self.subTest(version, step=step.brings):
                        self.assertLessEqual(count, 750)

    def test_the_last_can_be_dropped(self):
        """Nothing before the x- properties has a word of them, and behind
        them is what makes sense with them alone."""
        words = ('x-bus-address', 'x-irq-qompath', 'flat_user', 'flat-user',
                 'user who places', 'Who has placed')
        for version, steps, overlay in self.versions:
            last = self.brings(steps, self.LAST)
            self.check_words(version, steps, last, overlay, words)
            self.assertEqual(
                [step.message.split('\n')[0] for step in steps[last + 1:]],
                ['hw/core/sysbus-fdt: describe an ivshmem-flat that is not on '
                 'the bus', 'hw/core/platform-bus: say where else a shared '
                 'memory may go'])

    def test_the_peer_registers_come_late(self):
        """Nothing before has a word of them."""
        for version, steps, overlay in self.versions:
            first = self.brings(steps, 'hw/misc/ivshmem-flat-peer-registers.c')
            self.assertEqual(first + 1, self.brings(steps, self.LAST))
            self.check_words(version, steps, first, overlay,
                             ('peer-registers', 'peer_registers',
                              'changes-vector'))

    def brings(self, steps, path):
        """Which step does"""
        return [path in step.brings for step in steps].index(True)

    def check_words(self, version, steps, count, overlay, words):
        """What the first ones add has none of them."""
        for step, files in zip(steps[:count], self.added(steps, overlay)):
            with self.subTest(version, step=step.brings):
                self.assertEqual(
                    [(path, line) for path, lines in files.items()
                     for line in lines if any(map(line.count, words))], [])

    def test_order(self):
        """As the cover letter says"""
        order = [
            'contrib/ivshmem-server: say why it does not start',
            'hw/arm/virt: give the GIC a parent',
            'hw/misc: remove ivshmem-flat',
            'hw/misc/ivshmem-peers: add the table',
            'hw/misc/ivshmem-client: add a client',
            'hw/misc/ivshmem-flat: add inter-VM shared memory',
            'hw/arm/mps2: allow -device ivshmem-flat',
            'hw/arm/microbit: allow -device ivshmem-flat',
            'hw/core/sysbus-fdt: describe ivshmem-flat',
            'hw/arm/virt: allow -device ivshmem-flat',
            'hw/riscv/virt: allow -device ivshmem-flat',
            'tests/qtest: test ivshmem-flat',
            'docs/system/devices: document ivshmem-flat',
            'hw/misc/ivshmem-flat: let a guest find its peers',
            'hw/misc/ivshmem-flat: let a user say where it goes',
        ]
        for version, steps, _ in self.versions:
            subjects = [step.message.split('\n')[0] for step in steps]
            found = [next(i for i, subject in enumerate(subjects)
                          if subject.startswith(begin)) for begin in order]
            with self.subTest(version):
                self.assertEqual(found, sorted(found))

    def test_cover_letter(self):
        """What has led to the order, and what whoever sends it has to know"""
        cover = (ROOT / 'patches/cover-letter').read_text()
        for word in ('CAFEAcA8BpF=gRAfUHk1i8avgsB3Cs7GY=L=S_ANysZApXCHLXQ@'
                     'mail.gmail.com', '2f27572eb5', 'Signed-off-by',
                     'docs/devel/code-provenance.rst', 'written by an AI'):
            self.assertIn(word, cover)
        entry = (ROOT / 'MAINTAINERS').read_text()
        self.assertIn('\nM: Gustavo Romero <gustavo.romero@linaro.org>\n', entry)
        self.assertEqual(entry.count('\nM: '), 2)

    def test_diagram_is_what_its_source_says(self):
        """Of each text in the .dot, the .svg has as many as that."""
        if not shutil.which('dot'):
            self.skipTest('no graphviz')
        page = ROOT / 'docs/system/devices/ivshmem-flat'
        drawn = subprocess.run(
            ['dot', '-Tsvg', page.with_suffix('.dot')], text=True,
            stdout=subprocess.PIPE, check=True).stdout
        texts = [sorted(re.findall(r'<text .*?>(.*)</text>', svg))
                 for svg in (drawn, page.with_suffix('.svg').read_text())]
        self.assertEqual(*texts)


if __name__ == '__main__':
    unittest.main()
