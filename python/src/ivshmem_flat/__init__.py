"""The host's side of shared memory with machines under QEMU, for tests.

peer      a client of an ivshmem server, as a machine is
messages  messages between peers, as guest/ivshmem_msg.h has them
icmsg     ICMsg, which Zephyr's IPC service speaks
lab       the server and the machines: started, watched and ended together
machines  command lines of machines
words     what all of them rely upon

pytest_plugin has fixtures of these for pytest.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT
