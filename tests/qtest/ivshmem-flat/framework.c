/*
 * What the tests of ivshmem-flat share, see the header
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "contrib/ivshmem-server/ivshmem-server.h"
#include "ivshmem-flat/framework.h"
#include "tests/unit/ivshmem-client/fake-server.h"

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

/* QEMU's own server */

static void server_child(IvshmemServer *server, pid_t parent)
{
    sigset_t sigterm;
    int quit;

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigemptyset(&sigterm);
    sigaddset(&sigterm, SIGTERM);
    sigprocmask(SIG_BLOCK, &sigterm, NULL);
    quit = signalfd(-1, &sigterm, SFD_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
    while (getppid() == parent) { /* it may have died before we could ask */
        fd_set fds;
        int maxfd = quit + 1;

        FD_ZERO(&fds);
        FD_SET(quit, &fds);
        ivshmem_server_get_fds(server, &fds, &maxfd);
        if (select(maxfd, &fds, NULL, NULL, NULL) > 0) {
            if (FD_ISSET(quit, &fds)) {
                break;
            }
            ivshmem_server_handle_fds(server, &fds, maxfd);
        }
    }
    ivshmem_server_close(server);
    _exit(0);
}

static void server_start(Server *srv, unsigned vectors)
{
    IvshmemServer server;
    pid_t parent = getpid();

    g_assert_cmpint(ivshmem_server_init(&server, srv->path, srv->dir, false,
                                        srv->size, vectors, false), ==, 0);
    g_assert_cmpint(ivshmem_server_start(&server), ==, 0);
    srv->pid = fork();
    g_assert_cmpint(srv->pid, >=, 0);
    if (!srv->pid) {
        server_child(&server, parent);
    }
    close(server.sock_fd);
    close(server.shm_fd);
}

Server *server_new_with(size_t size, unsigned vectors)
{
    Server *srv = g_new0(Server, 1);

    srv->size = size;
    srv->dir = g_dir_make_tmp("ivshmem-flat-test-XXXXXX", NULL);
    g_assert_nonnull(srv->dir);
    srv->path = g_build_filename(srv->dir, "socket", NULL);
    server_start(srv, vectors);
    return srv;
}

Server *server_new(unsigned vectors)
{
    return server_new_with(SHMEM_SIZE, vectors);
}

void server_kill(Server *srv, int signum)
{
    if (srv->pid) {
        kill(srv->pid, signum);
        g_assert_cmpint(waitpid(srv->pid, NULL, 0), ==, srv->pid);
        srv->pid = 0;
    }
}

void server_restart(Server *srv, unsigned vectors)
{
    unlink(srv->path);
    server_start(srv, vectors);
}

void server_free(Server *srv)
{
    server_kill(srv, SIGTERM);
    unlink(srv->path);
    g_assert_cmpint(rmdir(srv->dir), ==, 0);
    g_free(srv->path);
    g_free(srv->dir);
    g_free(srv);
}

/* The fake server */

int fake_own(FakeServer *srv, int fd)
{
    g_assert_cmpint(fd, >=, 0);
    g_array_append_val(srv->fds, fd);
    return fd;
}

int fake_memory(FakeServer *srv, off_t size)
{
    return fake_own(srv, fake_server_memory(size));
}

int fake_eventfd(FakeServer *srv)
{
    return fake_own(srv, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

FakeServer *fake_new(void)
{
    FakeServer *srv = g_new0(FakeServer, 1);
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct timeval patience = { .tv_sec = PATIENCE_US / G_USEC_PER_SEC };

    srv->fds = g_array_new(false, false, sizeof(int));
    srv->script = g_array_new(false, false, sizeof(Message));
    srv->dir = g_dir_make_tmp("ivshmem-flat-test-XXXXXX", NULL);
    g_assert_nonnull(srv->dir);
    srv->path = g_build_filename(srv->dir, "socket", NULL);
    srv->errors = g_build_filename(srv->dir, "errors", NULL);
    g_assert_cmpint(strlen(srv->path), <, sizeof(addr.sun_path));
    strcpy(addr.sun_path, srv->path);
    srv->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(srv->listener, (struct sockaddr *)&addr,
                         sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(srv->listener, 1), ==, 0);
    g_assert_cmpint(setsockopt(srv->listener, SOL_SOCKET, SO_RCVTIMEO,
                               &patience, sizeof(patience)), ==, 0);
    srv->conn = -1;
    srv->shm = fake_memory(srv, SHMEM_SIZE);
    return srv;
}

void fake_free(FakeServer *srv)
{
    for (guint i = 0; i < srv->fds->len; i++) {
        close(g_array_index(srv->fds, int, i));
    }
    if (srv->conn >= 0) {
        close(srv->conn);
    }
    close(srv->listener);
    unlink(srv->path);
    unlink(srv->errors);
    g_assert_cmpint(rmdir(srv->dir), ==, 0);
    g_array_free(srv->fds, true);
    g_array_free(srv->script, true);
    g_free(srv->errors);
    g_free(srv->path);
    g_free(srv->dir);
    g_free(srv);
}

Message message(int64_t value, unsigned nfds, const int *fds)
{
    Message m = { .len = sizeof(value), .nfds = nfds };

    stq_le_p(m.bytes, value);
    g_assert_cmpint(nfds, <=, MAX_FDS);
    for (unsigned i = 0; i < nfds; i++) {
        m.fds[i] = fds[i];
    }
    return m;
}

bool fake_transmit(int conn, const Message *m)
{
    return fake_server_send(conn, m->bytes, m->len, m->nfds, m->fds, 0);
}

void fake_script(FakeServer *srv, Message m)
{
    g_array_append_val(srv->script, m);
}

void fake_script_id(FakeServer *srv, int64_t value)
{
    fake_script(srv, message(value, 0, NULL));
}

void fake_script_fd(FakeServer *srv, int64_t value, int fd)
{
    fake_script(srv, message(value, 1, &fd));
}

void fake_script_greeting(FakeServer *srv, int64_t id)
{
    fake_script_id(srv, 0);
    fake_script_id(srv, id);
    fake_script_fd(srv, -1, srv->shm);
}

int fake_script_vector(FakeServer *srv, int64_t id)
{
    int fd = fake_eventfd(srv);

    fake_script_fd(srv, id, fd);
    return fd;
}

void fake_script_vectors(FakeServer *srv, int64_t id, int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        fds[i] = fake_script_vector(srv, id);
    }
}

int fake_script_client(FakeServer *srv, int64_t id)
{
    fake_script_greeting(srv, id);
    return fake_script_vector(srv, id);
}

int fake_script_with_peer(FakeServer *srv, int64_t id, int64_t peer_id,
                          int *peer)
{
    int fd;

    fake_script_greeting(srv, id);
    fd = fake_script_vector(srv, peer_id);
    if (peer) {
        *peer = fd;
    }
    return fake_script_vector(srv, id);
}

/* Returns whether a client came. */
static void *fake_thread(void *opaque)
{
    FakeServer *srv = opaque;
    bool connected;

    srv->conn = accept4(srv->listener, NULL, NULL, SOCK_CLOEXEC);
    connected = srv->conn >= 0;
    for (guint i = 0; srv->conn >= 0 && i < srv->script->len; i++) {
        if (!fake_transmit(srv->conn, &g_array_index(srv->script, Message,
                                                     i))) {
            break;
        }
        g_usleep(srv->pause_us);
    }
    if (srv->hang_up) {
        fake_hang_up(srv);
    }
    return GINT_TO_POINTER(connected);
}

void fake_start(FakeServer *srv)
{
    srv->thread = g_thread_new("fake-server", fake_thread, srv);
}

void fake_wait_client(FakeServer *srv)
{
    g_assert_nonnull(g_thread_join(g_steal_pointer(&srv->thread)));
}

void fake_join(FakeServer *srv)
{
    shutdown(srv->listener, SHUT_RDWR); /* in case that no client came */
    g_thread_join(g_steal_pointer(&srv->thread));
}

void fake_send(FakeServer *srv, Message m)
{
    g_assert_true(fake_transmit(srv->conn, &m));
}

void fake_send_gone(FakeServer *srv, int64_t id)
{
    fake_send(srv, message(id, 0, NULL));
}

void fake_send_fd(FakeServer *srv, int64_t id, int fd)
{
    fake_send(srv, message(id, 1, &fd));
}

int fake_send_vector(FakeServer *srv, int64_t id)
{
    int fd = fake_eventfd(srv);

    fake_send_fd(srv, id, fd);
    return fd;
}

bool fake_is_read(FakeServer *srv)
{
    int unread;

    g_assert_cmpint(ioctl(srv->conn, TIOCOUTQ, &unread), ==, 0);
    return !unread;
}

void fake_sync(FakeServer *srv, QTestState *qts)
{
    if (srv->synced) {
        fake_send_gone(srv, 65535);
    }
    srv->synced = true;
    wait_known(qts, 65535, 0, fake_send_vector(srv, 65535));
}

void fake_hang_up(FakeServer *srv)
{
    close(srv->conn);
    srv->conn = -1;
}

bool is_hung_up(int conn)
{
    return recv(conn, &(char) { 0 }, 1, MSG_DONTWAIT) == 0;
}

void fake_restart(FakeServer *srv)
{
    if (srv->conn >= 0) {
        fake_hang_up(srv);
    }
    g_array_set_size(srv->script, 0);
    srv->synced = false;
}

void fake_serve(FakeServer *srv)
{
    fake_start(srv);
    fake_wait_client(srv);
}

int fake_come_back(FakeServer *srv, int64_t id)
{
    int own;

    fake_restart(srv);
    own = fake_script_client(srv, id);
    fake_serve(srv);
    return own;
}

uint64_t rung(int fd)
{
    uint64_t count = 0;
    struct iovec iov = { .iov_base = &count, .iov_len = sizeof(count) };
    ssize_t len;

    /* O_NONBLOCK may be gone: a QEMU that receives the fd clears it for us */
    len = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
    g_assert_true(len == sizeof(count) || (len < 0 && errno == EAGAIN));
    return count;
}

void interrupt(int fd)
{
    uint64_t one = 1;

    g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
}

/* Machines */

QTestState *machine(const char *path, const char *fmt, ...)
{
    g_autofree char *args = NULL;
    va_list ap;

    va_start(ap, fmt);
    args = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return qtest_initf("-chardev socket,id=ivshmem,path=%s %s", path, args);
}

QTestState *wired_machine(const char *path)
{
    return machine(path, WIRED_MACHINE);
}

QTestState *fake_machine_with(FakeServer *srv, const char *fmt, ...)
{
    g_autofree char *args = NULL;
    QTestState *qts;
    va_list ap;

    va_start(ap, fmt);
    args = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fake_start(srv);
    qts = machine(srv->path, "%s", args);
    fake_join(srv);
    return qts;
}

QTestState *fake_machine(FakeServer *srv)
{
    return fake_machine_with(srv, WIRED_MACHINE);
}

QTestState *reconnecting_machine_at(FakeServer *srv, const char *path,
                                    const char *args)
{
    QTestState *qts;

    fake_start(srv);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=10 "
                      "%s 2>%s", path, args, srv->errors);
    fake_wait_client(srv);
    return qts;
}

QTestState *reconnecting_machine(FakeServer *srv, const char *args)
{
    return reconnecting_machine_at(srv, srv->path, args);
}

QTestState *machine_with_vectors(FakeServer *srv, unsigned vectors,
                                 const char *args)
{
    g_autoptr(GString) wires = g_string_new(NULL);

    for (unsigned i = 0; i < vectors; i++) {
        g_string_append_printf(wires, ",'sysbus-irq[%u]=/machine/armv7m/nvic/"
                               "unnamed-gpio-in[%u]'", i, i);
    }
    return fake_machine_with(srv, "%s -machine mps2-an511 "
                             "-device ivshmem-flat,id=ivs,chardev=ivshmem,"
                             "vectors=%u%s", args, vectors, wires->str);
}

QTestState *machine_of_two(const char *first, const char *second,
                           const char *args)
{
    return machine(first, WIRED_MACHINE
                   " -chardev socket,id=ivshmem2,path=%s "
                   "-device ivshmem-flat,chardev=ivshmem2 %s", second, args);
}

uint64_t find_registers(QTestState *qts)
{
    g_autofree char *mtree = qtest_hmp(qts, "info mtree -f");
    char *at = strstr(mtree, "ivshmem-flat-registers");

    g_assert_nonnull(at);
    while (at > mtree && at[-1] != '\n') {
        at--;
    }
    return g_ascii_strtoull(g_strchug(at), NULL, 16);
}

bool pending(QTestState *qts, unsigned input)
{
    return qtest_readl(qts, NVIC_ISPR + input / 32 * 4) & BIT(input % 32);
}

void wait_interrupt(QTestState *qts, unsigned input)
{
    WAIT_UNTIL(pending(qts, input));
    qtest_writel(qts, NVIC_ICPR + input / 32 * 4, BIT(input % 32));
}

void wait_known(QTestState *qts, unsigned peer, unsigned vector, int fd)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;

    do {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        qtest_writel(qts, DOORBELL, doorbell(peer, vector));
    } while (!rung(fd));
}

