#!/usr/bin/env python3
"""The commands of README, docs/*.md and the device's page, run as they stand.

Each section with commands is a test. What a block holds between empty lines is
pasted into a terminal of its own, a fresh shell in the repository's root with
build/bin on PATH, and all of them stay until the section is over. A server has
to listen, a monitor has to show its prompt, and takes the lines that begin
with "(qemu)"; what follows those without, it has to print. The last
program without a monitor has to end with status 0, and no other with another
one. What a section asks for and has not, a server or a monitor, is the first of
the document. A text may name the "first machine", else the last one is asked.

Only names that all share are replaced, so that tests can run side by side:
/tmp and -M NAME; and build/bin/, if $BUILD says so. What is not run is marked in
the document, since the block before, as a comment:

    not run: REASON     a command; it is counted as skipped
    no command          a picture, a program's output, a file's content

Needs qemu-system-arm, -aarch64 and ivshmem-server in build/bin (or $BUILD/bin)
and what is in build/guest.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import shlex
import subprocess
import unittest
from collections import namedtuple
from pathlib import Path

from lab_case import BIN, BUILD, ROOT, LabCase, dumped

DOCUMENTS = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md')),
             ROOT / 'docs/system/devices/ivshmem-flat.rst']
DEFAULT = ROOT / 'build/10.0'
MARK = re.compile(r'^(?:<!--|\.\.) (not run: .*?|no command)(?: -->)?$', re.M)
PROMPT = '(qemu)'

# mark: what says that it is not to be run, or ''; lead: the text before
Block = namedtuple('Block', 'line language text mark lead')


def blocks(path):
    """The literal blocks of a document, by the titles of its sections."""
    lines = path.read_text(encoding='utf-8').split('\n')
    indent = '    ' if path.suffix == '.md' else '  '
    sections, title, since, i = {}, '', 0, 0
    while i < len(lines):
        begin, language, end = i, '', i
        if lines[i].startswith('```'):
            language = lines[i][3:].split(' ')[0]
            begin, end = i + 1, lines.index('```', i + 1)
            i = end + 1
        elif lines[i].startswith(indent) and not lines[i - 1] and (
                path.suffix == '.md' or
                re.search(r'::$', '\n'.join(lines[:i]).rstrip())):
            while i < len(lines) and (lines[i].startswith(indent) or
                                      not lines[i]):
                i += 1
            end = i
        else:
            if lines[i].startswith('#'):
                title = lines[i].strip('# ')
            elif re.fullmatch('~+|-+', lines[i]) and i:
                title = lines[i - 1]
            i += 1
            continue
        text = '\n'.join(line.removeprefix(indent) if not language else line
                         for line in lines[begin:end]).strip('\n')
        lead = '\n'.join(lines[since:begin])
        since = i
        if language in ('', 'sh', 'python'):
            sections.setdefault(title, []).append(
                Block(begin + 1, language, text,
                      (MARK.findall(lead) or [''])[-1], lead))
    return sections


def commands(section):
    """What is pasted, one after the other, from blocks that are run."""
    for block in section:
        if block.mark:
            continue
        if block.language == 'python':
            yield f'python3 -c {shlex.quote(block.text)}'
            continue
        for paste in re.split(r'\n\n+', block.text):
            # one that goes to the background has a terminal of its own
            yield from re.split(r' &\n', paste.removesuffix(' &'))


def is_server(command):
    return re.search(r'^(?!make|\().*ivshmem-server ', command) is not None


def is_machine(command):
    return '-monitor stdio' in command


class Document(LabCase):
    needs = (BIN / 'qemu-system-arm', BIN / 'qemu-system-aarch64',
             BIN / 'ivshmem-server')
    document = None

    def setUp(self):
        super().setUp()
        self.lab.server_command(BIN)
        self.folder = os.path.dirname(self.lab.socket_path)
        self.prefix = os.path.basename(self.folder)
        self.addCleanup(self.remove_memory)
        self.terminals = []
        self.monitors = []

    def first(self, condition):
        """The document's first command that is this"""
        return next(filter(condition, (
            command for section in blocks(self.document).values()
            for command in commands(section))))

    def remove_memory(self):
        for path in Path('/dev/shm').glob(f'{self.prefix}-*'):
            path.unlink()

    def check(self, title):
        section = blocks(self.document)[title]
        todo = list(commands(section))
        if todo and todo[0].startswith(PROMPT):
            todo.insert(0, self.first(is_machine))
        if any('/tmp/ivshmem.sock' in command for command in todo) and \
                not any(map(is_server, todo)):
            todo.insert(0, self.first(is_server))
        first = any(block.text.startswith(PROMPT) and
                    'first machine' in block.lead for block in section)
        for command in todo:
            if command.startswith(PROMPT):
                self.type(self.monitors[0 if first else -1], command)
            elif command.startswith('make ') and \
                    not command.startswith('make hello') and \
                    BUILD not in (ROOT / 'build', DEFAULT):
                with self.subTest(command):
                    self.skipTest(f'takes {DEFAULT}, and this is about {BUILD}')
            else:
                self.paste(command)
        self.finish()
        for block in section:
            if block.mark.startswith('not run'):
                with self.subTest(line=block.line):
                    self.skipTest(f'{self.document.name}:{block.line}: '
                                  f'{block.mark.removeprefix("not run: ")}')

    def private(self, command):
        command = re.sub(r'/tmp\b', self.folder, command)
        command = command.replace('build/bin/', f'{BIN}/')
        return re.sub(r'(ivshmem-server .*-M )', rf'\g<1>{self.prefix}-',
                      command)

    def paste(self, command):
        print(f'$ {command}')
        terminal = self.lab.start(f'terminal {len(self.terminals)}', [
            'env', '-i', f'HOME={self.folder}', f'PATH={BIN}:/usr/local/sbin:'
            '/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
            f'BUILD={os.environ.get("BUILD", "")}', 'bash', '-c',
            f'cd {shlex.quote(str(ROOT))}\n{self.exec(self.private(command))}'],
            interactive=True)
        terminal.command = command
        self.terminals.append(terminal)
        if is_server(command):
            self.lab.wait_for_line(terminal, 'listening on')
        elif is_machine(command):
            self.monitors.append(terminal)
            # else it comes when the server does
            if 'reconnect-ms' not in command:
                self.wait_for_prompt(terminal)
        elif re.match(r'(\S*/)?(qemu-system-|ivshmem-peer|python3)', command):
            # it may go on, but a reader sees that it is there
            self.lab.wait(lambda: terminal.lines or terminal.ended,
                          f'a word of {command}')
        else:
            self.wait_for_end(terminal)
            self.assertEqual(terminal.status, 0, command)

    @staticmethod
    def exec(command):
        """A single command takes the shell's place, and dies with the lab."""
        joined = command.replace('\\\n', '')
        return f'exec {command}' if '\n' not in joined or \
            joined.startswith(('python3', 'qemu')) else command

    def wait_for_prompt(self, terminal):
        self.lab.wait(lambda: terminal.ended or
                      terminal.prompt.endswith(f'{PROMPT} '.encode()),
                      f'a prompt of {terminal.command}')
        self.assertFalse(terminal.ended, terminal.command)

    def type(self, monitor, text):
        """Lines for a monitor, and what is to come of them."""
        begin = 0
        for line in text.split('\n'):
            if line.startswith(PROMPT):
                begin = len(monitor.lines)
                monitor.type(self.private(
                    line.removeprefix(PROMPT).strip()).encode() + b'\n')
                self.lab.wait(lambda: monitor.ended or
                              len(monitor.lines) > begin,
                              f'an answer to {line}')
                self.wait_for_prompt(monitor)
            else:
                self.assertIn(dumped(line),
                              list(map(dumped, monitor.lines[begin:])))

    def finish(self):
        plain = [terminal for terminal in self.terminals
                 if not is_server(terminal.command) and
                 terminal not in self.monitors]
        for monitor in self.monitors:
            self.wait_for_prompt(monitor)
        if plain:
            self.wait_for_end(plain[-1])
        for terminal in self.terminals:
            self.assertIn(terminal.status, (None, 0), terminal.command)


