"""What the tests execute of our C files in QEMU: lines and branches.

A branch is one outcome of one condition, as clang counts them: a || b has
four. tests/uncovered.txt names what no test executes and says why; whatever
else is not executed is a failure, and so is an explanation of something that
is executed, or is not there. Of what depends on how threads meet, or on which
QEMU it is, it says "sometimes": executed or not is right.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import re
import subprocess
from pathlib import Path

FILES = ('hw/misc/ivshmem-client.c', 'hw/misc/ivshmem-peers.c',
         'hw/misc/ivshmem-flat.c', 'hw/misc/ivshmem-flat-board.c',
         'hw/misc/ivshmem-flat-plug.c', 'hw/misc/ivshmem-flat-info.c',
         'hw/misc/ivshmem-flat-memory.c', 'hw/misc/ivshmem-flat-user.c',
         'hw/misc/ivshmem-flat-peer-registers.c',
         'hw/arm/mps2-ivshmem.c')
EXPLANATIONS = Path(__file__).resolve().parent / 'uncovered.txt'


class Source:
    """One of our files, and what was executed of it."""

    def __init__(self, name, path):
        self.name = name
        self.text = path.read_text(encoding='utf-8').split('\n')
        self.functions = []             # (first line, last line, name)
        self.lines = {}                 # number: how often
        self.branches = []              # (line, description, how often)

    def function(self, line):
        for first, last, name in self.functions:
            if first <= line <= last:
                return name
        return '(no function)'

    def between(self, start_line, start_column, end_line, end_column):
        """The source text there, on one line."""
        lines = self.text[start_line - 1:end_line]
        lines[-1] = lines[-1][:end_column - 1]
        lines[0] = lines[0][start_column - 1:]
        return ' '.join(line.strip() for line in lines)

    def add_branches(self, branches, where=None):
        """where: the use of the macro that they are in"""
        for branch in branches:
            region, outcomes = branch[:4], branch[4:6]
            text = self.between(*(where or region))
            for outcome, count in zip(('true', 'false'), outcomes):
                self.branches.append(((where or region)[0],
                                      f'{text}: {outcome}', count))

    def pieces(self, executed=False):
        """What was not executed, or all: {description: line number}. A run of
        lines is one piece, named by its first line."""
        result = {}
        before = None
        for line, count in sorted(self.lines.items()):
            if executed or (not count and before != 0):
                self._note(result, line, f'{self.text[line - 1].strip()}: line')
            before = count
        for line, text, count in self.branches:
            if executed or not count:
                self._note(result, line, text)
        return result

    def _note(self, result, line, text):
        result.setdefault(f'{self.name}: {self.function(line)}: {text}', line)


def tool(name, *args):
    run = subprocess.run([name, *map(str, args)], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f'{name} ended with {run.returncode}: {run.stderr}')
    return run.stdout


def source_tree(build):
    """What this is a build of: a tree of its own, or the user's"""
    own = build / 'src'
    return own if own.exists() else Path(os.environ.get('QEMU_SRC') or own)


def measure(program, profiles, src):
    """The Sources, by what runs of the program left in profiles."""
    profile = Path(profiles[0]).with_suffix('.profdata')
    tool('llvm-profdata', 'merge', '-o', profile, *profiles)
    args = [program, f'-instr-profile={profile}']
    data = json.loads(tool('llvm-cov', 'export', *args))['data'][0]
    lines = tool('llvm-cov', 'export', '-format=lcov', *args)
    result = []
    for name in FILES:
        path = (src / name).resolve()
        source = Source(name, path)
        for file in data['files']:
            if Path(file['filename']).resolve() == path:
                source.add_branches(file['branches'])
                for use in file['expansions']:
                    source.add_branches(use['branches'],
                                        use['source_region'][:4])
        for function in data['functions']:
            if Path(function['filenames'][0]).resolve() == path:
                region = function['regions'][0]
                source.functions.append(
                    (region[0], region[2], function['name'].split(':')[-1]))
        for record in lines.split('end_of_record'):
            found = re.search('^SF:(.*)$', record, re.M)
            if found and Path(found[1]).resolve() == path:
                for line in re.finditer(r'^DA:(\d+),(\d+)', record, re.M):
                    source.lines[int(line[1])] = int(line[2])
        if not source.lines or not source.branches:
            raise RuntimeError(f'{program} was not built to count what is '
                               f'executed in {name}')
        result.append(source)
    return result


def explanations():
    """{description: (why, sometimes)}, from blocks of descriptions and indented
    lines."""
    text = re.sub('^#.*\n', '', EXPLANATIONS.read_text(encoding='utf-8'),
                  flags=re.M)
    blocks = re.findall(r'((?:^\S.*\n)+)((?:^ +.*\n)+)', text, re.M)
    return {piece.removesuffix(' sometimes'): (why, piece.endswith(' sometimes'))
            for pieces, why in blocks for piece in pieces.splitlines()}


def table(sources):
    rows = [f'{"":26} {"lines":>18} {"branches":>18}']
    for source in sources:
        row = f'{source.name:26}'
        for counts in (list(source.lines.values()),
                       [count for _, _, count in source.branches]):
            done = sum(1 for count in counts if count)
            row += (f' {done:>4} of {len(counts):>4}'
                    f' {100 * done / len(counts):>5.1f}%')
        rows.append(row)
    return '\n'.join(rows)


def check(tally, qemu, build, profiles):
    profiles = list(profiles)
    try:
        if not profiles:
            raise RuntimeError('no program has left a profile')
        sources = measure(build / 'obj/qemu-system-arm', profiles,
                          source_tree(build))
    except (OSError, RuntimeError) as err:
        tally.add('failed', f'{qemu} coverage', str(err))
        return
    explained = explanations()
    uncovered = set()
    everything = set()
    for source in sources:
        pieces = source.pieces()
        uncovered.update(pieces)
        everything.update(source.pieces(executed=True))
        bad = [f'{source.name}:{line}: {piece}'
               for piece, line in pieces.items() if not explained.get(piece)]
        name = f'{qemu} coverage of {source.name}'
        if bad:
            tally.add('failed', name, f'not executed, and not explained in '
                      f'{EXPLANATIONS.name}:\n' + '\n'.join(bad))
        else:
            tally.add('passed', name)
    stale = [piece for piece, (_, sometimes) in explained.items()
             if piece not in (everything if sometimes else uncovered)]
    name = f'{qemu} coverage: what is explained is there, and not executed'
    if stale:
        tally.add('failed', name, '\n'.join(stale))
    else:
        tally.add('passed', name)
    print(table(sources))
    print(f'{len(explained)} pieces explained in {EXPLANATIONS.name}',
          flush=True)