uint64_t read_size(QTestState *qts, uint64_t addr, unsigned size)
{
    switch (size) {
    case 1:
        return qtest_readb(qts, addr);
    case 2:
        return qtest_readw(qts, addr);
    case 4:
        return qtest_readl(qts, addr);
    default:
        return qtest_readq(qts, addr);
    }
}

void write_size(QTestState *qts, uint64_t addr, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        qtest_writeb(qts, addr, value);
        break;
    case 2:
        qtest_writew(qts, addr, value);
        break;
    case 4:
        qtest_writel(qts, addr, value);
        break;
    default:
        qtest_writeq(qts, addr, value);
        break;
    }
}

void fill(uint8_t *buf, size_t size, uint8_t seed)
{
    for (size_t i = 0; i < size; i++) {
        buf[i] = seed + i + i / 256;
    }
}

/* What a running machine tells of itself */

unsigned count_in_proc(QTestState *qts, const char *what)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s",
                                            (int)qtest_pid(qts), what);
    GDir *dir = g_dir_open(path, 0, NULL);
    unsigned n = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

unsigned count_fds(QTestState *qts)
{
    return count_in_proc(qts, "fd");
}

unsigned next_fd(QTestState *qts)
{
    unsigned n = 0;

    while (true) {
        g_autofree char *path = g_strdup_printf("/proc/%d/fd/%u",
                                                (int)qtest_pid(qts), n);
        struct stat st;

        if (lstat(path, &st) < 0) {
            return n;
        }
        n++;
    }
}

