"""The machines of the demonstrations and tests: command lines, reports."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

import os
import re

from ivshmem_lab import MEMORY, NVIC_INPUT, REGISTERS, ROOT, LabError

# Debian's, unless the environment names another one
QEMU_AARCH64 = os.environ.get('QEMU_AARCH64') or 'qemu-system-aarch64'
FIRMWARE = ROOT / 'build/guest/exchange-mps2.elf'
LINUX = ROOT / 'build/linux' / (os.environ.get('LINUX') or 'bookworm')
BOARDS = ('mps2-an385', 'mps2-an386', 'mps2-an500', 'mps2-an511')

REPORT = re.compile(r'id (?P<id>\d+), peer (?P<peer>\d+): '
                    r'(?P<sent>\d+) messages sent, '
                    r'(?P<received>\d+) received, '
                    r'(?P<bad_crc>\d+) bad CRCs, (?P<wrong>\d+) wrong')


def cortex_m(qemu, socket, board='mps2-an385', words='', firmware=FIRMWARE,
             on_board=True, reconnect_ms=None):
    """The command line of a Cortex-M machine.

    words         for the firmware, such as 'messages=10 peers=2'
    on_board      the machine has the device on board; else -device adds it
    reconnect_ms  how often to look for a server that has ended
    """
    reconnect = f',reconnect-ms={reconnect_ms}' if reconnect_ms else ''
    device = (f'ivshmem-flat,chardev=ivshmem,x-irq-qompath={NVIC_INPUT},'
              f'x-bus-address-iomem={REGISTERS:#x},'
              f'x-bus-address-shmem={MEMORY:#x}')
    return [qemu, '-machine', f'{board}-ivshmem,ivshmem-chardev=ivshmem'
            if on_board else board,
            '-nographic', '-semihosting', '-kernel', firmware,
            *(['-append', words] if words else []),
            '-chardev', f'socket,id=ivshmem,path={socket}{reconnect}',
            *([] if on_board else ['-device', device])]


def linux(socket, words='exchange', qemu=QEMU_AARCH64, vectors=1,
          files=LINUX):
    """The command line of a Linux machine.

    words  for guest/linux/main.c, in the machine
    files  the directory with its kernel and initramfs

    VFIO needs an IOMMU, and accepts MSIs only from an interrupt controller
    that keeps devices apart, which GICv3's ITS does. If the kernel panics,
    the machine ends.
    """
    return [qemu, '-machine', 'virt,gic-version=3,iommu=smmuv3',
            '-cpu', 'cortex-a53', '-m', '64', '-nographic', '-nic', 'none',
            '-no-reboot', '-kernel', files / 'kernel',
            '-initrd', files / 'initramfs',
            '-append', f'console=ttyAMA0 quiet cma=0 panic=-1 -- {words}',
            '-chardev', f'socket,id=ivshmem,path={socket}',
            '-device', f'ivshmem-doorbell,chardev=ivshmem,vectors={vectors}']


def linux_flat(qemu, socket, words='exchange', device='', files=LINUX):
    """The command line of a Linux machine with ivshmem-flat.

    qemu    the qemu-system-aarch64 that has ivshmem-flat
    device  more of the device's properties, such as ',revision=0'

    virt's platform bus has the device: nothing but the device tree tells Linux
    of it.
    """
    return [qemu, '-machine', 'virt', '-cpu', 'cortex-a53', '-m', '64',
            '-nographic', '-nic', 'none', '-no-reboot',
            '-kernel', files / 'kernel', '-initrd', files / 'initramfs-uio',
            '-append', f'console=ttyAMA0 quiet cma=0 panic=-1 -- {words}',
            '-chardev', f'socket,id=ivshmem,path={socket}',
            '-device', f'ivshmem-flat,chardev=ivshmem{device}']


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
