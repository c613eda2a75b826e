/*
 * What the unit tests of the client share, see the header
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/config-file.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qapi/error.h"
#include "system/system.h"
#include "ivshmem-client/framework.h"

#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

static int real_stderr = STDERR_FILENO;

gboolean set_true(void *opaque)
{
    *(bool *)opaque = true;
    return G_SOURCE_REMOVE;
}

unsigned count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned count = 0;

    while (g_dir_read_name(dir)) {
        count++;
    }
    g_dir_close(dir);
    return count;
}

unsigned reported(Fixture *f, const char *text)
{
    char buf[16384];
    ssize_t len = pread(f->reports, buf, sizeof(buf) - 1, 0);
    unsigned count = 0;

    g_assert_cmpint(len, >=, 0);
    g_assert_cmpint(len, <, sizeof(buf) - 1);
    buf[len] = 0;
    for (char *at = buf; (at = strstr(at, text)); at += strlen(text)) {
        count++;
    }
    return count;
}

/* What a failed assertion has to say. */
static void print_to_real_stderr(const char *text)
{
    if (write(real_stderr, text, strlen(text)) < 0) {
        abort();
    }
}

void framework_init(int *argc, char ***argv)
{
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);
    qemu_add_opts(&qemu_chardev_opts);
    g_test_init(argc, argv, NULL);
    g_set_printerr_handler(print_to_real_stderr);
}

/* A device */

static bool take_memory(void *opaque, int fd, uint64_t size, Error **errp)
{
    Fixture *f = opaque;

    f->taken++;
    f->taken_size = size;
    if (f->refuses) {
        error_setg(errp, "the device has no use for it");
        return false;
    }
    if (f->taken_fd >= 0) {
        close(f->taken_fd);
    }
    f->taken_fd = fd;
    return true;
}

static void server_gone(void *opaque)
{
    Fixture *f = opaque;

    f->gone++;
}

static void interrupt(void *opaque, unsigned vector)
{
    Fixture *f = opaque;

    g_assert_cmpint(vector, <, ARRAY_SIZE(f->interrupts));
    qatomic_inc(&f->interrupts[vector]);
    qemu_sem_post(&f->interrupted);
}

static void changed(void *opaque)
{
    Fixture *f = opaque;

    f->changes++;
}

const IvshmemClientOps device_ops = {
    .name = "device",
    .max_peer_vectors = MAX_PEER_VECTORS,
    .take_memory = take_memory,
    .server_gone = server_gone,
    .interrupt = interrupt,
    .changed = changed,
};

/* The server */

int new_eventfd(Fixture *f)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    g_assert_cmpint(fd, >=, 0);
    g_array_append_val(f->eventfds, fd);
    return fd;
}

bool server_accepts(Fixture *f)
{
    f->conn = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
    return f->conn >= 0;
}

void server_send_bytes(Fixture *f, const void *bytes, size_t len,
                       unsigned nfds, const int *fds)
{
    g_assert_true(fake_server_send(f->conn, bytes, len, nfds, fds,
                                   MSG_DONTWAIT));
}

void server_send(Fixture *f, int64_t value, unsigned nfds, const int *fds)
{
    uint8_t bytes[8];

    stq_le_p(bytes, value);
    server_send_bytes(f, bytes, sizeof(bytes), nfds, fds);
}

void server_send_fd(Fixture *f, int64_t value, int fd)
{
    server_send(f, value, 1, &fd);
}

void server_send_id(Fixture *f, int64_t value)
{
    server_send(f, value, 0, NULL);
}

int server_send_vector(Fixture *f, unsigned id)
{
    int fd = new_eventfd(f);

    server_send_fd(f, id, fd);
    return fd;
}

void server_greet(Fixture *f, unsigned id)
{
    server_send_id(f, 0);
    server_send_id(f, id);
    server_send_fd(f, -1, f->shm);
}

void server_hang_up(Fixture *f)
{
    close(f->conn);
    f->conn = -1;
}

unsigned rung(int fd)
{
    uint64_t count = 0;
    GPollFD pfd = { .fd = fd, .events = G_IO_IN };

    if (g_poll(&pfd, 1, 0)) {
        g_assert_cmpint(read(fd, &count, sizeof(count)), ==, sizeof(count));
    }
    return count;
}

void ring_us(int fd)
{
    static const uint64_t one = 1;

    g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
}