unsigned count_in_file(const char *path, const char *what)
{
    g_autofree char *text = NULL;
    unsigned n = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (const char *at = text; (at = strstr(at, what)); at++) {
        n++;
    }
    return n;
}

unsigned count_errors(FakeServer *srv, const char *what)
{
    return count_in_file(srv->errors, what);
}

uint64_t resident_kib(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            (int)qtest_pid(qts));
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    line = strstr(text, "VmRSS:");
    g_assert_nonnull(line);
    return g_ascii_strtoull(line + strlen("VmRSS:"), NULL, 10);
}

/* CPU time that the process has used, in ticks of the clock. */
static uint64_t cpu_ticks(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat",
                                            (int)qtest_pid(qts));
    g_autofree char *text = NULL;
    unsigned long utime, stime;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpint(sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u "
                           "%*u %*u %*u %*u %lu %lu", &utime, &stime), ==, 2);
    return utime + stime;
}

void check_idle(QTestState *qts)
{
    uint64_t before = cpu_ticks(qts);

    g_usleep(G_USEC_PER_SEC); /* what is measured is that nothing happens */
    g_assert_cmpint((cpu_ticks(qts) - before) * 20, <=, sysconf(_SC_CLK_TCK));
}

QDict *qom_get(QTestState *qts, const char *path, const char *name)
{
    return qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': { 'path': %s, "
                     "'property': %s } }", path, name);
}

