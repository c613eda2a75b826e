#!/usr/bin/env python3
"""System calls that fail under ivshmem-flat, one at a time.

At the start of a machine each ends in one clear error; later the machine goes
on, without what the call was for, and is as well as before once the call
works again. tests/fault-shim.c makes them fail.

Needs qemu-system-arm in build/bin (or $BUILD/bin) and a C compiler.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import errno
import fcntl
import mmap
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time
import unittest

from lab_case import BIN, ROOT, CleanCase

QEMU = BIN / 'qemu-system-arm'
DEADLINE = 60       # seconds for what must come, on a machine under load

# The shim hits what bears this name.
MARK = 'ivshmem-fault'
NAME_SIZE = 16
FAULT = struct.Struct(f'{NAME_SIZE}siii')    # as in tests/fault-shim.c

SHMEM_SIZE = 1 << 20
IVPOSITION, DOORBELL, SHMEM = 0x50000008, 0x5000000c, 0x70000000
INPUT = 16
NVIC_ISPR, NVIC_ICPR = 0xe000e200, 0xe000e280
OWN, PEER, LATER = 1, 2, 3          # ids


def setUpModule():
    global tools
    tools = tempfile.TemporaryDirectory(prefix='ivshmem-fault-')
    unittest.addModuleCleanup(tools.cleanup)
    subprocess.run(['cc', '-O1', '-w', '-shared', '-fPIC',
                    '-o', f'{tools.name}/shim.so',
                    ROOT / 'tests/fault-shim.c', '-ldl'], check=True)


class Server:
    """A fake ivshmem server for one client."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.listener.settimeout(DEADLINE)
        self.memory = os.memfd_create(MARK)
        os.truncate(self.memory, SHMEM_SIZE)
        self.eventfds = []
        self.client = None

    def accept(self):
        self.client, _ = self.listener.accept()

    def send(self, value, *fds):
        data = struct.pack('<q', value)
        if fds:
            socket.send_fds(self.client, [data], fds)
        else:
            self.client.sendall(data)

    def send_vector(self, peer):
        """Returns its eventfd."""
        fd = os.eventfd(0)
        self.eventfds.append(fd)
        self.send(peer, fd)
        return fd

    def is_read(self):
        """Has the client read all that was sent?"""
        return not any(fcntl.ioctl(self.client, termios.TIOCOUTQ, bytes(4)))

    def close(self):
        for fd in (self.memory, *self.eventfds):
            os.close(fd)
        self.listener.close()
        if self.client:
            self.client.close()


