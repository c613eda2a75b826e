/*
 * Tells programs of a small file system, for tests/server_test.py
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Preloaded into ivshmem-server and QEMU. Each file system has $ROOM bytes
 * free; or no limit, if that is "none".
 */

#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

int fstatvfs(int fd, struct statvfs *fs)
{
    const char *room = getenv("ROOM");

    (void)fd;
    memset(fs, 0, sizeof(*fs));
    if (room && strcmp(room, "none")) {
        fs->f_frsize = 1;
        fs->f_bavail = strtoul(room, NULL, 0);
        fs->f_blocks = 1ul << 30;
    }
    return 0;
}

/* what the call becomes where files may be large */
int fstatvfs64(int fd, struct statvfs *fs)
{
    return fstatvfs(fd, fs);
}
