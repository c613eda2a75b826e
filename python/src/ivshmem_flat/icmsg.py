"""ICMsg on the host: tests in Python talk to Zephyr's IPC service.

The firmware has an instance of the backend zephyr,ipc-icmsg, whose regions are
in the shared memory; its tx-region is what we receive from:

    with Peer('/tmp/ivshmem.sock') as peer, \\
            ICMsg(peer, 1, tx=(0x1000, 0x1000), rx=(0, 0x1000)) as icmsg:
        icmsg.bind(timeout=10)
        icmsg.send(b'question')
        print(icmsg.receive(timeout=10))

The protocol, with and without sessions, is described in guest/ivshmem_icmsg.h,
whose functions do the same. So do the limits: without sessions, firmware that
starts again must find an ICMsg that is opened again, and memory that is clear.

Everything in shared memory is written from the other side too: nothing in it
can be trusted, and none of it makes this module read or write elsewhere.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

import struct
import time

from .words import words_of


class NotBound(Exception):
    """The peer is not there, or has left: with sessions, open() again."""


class Broken(Exception):
    """The peer wrote nonsense; it is not listened to any more."""


# How we stand with the peer; see enum ivshmem_icmsg_state
OPENING, BOUND, UNBOUND, DEAD, CLOSED = (
    'opening', 'bound', 'unbound', 'dead', 'closed')


class _Ring:
    """Our view of one region; see struct ivshmem_icmsg_ring."""
    READ, HANDSHAKE = 0, 1      # words; WRITE depends on alignment
    MIN_DATA = 24               # magic, and a free word
    MAX_REGION = 1 << 30

    def __init__(self, memory, region, alignment):
        offset, size = region
        start = alignment + 4
        if offset < 0 or offset % alignment or size % 4 or \
                not start + self.MIN_DATA <= size <= self.MAX_REGION or \
                offset + size > len(memory):
            raise ValueError(
                f'region {offset:#x} of {size:#x} bytes, expected at least '
                f'{start + self.MIN_DATA:#x}, a multiple of 4, at a multiple '
                f'of {alignment}, within {len(memory):#x} bytes')
        with memoryview(memory)[offset:offset + start] as head:
            self.words = words_of(head)
        self.data = memoryview(memory)[offset + start:offset + size]
        self.write = alignment // 4
        self.size = size - start
        self.index = 0      # our own of the two, never read back

    def release(self):
        self.words.release()
        self.data.release()

    def empty(self):
        self.index = self.words[self.write] = self.words[self.READ] = 0

    def put(self, payload):
        """Put a packet into our ring; return whether it had space."""
        used = self.index - self._checked(self.words[self.READ])
        packet = struct.pack('>HH', len(payload), 0) + payload
        packet += bytes(-len(packet) % 4)
        if len(packet) > self.size - 4 - used % self.size:
            return False
        first = min(len(packet), self.size - self.index)
        self.data[self.index:self.index + first] = packet[:first]
        self.data[:len(packet) - first] = packet[first:]
        self.index = (self.index + len(packet)) % self.size
        self.words[self.write] = self.index
        return True

    def get(self):
        """The next packet in the peer's ring, and where it ends; or None.

        It stays there until drop().
        """
        used = (self._checked(self.words[self.write]) - self.index) % self.size
        if not used:
            return None
        length, _ = struct.unpack('>HH', self._copy(self.index, 4))
        if not 0 < length <= used - 4:
            raise Broken(f'{length} bytes in a packet of at most {used - 4}')
        start = (self.index + 4) % self.size
        return self._copy(start, length), \
            (start + length + -length % 4) % self.size

    def drop(self, end):
        self.index = self.words[self.READ] = end

    def _copy(self, start, length):
        first = min(length, self.size - start)
        return bytes(self.data[start:start + first]) + \
            bytes(self.data[:length - first])

    def _checked(self, index):
        if index >= self.size or index % 4:
            raise Broken(f'index {index:#x}, expected a multiple of 4 below '
                         f'{self.size:#x}')
        return index


class ICMsg:
    """One side of one instance.

    state  OPENING, BOUND, UNBOUND, DEAD or CLOSED

    peer       a Peer
    peer_id    the id of the one to talk with; None: ring all others, as it may
               come back under another id
    tx, rx     offset and size of what we write, and of what it writes
    vector     on which it is rung
    alignment  its dcache-alignment; None: the least there is, 4, or 8 with
               sessions
    sessions   its property unbound is "enable"
    """
    MAGIC = b'Em1l1K0rn3li4'
    MAX_LENGTH = 0xffff

    def __init__(self, peer, peer_id, tx, rx, vector=0, alignment=None,
                 sessions=False):
        least = 8 if sessions else 4
        alignment = alignment or least
        if alignment < least or alignment & alignment - 1:
            raise ValueError(f'alignment {alignment}, expected a power of two '
                             f'from {least} on')
        if tx[0] < sum(rx) and rx[0] < sum(tx):
            raise ValueError('the regions overlap')
        self.peer = peer
        self.peer_id = peer_id
        self._who = 'the peer' if peer_id is None else f'peer {peer_id}'
        self.vector = vector
        self.sessions = sessions
        self._rx = _Ring(peer.memory, rx, alignment)
        try:
            self._tx = _Ring(peer.memory, tx, alignment)
        except ValueError:
            self._rx.release()
            raise
        self.max_length = min(self._tx.size - 8, self.MAX_LENGTH)
        self.open()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def open(self):
        """Be there for the peer; done first, and when it has left."""
        self.state = OPENING
        self._rx.index = 0
        self._remote = 0
        if self.sessions:
            # the ring is emptied when the peer has asked for its session
            self._local = self._new_session()
            self._store_handshake()
        else:
            self._tx.empty()
            try:
                sent = self._tx.put(self.MAGIC)
            except Broken:
                sent = False
            if not sent:        # the peer has written there since
                self.state = DEAD
        self._ring()

    def close(self):
        """Leave, for good; with sessions, the peer is told."""
        if self.sessions and self.state not in (DEAD, CLOSED):
            self._local = self._remote = 0
            self._store_handshake()
            self._ring()
        self.state = CLOSED
        self._rx.release()
        self._tx.release()

    def poll(self):
        """Look whether the peer has come or left; return the state.

        All other methods do so, too.
        """
        if self.state == OPENING:
            try:
                if self.sessions:
                    self._expect_session()
                else:
                    self._expect_magic()
            except Broken:
                self.state = DEAD
                raise
        if self.state == BOUND and not self._same_session():
            self.state = UNBOUND
        return self.state

    def bind(self, timeout=None):
        """Wait until the peer is there; raise TimeoutError if it is not."""
        if not self._wait(lambda: self.poll() != OPENING, timeout):
            raise TimeoutError(f'{self._who} did not answer in {timeout:g} s')
        self._check_bound()

    def send(self, message):
        """Send a message of 1 to max_length bytes, and ring the peer.

        Return False if there is no space now. Nobody rings when there is: try
        again a little later. Zephyr stops to listen, for ever, if a message is
        longer than its CONFIG_PBUF_RX_READ_BUF_SIZE, 128 bytes by default.
        """
        self._check_bound()
        if not 0 < len(message) <= self.max_length:
            raise ValueError(f'{len(message)} bytes, expected 1 to '
                             f'{self.max_length}')
        try:
            sent = self._tx.put(bytes(message))
        except Broken:
            self.state = DEAD
            raise
        if sent:
            self._ring()
        return sent

    def receive(self, timeout=0):
        """Take the next message; wait so many seconds for it, or for ever.

        Return None if there is none.
        """
        received = []

        def take():
            received.extend(self._take())
            return received
        return received[0] if self._wait(take, timeout) else None

    def _take(self):
        """A list of the next message, or an empty one."""
        self._check_bound()
        try:
            packet = self._rx.get()
        except Broken:
            # if the peer came back before we read its index, that told nothing
            self._check_bound()
            self.state = DEAD
            raise
        self._check_bound()
        if not packet:
            return []
        message, end = packet
        self._rx.drop(end)
        return [message]

    def _wait(self, condition, timeout):
        """Look again after each doorbell, until the time is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not condition():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self.peer.wait(left)
        return True

    def _check_bound(self):
        state = self.poll()
        if state == DEAD:
            raise Broken('the peer wrote nonsense before')
        if state == CLOSED:
            raise NotBound('we have closed')
        if state != BOUND:
            raise NotBound(f'{self._who} has left' if state == UNBOUND else
                           f'{self._who} is not there yet')

    def _ring(self):
        self.peer.update()
        for peer_id in sorted(self.peer.peers) if self.peer_id is None else \
                [self.peer_id]:
            if peer_id != self.peer.id:
                self.peer.ring(peer_id, self.vector)

    def _expect_magic(self):
        packet = self._rx.get()
        if not packet:
            return
        message, end = packet
        # a later protocol may add to it
        if not message.startswith(self.MAGIC):
            raise Broken(f'a first packet {message[:16]!r}, expected '
                         f'{self.MAGIC!r}')
        self._rx.drop(end)
        self.state = BOUND
        self._ring()

    def _expect_session(self):
        handshake = self._tx.words[_Ring.HANDSHAKE]
        requested, confirmed = handshake & 0xffff, handshake >> 16
        if requested not in (0, self._remote):
            # it does not look at our ring before it is confirmed
            self._tx.empty()
            self._remote = requested
            self._store_handshake()
            self._ring()
        if self._remote and confirmed == self._local:
            self.state = BOUND
            self._ring()

    def _same_session(self):
        return not self.sessions or \
            self._tx.words[_Ring.HANDSHAKE] & 0xffff == self._remote

    def _store_handshake(self):
        self._rx.words[_Ring.HANDSHAKE] = self._local | self._remote << 16

    def _new_session(self):
        """One that we did not have the last time, and the peer does not know."""
        session = self._rx.words[_Ring.HANDSHAKE] & 0xffff
        known = self._tx.words[_Ring.HANDSHAKE] >> 16
        while True:
            session = session + 1 & 0xffff
            if session not in (0, known):
                return session
