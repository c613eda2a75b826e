#!/usr/bin/env python3
"""tools/trace2vcd: who rang whom, when, and when the interrupt came.

Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin) and the
firmware in build/guest.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree

from lab_case import BIN, ROOT, CleanCase, LabCase, load_program

TRACE2VCD = ROOT / 'tools/trace2vcd'
FIRMWARE = ROOT / 'build/guest/exchange-mps2.elf'
SVG = '{http://www.w3.org/2000/svg}'

# B comes before A, rings a stranger, and A twice in one microsecond.
TRACES = {
    'A': '''\
11@7.000010:ivshmem_client_greeting own id 3, shared memory of 4096 bytes
12@7.000014:ivshmem_peers_doorbell_kept peer 4 vector 1
11@7.000016:ivshmem_peers_interrupt vector 0
qemu: something else
12@7.000020:ivshmem_peers_doorbell_dropped peer 4 vector 9: no such vector
''',
    'B': '''\
21@6.999999:ivshmem_client_greeting own id 4, shared memory of 4096 bytes
22@7.000005:ivshmem_peers_doorbell_sent peer 3 vector 0
22@7.000015:ivshmem_peers_doorbell_sent peer 3 vector 0
22@7.000015:ivshmem_peers_doorbell_sent peer 3 vector 0
22@7.000018:ivshmem_flat_write offset 0xc size 4 value 0x0
'''}
# in us from B's greeting
EDGES = {'A_keeps_B_v1': [15], 'A_irq_v0': [17], 'A_drops_B_v9': [21],
         'B_rings_id_3_v0': [6], 'B_rings_A_v0': [16, 17]}


def run(*sources):
    return subprocess.run([TRACE2VCD, *sources], text=True, check=False,
                          timeout=60, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)


def edges(vcd):
    """When each wire goes up, in us."""
    definitions, changes = vcd.split('$enddefinitions $end')
    names = dict(re.findall(r'^\$var wire 1 (\S+) (\S+) \$end$', definitions,
                            re.M))
    assert '\n$timescale 100 ns $end\n' in definitions
    found = {name: [] for name in names.values()}
    now = None
    for line in changes.split():
        if line.startswith('#'):
            assert now is None or int(line[1:]) > now or now == 0
            now = int(line[1:])
        elif line.startswith('1') and line[1:] in names:
            found[names[line[1:]]].append(now / 10)
    return found


class Vcd(CleanCase):
    def setUp(self):
        self.folder = Path(self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-test-')))
        for name, text in TRACES.items():
            (self.folder / name).write_text(text)
        self.sources = [f'{name}={self.folder / name}' for name in TRACES]

    def test_each_event(self):
        done = run(*self.sources)
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertEqual(edges(done.stdout), EDGES)
        self.assertIn('time 0 is 1970-01-01T00:00:06.999999Z', done.stdout)

    def test_dates_of_newer_qemus(self):
        """From 10.2 on, a date stands before an event, and no thread."""
        for name, text in TRACES.items():
            (self.folder / name).write_text(re.sub(
                r'(?m)^\d+@(\d+)\.(\d+):', lambda time: '1970-01-01T00:00:'
                f'{int(time[1]):02}.{time[2]}Z ', text))
        self.test_each_event()

    def test_sigrok_reads_it(self):
        if not shutil.which('sigrok-cli'):
            self.skipTest('no sigrok-cli: `tools/deps see` installs it')
        vcd = self.folder / 'vcd'
        vcd.write_text(run(*self.sources).stdout)
        csv = subprocess.run(
            ['sigrok-cli', '-I', 'vcd', '-i', vcd, '-O', 'csv'], text=True,
            stdout=subprocess.PIPE, check=True, timeout=120).stdout
        names = re.search(r'Channels \(\d+/\d+\): (.*)', csv)[1].split(', ')
        self.assertIn('samplerate: 10000000', csv)
        rows = [line.split(',') for line in csv.splitlines()
                if re.fullmatch('[01](,[01])*', line)]
        self.assertEqual(len(rows[0]), len(names))
        found = {name: [index / 10 for index in range(1, len(rows))
                        if (rows[index - 1][column], rows[index][column]) ==
                        ('0', '1')] for column, name in enumerate(names)}
        self.assertEqual(found, EDGES)

    def test_wrong_arguments(self):
        (self.folder / 'empty').write_text('nothing\n')
        for argument, why in (
                (f'A={self.folder / "empty"}', r'empty: no event, expected a '
                 'log that QEMU wrote with .*'),
                (f'A={self.folder / "none"}', r"\[Errno 2\] No such file.*"),
                ('A', "argument NAME=FILE: 'A', expected NAME=FILE, .*"),
                ('1=x', "argument NAME=FILE: '1=x', expected .*")):
            with self.subTest(argument):
                done = run(argument)
                self.assertIn(done.returncode, (1, 2))
                self.assertEqual(done.stdout, '')
                self.assertRegex(done.stderr.splitlines()[-1], f'{why}$')


class Picture(unittest.TestCase):
    """What tools/pictures shows of the wires, however they take turns."""

    pictures = load_program('tools/pictures')

    def wires(self, *times):
        return dict(zip(self.pictures.WIRES, times))

    def window(self, *times):
        return self.pictures.window(self.wires(*times))

    def test_in_the_middle(self):
        turns = range(100)
        self.assertEqual(self.window(
            *([at + part / 4 for at in turns] for part in range(4))), (40, 46))

    def test_elsewhere(self):
        """B runs twice only, and A is interrupted as seldom."""
        for second in 20, 60:
            for other in (second, 80), (0, second):
                begin, end = self.window([*range(100)], [0, second],
                                         [10, second], other)
                self.assertEqual(end - begin, 6)
                self.assertIn(second, range(begin, end + 1))

    def test_longer(self):
        begin, end = self.window([*range(100)], [50], [60], [70])
        self.assertEqual((begin, end), (50, 70))

    def test_whole(self):
        """B is not interrupted before A has rung for the last time."""
        self.assertEqual(self.window([*range(100)], [120], [130], [140]),
                         (0, 140))

    def test_nobody_is_interrupted(self):
        with self.assertRaisesRegex(ValueError, 'nothing on wire B_irq_v0, '):
            self.window([*range(100)], [], [60], [70])

    def test_scale(self):
        for length, last in ((90, '90 us'), (100_000_000, '100000000 us')):
            picture = self.pictures.picture_of_wires({
                **self.wires([0, length], [0, length], [0], [length]),
                'A_keeps_B_v1': [0], 'A_drops_B_v9': [length]})
            shown = re.findall('>([0-9]+ us)<', picture)
            self.assertEqual((shown[0], shown[-1]), ('0 us', last))
            self.assertIn(len(shown), range(5, 12))
            for wire in 'A_keeps_B_v1', 'A_drops_B_v9':
                self.assertIn(f'>{wire}<', picture)


class Demo(LabCase):
    """As a user has it: tools/demo makes both kinds of files."""
    needs = (*LabCase.needs, FIRMWARE)

    def test_demo(self):
        folder = Path(self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-test-')))
        pcap = folder / 'pcap'
        demo = self.lab.start('demo', [
            ROOT / 'tools/demo', '--variant', 'vectors', '--messages', '100',
            '--bin', BIN, '--timeout', self.deadline, '--pcap', pcap,
            '--trace', folder])
        self.wait_for_end(demo)
        self.assertEqual(demo.status, 0)

        done = run(*(f'{name}={folder / name}.trace' for name in 'AB'))
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        found = edges(done.stdout)
        counts = {name: re.findall(
            rf'^{name} \| vector \d: (\d+) doorbells rung, (\d+) interrupts',
            '\n'.join(demo.lines), re.M) for name in 'AB'}
        for name, peer in ('AB', 'BA'):
            self.assertEqual(len(counts[name]), 4)
            for vector, (rung, taken) in enumerate(counts[name]):
                sent = [len(times) for wire, times in found.items()
                        if re.fullmatch(rf'{name}_(rings|drops)_\w+_'
                                        f'v{vector}', wire)]
                self.assertEqual(sum(sent), int(rung))
                came = len(found.get(f'{name}_irq_v{vector}', []))
                self.assertIn(came, range(
                    int(taken), int(counts[peer][vector][0]) + 1))
        self.assertGreater(len(found['A_rings_B_v0']), 100)

        # each message, and a report, each way
        from sniff_test import decoded
        ways = {}
        for fields in decoded(self, pcap):
            ways.setdefault(tuple(fields[:2]), []).append(int(fields[5]))
        self.assertEqual(sorted(ways), [('1', '2'), ('2', '1')])
        for numbers in ways.values():
            self.assertEqual(numbers, list(range(101)))

    def test_pictures(self):
        """What tools/pictures draws for docs/ is what the demo has done."""
        if not shutil.which('tshark'):
            self.skipTest('no tshark: `tools/deps see` installs it')
        folder = Path(self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-test-')))
        pictures = self.lab.start('pictures', [ROOT / 'tools/pictures', folder,
                                               '--bin', BIN])
        self.wait_for_end(pictures)
        self.assertEqual((pictures.status, pictures.lines), (0, []))
        for where in folder, ROOT / 'docs':
            shown, wires = (
                [''.join(text.itertext()) for text in ElementTree.parse(
                    where / f'{name}.svg').iter(f'{SVG}text')]
                for name in ('sniff', 'trace'))
            self.assertEqual(len(shown), 13)
            for number, line in enumerate(shown[1:], 1):
                self.assertRegex(line, rf'^ *{number} +\d+\.\d+ +id [12] → '
                                 r'id [12] +ivshmem \d+ #\d+, type 0x1, ')
            self.assertLess({'A_rings_B_v0', 'B_irq_v0', 'B_rings_A_v0',
                             'A_irq_v0', '0 us'}, set(wires))

    def test_one_variant_only(self):
        for options in (['--pcap', 'x'], ['--trace', 'x'],
                        ['--variant', 'restart', '--pcap', 'x']):
            done = subprocess.run([ROOT / 'tools/demo', *options], text=True,
                                  stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertRegex(done.stderr.splitlines()[-1], '--variant '
                             '(all|restart), expected another one with')


if __name__ == '__main__':
    unittest.main()