QDict *get_property(QTestState *qts, const char *name)
{
    return qom_get(qts, DEVICE, name);
}

void assert_string(QTestState *qts, const char *path, const char *name,
                   const char *expected)
{
    QDict *ret = qom_get(qts, path, name);

    g_assert_cmpstr(qdict_get_str(ret, "return"), ==, expected);
    qobject_unref(ret);
}

uint64_t get_number(QTestState *qts, const char *name)
{
    QDict *ret = get_property(qts, name);
    uint64_t value = qdict_get_int(ret, "return");

    qobject_unref(ret);
    return value;
}

bool is_connected(QTestState *qts)
{
    return qtest_qom_get_bool(qts, DEVICE, "connected");
}

unsigned count_peers(QTestState *qts)
{
    QDict *ret = get_property(qts, "peers");
    unsigned n = qlist_size(qdict_get_qlist(ret, "return"));

    qobject_unref(ret);
    return n;
}

uint64_t get_interrupts(QTestState *qts, unsigned vector)
{
    QDict *ret = get_property(qts, "interrupts");
    const QListEntry *entry = qlist_first(qdict_get_qlist(ret, "return"));
    uint64_t value;

    while (vector--) {
        entry = qlist_next(entry);
    }
    value = qnum_get_int(qobject_to(QNum, qlist_entry_obj(entry)));
    qobject_unref(ret);
    return value;
}

