"""Command lines of machines with an ivshmem device."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

# Where QEMU's mps2 boards place ivshmem-flat, and the input of vector 0
REGISTERS = 0x50000000
MEMORY = 0x70000000
NVIC_INPUT = '/machine/armv7m/nvic/unnamed-gpio-in[25]'


def cortex_m(qemu, socket, firmware, board='mps2-an385', words='',
             on_board=True, reconnect_ms=None):
    """The command line of a Cortex-M machine.

    words         for the firmware, such as 'messages=10 peers=2'
    on_board      the machine has the device on board; else -device adds it
    reconnect_ms  how often to look for a server that has ended
    """
    reconnect = f',reconnect-ms={reconnect_ms}' if reconnect_ms else ''
    return [qemu, '-machine', f'{board}-ivshmem,ivshmem-chardev=ivshmem'
            if on_board else board,
            '-nographic', '-semihosting', '-kernel', firmware,
            *(['-append', words] if words else []),
            '-chardev', f'socket,id=ivshmem,path={socket}{reconnect}',
            *([] if on_board else
              ['-device', 'ivshmem-flat,chardev=ivshmem'])]


def linux(qemu, socket, files, words='exchange', vectors=1):
    """The command line of a Linux machine.

    files  the directory with its kernel and initramfs
    words  for guest/linux/main.c, in the machine

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


def linux_flat(qemu, socket, files, words='exchange', device=''):
    """The command line of a Linux machine with ivshmem-flat.

    qemu    the qemu-system-aarch64 that has ivshmem-flat
    files   with initramfs-uio
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
