#!/usr/bin/env python3
"""Tests of how our files are written, as far as a program can tell."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# These add lines to files that have a licence, or are the licence.
NO_LICENCE_LINE = {'COPYING', 'README.md', 'MAINTAINERS', 'Kconfig',
                   'meson.build', 'trace-events', 'device-emulation.rst',
                   'ivshmem-spec.rst', 'mps2.rst', '.gitignore',
                   '.shellcheckrc'}


TEXT_OF = {'MIT': 'LICENSES/MIT.txt', 'Apache-2.0': 'LICENSES/Apache-2.0.txt',
           'GPL-2.0-or-later': 'COPYING'}


def licence_of(path):
    """What goes into Zephyr's tree has Zephyr's licence; what users take into
    their firmware and their tests is theirs to take."""
    if path.parts[0] == 'zephyr':
        return 'Apache-2.0'
    if path.parts[0] in ('guest', 'python') or path.match('tools/ivshmem*'):
        return 'MIT'
    return 'GPL-2.0-or-later'


def our_files():
    """Every file of the repository, with its text."""
    listed = subprocess.run(
        ['git', '-c', 'safe.directory=*', '-C', ROOT, 'ls-files', '-z',
         '--cached', '--others', '--exclude-standard'],
        text=True, stdout=subprocess.PIPE, check=True).stdout
    for name in listed.split('\0'):
        path = ROOT / name
        if path.is_file():
            yield Path(name), path.read_text(errors='replace')


class Style(unittest.TestCase):
    maxDiff = None

    def test_licence_lines(self):
        wrong = []
        for path, text in our_files():
            if path.name not in NO_LICENCE_LINE and path.suffix != '.edit' \
                    and path.parts[0] != 'LICENSES':
                named = re.findall(r'^.{0,5}SPDX-License-Identifier: (\S+)',
                                   text, re.M)
                if named != [licence_of(path)]:
                    wrong.append(f'{path}: {named}')
        self.assertEqual(wrong, [])

    def test_licence_texts(self):
        """README names each licence and where its text is, and no more."""
        readme = (ROOT / 'README.md').read_text()
        section = readme.partition('\n## Licence\n')[2]
        for licence, place in TEXT_OF.items():
            self.assertIn(licence, section)
            self.assertIn(place.partition('/')[0], section)
            self.assertTrue((ROOT / place).is_file(), place)
        self.assertEqual({str(path) for path, _ in our_files()
                          if path.parts[0] == 'LICENSES'},
                         set(TEXT_OF.values()) - {'COPYING'})

    def test_what_users_take_comes_alone(self):
        """Files under MIT include and import no file under another licence."""
        files = dict(our_files())
        licences = {}
        for path in files:
            licences.setdefault(path.name, set()).add(licence_of(path))
        seen = 0
        for path, text in files.items():
            if licence_of(path) != 'MIT':
                continue
            names = re.findall(r'^\s*#\s*include "(?:.*/)?(.*)"', text, re.M)
            if path.suffix == '.py':
                names += [f'{name}.py' for name in re.findall(
                    r'^\s*(?:import|from) (?:[.]|ivshmem_flat[.])?(\w+)',
                    text, re.M)]
            for name in names:
                if name in licences:
                    seen += 1
                    self.assertIn('MIT', licences[name],
                                  f'{path} takes {name}')
        self.assertTrue(seen)

    def test_white_space(self):
        bad = [f'{path}:{number}' for path, text in our_files()
               for number, line in enumerate(text.split('\n'), 1)
               if line != line.rstrip() or
               '\t' in line and path.suffix in ('.c', '.h', '.py', '')
               and path.name not in ('Makefile', 'COPYING')
               and path.parts[0] != 'zephyr']      # whose style is tabs
        self.assertEqual(bad, [])

    def test_shell(self):
        if not shutil.which('shellcheck'):
            self.skipTest('no shellcheck')
        scripts = [ROOT / path for path, text in our_files()
                   if re.match(r'#!.*\bbash|# shellcheck shell=bash', text)]
        self.assertTrue(scripts)
        for script in scripts:
            with self.subTest(script.relative_to(ROOT)):
                run = subprocess.run(['shellcheck', '-x', script], text=True,
                                     stdout=subprocess.PIPE, check=False)
                self.assertEqual(run.stdout, '')
                self.assertRegex(script.read_text(),
                                 'set -euo pipefail|shell=bash')

    def test_python(self):
        for path, text in our_files():
            if path.suffix == '.py' or re.match('#!.*python3', text):
                with self.subTest(path):
                    compile(text, path, 'exec')

    def test_length_of_tests(self):
        """A file of tests has one theme, and can be read from end to end."""
        lengths = {path: text.count('\n') for path, text in our_files()
                   if path.match('tests/*.py') or path.match('tests/*.[ch]') or
                   path.parts[:2] in (('tests', 'qtest'), ('tests', 'unit'))}
        self.assertGreater(len(lengths), 30)
        self.assertEqual({str(path): length for path, length in lengths.items()
                          if length > 1500}, {})

    def test_each_fuzzer_has_a_corpus(self):
        """By which tools/fuzz finds it."""
        fuzzers = [name for path in ROOT.glob('tests/qtest/fuzz/*_fuzz.c')
                   for name in re.findall(r'\.name = "(.*)",\n +\.description',
                                          path.read_text())]
        self.assertTrue(fuzzers)
        self.assertEqual(sorted(fuzzers), sorted(
            path.stem for path in ROOT.glob('tests/fuzz-corpus/*')))

    def test_no_place_of_one_machine(self):
        """No file names a mirror, or where somebody's clone is."""
        places = re.compile(r'\bdeb\.\w|ftp\d?\.\w+\.debian|/(?:home|root|work)/')
        bad = [f'{path}: {found[0]}' for path, text in our_files()
               if path != Path(__file__).resolve().relative_to(ROOT)
               for found in places.finditer(text)]
        self.assertEqual(bad, [])


if __name__ == '__main__':
    unittest.main()
