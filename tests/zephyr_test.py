#!/usr/bin/env python3
"""Tests of the Zephyr module (zephyr/), without Zephyr.

The drivers are compiled for the host, with a Zephyr in small (zephyr_stub.h):
each test in zephyr_test.c is a test case here. Kconfig is read by Kconfiglib,
which is what Zephyr reads it with; the files of YAML and the overlays are
compared with each other, and with the binding of QEMU's node. Whether all that
builds and runs in Zephyr is not tested here: docs/zephyr.md tells what has
been.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

# Debian's modules, also for a python3 that is not Debian's
sys.path.append('/usr/lib/python3/dist-packages')
try:
    import yaml
except ImportError:
    yaml = None

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
MODULE = ROOT / 'zephyr'
SNIPPET = MODULE / 'snippets/ivshmem-flat'
SOURCES = [TESTS / 'zephyr_test.c', MODULE / 'drivers/ivshmem_flat.c',
           MODULE / 'drivers/mbox_ivshmem_flat.c']
WARNINGS = ['-std=gnu11', '-Wall', '-Wextra', '-Wshadow', '-Werror']
NAMES = re.findall(r'^TEST\((\w+)\)$', SOURCES[0].read_text(), re.M)
DEADLINE = 300      # seconds, on a machine under load


def run(argv):
    """Run a command to its end; give its status and all that it printed."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=DEADLINE, check=False)
    return done.returncode, done.stdout


def headers_of_zephyr():
    """What our C includes of Zephyr."""
    for path in [*MODULE.glob('drivers/*.c'), *MODULE.glob('include/*/*.h')]:
        yield from re.findall(r'#include <(zephyr/.*)>', path.read_text())


class Drivers(unittest.TestCase):
    """The drivers, compiled for the host."""
    flags = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all']

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-zephyr-')
        cls.addClassCleanup(folder.cleanup)
        include = Path(folder.name)
        for header in headers_of_zephyr():
            path = include / header
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('#include "zephyr_stub.h"\n')
        cls.program = include / 'zephyr_test'
        status, output = run([os.environ.get('CC', 'cc'), '-O1', '-g',
                              *WARNINGS, *cls.flags, '-I', include, '-I', TESTS,
                              '-I', MODULE / 'include', *SOURCES,
                              '-o', cls.program])
        if status:
            raise AssertionError(f'cannot compile zephyr_test.c:\n{output}')


class BigEndian(Drivers):
    """The same for a CPU that is not little-endian: the registers are."""
    flags = ['-DSWAPS']


class Mmu(Drivers):
    """The same where Zephyr maps the memory for user threads, 1:1."""
    flags = ['-DCONFIG_KERNEL_DIRECT_MAP=1',
             '-DCONFIG_IVSHMEM_FLAT_USER_SHMEM=1']


class Old(Drivers):
    """The same with what Zephyr 3.5 lacks."""
    flags = ['-DZEPHYR_3_5']


def add_test(cls, name):
    def test(self):
        status, output = run([self.program, name])
        self.assertEqual(status, 0, output)
    setattr(cls, f'test_{name}', test)


for test_name in NAMES:
    for variant in (Drivers, BigEndian, Mmu, Old):
        add_test(variant, test_name)