void set_realized(QTestState *qts, bool realized)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'qom-set', 'arguments': "
                             "{ 'path': %s, 'property': 'realized', "
                             "'value': %i } }", DEVICE, realized);
}

bool migration_is(QTestState *qts, const char *expected)
{
    QDict *ret = qtest_qmp(qts, "{ 'execute': 'query-migrate' }");
    const char *status = qdict_get_try_str(qdict_get_qdict(ret, "return"),
                                           "status");
    bool reached = !g_strcmp0(status, expected);

    if (strcmp(expected, "failed")) {
        g_assert_cmpstr(status ?: "", !=, "failed");
    }
    qobject_unref(ret);
    return reached;
}

void migrate_to(QTestState *qts, const char *uri)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': %s } }", uri);
    WAIT_UNTIL(migration_is(qts, "completed"));
}

bool is_running(QTestState *qts)
{
    QDict *ret = qtest_qmp(qts, "{ 'execute': 'query-status' }");
    bool running = qdict_get_bool(qdict_get_qdict(ret, "return"), "running");

    qobject_unref(ret);
    return running;
}

void assert_qmp_error(QDict *ret, const char *expected)
{
    QDict *error = qdict_get_qdict(ret, "error");

    g_assert_nonnull(error);
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"), expected));
    qobject_unref(ret);
}

/* Machines that are not to start, and what QEMU says on stderr */

Output run_qemu(const char *stop, const char *fmt, ...)
{
    g_autoptr(GString) text = g_string_new(NULL);
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;
    g_autofree char *args = NULL;
    g_autofree char *command = NULL;
    char *argv[] = { (char *)"/bin/sh", (char *)"-c", NULL, NULL };
    g_autoptr(GError) error = NULL;
    Output out = {};
    va_list ap;
    GPid pid;
    int fd;

    va_start(ap, fmt);
    args = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    command = g_strdup_printf("exec %s -display none -audio none %s "
                              "-accel qtest 2>&1 </dev/null",
                              g_getenv("QTEST_QEMU_BINARY"), args);
    argv[2] = command;
    g_test_message("running %s", command);
    g_assert_true(g_spawn_async_with_pipes(NULL, argv, NULL,
                                           G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                                           NULL, &pid, NULL, &fd, NULL,
                                           &error));
    while (true) {
        gint64 left = (deadline - g_get_monotonic_time()) / 1000;
        GPollFD pfd = { .fd = fd, .events = G_IO_IN };
        char buf[512];
        ssize_t len;

        if (left <= 0 || g_poll(&pfd, 1, left) != 1) {
            kill(pid, SIGKILL);
            break;
        }
        len = read(fd, buf, sizeof(buf));
        if (len <= 0) {
            break;
        }
        g_string_append_len(text, buf, len);
        if (stop && strstr(text->str, stop)) {
            kill(pid, SIGTERM);
            stop = NULL;
        }
    }
    close(fd);
    g_assert_cmpint(waitpid(pid, &out.status, 0), ==, pid);
    g_spawn_close_pid(pid);
    out.text = g_strdup(text->str);
    g_test_message("QEMU said: %s", out.text);
    return out;
}

