"""Tests of firmware that sends back each message: guest/cortex-m/echo.c.

In the repository's root, after `make demo`: pytest --ivshmem-bin=build/bin
python/example
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

from pathlib import Path

import pytest

from ivshmem_flat.messages import NoLink

FIRMWARE = Path(__file__).parents[2] / 'build/guest/echo-mps2.elf'


@pytest.fixture
def boot(ivshmem_machine):
    """A function that starts the machine with the firmware."""
    return lambda: ivshmem_machine(
        '-machine', 'mps2-an385-ivshmem,ivshmem-chardev=ivshmem',
        '-kernel', FIRMWARE)


@pytest.mark.parametrize('length', [0, 1, 15, 16, 17, 4096])
def test_lengths(boot, ivshmem_messages, length):
    boot()
    slot = ivshmem_messages.link(timeout=30)
    question = bytes(i % 251 for i in range(length))
    assert ivshmem_messages.send(slot, 7, question)
    ivshmem_messages.ring()
    answer = ivshmem_messages.receive(slot, timeout=30)
    assert (answer.type, answer.payload) == (7, question)


def test_restarts(boot, ivshmem_lab, ivshmem_messages):
    """More often than there are slots."""
    for _ in range(10):
        machine = boot()
        slot = ivshmem_messages.link(timeout=30)
        ivshmem_messages.send(slot, 1, b'question')
        ivshmem_messages.ring()
        answer = ivshmem_messages.receive(slot, timeout=30)
        assert answer.payload == b'question'
        ivshmem_lab.kill(machine)
        with pytest.raises(NoLink):         # once the server has said so
            ivshmem_messages.receive(slot, timeout=30)


@pytest.mark.ivshmem_server('-l', '4M', '-n', '2')
def test_that_it_has_a_second_vector(boot, ivshmem_peer, ivshmem_messages):
    boot()
    ivshmem_messages.link(timeout=30)
    assert len(ivshmem_peer.vectors) == 2