class Kconfig(unittest.TestCase):
    """The options, with what they need of Zephyr's in a file of a few lines."""
    SURROUNDINGS = '''
config VIRTUALIZATION
    bool "y"
config IVSHMEM
    bool "y"
config POLL
    bool
config MBOX
    bool "y"
config USERSPACE
    bool "y"
config MMU
    bool "y"
config QEMU_TARGET
    bool "y"
config DT_HAS_QEMU_IVSHMEM_FLAT_ENABLED
    bool "y"
config DT_HAS_QEMU_IVSHMEM_FLAT_MBOX_ENABLED
    bool "y"
'''

    def setUp(self):
        try:
            import kconfiglib
        except ImportError:
            self.skipTest('no kconfiglib (python3-kconfiglib)')
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-zephyr-')
        self.addCleanup(folder.cleanup)
        tree = Path(folder.name)
        template = tree / 'subsys/logging/Kconfig.template.log_config'
        template.parent.mkdir(parents=True)
        template.write_text('config $(module)_LOG_LEVEL\n  int\n  default 3\n')
        top = tree / 'Kconfig'
        top.write_text(self.SURROUNDINGS + f'source "{MODULE}/Kconfig"\n')
        old = os.environ.get('srctree')
        os.environ['srctree'] = str(tree)
        try:
            self.config = kconfiglib.Kconfig(str(top), warn_to_stderr=False)
        finally:
            if old is None:
                del os.environ['srctree']
            else:
                os.environ['srctree'] = old
        self.assertEqual(self.config.warnings, [])

    def set(self, *names):
        for name in names:
            self.assertTrue(self.config.syms[name].set_value('y'))

    def value(self, name):
        return self.config.syms[name].str_value

    def test_not_without_node_and_system_calls(self):
        self.assertEqual(self.value('IVSHMEM_FLAT'), 'n')
        self.set('DT_HAS_QEMU_IVSHMEM_FLAT_ENABLED')
        self.assertEqual(self.value('IVSHMEM_FLAT'), 'n')
        self.set('VIRTUALIZATION')
        self.assertEqual(self.value('IVSHMEM_FLAT'), 'y')
        self.assertEqual(self.value('POLL'), 'y')
        self.assertEqual(self.value('MBOX_IVSHMEM_FLAT'), 'n')

    def test_mailbox(self):
        self.set('VIRTUALIZATION', 'DT_HAS_QEMU_IVSHMEM_FLAT_ENABLED',
                 'DT_HAS_QEMU_IVSHMEM_FLAT_MBOX_ENABLED')
        self.assertEqual(self.value('MBOX_IVSHMEM_FLAT'), 'n')
        self.set('MBOX')
        self.assertEqual(self.value('MBOX_IVSHMEM_FLAT'), 'y')

    def test_user_threads_are_given_nothing_unasked(self):
        self.set('VIRTUALIZATION', 'DT_HAS_QEMU_IVSHMEM_FLAT_ENABLED',
                 'USERSPACE', 'MMU')
        self.assertEqual(self.value('IVSHMEM_FLAT_USER_SHMEM'), 'n')

    def test_log_level_of_samples_once(self):
        self.set('VIRTUALIZATION', 'DT_HAS_QEMU_IVSHMEM_FLAT_ENABLED')
        self.assertEqual(self.value('IVSHMEM_LOG_LEVEL'), '3')
        self.set('IVSHMEM')
        self.assertEqual(self.value('IVSHMEM_LOG_LEVEL'), '')

    def test_snippets_set_what_there_is(self):
        """Zephyr takes an option that nobody defines for an error."""
        zephyrs = {'VIRTUALIZATION', 'QEMU_ICOUNT', 'KERNEL_DIRECT_MAP'}
        for path in MODULE.glob('snippets/**/*.conf'):
            for name in re.findall(r'^CONFIG_(\w+)=', path.read_text(), re.M):
                with self.subTest(path.name, name=name):
                    self.assertTrue(name in zephyrs or
                                    name in self.config.syms)


