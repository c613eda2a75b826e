"""How the exchange of machines went, by what they printed."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re

from ivshmem_flat.lab import LabError

REPORT = re.compile(r'id (?P<id>\d+), peer (?P<peer>\d+): '
                    r'(?P<sent>\d+) messages sent, '
                    r'(?P<received>\d+) received, '
                    r'(?P<bad_crc>\d+) bad CRCs, (?P<wrong>\d+) wrong')


def check_exchange(machine, messages):
    """Check that a machine's exchange went well, by what it printed.

    A Linux machine's exit status is 0 whatever happened in it.

    Returns the pairs of its id and a peer's, one for each peer.
    """
    if machine.status != 0:
        raise LabError(f'machine {machine.name} {machine.how_it_ended()}')
    reports = [REPORT.search(line) for line in machine.lines]
    reports = [{name: int(value) for name, value in report.groupdict().items()}
               for report in reports if report]
    for report in reports:
        if (report['sent'], report['received'], report['bad_crc'],
                report['wrong']) != (messages, messages, 0, 0):
            raise LabError(f'the exchange of machine {machine.name} with '
                           f'peer {report["peer"]} is not good')
    if 'passed' not in machine.lines:
        raise LabError(f'machine {machine.name} ended without a good verdict')
    return {(report['id'], report['peer']) for report in reports}


def finish_exchange(lab, server, machines, messages):
    """Wait for the machines' end, and check that each has exchanged messages
    with each other one.
    """
    def failed(machine):
        return machine.ended and (machine.status or
                                  'passed' not in machine.lines)
    lab.wait(lambda: all(machine.ended for machine in machines) or
             any(map(failed, machines)) or server.ended,
             lambda: ' and '.join(f'machine {machine.name} to end'
                                  for machine in machines
                                  if not machine.ended))
    # who failed comes first, not who waits for the one that failed
    pairs = [check_exchange(machine, messages)
             for machine in sorted(machines, key=lambda m: not failed(m))
             if machine.ended]
    if server.ended:
        raise LabError(f'ivshmem-server {server.how_it_ended()}')
    pairs = set().union(*pairs)
    ids = {own for own, _ in pairs}
    if len(ids) != len(machines) or pairs != {
            (own, peer) for own in ids for peer in ids if own != peer}:
        raise LabError('not every machine has met every other')
