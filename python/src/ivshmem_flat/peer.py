"""A peer on the host: one client of an ivshmem server.

It is a client as a machine with an ivshmem device is: it has an id, the shared
memory, doorbells to ring and to wait for.

    with Peer('/tmp/ivshmem.sock') as peer:
        print(peer.id, len(peer.memory), sorted(peer.peers))
        peer.memory[0:4] = b'work'
        peer.ring(3)                    # vector 0 of the peer with id 3
        peer.wait(timeout=5)            # {0}: our vector 0 has rung

Everything in shared memory is written from the other side too: nothing in it
can be trusted, and none of it makes this package read or write elsewhere.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

import array
import mmap
import os
import select
import socket
import struct
import time

from .words import words_of


class ServerError(Exception):
    """The server did not keep to the protocol, or to the time."""


class Peer:
    """One connection to a server.

    id      our own, 0 to 65535
    memory  the shared memory, an mmap
    words   the same as 32-bit words, each of which is loaded and stored in one
            piece, and in order: see words.py
    peers   for each peer's id, the eventfds of its vectors; ours too
    vectors the eventfds of our own
    gone    ids of peers of whom the server has said that they are gone
    server  False after the server's end; peers that are known stay known

    path     the server's socket
    timeout  seconds that the server has for all that it says at first

    A busy server may tell of some peers and vectors only after that, as it does
    of peers that come later: ring(), wait() and update() take notice.
    """
    VERSION = 0
    QUIET = 0.25        # s without a word end the server's first messages;
    BRIEF = 0.05        # as soon as we have a vector, so many do

    def __init__(self, path, timeout=10):
        self.server = True
        self.peers = {}
        self.gone = set()
        self.memory = self.words = None
        self._fds = []          # what came with the message below
        self._message = b''     # one that is not complete yet
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + timeout
        try:
            self._connect(os.fspath(path))
            self._greet(deadline)
            # Who is there already comes next, and then our own vectors.
            while self.server and time.monotonic() < deadline and \
                    self._readable(self.BRIEF if self.vectors else self.QUIET):
                self._read_message()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _connect(self, path):
        try:
            self._socket.connect(path)
        except OSError as error:
            if error.errno:         # else it says what is wrong with the path
                error.filename = path
            raise

    @property
    def vectors(self):
        """The eventfds of our own vectors, in their order."""
        return self.peers.get(self.id, [])

    def ring(self, peer, vector=0):
        """Ring a peer; return whether there is such a peer and vector."""
        # who has just come or gone? the server may have said so already
        self.update()
        vectors = self.peers.get(peer, [])
        if not 0 <= vector < len(vectors):
            return False
        # a full counter would block us, and needs no other doorbell
        if _ready(vectors[vector], select.POLLOUT, 0):
            os.eventfd_write(vectors[vector], 1)
        return True

    def wait(self, timeout=None):
        """Sleep until our own doorbell has rung.

        Return the set of vectors that rang; it is empty if the timeout, in
        seconds, was over. Doorbells that rang since the last call count, and
        several on one vector may have become one.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            poll = select.poll()
            for fd in self.vectors:
                poll.register(fd, select.POLLIN)
            if self.server:
                poll.register(self._socket, select.POLLIN)
            left = None if deadline is None else \
                max(0, deadline - time.monotonic())
            ready = {fd for fd, _ in poll.poll(left and left * 1000)}
            rang = {vector for vector, fd in enumerate(self.vectors)
                    if fd in ready}
            for vector in rang:
                os.eventfd_read(self.vectors[vector])
            self.update()
            if rang or left == 0:
                return rang

    def update(self):
        """Read what the server has sent. ring() and wait() do so, too."""
        while self.server and self._read_message():
            pass

    def close(self):
        """Disconnect."""
        self.server = False
        self._socket.close()
        while self.peers:
            _close(self.peers.popitem()[1])
        _close(self._fds)
        if self.words is not None:
            self.words.release()
        if self.memory is not None:
            try:
                self.memory.close()
            except BufferError:
                pass        # it goes with the last view of it that is in use

    def _read_message(self):
        """Read one message; return whether there may be another one."""
        try:
            number, fd = self._receive()
        except BlockingIOError:
            return False
        except EOFError:
            self.server = False
            return False
        if fd is None:
            if number != self.id and number in self.peers:
                _close(self.peers.pop(number))
                self.gone.add(number)
        elif 0 <= number <= 0xffff:
            self.peers.setdefault(number, []).append(fd)
            self.gone.discard(number)
        else:
            os.close(fd)
        return True

    def _readable(self, timeout):
        return _ready(self._socket, select.POLLIN, timeout)

    def _receive(self):
        """Return the next message: its number, and its descriptor or None.

        Raises BlockingIOError if it is not there yet, EOFError at the end.
        """
        while len(self._message) < 8:
            try:
                # not socket.recv_fds(), which forgets the flags
                data, control, _, _ = self._socket.recvmsg(
                    8 - len(self._message), socket.CMSG_SPACE(4 * 4),
                    socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except ConnectionError:
                data, control = b'', []
            if not data:
                raise EOFError
            self._message += data
            for level, kind, value in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._fds += array.array('i', value[:len(value) // 4 * 4])
        number, = struct.unpack('<q', self._message)
        fd = self._fds.pop(0) if self._fds else None
        _close(self._fds)
        self._message = b''
        return number, fd

    def _greet(self, deadline):
        def receive(what):
            while True:
                try:
                    return self._receive()
                except BlockingIOError:
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._readable(left):
                        raise ServerError(
                            f'the server did not send {what} in time') \
                            from None
                except EOFError:
                    raise ServerError('the server closed the connection '
                                      f'instead of sending {what}') from None

        def expect(what, good):
            number, fd = receive(what)
            if not good(number, fd):
                if fd is not None:
                    os.close(fd)
                raise ServerError(
                    f'the server sent {number} '
                    f'{"without" if fd is None else "with"} a descriptor, '
                    f'expected {what}')
            return number, fd

        expect(f'its version, {self.VERSION}',
               lambda number, fd: number == self.VERSION and fd is None)
        self.id, _ = expect('our id, 0 to 65535', lambda number, fd:
                            0 <= number <= 0xffff and fd is None)
        _, fd = expect('the shared memory, -1 with a descriptor',
                       lambda number, fd: number == -1 and fd is not None)
        try:
            self.memory = mmap.mmap(fd, 0)
        except (OSError, ValueError) as error:
            raise ServerError("the server's shared memory cannot be mapped: "
                              f'{error}') from error
        finally:
            os.close(fd)
        with memoryview(self.memory) as view:
            self.words = words_of(view[:len(view) // 4 * 4])


def _ready(file, event, timeout):
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(timeout * 1000))


def _close(fds):
    while fds:
        os.close(fds.pop())
