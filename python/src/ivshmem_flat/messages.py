"""Messages between peers: the message layer of guest/ivshmem_msg.h.

    with Peer('/tmp/ivshmem.sock') as peer, Messages(peer) as messages:
        slot = messages.link(timeout=10)
        messages.send(slot, 1, b'question')
        messages.ring()
        print(messages.receive(timeout=10).payload)

link() and receive() wait; all else returns at once, for a program that does
several things in turn:

        while True:
            for slot in messages.poll():
                print(slot, messages.state(slot), messages.id(slot))
            message = messages.receive()
            if message:
                messages.send(message.slot, message.type, message.payload)
            messages.ring()
            if not message:
                peer.wait()

Firmware may be killed and started again under all this: who the server says has
gone is LEFT from the next poll() on, and its slot can be had by the next one.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

import struct
import time
import zlib
from collections import namedtuple

from .words import full_barrier, words_of


class Mismatch(ValueError):
    """A peer that is there has another number of slots, or another layout."""


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
    _LINK, _HEAD, _TAIL, _WANTS, _GONE = range(5)
    _MAX_SLOTS = 31
    _GLANCE = 0.1       # s between two looks at who rings nobody

    def __init__(self, peer, slots=8, slot=None, vector=0, control=None,
                 crc=False):
        size = len(peer.memory)
        if not 2 <= slots <= self._MAX_SLOTS:
            raise ValueError(f'{slots} slots, expected 2 to '
                             f'{self._MAX_SLOTS}')
        if slot is not None and not 0 <= slot < slots:
            raise ValueError(f'slot {slot}, expected 0 to {slots - 1}')
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
        self._bytes = memoryview(peer.memory)
        self._words = words_of(self._bytes[:size // 4 * 4])
        self._layout = (self.CRC if crc else 0) << 24 | self.VERSION << 16 | \
            slots << 8 | self.ring_size.bit_length() - 1
        self._slot = [_Slot() for _ in range(slots)]
        self._due = set()       # slots and vectors
        self._gone = [0] * slots    # sessions that we have said are gone
        try:
            # we would write over what it has elsewhere
            self._check_slots()
            self.slot = self._choose_slot() if slot is None else slot
            self._move_in()
        except BaseException:
            self._release()
            raise

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
        self.peer.update()
        return [slot for slot in range(self.slots)
                if slot != self.slot and self._poll_slot(slot)]

    def link(self, timeout=None):
        """Wait until somebody is linked with us; return the slot.

        If several are, it is the lowest. Raises TimeoutError, and Mismatch as
        soon as somebody is there with another layout, who can never be linked.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.poll()
            self.ring()
            for slot in self.linked():
                return slot
            self._check_slots()
            self._check_layouts()
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f'nobody came in {timeout:g} s')
            self._glance(deadline)

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

    def receive(self, slot=None, timeout=0):
        """Take the next Message of a peer, or of anybody; None if there is none.

        It may be the last of one who has left already. After None, look again
        when the doorbell has rung.

        timeout  seconds to wait for one, or None: for ever. Who is waited for,
                 and has left, is NoLink.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = self._receive_any() if slot is None else \
                self._receive(slot)
            if message or deadline is not None and \
                    time.monotonic() >= deadline:
                return message
            self.poll()
            self.ring()
            if slot is not None and self.state(slot) == LEFT:
                message = self._receive(slot)
                if message:
                    return message
                raise NoLink(slot)
            self._glance(deadline)

    def _glance(self, deadline):
        left = self._GLANCE if deadline is None else \
            deadline - time.monotonic()
        self.peer.wait(max(0, min(left, self._GLANCE)))

    def _receive_any(self):
        for slot, view in enumerate(self._slot):
            if view.state in (LINKED, LEFT):
                try:
                    message = self._receive(slot)
                except NoLink:      # it is about to begin a new session
                    continue
                if message:
                    return message
        return None

    def _receive(self, slot):
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
            self._release()

    def _release(self):
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

    def _occupied(self, slot):
        entry = self._entry(slot)
        session = self._words[entry + self._SESSION]
        return self._words[entry + self._MAGIC] == self.MAGIC and \
            1 <= session <= 0xffff and \
            self._words[entry + self._DOORBELL] not in self.peer.gone and \
            not any(
                self._words[self._entry(witness) + self._MAGIC] == self.MAGIC
                and self._words[self._side(witness, slot) + self._GONE] ==
                session for witness in range(self.slots))

    def _check_slots(self):
        """Is anybody there who has another number of slots?

        It would have its entry where we have one or, if it has more, behind.
        """
        self.peer.update()
        for slot in range(min(self._MAX_SLOTS, len(self._bytes) // 64)):
            entry = self._entry(slot)
            theirs = self._words[entry + self._LAYOUT] >> 8 & 0xff
            if self._words[entry + self._MAGIC] == self.MAGIC and \
                    1 <= self._words[entry + self._SESSION] <= 0xffff and \
                    slot < theirs != self.slots:
                peer_id = self._words[entry + self._DOORBELL]
                if peer_id != self.peer.id and peer_id in self.peer.peers:
                    raise Mismatch(f'we have {self.slots} slots, and the peer '
                                   f'with id {peer_id} has {theirs}')

    def _check_layouts(self):
        """Is anybody there who is FOREIGN for another reason?"""
        for slot, view in enumerate(self._slot):
            if view.state == FOREIGN:
                entry = self._entry(slot)
                peer_id = self._words[entry + self._DOORBELL]
                theirs = self._words[entry + self._LAYOUT]
                if peer_id in self.peer.peers and theirs != self._layout:
                    raise Mismatch(
                        f'we have {self._layout_text(self._layout)}, and the '
                        f'peer with id {peer_id} has '
                        f'{self._layout_text(theirs)}')

    def _layout_text(self, layout):
        return (f'version {layout >> 16 & 0xff}, '
                f'{"a" if layout >> 24 & self.CRC else "no"} CRC and rings of '
                f'2^{layout & 0xff} bytes')

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
            self._words[self._ours(reader) + self._GONE] = 0
        self._words[entry + self._SESSION] = self.session
        full_barrier()

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
        occupied = magic == self.MAGIC and 1 <= session <= 0xffff
        gone = occupied and doorbell in self.peer.gone
        self._say_gone(slot, session if gone else 0)
        if gone or not occupied:
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
        elif view.doorbell != doorbell or view.state == LEFT:
            # what we have rung since it moved has not reached it; of one that
            # had gone and is back under another id, that is all we have missed
            if view.state == LEFT:
                view.state = GREETING
            view.doorbell = doorbell
            self._due.add((slot, self.control))
        view = self._slot[slot]
        if view.state == GREETING and self._is_linked(slot):
            view.state = LINKED
        return (view.state, view.session) != before

    def _say_gone(self, slot, session):
        """Tell all others of one whom the server has told us about: 0 or its
        session, so that whoever comes later to the slot is not meant."""
        if self._gone[slot] != session:
            self._gone[slot] = session
            self._words[self._ours(slot) + self._GONE] = session

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
        full_barrier()
        if self._words[self._theirs(slot) + self._WANTS] & want:
            self._due.add((slot, self.vector))

    def _set_wants(self, slot, wants):
        view = self._slot[slot]
        if view.wants != wants:
            view.wants = wants
            self._words[self._ours(slot) + self._WANTS] = wants
            full_barrier()

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
