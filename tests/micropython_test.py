#!/usr/bin/env python3
"""MicroPython, as Debian has it, with ivshmem-flat: tools/demo-micropython.

Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin), and the
firmware of Debian 12's package firmware-microbit-micropython.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import shutil
import tempfile
import unittest
from pathlib import Path

from lab_case import BIN, ROOT, LabCase

FIRMWARE = Path('/usr/share/firmware-microbit-micropython/firmware.hex')
PAGE = ROOT / 'docs/micropython.md'


class Demo(LabCase):
    """tools/demo-micropython, as a user starts it."""

    def setUp(self):
        super().setUp()
        if not FIRMWARE.exists():
            self.skipTest('no firmware-microbit-micropython, as in Debian 13')
        self.folder = Path(self.enterContext(
            tempfile.TemporaryDirectory(prefix='ivshmem-test-')))
        self.labs = self.folder / 'labs'
        self.labs.mkdir()

    def run_demo(self, *options):
        demo = self.lab.start('demo', [
            'env', f'TMPDIR={self.labs}', ROOT / 'tools/demo-micropython',
            '--bin', BIN, '--timeout', self.deadline, *options])
        self.wait_for_end(demo)
        self.assertEqual(os.listdir(self.labs), [])
        return demo

    def page(self, old, new):
        """A page of which one place is another."""
        text = PAGE.read_text(encoding='utf-8')
        self.assertEqual(text.count(old), 1, old)
        page = self.folder / 'page.md'
        page.write_text(text.replace(old, new), encoding='utf-8')
        return page

    def assert_failed(self, demo, error):
        self.assertEqual((demo.status, demo.lines[-1]),
                         (1, f'demo-micropython: {error}'))

    def said(self, demo, name, *lines):
        """Did this one say these lines, one directly after the other?"""
        own = [line.partition(' | ')[2] for line in demo.lines
               if line.partition(' | ')[0].strip() == name]
        return any(tuple(own[i:i + len(lines)]) == lines
                   for i in range(len(own)))

    def test_what_the_page_says(self):
        copy = self.folder / 'copy.hex'
        shutil.copy(FIRMWARE, copy)
        demo = self.run_demo('--firmware', copy)
        self.assertEqual(demo.status, 0)
        self.assertRegex(demo.lines[-1], '^[0-9]+ statements, all answered as '
                         '.*docs/micropython.md says: passed$')
        for name, *lines in (
                # it has its id, reads what the host wrote, and is interrupted
                ('micro:bit', '>>> mem32[0xa0000008]', '1'),
                ('micro:bit', '>>> bytes(mem8[0x70000000 + i] for i in '
                 'range(5))', "b'hello'"),
                ('micro:bit', '>>> mem32[0x70000010]', '12346'),
                # and the host is rung, and reads what it wrote
                ('host', '>>> peer.wait(timeout=10)', '{0}'),
                ('host', ">>> int.from_bytes(peer.memory[16:20], 'little')",
                 '12345'),
                ('host', '>>> peer.ring(1)', 'True')):
            self.assertTrue(self.said(demo, name, *lines), lines)

    def test_another_answer_is_a_failure(self):
        self.assert_failed(
            self.run_demo('--page', self.page('\n12346\n', '\n12347\n')),
            "the micro:bit answers ['12346'] to 'mem32[0x70000010]', "
            "expected ['12347']")
        self.assert_failed(
            self.run_demo('--page', self.page('{0}', '{1}')),
            "the host answers ['{0}'] to 'peer.wait(timeout=10)', "
            "expected ['{1}']")

    def test_an_error_is_an_answer(self):
        self.assert_failed(
            self.run_demo('--page', self.page('peer.ring(1)', 'peer.rang')),
            """the host answers ["AttributeError: 'Peer' object has no """
            """attribute 'rang'"] to 'peer.rang', expected ['True']""")

    def test_nobody_rings(self):
        """The machine polls for ever, and the demo does not wait so long."""
        demo = self.run_demo('--timeout', '20', '--page',
                             self.page('peer.ring(1)', 'peer.ring(0)'))
        self.assert_failed(
            demo, '20 s are over, and still waiting for machine micro:bit to '
            "say '>>> '")
        self.assertTrue(any('>>> while not mem32' in line
                            for line in demo.lines), demo.lines)

    def test_a_machine_that_ends(self):
        self.assert_failed(
            self.run_demo('--page', self.page('microbit -n', 'none -n')),
            'machine micro:bit ended with status 1')

    def test_a_line_that_would_be_cut(self):
        line = 'mem32[0xe000e280] = 1 << 20' + ' ' * 30 + '# done'
        self.assertEqual(len(line), 63)
        self.assert_failed(
            self.run_demo('--page', self.page('mem32[0xe000e280] = 1 << 20',
                                              line)),
            f"'{line}' has 63 characters, expected at most 62")

    def test_what_is_missing_is_named(self):
        self.assert_failed(
            self.run_demo('--bin', '/nonexistent'),
            '/nonexistent/qemu-system-arm is missing: `make demo-micropython` '
            'builds it')
        self.assert_failed(
            self.run_demo('--firmware', '/nonexistent'),
            '/nonexistent is missing: Debian 12 has it in the package '
            'firmware-microbit-micropython')
        self.assert_failed(self.run_demo('--page', '/nonexistent'),
                           '/nonexistent: No such file or directory')
        self.assert_failed(self.run_demo('--page', ROOT / 'README.md'),
                           f'{ROOT}/README.md is not a page as '
                           'docs/micropython.md')


if __name__ == '__main__':
    unittest.main()