@unittest.skipUnless(yaml, 'no yaml (python3-yaml)')
class Descriptions(unittest.TestCase):
    """The files that tell Zephyr's tools of the rest."""

    def load(self, path):
        return yaml.safe_load(path.read_text())

    def binding(self, name):
        found, = MODULE.glob(f'dts/bindings/*/{name}.yaml')
        return self.load(found)

    def test_module_names_folders_that_exist(self):
        module = self.load(MODULE / 'module.yml')
        build = module['build']
        for name in [build['cmake'], *build['settings'].values(),
                     *module.get('samples', [])]:
            self.assertTrue((ROOT / name).is_dir(), name)
        self.assertTrue((ROOT / build['kconfig']).is_file())
        self.assertTrue((ROOT / build['cmake'] / 'CMakeLists.txt').is_file())

    def test_binding_agrees_with_that_of_the_node(self):
        """All that QEMU's node has is here, as required, with one meaning."""
        ours = self.binding('qemu,ivshmem-flat')
        schema = self.load(ROOT / 'docs/specs/qemu,ivshmem-flat.yaml')
        self.assertEqual(ours['compatible'],
                         schema['properties']['compatible']['const'])
        self.assertEqual({*ours['properties']},
                         {*schema['properties']} - {'$nodename', 'compatible'})
        self.assertEqual({name for name, value in ours['properties'].items()
                          if value.get('required')} | {'compatible'},
                         {*schema['required']})
        self.assertEqual(ours['properties']['qemu,revision']['enum'],
                         schema['properties']['qemu,revision']['enum'])

    def test_compatibles_are_the_drivers(self):
        for name, driver in (('qemu,ivshmem-flat', 'ivshmem_flat'),
                             ('qemu,ivshmem-flat-mbox', 'mbox_ivshmem_flat')):
            compatible = self.binding(name)['compatible']
            self.assertEqual(compatible, name)
            self.assertIn('#define DT_DRV_COMPAT ' +
                          re.sub(r'[^a-z]', '_', compatible) + '\n',
                          (MODULE / f'drivers/{driver}.c').read_text())

    def test_snippets_name_files_that_exist(self):
        """And no file is left over."""
        for path in MODULE.glob('snippets/*/snippet.yml'):
            snippet = self.load(path)
            self.assertEqual(snippet['name'], path.parent.name)
            appends = [snippet.get('append', {})]
            appends += [board['append']
                        for board in snippet.get('boards', {}).values()]
            named = {path.parent / name for append in appends
                     for name in append.values()}
            self.assertEqual(named, {file for file in path.parent.rglob('*')
                                     if file.suffix in ('.overlay', '.conf')})

    def test_samples_name_snippets_and_boards_that_exist(self):
        boards = self.load(SNIPPET / 'snippet.yml')['boards']
        samples = list(MODULE.glob('samples/*/sample.yaml'))
        self.assertEqual({path.parent for path in samples},
                         {path.parent for path in
                          MODULE.glob('samples/*/CMakeLists.txt')})
        for path in samples:
            sample = self.load(path)
            for name, test in sample['tests'].items():
                test = {**sample.get('common', {}), **test}
                with self.subTest(name):
                    # Twister knows of the snippets of west's projects alone,
                    # but CMake, of EXTRA_ZEPHYR_MODULES's, too.
                    self.assertNotIn('required_snippets', test)
                    snippets, = re.fullmatch(r'SNIPPET=(\S+)',
                                             test['extra_args']).groups()
                    for snippet in snippets.split(';'):
                        self.assertTrue(
                            (MODULE / 'snippets' / snippet).is_dir(), snippet)
                    for board in test['platform_allow']:
                        self.assertTrue(any(
                            re.fullmatch(known.strip('/')
                                         if known.startswith('/') else
                                         re.escape(known), board)
                            for known in boards), board)


class Documentation(unittest.TestCase):
    """docs/zephyr.md names what there is, and all of it."""

    def setUp(self):
        self.text = (ROOT / 'docs/zephyr.md').read_text()

    def test_paths(self):
        for path in re.findall(r'\b(?:zephyr/(?:samples/[a-z]+_|snippets/)|'
                               r'docs/|tools/|ivshmem-flat/zephyr/)[\w/.-]+\w',
                               self.text):
            with self.subTest(path):
                self.assertTrue((ROOT / path.removeprefix('ivshmem-flat/'))
                                .exists())

    def test_snippets_samples_and_boards(self):
        for path in [*MODULE.glob('snippets/*'), *MODULE.glob('samples/*')]:
            with self.subTest(path.name):
                self.assertRegex(self.text, rf'\b{path.name}\b')
        for name, machine in Boards.BOARDS.items():
            overlay = (SNIPPET / f'boards/{name}.overlay').read_text()
            registers, shmem = re.findall(r'(0x\w+) (?:0x100>|IVSHMEM)',
                                          overlay)[:2]
            cells, = re.findall(r'interrupts = (.*);', overlay)
            inputs = ', '.join(re.findall(r'<(\d+) ', cells))
            with self.subTest(name):
                self.assertRegex(
                    self.text, rf'\| {machine} \| {registers} \| {shmem} '
                               rf'\| {inputs} \|')

    def test_options(self):
        kconfig = (MODULE / 'Kconfig').read_text()
        for name in re.findall(r'CONFIG_(\w*IVSHMEM_FLAT\w*)', self.text):
            self.assertRegex(kconfig, rf'(?m)^config {name}$')
        for name in re.findall(r'\b(IVSHMEM_FLAT_(?:SHMEM|REGISTERS)\w+)\(',
                               self.text):
            self.assertIn(f'#define {name}(', (
                MODULE / 'include/ivshmem_flat/ivshmem_flat.h').read_text())
        self.assertIn('zephyr_get(IVSHMEM_FLAT_SOCKET)',
                      (MODULE / 'qemu.cmake').read_text())


