#!/usr/bin/env python3
"""Tests of what tests/run makes of a QEMU that is not to be had"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import importlib.machinery
import importlib.util
import os
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent


def load_run():
    loader = importlib.machinery.SourceFileLoader('run', str(ROOT / 'tests/run'))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader('run', loader))
    loader.exec_module(module)
    return module


class BuildQemu(unittest.TestCase):
    """Stand-ins for the tools end with a status each."""

    def build(self, qemu, fetch, build=0, **environment):
        run = load_run()
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


if __name__ == '__main__':
    unittest.main()