class Machine:
    """QEMU, with calls that fail."""

    def __init__(self, stack, call='', error=0, times=-1, options=(),
                 asan=''):
        self.dir = stack.enter_context(
            tempfile.TemporaryDirectory(prefix='ivshmem-fault-'))
        path = f'{self.dir}/{MARK}'
        self.server = stack.enter_context(contextlib.closing(Server(path)))
        with open(f'{self.dir}/fault', 'w+b') as file:
            file.write(bytes(FAULT.size))
            file.flush()
            self.fault = stack.enter_context(
                mmap.mmap(file.fileno(), FAULT.size))
        self.fail(call, error, times)
        self.errors = stack.enter_context(open(f'{self.dir}/err', 'w+b'))
        self.process = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'KILL',      # to end when we do
             QEMU, '-machine', 'mps2-an385,accel=qtest', '-display', 'none',
             '-qtest', 'stdio', '-qtest-log', '/dev/null',
             '-chardev', f'socket,id=server,path={path}',
             '-device', 'ivshmem-flat,chardev=server,'
             'x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x70000000,'
             f'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[{INPUT}]',
             *options],
            env={**os.environ, 'LD_PRELOAD': f'{tools.name}/shim.so',
                 'FAULT_FILE': f'{self.dir}/fault',
                 # AddressSanitizer is not to take SIGBUS for its own
                 'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '') +
                                 ':handle_sigbus=0' + asan},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        stack.callback(self.stop)
        self.server.accept()

    def fail(self, call, error, times=-1):
        self.fault[:] = FAULT.pack(call.encode(), error, times, 0)

    def fail_otherwise(self, error):
        """QEMU may just make the call: change only with what it fails."""
        struct.pack_into('i', self.fault, NAME_SIZE, error)

    def hits(self):
        return FAULT.unpack(self.fault[:])[3]

    def greet(self):
        """Returns the eventfds of the peer and of the machine."""
        with contextlib.suppress(BrokenPipeError):  # it may have given up
            self.server.send(0)
            self.server.send(OWN)
            self.server.send(-1, self.server.memory)
            return self.server.send_vector(PEER), self.server.send_vector(OWN)

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode()

    def ask(self, command):
        """One of qtest's commands; returns its answer."""
        self.process.stdin.write(f'{command}\n'.encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
        line = self.process.stdout.readline() if ready else b'nothing'
        if not line.startswith(b'OK'):
            raise AssertionError(f'qtest answered {line} to "{command}"; '
                                 f'QEMU said:\n{self.stderr()}')
        return line.decode().split()[1:]

    def readl(self, address):
        return int(self.ask(f'readl {address:#x}')[0], 0)

    def ring(self, peer, vector=0):
        self.ask(f'writel {DOORBELL:#x} {peer << 16 | vector:#x}')

    def fds(self):
        return {int(fd) for fd in os.listdir(f'/proc/{self.process.pid}/fd')}

    def lack_fds(self):
        """From now on QEMU can open none; returns what undoes that."""
        fds = self.fds()
        self.limit = min(set(range(len(fds) + 1)) - fds)
        limits = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE,
                         (self.limit, limits[1]))
        return lambda: resource.prlimit(self.process.pid,
                                        resource.RLIMIT_NOFILE, limits)

    def wait_for(self, condition, what):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f'no {what}; QEMU said:\n{self.stderr()}')
            time.sleep(0.01)

    def interrupted(self):
        """Has an interrupt come? Forgets it."""
        pending = self.readl(NVIC_ISPR) >> INPUT & 1
        self.ask(f'writel {NVIC_ICPR:#x} {1 << INPUT:#x}')
        return pending

    def quit(self):
        """Returns QEMU's exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def counter(eventfd):
    """How often it was rung. Who receives an eventfd makes it blocking."""
    readable, _, _ = select.select([eventfd], [], [], 0)
    return os.eventfd_read(eventfd) if readable else 0


class Chroot(CleanCase):
    """QEMU is where there is no /proc, from its start on."""

    def test_eventfds_are_known_as_such(self):
        if os.geteuid():
            self.skipTest('chroot is for root')
        stack = self.enterContext(contextlib.ExitStack())
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix='ivshmem-fault-'))
        # LeakSanitizer looks at the threads in /proc
        machine = Machine(stack, options=['-run-with', f'chroot={folder}'],
                          asan=':detect_leaks=0')
        machine.greet()
        self.assertEqual(machine.readl(IVPOSITION), OWN)
        self.assertEqual(os.readlink(f'/proc/{machine.process.pid}/root'),
                         folder)
        later = machine.server.send_vector(LATER)
        machine.ring(LATER)
        machine.wait_for(lambda: counter(later), 'doorbell')
        self.assertEqual(machine.quit(), 0)
        self.assertEqual(machine.stderr(), '')


class Start(CleanCase):
    """A call fails while the machine starts."""

    def check_error(self, call, error, expected):
        with self.subTest(f'{call}: {errno.errorcode[error]}'), \
                contextlib.ExitStack() as stack:
            machine = Machine(stack, call, error)
            machine.greet()
            status = machine.process.wait(DEADLINE)
            self.assertEqual(machine.stderr().count('\n'), 1,
                             machine.stderr())
            self.assertRegex(machine.stderr(), expected)
            self.assertEqual(status, 1)
            self.assertGreaterEqual(machine.hits(), 1)

    def test_file_descriptors_have_no_names(self):
        self.check_error('open', errno.ENOENT, 'cannot open /proc/self/fd, by '
                         'which eventfds are recognized: No such file')

    def test_shared_memory_cannot_be_examined(self):
        self.check_error('fstat', errno.EIO, 'cannot examine the shared '
                         'memory: Input/output error')

    def test_shared_memory_flags_cannot_be_examined(self):
        # QEMU 10.2 already asks for them when it receives the fd.
        self.check_error('fcntl', errno.EIO, 'cannot examine the shared '
                         'memory: Input/output error|expected the shared '
                         'memory')

    def test_shared_memory_cannot_be_mapped(self):
        for error in errno.ENOMEM, errno.EPERM, errno.EAGAIN:
            self.check_error('mmap', error, re.escape(os.strerror(error)))

    def test_server_cannot_be_read(self):
        for error in errno.ECONNRESET, errno.EIO, errno.ENOMEM:
            self.check_error('recvmsg', error, 'server closed the connection '
                             'after 0 bytes, expected the protocol version')

    def check_lack(self, say, lost):
        """What the server says next comes without its file descriptor."""
        with contextlib.ExitStack() as stack:
            machine = Machine(stack)
            machine.server.send(0)
            machine.server.send(OWN)
            machine.wait_for(machine.server.is_read, 'reading of two messages')
            machine.lack_fds()
            say(machine.server)
            self.assertEqual(machine.process.wait(DEADLINE), 1)
            self.assertRegex(machine.stderr(), f'^[^\n]*{lost} was lost for want '
                             'of file descriptors, the limit of open files '
                             rf'\(ulimit -n\) is {machine.limit}\n$')

    def test_out_of_file_descriptors(self):
        self.check_lack(lambda server: server.send(-1, server.memory),
                        'the shared memory')
        self.check_lack(lambda server: server.send_vector(PEER),
                        f'peer {PEER}: its eventfd')

    def test_handled(self):
        """These fail and nobody notices."""
        for call, error, times in (('recvmsg', errno.EINTR, 3),
                                   ('recvmsg', errno.EAGAIN, 3),
                                   ('ioctl', errno.EINVAL, -1)):
            with self.subTest(f'{call}: {errno.errorcode[error]}'), \
                    contextlib.ExitStack() as stack:
                machine = Machine(stack, call, error, times)
                peer, own = machine.greet()
                self.assertEqual(machine.readl(IVPOSITION), OWN)
                machine.ring(PEER)
                self.assertEqual(counter(peer), 1)
                os.eventfd_write(own, 1)
                machine.wait_for(machine.interrupted, 'interrupt')
                self.assertGreaterEqual(machine.hits(), 1)
                self.assertEqual(machine.quit(), 0)
                self.assertEqual(machine.stderr(), '')


class Later(CleanCase):
    """A call fails while the machine runs."""

    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.machine = Machine(stack)
        self.server = self.machine.server
        self.peer, self.own = self.machine.greet()
        self.check_well()
        self.fds = self.machine.fds()

    def check_well(self):
        machine = self.machine
        self.assertEqual(machine.readl(IVPOSITION), OWN)
        machine.ring(PEER)
        self.assertEqual(counter(self.peer), 1)
        os.eventfd_write(self.own, 1)
        machine.wait_for(machine.interrupted, 'interrupt')

    def check_end(self, fds=0, stderr='^$'):
        """All is well again, but that it has so many fds more."""
        self.assertGreaterEqual(self.machine.hits(), 1)
        self.machine.fail('', 0)
        self.check_well()
        # what the server has said last may have to be read yet
        self.machine.wait_for(
            lambda: len(self.machine.fds()) == len(self.fds) + fds,
            f'{len(self.fds)} fds and {fds} more')
        self.assertEqual(self.machine.quit(), 0)
        self.assertRegex(self.machine.stderr(), stderr)

    def wait_for_hit(self):
        self.machine.wait_for(self.machine.hits, 'call that fails')

    def test_server_cannot_be_read(self):
        self.machine.fail('recvmsg', errno.ECONNRESET)
        self.server.send_vector(LATER)
        self.machine.wait_for(self.machine.stderr, 'warning')
        self.check_end(fds=-1, stderr='^[^\n]*server at chardev .* is gone'
                       '[^\n]*\n$')

    def test_eventfd_cannot_be_examined(self):
        self.machine.fail('readlinkat', errno.EACCES)
        self.server.send_vector(LATER)
        self.server.send_vector(LATER)
        self.machine.wait_for(lambda: self.machine.hits() == 2, 'second hit')
        self.check_end(stderr='^[^\n]*ignored message 3 [^\n]*\n$')

    def test_unread_bytes_cannot_be_counted(self):
        """A doorbell to a peer that is not known yet may be lost then."""
        self.machine.fail('ioctl', errno.EINVAL)
        self.machine.ring(LATER)
        self.check_end()

    def test_server_is_not_read(self):
        """Doorbells to peers that it announces wait, up to 64 of them."""
        self.machine.fail('recvmsg', errno.EAGAIN)
        peers = range(100, 170)
        fds = [self.server.send_vector(peer) for peer in peers]
        self.machine.ring(peers[0], 1)      # a vector that it does not have
        for peer in peers:
            self.machine.ring(peer)
        self.assertFalse(any(map(counter, fds)))
        self.machine.fail('', 0)
        self.machine.wait_for(lambda: counter(fds[0]), 'doorbell')
        self.machine.wait_for(self.server.is_read, 'reading of all messages')
        self.check_well()       # the reading handler has returned
        self.assertEqual([counter(fd) for fd in fds[1:]], 62 * [1] + 7 * [0])
        self.machine.fail('recvmsg', errno.EAGAIN)
        self.server.send_vector(LATER)
        self.wait_for_hit()
        self.check_end(fds=len(fds) + 1)

    def test_server_is_not_read_in_an_announcement(self):
        """No doorbell waits for what the server has only begun to send."""
        self.machine.fail('recvmsg', errno.EAGAIN)
        later = os.eventfd(0)
        self.addCleanup(os.close, later)
        message = struct.pack('<q', LATER)
        socket.send_fds(self.server.client, [message[:4]], [later])
        self.machine.ring(LATER)
        self.wait_for_hit()
        self.machine.fail('', 0)
        self.machine.wait_for(self.server.is_read, 'reading of its beginning')
        self.server.client.sendall(message[4:])
        self.machine.wait_for(self.server.is_read, 'reading of all of it')
        self.check_well()       # the reading handler has returned
        self.assertEqual(counter(later), 0)
        self.machine.ring(LATER)
        self.assertEqual(counter(later), 1)
        self.machine.fail('recvmsg', errno.EAGAIN)
        self.server.send_vector(LATER)
        self.wait_for_hit()
        self.check_end(fds=2)

    def test_server_is_not_read_while_an_id_is_used_again(self):
        """A doorbell is for whoever had the ID when it was rung."""
        self.machine.fail('recvmsg', errno.EAGAIN)
        self.server.send(PEER)
        first = self.server.send_vector(PEER)
        self.machine.ring(PEER)
        self.machine.ring(PEER)
        self.server.send(PEER)
        self.machine.ring(PEER)
        second = self.server.send_vector(PEER)
        self.machine.ring(PEER)
        self.machine.ring(OWN)      # which no server takes away
        self.machine.wait_for(self.machine.interrupted, 'interrupt')
        self.assertFalse(any(map(counter, (self.peer, first, second))))
        self.wait_for_hit()
        self.machine.fail('', 0)
        self.machine.wait_for(self.server.is_read, 'reading of all messages')
        self.assertEqual(self.machine.readl(IVPOSITION), OWN)   # and handling
        self.assertEqual(counter(self.peer), 0)
        self.assertEqual(counter(first), 2)
        # the third waited with the fourth, until there was somebody again
        self.assertEqual(counter(second), 2)
        self.peer = second
        self.machine.fail('recvmsg', errno.EAGAIN)
        self.server.send_vector(LATER)
        self.wait_for_hit()
        self.check_end(fds=1)

    def test_server_is_not_read_while_all_are_rung(self):
        """Of peers that are known, more than 64 can wait for it."""
        fds = [self.server.send_vector(peer) for peer in range(100, 300)]
        self.machine.wait_for(lambda: len(self.machine.fds()) ==
                              len(self.fds) + len(fds), 'peers')
        self.machine.fail('recvmsg', errno.EAGAIN)
        self.server.send_vector(LATER)
        for peer in range(100, 300):
            self.machine.ring(peer)
        self.assertFalse(any(map(counter, fds)))
        self.wait_for_hit()
        self.machine.fail('', 0)
        for fd in fds:
            self.machine.wait_for(lambda fd=fd: counter(fd), 'doorbell')
        self.machine.fail('recvmsg', errno.EAGAIN)
        self.server.send_vector(LATER)
        self.wait_for_hit()
        self.check_end(fds=len(fds) + 2)

    def test_server_goes_while_a_doorbell_waits(self):
        self.machine.fail('recvmsg', errno.EAGAIN)
        later = self.server.send_vector(LATER)
        self.machine.ring(LATER)
        self.machine.fail_otherwise(errno.ECONNRESET)
        self.machine.wait_for(self.machine.stderr, 'warning')
        self.assertEqual(counter(later), 0)
        self.check_end(fds=-1, stderr='^[^\n]*server at chardev .* is gone'
                       '[^\n]*\n$')

    def test_counter_cannot_be_examined(self):
        self.machine.fail('poll', errno.ENOMEM)
        self.machine.ring(PEER)
        self.assertEqual(counter(self.peer), 0)
        self.check_end()

    def test_peer_cannot_be_rung(self):
        for error in errno.EAGAIN, errno.EBADF:
            self.machine.fail('write', error)
            self.machine.ring(PEER)
            self.assertEqual(counter(self.peer), 0)
        self.check_end()

    def test_peer_is_rung_again_after_a_signal(self):
        self.machine.fail('write', errno.EINTR, 1)
        self.machine.ring(PEER)
        self.assertEqual(counter(self.peer), 1)
        self.check_end()

    def test_own_counter_cannot_be_read_without_waiting(self):
        """As in Linux before 5.8."""
        self.machine.fail('preadv2', errno.EOPNOTSUPP, 1)
        os.eventfd_write(self.own, 1)
        self.wait_for_hit()
        self.machine.wait_for(self.machine.interrupted, 'interrupt')
        self.check_end()

    def test_own_counter_cannot_be_read(self):
        self.machine.fail('preadv2', errno.EIO, 3)
        os.eventfd_write(self.own, 1)
        self.wait_for_hit()
        self.machine.wait_for(self.machine.interrupted, 'interrupt')
        self.check_end()

    def test_shared_memory_shrinks(self):
        """It can be used up to its end; beyond that is QEMU's end, too."""
        machine = self.machine
        os.truncate(self.server.memory, SHMEM_SIZE // 2)
        machine.ask(f'writel {SHMEM + SHMEM_SIZE // 2 - 4:#x} 0x12345678')
        self.assertEqual(machine.readl(SHMEM + SHMEM_SIZE // 2 - 4),
                         0x12345678)
        self.check_well()
        with self.assertRaisesRegex(AssertionError, "qtest answered b''"):
            machine.readl(SHMEM + SHMEM_SIZE // 2)
        self.assertEqual(machine.process.wait(DEADLINE), -signal.SIGBUS)

    def test_out_of_file_descriptors(self):
        """An eventfd that cannot be received is lost, and reported once."""
        machine = self.machine
        have_fds = machine.lack_fds()
        for _ in range(3):
            self.server.send_vector(LATER)
        machine.wait_for(self.server.is_read, 'reading of three messages')
        machine.ring(LATER)
        machine.wait_for(machine.stderr, 'report')
        have_fds()
        later = self.server.send_vector(LATER)
        machine.wait_for(lambda: machine.fds() != self.fds, 'new peer')
        machine.ring(LATER)
        self.assertEqual(counter(later), 1)
        machine.fail('poll', errno.ENOMEM)
        machine.ring(PEER)
        self.check_end(fds=1, stderr='^[^\n]* eventfds [^\n]*lost for want of '
                       'file descriptors[^\n]*\n$')
        lost, limit, expected = map(int, re.search(
            r' (\d) eventfds .* is (\d+), expected (\d+) or more',
            machine.stderr()).groups())
        self.assertIn(lost, (1, 2, 3))
        self.assertEqual(limit, machine.limit)
        self.assertEqual(expected, limit + lost)


if __name__ == '__main__':
    unittest.main()