class Boards(unittest.TestCase):
    """The overlays of the boards, compared with the device's page.

    A preprocessor and dtc read them in Zephyr; here a few lines are looked
    for, which each of them must have.
    """

    # names in Zephyr and in QEMU
    BOARDS = {'mps2_an385': 'mps2-an385', 'mps2_an521_cpu0': 'mps2-an521',
              'mps3_corstone300_an547': 'mps3-an547',
              'qemu_cortex_m3': 'lm3s6965evb'}
    PLATFORM_BUS = {'qemu_cortex_a53.overlay': 0x0c000000,
                    'qemu_riscv.dtsi': 0x04000000}
    # How many the chip has, and which of these its devicetree in Zephyr 4.1
    # or QEMU's model uses.
    INPUTS = {'mps2_an385': (32, {*range(14), 16, 17, 18, 19, 20, 21, 22, 24}),
              'qemu_cortex_m3': (43, {*range(9), *range(14, 25), 28, *range(30, 34),
                                      35, 37, 42}),
              'mps2_an521_cpu0': (96, {*range(8), *range(32, 49),
                                       *range(68, 72)}),
              'mps3_corstone300_an547': (128, {*range(58), *range(69, 73),
                                               125, 126})}

    def setUp(self):
        page = (ROOT / 'docs/system/devices/ivshmem-flat.rst').read_text()
        self.rows = {row[1]: row for row in re.finditer(
            r'^``([\w-]+)`` +\S+ +0x(\w+) +0x(\w+) +``(/machine.*?)`` +(.*)$',
            page, re.M)}

    def overlay(self, name):
        return (SNIPPET / 'boards' / name).read_text()

    def test_each_overlay_is_looked_at(self):
        self.assertEqual(
            {path.name for path in SNIPPET.glob('boards/*')
             if path.suffix != '.conf'},
            {f'{name}.overlay' for name in self.BOARDS} |
            {*self.PLATFORM_BUS, 'qemu_riscv32.overlay',
             'qemu_riscv64.overlay'})

    def test_addresses_and_controllers_are_those_of_the_page(self):
        for name, machine in self.BOARDS.items():
            with self.subTest(name):
                text = self.overlay(f'{name}.overlay')
                _, registers, shmem, path, inputs = self.rows[machine].groups()
                self.assertIn(f'ivshmem0: ivshmem@{registers} {{', text)
                self.assertIn(f'reg = <0x{registers} 0x100>, '
                              f'<0x{shmem} IVSHMEM_FLAT_SIZE>;', text)
                self.assertIn(f'ranges = <0x0 0x{shmem} IVSHMEM_FLAT_SIZE>;',
                              text)
                self.assertIn(f'CONFIG_IVSHMEM_FLAT_QEMU_INTC="{path}"\n',
                              self.overlay(f'{name}.conf'))
                cells, = re.findall(r'interrupts = (.*);', text)
                self.assertEqual(re.findall(r'<(\d+) \d+>', cells),
                                 inputs.split(', '))

    def test_inputs_are_there_and_free(self):
        for name, (count, used) in self.INPUTS.items():
            with self.subTest(name):
                cells, = re.findall(r'interrupts = (.*);',
                                    self.overlay(f'{name}.overlay'))
                inputs = [int(n) for n in re.findall(r'<(\d+) \d+>', cells)]
                self.assertEqual(len({*inputs}), 4)
                self.assertLess(max(inputs), count)
                self.assertFalse({*inputs} & used)

    def test_platform_bus(self):
        for name, base in self.PLATFORM_BUS.items():
            with self.subTest(name):
                text = self.overlay(name)
                self.assertIn(f'ivshmem0: ivshmem@{base:x} {{', text)
                self.assertRegex(text, rf'reg = <(0x0 )?0x{base:08x} (0x0 )?0x100>')
                # the first multiple of the size behind the registers
                self.assertIn(f'(0x{base:08x} + IVSHMEM_FLAT_SIZE)', text)

    def test_each_node_is_whole(self):
        for path in SNIPPET.glob('boards/*'):
            text = path.read_text()
            if 'ivshmem0:' not in text:
                continue
            with self.subTest(path.name):
                for line in ('compatible = "qemu,ivshmem-flat";',
                             'reg-names = "registers", "shmem";',
                             'qemu,revision = <1>;', 'interrupt-names = '
                             '"vector0", "vector1", "vector2", "vector3";'):
                    self.assertIn(line, text)


