"""A peer on the host, for tests of firmware in Python.

Peer is a client of an ivshmem server, as a machine with an ivshmem device is:
it has an id, the shared memory, doorbells to ring and to wait for.

    with Peer('/tmp/ivshmem.sock') as peer:
        print(peer.id, len(peer.memory), sorted(peer.peers))
        peer.memory[0:4] = b'work'
        peer.ring(3)                    # vector 0 of the peer with id 3
        peer.wait(timeout=5)            # {0}: our vector 0 has rung

Messages speaks the message layer of guest/ivshmem_msg.h over it:

    with Peer(path) as peer, Messages(peer) as messages:
        while True:
            for slot in messages.poll():
                print(slot, messages.state(slot), messages.id(slot))
            message = messages.receive()
            if message:
                messages.send(message.slot, message.type, message.payload)
            messages.ring()
            if not message:
                peer.wait()

Everything in shared memory is written from the other side too: nothing in it
can be trusted, and none of it makes this module read or write elsewhere.

For hosts with x86-64 CPUs: Python has no memory barriers to offer, and these
CPUs need only one that a lock provides. Elsewhere use build/guest/ivshmem-peer.
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
import threading
import time
import zlib
from collections import namedtuple


class ServerError(Exception):
    """The server did not keep to the protocol, or to the time."""


class Peer:
    """One connection to a server.

    id      our own, 0 to 65535
    memory  the shared memory, an mmap
    peers   for each peer's id, the eventfds of its vectors; ours too
    server  False after the server's end; peers that are known stay known

    path     the server's socket
    timeout  seconds that the server has for its greeting
    """
    VERSION = 0
    QUIET = 0.25        # s without a word end the server's first messages

    def __init__(self, path, timeout=10):
        self.server = True
        self.peers = {}
        self.memory = None
        self._fds = []          # what came with the message below
        self._message = b''     # one that is not complete yet
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(os.fspath(path))
            self._greet(time.monotonic() + timeout)
            # Who is there already comes next, and then our own vectors.
            while self.server and self._readable(self.QUIET):
                self.update()
                if self.vectors and not self._readable(0):
                    break
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

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
        while self.server:
            try:
                number, fd = self._receive()
            except BlockingIOError:
                return
            except EOFError:
                self.server = False
                return
            if fd is None:
                if number != self.id:
                    _close(self.peers.pop(number, []))
            elif 0 <= number <= 0xffff:
                self.peers.setdefault(number, []).append(fd)
            else:
                os.close(fd)

    def close(self):
        """Disconnect."""
        self.server = False
        self._socket.close()
        while self.peers:
            _close(self.peers.popitem()[1])
        _close(self._fds)
        if self.memory is not None:
            self.memory.close()

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


def _ready(file, event, timeout):
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(timeout * 1000))


def _close(fds):
    while fds:
        os.close(fds.pop())


class Evicted(Exception):
    """Another peer has moved into our slot."""


class NoLink(Exception):
    """Not linked with that slot (any more)."""


class Broken(Exception):
    """The peer wrote nonsense; it is not listened to any more."""


class BadCrc(Exception):
    """A message was damaged, and is dropped; the next can be received."""


Message = namedtuple('Message', 'slot sequence type payload')

# How we stand with a slot; see enum ivshmem_msg_state
ABSENT, FOREIGN, GREETING, LINKED, LEFT, DEAD = (
    'absent', 'foreign', 'greeting', 'linked', 'left', 'dead')


class _Slot:
    """Our view of one slot; see struct ivshmem_msg_peer."""

    def __init__(self, state=ABSENT, peer_id=0, session=0):
        self.state = state
        self.id = peer_id
        self.doorbell = peer_id
        self.session = session
        self.head = self.tail = self.sent = self.expected = 0
        self.wants = Messages.WANT_MESSAGES


class Messages:
    """A place in the directory, and rings of messages to and from all others.

    What stands where, and why, is in guest/ivshmem_msg.h; the functions there
    have the same names and do the same.

    peer    a Peer
    slots   how many peers there can be, the same for all of them
    slot    0 to slots - 1, or None: choose one
    vector  on which peers are rung for messages
    control on which they are rung for who came or left; None: the same
    crc     messages have a CRC; the same for all peers
    """
    MAGIC = 0x314d5649
    VERSION = 2
    CRC = 1
    ALIGN = 16
    MIN_RING = 256
    MAX_RING = 1 << 30
    WANT_MESSAGES = 1
    WANT_SPACE = 2
    # words of an entry ...
    _MAGIC, _LAYOUT, _ID, _COUNTER, _SESSION, _DOORBELL = range(6)
    # ... and of a side, both of which have 16
    _LINK, _HEAD, _TAIL, _WANTS = range(4)

    def __init__(self, peer, slots=8, slot=None, vector=0, control=None,
                 crc=False):
        size = len(peer.memory)
        if not 2 <= slots <= 31 or slot is not None and \
                not 0 <= slot < slots:
            raise ValueError(f'{slots} slots, slot {slot}')
        self.peer = peer
        self.slots = slots
        self.vector = vector
        self.control = vector if control is None else control
        self.crc = crc
        self._rings = (slots + slots * slots) * 64
        room = (size - self._rings) // (slots * (slots - 1))
        if room < self.MIN_RING:
            raise ValueError(f'{size} bytes of shared memory are too small '
                             f'for {slots} slots')
        self.ring_size = min(1 << room.bit_length() - 1, self.MAX_RING)
        # Python loads and stores an element of this view in one piece.
        self._bytes = memoryview(peer.memory)
        self._words = self._bytes[:size // 4 * 4].cast('I')
        self._lock = threading.Lock()
        self._layout = (self.CRC if crc else 0) << 24 | self.VERSION << 16 | \
            slots << 8 | self.ring_size.bit_length() - 1
        self._slot = [_Slot() for _ in range(slots)]
        self._due = set()       # slots and vectors
        self.slot = self._choose_slot() if slot is None else slot
        self._move_in()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def state(self, slot):
        """How we stand with a slot: ABSENT, ... LINKED, ..."""
        return self._slot[slot].state

    def id(self, slot):
        """The id of who is in a slot, as far as one is."""
        return self._slot[slot].id

    def linked(self):
        """The slots with which we exchange messages."""
        return [number for number, slot in enumerate(self._slot)
                if slot.state == LINKED]

    def poll(self):
        """Look who came and who left; return the slots that changed.

        Call it first, and after each doorbell.
        """
        self._check_evicted()
        return [slot for slot in range(self.slots)
                if slot != self.slot and self._poll_slot(slot)]

    def ring(self):
        """Ring those who wait for what we have done."""
        while self._due:
            slot, vector = self._due.pop()
            self.peer.ring(self._slot[slot].doorbell, vector)

    def send(self, slot, type, payload=b''):
        """Put a message into the ring to a peer.

        Return False if it has no space now; the peer rings when it has.
        """
        self._check_evicted()
        view = self._slot[slot]
        if view.state != LINKED:
            raise NoLink(slot)
        if len(payload) > self.ring_size - self.ALIGN:
            raise ValueError(f'{len(payload)} bytes do not fit into a ring '
                             f'of {self.ring_size}')
        need = self.ALIGN + self._padded(len(payload))
        if not self._has_space(slot, need):
            return False
        fields = struct.pack('<III', len(payload), view.sent & 0xffffffff,
                             type)
        header = fields + struct.pack(
            '<I', zlib.crc32(fields + payload) if self.crc else 0)
        self._copy_in(self._ring(self.slot, slot), view.head, header + payload)
        view.sent += 1
        view.head = view.head + need & 0xffffffff
        self._words[self._ours(slot) + self._HEAD] = view.head
        self._due_if_wanted(slot, self.WANT_MESSAGES)
        return True

    def receive(self, slot=None):
        """Take the next Message of a peer, or of anybody; None if there is none.

        It may be the last of one who has left already. After None, look again
        when the doorbell has rung.
        """
        if slot is None:
            for slot, view in enumerate(self._slot):
                if view.state in (LINKED, LEFT):
                    try:
                        message = self.receive(slot)
                    except NoLink:      # it is about to begin a new session
                        continue
                    if message:
                        return message
            return None
        self._check_evicted()
        view = self._slot[slot]
        if view.state == DEAD:
            raise Broken(slot)
        head = self._linked_load(slot, self._HEAD) \
            if view.state in (LINKED, LEFT) else None
        if head is None:
            raise NoLink(slot)
        used = self._used(slot, head, view.tail)
        if not used:
            return None
        ring = self._ring(slot, self.slot)
        header = self._copy_out(ring, view.tail, self.ALIGN)
        length, sequence, type_, crc = struct.unpack('<IIII', header)
        if length > used - self.ALIGN:
            view.state = DEAD
            raise Broken(slot)
        payload = self._copy_out(ring, view.tail + self.ALIGN, length)
        view.tail = view.tail + self.ALIGN + self._padded(length) & 0xffffffff
        self._words[self._ours(slot) + self._TAIL] = view.tail
        self._due_if_wanted(slot, self.WANT_SPACE)
        if self.crc and zlib.crc32(header[:12] + payload) != crc:
            raise BadCrc(slot)
        return Message(slot, sequence, type_, payload)

    def close(self):
        """Say goodbye, and ring those who should hear it."""
        try:
            self._check_evicted()
            self._words[self._entry(self.slot) + self._SESSION] = 0
            self._due |= {(number, self.control)
                          for number, slot in enumerate(self._slot)
                          if slot.state in (GREETING, LINKED)}
            self.ring()
        except Evicted:
            pass
        finally:
            self._words.release()
            self._bytes.release()

    # Where things are: words from the memory's start, rings in bytes

    def _entry(self, slot):
        return slot * 16

    def _side(self, writer, reader):
        return (self.slots + writer * self.slots + reader) * 16

    def _ours(self, slot):
        return self._side(self.slot, slot)

    def _theirs(self, slot):
        return self._side(slot, self.slot)

    def _ring(self, writer, reader):
        index = writer * (self.slots - 1) + reader - (reader > writer)
        return self._rings + index * self.ring_size

    def _padded(self, length):
        return -(-length // self.ALIGN) * self.ALIGN

    def _copy_in(self, ring, index, data):
        start = index % self.ring_size
        first = min(len(data), self.ring_size - start)
        self._bytes[ring + start:ring + start + first] = data[:first]
        self._bytes[ring:ring + len(data) - first] = data[first:]

    def _copy_out(self, ring, index, length):
        start = index % self.ring_size
        first = min(length, self.ring_size - start)
        return bytes(self._bytes[ring + start:ring + start + first]) + \
            bytes(self._bytes[ring:ring + length - first])

    # The directory

    def _full_barrier(self):
        with self._lock:
            pass

    def _occupied(self, slot):
        entry = self._entry(slot)
        return self._words[entry + self._MAGIC] == self.MAGIC and \
            1 <= self._words[entry + self._SESSION] <= 0xffff

    def _choose_slot(self):
        home = self.peer.id % self.slots
        for i in range(self.slots):
            slot = (home + i) % self.slots
            if not self._occupied(slot) or self.peer.id == \
                    self._words[self._entry(slot) + self._DOORBELL]:
                return slot
        return home

    def _move_in(self):
        entry = self._entry(self.slot)
        self.session = self._words[entry + self._COUNTER] % 0xffff + 1
        self._words[entry + self._SESSION] = 0
        self._words[entry + self._COUNTER] = self.session
        self._words[entry + self._ID] = self.peer.id
        self._words[entry + self._DOORBELL] = self.peer.id
        self._words[entry + self._LAYOUT] = self._layout
        self._words[entry + self._MAGIC] = self.MAGIC
        for reader in range(self.slots):
            self._words[self._ours(reader) + self._LINK] = 0
        self._words[entry + self._SESSION] = self.session
        self._full_barrier()

    def _check_evicted(self):
        entry = self._entry(self.slot)
        if self._words[entry + self._SESSION] != self.session or \
                self._words[entry + self._ID] != self.peer.id:
            raise Evicted(self.slot)

    def _is_linked(self, slot):
        return self._words[self._theirs(slot) + self._LINK] == \
            self._slot[slot].session << 16 | self.session

    def _greet(self, slot, peer_id, session):
        view = self._slot[slot] = _Slot(GREETING, peer_id, session)
        side = self._ours(slot)
        self._words[side + self._LINK] = 0
        self._words[side + self._HEAD] = 0
        self._words[side + self._TAIL] = 0
        self._words[side + self._WANTS] = view.wants
        self._words[side + self._LINK] = self.session << 16 | session
        self._due.add((slot, self.control))

    def _poll_slot(self, slot):
        entry = self._entry(slot)
        view = self._slot[slot]
        before = view.state, view.session
        session = self._words[entry + self._SESSION]
        magic = self._words[entry + self._MAGIC]
        layout = self._words[entry + self._LAYOUT]
        peer_id = self._words[entry + self._ID]
        doorbell = self._words[entry + self._DOORBELL]
        if self._words[entry + self._SESSION] != session:
            return False    # being written, by one who rings us afterwards
        if magic != self.MAGIC or not 1 <= session <= 0xffff:
            if view.state == LINKED:
                view.state = LEFT
            elif view.state != LEFT:
                view.state = ABSENT
        elif layout != self._layout or (peer_id | doorbell) > 0xffff:
            view.state = FOREIGN
        elif (view.session, view.id) != (session, peer_id) or \
                view.state in (ABSENT, FOREIGN):
            self._greet(slot, peer_id, session)
            self._slot[slot].doorbell = doorbell
        elif view.doorbell != doorbell:
            # what we have rung since it moved has not reached it
            view.doorbell = doorbell
            self._due.add((slot, self.control))
        view = self._slot[slot]
        if view.state == GREETING and self._is_linked(slot):
            view.state = LINKED
        return (view.state, view.session) != before

    # The rings

    def _linked_load(self, slot, index):
        """One of the peer's indices; None if it does not stand by the link,
        neither before nor after."""
        if not self._is_linked(slot):
            return None
        value = self._words[self._theirs(slot) + index]
        return value if self._is_linked(slot) else None

    def _used(self, slot, head, tail):
        used = head - tail & 0xffffffff
        if used > self.ring_size or used % self.ALIGN:
            self._slot[slot].state = DEAD
            raise Broken(slot)
        return used

    def _due_if_wanted(self, slot, want):
        self._full_barrier()
        if self._words[self._theirs(slot) + self._WANTS] & want:
            self._due.add((slot, self.vector))

    def _set_wants(self, slot, wants):
        view = self._slot[slot]
        if view.wants != wants:
            view.wants = wants
            self._words[self._ours(slot) + self._WANTS] = wants
            self._full_barrier()

    def _has_space(self, slot, need):
        view = self._slot[slot]
        for _ in range(2):
            tail = self._linked_load(slot, self._TAIL)
            if tail is None:
                raise NoLink(slot)
            used = self._used(slot, view.head, tail)
            if need <= self.ring_size - used:
                self._set_wants(slot, view.wants & ~self.WANT_SPACE)
                return True
            # it may take a message just before we ask: look again
            self._set_wants(slot, view.wants | self.WANT_SPACE)
        return False
