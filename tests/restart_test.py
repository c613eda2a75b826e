#!/usr/bin/env python3
"""A server that ends and comes back, many times, under machines that run on.

Two machines exchange messages, one of them has an IOThread take its
interrupts, and the server is killed and started again.
Each time both must connect, and go on with their exchange. In the end QEMU
must have as many file descriptors and threads as before, and as much memory.

RESTARTS=N in the environment says how often (default 20); see `make stress`.
Needs qemu-system-arm and ivshmem-server in build/bin (or $BUILD/bin) and the
firmware in build/guest.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import mmap
import os
import re
import unittest
from pathlib import Path

from lab_case import BIN, LabCase
from ivshmem_flat.machines import cortex_m
from tree import FIRMWARE

RESTARTS = int(os.environ.get('RESTARTS') or 20)
FOR_EVER = 10 ** 9              # messages
SETTLED = 5     # restarts after which QEMU has what it will need
SLACK_KB = 512  # what malloc may take or give back meanwhile


def resources(pid):
    """How many file descriptors and threads a process has."""
    return {what: len(os.listdir(f'/proc/{pid}/{what}'))
            for what in ('fd', 'task')}


def memory_kb(pid):
    """The memory that a process has to itself."""
    status = Path(f'/proc/{pid}/status').read_text(encoding='utf-8')
    return int(re.search(r'^RssAnon:\s+(\d+) kB$', status, re.M)[1])


class Restart(LabCase):
    deadline = LabCase.deadline + 6 * RESTARTS
    needs = (*LabCase.needs, FIRMWARE)

    def start_machine(self, slot, iothread):
        machine = self.lab.start(f'machine {slot}', [
            *cortex_m(BIN / 'qemu-system-arm', self.lab.socket_path, FIRMWARE,
                      words=f'messages={FOR_EVER} slot={slot} tick=100',
                      on_board=not iothread, reconnect_ms=20),
            '-trace', 'ivshmem_client_greeting',
            *(['-object', 'iothread,id=thread',
               '-global', 'ivshmem-flat.iothread=thread']
              if iothread else [])])
        self.lab.wait_for_line(machine, f'id {slot}, slot {slot}')
        return machine

    def wait_for(self, machines, condition, what):
        """Wait until it is true of each machine."""
        for machine in machines:
            self.lab.wait(lambda: machine.ended or condition(machine),
                          f'{machine.name} {what}', tick=0.01)
            self.assertFalse(machine.ended)

    def wait_for_greeting(self, machines, number):
        self.wait_for(machines, lambda machine: number == sum(
            line.startswith('ivshmem_client_greeting ')
            for line in machine.lines), f'to be greeted {number} times')

    def wait_for_messages(self, machines, memory):
        """Both must take messages."""
        def taken(machine):
            """The word tail of the side that this machine has of the link."""
            slot = machines.index(machine)
            side = 8 * 64 + (slot * 8 + 1 - slot) * 64
            return memory[side + 8:side + 12]
        before = {machine.name: taken(machine) for machine in machines}
        self.wait_for(machines,
                      lambda machine: taken(machine) != before[machine.name],
                      'to take a message')

    def test_nothing_is_left_of_servers_that_ended(self):
        self.assertGreaterEqual(RESTARTS, SETTLED, 'RESTARTS is too few')
        command = self.lab.server_command(BIN, restarts=True)
        server = self.lab.start_server(command)
        machines = [self.start_machine(slot, iothread)
                    for slot, iothread in ((0, False), (1, True))]
        with open(self.lab.named_memory(), 'rb') as file, \
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            self.wait_for_messages(machines, memory)
            had = {machine.name: resources(machine.pid)
                   for machine in machines}
            for restart in range(1, RESTARTS + 1):
                server = self.lab.restart_server(server, command)
                self.wait_for_greeting(machines, 1 + restart)
                self.wait_for_messages(machines, memory)
                if restart == SETTLED:
                    kb = {machine.name: memory_kb(machine.pid)
                          for machine in machines}
        # What has just been closed may go a moment later; so may a thread that
        # connected to the first server, and was counted.
        self.wait_for(
            machines,
            lambda machine: all(
                count <= had[machine.name][what]
                for what, count in resources(machine.pid).items()),
            'to have what it had again')
        for machine in machines:
            self.assertLess(memory_kb(machine.pid),
                            kb[machine.name] + SLACK_KB)


if __name__ == '__main__':
    unittest.main()
