#!/usr/bin/env python3
"""Tests that each header in guest/ can be included alone, and from C++.

There, what it declares keeps its name in C, so that it can be linked.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import shutil
import tempfile
import unittest
from pathlib import Path

from compiled import GUEST, run

WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Werror']
HEADERS = sorted(path.relative_to(GUEST) for path in GUEST.rglob('*.h'))
FIRMWARE = {'cortex-m': ['-mcpu=cortex-m3', '-mthumb', '-ffreestanding',
                         '-I', GUEST / 'cortex-m/mps2'],
            'cortex-r': ['-mcpu=cortex-r52', '-marm', '-ffreestanding']}
FUNCTION = re.compile(r'^(?!static)(?:\w+ )+\*?(\w+)\([^{};]*\)[^{};]*;', re.M)


class CPlusPlus(unittest.TestCase):
    def compile(self, header, standard, folder):
        # what it declares, and does not define
        names = FUNCTION.findall((GUEST / header).read_text())
        prefix, flags = '', []
        core = header.parts[0]
        if core in FIRMWARE:
            prefix = 'arm-none-eabi-'
            flags = [*FIRMWARE[core], '-I', GUEST / core]
        if not shutil.which(f'{prefix}g++'):
            self.skipTest(f'no {prefix}g++')
        source, result = Path(folder) / 'use.cc', Path(folder) / 'use.o'
        source.write_text(f'#include "{header}"\n' * 2 + ''.join(
            f'auto use_{name} = &{name};\n' for name in names))
        status, output = run([f'{prefix}g++', f'-std={standard}', *WARNINGS,
                              *flags, '-I', GUEST, '-c', source, '-o', result])
        self.assertEqual(status, 0, output)
        status, output = run([f'{prefix}nm', '-u', result])
        self.assertEqual(status, 0, output)
        self.assertEqual(sorted(re.findall(r' U (\S+)', output)),
                         sorted(names))
        return names

    def compile_all(self, standard):
        names = []
        for header in HEADERS:
            with self.subTest(str(header)), tempfile.TemporaryDirectory(
                    prefix='ivshmem-headers-') as folder:
                names += self.compile(header, standard, folder)
        self.assertIn('ivshmem_msg_open', names)

    def test_17(self):
        self.compile_all('c++17')

    def test_20(self):
        self.compile_all('c++20')


if __name__ == '__main__':
    unittest.main()