class Overlays(unittest.TestCase):
    """Each board's overlay, compiled behind a tree in small."""

    TREE = '/dts-v1/;\n/ {{ #address-cells = <{cells}>; #size-cells = <{cells}>;' \
           'soc {{ #address-cells = <{cells}>; #size-cells = <{cells}>; ranges;' \
           'interrupt-parent = <&plic>; plic: interrupt-controller@0 {{ ' \
           'reg = <{zeros}>; #interrupt-cells = <{interrupt}>; ' \
           'interrupt-controller; #address-cells = <0>; }}; ' \
           'gpio2: gpio@10 {{ reg = <{ten}>; }}; ' \
           'gpio3: gpio@20 {{ reg = <{twenty}>; }}; }}; }};\n'

    def setUp(self):
        for program in ('dtc', 'cpp'):
            if not shutil.which(program):
                self.skipTest(f'no {program}')
        folder = tempfile.TemporaryDirectory(prefix='ivshmem-zephyr-')
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / 'mem.h').write_text('#define DT_SIZE_M(x) '
                                           '((x) * 1024 * 1024)\n')
        ipc = self.folder / 'zephyr/dt-bindings/ipc_service/static_vrings.h'
        ipc.parent.mkdir(parents=True)
        ipc.write_text('#define PRIO_COOP 1\n#define PRIO_PREEMPT 2\n')

    def compile(self, *overlays, flags=()):
        a53 = 'a53' in overlays[0].name
        wide = '0 0x{:x} 0 0x1' if a53 else '0x{:x} 0x1'
        source = self.folder / 'tree.dts'
        source.write_text(self.TREE.format(
            cells=2 if a53 else 1, interrupt=4 if a53 else 2,
            zeros=wide.format(0), ten=wide.format(16), twenty=wide.format(32)) +
            ''.join(f'#include "{path}"\n' for path in overlays))
        status, text = run(['cpp', '-x', 'assembler-with-cpp', '-nostdinc',
                            '-undef', '-D__DTS__', '-P', '-DGIC_SPI=0',
                            '-DIRQ_TYPE_EDGE=1', '-DIRQ_DEFAULT_PRIORITY=1',
                            *flags, '-I', self.folder, source])
        self.assertEqual(status, 0, text)
        source.write_text(text)
        # what there is of the tree around it is wrong on purpose
        status, text = run(['dtc', '-O', 'dts', '-q', source])
        self.assertEqual(status, 0, text)
        return text

    def boards(self):
        return sorted(SNIPPET.glob('boards/*.overlay'))

    def others(self):
        return sorted(MODULE.glob('snippets/ivshmem-flat-*/*.overlay'))

    def test_all_together(self):
        """A board, the mailbox, and each of the other snippets."""
        for board in self.boards():
            for other in self.others():
                with self.subTest(board.name, other=other.name):
                    text = self.compile(board, SNIPPET / 'mbox.overlay', other)
                    self.assertIn('compatible = "qemu,ivshmem-flat-mbox"', text)

    def test_regions_are_within_the_memory_and_apart(self):
        for other in self.others():
            with self.subTest(other.name):
                regions = [(int(start, 0), int(size, 0)) for start, size in
                           re.findall(r'reg = <(\w+) (\w+)>',
                                      other.read_text())]
                for index, (start, size) in enumerate(sorted(regions)):
                    self.assertLessEqual(start + size, 4 << 20)
                    for after, _ in sorted(regions)[index + 1:]:
                        self.assertLessEqual(start + size, after)

    def test_size_is_one_number(self):
        for board in self.boards():
            with self.subTest(board.name):
                text = self.compile(board, flags=['-DIVSHMEM_FLAT_SIZE=0x10000'])
                reg, = re.findall(r'ivshmem@.*?\treg = (.*?);', text, re.S)
                self.assertEqual(int(reg.rstrip('>').split()[-1], 0), 0x10000)


if __name__ == '__main__':
    sys.dont_write_bytecode = True
    unittest.main()