static bool all_is_read(Fixture *f)
{
    int unread = 0;

    g_assert_cmpint(ioctl(f->conn, SIOCOUTQ, &unread), ==, 0);
    return !unread;
}

void sync_with_client(Fixture *f)
{
    WAIT_UNTIL(all_is_read(f));
}

/* Fixtures */

Fixture *fixture_new(const char *options)
{
    static unsigned number;
    Fixture *f = g_new0(Fixture, 1);
    g_autofree char *text = NULL;
    QemuOpts *opts;

    f->nfds = count_fds();
    real_stderr = dup(STDERR_FILENO);
    f->reports = memfd_create("reports", MFD_CLOEXEC);
    dup2(f->reports, STDERR_FILENO);
    f->taken_fd = -1;
    f->size = 2 * qemu_real_host_page_size();
    f->shm = fake_server_memory(f->size);
    f->eventfds = g_array_new(false, false, sizeof(int));
    qemu_sem_init(&f->interrupted, 0);
    ivshmem_client_init(&f->client, &device_ops, f);

    f->name = g_strdup_printf("test-ivshmem-client-%d-%u", getpid(), number++);
    f->listener = fake_server_listen(f->name);
    text = g_strdup_printf("socket,id=ivshmem,path=%s,abstract=on%s", f->name,
                           options);
    opts = qemu_opts_parse_noisily(&qemu_chardev_opts, text, true);
    f->chr = qemu_chr_new_from_opts(opts, NULL, &error_abort);
    qemu_opts_del(opts);
    qemu_chr_fe_init(&f->client.chr, f->chr, &error_abort);
    WAIT_UNTIL(server_accepts(f));
    return f;
}

static bool no_more_fds(Fixture *f)
{
    return count_fds() <= f->nfds;
}

void fixture_free(Fixture *f)
{
    qemu_chr_fe_deinit(&f->client.chr, false);
    object_unparent(OBJECT(f->chr));
    close(f->listener);
    if (f->conn >= 0) {
        close(f->conn);
    }
    close(f->shm);
    if (f->taken_fd >= 0) {
        close(f->taken_fd);
    }
    for (guint i = 0; i < f->eventfds->len; i++) {
        close(g_array_index(f->eventfds, int, i));
    }
    g_array_unref(f->eventfds);
    qemu_sem_destroy(&f->interrupted);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    real_stderr = STDERR_FILENO;
    close(f->reports);
    while (!no_more_fds(f)) {
        /* There is no event to wait for, only what is to be done yet. */
        g_assert_true(g_main_context_iteration(NULL, false));
    }
    g_free(f->name);
    g_free(f);
}

void connect_client(Fixture *f, unsigned vectors)
{
    g_assert_true(ivshmem_client_connect(&f->client, vectors,
                                         iohandler_get_aio_context(),
                                         &error_abort));
}

void finish(Fixture *f)
{
    ivshmem_client_disconnect(&f->client);
    fixture_free(f);
}

Running running_new_with(const char *options)
{
    Running r = { .f = fixture_new(options) };

    server_greet(r.f, OWN_ID);
    r.peer = server_send_vector(r.f, PEER_ID);
    r.own = server_send_vector(r.f, OWN_ID);
    connect_client(r.f, 1);
    return r;
}

Running running_new(void)
{
    return running_new_with("");
}

void running_free(Running *r)
{
    finish(r->f);
}

void ring(Fixture *f, unsigned peer, unsigned vector)
{
    ivshmem_peers_ring(&f->client.peers, peer, vector);
}

void running_check(Running *r)
{
    Fixture *f = r->f;
    unsigned interrupts = f->interrupts[0];

    sync_with_client(f);
    ivshmem_peers_listen(&f->client.peers, 0);
    ring(f, PEER_ID, 0);
    g_assert_cmpint(rung(r->peer), ==, 1);
    ring_us(r->own);
    WAIT_UNTIL(f->interrupts[0] == interrupts + 1);
}

void check_refused(Fixture *f, const char *expected)
{
    Error *err = NULL;

    g_assert_false(ivshmem_client_connect(&f->client, 1,
                                          iohandler_get_aio_context(), &err));
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), expected)) {
        g_assert_cmpstr(error_get_pretty(err), ==, expected);
    }
    error_free(err);
    g_assert_cmpint(f->client.phase, ==, IVSHMEM_CLIENT_DISCONNECTED);
    fixture_free(f);
}