void output_free(Output out)
{
    g_free(out.text);
}

void assert_refused(const char *expected, const char *fmt, ...)
{
    g_autofree char *args = NULL;
    va_list ap;
    Output out;

    va_start(ap, fmt);
    args = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    out = run_qemu(NULL, "%s", args);
    g_assert_true(WIFEXITED(out.status));
    g_assert_cmpint(WEXITSTATUS(out.status), ==, 1);
    if (!strstr(out.text, expected)) {
        g_test_message("expected: %s", expected);
        g_assert_cmpstr(out.text, ==, expected);
    }
    g_assert_true(strchr(out.text, '\n') == out.text + strlen(out.text) - 1);
    output_free(out);
}

void assert_properties_refused(const char *properties, const char *expected)
{
    FakeServer *srv = fake_new();

    fake_script_client(srv, 0);
    fake_start(srv);
    assert_refused(expected, CHARDEV_AND_DEVICE, srv->path, properties);
    fake_join(srv);
    fake_free(srv);
}

char *wrap_qemu(FakeServer *srv, const char *command)
{
    char *qemu = g_strdup(g_getenv("QTEST_QEMU_BINARY"));
    g_autofree char *wrapper = g_build_filename(srv->dir, "qemu-system-arm",
                                                NULL);
    g_autofree char *script = g_strdup_printf("#!/bin/sh\n%s %s \"$@\"\n",
                                              command, qemu);

    g_assert_true(g_file_set_contents(wrapper, script, -1, NULL));
    g_assert_cmpint(chmod(wrapper, 0755), ==, 0);
    g_setenv("QTEST_QEMU_BINARY", wrapper, true);
    return qemu;
}

void unwrap_qemu(char *qemu)
{
    unlink(g_getenv("QTEST_QEMU_BINARY"));
    g_setenv("QTEST_QEMU_BINARY", qemu, true);
    g_free(qemu);
}

/* After the greeting */

Running running_new(void)
{
    Running r = { .srv = fake_new() };

    r.own = fake_script_with_peer(r.srv, OWN_ID, PEER_ID, &r.peer);
    r.qts = fake_machine_with(r.srv, WIRED_MACHINE " 2>%s", r.srv->errors);
    fake_sync(r.srv, r.qts);
    r.nfds = count_fds(r.qts);
    return r;
}

void running_check(Running *r)
{
    if (r->srv->conn >= 0) {
        fake_sync(r->srv, r->qts);
    }
    g_assert_cmpint(rung(r->peer), ==, 0);
    g_assert_false(pending(r->qts, INPUT));
    qtest_writel(r->qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(r->peer), ==, 1);
    interrupt(r->own);
    wait_interrupt(r->qts, INPUT);
    g_assert_cmpint(count_fds(r->qts), ==, r->nfds);
}

void running_free(Running *r)
{
    qtest_quit(r->qts);
    fake_free(r->srv);
}

void check_vectors_all_at_once(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[64];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = machine_with_vectors(srv, ARRAY_SIZE(own), args);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        interrupt(own[i]);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        wait_interrupt(qts, i);
        g_assert_cmpint(rung(own[i]), ==, 0);
        g_assert_cmpint(get_interrupts(qts, i), ==, 1);
    }
    check_idle(qts);
    qtest_quit(qts);
    fake_free(srv);
}
