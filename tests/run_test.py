#!/usr/bin/env python3
"""Tests of what tests/run makes of a QEMU that is not to be had, and of what the
qtest says"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import unittest
from unittest import mock

from lab_case import ROOT, load_program


class BuildQemu(unittest.TestCase):
    """Stand-ins for the tools end with a status each."""

    def build(self, qemu, fetch, build=0, **environment):
        run = load_program('tests/run')
        tools = []

        def stand_in(argv, **_):
            tools.append(argv[0].name)
            return {'fetch-qemu': (fetch, 'looking\nnot there\n'),
                    'build-qemu': (build, '')}[argv[0].name]
        run.run = stand_in
        tally = mock.Mock()
        environment = {**run.environment_of(qemu), **environment}
        with mock.patch.dict(os.environ, environment):
            run.build_qemu(tally, qemu, [])
        tally.add.assert_called_once()
        return tally.add.call_args.args, tools

    def test_not_in_debian_is_skipped(self):
        self.assertEqual(
            self.build('11.1-arm', fetch=3),
            (('skipped', 'QEMU 11.1-arm: build', 'not there'), ['fetch-qemu']))

    def test_another_trouble_is_not(self):
        result, _ = self.build('11.1-arm', fetch=1, build=1)
        self.assertEqual(result[:2], ('failed', 'QEMU 11.1-arm: build'))

    def test_there_is_built(self):
        self.assertEqual(
            self.build('11.1-arm', fetch=0),
            (('passed', 'QEMU 11.1-arm: build'), ['fetch-qemu', 'build-qemu']))

    def test_the_first_one_has_to_be(self):
        result, tools = self.build('10.0', fetch=3, build=3)
        self.assertEqual(result[:2], ('failed', 'QEMU 10.0: build'))
        self.assertEqual(tools, ['build-qemu'])

    def test_a_tree_of_the_user_is_not_fetched(self):
        result, tools = self.build('own', fetch=3, QEMU='11.1', QEMU_SRC='/some')
        self.assertEqual(result, ('passed', 'QEMU own: build'))
        self.assertEqual(tools, ['build-qemu'])


class Jobs(unittest.TestCase):
    def machine_tests(self, qemu):
        run = load_program('tests/run')
        return [module for _, _, function, module, *_ in run.jobs_of(qemu, {})
                if function is run.unit_tests]

    def test_a_flavour_has_fewer(self):
        everything = self.machine_tests('10.2')
        for qemu, has in (('10.2-arm', 'boards_test'),
                          ('10.0-sanitize', 'fault_test')):
            fewer = self.machine_tests(qemu)
            self.assertIn(has, fewer)
            self.assertLess(set(fewer), set(everything))

    def test_all_are_there(self):
        run = load_program('tests/run')
        for module in {*self.machine_tests('own'), *run.LONGEST}:
            self.assertTrue((ROOT / f'tests/{module}.py').exists(), module)
        self.assertEqual(sorted(run.FUZZ_SECONDS), run.FUZZERS)


class Qtest(unittest.TestCase):
    """The one program runs in pieces; each of its tests counts once."""
    ALL = ('life/quit', 'server/gone', 'servers/two', 'server/stopped')

    def tap(self, lines, theme='', planned=None, result='OK'):
        run = load_program('tests/run')
        run.APART = ('server',)
        tally = mock.Mock()
        run.tap(tally, 'qtest', {
            'stdout': ''.join(f'{line}\n' for line in lines) +
            f'1..{planned or len(lines)}\n', 'result': result, 'returncode': 1},
            () if theme else run.APART)
        return [call.args[:2] for call in tally.add.call_args_list]

    def line(self, number, name, skip=''):
        return f'ok {number} /arm/ivshmem-flat/{name}{skip and f" # SKIP {skip}"}'

    def test_what_is_apart_counts_once(self):
        by_request = 'by request (-s option)'
        apart = [name for name in self.ALL if name.startswith('server/')]
        rest = self.tap([self.line(i, name, by_request if name in apart else '')
                         for i, name in enumerate(self.ALL, 1)])
        there = self.tap([self.line(i, name)
                          for i, name in enumerate(apart, 1)], 'server')
        self.assertEqual(
            sorted(rest + there),
            sorted(('passed', f'qtest /arm/ivshmem-flat/{name}')
                   for name in self.ALL))

    def test_what_is_skipped_elsewhere_is_told(self):
        name = 'qtest /arm/ivshmem-flat/'
        self.assertEqual(
            self.tap([self.line(1, 'life/quit', 'by request (-s option)'),
                      self.line(2, 'server/gone', 'no huge pages')]),
            [('skipped', f'{name}life/quit'), ('skipped', f'{name}server/gone')])
        self.assertEqual(
            self.tap([self.line(1, 'server/gone', 'by request (-s option)')],
                     'server'), [('skipped', f'{name}server/gone')])

    def test_an_early_end_fails(self):
        failed = ('failed', 'qtest as a whole')
        lines = [self.line(1, 'server/gone')]
        self.assertIn(failed, self.tap(lines, 'server', planned=2))
        self.assertIn(failed, self.tap(lines, 'server', result='TIMEOUT'))
        self.assertEqual([failed], self.tap([], 'server'))

    def test_a_piece_leaves_out_what_another_has(self):
        """And nothing else: what GLib makes of it is not ours to test."""
        run = load_program('tests/run')
        asked = {}

        def stand_in(argv, **_):
            asked[theme] = next(word.partition('=')[2] for word in map(str, argv)
                                if word.startswith('--test-args='))
            return 1, ''
        run.run = stand_in
        with mock.patch.dict(os.environ, run.environment_of('10.0')):
            for *_, name, theme in [job for job in run.jobs_of('10.0', {})
                                    if job[-2] == run.QTEST]:
                run.meson_test(mock.Mock(), '10.0', name, theme)
        rest = asked.pop('').split()
        self.assertEqual(sorted(asked), sorted(run.APART))
        self.assertEqual(sorted(word for words in asked.values()
                                for word in words.split()[1:]),
                         sorted(rest[1::2]))
        self.assertEqual(set(rest[::2]), {'-x'})


if __name__ == '__main__':
    unittest.main()
