"""Fixtures for pytest: a server, machines, a peer, messages.

Each test has its own, and whatever becomes of it, they end with it: it fails,
it hangs and is interrupted, pytest is ended by SIGTERM or SIGHUP. If pytest is
killed by SIGKILL, the programs end all the same.

What the programs print is part of what pytest shows of a test that failed.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

import os
import shutil
import signal
from pathlib import Path

import pytest

from .lab import Lab
from .messages import Messages
from .peer import Peer

SERVER_OPTIONS = ('-l', '4M', '-n', '1')


class _Lab(Lab):
    def end(self, number):
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        # SystemExit would be one more failed test, and the next would begin
        pytest.exit(f'ended by {signal.Signals(number).name}', 128 + number)


_LAB = pytest.StashKey[_Lab]()


def pytest_addoption(parser):
    help_text = 'where ivshmem-server and QEMU are (default: PATH)'
    group = parser.getgroup('ivshmem')
    group.addoption('--ivshmem-bin', metavar='DIR', help=help_text)
    group.addoption('--ivshmem-timeout', metavar='SECONDS', type=float,
                    default=60, help='how long the machines of a test may be '
                    'waited for (default: 60)')
    parser.addini('ivshmem_bin', help_text)


def pytest_configure(config):
    for marker in ('ivshmem_server(*options): options of ivshmem-server, in '
                   f'place of {" ".join(SERVER_OPTIONS)}',
                   'ivshmem_messages(slots=8, ...): arguments of Messages'):
        config.addinivalue_line('markers', marker)


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    # A test may wait for anything, not only by the lab; but nothing ends the
    # lab half-way.
    lab = pyfuncitem.stash.get(_LAB, None)
    if lab:
        lab.interruptible = True
    yield
    if lab:
        lab.interruptible = False


def _program(config, name):
    """Where it is."""
    folder = config.getoption('--ivshmem-bin')
    if not folder and config.getini('ivshmem_bin'):
        folder = config.rootpath / config.getini('ivshmem_bin')
    if folder:
        path = Path(folder, name)
        if os.access(path, os.X_OK):
            return path
        pytest.fail(f'{path} is no program, expected --ivshmem-bin to name the '
                    f'directory of {name}', pytrace=False)
    path = shutil.which(name)
    if path:
        return Path(path)
    return pytest.fail(f'{name} is not on PATH, expected --ivshmem-bin=DIR or '
                       'ivshmem_bin in the configuration of pytest',
                       pytrace=False)


@pytest.fixture
def ivshmem_lab(request):
    """A Lab: starts, watches and ends the programs of a test."""
    timeout = request.config.getoption('--ivshmem-timeout')
    with _Lab(timeout, lambda program, line:
              print(f'{program.name} | {line}')) as lab:
        request.node.stash[_LAB] = lab
        yield lab


@pytest.fixture
def ivshmem_server(request, ivshmem_lab):
    """A running ivshmem-server; the value is its socket's path."""
    marker = request.node.get_closest_marker('ivshmem_server')
    folder = _program(request.config, 'ivshmem-server').parent
    ivshmem_lab.start_server(ivshmem_lab.server_command(
        folder, *(marker.args if marker else SERVER_OPTIONS)))
    return ivshmem_lab.socket_path


@pytest.fixture
def ivshmem_machine(request, ivshmem_lab, ivshmem_server):
    """A function that starts a machine, and returns its Program.

    Its arguments are QEMU's. The chardev `ivshmem` is there for a device, or
    for a machine that has one on board. program= names another one than
    qemu-system-arm, and name= says what the machine's lines are marked with.
    """
    def start(*options, program='qemu-system-arm', name='machine'):
        return ivshmem_lab.start(name, [
            _program(request.config, program), '-nographic', '-chardev',
            f'socket,id=ivshmem,path={ivshmem_server}', *options])
    return start


@pytest.fixture
def ivshmem_peer(ivshmem_server):
    """A Peer: the test itself as a client of the server."""
    with Peer(ivshmem_server) as peer:
        yield peer


@pytest.fixture
def ivshmem_messages(request, ivshmem_peer):
    """Messages between the test and whoever else is there."""
    marker = request.node.get_closest_marker('ivshmem_messages')
    with Messages(ivshmem_peer, **(marker.kwargs if marker else {})) as \
            messages:
        yield messages
