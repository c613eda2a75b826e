"""What FLAVOUR=sanitize and FLAVOUR=thread add to the tests of a QEMU: a report
of a sanitizer, from whichever process, is a failure. With the first so is a
line or branch of ours that no test executes and nobody explains.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import coverage

TESTS = Path(__file__).resolve().parent
LEAKS = TESTS / 'lsan-suppressions.txt'
UNDEFINED = TESTS / 'ubsan-suppressions.txt'
THREADS = TESTS / 'tsan-suppressions.txt'
# No program under test ends with this on its own.
EXIT_STATUS = 99

# A program with one defect for each sanitizer, to see that they would tell.
DEFECTS = '''
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
int shared;
void *count(void *unused)
{
    return shared++ ? unused : NULL;
}
int main(int argc, char **argv)
{
    char *volatile p = malloc(8);
    volatile int i = INT_MAX;
    pthread_t thread;
    switch (argv[1][0]) {
    case 'o': return p[argc + 6];
    case 'u': return i + argc < 0;
    case 'l': p = NULL; return 0;
    case 'r': pthread_create(&thread, NULL, count, NULL);
              shared++;
              return pthread_join(thread, NULL);
    }
}
'''
# for each flavour, the compiler's option and what is reported
SANITIZERS = {
    'sanitize': ('-fsanitize=address,undefined', {
        'overflow': 'heap-buffer-overflow',
        'undefined': 'signed integer overflow',
        'leak': 'detected memory leaks'}),
    'thread': ('-fsanitize=thread', {'race': 'data race'}),
}


def options(directory=None):
    """The environment of sanitizers that report to that directory, or else on
    stderr."""
    common = f'exitcode={EXIT_STATUS}'
    if directory:
        common += f':log_path={directory}/report'
    return {
        'ASAN_OPTIONS': f'detect_leaks=1:{common}',
        'UBSAN_OPTIONS': f'suppressions={UNDEFINED}:halt_on_error=1:'
                         f'print_stacktrace=1:{common}',
        'LSAN_OPTIONS': f'suppressions={LEAKS}:print_suppressions=0',
    }


def thread_options(directory, build):
    """The same of ThreadSanitizer, for this build of QEMU."""
    # It takes one file only.
    suppressions = Path(directory) / 'suppressions'
    suppressions.write_text(
        (build / 'src/tests/tsan/suppressions.tsan').read_text() +
        THREADS.read_text())
    # Where a process ends, it would sleep for a second. GLib's own allocator has
    # locks that are not seen.
    return {'TSAN_OPTIONS': f'suppressions={suppressions}:halt_on_error=1:'
                            f'history_size=7:atexit_sleep_ms=0:'
                            f'exitcode={EXIT_STATUS}:'
                            f'log_path={directory}/report',
            'G_SLICE': 'always-malloc'}


def reports(directory):
    """The reports there, each with the name of its file."""
    found = {}
    for path in sorted(Path(directory).glob('report.*')):
        # QEMU's coroutines tell AddressSanitizer of each switch; and in a
        # server that has become a daemon, LeakSanitizer misses the thread that
        # began it.
        text = re.sub(".*(WARNING: ASan doesn't fully support makecontext|"
                      'Running thread [0-9]+ was not suspended).*\n', '',
                      path.read_text(errors='replace'))
        if text.strip():
            found[path.name] = text
    return found


def environment(flavour, directory, build):
    return thread_options(directory, build) if flavour == 'thread' else \
        {**options(directory), 'LLVM_PROFILE_FILE': f'{directory}/%4m.profraw'}


def check_sanitizers(tally, qemu, build):
    """Sanitizers that do not work here would find QEMU without fault."""
    flavour = qemu.partition('-')[2]
    flag, defects = SANITIZERS[flavour]
    with tempfile.TemporaryDirectory(prefix='ivshmem-sanitizers-') as tmp:
        program = f'{tmp}/defects'
        built = subprocess.run(
            ['clang', '-w', '-g', '-pthread', flag, '-x', 'c', '-', '-o',
             program], input=DEFECTS, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if built.returncode:
            tally.add('failed', f'{qemu} sanitizers', built.stdout)
            return
        for defect, expected in defects.items():
            with tempfile.TemporaryDirectory(dir=tmp) as logs:
                status = subprocess.run(
                    [program, defect],
                    env={**os.environ, **environment(flavour, logs, build)},
                    stdout=subprocess.DEVNULL, check=False).returncode
                found = ''.join(reports(logs).values())
            name = f'{qemu} sanitizers see a defect: {defect}'
            if status == EXIT_STATUS and expected in found:
                tally.add('passed', name)
            else:
                tally.add('failed', name, f'exit status {status}, expected '
                          f'{EXIT_STATUS}; report:\n{found}')


@contextlib.contextmanager
def watch(tally, qemu, build):
    """What runs in here, in the environment that this gives, is watched."""
    flavour = qemu.partition('-')[2]
    check_sanitizers(tally, qemu, build)
    with tempfile.TemporaryDirectory(prefix='ivshmem-sanitizers-') as tmp:
        yield environment(flavour, tmp, build)
        found = reports(tmp)
        for name, text in found.items():
            tally.add('failed', f'{qemu} sanitizers: {name}',
                      '\n'.join(text.splitlines()[:60]))
        if not found:
            tally.add('passed', f'{qemu} sanitizers have nothing to report')
        if flavour == 'sanitize':
            coverage.check(tally, qemu, build, Path(tmp).glob('*.profraw'))
