"""Where things are in this repository."""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get('BUILD') or ROOT / 'build')
# Debian's, unless the environment names another one
QEMU_AARCH64 = os.environ.get('QEMU_AARCH64') or 'qemu-system-aarch64'
FIRMWARE = ROOT / 'build/guest/exchange-mps2.elf'
LINUX = ROOT / 'build/linux' / (os.environ.get('LINUX') or 'bookworm')
