#!/usr/bin/env python3
"""tools/bench, as short as it gets: each row comes out, whatever it says.

Needs qemu-system-arm in build/bin (or $BUILD/bin), the firmware in build/guest,
and gnuplot.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import resource
import subprocess
import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 900      # seconds, on a machine under load
OPEN_FILES = 12_000     # so that the machine's own limit makes no difference

TRIPS = ('WFI', 'WFI, IOThread', 'WFI, IOThread that polls')
ROWS = {
    'the floor': None,
    **dict.fromkeys((*TRIPS, 'spin', 'spin, IOThread',
                     'spin, IOThread that polls', 'shared memory alone',
                     'plain blocking eventfds', 'the floor, not pinned',
                     *(f'{trip}, not pinned' for trip in TRIPS),
                     'plain blocking eventfds, not pinned'), 'the floor'),
    'the floor, CPU': None,
    **dict.fromkeys((f'{trip}, CPU' for trip in TRIPS), 'the floor, CPU'),
    'DOORBELL, 1 peer': None,
    **dict.fromkeys(('INTRMASK', 'DOORBELL, 10 peers', 'DOORBELL, 100 peers',
                     'DOORBELL, 1,000 peers', 'DOORBELL, 10,000 peers',
                     'DOORBELL, 11,900 peers'), 'DOORBELL, 1 peer'),
    'a step of a walk, 10 peers': None,
    **dict.fromkeys((f'a step of a walk, {peers} peers'
                     for peers in ('100', '1,000', '10,000', '11,900')),
                    'a step of a walk, 10 peers'),
    'ivshmem-flat': 'ivshmem-doorbell',
    'ivshmem-doorbell': None,
    **dict.fromkeys(('a message of 64 B', 'a message of 64 B, ICMsg',
                     'a message of 64 B, RPMsg'), 'WFI'),
    **{f'{size} B, {way}{what}': reference
       for size in ('16', '256', '4,096', '65,536')
       for way in ('a doorbell each', 'a doorbell for 16',
                   'in place, one for 16')
       for what, reference in (('', None), (', data', 'copy, RAM'),
                               (', CPU', None))},
    **{f'{size} B, {protocol}{what}': reference
       for size in ('16', '256', '4,096') for protocol in ('ICMsg', 'RPMsg')
       for what, reference in (('', None), (', CPU', None), (
           ', data', f'{size} B, a doorbell each, data'))},
    **{f'{size} B, UART{what}': reference
       for size in ('16', '256', '4,096', '65,536')
       for what, reference in (('', None), (
           ', data', f'{size} B, a doorbell each, data'))},
    'UART, 64 B': None,
    'doorbells in a burst': None,
    'doorbells per interrupt': None,
    **{f'{use}, {area}': reference
       for use in ('copy', 'fill', 'random access')
       for area, reference in (('RAM', None),
                               ('shared memory', f'{use}, RAM'))},
    **{f'{what} with {peers} peers':
       f'{what} with 0 peers' if peers != '0' and what != 'idle' else None
       for what in ('start', 'memory', 'idle')
       for peers in ('0', '1,000', '10,000')},
}
SKIPPED = 'DOORBELL, 65,534 peers'
FIGURES = 12


class Bench(unittest.TestCase):
    maxDiff = None

    def run_bench(self, *options, open_files=OPEN_FILES, **environment):
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE,
                               (open_files, open_files))
        return subprocess.run(
            [ROOT / 'tools/bench', *options], text=True, timeout=DEADLINE,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, check=False, preexec_fn=limit,
            env={**os.environ, **environment})

    def setUp(self):
        if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < OPEN_FILES:
            self.skipTest(f'the hard limit of open files is below '
                          f'{OPEN_FILES:,}')
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-test-')
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_every_row(self):
        run = self.run_bench('--short', '--rounds=2', '--results', self.folder)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        results = json.loads((self.folder / 'bench.json').read_text())
        rows = {row['name']: row for row in results['rows']}
        skipped = rows.pop(SKIPPED)
        self.assertEqual(skipped['skipped'],
                         'the hard limit of open files allows 11,900')
        self.assertIn(f'{SKIPPED:36} skipped: {skipped["skipped"]}',
                      run.stdout)
        self.assertEqual({name: row.get('reference')
                          for name, row in rows.items()}, ROWS)
        for name, row in rows.items():
            with self.subTest(name):
                self.assertGreaterEqual(len(row['samples']), 2)
                self.assertLessEqual(row['low'], row['median'])
                self.assertLessEqual(row['median'], row['high'])
                if row.get('reference'):
                    self.assertEqual(len(row['ratios']), len(row['samples']))
                    self.assertLessEqual(row['ratio low'], row['ratio'])
                    self.assertLessEqual(row['ratio'], row['ratio high'])
                # some have a heading that says the rest
                shown = {'UART, 64 B': 'round trip of 64 B',
                         'a message of 64 B, ICMsg': 'the same by ICMsg',
                         'a message of 64 B, RPMsg': 'the same by RPMsg'}.get(
                             name, name.removesuffix(', CPU'))
                self.assertIn(f'\n  {shown}', run.stdout)
        self.assertEqual(len(results['figures']), FIGURES)
        for figure in results['figures']:
            self.assertRegex(run.stdout, rf'\n  {figure["figure"]} .*, '
                             'at (most|least) [0-9.]+: (reached|missed)\n')
        for fact in ('CPU', 'cores', 'governor', 'load before'):
            self.assertTrue(results['host'][fact])
            self.assertIn(f'{fact}:', run.stdout)
        svg = ElementTree.parse(self.folder / 'bench.svg').getroot()
        self.assertEqual(svg.tag, '{http://www.w3.org/2000/svg}svg')
        texts = ' '.join(''.join(text.itertext()) for text in svg.iter(
            '{http://www.w3.org/2000/svg}text'))
        for label in ('Round trip, us', 'guests that sleep in WFI',
                      'WFI, IOThread, poll-max-ns=32768',
                      'shared memory alone', 'median and middle half',
                      'Store to DOORBELL'):
            self.assertIn(label, texts)

    def test_few_open_files(self):
        run = self.run_bench('--short', '--rounds=2', '--results', self.folder,
                             open_files=1024)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        for name in ('DOORBELL, 1,000 peers', 'start with 1,000 peers'):
            self.assertIn(f'{name:36} skipped: the hard limit of open files '
                          'allows 924\n', run.stdout)
        # to compare with no peers, there is nothing
        self.assertNotIn('memory per peer', run.stdout)

    def test_wrong_arguments(self):
        for options, message in (
                (['--rounds=1'], 'expected --rounds=2 or more'),
                (['--rounds=x'], "invalid int value: 'x'"),
                (['--peers=1'], 'unrecognized arguments: --peers=1')):
            with self.subTest(options):
                run = self.run_bench(*options)
                self.assertEqual((run.returncode, run.stdout), (2, ''))
                self.assertIn(message, run.stderr.splitlines()[-1])

    def test_no_qemu(self):
        run = self.run_bench('--results', self.folder, BUILD=str(self.folder))
        self.assertEqual((run.returncode, run.stdout), (1, ''))
        self.assertRegex(run.stderr, '^bench: .*No such file.*qemu-system-arm')
        self.assertEqual(len(run.stderr.splitlines()), 1)


if __name__ == '__main__':
    unittest.main()