class Marks(unittest.TestCase):
    def test_demo_ends_with_how_to_find_its_programs(self):
        """They are not on PATH, and another QEMU may be."""
        said = subprocess.run(['make', '-C', ROOT, '-n', 'demo'], text=True,
                              stdout=subprocess.PIPE, check=True).stdout
        self.assertRegex(said, r"tools/demo\n.*\n.*export PATH=/.*/bin:\$PATH'\n"
                         r'(make: .*\n)?$')

    def test_documents_are_found(self):
        for document in DOCUMENTS:
            with self.subTest(document.name):
                self.assertTrue(blocks(document))

    def test_each_mark_has_its_block(self):
        for document in DOCUMENTS:
            with self.subTest(document.name):
                text = document.read_text(encoding='utf-8')
                marked = [block for section in blocks(document).values()
                          for block in section if block.mark]
                self.assertEqual(len(MARK.findall(text)), len(marked))


def _add_tests():
    for document in DOCUMENTS:
        name = document.stem.replace('-', '_')
        case = type(name, (Document,), {'document': document,
                                        '__module__': __name__})
        for title, section in blocks(document).items():
            if any(block.mark != 'no command' for block in section):
                setattr(case, 'test_' + re.sub(r'\W+', '_', title.lower()),
                        lambda self, title=title: self.check(title))
        globals()[name] = case


_add_tests()

if __name__ == '__main__':
    unittest.main()
