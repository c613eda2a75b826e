/*
 * A server for tests: what it sends, and through what
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * What the servers of the unit test, of the qtest and of the fuzzers have in
 * common. There is no error to return: whatever goes wrong, but for a send,
 * ends the test.
 */

#ifndef TESTS_UNIT_IVSHMEM_CLIENT_FAKE_SERVER_H
#define TESTS_UNIT_IVSHMEM_CLIENT_FAKE_SERVER_H

#define FAKE_SERVER_MAX_FDS 32

/* Listen at this abstract UNIX socket; to accept does not wait. */
int fake_server_listen(const char *name);

/* An object for shared memory, which can be sealed */
int fake_server_memory(off_t size);

/**
 * fake_server_send:
 * @conn: to the client
 * @bytes: a message of the protocol, a piece, or several; @len of them
 * @fds: what goes with the first of them, at most FAKE_SERVER_MAX_FDS
 * @flags: MSG_DONTWAIT if the client is in this thread, or 0
 *
 * Returns whether the socket took it: not if the client is gone, or the socket
 * is full.
 */
bool fake_server_send(int conn, const void *bytes, size_t len, unsigned nfds,
                      const int *fds, int flags);

#endif /* TESTS_UNIT_IVSHMEM_CLIENT_FAKE_SERVER_H */
