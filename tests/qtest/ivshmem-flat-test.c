/*
 * QTest testcase for ivshmem-flat
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Two servers stand behind these tests: QEMU's own, in a child process, for
 * what users do, and a fake one that says byte for byte and fd for fd what a
 * test wants said. The fake one keeps all eventfds, and so sees which of them
 * a doorbell moves.
 *
 * A pulse is over before qtest looks at a line, so interrupts are observed
 * where they are latched, in the NVIC's pending register.
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "contrib/ivshmem-server/ivshmem-server.h"
#include "libqtest.h"

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#define IOMEM 0x50000000
#define SHMEM 0x70000000
#define INTRMASK (IOMEM + 0x0)
#define INTRSTATUS (IOMEM + 0x4)
#define IVPOSITION (IOMEM + 0x8)
#define DOORBELL (IOMEM + 0xc)

#define INPUT 16
#define NVIC_ISPR 0xe000e200
#define NVIC_ICPR 0xe000e280

#define SHMEM_SIZE (4 * MiB)
#define MAX_VECTORS 64  /* of a peer that can be rung */

/* How long to wait for what must come; nothing waits for what must not. */
#define PATIENCE_US (60 * G_USEC_PER_SEC)

/* A macro, so that a failure names the line that waited. */
#define WAIT_UNTIL(condition) \
    do { \
        gint64 deadline_ = g_get_monotonic_time() + PATIENCE_US; \
        while (!(condition)) { \
            g_assert_cmpint(g_get_monotonic_time(), <, deadline_); \
            g_usleep(100); \
        } \
    } while (0)

#define AT "x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x70000000"
#define WIRED "'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[16]'"

static uint32_t doorbell(unsigned peer, unsigned vector)
{
    return peer << 16 | vector;
}

/* QEMU's own server */

typedef struct Server {
    char *dir;
    char *path;
    size_t size;        /* of the shared memory */
    pid_t pid;
} Server;

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

static Server *server_new_with(size_t size, unsigned vectors)
{
    Server *srv = g_new0(Server, 1);

    srv->size = size;
    srv->dir = g_dir_make_tmp("ivshmem-flat-test-XXXXXX", NULL);
    g_assert_nonnull(srv->dir);
    srv->path = g_build_filename(srv->dir, "socket", NULL);
    server_start(srv, vectors);
    return srv;
}

static Server *server_new(unsigned vectors)
{
    return server_new_with(SHMEM_SIZE, vectors);
}

static void server_kill(Server *srv, int signum)
{
    if (srv->pid) {
        kill(srv->pid, signum);
        g_assert_cmpint(waitpid(srv->pid, NULL, 0), ==, srv->pid);
        srv->pid = 0;
    }
}

/* After a kill, which leaves its socket in the way of the next. */
static void server_restart(Server *srv, unsigned vectors)
{
    unlink(srv->path);
    server_start(srv, vectors);
}

static void server_free(Server *srv)
{
    server_kill(srv, SIGTERM);
    unlink(srv->path);
    g_assert_cmpint(rmdir(srv->dir), ==, 0);
    g_free(srv->path);
    g_free(srv->dir);
    g_free(srv);
}

/* The fake server */

/* ids that it gives, where nothing depends on them */
#define OWN_ID 5
#define PEER_ID 1

#define MAX_FDS 4

typedef struct Message {
    uint8_t bytes[24];
    size_t len;
    int fds[MAX_FDS];
    unsigned nfds;
} Message;

typedef struct FakeServer {
    char *dir;
    char *path;
    char *errors;       /* a file for its client's stderr */
    int listener;
    int conn;
    int shm;
    GArray *fds;        /* whatever it created, to be closed in the end */
    GArray *script;     /* what it says as soon as a client connects */
    gulong pause_us;    /* after each message of it */
    bool hang_up;       /* and then closes the connection */
    bool synced;        /* by fake_sync() */
    GThread *thread;
} FakeServer;

static int fake_own(FakeServer *srv, int fd)
{
    g_assert_cmpint(fd, >=, 0);
    g_array_append_val(srv->fds, fd);
    return fd;
}

static int fake_memory(FakeServer *srv, off_t size)
{
    int fd = fake_own(srv, memfd_create("ivshmem-flat-test",
                                        MFD_CLOEXEC | MFD_ALLOW_SEALING));

    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    return fd;
}

static int fake_eventfd(FakeServer *srv)
{
    return fake_own(srv, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

static FakeServer *fake_new(void)
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

static Message message(int64_t value, unsigned nfds, const int *fds)
{
    Message m = { .len = sizeof(value), .nfds = nfds };

    stq_le_p(m.bytes, value);
    g_assert_cmpint(nfds, <=, MAX_FDS);
    for (unsigned i = 0; i < nfds; i++) {
        m.fds[i] = fds[i];
    }
    return m;
}

/* Returns whether the client is still there to be told. */
static bool fake_transmit(int conn, const Message *m)
{
    struct iovec iov = { .iov_base = (void *)m->bytes, .iov_len = m->len };
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control = {};
    struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (m->nfds) {
        struct cmsghdr *cmsg;

        hdr.msg_control = control.buf;
        hdr.msg_controllen = CMSG_SPACE(m->nfds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&hdr);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(m->nfds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), m->fds, m->nfds * sizeof(int));
    }
    return sendmsg(conn, &hdr, MSG_NOSIGNAL) == m->len;
}

/* Before the machine starts: what is said on connect. */
static void fake_script(FakeServer *srv, Message m)
{
    g_array_append_val(srv->script, m);
}

static void fake_script_id(FakeServer *srv, int64_t value)
{
    fake_script(srv, message(value, 0, NULL));
}

static void fake_script_fd(FakeServer *srv, int64_t value, int fd)
{
    fake_script(srv, message(value, 1, &fd));
}

static void fake_script_greeting(FakeServer *srv, int64_t id)
{
    fake_script_id(srv, 0);
    fake_script_id(srv, id);
    fake_script_fd(srv, -1, srv->shm);
}

/* Returns the new vector's eventfd. */
static int fake_script_vector(FakeServer *srv, int64_t id)
{
    int fd = fake_eventfd(srv);

    fake_script_fd(srv, id, fd);
    return fd;
}

static void fake_script_vectors(FakeServer *srv, int64_t id, int *fds,
                                unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        fds[i] = fake_script_vector(srv, id);
    }
}

/* What a client with one vector is told; returns that vector's eventfd. */
static int fake_script_client(FakeServer *srv, int64_t id)
{
    fake_script_greeting(srv, id);
    return fake_script_vector(srv, id);
}

/* While the machine runs. */
static void fake_send(FakeServer *srv, Message m)
{
    g_assert_true(fake_transmit(srv->conn, &m));
}

/* One by one, the message's fd with each byte that has its bit set. */
static void fake_send_bytes(FakeServer *srv, Message m, uint8_t with_fd)
{
    for (unsigned i = 0; i < m.len; i++) {
        fake_send(srv, (Message) {
            .bytes = { m.bytes[i] },
            .len = 1,
            .fds = { m.fds[0] },
            .nfds = with_fd >> i & 1,
        });
    }
}

static void fake_send_gone(FakeServer *srv, int64_t id)
{
    fake_send(srv, message(id, 0, NULL));
}

static void fake_send_fd(FakeServer *srv, int64_t id, int fd)
{
    fake_send(srv, message(id, 1, &fd));
}

static int fake_send_vector(FakeServer *srv, int64_t id)
{
    int fd = fake_eventfd(srv);

    fake_send_fd(srv, id, fd);
    return fd;
}

static void fake_hang_up(FakeServer *srv)
{
    close(srv->conn);
    srv->conn = -1;
}

/* Has the client read all that was sent? */
static bool fake_is_read(FakeServer *srv)
{
    int unread;

    g_assert_cmpint(ioctl(srv->conn, TIOCOUTQ, &unread), ==, 0);
    return !unread;
}

static bool is_hung_up(int conn)
{
    return recv(conn, &(char) { 0 }, 1, MSG_DONTWAIT) == 0;
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

/* Until fake_join() or fake_wait_client(), a client may connect. */
static void fake_start(FakeServer *srv)
{
    srv->thread = g_thread_new("fake-server", fake_thread, srv);
}

static void fake_wait_client(FakeServer *srv)
{
    g_assert_nonnull(g_thread_join(g_steal_pointer(&srv->thread)));
}

static void fake_join(FakeServer *srv)
{
    shutdown(srv->listener, SHUT_RDWR); /* in case that no client came */
    g_thread_join(g_steal_pointer(&srv->thread));
}

static void fake_free(FakeServer *srv)
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

/* How often the eventfd was rung since we last asked. */
static uint64_t rung(int fd)
{
    uint64_t count = 0;
    struct iovec iov = { .iov_base = &count, .iov_len = sizeof(count) };
    ssize_t len;

    /* O_NONBLOCK may be gone: a QEMU that receives the fd clears it for us */
    len = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
    g_assert_true(len == sizeof(count) || (len < 0 && errno == EAGAIN));
    return count;
}

static void interrupt(int fd)
{
    uint64_t one = 1;

    g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
}

/* Machines */

/* The one that most tests use, without and with an interrupt. */
#define MACHINE "-machine mps2-an385 " \
                "-device ivshmem-flat,id=ivs,chardev=ivshmem," AT
#define WIRED_MACHINE MACHINE "," WIRED

static QTestState *G_GNUC_PRINTF(2, 3)
machine(const char *path, const char *fmt, ...)
{
    g_autofree char *args = NULL;
    va_list ap;

    va_start(ap, fmt);
    args = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return qtest_initf("-chardev socket,id=ivshmem,path=%s %s", path, args);
}

static QTestState *wired_machine(const char *path)
{
    return machine(path, WIRED_MACHINE);
}

/* The fake server's client. */
static QTestState *G_GNUC_PRINTF(2, 3)
fake_machine_with(FakeServer *srv, const char *fmt, ...)
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

static QTestState *fake_machine(FakeServer *srv)
{
    return fake_machine_with(srv, WIRED_MACHINE);
}

static bool pending(QTestState *qts, unsigned input)
{
    return qtest_readl(qts, NVIC_ISPR + input / 32 * 4) & BIT(input % 32);
}

static void wait_interrupt(QTestState *qts, unsigned input)
{
    WAIT_UNTIL(pending(qts, input));
    qtest_writel(qts, NVIC_ICPR + input / 32 * 4, BIT(input % 32));
}

/* Ring until the eventfd moves: then the announcement has been read. */
static void wait_known(QTestState *qts, unsigned peer, unsigned vector, int fd)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;

    do {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        qtest_writel(qts, DOORBELL, doorbell(peer, vector));
    } while (!rung(fd));
}

/*
 * All that the server has sent so far has been read: messages come in order.
 * Peer 65535 is for that alone, and new each time.
 */
static void fake_sync(FakeServer *srv, QTestState *qts)
{
    if (srv->synced) {
        fake_send_gone(srv, 65535);
    }
    srv->synced = true;
    wait_known(qts, 65535, 0, fake_send_vector(srv, 65535));
}

/* What a running machine tells of itself */

/* How many entries this directory of the process in /proc has. */
static unsigned count_in_proc(QTestState *qts, const char *what)
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

static unsigned count_fds(QTestState *qts)
{
    return count_in_proc(qts, "fd");
}

/* The number that its next file descriptor will have. */
static unsigned next_fd(QTestState *qts)
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

/* How often a file says it; "\n" counts its lines. */
static unsigned count_in_file(const char *path, const char *what)
{
    g_autofree char *text = NULL;
    unsigned n = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (const char *at = text; (at = strstr(at, what)); at++) {
        n++;
    }
    return n;
}

static unsigned count_errors(FakeServer *srv, const char *what)
{
    return count_in_file(srv->errors, what);
}

static uint64_t resident_kib(QTestState *qts)
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

/* Less than 5 % of a second that passes with nothing to do. */
static void check_idle(QTestState *qts)
{
    uint64_t before = cpu_ticks(qts);

    g_usleep(G_USEC_PER_SEC); /* what is measured is that nothing happens */
    g_assert_cmpint((cpu_ticks(qts) - before) * 20, <=, sysconf(_SC_CLK_TCK));
}

static QDict *qom_get(QTestState *qts, const char *path, const char *name)
{
    return qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': { 'path': %s, "
                     "'property': %s } }", path, name);
}

#define DEVICE "/machine/peripheral/ivs"

static QDict *get_property(QTestState *qts, const char *name)
{
    return qom_get(qts, DEVICE, name);
}

static void assert_string(QTestState *qts, const char *path, const char *name,
                          const char *expected)
{
    QDict *ret = qom_get(qts, path, name);

    g_assert_cmpstr(qdict_get_str(ret, "return"), ==, expected);
    qobject_unref(ret);
}

static uint64_t get_number(QTestState *qts, const char *name)
{
    QDict *ret = get_property(qts, name);
    uint64_t value = qdict_get_int(ret, "return");

    qobject_unref(ret);
    return value;
}

/* Interrupts that the own vector has taken. */
static uint64_t get_interrupts(QTestState *qts, unsigned vector)
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

/* qtest_qom_set_bool() would not tell of an error. */
static void set_realized(QTestState *qts, bool realized)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'qom-set', 'arguments': "
                             "{ 'path': %s, 'property': 'realized', "
                             "'value': %i } }", DEVICE, realized);
}

static bool is_connected(QTestState *qts)
{
    return qtest_qom_get_bool(qts, DEVICE, "connected");
}

static unsigned count_peers(QTestState *qts)
{
    QDict *ret = get_property(qts, "peers");
    unsigned n = qlist_size(qdict_get_qlist(ret, "return"));

    qobject_unref(ret);
    return n;
}

/* Machines that are not to start, and what QEMU says on stderr */

typedef struct Output {
    char *text;
    int status;
} Output;

static void output_free(Output out)
{
    g_free(out.text);
}

/* Run QEMU to its end, or until @stop appears in what it says. */
static Output G_GNUC_PRINTF(2, 3)
run_qemu(const char *stop, const char *fmt, ...)
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

/*
 * Until unwrap_qemu(), QEMU is started by this shell command, in the place of
 * "exec". Returns what unwrap_qemu() wants.
 */
static char *wrap_qemu(FakeServer *srv, const char *command)
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

static void unwrap_qemu(char *qemu)
{
    unlink(g_getenv("QTEST_QEMU_BINARY"));
    g_setenv("QTEST_QEMU_BINARY", qemu, true);
    g_free(qemu);
}

/* Start-up must fail with one line that has @expected in it. */
static void G_GNUC_PRINTF(2, 3)
assert_refused(const char *expected, const char *fmt, ...)
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

/*
 * Registers
 *
 * docs/specs/ivshmem-spec.rst, "PCI device registers", with what QEMU's PCI
 * device answers where the specification leaves it open.
 */

typedef struct Access {
    enum { READ, WRITE } kind;
    unsigned size;
    unsigned offset;
    uint64_t value;
} Access;

static uint64_t read_size(QTestState *qts, uint64_t addr, unsigned size)
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

static void write_size(QTestState *qts, uint64_t addr, unsigned size,
                       uint64_t value)
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

static void check_accesses(const Access *accesses, size_t n)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 0x1234);
    qts = fake_machine(srv);
    for (size_t i = 0; i < n; i++) {
        const Access *a = &accesses[i];

        if (a->kind == WRITE) {
            write_size(qts, IOMEM + a->offset, a->size, a->value);
        } else {
            g_test_message("step %zu: read %u bytes at 0x%x", i, a->size,
                           a->offset);
            g_assert_cmphex(read_size(qts, IOMEM + a->offset, a->size), ==,
                            a->value);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_registers_on_reset(void)
{
    static const Access accesses[] = {
        { READ, 4, 0x00, 0 },
        { READ, 4, 0x04, 0 },
        { READ, 4, 0x08, 0x1234 },
        { READ, 4, 0x0c, 0 },
        { READ, 4, 0x10, 0 },
        { READ, 4, 0xfc, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_intrmask(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x00, 0x89abcdef },
        { READ, 4, 0x00, 0x89abcdef },
        { READ, 4, 0x00, 0x89abcdef },
        { READ, 4, 0x04, 0 },
        { WRITE, 4, 0x00, 0 },
        { READ, 4, 0x00, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

/* "Reading the register clears it." */
static void test_registers_intrstatus(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x04, 0x89abcdef },
        { READ, 4, 0x00, 0 },
        { READ, 4, 0x04, 0x89abcdef },
        { READ, 4, 0x04, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_ivposition(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x08, 0xffffffff },
        { READ, 4, 0x08, 0x1234 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_reserved(void)
{
    Access accesses[2 * (0x100 - 0x10) / 4];
    unsigned n = 0;

    for (unsigned offset = 0x10; offset < 0x100; offset += 4) {
        accesses[n++] = (Access) { WRITE, 4, offset, 0xffffffff };
        accesses[n++] = (Access) { READ, 4, offset, 0 };
    }
    check_accesses(accesses, n);
}

/* A narrower read returns the right bytes, a narrower write replaces them. */
static void test_registers_narrow(void)
{
    static const Access accesses[] = {
        { WRITE, 4, 0x00, 0x89abcdef },
        { READ, 1, 0x00, 0xef },
        { READ, 1, 0x01, 0xcd },
        { READ, 1, 0x02, 0xab },
        { READ, 1, 0x03, 0x89 },
        { READ, 2, 0x00, 0xcdef },
        { READ, 2, 0x02, 0x89ab },
        { WRITE, 1, 0x01, 0x11 },
        { READ, 4, 0x00, 0x89ab11ef },
        { WRITE, 2, 0x02, 0x2233 },
        { READ, 4, 0x00, 0x223311ef },
        { READ, 1, 0x08, 0x34 },
        { READ, 1, 0x09, 0x12 },
        { READ, 2, 0x0a, 0 },
        { WRITE, 4, 0x04, 0x89abcdef },
        { WRITE, 1, 0x07, 0x44 },
        { READ, 2, 0x06, 0x44ab },
        { READ, 4, 0x04, 0 },
        { READ, 1, 0xff, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

/* The bus makes two accesses of one of 64 bits, the lower address first. */
static void test_registers_wide(void)
{
    static const Access accesses[] = {
        { WRITE, 8, 0x00, 0x0123456789abcdef },
        { READ, 8, 0x00, 0x0123456789abcdef },
        { READ, 8, 0x00, 0x89abcdef },
        { READ, 8, 0x08, 0x1234 },
        { READ, 8, 0xf8, 0 },
    };

    check_accesses(accesses, ARRAY_SIZE(accesses));
}

static void test_registers_after_system_reset(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 3);
    qts = fake_machine(srv);
    qtest_writel(qts, INTRMASK, 0xffffffff);
    qtest_writel(qts, INTRSTATUS, 0xffffffff);

    qtest_system_reset(qts);

    g_assert_cmphex(qtest_readl(qts, INTRMASK), ==, 0);
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 0);
    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, 3);
    qtest_quit(qts);
    fake_free(srv);
}

/* Shared memory */

static void fill(uint8_t *buf, size_t size, uint8_t seed)
{
    for (size_t i = 0; i < size; i++) {
        buf[i] = seed + i + i / 256;
    }
}

/* Byte for byte, at the first and at the last page, in both directions. */
static void test_shmem_between_machines(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = wired_machine(srv->path);
    const uint64_t pages[] = { SHMEM, SHMEM + SHMEM_SIZE - 4096 };

    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        uint8_t out[4096], in[4096];

        fill(out, sizeof(out), 1 + i);
        qtest_memwrite(a, pages[i], out, sizeof(out));
        qtest_memread(b, pages[i], in, sizeof(in));
        g_assert_cmpmem(in, sizeof(in), out, sizeof(out));

        fill(out, sizeof(out), 101 + i);
        qtest_memwrite(b, pages[i], out, sizeof(out));
        qtest_memread(a, pages[i], in, sizeof(in));
        g_assert_cmpmem(in, sizeof(in), out, sizeof(out));
    }
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

/* What the guest stores is in the server's object, and nothing behind it. */
static void test_shmem_is_the_servers_object(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    uint32_t *map;

    fake_script_client(srv, 0);
    qts = fake_machine(srv);
    map = mmap(NULL, SHMEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, srv->shm,
               0);
    g_assert_true(map != MAP_FAILED);

    qtest_writel(qts, SHMEM, 0x11223344);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0x55667788);
    g_assert_cmphex(le32_to_cpu(map[0]), ==, 0x11223344);
    g_assert_cmphex(le32_to_cpu(map[SHMEM_SIZE / 4 - 1]), ==, 0x55667788);
    map[1] = cpu_to_le32(0x99aabbcc);
    g_assert_cmphex(qtest_readl(qts, SHMEM + 4), ==, 0x99aabbcc);

    munmap(map, SHMEM_SIZE);
    qtest_quit(qts);
    fake_free(srv);
}

/* Doorbells and interrupts */

static void test_doorbell_to_itself(void)
{
    Server *srv = server_new(1);
    QTestState *qts = wired_machine(srv->path);
    unsigned id = qtest_readl(qts, IVPOSITION);

    g_assert_false(pending(qts, INPUT));
    for (int i = 0; i < 3; i++) {
        qtest_writel(qts, DOORBELL, doorbell(id, 0));
        wait_interrupt(qts, INPUT);
    }
    qtest_quit(qts);
    server_free(srv);
}

/* The smallest memory; a machine that is alone rings itself on each vector. */
static void test_doorbell_to_itself_on_two_vectors(void)
{
    Server *srv = server_new_with(qemu_real_host_page_size(), 2);
    QTestState *qts = machine(srv->path, WIRED_MACHINE ",vectors=2,"
                              "'sysbus-irq[1]=/machine/armv7m/nvic/"
                              "unnamed-gpio-in[17]'");
    unsigned id = qtest_readl(qts, IVPOSITION);

    g_assert_cmpint(get_number(qts, "shmem-size"), ==, srv->size);
    for (unsigned i = 0; i < 10; i++) {
        unsigned vector = i % 2;

        qtest_writel(qts, DOORBELL, doorbell(id, vector));
        wait_interrupt(qts, INPUT + vector);
        g_assert_false(pending(qts, INPUT + !vector));
        qtest_writel(qts, SHMEM + srv->size - 4, i);
        g_assert_cmpint(qtest_readl(qts, SHMEM + srv->size - 4), ==, i);
    }
    qtest_quit(qts);
    server_free(srv);
}

static void test_doorbell_between_machines(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = wired_machine(srv->path);
    unsigned id_a = qtest_readl(a, IVPOSITION);
    unsigned id_b = qtest_readl(b, IVPOSITION);

    g_assert_cmpint(id_a, !=, id_b);

    /* B has been told of A before it started. */
    qtest_writel(b, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    g_assert_false(pending(b, INPUT));

    /* A was told of B before B was told its own vectors. */
    qtest_writel(a, DOORBELL, doorbell(id_b, 0));
    wait_interrupt(b, INPUT);
    g_assert_false(pending(a, INPUT));

    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

static void test_doorbell_moves_the_addressed_eventfd_only(void)
{
    FakeServer *srv = fake_new();
    int fds[2][3], own;
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned peer = 0; peer < 2; peer++) {
        for (unsigned vector = 0; vector < 3; vector++) {
            fds[peer][vector] = fake_script_vector(srv, peer);
        }
    }
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);

    for (unsigned peer = 0; peer < 2; peer++) {
        for (unsigned vector = 0; vector < 3; vector++) {
            qtest_writel(qts, DOORBELL, doorbell(peer, vector));
            for (unsigned p = 0; p < 2; p++) {
                for (unsigned v = 0; v < 3; v++) {
                    g_assert_cmpint(rung(fds[p][v]), ==,
                                    p == peer && v == vector);
                }
            }
            g_assert_cmpint(rung(own), ==, 0);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* "If the peer isn't connected, or has fewer vectors, the write is ignored." */
static void test_doorbell_to_nobody_is_ignored(void)
{
    static const uint32_t values[] = {
        0x00000001, 0x000000ff, 0x00000100, 0x0000ffff, /* no such vector */
        0x00010000, 0x00020000, 0x7fff0000, 0xffff0000, /* no such peer */
        0x00050001, 0x00050100, 0xffffffff,
    };
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer, own;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, 0);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        qtest_writel(qts, DOORBELL, values[i]);
        g_assert_cmpint(rung(peer), ==, 0);
        g_assert_cmpint(rung(own), ==, 0);
    }
    g_assert_false(pending(qts, INPUT));

    /* And the device goes on. */
    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * O_NONBLOCK belongs to the open file, and so to all who share the eventfd: a
 * peer that reads until there is no more would hang without. QEMU's chardev
 * takes it from each fd that it receives.
 */
static void check_eventfds_stay_nonblocking(const char *iothread)
{
    FakeServer *srv = fake_new();
    int fds[MAX_VECTORS + 6], two[2], n = 0;
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 0; i <= MAX_VECTORS; i++) { /* one too many */
        fds[n++] = fake_script_vector(srv, PEER_ID);
    }
    fds[n++] = fake_script_vector(srv, OWN_ID);
    fds[n++] = fake_script_vector(srv, OWN_ID); /* likewise */
    qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE "%s "
                            "2>/dev/null", iothread);
    for (int i = 0; i < n; i++) {
        g_assert_cmpint(fcntl(fds[i], F_GETFL) & O_NONBLOCK, !=, 0);
    }

    fds[n++] = fake_send_vector(srv, 7);
    two[0] = fds[n++] = fake_eventfd(srv); /* in a message that is ignored */
    two[1] = fds[n++] = fake_eventfd(srv);
    fake_send(srv, message(8, 2, two));
    fake_sync(srv, qts);
    g_assert_cmpint(n, <=, ARRAY_SIZE(fds));
    for (int i = 0; i < n; i++) {
        g_assert_cmpint(fcntl(fds[i], F_GETFL) & O_NONBLOCK, !=, 0);
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_peer_eventfds_stay_nonblocking(void)
{
    check_eventfds_stay_nonblocking("");
    check_eventfds_stay_nonblocking(",iothread=io");
}

/* A lone byte would ring peer 0 if it were extended to a word. */
static void test_doorbell_needs_32_bits(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, 0);
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned size = 1; size <= 2; size++) {
        for (unsigned i = 0; i < 4; i += size) {
            write_size(qts, DOORBELL + i, size, 0);
        }
    }
    g_assert_cmpint(rung(peer), ==, 0);

    /* The upper half of 64 bits is 32 of them. */
    qtest_writeq(qts, IVPOSITION, 0);
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * A full counter blocks a write, and each QEMU that joins makes the eventfd
 * blocking for all. The machine must not stop.
 */
static void test_doorbell_to_a_full_counter(void)
{
    const uint64_t full = UINT64_MAX - 1;
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, 0);
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);
    g_assert_cmpint(write(peer, &full, sizeof(full)), ==, sizeof(full));
    g_assert_cmpint(fcntl(peer, F_SETFL, 0), ==, 0);

    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, OWN_ID);

    g_assert_cmphex(rung(peer), ==, full);
    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_interrupt_from_a_peer(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (int i = 0; i < 3; i++) {
        interrupt(own);
        wait_interrupt(qts, INPUT);
        g_assert_cmpint(rung(own), ==, 0); /* the device has drained it */
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* Several vectors */

/* Wire vector k to input k of the NVIC; the AN511 has 64 of them. */
static QTestState *machine_with_vectors(FakeServer *srv, unsigned vectors,
                                        const char *args)
{
    g_autoptr(GString) wires = g_string_new(NULL);
    QTestState *qts;

    for (unsigned i = 0; i < vectors; i++) {
        g_string_append_printf(wires, ",'sysbus-irq[%u]=/machine/armv7m/nvic/"
                               "unnamed-gpio-in[%u]'", i, i);
    }
    qts = fake_machine_with(srv, "%s -machine mps2-an511 -device ivshmem-flat,"
                  "id=ivs,chardev=ivshmem," AT ",vectors=%u%s", args, vectors,
                  wires->str);
    return qts;
}

/* 64 vectors: each drives its own output, and no other. */
static void test_vectors_drive_their_outputs(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[64];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = machine_with_vectors(srv, ARRAY_SIZE(own), "");
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        interrupt(own[i]);
        WAIT_UNTIL(pending(qts, i));
        g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, i < 32 ? BIT(i) : 0);
        g_assert_cmphex(qtest_readl(qts, NVIC_ISPR + 4), ==,
                        i < 32 ? 0 : BIT(i - 32));
        wait_interrupt(qts, i);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* A peer rings them all at once: as many interrupts, and then peace. */
static void check_vectors_all_at_once(const void *args)
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

static void test_vectors_all_at_once(void)
{
    check_vectors_all_at_once("");
}

/* "If it is configured for more, the extra vectors remain unconnected." */
static void test_vectors_fewer_from_the_server(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[2];

    fake_script_greeting(srv, OWN_ID);
    own[0] = fake_script_vector(srv, OWN_ID);
    own[1] = fake_script_vector(srv, OWN_ID);
    qts = machine_with_vectors(srv, 4, "");
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 1));
    wait_interrupt(qts, 1);
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 2));
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 3));
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 0));
    wait_interrupt(qts, 0);
    g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, 0);
    g_assert_cmpint(rung(own[0]) + rung(own[1]), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

/* An output without a wire: that vector is off, the others are not. */
static void test_vectors_without_a_wire(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own[4];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = fake_machine_with(srv, MACHINE ",vectors=4,"
                  "'sysbus-irq[2]=/machine/armv7m/nvic/unnamed-gpio-in[25]'"
                  " 2>%s", srv->errors);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        interrupt(own[i]);
    }
    wait_interrupt(qts, 25);
    fake_sync(srv, qts);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
        g_assert_cmpint(rung(own[i]), ==, i != 2);
    }
    g_assert_cmpint(count_errors(srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(srv, "/machine/peripheral/ivs: vectors "
                                "without an interrupt input are off: 0, 1, "
                                "3;"), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_vectors_are_outputs(void)
{
    static const unsigned counts[] = { 1, 4, 64 };

    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        g_autofree char *expected = g_strdup_printf(
            "gpio-out \"sysbus-irq\" %u\r\n", counts[i]);
        g_autofree char *beyond = g_strdup_printf("sysbus-irq[%u]", counts[i]);
        g_autofree char *qtree = NULL;
        FakeServer *srv = fake_new();
        QTestState *qts;
        QDict *ret;

        fake_script_client(srv, OWN_ID);
        qts = machine_with_vectors(srv, counts[i], "");
        qtree = qtest_hmp(qts, "info qtree");
        g_assert_nonnull(strstr(strstr(qtree, "dev: ivshmem-flat"), expected));
        ret = get_property(qts, beyond);
        g_assert_true(qdict_haskey(ret, "error"));
        qobject_unref(ret);
        qtest_quit(qts);
        fake_free(srv);
    }
}

static void test_vectors_in_json(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    fake_script_client(srv, OWN_ID);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine mps2-an385 -device '"
                  "{\"driver\": \"ivshmem-flat\", \"chardev\": \"ivshmem\","
                  " \"vectors\": 2,"
                  " \"x-bus-address-iomem\": 1342177280,"
                  " \"x-bus-address-shmem\": 1879048192,"
                  " \"x-irq-qompath\":"
                  " \"/machine/armv7m/nvic/unnamed-gpio-in[25]\","
                  " \"sysbus-irq[1]\":"
                  " \"/machine/armv7m/nvic/unnamed-gpio-in[26]\"}'");
    interrupt(own);
    wait_interrupt(qts, 26);
    g_assert_false(pending(qts, 25));
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * Revision 0
 *
 * docs/specs/ivshmem-spec.rst, "PCI device registers": Status and Mask
 * together control a level.
 */

static void test_revision_0(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ",revision=0");
    qtest_irq_intercept_in(qts, "/machine/armv7m");

    /* masked: the status tells, the line does not */
    interrupt(own);
    WAIT_UNTIL(get_interrupts(qts, 0) == 1);
    g_assert_false(qtest_get_irq(qts, INPUT));

    /* unmasked: it is high until the status has been read */
    qtest_writel(qts, INTRMASK, 1);
    g_assert_true(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRMASK, 0);
    g_assert_false(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRMASK, 0xfffffffe);
    g_assert_false(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRMASK, 0xffffffff);
    g_assert_true(qtest_get_irq(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 1);
    g_assert_false(qtest_get_irq(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 0);

    /* and again; a write to the status counts too */
    interrupt(own);
    WAIT_UNTIL(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRSTATUS, 0);
    g_assert_false(qtest_get_irq(qts, INPUT));
    qtest_writel(qts, INTRSTATUS, 1);
    g_assert_true(qtest_get_irq(qts, INPUT));

    qtest_system_reset(qts);
    g_assert_false(qtest_get_irq(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, INTRMASK), ==, 0);
    g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * A controller that samples levels: SPI 32 + 80 of the MPS3-AN536's GICv3,
 * level-sensitive as it is after reset.
 */

#define AN536_IOMEM 0xe7000000
#define AN536_SHMEM 0x14000000
#define AN536_SPI 80
#define GICD_ISPENDR (0xf0000000 + 0x200 + (32 + AN536_SPI) / 32 * 4)
#define AN536_PENDING BIT((32 + AN536_SPI) % 32)

static QTestState *an536(FakeServer *srv, int *own, unsigned revision)
{
    QTestState *qts;

    *own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine mps3-an536 -device ivshmem-flat,"
                  "id=ivs,chardev=ivshmem,x-bus-address-iomem=0x%x,"
                  "x-bus-address-shmem=0x%x,revision=%u,"
                  "'x-irq-qompath=/machine/gic/unnamed-gpio-in[%u]'",
                  AN536_IOMEM, AN536_SHMEM, revision, AN536_SPI);
    return qts;
}

static void test_revision_0_at_a_level_input(void)
{
    FakeServer *srv = fake_new();
    int own;
    QTestState *qts = an536(srv, &own, 0);

    qtest_writel(qts, AN536_IOMEM, 1);
    for (unsigned i = 1; i <= 10; i++) {
        interrupt(own);
        WAIT_UNTIL(get_interrupts(qts, 0) == i);
        g_assert_true(qtest_readl(qts, GICD_ISPENDR) & AN536_PENDING);
        g_assert_cmphex(qtest_readl(qts, AN536_IOMEM + 4), ==, 1);
        g_assert_false(qtest_readl(qts, GICD_ISPENDR) & AN536_PENDING);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* What revision 1 does there: the pulse is over before anybody looks. */
static void test_revision_1_at_a_level_input(void)
{
    FakeServer *srv = fake_new();
    int own;
    QTestState *qts = an536(srv, &own, 1);

    interrupt(own);
    WAIT_UNTIL(get_interrupts(qts, 0) == 1);
    g_assert_false(qtest_readl(qts, GICD_ISPENDR) & AN536_PENDING);
    qtest_quit(qts);
    fake_free(srv);
}

/* Looking in */

static void test_looking_in(void)
{
    FakeServer *srv = fake_new();
    static const struct {
        unsigned id;
        unsigned vectors;
    } expected[] = { { 3, 2 }, { 65535, 1 } };
    g_autofree char *hmp = NULL;
    const QListEntry *entry;
    QTestState *qts;
    QDict *peers;
    int own;

    fake_script_greeting(srv, OWN_ID);
    fake_script_vector(srv, 3);
    fake_script_vector(srv, 3);
    fake_script_vector(srv, 65535);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);

    g_assert_cmpint(get_number(qts, "id"), ==, OWN_ID);
    g_assert_cmpint(get_number(qts, "shmem-size"), ==, SHMEM_SIZE);
    g_assert_true(is_connected(qts));
    peers = get_property(qts, "peers");
    entry = qlist_first(qdict_get_qlist(peers, "return"));
    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
        QDict *peer = qobject_to(QDict, qlist_entry_obj(entry));

        g_assert_cmpint(qdict_get_int(peer, "id"), ==, expected[i].id);
        g_assert_cmpint(qdict_get_int(peer, "vectors"), ==,
                        expected[i].vectors);
        entry = qlist_next(entry);
    }
    g_assert_null(entry);
    qobject_unref(peers);
    hmp = qtest_hmp(qts, "qom-get /machine/peripheral/ivs id");
    g_assert_cmpstr(g_strstrip(hmp), ==, "5");

    qtest_writel(qts, DOORBELL, doorbell(3, 0));
    qtest_writel(qts, DOORBELL, doorbell(3, 1));
    qtest_writel(qts, DOORBELL, doorbell(65535, 0));
    qtest_writel(qts, DOORBELL, doorbell(3, 2));
    qtest_writel(qts, DOORBELL, doorbell(4, 0));
    g_assert_cmpint(get_number(qts, "doorbells-sent"), ==, 3);
    g_assert_cmpint(get_number(qts, "doorbells-dropped"), ==, 2);
    interrupt(own);
    wait_interrupt(qts, INPUT);
    g_assert_cmpint(get_interrupts(qts, 0), ==, 1);

    fake_hang_up(srv);
    WAIT_UNTIL(!is_connected(qts));
    qtest_quit(qts);
    fake_free(srv);
}

/* "If the client is configured for fewer vectors, it closes the extra" */
static void test_interrupt_of_an_extra_vector_is_not_served(void)
{
    FakeServer *srv = fake_new();
    int own, extra[100];
    QTestState *qts;

    own = fake_script_client(srv, OWN_ID);
    for (unsigned i = 0; i < ARRAY_SIZE(extra); i++) {
        extra[i] = fake_script_vector(srv, OWN_ID);
        interrupt(extra[i]);
    }
    qts = fake_machine(srv);
    fake_sync(srv, qts);
    interrupt(own);
    wait_interrupt(qts, INPUT);
    for (unsigned i = 0; i < ARRAY_SIZE(extra); i++) {
        g_assert_cmpint(rung(extra[i]), ==, 1);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* No lost doorbell */

#define AHEAD 100   /* messages to read before the one that matters */

/*
 * The guest rings a peer that the server has announced in the socket, behind
 * other messages. It rings once.
 */
static void test_doorbell_to_an_announced_peer_arrives(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned peer = 1000; peer < 1020; peer++) {
        int filler = fake_eventfd(srv);
        int fd;

        for (unsigned i = 0; i < AHEAD; i += 2) {
            fake_send_fd(srv, 2000, filler);
            fake_send_gone(srv, 2000);
        }
        fd = fake_send_vector(srv, peer);
        qtest_writel(qts, DOORBELL, doorbell(peer, 0));
        WAIT_UNTIL(rung(fd));
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* A machine's first instruction can ring whoever was there before it. */
static void test_doorbell_first_thing_arrives(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd[AHEAD];

    fake_script_greeting(srv, 5000);
    for (unsigned i = 0; i < AHEAD; i++) {
        fd[i] = fake_script_vector(srv, i);
    }
    fake_script_vector(srv, 5000);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < AHEAD; i++) {
        qtest_writel(qts, DOORBELL, doorbell(i, 0));
        g_assert_cmpint(rung(fd[i]), ==, 1);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* A doorbell does not wait for a peer that is announced after it was rung. */
static void test_doorbell_to_a_later_peer_is_dropped(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < AHEAD; i++) {
        fake_send_vector(srv, 2000 + i);
    }
    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    fake_sync(srv, qts);
    fd = fake_send_vector(srv, 7);
    fake_sync(srv, qts);
    g_assert_cmpint(rung(fd), ==, 0);

    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(fd), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* Nor for one whose announcement ends after it was rung. */
static void test_doorbell_in_an_announcement_does_not_wait(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Message head, tail;
    int fd;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    fake_sync(srv, qts);
    fd = fake_eventfd(srv);
    head = tail = message(7, 1, &fd);
    head.len = 4;
    tail.len = 4;
    tail.nfds = 0;
    memmove(tail.bytes, tail.bytes + 4, 4);
    fake_send(srv, head);
    for (unsigned i = 0; i < 3; i++) {
        qtest_writel(qts, DOORBELL, doorbell(7, 0));
    }
    fake_send(srv, tail);
    fake_sync(srv, qts);
    g_assert_cmpint(rung(fd), ==, 0);

    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(fd), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* More doorbells than are kept: the first 64 arrive, whatever the timing. */
static void test_doorbells_to_many_announced_peers(void)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;
    FakeServer *srv = fake_new();
    unsigned arrived = 0;
    QTestState *qts;
    int fd[70];

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < AHEAD; i++) {
        fake_send_vector(srv, 2000 + i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
        fd[i] = fake_send_vector(srv, 100 + i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
        qtest_writel(qts, DOORBELL, doorbell(100 + i, 0));
        qtest_writel(qts, DOORBELL, doorbell(100 + i, 0));
    }
    while (arrived < 64) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
            arrived += !!rung(fd[i]);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/*
 * A server may give an id again. The guest rings it while the end of the one
 * that had it and the announcement of the one that has it wait in the socket.
 */
static void check_doorbell_to_an_id_used_again(const char *iothread)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int old, new;

    fake_script_greeting(srv, OWN_ID);
    old = fake_script_vector(srv, PEER_ID);
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE "%s",
                            iothread);
    for (unsigned i = 0; i < 40; i++) {
        fake_send_gone(srv, PEER_ID);
        new = fake_send_vector(srv, PEER_ID);
        qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
        WAIT_UNTIL(rung(new));
        g_assert_cmpint(rung(old), ==, 0);
        g_assert_cmpint(get_number(qts, "doorbells-sent"), ==, i + 1);
        old = new;
    }

    /* And to nobody, if it is not given again. */
    fake_send_gone(srv, PEER_ID);
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    WAIT_UNTIL(get_number(qts, "doorbells-dropped") == 1);
    g_assert_cmpint(rung(old), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_doorbell_to_an_id_used_again(void)
{
    check_doorbell_to_an_id_used_again("");
    check_doorbell_to_an_id_used_again(",iothread=io");
}

/* Each peer hears of the doorbells that were meant for it, however many. */
static void test_doorbells_while_an_id_is_used_again(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd, next;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    fd = fake_send_vector(srv, PEER_ID);
    fake_sync(srv, qts);
    for (unsigned i = 0; i < 40; i++) {
        for (unsigned j = 0; j < 3; j++) {
            qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
            fake_send_vector(srv, 100 * i + 1000 + j);
        }
        fake_send_gone(srv, PEER_ID);
        next = fake_send_vector(srv, PEER_ID);
        qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
        WAIT_UNTIL(rung(next));
        g_assert_cmpint(rung(fd), >=, 1);
        fd = next;
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* Known peers are not among the 64: to ring them all while one joins is fine */
static void test_doorbells_to_many_known_peers(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int fd[200];

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, PEER_ID, fd, 1);
    for (unsigned i = 1; i < ARRAY_SIZE(fd); i++) {
        fd[i] = fake_script_vector(srv, 100 + i);
    }
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < AHEAD; i++) {
            fake_send_fd(srv, 2000, fd[0]);
            fake_send_gone(srv, 2000);
        }
        for (unsigned i = 1; i < ARRAY_SIZE(fd); i++) {
            qtest_writel(qts, DOORBELL, doorbell(100 + i, 0));
        }
        for (unsigned i = 1; i < ARRAY_SIZE(fd); i++) {
            WAIT_UNTIL(rung(fd[i]));
        }
    }
    g_assert_cmpint(get_number(qts, "doorbells-dropped"), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

static void *talking_thread(void *opaque)
{
    FakeServer *srv = opaque;
    Message here = message(2000, 1, &srv->shm); /* ignored, as no eventfd */
    Message gone = message(2000, 0, NULL);

    while (fake_transmit(srv->conn, &here) && fake_transmit(srv->conn, &gone)) {
        /* until it is hung up */
    }
    return NULL;
}

/* A server that never stops talking keeps no doorbell from a known peer. */
static void test_doorbell_while_the_server_talks(void)
{
    FakeServer *srv = fake_new();
    GThread *thread;
    QTestState *qts;
    int fd;

    fake_script_greeting(srv, OWN_ID);
    fd = fake_script_vector(srv, PEER_ID);
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " 2>/dev/null");
    thread = g_thread_new("talking", talking_thread, srv);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t rings = 0, arrived = 0;

        /* Ring on, as each might push the wait further. */
        WAIT_UNTIL((rings++,
                    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0)),
                    arrived = rung(fd)));
        WAIT_UNTIL((arrived += rung(fd)) == rings);
    }
    shutdown(srv->conn, SHUT_RDWR);
    g_thread_join(thread);
    qtest_quit(qts);
    fake_free(srv);
}

/* No interrupt wired: notification is off both ways, memory is there. */

static void test_no_interrupt(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer, own;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, 0);
    own = fake_script_vector(srv, OWN_ID);
    interrupt(own);
    qts = fake_machine_with(srv, MACHINE);

    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, 0);
    qtest_writel(qts, DOORBELL, doorbell(0, 0));
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 0));
    g_assert_cmpint(rung(peer), ==, 0);
    qtest_writel(qts, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    qtest_quit(qts);

    g_assert_cmpint(rung(own), ==, 1); /* nobody has drained it */
    fake_free(srv);
}

static void test_no_interrupt_warns_once(void)
{
    FakeServer *srv = fake_new();
    Output out;

    fake_script_client(srv, OWN_ID);
    fake_start(srv);
    out = run_qemu("qom-tree", "-machine mps2-an385 "
                   "-chardev socket,id=ivshmem,path=%s "
                   "-device ivshmem-flat,id=ivs,chardev=ivshmem," AT,
                   srv->path);
    fake_join(srv);
    g_assert_nonnull(strstr(out.text, "/machine/peripheral/ivs: interrupts "
                                      "are disabled"));
    g_assert_nonnull(strstr(out.text, "x-irq-qompath=PATH wires one"));
    g_assert_null(strstr(strstr(out.text, "disabled") + 1, "disabled"));
    output_free(out);
    fake_free(srv);
}

/* Properties */

static const char sock_args[] = "-machine mps2-an385 "
                                "-chardev socket,id=ivshmem,path=%s "
                                "-device ivshmem-flat,chardev=ivshmem%s";

/* The server is a good one, the properties are not. */
static void test_properties_refused(void)
{
    static const struct {
        const char *properties;
        const char *expected;
    } cases[] = {
        { "", "x-bus-address-iomem and x-bus-address-shmem are not set" },
        { ",x-bus-address-iomem=0x50000000",
          "x-bus-address-iomem is set and x-bus-address-shmem is not" },
        { ",x-bus-address-shmem=0x70000000",
          "x-bus-address-shmem is set and x-bus-address-iomem is not" },
        { ",x-bus-address-iomem=0x50000002,x-bus-address-shmem=0x70000000",
          "x-bus-address-iomem: 0x50000002 is not aligned" },
        { ",x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x70000800",
          "x-bus-address-shmem: 0x70000800 is not aligned" },
        { ",x-bus-address-iomem=0x40004000,x-bus-address-shmem=0x70000000",
          "x-bus-address-iomem: 0x40004000-0x400040ff is not free, 'uart'" },
        { ",x-bus-address-iomem=0x20000000,x-bus-address-shmem=0x70000000",
          "is not free, 'mps.ssram23'" },
        { ",x-bus-address-iomem=0x50000000,x-bus-address-shmem=0x3ff00000",
          "x-bus-address-shmem: 0x3ff00000-0x402fffff is not free, "
          "'cmsdk-apb-timer'" },
        /* the CPU has something in front of it */
        { ",x-bus-address-iomem=0x42000000,x-bus-address-shmem=0x70000000",
          "is not free, 'bitband' of /machine/armv7m/bitband[1]" },
        { ",x-bus-address-iomem=0xe000e100,x-bus-address-shmem=0x70000000",
          "is not free, 'nvic_sysregs'" },
        { ",x-bus-address-iomem=0x70001000,x-bus-address-shmem=0x70000000",
          "x-bus-address-iomem: 0x70001000 is inside the shared memory" },
        { ",x-bus-address-iomem=0x50000000"
          ",x-bus-address-shmem=0xffffffffffff0000",
          "x-bus-address-shmem: 0xffffffffffff0000 leaves no room for "
          "0x400000 bytes" },
        { "," AT ",shmem-size=8M",
          "server sent shared memory of 4194304 bytes, "
          "expected shmem-size 8388608" },
        { "," AT ",shmem-size=0", "shmem-size is 0" },
        { "," AT ",shmem-size=many", "Parameter 'shmem-size' expects" },
        { "," AT ",x-irq-qompath=/machine/nothing",
          "x-irq-qompath: '/machine/nothing' does not exist" },
        { "," AT ",x-irq-qompath=", "x-irq-qompath: '' " },
        { "," AT ",x-irq-qompath=/machine/armv7m/nvic",
          "x-irq-qompath: '/machine/armv7m/nvic' is of type armv7m_nvic" },
        { "," AT ",'x-irq-qompath=unnamed-gpio-in[3]'",
          "x-irq-qompath: 'unnamed-gpio-in[3]' is ambiguous" },
        { "," AT ",vectors=0", "vectors is 0, expected 1 to 64" },
        { "," AT ",vectors=65", "vectors is 65, expected 1 to 64" },
        { "," AT ",vectors=2,revision=0",
          "vectors is 2, expected 1 in revision 0" },
        { "," AT ",revision=2", "revision is 2, expected 0 or 1" },
        { "," AT ",vectors=2,"
          "'sysbus-irq[2]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
          "sysbus-irq[2] is wired, expected none beyond sysbus-irq[1] with "
          "vectors=2" },
        { "," AT ",'sysbus-irq[64]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
          "Property 'ivshmem-flat.sysbus-irq[64]' not found" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();

        fake_script_client(srv, 0);
        fake_start(srv);
        assert_refused(cases[i].expected, sock_args, srv->path,
                       cases[i].properties);
        fake_join(srv);
        fake_free(srv);
    }
}

/* A platform bus finds places, and inputs, for a device that has none. */
static void test_property_on_a_platform_bus(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *mtree = NULL;
    QTestState *qts;
    uint64_t iomem;
    char *at;

    fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-machine virt -nic none "
                  "-device ivshmem-flat,chardev=ivshmem");
    mtree = qtest_hmp(qts, "info mtree -f");
    at = strstr(mtree, "ivshmem-flat-registers");
    g_assert_nonnull(at);
    while (at > mtree && at[-1] != '\n') {
        at--;
    }
    iomem = g_ascii_strtoull(g_strchug(at), NULL, 16);
    g_assert_cmpint(qtest_readl(qts, iomem + (IVPOSITION - IOMEM)), ==,
                    OWN_ID);
    qtest_quit(qts);
    fake_free(srv);
}

/* A placeholder for what QEMU does not model is as good as nothing. */
static void test_property_on_an_unimplemented_device(void)
{
    Server *srv = server_new(1);
    QTestState *qts;

    qts = machine(srv->path, "-machine mps2-an385 -device ivshmem-flat,"
                  "chardev=ivshmem,x-bus-address-iomem=0x40040000,"
                  "x-bus-address-shmem=0x70000000");
    qtest_writel(qts, 0x40040000, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, 0x40040000), ==, 0x12345678);
    qtest_quit(qts);
    server_free(srv);
}

static void test_property_chardev(void)
{
    g_autofree char *dir = g_dir_make_tmp("ivshmem-flat-test-XXXXXX", NULL);
    g_autofree char *listener = g_build_filename(dir, "listener", NULL);

    assert_refused("property 'chardev' is not set",
                   "-machine mps2-an385 -device ivshmem-flat," AT);
    assert_refused("can't find value 'nope'",
                   "-machine mps2-an385 "
                   "-device ivshmem-flat,chardev=nope," AT);
    assert_refused("chardev 'c' is a chardev-null, expected a UNIX socket",
                   "-machine mps2-an385 -chardev null,id=c "
                   "-device ivshmem-flat,chardev=c," AT);
    assert_refused("chardev 'c' is a chardev-socket, expected a UNIX socket",
                   "-machine mps2-an385 "
                   "-chardev socket,id=c,host=localhost,port=0,server=on,"
                   "wait=off -device ivshmem-flat,chardev=c," AT);
    assert_refused("chardev 'c' listens",
                   "-machine mps2-an385 "
                   "-chardev socket,id=c,path=%s,server=on,wait=off "
                   "-device ivshmem-flat,chardev=c," AT, listener);
    unlink(listener);
    assert_refused("Failed to connect",
                   "-machine mps2-an385 -chardev socket,id=c,path=%s/nobody "
                   "-device ivshmem-flat,chardev=c," AT, dir);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

static void test_property_shmem_size(void)
{
    Server *srv = server_new(1);
    QTestState *qts;
    QDict *ret;

    qts = machine(srv->path, WIRED_MACHINE ",shmem-size=4M");
    g_assert_cmpint(get_number(qts, "shmem-size"), ==, SHMEM_SIZE);
    ret = qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': { 'path': "
                    "'/machine/peripheral/ivs', 'property': 'shmem-size', "
                    "'value': 4096 } }");
    g_assert_true(qdict_haskey(ret, "error"));
    qobject_unref(ret);
    qtest_quit(qts);
    server_free(srv);
}

/* The two ways to name an input are one. */
static void test_property_irq_qompath(void)
{
    static const char *const wires[] = {
        "'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
        "'sysbus-irq[0]=/machine/armv7m/nvic/unnamed-gpio-in[25]'",
    };
    Server *srv = server_new(1);

    for (unsigned i = 0; i < ARRAY_SIZE(wires); i++) {
        QTestState *qts = machine(srv->path, MACHINE ",%s", wires[i]);

        assert_string(qts, DEVICE, "x-irq-qompath",
                      "/machine/armv7m/nvic/unnamed-gpio-in[25]");
        qtest_writel(qts, DOORBELL,
                     doorbell(qtest_readl(qts, IVPOSITION), 0));
        wait_interrupt(qts, 25);
        g_assert_false(pending(qts, INPUT));
        qtest_quit(qts);
    }
    server_free(srv);
}

static void test_help(void)
{
    static const char *const lines[] = {
        "chardev=<str>", "x-irq-qompath=<string>",
        "x-bus-address-iomem=<uint64>", "x-bus-address-shmem=<uint64>",
        "shmem-size=<size>", "vectors=<uint32>", "revision=<uint32>",
    };
    Output out = run_qemu(NULL, "-machine mps2-an385 "
                          "-device ivshmem-flat,help");

    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        const char *line = strstr(out.text, lines[i]);

        g_assert_nonnull(line);
        g_assert_cmpint(strcspn(line, "-"), <, strcspn(line, "\n"));
    }
    g_assert_cmpint(out.status, ==, 0);
    output_free(out);
}

/* Several devices on one machine */

#define IOMEM2_OFFSET 0x1000
#define SHMEM2 0x80000000

/* The second one is at input 17. */
static QTestState *machine_of_two(const char *first, const char *second,
                                  const char *args)
{
    return machine(first, WIRED_MACHINE
                   " -chardev socket,id=ivshmem2,path=%s "
                   "-device ivshmem-flat,chardev=ivshmem2,"
                   "x-bus-address-iomem=0x50001000,"
                   "x-bus-address-shmem=0x80000000,"
                   "'x-irq-qompath=/machine/armv7m/nvic/unnamed-gpio-in[17]'"
                   " %s", second, args);
}

static void check_two_devices(Server *first, Server *second)
{
    QTestState *qts = machine_of_two(first->path, second->path, "");
    unsigned id, id2;

    id = qtest_readl(qts, IVPOSITION);
    id2 = qtest_readl(qts, IVPOSITION + IOMEM2_OFFSET);

    qtest_writel(qts, SHMEM, 0x11111111);
    qtest_writel(qts, SHMEM2 + 4, 0x22222222);
    g_assert_cmphex(qtest_readl(qts, SHMEM2), ==,
                    first == second ? 0x11111111 : 0);
    g_assert_cmphex(qtest_readl(qts, SHMEM + 4), ==,
                    first == second ? 0x22222222 : 0);

    qtest_writel(qts, DOORBELL, doorbell(id, 0));
    wait_interrupt(qts, 16);
    g_assert_false(pending(qts, 17));
    qtest_writel(qts, DOORBELL + IOMEM2_OFFSET, doorbell(id2, 0));
    wait_interrupt(qts, 17);
    g_assert_false(pending(qts, 16));
    if (first == second) {
        qtest_writel(qts, DOORBELL + IOMEM2_OFFSET, doorbell(id, 0));
        wait_interrupt(qts, 16);
    }
    qtest_quit(qts);
}

static void test_two_devices_on_one_server(void)
{
    Server *srv = server_new(1);

    check_two_devices(srv, srv);
    server_free(srv);
}

static void test_two_devices_on_two_servers(void)
{
    Server *first = server_new(1);
    Server *second = server_new(1);

    check_two_devices(first, second);
    server_free(first);
    server_free(second);
}

/* Each tells its device the same: id 2, and a peer 0 with two vectors. */
static void test_two_devices_alike(void)
{
    FakeServer *srv[2] = { fake_new(), fake_new() };
    int peer[2][2], own[2][2];
    QTestState *qts;

    for (unsigned d = 0; d < 2; d++) {
        fake_script_greeting(srv[d], 2);
        fake_script_vectors(srv[d], 0, peer[d], 2);
        fake_script_vectors(srv[d], 2, own[d], 2);
        fake_start(srv[d]);
    }
    qts = machine_of_two(srv[0]->path, srv[1]->path, "");
    for (unsigned d = 0; d < 2; d++) {
        fake_join(srv[d]);
    }
    for (unsigned d = 0; d < 2; d++) {
        uint64_t iomem = d * IOMEM2_OFFSET;

        g_assert_cmpint(qtest_readl(qts, IVPOSITION + iomem), ==, 2);
        for (unsigned v = 0; v < 2; v++) {
            qtest_writel(qts, DOORBELL + iomem, doorbell(0, v));
            WAIT_UNTIL(rung(peer[d][v])); /* the last message may be unread */
            g_assert_cmpint(rung(peer[d][!v]), ==, 0);
            g_assert_cmpint(rung(peer[!d][v]), ==, 0);
        }
        interrupt(own[d][0]);
        wait_interrupt(qts, INPUT + d);
        g_assert_false(pending(qts, INPUT + !d));
    }
    qtest_quit(qts);
    fake_free(srv[0]);
    fake_free(srv[1]);
}

/* One of their servers is killed: that device keeps its memory, as do all. */
static void test_four_devices_on_four_servers(void)
{
    g_autoptr(GString) args = g_string_new("-machine mps2-an385");
    Server *srv[4];
    QTestState *qts;

    for (unsigned d = 0; d < 4; d++) {
        srv[d] = server_new(1);
        g_string_append_printf(args, " -chardev socket,id=s%u,path=%s "
                               "-device 'ivshmem-flat,id=ivs%u,chardev=s%u,"
                               "x-bus-address-iomem=0x%x,"
                               "x-bus-address-shmem=0x%" PRIx64 ","
                               "x-irq-qompath="
                               "/machine/armv7m/nvic/unnamed-gpio-in[%u]'",
                               d, srv[d]->path, d, d, IOMEM + d * IOMEM2_OFFSET,
                               (uint64_t)SHMEM + d * SHMEM_SIZE, 25 + d);
    }
    qts = qtest_init(args->str);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned d = 0; d < 4; d++) {
            uint64_t iomem = d * IOMEM2_OFFSET;
            unsigned id = qtest_readl(qts, IVPOSITION + iomem);

            qtest_writel(qts, SHMEM + d * SHMEM_SIZE, 10 * round + d);
            qtest_writel(qts, DOORBELL + iomem, doorbell(id, 0));
            wait_interrupt(qts, 25 + d);
        }
        for (unsigned d = 0; d < 4; d++) {
            g_assert_cmpint(qtest_readl(qts, SHMEM + d * SHMEM_SIZE), ==,
                            10 * round + d);
        }
        if (round == 0) {
            server_kill(srv[2], SIGKILL);
            WAIT_UNTIL(!qtest_qom_get_bool(qts, "/machine/peripheral/ivs2",
                                           "connected"));
            g_assert_true(qtest_qom_get_bool(qts, "/machine/peripheral/ivs1",
                                             "connected"));
        }
    }
    qtest_quit(qts);
    for (unsigned d = 0; d < 4; d++) {
        server_free(srv[d]);
    }
}

static void test_two_devices_in_one_place(void)
{
    Server *srv = server_new(1);

    assert_refused("is not free, 'ivshmem-flat-registers' of "
                   "/machine/peripheral/first",
                   "-machine mps2-an385 "
                   "-chardev socket,id=a,path=%s "
                   "-chardev socket,id=b,path=%s "
                   "-device ivshmem-flat,id=first,chardev=a," AT "," WIRED
                   " -device ivshmem-flat,chardev=b," AT "," WIRED,
                   srv->path, srv->path);
    server_free(srv);
}

/* Boards */

static const char *const boards[] = {
    "mps2-an385-ivshmem",
    "mps2-an386-ivshmem",
    "mps2-an500-ivshmem",
    "mps2-an511-ivshmem",
};

static void test_board(const void *board)
{
    Server *srv = server_new(1);
    QTestState *qts = machine(srv->path,
                              "-machine %s,ivshmem-chardev=ivshmem",
                              (const char *)board);
    QTestState *peer = wired_machine(srv->path);
    unsigned id = qtest_readl(qts, IVPOSITION);

    qtest_writel(qts, SHMEM, 0x12345678);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0x9abcdef0);
    g_assert_cmphex(qtest_readl(peer, SHMEM), ==, 0x12345678);
    g_assert_cmphex(qtest_readl(peer, SHMEM + SHMEM_SIZE - 4), ==, 0x9abcdef0);
    qtest_writel(peer, DOORBELL, doorbell(id, 0));
    wait_interrupt(qts, INPUT);
    qtest_quit(peer);
    qtest_quit(qts);
    server_free(srv);
}

/* Four vectors, each at an input of its own. */
static void test_board_vectors(const void *board)
{
    static const unsigned inputs[] = { 16, 17, 25, 26 };
    FakeServer *srv = fake_new();
    int own[ARRAY_SIZE(inputs)];
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    fake_script_vectors(srv, OWN_ID, own, ARRAY_SIZE(own));
    qts = fake_machine_with(srv, "-machine %s,ivshmem-chardev=ivshmem",
                  (const char *)board);
    for (unsigned i = 0; i < ARRAY_SIZE(inputs); i++) {
        interrupt(own[i]);
        wait_interrupt(qts, inputs[i]);
        g_assert_cmphex(qtest_readl(qts, NVIC_ISPR), ==, 0);
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_board_iothread(const void *board)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, "-object iothread,id=io -machine %s,"
                  "ivshmem-chardev=ivshmem,ivshmem-iothread=io",
                  (const char *)board);
    assert_string(qts, "/machine", "ivshmem-chardev", "ivshmem");
    assert_string(qts, "/machine", "ivshmem-iothread", "/objects/io");
    interrupt(own);
    wait_interrupt(qts, INPUT);
    qtest_quit(qts);
    fake_free(srv);
}

/* Without ivshmem-chardev it is the plain board. */
static void test_board_bare(const void *board)
{
    static const char *const options[] = {
        "ivshmem-chardev", "ivshmem-iothread"
    };
    QTestState *qts = qtest_initf("-machine %s", (const char *)board);
    g_autofree char *qtree = qtest_hmp(qts, "info qtree");

    g_assert_nonnull(strstr(qtree, "cmsdk-apb-uart"));
    g_assert_null(strstr(qtree, "ivshmem"));
    assert_string(qts, "/machine", "ivshmem-chardev", "");
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        QDict *ret = qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': "
                               "{ 'path': '/machine', 'property': %s, "
                               "'value': 'late' } }", options[i]);

        qmp_expect_error_and_unref(ret, "GenericError");
    }
    qtest_quit(qts);
}

static void test_board_refuses(const void *board)
{
    FakeServer *srv = fake_new();

    assert_refused("ivshmem-iothread is '/objects/io' and ivshmem-chardev is "
                   "not set, expected both", "-object iothread,id=io "
                   "-machine %s,ivshmem-iothread=io", (const char *)board);
    assert_refused("can't find value 'nope'",
                   "-machine %s,ivshmem-chardev=nope", (const char *)board);

    fake_script_id(srv, 1);
    fake_start(srv);
    assert_refused("chardev 'c': server sent protocol version 1, expected 0",
                   "-chardev socket,id=c,path=%s "
                   "-machine %s,ivshmem-chardev=c", srv->path,
                   (const char *)board);
    fake_join(srv);
    fake_free(srv);
}

static void test_board_help(const void *board)
{
    Output out = run_qemu(NULL, "-machine %s,help", (const char *)board);

    g_assert_nonnull(strstr(out.text, "ivshmem-chardev=<string>"));
    g_assert_nonnull(strstr(out.text, "ivshmem-iothread=<string>"));
    g_assert_cmpint(out.status, ==, 0);
    output_free(out);
}

/* The monitor's view */

static void test_monitor_shows_the_device(void)
{
    Server *srv = server_new(1);
    QTestState *qts = wired_machine(srv->path);
    g_autofree char *qtree = qtest_hmp(qts, "info qtree");
    g_autofree char *mtree = qtest_hmp(qts, "info mtree -f");

    g_assert_nonnull(strstr(qtree, "dev: ivshmem-flat"));
    g_assert_nonnull(strstr(qtree, "gpio-out \"sysbus-irq\" 1"));
    g_assert_nonnull(strstr(mtree, "0000000050000000-00000000500000ff "
                                   "(prio 0, i/o): ivshmem-flat-registers"));
    g_assert_nonnull(strstr(mtree, "0000000070000000-00000000703fffff "
                                   "(prio 0, ram): ivshmem-flat:/machine"));
    qtest_quit(qts);
    server_free(srv);
}

/* A server that dies and comes back */

/* The fake server as a new one: another connection, another script. */
static void fake_restart(FakeServer *srv)
{
    if (srv->conn >= 0) {
        fake_hang_up(srv);
    }
    g_array_set_size(srv->script, 0);
    srv->synced = false;
}

/* The client comes by itself. */
static void fake_serve(FakeServer *srv)
{
    fake_start(srv);
    fake_wait_client(srv);
}

/* As a new server, alike but for the id that it gives. */
static int fake_come_back(FakeServer *srv, int64_t id)
{
    int own;

    fake_restart(srv);
    own = fake_script_client(srv, id);
    fake_serve(srv);
    return own;
}

static QTestState *reconnecting_machine(FakeServer *srv, const char *args)
{
    QTestState *qts;

    fake_start(srv);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=10 "
                      "%s 2>%s", srv->path, args, srv->errors);
    fake_wait_client(srv);
    return qts;
}

static void test_restart(void)
{
    FakeServer *srv = fake_new();
    unsigned nfds, nthreads;
    uint64_t before = 0;
    QTestState *qts;
    int old_peer, peer, own;

    fake_script_greeting(srv, 100);
    old_peer = fake_script_vector(srv, PEER_ID);
    fake_script_vector(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    qtest_writel(qts, SHMEM, 0x12345678);
    nfds = count_fds(qts);
    nthreads = count_in_proc(qts, "task");

    for (unsigned i = 101; i <= 120; i++) {
        fake_restart(srv);
        fake_script_greeting(srv, i);
        peer = fake_script_vector(srv, PEER_ID);
        own = fake_script_vector(srv, i);
        fake_serve(srv);
        WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == i);
        wait_known(qts, PEER_ID, 0, peer);
        g_assert_cmpint(rung(old_peer), ==, 0);
        interrupt(own);
        wait_interrupt(qts, INPUT);
        g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
        g_assert_cmpint(count_fds(qts), ==, nfds);
        if (i == 105) {
            before = resident_kib(qts);
        }
        old_peer = peer;
    }
    /* A thread that connects to the server ends a moment later. */
    WAIT_UNTIL(count_in_proc(qts, "task") <= nthreads);
    g_assert_cmpint(resident_kib(qts), <, before + 1024);
    g_assert_cmpint(count_errors(srv, "waiting for it to come back"), ==, 20);
    qtest_quit(qts);
    fake_free(srv);
}

/* In between, a doorbell reaches nobody, and the memory is there. */
static void test_restart_in_between(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, PEER_ID);
    fake_script_vector(srv, OWN_ID);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    fake_restart(srv);
    WAIT_UNTIL(!is_connected(qts));
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(peer), ==, 0);
    g_assert_cmpint(get_number(qts, "doorbells-dropped"), ==, 1);
    qtest_writel(qts, SHMEM, 0x12345678);
    qtest_writel(qts, INTRMASK, 0xffffffff);
    qtest_system_reset(qts);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, INTRMASK), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

/* Of the objects before, each goes once no CPU can be looking at it. */
static void wait_one_mapping(QTestState *qts, unsigned nfds)
{
    g_autofree char *maps = g_strdup_printf("/proc/%d/maps",
                                            (int)qtest_pid(qts));

    WAIT_UNTIL(count_in_file(maps, "memfd:ivshmem-flat-test") == 1);
    WAIT_UNTIL(count_fds(qts) == nfds);
}

/* Another object of the same size takes the place of the old one. */
static void test_restart_with_other_memory(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    unsigned nfds;
    uint32_t word;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    nfds = count_fds(qts);
    for (unsigned i = 101; i <= 120; i++) {
        qtest_writel(qts, SHMEM, i);
        srv->shm = fake_memory(srv, SHMEM_SIZE);
        fake_come_back(srv, i);
        WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == i);
        g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0);
        qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, i);
        g_assert_cmpint(pread(srv->shm, &word, 4, SHMEM_SIZE - 4), ==, 4);
        g_assert_cmpint(le32_to_cpu(word), ==, i);
    }
    g_assert_cmpint(count_errors(srv, "\n"), ==, 20);
    g_assert_cmpint(count_errors(srv, "waiting for it to come back"), ==, 20);
    wait_one_mapping(qts, nfds);
    qtest_quit(qts);
    fake_free(srv);
}

/* A server that comes back with a bad greeting is reported once, and tried. */
static void test_restart_with_a_bad_greeting(void)
{
    FakeServer *srv = fake_new();
    int good = srv->shm;
    QTestState *qts;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    qtest_writel(qts, SHMEM, 0x12345678);
    for (unsigned i = 0; i < 3; i++) {
        fake_restart(srv);
        srv->shm = fake_memory(srv, 2 * SHMEM_SIZE);
        fake_script_greeting(srv, 7);
        fake_serve(srv);
    }
    fake_restart(srv);
    fake_script_id(srv, 1);
    fake_serve(srv);
    for (unsigned i = 0; i < 3; i++) { /* and some that end too early */
        fake_restart(srv);
        fake_script_id(srv, 0);
        srv->hang_up = true;
        fake_serve(srv);
    }
    srv->hang_up = false;

    srv->shm = good;
    fake_come_back(srv, 101);
    WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == 101);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    g_assert_cmpint(count_errors(srv, "server sent"), ==, 1);
    g_assert_cmpint(count_errors(srv, "server sent shared memory of 8388608 "
                                        "bytes, expected shmem-size 4194304"),
                    ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* A guest need not notice: it may go on ringing, here peers that never come. */
static void ring_until_connected(QTestState *qts)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;

    do {
        for (unsigned peer = 10; peer < 14; peer++) {
            qtest_writel(qts, DOORBELL, doorbell(peer, peer % 2));
        }
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    } while (!is_connected(qts));
}

/* A server that comes back silent is reported once, and tried again. */
static void test_restart_with_silence(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int silent;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);

    fake_restart(srv);
    fake_serve(srv);
    silent = fake_own(srv, srv->conn);
    srv->conn = -1;

    fake_restart(srv);
    fake_script_client(srv, 101);
    fake_start(srv);
    check_idle(qts);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, 100);
    fake_wait_client(srv);
    WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == 101);
    WAIT_UNTIL(is_hung_up(silent));
    g_assert_cmpint(count_errors(srv, "server sent 0 bytes in 10 s, expected "
                                        "the protocol version"), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* A greeting that goes wrong behind the peers leaves none of them. */
static void test_restart_with_the_memory_last(void)
{
    FakeServer *srv = fake_new();
    int good = srv->shm;
    QTestState *qts;
    unsigned nfds;
    int peer, own;

    fake_script_greeting(srv, 100);
    fake_script_vector(srv, PEER_ID);
    fake_script_vector(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    nfds = count_fds(qts);
    for (unsigned i = 101; i <= 110; i++) {
        fake_restart(srv);
        fake_script_id(srv, 0);
        fake_script_id(srv, i);
        peer = fake_script_vector(srv, PEER_ID);
        own = fake_script_vector(srv, i);
        fake_script_fd(srv, -1, i % 2 ? fake_memory(srv, 2 * SHMEM_SIZE)
                                      : good);
        fake_serve(srv);
        if (i % 2) {
            WAIT_UNTIL(is_hung_up(srv->conn));
            g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, i - 1);
            g_assert_cmpint(count_peers(qts), ==, 0);
            qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
            g_assert_cmpint(rung(peer), ==, 0);
            interrupt(own);
            g_assert_false(pending(qts, INPUT));
            g_assert_cmpint(rung(own), ==, 1);
        } else {
            WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == i);
            qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
            g_assert_cmpint(rung(peer), ==, 1);
            interrupt(own);
            wait_interrupt(qts, INPUT);
            WAIT_UNTIL(count_fds(qts) == nfds);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* What a user does for a chardev that does not reconnect. */
static void give_connection(QTestState *qts, FakeServer *srv)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair),
                    ==, 0);
    qtest_qmp_fds_assert_success(qts, &pair[1], 1, "{ 'execute': 'getfd', "
                                 "'arguments': { 'fdname': 'new' } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'add_client', 'arguments': "
                             "{ 'protocol': 'ivshmem', 'fdname': 'new' } }");
    close(pair[1]);
    srv->conn = pair[0];
}

/* The chardev does not reconnect, but the user gives it a connection. */
static void test_restart_by_the_user(void)
{
    FakeServer *srv = fake_new();
    int old_peer, peer, own;
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    old_peer = fake_script_vector(srv, PEER_ID);
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " 2>%s", srv->errors);
    fake_restart(srv);
    WAIT_UNTIL(!is_connected(qts));
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(old_peer), ==, 1);

    /* One that comes to nothing leaves the peers as they are. */
    give_connection(qts, srv);
    fake_send(srv, message(0, 0, NULL));
    fake_send(srv, message(100, 0, NULL));
    fake_hang_up(srv);
    WAIT_UNTIL(count_errors(srv, "server closed the connection after 16 "
                                 "bytes, expected the shared memory"));
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(old_peer), ==, 1);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);

    /* Others in their place cannot be rung before the greeting is complete. */
    give_connection(qts, srv);
    fake_send(srv, message(0, 0, NULL));
    fake_send(srv, message(100, 0, NULL));
    peer = fake_send_vector(srv, PEER_ID);
    WAIT_UNTIL(count_peers(qts) == 1 && fake_is_read(srv));
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(old_peer), ==, 0);
    g_assert_cmpint(rung(peer), ==, 0);
    fake_hang_up(srv);
    WAIT_UNTIL(count_peers(qts) == 0);

    give_connection(qts, srv);
    fake_send(srv, message(0, 0, NULL));
    fake_send(srv, message(100, 0, NULL));
    fake_send(srv, message(-1, 1, &srv->shm));
    peer = fake_send_vector(srv, PEER_ID);
    own = fake_send_vector(srv, 100);
    WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == 100);
    fake_sync(srv, qts);
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(old_peer), ==, 0);
    g_assert_cmpint(rung(peer), ==, 1);
    interrupt(own);
    wait_interrupt(qts, INPUT);
    qtest_quit(qts);
    fake_free(srv);
}

/* Two file systems may number their files alike. */
static void test_restart_with_a_file_elsewhere(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *file = g_build_filename(srv->dir, "file", NULL);
    QTestState *qts;
    uint32_t word;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    fake_restart(srv);
    srv->shm = fake_own(srv, open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    g_assert_cmpint(ftruncate(srv->shm, SHMEM_SIZE), ==, 0);
    fake_script_client(srv, 101);
    fake_serve(srv);
    WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == 101);
    qtest_writel(qts, SHMEM, 0x12345678);
    g_assert_cmpint(pread(srv->shm, &word, sizeof(word), 0), ==, sizeof(word));
    g_assert_cmphex(le32_to_cpu(word), ==, 0x12345678);
    qtest_quit(qts);
    unlink(file);
    fake_free(srv);
}

/* QEMU's own, killed and started again, under two machines. */
static void test_restart_of_the_real_server(void)
{
    Server *srv = server_new(1);
    QTestState *qts[2];

    for (unsigned i = 0; i < 2; i++) {
        qts[i] = qtest_initf("-chardev socket,id=ivshmem,path=%s,"
                             "reconnect-ms=10 " WIRED_MACHINE
                             " 2>/dev/null", srv->path);
    }
    for (unsigned round = 0; round < 5; round++) {
        server_kill(srv, SIGKILL);
        WAIT_UNTIL(!is_connected(qts[0]));
        WAIT_UNTIL(!is_connected(qts[1]));
        server_restart(srv, 1);
        ring_until_connected(qts[0]);
        ring_until_connected(qts[1]);
        for (unsigned i = 0; i < 2; i++) {
            unsigned peer = qtest_readl(qts[!i], IVPOSITION);
            gint64 deadline = g_get_monotonic_time() + PATIENCE_US;

            do { /* the peer's announcement may be under way */
                qtest_writel(qts[i], DOORBELL, doorbell(peer, 0));
                g_assert_cmpint(g_get_monotonic_time(), <, deadline);
            } while (!pending(qts[!i], INPUT));
            wait_interrupt(qts[!i], INPUT);
            qtest_writel(qts[i], SHMEM, 10 * round + i);
            g_assert_cmpint(qtest_readl(qts[!i], SHMEM), ==, 10 * round + i);
        }
    }
    qtest_quit(qts[0]);
    qtest_quit(qts[1]);
    server_free(srv);
}

/* Ends with us, however that is. */
static pid_t fork_child(void)
{
    pid_t child = fork();

    g_assert_cmpint(child, >=, 0);
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    return child;
}

/*
 * A server that ends in its greeting, after @said of its three messages, or
 * right behind it, is waited for at start, too. The next one's memory may be
 * of another size, as no guest has seen the first.
 */
static void check_restart_at_start(unsigned said, off_t size)
{
    FakeServer *srv = fake_new();
    FakeServer *next = fake_new();
    QTestState *qts;
    pid_t child = fork_child();

    if (!child) { /* the next server takes the first one's name */
        fake_script_greeting(srv, 100);
        srv->conn = accept4(srv->listener, NULL, NULL, SOCK_CLOEXEC);
        close(srv->listener);
        for (unsigned i = 0; i < said; i++) {
            fake_transmit(srv->conn, &g_array_index(srv->script, Message, i));
        }
        _exit(rename(next->path, srv->path));
    }
    close(srv->listener);
    srv->listener = -1;
    next->shm = fake_memory(next, size);
    fake_script_client(next, 101);
    fake_start(next);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=10 "
                      WIRED_MACHINE " 2>%s", srv->path, srv->errors);
    fake_wait_client(next);
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, 101);
    g_assert_cmpint(get_number(qts, "shmem-size"), ==, size);
    qtest_writel(qts, SHMEM + size - 4, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM + size - 4), ==, 0x12345678);
    g_assert_cmpint(count_errors(srv, "server closed the connection"), ==,
                    said < 3);
    qtest_quit(qts);
    fake_free(next);
    fake_free(srv);
}

static void test_restart_at_start(void)
{
    for (unsigned said = 0; said <= 3; said++) {
        check_restart_at_start(said, SHMEM_SIZE);
    }
    check_restart_at_start(3, 2 * SHMEM_SIZE);
    check_restart_at_start(3, SHMEM_SIZE / 2);
}

/* Has the file text that has not become more for so many seconds? */
static bool is_file_older(const char *path, unsigned seconds)
{
    struct stat st;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return stat(path, &st) == 0 && st.st_size > 0 &&
           now.tv_sec - st.st_mtim.tv_sec > seconds;
}

/* QEMU first, the server later: QEMU waits, and says so once. */
static void test_start_before_the_server(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *path = g_strconcat(srv->path, "-later", NULL);
    QTestState *qts;
    pid_t child = fork_child();

    if (!child) { /* gives the socket its name once QEMU has missed it */
        while (true) {
            g_autofree char *text = NULL;

            if (g_file_get_contents(srv->errors, &text, NULL, NULL) &&
                strstr(text, "waiting for a server")) {
                _exit(rename(srv->path, path));
            }
            g_usleep(1000);
        }
    }
    fake_script_client(srv, OWN_ID);
    fake_start(srv);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=10 "
                      WIRED_MACHINE " 2>%s", path, srv->errors);
    fake_wait_client(srv);
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    g_assert_cmpint(count_errors(srv, "waiting for a server at chardev"), ==,
                    1);
    qtest_quit(qts);
    unlink(path);
    fake_free(srv);
}

/* What keeps the chardev from the server is said anew each time it changes. */
static void test_start_before_the_server_says_why(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *path = g_strconcat(srv->path, "-later", NULL);
    const char *said[] = { "No such file", "symbolic links", "Not a directory",
                           NULL };
    QTestState *qts;
    pid_t child = fork_child();

    if (!child) { /* puts something else in its way each time it complains */
        g_autofree char *below = g_strconcat(srv->errors, "/x", NULL);
        g_autofree char *new = g_strconcat(path, "-new", NULL);

        for (unsigned i = 0; said[i]; ) {
            g_autofree char *text = NULL;

            g_usleep(1000);
            if (!g_file_get_contents(srv->errors, &text, NULL, NULL) ||
                !strstr(text, said[i])) {
                continue;
            }
            /* by rename, as with nothing there it would complain of that */
            if ((i == 0 && symlink(path, new) < 0) ||
                (i == 1 && symlink(below, new) < 0) ||
                rename(i < 2 ? new : srv->path, path) < 0) {
                _exit(1);
            }
            i++;
        }
        _exit(0);
    }
    fake_script_client(srv, OWN_ID);
    fake_start(srv);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=10 "
                      WIRED_MACHINE " 2>%s", path, srv->errors);
    fake_wait_client(srv);
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    for (unsigned i = 0; said[i]; i++) {
        g_assert_cmpint(count_errors(srv, said[i]), ==, 1);
    }
    g_assert_cmpint(count_errors(srv, path), ==, 3);

    /* And later: the server goes, and something else is in its place. */
    unlink(path);
    g_assert_cmpint(symlink(path, path), ==, 0);
    fake_hang_up(srv);
    WAIT_UNTIL(count_errors(srv, "symbolic links") == 2);
    unlink(path);
    WAIT_UNTIL(count_errors(srv, "No such file") == 2);
    qtest_quit(qts);
    fake_free(srv);
}

/* What is in the way from the start, and stays there, is said once. */
static void test_start_before_the_server_says_it_once(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *path = g_strconcat(srv->path, "-later", NULL);
    QTestState *qts;
    pid_t child;

    g_assert_cmpint(symlink(path, path), ==, 0);
    child = fork_child();
    if (!child) { /* by then it has looked more than once */
        while (!is_file_older(srv->errors, 3)) {
            g_usleep(1000);
        }
        _exit(rename(srv->path, path));
    }
    fake_script_client(srv, OWN_ID);
    fake_start(srv);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=10 "
                      WIRED_MACHINE " 2>%s", path, srv->errors);
    fake_wait_client(srv);
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_cmpint(count_errors(srv, "symbolic links"), ==, 1);
    qtest_quit(qts);
    unlink(path);
    fake_free(srv);
}

/* Without reconnect-ms it does not wait. */
static void test_start_without_the_server(void)
{
    assert_refused("Failed to connect to '/nonexistent/socket': No such file "
                   "or directory", sock_args, "/nonexistent/socket", "," AT);
}

static void test_start_before_the_server_can_be_interrupted(void)
{
    Output out = run_qemu("waiting for a server", "-machine mps2-an385 "
                          "-chardev socket,id=c,path=/nonexistent/socket,"
                          "reconnect-ms=10 -device ivshmem-flat,chardev=c,"
                          AT);

    g_assert_true(WIFSIGNALED(out.status));
    g_assert_cmpint(WTERMSIG(out.status), ==, SIGTERM);
    output_free(out);
}

/* Migration */

static bool migration_is(QTestState *qts, const char *expected)
{
    QDict *ret = qtest_qmp(qts, "{ 'execute': 'query-migrate' }");
    const char *status = qdict_get_try_str(qdict_get_qdict(ret, "return"),
                                           "status");
    bool reached = !g_strcmp0(status, expected);

    g_assert_cmpstr(status ?: "", !=, "failed");
    qobject_unref(ret);
    return reached;
}

static void migrate(QTestState *qts, const char *uri)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': %s } }", uri);
    WAIT_UNTIL(migration_is(qts, "completed"));
}

static bool is_running(QTestState *qts)
{
    QDict *ret = qtest_qmp(qts, "{ 'execute': 'query-status' }");
    bool running = qdict_get_bool(qdict_get_qdict(ret, "return"), "running");

    qobject_unref(ret);
    return running;
}

static void assert_migration_refused(QTestState *qts, const char *reason)
{
    QDict *ret = qtest_qmp(qts, "{ 'execute': 'migrate', 'arguments': "
                           "{ 'uri': 'exec:cat >/dev/null' } }");

    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(ret, "error"),
                                          "desc"), reason));
    qobject_unref(ret);
}

static void test_migration_without_master(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = machine(srv->path, WIRED_MACHINE ",master=auto");

    assert_migration_refused(a, "ivshmem-flat with master=off");
    assert_migration_refused(b, "ivshmem-flat with master=off");
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

static void test_migration_second_master(void)
{
    Server *srv = server_new(1);
    QTestState *qts = machine(srv->path, WIRED_MACHINE ",master=on");

    assert_refused("master=on with own id 1, expected 0", sock_args,
                   srv->path, "," AT "," WIRED ",master=on");
    qtest_quit(qts);
    server_free(srv);
}

/* That would hand memory over that the next QEMU gets from its server. */
static void test_migration_by_cpr(void)
{
    Server *srv = server_new(1);
    QTestState *qts = machine(srv->path, WIRED_MACHINE ",master=on");
    QDict *ret;

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters', "
                             "'arguments': { 'mode': 'cpr-transfer' } }");
    ret = qtest_qmp(qts, "{ 'execute': 'migrate', 'arguments': { 'channels': ["
                    "{ 'channel-type': 'main', 'addr': { 'transport': 'socket',"
                    " 'type': 'unix', 'path': '/nonexistent' } }, "
                    "{ 'channel-type': 'cpr', 'addr': { 'transport': 'socket', "
                    "'type': 'unix', 'path': '/nonexistent' } } ] } }");
    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(ret, "error"),
                                          "desc"),
                            "ivshmem-flat with master=on"));
    qobject_unref(ret);
    qtest_quit(qts);
    server_free(srv);
}

/* Through a file, from one server to another. */
static void check_migration(const char *args)
{
    Server *from = server_new(1);
    Server *to = server_new(1);
    g_autofree char *file = g_build_filename(from->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    g_autofree char *load = g_strconcat(args, " -incoming 'exec:cat ", file,
                                        "'", NULL);
    QTestState *src = machine(from->path, WIRED_MACHINE "%s", args);
    QTestState *dst, *peer;
    uint8_t out[4096], in[4096];

    fill(out, sizeof(out), 42);
    qtest_memwrite(src, SHMEM, out, sizeof(out));
    qtest_memwrite(src, SHMEM + SHMEM_SIZE - 4096, out, sizeof(out));
    qtest_writel(src, INTRMASK, 0x11111111);
    qtest_writel(src, INTRSTATUS, 0x22222222);
    migrate(src, save);
    qtest_quit(src);

    dst = machine(to->path, WIRED_MACHINE "%s", load);
    WAIT_UNTIL(is_running(dst));
    qtest_memread(dst, SHMEM, in, sizeof(in));
    g_assert_cmpmem(in, sizeof(in), out, sizeof(out));
    qtest_memread(dst, SHMEM + SHMEM_SIZE - 4096, in, sizeof(in));
    g_assert_cmpmem(in, sizeof(in), out, sizeof(out));
    g_assert_cmphex(qtest_readl(dst, INTRMASK), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(dst, INTRSTATUS), ==, 0x22222222);

    /* It has its own connection, and whoever comes sees it. */
    peer = wired_machine(to->path);
    qtest_writel(peer, DOORBELL,
                 doorbell(qtest_readl(dst, IVPOSITION), 0));
    wait_interrupt(dst, INPUT);
    qtest_quit(peer);
    qtest_quit(dst);
    unlink(file);
    server_free(from);
    server_free(to);
}

static void test_migration(void)
{
    check_migration(",master=on");
    check_migration(",master=auto");
}

/* While both run: the peers of the one see it go, the other's see it come. */
static void test_migration_between_machines(void)
{
    Server *from = server_new(1);
    Server *to = server_new(1);
    g_autofree char *path = g_build_filename(from->dir, "migration", NULL);
    g_autofree char *uri = g_strconcat("unix:", path, NULL);
    g_autofree char *incoming = g_strconcat(",master=on -incoming ", uri, NULL);
    QTestState *src = machine(from->path, WIRED_MACHINE ",master=on");
    QTestState *old_peer = wired_machine(from->path);
    QTestState *dst = machine(to->path, WIRED_MACHINE "%s", incoming);
    QTestState *new_peer = wired_machine(to->path);

    WAIT_UNTIL(count_peers(old_peer) == 1);
    WAIT_UNTIL(count_peers(new_peer) == 1);
    qtest_writel(old_peer, SHMEM, 0x11111111);
    qtest_writel(src, SHMEM + SHMEM_SIZE - 4, 0x22222222);
    migrate(src, uri);
    WAIT_UNTIL(is_running(dst));
    qtest_quit(src);
    WAIT_UNTIL(count_peers(old_peer) == 0);

    g_assert_cmphex(qtest_readl(dst, SHMEM), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(new_peer, SHMEM + SHMEM_SIZE - 4), ==,
                    0x22222222);
    qtest_writel(old_peer, SHMEM, 0x33333333);
    g_assert_cmphex(qtest_readl(dst, SHMEM), ==, 0x11111111);
    qtest_writel(dst, DOORBELL,
                 doorbell(qtest_readl(new_peer, IVPOSITION), 0));
    wait_interrupt(new_peer, INPUT);
    qtest_writel(new_peer, DOORBELL, doorbell(0, 0));
    wait_interrupt(dst, INPUT);
    qtest_quit(dst);
    qtest_quit(old_peer);
    qtest_quit(new_peer);
    unlink(path);
    server_free(from);
    server_free(to);
}

/* While both servers are away, and after the first has come back once. */
static void test_migration_without_servers(void)
{
    Server *servers[] = { server_new(1), server_new(1) };
    static const char *const args[] = { ",master=on",
                                        ",master=on -incoming defer" };
    g_autofree char *file = g_build_filename(servers[0]->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    g_autofree char *load = g_strconcat("exec:cat ", file, NULL);
    QTestState *qts[2];

    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = g_strconcat(servers[i]->path,
                                            ",reconnect-ms=10", NULL);

        qts[i] = machine(path, WIRED_MACHINE "%s", args[i]);
        server_kill(servers[i], SIGKILL);
        WAIT_UNTIL(!is_connected(qts[i]));
        if (i == 0) { /* other memory takes part just the same */
            server_restart(servers[i], 1);
            WAIT_UNTIL(is_connected(qts[i]));
            server_kill(servers[i], SIGKILL);
            WAIT_UNTIL(!is_connected(qts[i]));
            qtest_writel(qts[i], SHMEM + 4, 0x12345678);
            migrate(qts[i], save);
        }
    }
    qtest_qmp_assert_success(qts[1], "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", load);
    WAIT_UNTIL(is_running(qts[1]));
    g_assert_cmphex(qtest_readl(qts[1], SHMEM + 4), ==, 0x12345678);
    server_restart(servers[1], 1);
    WAIT_UNTIL(is_connected(qts[1]));
    unlink(file);
    for (unsigned i = 0; i < 2; i++) {
        qtest_quit(qts[i]);
        server_free(servers[i]);
    }
}

/* Memory that is under way is not replaced: that waits for the end. */
static void test_migration_while_the_server_restarts(void)
{
    FakeServer *srv = fake_new();
    FakeServer *nobody = fake_new(); /* never reads, and so never ends it */
    g_autofree char *uri = g_strconcat("unix:", nobody->path, NULL);
    QTestState *qts;

    fake_script_client(srv, 0);
    qts = reconnecting_machine(srv, WIRED_MACHINE ",master=on");
    qtest_memset(qts, SHMEM, 0x55, SHMEM_SIZE); /* more than a socket takes */
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': %s } }", uri);
    WAIT_UNTIL(migration_is(qts, "active"));

    srv->shm = fake_memory(srv, SHMEM_SIZE);
    for (unsigned i = 0; i < 3; i++) {
        fake_come_back(srv, 1);
    }
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x55555555);
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate_cancel' }");
    WAIT_UNTIL(migration_is(qts, "cancelled"));
    fake_come_back(srv, 2);
    WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == 2);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0);
    g_assert_cmpint(count_errors(srv, "during a migration"), ==, 1);
    qtest_quit(qts);
    fake_free(nobody);
    fake_free(srv);
}

/* Nor is memory that is awaited. */
static void test_migration_while_the_other_server_restarts(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 0);
    qts = reconnecting_machine(srv, WIRED_MACHINE
                               ",master=on -incoming defer");
    fake_restart(srv);
    srv->shm = fake_memory(srv, SHMEM_SIZE);
    fake_script_greeting(srv, 0);
    fake_serve(srv);
    WAIT_UNTIL(count_errors(srv, "during a migration"));
    g_assert_false(is_connected(qts));
    qtest_quit(qts);
    fake_free(srv);
}

/* For snapshots; without qemu-img, the test is skipped. */
static bool make_image(const char *path)
{
    if (!have_qemu_img()) {
        g_test_skip("QTEST_QEMU_IMG does not say where qemu-img is");
        return false;
    }
    g_assert_true(mkimg(path, "qcow2", 16));
    return true;
}

/* A monitor command that has nothing to say if all went well. */
static void assert_silent(QTestState *qts, const char *command)
{
    g_autofree char *said = qtest_hmp(qts, "%s", command);

    g_assert_cmpstr(said, ==, "");
}

static void test_snapshot(void)
{
    Server *srv = server_new(1);
    g_autofree char *image = g_build_filename(srv->dir, "image", NULL);
    g_autofree char *args = g_strdup_printf(",master=on -drive if=none,"
                                            "format=qcow2,file=%s", image);
    QTestState *qts;

    if (!make_image(image)) {
        server_free(srv);
        return;
    }
    qts = machine(srv->path, WIRED_MACHINE "%s", args);
    qtest_writel(qts, SHMEM, 0x11111111);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0x22222222);
    qtest_writel(qts, INTRMASK, 0x33333333);
    assert_silent(qts, "savevm one");

    qtest_writel(qts, SHMEM, 0);
    qtest_writel(qts, SHMEM + SHMEM_SIZE - 4, 0);
    qtest_writel(qts, INTRMASK, 0);
    assert_silent(qts, "loadvm one");
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(qts, SHMEM + SHMEM_SIZE - 4), ==, 0x22222222);
    g_assert_cmphex(qtest_readl(qts, INTRMASK), ==, 0x33333333);
    qtest_quit(qts);
    unlink(image);
    server_free(srv);
}

/* A snapshot with the memory's content does not go to where it must not. */
static void test_snapshot_without_master(void)
{
    Server *srv = server_new(1);
    g_autofree char *image = g_build_filename(srv->dir, "image", NULL);
    g_autofree char *drive = g_strdup_printf(" -drive if=none,format=qcow2,"
                                             "file=%s", image);
    g_autofree char *on = g_strconcat(",master=on", drive, NULL);
    g_autofree char *refused = NULL, *loaded = NULL;
    QTestState *qts;

    if (!make_image(image)) {
        server_free(srv);
        return;
    }
    qts = machine(srv->path, WIRED_MACHINE "%s", on);
    qtest_writel(qts, SHMEM, 0x11111111);
    assert_silent(qts, "savevm one");
    qtest_quit(qts);

    qts = machine(srv->path, WIRED_MACHINE "%s", drive);
    qtest_writel(qts, SHMEM, 0x22222222);
    refused = qtest_hmp(qts, "savevm two");
    g_assert_nonnull(strstr(refused, "ivshmem-flat with master=off"));
    loaded = qtest_hmp(qts, "loadvm one");
    g_assert_nonnull(strstr(loaded, "ivshmem-flat:/machine/peripheral/ivs"));
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x22222222);
    qtest_quit(qts);
    unlink(image);
    server_free(srv);
}

#define BOTH_MASTERS "-global ivshmem-flat.master=on "

static void test_snapshot_of_two_devices(void)
{
    Server *first = server_new(1);
    Server *second = server_new(1);
    g_autofree char *image = g_build_filename(first->dir, "image", NULL);
    g_autofree char *args = g_strdup_printf(BOTH_MASTERS "-drive if=none,"
                                            "format=qcow2,file=%s", image);
    QTestState *qts;

    if (make_image(image)) {
        qts = machine_of_two(first->path, second->path, args);
        qtest_writel(qts, SHMEM, 0x11111111);
        qtest_writel(qts, SHMEM2, 0x22222222);
        assert_silent(qts, "savevm one");
        qtest_writel(qts, SHMEM, 0);
        qtest_writel(qts, SHMEM2, 0);
        assert_silent(qts, "loadvm one");
        g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x11111111);
        g_assert_cmphex(qtest_readl(qts, SHMEM2), ==, 0x22222222);
        qtest_quit(qts);
        unlink(image);
    }
    server_free(first);
    server_free(second);
}

/* Two devices, each with a server of its own: their names do not clash. */
static void test_migration_of_two_devices(void)
{
    Server *from[] = { server_new(1), server_new(1) };
    Server *to[] = { server_new(1), server_new(1) };
    g_autofree char *file = g_build_filename(from[0]->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    Server **servers[] = { from, to };
    QTestState *qts[2];

    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *args = g_strdup_printf(
            i ? BOTH_MASTERS "-incoming 'exec:cat %s'" : BOTH_MASTERS, file);

        qts[i] = machine_of_two(servers[i][0]->path, servers[i][1]->path,
                                args);
        if (i == 0) {
            qtest_writel(qts[0], SHMEM, 0x11111111);
            qtest_writel(qts[0], SHMEM2, 0x22222222);
            migrate(qts[0], save);
        }
    }
    WAIT_UNTIL(is_running(qts[1]));
    g_assert_cmphex(qtest_readl(qts[1], SHMEM), ==, 0x11111111);
    g_assert_cmphex(qtest_readl(qts[1], SHMEM2), ==, 0x22222222);
    qtest_quit(qts[0]);
    qtest_quit(qts[1]);
    unlink(file);
    for (unsigned i = 0; i < 2; i++) {
        server_free(from[i]);
        server_free(to[i]);
    }
}

/* On one server the copy would overwrite memory that lives. */
static void test_migration_on_one_server(void)
{
    Server *srv = server_new(1);
    QTestState *src = machine(srv->path, WIRED_MACHINE ",master=on");
    g_autofree char *file = g_build_filename(srv->dir, "state", NULL);
    g_autofree char *save = g_strconcat("exec:cat >", file, NULL);
    static const char *const masters[] = { "auto", "off", "on" };

    qtest_writel(src, SHMEM, 0x11111111);
    migrate(src, save);
    qtest_qmp_assert_success(src, "{ 'execute': 'cont' }");
    qtest_writel(src, SHMEM, 0x22222222);
    for (unsigned i = 0; i < ARRAY_SIZE(masters); i++) {
        g_autofree char *args = g_strdup_printf(",id=ivs," AT "," WIRED
                                                ",master=%s "
                                                "-incoming 'exec:cat %s'",
                                                masters[i], file);

        assert_refused("would overwrite the memory that", sock_args,
                       srv->path, args);
        g_assert_cmphex(qtest_readl(src, SHMEM), ==, 0x22222222);
    }
    qtest_quit(src);
    unlink(file);
    server_free(srv);
}

static void test_replay_is_refused(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *log = g_build_filename(srv->dir, "log", NULL);

    fake_start(srv);
    assert_refused("ivshmem-flat cannot be recorded or replayed",
                   "-machine mps2-an385 -accel tcg "
                   "-icount shift=7,rr=record,rrfile=%s "
                   "-chardev socket,id=ivshmem,path=%s "
                   "-device ivshmem-flat,chardev=ivshmem," AT, log, srv->path);
    fake_join(srv);
    unlink(log);
    fake_free(srv);
}

/* The greeting: each violation is one line, in seconds */

static void check_greeting(FakeServer *srv, const char *expected)
{
    fake_start(srv);
    assert_refused(expected, sock_args, srv->path, "," AT);
    fake_join(srv);
    fake_free(srv);
}

static void test_greeting_version(void)
{
    static const struct {
        int64_t version;
        const char *expected;
    } cases[] = {
        { 1, "server sent protocol version 1, expected 0" },
        { -1, "server sent protocol version -1, expected 0" },
        { INT64_MIN, "server sent protocol version -9223372036854775808" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();

        fake_script_id(srv, cases[i].version);
        check_greeting(srv, cases[i].expected);
    }
}

static void test_greeting_id(void)
{
    static const struct {
        int64_t id;
        const char *expected;
    } cases[] = {
        { -1, "server sent own id -1, expected 0 to 65535" },
        { 65536, "server sent own id 65536, expected 0 to 65535" },
        { 1LL << 40, "server sent own id 1099511627776, expected 0 to 65535" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();

        fake_script_id(srv, 0);
        fake_script_id(srv, cases[i].id);
        check_greeting(srv, cases[i].expected);
    }
}

/* Peers may come before the memory; what is none may not. */
static void test_greeting_order(void)
{
    static const struct {
        int64_t value;
        unsigned nfds;
        bool is_eventfd;
        const char *why;
    } cases[] = {
        { 3, 0, false, "it is the own id, expected an eventfd" },
        { 7, 0, false, "peer is gone that never came" },
        { 7, 1, false, "expected an eventfd" },
        { 7, 2, true, "expected at most one" },
        { 65536, 1, true, "expected an id from 0 to 65535" },
        { -2, 0, false, "expected an id from 0 to 65535" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();
        int kinds[] = { srv->shm, fake_eventfd(srv) };
        int fd = kinds[cases[i].is_eventfd];
        g_autofree char *expected = g_strdup_printf(
            "server sent message %" PRId64 " with %u file descriptors, "
            "expected -1 with the shared memory: %s", cases[i].value,
            cases[i].nfds, cases[i].why);

        fake_script_id(srv, 0);
        fake_script_id(srv, 3);
        fake_script_vector(srv, PEER_ID);
        fake_script(srv, message(cases[i].value, cases[i].nfds,
                                 (int[]) { fd, fd }));
        check_greeting(srv, expected);
    }
}

/* There are servers that send the memory last. */
static void check_greeting_memory_last(const char *iothread)
{
    FakeServer *srv = fake_new();
    int fds[2], gone, own[2];
    QTestState *qts;

    fake_script_id(srv, 0);
    fake_script_id(srv, OWN_ID);
    fake_script_vectors(srv, PEER_ID, fds, 2);
    gone = fake_script_vector(srv, 7);
    fake_script_id(srv, 7);
    fake_script_vectors(srv, OWN_ID, own, 2);
    fake_script_fd(srv, -1, srv->shm);
    qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE "%s",
                            iothread);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    qtest_writel(qts, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    for (unsigned v = 0; v < 2; v++) {
        qtest_writel(qts, DOORBELL, doorbell(PEER_ID, v));
        g_assert_cmpint(rung(fds[v]), ==, 1);
        g_assert_cmpint(rung(fds[!v]), ==, 0);
    }
    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(gone), ==, 0);
    interrupt(own[0]);
    wait_interrupt(qts, INPUT);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_greeting_memory_last(void)
{
    check_greeting_memory_last("");
    check_greeting_memory_last(",iothread=io");
}

/* It may fall silent among them; the 10 s are for all of the greeting. */
static void test_greeting_without_memory(void)
{
    FakeServer *srv = fake_new();
    int fd = fake_eventfd(srv);

    fake_script_id(srv, 0);
    fake_script_id(srv, 3);
    for (unsigned i = 0; i < 15; i++) {
        fake_script_fd(srv, 100 + i, fd);
    }
    srv->pause_us = G_USEC_PER_SEC;
    check_greeting(srv, " bytes in 10 s, expected the shared memory");
}

/* fds where none is due, none where one is, several */
static void test_greeting_fds(void)
{
    FakeServer *srv = fake_new();
    int two[2];

    fake_script_fd(srv, 0, srv->shm);
    check_greeting(srv, "server sent the protocol version with 1 file "
                        "descriptors, expected 0");

    srv = fake_new();
    fake_script_id(srv, 0);
    fake_script_fd(srv, 3, srv->shm);
    check_greeting(srv, "server sent the own id with 1 file descriptors, "
                        "expected 0");

    srv = fake_new();
    fake_script_id(srv, 0);
    fake_script_id(srv, 3);
    fake_script_id(srv, -1);
    check_greeting(srv, "server sent the shared memory with 0 file "
                        "descriptors, expected 1");

    srv = fake_new();
    two[0] = two[1] = srv->shm;
    fake_script_id(srv, 0);
    fake_script_id(srv, 3);
    fake_script(srv, message(-1, 2, two));
    check_greeting(srv, "server sent the shared memory with 2 file "
                        "descriptors, expected 1");
}

static void check_memory(FakeServer *srv, int fd, const char *expected)
{
    fake_script_id(srv, 0);
    fake_script_id(srv, 3);
    fake_script_fd(srv, -1, fd);
    check_greeting(srv, expected);
}

static void test_greeting_memory_kind(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *path = NULL;
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    fake_own(srv, fds[0]);
    check_memory(srv, fake_own(srv, fds[1]), "server sent a pipe as shared "
                 "memory, expected a regular file");

    srv = fake_new();
    check_memory(srv, srv->listener, "server sent a socket as shared memory");

    srv = fake_new();
    check_memory(srv, fake_eventfd(srv), "server sent something else as "
                                         "shared memory, expected a regular");

    srv = fake_new();
    check_memory(srv, fake_own(srv, open(srv->dir, O_RDONLY | O_DIRECTORY)),
                 "server sent a directory as shared memory");

    srv = fake_new();
    check_memory(srv, fake_own(srv, open("/dev/null", O_RDWR)),
                 "server sent a character device as shared memory");

    srv = fake_new();
    path = g_strdup_printf("/proc/self/fd/%d", srv->shm);
    check_memory(srv, fake_own(srv, open(path, O_RDONLY | O_CLOEXEC)),
                 "shared memory that is not open for reading and writing");

    srv = fake_new();
    g_free(path);
    path = g_strdup_printf("/proc/self/fd/%d", srv->shm);
    check_memory(srv, fake_own(srv, open(path, O_WRONLY | O_CLOEXEC)),
                 "shared memory that is not open for reading and writing");
}

/* Memory of huge pages is as long as these are, or a multiple of that. */
static void test_greeting_memory_huge_pages(void)
{
    FakeServer *srv = fake_new();
    int fd = memfd_create("ivshmem-flat-test", MFD_CLOEXEC | MFD_HUGETLB);
    QTestState *qts;
    struct stat st;
    void *page;

    if (fd < 0) {
        g_test_skip("the host's kernel has no huge pages");
        fake_free(srv);
        return;
    }
    fake_own(srv, fd);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    /* There can be no object smaller than such a page. */
    g_assert_cmpint(ftruncate(fd, qemu_real_host_page_size()), <, 0);
    g_assert_cmpint(ftruncate(fd, st.st_blksize), ==, 0);
    page = mmap(NULL, st.st_blksize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        g_test_skip("no huge page is free (/proc/sys/vm/nr_hugepages)");
        fake_free(srv);
        return;
    }
    munmap(page, st.st_blksize);

    srv->shm = fd;
    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    qtest_writel(qts, SHMEM + st.st_blksize - 4, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM + st.st_blksize - 4), ==,
                    0x12345678);
    qtest_quit(qts);
    fake_free(srv);
}

/* The server's socket is all that one must be able to open. */
static void test_greeting_memory_of_another_user(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *file = g_build_filename(srv->dir, "file", NULL);
    const char *nobody = "exec setpriv --reuid=65534 --regid=65534 "
                         "--clear-groups";
    g_autofree char *try = g_strdup_printf(
        "%s %s --version >/dev/null 2>&1", nobody,
        g_getenv("QTEST_QEMU_BINARY"));
    char *qemu;
    Output out;

    if (system(try) != 0) {
        g_test_skip("QEMU cannot be run as another user by this one");
        fake_free(srv);
        return;
    }
    srv->shm = fake_own(srv, open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    g_assert_cmpint(ftruncate(srv->shm, SHMEM_SIZE), ==, 0);
    g_assert_cmpint(chmod(srv->dir, 0755), ==, 0);
    g_assert_cmpint(chmod(srv->path, 0777), ==, 0);
    fake_script_client(srv, OWN_ID);
    fake_start(srv);
    qemu = wrap_qemu(srv, nobody);
    out = run_qemu("ivshmem_flat_greeting", WIRED_MACHINE " -chardev socket,"
                   "id=ivshmem,path=%s -trace ivshmem_flat_greeting",
                   srv->path);
    unwrap_qemu(qemu);
    g_assert_nonnull(strstr(out.text, "ivshmem_flat_greeting"));
    output_free(out);
    fake_join(srv);
    unlink(file);
    fake_free(srv);
}

/* Sealed against shrinking is what a careful server does. */
static void test_greeting_memory_sealed(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    g_assert_cmpint(fcntl(srv->shm, F_ADD_SEALS, F_SEAL_WRITE), ==, 0);
    check_memory(srv, srv->shm, "Operation not permitted");

    srv = fake_new();
    g_assert_cmpint(fcntl(srv->shm, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW |
                          F_SEAL_SEAL), ==, 0);
    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    qtest_writel(qts, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_greeting_memory_size(void)
{
    static const struct {
        off_t size;
        const char *expected;
    } cases[] = {
        { 0, "shared memory of 0 bytes, expected a multiple of" },
        { 1, "shared memory of 1 bytes, expected a multiple of" },
        { 4095, "shared memory of 4095 bytes, expected a multiple of" },
        { SHMEM_SIZE + 512, "shared memory of 4194816 bytes, expected a" },
        { 1LL << 45, "shared memory of 35184372088832 bytes, expected a" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();

        check_memory(srv, fake_memory(srv, cases[i].size), cases[i].expected);
    }
}

/* The stream ends after each possible number of bytes. */
static void test_greeting_end_of_stream(void)
{
    for (unsigned len = 0; len < 24; len++) {
        FakeServer *srv = fake_new();
        g_autofree char *expected = g_strdup_printf(
            "server closed the connection after %u bytes, expected %s", len,
            len < 8 ? "the protocol version" :
            len < 16 ? "the own id" : "the shared memory");
        Message m = { .len = len };

        memset(m.bytes + 16, 0xff, 8);
        if (len) {
            fake_script(srv, m);
        }
        srv->hang_up = true;
        check_greeting(srv, expected);
    }
}

typedef struct Silence {
    unsigned len;               /* bytes before it */
    gulong pause_us;            /* after each of them */
    const char *expected;
} Silence;

static void *silence_thread(void *opaque)
{
    static const uint8_t bytes[24] = { [16 ... 23] = 0xff };
    const Silence *silence = opaque;
    gint64 start = g_get_monotonic_time();
    FakeServer *srv = fake_new();

    for (unsigned i = 0; i < silence->len; i++) {
        Message m = { .bytes[0] = bytes[i], .len = 1 };

        if (i == 16) {
            m.nfds = 1;
            m.fds[0] = srv->shm;
        }
        fake_script(srv, m);
    }
    srv->pause_us = silence->pause_us;
    check_greeting(srv, silence->expected);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 30 * G_USEC_PER_SEC);
    return NULL;
}

/* It falls silent in each message, or has it drag on: all of them at once. */
static void test_greeting_silence(void)
{
    static Silence silences[] = {
        { 0, 0, "server sent 0 bytes in 10 s, expected the protocol version" },
        { 12, 0, "server sent 12 bytes in 10 s, expected the own id" },
        { 20, 0, "server sent 20 bytes in 10 s, expected the shared memory" },
        { 24, G_USEC_PER_SEC, " bytes in 10 s, expected the " },
    };
    GThread *threads[ARRAY_SIZE(silences)];

    for (unsigned i = 0; i < ARRAY_SIZE(silences); i++) {
        threads[i] = g_thread_new("silence", silence_thread, &silences[i]);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(silences); i++) {
        g_thread_join(threads[i]);
    }
}

static void test_greeting_of_something_else(void)
{
    FakeServer *srv = fake_new();
    Message m = { .bytes = "220 mail ready\r\n", .len = 16 };

    fake_script(srv, m);
    check_greeting(srv, "server sent protocol version ");
}

/* Messages are what counts, not how they are cut. */
static void test_greeting_in_pieces(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    uint64_t words[3] = { 0, cpu_to_le64(7), cpu_to_le64(-1) };
    int own;

    for (unsigned i = 0; i < sizeof(words); i++) {
        Message m = { .len = 1 };

        m.bytes[0] = ((uint8_t *)words)[i];
        if (i == 20) {
            m.nfds = 1;
            m.fds[0] = srv->shm;
        }
        fake_script(srv, m);
    }
    own = fake_script_vector(srv, 7);
    qts = fake_machine(srv);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, 7);
    qtest_writel(qts, DOORBELL, doorbell(7, 0));
    wait_interrupt(qts, INPUT);
    g_assert_cmpint(rung(own), ==, 0);
    qtest_quit(qts);
    fake_free(srv);
}

/* Two messages in one write; fds would come with the first of them. */
static void test_greeting_in_one_write(void)
{
    FakeServer *srv = fake_new();
    Message m = { .len = 16 };
    QTestState *qts;

    stq_le_p(m.bytes, 0);
    stq_le_p(m.bytes + 8, 7);
    fake_script(srv, m);
    fake_script_fd(srv, -1, srv->shm);
    fake_script_vector(srv, 7);
    qts = fake_machine(srv);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, 7);
    qtest_quit(qts);
    fake_free(srv);
}

/* A server may have no vectors. */
static void test_greeting_without_vectors(void)
{
    Server *srv = server_new(0);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = wired_machine(srv->path);

    qtest_writel(a, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(b, SHMEM), ==, 0x12345678);
    g_assert_cmpint(qtest_readl(a, IVPOSITION), !=,
                    qtest_readl(b, IVPOSITION));
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

/*
 * After the greeting: a bad message is reported once and ignored, its fds are
 * closed, and everything goes on.
 */

typedef struct Running {
    FakeServer *srv;
    QTestState *qts;
    int own;            /* the machine's eventfd */
    int peer;           /* peer 1's */
    unsigned nfds;      /* that QEMU has open */
} Running;

/* A machine with one peer, and its stderr in a file. */
static Running running_new(void)
{
    Running r = { .srv = fake_new() };

    fake_script_greeting(r.srv, OWN_ID);
    r.peer = fake_script_vector(r.srv, PEER_ID);
    r.own = fake_script_vector(r.srv, OWN_ID);
    r.qts = fake_machine_with(r.srv, WIRED_MACHINE " 2>%s", r.srv->errors);
    fake_sync(r.srv, r.qts);
    r.nfds = count_fds(r.qts);
    return r;
}

/* Doorbells and interrupts still work, and no fd has leaked. */
static void running_check(Running *r)
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

static void running_free(Running *r)
{
    qtest_quit(r->qts);
    fake_free(r->srv);
}

static void check_bad_message(int64_t value, unsigned nfds, const int *fds,
                              const char *expected)
{
    Running r = running_new();
    g_autofree char *start = g_strdup_printf(
        "ignored message %" PRId64 " with %u file descriptors", value, nfds);

    for (int i = 0; i < 3; i++) {
        fake_send(r.srv, message(value, nfds, fds));
    }
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(r.srv, start), ==, 1);
    g_assert_cmpint(count_errors(r.srv, expected), ==, 1);
    running_free(&r);
}

static void test_message_bad_id(void)
{
    static const int64_t ids[] = { -2, 65536, 1LL << 32 | 1, INT64_MIN };
    int fd = eventfd(0, EFD_CLOEXEC);

    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
        check_bad_message(ids[i], 0, NULL, "expected an id from 0 to 65535");
        check_bad_message(ids[i], 1, &fd, "expected an id from 0 to 65535");
    }
    close(fd);
}

static void test_message_second_shmem(void)
{
    int fd = memfd_create("second", MFD_CLOEXEC);

    check_bad_message(-1, 0, NULL, "the shared memory is there already");
    check_bad_message(-1, 1, &fd, "the shared memory is there already");
    close(fd);
}

static void test_message_several_fds(void)
{
    int fds[4];

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = eventfd(0, EFD_CLOEXEC);
    }
    check_bad_message(PEER_ID, 2, fds, "expected at most one");
    check_bad_message(7, 4, fds, "expected at most one");
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        close(fds[i]);
    }
}

/* A doorbell writes into what the server sent: it must be an eventfd. */
static void test_message_not_an_eventfd(void)
{
    FakeServer *srv = fake_new();
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    check_bad_message(PEER_ID, 1, &fds[1], "expected an eventfd");
    check_bad_message(OWN_ID, 1, &fds[0], "expected an eventfd");
    check_bad_message(7, 1, &srv->shm, "expected an eventfd");
    check_bad_message(7, 1, &srv->listener, "expected an eventfd");
    close(fds[0]);
    close(fds[1]);
    fake_free(srv);
}

static void test_message_own_id_gone(void)
{
    check_bad_message(OWN_ID, 0, NULL, "it is the own id");
}

static void test_message_unknown_peer_gone(void)
{
    check_bad_message(7, 0, NULL, "peer is gone that never came");
}

/* Two messages in one write, and one in eight. */
static void test_message_in_pieces(void)
{
    Running r = running_new();
    Message two = { .len = 16 };
    int fd;

    fd = fake_send_vector(r.srv, 7);
    wait_known(r.qts, 7, 0, fd);
    stq_le_p(two.bytes, 7);
    stq_le_p(two.bytes + 8, 7);
    fake_send(r.srv, two);      /* gone, and gone that never came */
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "never came"), ==, 1);
    qtest_writel(r.qts, DOORBELL, doorbell(7, 0));
    g_assert_cmpint(rung(fd), ==, 0);

    fake_send_bytes(r.srv, message(7, 1, &fd), BIT(3));
    wait_known(r.qts, 7, 0, fd);
    fake_send_gone(r.srv, 7);
    running_check(&r);
    running_free(&r);
}

/* fds on several pieces of one message are several fds on one message. */
static void test_message_with_an_fd_on_each_piece(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);

    fake_send_bytes(r.srv, message(7, 1, &fd), 0xff);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "ignored message 7 with 8 file "
                                          "descriptors"), ==, 1);
    running_free(&r);
}

/* An id used again has its own vectors, not those of its predecessor. */
static void test_peer_comes_and_goes(void)
{
    Running r = running_new();
    int fds[3], again;

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = fake_send_vector(r.srv, 7);
    }
    wait_known(r.qts, 7, 2, fds[2]);
    fake_send_gone(r.srv, 7);
    running_check(&r);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        qtest_writel(r.qts, DOORBELL, doorbell(7, i));
        g_assert_cmpint(rung(fds[i]), ==, 0);
    }

    again = fake_send_vector(r.srv, 7);
    wait_known(r.qts, 7, 0, again);
    qtest_writel(r.qts, DOORBELL, doorbell(7, 1));
    qtest_writel(r.qts, DOORBELL, doorbell(7, 2));
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        g_assert_cmpint(rung(fds[i]), ==, 0);
    }
    g_assert_cmpint(rung(again), ==, 0);
    fake_send_gone(r.srv, 7);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

/* A peer's first 64 vectors can be rung; what comes beyond is closed. */
static void test_peer_with_many_vectors(void)
{
    static const unsigned counts[] = { 1, 64, 65, 200 };

    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        Running r = running_new();
        int fds[200];

        for (unsigned v = 0; v < counts[i]; v++) {
            fds[v] = fake_send_vector(r.srv, 7);
        }
        fake_sync(r.srv, r.qts);
        g_assert_cmpint(count_fds(r.qts), ==, r.nfds + MIN(counts[i], 64));
        for (unsigned v = 0; v < counts[i]; v++) {
            qtest_writel(r.qts, DOORBELL, doorbell(7, v));
            g_assert_cmpint(rung(fds[v]), ==, v < 64);
        }
        qtest_writel(r.qts, DOORBELL, doorbell(7, 256));
        g_assert_cmpint(rung(fds[0]), ==, 0);
        fake_send_gone(r.srv, 7);
        running_check(&r);
        g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
        running_free(&r);
    }
}

/* 10,000 of them, each with an id of its own, a few at a time. */
static void test_peers_come_and_go(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);
    G_GNUC_UNUSED uint64_t before = 0;

    for (unsigned id = 10; id < 10010; id++) {
        fake_send_fd(r.srv, id, fd);
        if (id >= 20) {
            fake_send_gone(r.srv, id - 10);
        }
        if (id == 1000) {
            fake_sync(r.srv, r.qts);
            before = resident_kib(r.qts);
        }
    }
    for (unsigned id = 10000; id < 10010; id++) {
        fake_send_gone(r.srv, id);
    }
    running_check(&r);
#ifndef QEMU_SANITIZE_ADDRESS   /* which holds freed memory back for a while */
    g_assert_cmpint(resident_kib(r.qts), <, before + 4 * 1024);
#endif
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

static void test_server_gone(void)
{
    Running r = running_new();

    fake_hang_up(r.srv);
    r.nfds--; /* the connection */
    WAIT_UNTIL(count_fds(r.qts) == r.nfds);
    running_check(&r);
    qtest_writel(r.qts, DOORBELL, doorbell(7, 0)); /* nobody */
    check_idle(r.qts);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(r.srv, "server at chardev 'ivshmem' is "
                                          "gone"), ==, 1);
    running_free(&r);
}

/* It ends in the middle of a message that has come with an fd. */
static void test_server_gone_in_a_message(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);
    Message m = message(7, 1, &fd);

    m.len = 5;
    fake_send(r.srv, m);
    fake_hang_up(r.srv);
    r.nfds--;
    WAIT_UNTIL(count_fds(r.qts) == r.nfds);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 1);
    running_free(&r);
}

/* It ends with the last byte of the greeting. */
static void test_server_gone_after_the_greeting(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    srv->hang_up = true;
    qts = fake_machine(srv);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    qtest_writel(qts, SHMEM, 0x12345678);
    qtest_writel(qts, DOORBELL, doorbell(OWN_ID, 0));
    g_assert_cmphex(qtest_readl(qts, SHMEM), ==, 0x12345678);
    check_idle(qts);
    qtest_quit(qts);
    fake_free(srv);
}

/* It ends before there is a device that could notice. */
static void test_server_gone_before_the_greeting(void)
{
    FakeServer *srv = fake_new();
    unsigned nfds;
    QTestState *qts;

    qts = fake_machine_with(srv, "--preconfig " MACHINE " 2>%s", srv->errors);
    nfds = count_fds(qts);
    fake_hang_up(srv);
    WAIT_UNTIL(count_fds(qts) == nfds - 1);
    qtest_set_expected_status(qts, EXIT_FAILURE);
    qtest_qmp_send(qts, "{ 'execute': 'x-exit-preconfig' }");
    qtest_wait_qemu(qts);
    g_assert_cmpint(count_errors(srv, "\n"), ==, 1);
    g_assert_cmpint(count_errors(srv, "chardev 'ivshmem' is not connected"),
                    ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* It ends before the machine starts, right behind what it had to say. */
static void test_server_gone_at_start(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int peer;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, PEER_ID);
    srv->hang_up = true;
    qts = fake_machine(srv);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(peer), ==, 1);
    qtest_quit(qts);
    fake_free(srv);
}

/* QEMU's own, without warning, under two machines that know each other. */
static void test_server_killed(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    QTestState *b = wired_machine(srv->path);
    unsigned id_a = qtest_readl(a, IVPOSITION);
    unsigned id_b = qtest_readl(b, IVPOSITION);

    server_kill(srv, SIGKILL);
    qtest_writel(a, DOORBELL, doorbell(id_b, 0));
    wait_interrupt(b, INPUT);
    qtest_writel(b, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    qtest_writel(a, SHMEM, 0x12345678);
    g_assert_cmphex(qtest_readl(b, SHMEM), ==, 0x12345678);
    check_idle(a);
    check_idle(b);
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

/* QEMU's own, stopped by a signal: only who wants to join has to wait. */
static void test_server_stopped(void)
{
    Server *srv = server_new(1);
    QTestState *a = wired_machine(srv->path);
    unsigned id_a = qtest_readl(a, IVPOSITION);
    QTestState *b;

    kill(srv->pid, SIGSTOP);
    qtest_writel(a, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    qtest_writel(a, DOORBELL, doorbell(id_a + 1, 0)); /* nobody */
    assert_refused("server sent 0 bytes in 10 s, expected the protocol "
                   "version", sock_args, srv->path, "," AT);
    check_idle(a);

    kill(srv->pid, SIGCONT);
    b = wired_machine(srv->path);
    qtest_writel(b, DOORBELL, doorbell(id_a, 0));
    wait_interrupt(a, INPUT);
    qtest_quit(a);
    qtest_quit(b);
    server_free(srv);
}

/* A server that stops in a message before the machine starts. */
static void test_server_stopped_at_start(void)
{
    FakeServer *srv = fake_new();
    int fd = fake_eventfd(srv);
    Message m = message(PEER_ID, 1, &fd);
    Message rest = { .len = 5 };
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    m.len = 3;
    fake_script(srv, m);
    qts = fake_machine(srv);
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(fd), ==, 0);
    check_idle(qts);

    fake_send(srv, rest);
    wait_known(qts, PEER_ID, 0, fd);
    qtest_quit(qts);
    fake_free(srv);
}

/* Who speaks as servers did before there was a version: first the own id. */
static void test_greeting_of_a_legacy_server(void)
{
    static const struct {
        int64_t id;
        const char *expected;
    } cases[] = {
        { 0, "server sent own id -1, expected 0 to 65535" },
        { 3, "server sent protocol version 3, expected 0" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        FakeServer *srv = fake_new();

        fake_script_id(srv, cases[i].id);
        fake_script_fd(srv, -1, srv->shm);
        fake_script_vector(srv, cases[i].id);
        check_greeting(srv, cases[i].expected);
    }
}

/* A server that never stops telling of peers does not delay the start. */
static void test_server_never_stops(void)
{
    FakeServer *srv = fake_new();
    gint64 start = g_get_monotonic_time();
    int fd = fake_eventfd(srv);
    QTestState *qts;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 0; i < 150; i++) {
        fake_script_fd(srv, 100 + i, fd);
    }
    srv->pause_us = G_USEC_PER_SEC / 10;
    fake_start(srv);
    qts = wired_machine(srv->path);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 30 * G_USEC_PER_SEC);
    qtest_writel(qts, DOORBELL, doorbell(100, 0));
    g_assert_cmpint(rung(fd), ==, 1);
    qtest_quit(qts);
    fake_join(srv);
    fake_free(srv);
}

/*
 * A semaphore that rings without end, here 2^32 - 1 times: the machine still
 * answers its monitor.
 */
static void test_server_rings_without_end(void)
{
    static const char *const iothreads[] = { "", ",iothread=io" };

    for (unsigned i = 0; i < ARRAY_SIZE(iothreads); i++) {
        FakeServer *srv = fake_new();
        QTestState *qts;

        fake_script_greeting(srv, OWN_ID);
        fake_script_fd(srv, OWN_ID,
                       fake_own(srv, eventfd(UINT32_MAX, EFD_SEMAPHORE)));
        qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE
                                "%s", iothreads[i]);
        for (unsigned j = 0; j < 100; j++) {
            wait_interrupt(qts, INPUT);
            qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
        }
        qtest_quit(qts);
        fake_free(srv);
    }
}

/*
 * A semaphore counts down by one for each interrupt, here a million times: the
 * machine takes them all, and answers its monitor all the while.
 */
static void test_server_counts_to_a_million(void)
{
    static const char *const iothreads[] = { "", ",iothread=io" };
    static const uint64_t million = 1000000;

    for (unsigned i = 0; i < ARRAY_SIZE(iothreads); i++) {
        FakeServer *srv = fake_new();
        uint64_t taken = 0;
        QTestState *qts;

        fake_script_greeting(srv, OWN_ID);
        fake_script_fd(srv, OWN_ID,
                       fake_own(srv, eventfd(million, EFD_SEMAPHORE)));
        qts = fake_machine_with(srv, "-object iothread,id=io " WIRED_MACHINE
                                "%s", iothreads[i]);
        while (taken < million) {
            uint64_t now = get_interrupts(qts, 0);

            g_assert_cmpint(now, >=, taken);
            taken = now;
        }
        g_assert_cmpint(taken, ==, million);
        wait_interrupt(qts, INPUT);
        qtest_quit(qts);
        fake_free(srv);
    }
}

/* A server that stops in a message later holds nobody up. */
static void test_server_stopped_in_a_message(void)
{
    Running r = running_new();
    Message m = { .len = 3 };

    fake_send(r.srv, m);
    for (unsigned i = 0; i < 3; i++) {
        qtest_writel(r.qts, DOORBELL, doorbell(PEER_ID, 0));
        WAIT_UNTIL(rung(r.peer)); /* once those bytes are read */
        interrupt(r.own);
        wait_interrupt(r.qts, INPUT);
        qtest_writel(r.qts, DOORBELL, doorbell(7, 0)); /* nobody */
    }
    check_idle(r.qts);
    g_assert_cmpint(count_fds(r.qts), ==, r.nfds);
    running_free(&r);
}

/* An fd table without room: an eventfd that is lost looks like an end. */
static void lose_eventfds(Running *r, unsigned first_id, unsigned last_id)
{
    int fd = fake_eventfd(r->srv);
    struct rlimit old, limit;

    g_assert_cmpint(prlimit(qtest_pid(r->qts), RLIMIT_NOFILE, NULL, &old), ==,
                    0);
    limit = (struct rlimit) {
        .rlim_cur = next_fd(r->qts), /* it may have inherited higher ones */
        .rlim_max = old.rlim_max,
    };
    g_assert_cmpint(prlimit(qtest_pid(r->qts), RLIMIT_NOFILE, &limit, NULL),
                    ==, 0);
    for (unsigned id = first_id; id <= last_id; id++) {
        fake_send_fd(r->srv, id, fd);
    }
    WAIT_UNTIL(count_errors(r->srv, "for want of file descriptors"));
    g_assert_cmpint(prlimit(qtest_pid(r->qts), RLIMIT_NOFILE, &old, NULL), ==,
                    0);
}

static void test_out_of_fds(void)
{
    Running r = running_new();

    lose_eventfds(&r, 100, 109);
    fake_sync(r.srv, r.qts);
    for (unsigned id = 100; id < 110; id++) {
        fake_send_gone(r.srv, id);
    }
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "for want of file descriptors"), ==,
                    1);
    running_free(&r);
}

/* 20 peers with 16 vectors, and no room for them: both numbers, once. */
static void test_out_of_fds_at_start(void)
{
    FakeServer *srv = fake_new();
    g_autofree char *text = NULL;
    unsigned lost, limit, expected;
    int fd = fake_eventfd(srv);
    QTestState *qts;
    char *qemu;

    fake_script_greeting(srv, OWN_ID);
    for (unsigned i = 0; i < 20 * 16; i++) {
        fake_script_fd(srv, 100 + i / 16, fd);
    }
    fake_script_fd(srv, OWN_ID, fd);
    /* The hard limit, as QEMU raises the other one to that. */
    qemu = wrap_qemu(srv, "ulimit -n 256; exec");
    qts = fake_machine_with(srv, WIRED_MACHINE " 2>%s", srv->errors);
    unwrap_qemu(qemu);
    WAIT_UNTIL(count_errors(srv, "\n"));
    qtest_quit(qts);

    g_assert_true(g_file_get_contents(srv->errors, &text, NULL, NULL));
    g_test_message("%s", text);
    g_assert_cmpint(count_errors(srv, "\n"), ==, 1);
    g_assert_nonnull(strstr(text, "ivshmem-flat: "));
    g_assert_cmpint(sscanf(strstr(text, "ivshmem-flat: "), "ivshmem-flat: %u "
                           "eventfds from chardev 'ivshmem' were lost for want "
                           "of file descriptors, or their peers are gone: the "
                           "limit of open files (ulimit -n) is %u, expected %u",
                           &lost, &limit, &expected), ==, 3);
    g_assert_cmpint(limit, ==, 256);
    g_assert_cmpint(expected, ==, limit + lost);
    g_assert_cmpint(expected, >=, 20 * 16 + 1);
    g_assert_cmpint(expected, <=, 20 * 16 + 64); /* and what QEMU has open */
    fake_free(srv);
}

/* It would look as if the peer were gone. */
static void test_out_of_fds_for_a_known_peer(void)
{
    Running r = running_new();

    fake_send_vector(r.srv, 100);
    fake_sync(r.srv, r.qts);
    lose_eventfds(&r, 100, 100);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 1);
    running_free(&r);
}

/* A hostile guest */

/* Every vector to itself, to a peer, and to nobody. */
static void test_guest_rings_everything(void)
{
    static const unsigned peers[] = { OWN_ID, PEER_ID, 7 };
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own, peer;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, PEER_ID);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
        for (unsigned vector = 1; vector <= UINT16_MAX; vector++) {
            qtest_writel(qts, DOORBELL, doorbell(peers[i], vector));
        }
        g_assert_cmpint(rung(peer), ==, 0);
        g_assert_cmpint(rung(own), ==, 0);
        g_assert_false(pending(qts, INPUT));
        qtest_writel(qts, DOORBELL, doorbell(peers[i], 0));
        g_assert_cmpint(rung(peer), ==, peers[i] == PEER_ID);
        if (peers[i] == OWN_ID) {
            wait_interrupt(qts, INPUT);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* Every offset and width of the registers, and the memory's ends. */
static void test_guest_touches_everything(void)
{
    Running r = running_new();
    const uint64_t ends[] = { SHMEM - 8, SHMEM + SHMEM_SIZE - 8 };

    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned offset = 0; offset <= 0x100 - size; offset++) {
            bool rings = offset <= 0xc && offset + size > 0xc;

            if (!rings) {
                write_size(r.qts, IOMEM + offset, size, UINT64_MAX);
            }
            read_size(r.qts, IOMEM + offset, size);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
            for (unsigned offset = 0; offset < 16; offset++) {
                write_size(r.qts, ends[i] + offset, size, UINT64_MAX);
                read_size(r.qts, ends[i] + offset, size);
            }
        }
    }
    qtest_writel(r.qts, INTRMASK, 0);
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

/* Every offset and width of shared memory, which is one page here. */
static void test_guest_touches_all_memory(void)
{
    const uint64_t size = qemu_real_host_page_size();
    const uint64_t pattern = 0x8877665544332211;
    FakeServer *srv = fake_new();
    QTestState *qts;

    srv->shm = fake_memory(srv, size);
    fake_script_client(srv, OWN_ID);
    qts = fake_machine(srv);
    for (unsigned width = 1; width <= 8; width *= 2) {
        uint64_t expected = pattern & MAKE_64BIT_MASK(0, width * 8);

        for (uint64_t offset = 0; offset <= size - width; offset++) {
            uint64_t found = 0;

            write_size(qts, SHMEM + offset, width, expected);
            g_assert_cmphex(read_size(qts, SHMEM + offset, width), ==,
                            expected);
            g_assert_cmpint(pread(srv->shm, &found, width, offset), ==, width);
            g_assert_cmphex(le64_to_cpu(found), ==, expected);
        }
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* What a guest does wrong is logged, if somebody asks for it. */
static void test_guest_errors(void)
{
    static const struct {
        Access access;
        const char *expected;
    } cases[] = {
        { { READ, 4, 0xc }, "read of the write-only register DOORBELL" },
        { { READ, 4, 0x10 }, "read of the reserved offset 0x10" },
        { { WRITE, 4, 0x8 }, "write to the read-only register IVPOSITION" },
        { { WRITE, 2, 0xc }, "write of 2 bytes to DOORBELL, expected 4" },
        { { WRITE, 1, 0xff }, "write to the reserved offset 0xff" },
    };
    Server *srv = server_new(1);
    g_autofree char *log = g_build_filename(srv->dir, "log", NULL);
    QTestState *qts;

    qts = machine(srv->path, "-d guest_errors -D %s " MACHINE, log);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const Access *a = &cases[i].access;

        if (a->kind == WRITE) {
            write_size(qts, IOMEM + a->offset, a->size, 0);
        } else {
            read_size(qts, IOMEM + a->offset, a->size);
        }
    }
    qtest_quit(qts);
    g_assert_cmpint(count_in_file(log, "\n"), ==, ARRAY_SIZE(cases));
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        g_assert_cmpint(count_in_file(log, cases[i].expected), ==, 1);
    }
    unlink(log);
    server_free(srv);
}

/*
 * A CPU that does nothing but ring: a million doorbells later the machine
 * still answers its monitor.
 */
static void test_guest_floods(void)
{
    static const uint8_t code[] = {
        0x00, 0x04, 0x00, 0x20,     /* initial stack: 0x20000400 */
        0x09, 0x00, 0x00, 0x00,     /* reset vector: 0x8, Thumb */
        0x01, 0x48,                 /*       ldr r0, DOORBELL */
        0x02, 0x49,                 /*       ldr r1, peer 1, vector 0 */
        0x01, 0x60,                 /* loop: str r1, [r0] */
        0xfd, 0xe7,                 /*       b loop */
        0x0c, 0x00, 0x00, 0x50,
        0x00, 0x00, 0x01, 0x00,
    };
    gint64 deadline = g_get_monotonic_time() + PATIENCE_US;
    FakeServer *srv = fake_new();
    g_autofree char *kernel = g_build_filename(srv->dir, "kernel", NULL);
    uint64_t total = 0;
    QTestState *qts;
    int peer;

    g_assert_true(g_file_set_contents(kernel, (const char *)code,
                                      sizeof(code), NULL));
    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, PEER_ID);
    fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, "-accel tcg -kernel %s " WIRED_MACHINE,
                            kernel);
    while (total < 1000000) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
        total += rung(peer);
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    qtest_quit(qts);
    unlink(kernel);
    fake_free(srv);
}

/* The life of a device */

static void test_reset_in_traffic(void)
{
    Running r = running_new();

    for (unsigned i = 0; i < 100; i++) {
        interrupt(r.own);
        qtest_writel(r.qts, DOORBELL, doorbell(PEER_ID, 0));
        fake_send_fd(r.srv, 7, r.peer);
        fake_send_gone(r.srv, 7);
        qtest_writel(r.qts, INTRMASK, 0xffffffff);
        qtest_system_reset(r.qts);
        g_assert_cmpint(qtest_readl(r.qts, IVPOSITION), ==, OWN_ID);
        g_assert_cmphex(qtest_readl(r.qts, INTRMASK), ==, 0);
    }
    fake_sync(r.srv, r.qts);
    g_assert_cmpint(rung(r.peer), ==, 100);
    while (rung(r.own)) {
        /* whatever the machine has not taken yet */
    }
    qtest_writel(r.qts, NVIC_ICPR, BIT(INPUT));
    running_check(&r);
    running_free(&r);
}

static void test_quit_in_traffic(void)
{
    Running r = running_new();
    int fd = fake_eventfd(r.srv);

    for (unsigned i = 0; i < AHEAD; i++) {
        fake_send_fd(r.srv, 100 + i, fd);
        interrupt(r.own);
        qtest_writel(r.qts, DOORBELL, doorbell(PEER_ID, 0));
    }
    running_free(&r);
}

static void assert_qmp_error(QDict *ret, const char *expected)
{
    QDict *error = qdict_get_qdict(ret, "error");

    g_assert_nonnull(error);
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"), expected));
    qobject_unref(ret);
}

static void test_hotplug_is_refused(void)
{
    Running r = running_new();

    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'device_add', 'arguments': "
                  "{ 'driver': 'ivshmem-flat', 'id': 'late' } }"),
        "does not support hotplugging");
    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'device_del', 'arguments': "
                  "{ 'id': '/machine/peripheral/ivs' } }"),
        "does not support hotplugging");
    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'chardev-remove', 'arguments': "
                  "{ 'id': 'ivshmem' } }"), "Chardev 'ivshmem' is busy");
    assert_qmp_error(
        qtest_qmp(r.qts, "{ 'execute': 'chardev-change', 'arguments': { 'id': "
                  "'ivshmem', 'backend': { 'type': 'null', 'data': {} } } }"),
        "Chardev user does not support chardev hotswap");
    qtest_qmp_assert_success(r.qts, "{ 'execute': 'chardev-send-break', "
                             "'arguments': { 'id': 'ivshmem' } }");
    running_check(&r);
    g_assert_cmpint(count_errors(r.srv, "\n"), ==, 0);
    running_free(&r);
}

static void test_introspection(void)
{
    static const char *const paths[] = {
        "/machine/peripheral/ivs",
        "/machine/peripheral/ivs/ivshmem-flat-registers[0]",
        "/machine/peripheral/ivs/ivshmem-flat-shmem[0]",
    };
    Running r = running_new();

    for (unsigned i = 0; i < 3; i++) {
        qtest_qmp_assert_success(r.qts, "{ 'execute': "
                                 "'device-list-properties', 'arguments': "
                                 "{ 'typename': 'ivshmem-flat' } }");
        for (unsigned j = 0; j < ARRAY_SIZE(paths); j++) {
            qtest_qmp_assert_success(r.qts, "{ 'execute': 'qom-list', "
                                     "'arguments': { 'path': %s } }",
                                     paths[j]);
        }
    }
    running_check(&r);
    running_free(&r);
}

/*
 * An iothread takes the interrupts
 *
 * Whatever happens to the device in the main loop happens while a peer rings
 * without a pause, so that the iothread is in the midst of it.
 */

#define IOTHREAD(poll_max_ns) "-object iothread,id=io,poll-max-ns=" \
                              #poll_max_ns " -global ivshmem-flat.iothread=io"

typedef struct Traffic {
    int fd;
    int stop;
    GThread *thread;
} Traffic;

static void *traffic_thread(void *opaque)
{
    Traffic *t = opaque;

    while (!qatomic_read(&t->stop)) {
        interrupt(t->fd);
    }
    return NULL;
}

static Traffic *traffic_new(int fd)
{
    Traffic *t = g_new0(Traffic, 1);

    t->fd = fd;
    t->thread = g_thread_new("traffic", traffic_thread, t);
    return t;
}

static void traffic_free(Traffic *t)
{
    qatomic_set(&t->stop, 1);
    g_thread_join(t->thread);
    g_free(t);
}

/* It takes an interrupt, from now on. */
static void check_interrupt_taken(QTestState *qts, int own)
{
    uint64_t before = get_interrupts(qts, 0);

    interrupt(own);
    WAIT_UNTIL(get_interrupts(qts, 0) > before);
    wait_interrupt(qts, INPUT);
}

/* Whichever way it notices them, polling or not, none is lost. */
static void test_iothread_counts(const void *args)
{
    FakeServer *srv = fake_new();
    uint64_t before;
    QTestState *qts;
    gint64 deadline;
    GPollFD pfd = { .events = G_IO_IN };

    pfd.fd = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    check_interrupt_taken(qts, pfd.fd);
    before = get_interrupts(qts, 0);
    for (unsigned i = 0; i < 20000; i++) {
        interrupt(pfd.fd);
        deadline = g_get_monotonic_time() + PATIENCE_US;
        while (g_poll(&pfd, 1, 0)) { /* it has yet to be taken */
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);
            g_thread_yield();
        }
    }
    WAIT_UNTIL(get_interrupts(qts, 0) == before + 20000);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_restart(const void *args)
{
    g_autofree char *with_iothread = g_strconcat(WIRED_MACHINE " ", args,
                                                 NULL);
    FakeServer *srv = fake_new();
    unsigned nfds;
    QTestState *qts;
    int own;

    own = fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, with_iothread);
    check_interrupt_taken(qts, own);
    nfds = count_fds(qts);
    for (unsigned i = 101; i <= 120; i++) {
        Traffic *t = traffic_new(own);

        own = fake_come_back(srv, i);
        WAIT_UNTIL(qtest_readl(qts, IVPOSITION) == i);
        traffic_free(t);
        check_interrupt_taken(qts, own);
    }
    /* The iothread closes what it served in its own time. */
    WAIT_UNTIL(count_fds(qts) == nfds);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_reset(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    t = traffic_new(own);
    for (unsigned i = 0; i < 20; i++) {
        wait_interrupt(qts, INPUT);
        qtest_system_reset(qts);
    }
    traffic_free(t);
    check_interrupt_taken(qts, own);
    qtest_quit(qts);
    fake_free(srv);
}

/* The level is raised in one thread and lowered in another. */
static void test_iothread_revision_0(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE ",revision=0 %s",
                            (const char *)args);
    qtest_writel(qts, INTRMASK, 1);
    for (unsigned i = 0; i < 100; i++) {
        interrupt(own);
        WAIT_UNTIL(pending(qts, INPUT));
        g_assert_cmphex(qtest_readl(qts, INTRSTATUS), ==, 1);
        wait_interrupt(qts, INPUT);
        g_assert_false(pending(qts, INPUT));
    }
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_hostile_server(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own, peer;

    fake_script_greeting(srv, OWN_ID);
    peer = fake_script_vector(srv, PEER_ID);
    own = fake_script_vector(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s 2>/dev/null",
                            (const char *)args);
    t = traffic_new(own);
    for (unsigned i = 0; i < 100; i++) {
        fake_send_gone(srv, OWN_ID);
        fake_send_fd(srv, OWN_ID, own);
        fake_send_fd(srv, OWN_ID, srv->shm);
        fake_send_fd(srv, -1, srv->shm);
        fake_send_gone(srv, PEER_ID);
        fake_send_fd(srv, PEER_ID, peer);
        fake_send_gone(srv, -2);
    }
    fake_sync(srv, qts);
    traffic_free(t);
    check_interrupt_taken(qts, own);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_unrealize(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    t = traffic_new(own);
    wait_interrupt(qts, INPUT);
    set_realized(qts, false);
    qtest_writel(qts, NVIC_ICPR, BIT(INPUT));
    g_assert_false(pending(qts, INPUT));
    g_assert_cmphex(qtest_readl(qts, IVPOSITION), ==, 0);
    traffic_free(t);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_iothread_quit(const void *args)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    Traffic *t;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " %s", (const char *)args);
    t = traffic_new(own);
    wait_interrupt(qts, INPUT);
    qtest_quit(qts);
    traffic_free(t);
    fake_free(srv);
}

/* The device holds on to its iothread. */
static void test_iothread_deleted(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;
    int own;

    own = fake_script_client(srv, OWN_ID);
    qts = fake_machine_with(srv, WIRED_MACHINE " " IOTHREAD(32768));
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', 'arguments': "
                             "{ 'id': 'io' } }");
    check_interrupt_taken(qts, own);
    qtest_quit(qts);
    fake_free(srv);
}

static void test_property_iothread(void)
{
    FakeServer *srv = fake_new();

    assert_refused("Device 'io' not found",
                   "-chardev socket,id=ivshmem,path=%s -machine mps2-an385 "
                   "-device ivshmem-flat,chardev=ivshmem,iothread=io," AT,
                   srv->path);
    fake_free(srv);
}

/* A user who takes the device away may bring it back. */
static void test_realized_again(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, "-machine virt -nic none "
                               "-device ivshmem-flat,id=ivs,chardev=ivshmem");
    for (unsigned id = 101; id < 104; id++) {
        set_realized(qts, false);
        fake_come_back(srv, id);
        set_realized(qts, true);
        g_assert_cmpint(get_number(qts, "id"), ==, id);
        g_assert_true(is_connected(qts));
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* It leaves the server, and comes to it as anybody does who is new. */
static void test_realized_again_same_server(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 100);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    for (unsigned id = 101; id < 104; id++) {
        set_realized(qts, false);
        WAIT_UNTIL(is_hung_up(srv->conn));
        fake_come_back(srv, id);
        set_realized(qts, true);
        g_assert_cmpint(get_number(qts, "id"), ==, id);
    }
    qtest_quit(qts);
    fake_free(srv);
}

/* When that happens, the chardev's next attempt is due in an hour. */
static void test_realized_again_disconnected(void)
{
    FakeServer *srv = fake_new();
    QTestState *qts;

    fake_script_client(srv, 100);
    fake_start(srv);
    qts = qtest_initf("-chardev socket,id=ivshmem,path=%s,reconnect-ms=3600000 "
                      "-machine virt -nic none "
                      "-device ivshmem-flat,id=ivs,chardev=ivshmem 2>%s",
                      srv->path, srv->errors);
    fake_wait_client(srv);
    fake_restart(srv);
    WAIT_UNTIL(!is_connected(qts));
    set_realized(qts, false);
    fake_script_client(srv, 101);
    fake_start(srv);
    set_realized(qts, true);
    fake_wait_client(srv);
    g_assert_cmpint(get_number(qts, "id"), ==, 101);
    g_assert_true(is_connected(qts));
    qtest_quit(qts);
    fake_free(srv);
}

/* A device on board is there before it is realized. */
static void test_introspection_before_realize(void)
{
    static const char *const lists[] = { "peers", "interrupts" };
    QTestState *qts = qtest_init("--preconfig -machine mps2-an385-ivshmem");

    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++) {
        QDict *ret = qom_get(qts, "/machine/ivshmem", lists[i]);

        g_assert_true(qlist_empty(qdict_get_qlist(ret, "return")));
        qobject_unref(ret);
    }
    g_assert_false(qtest_qom_get_bool(qts, "/machine/ivshmem", "connected"));
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        const char *args;
    } iothreads[] = {
        { "iothread", IOTHREAD(0) },
        { "polling-iothread", IOTHREAD(32768) },
    };

    g_test_init(&argc, &argv, NULL);
    if (!qtest_has_device("ivshmem-flat") ||
        !qtest_has_machine("mps2-an385-ivshmem")) {
        g_test_skip("QEMU has no ivshmem-flat or no mps2-an385-ivshmem");
        return g_test_run();
    }

    qtest_add_func("/ivshmem-flat/registers/on-reset",
                   test_registers_on_reset);
    qtest_add_func("/ivshmem-flat/registers/intrmask",
                   test_registers_intrmask);
    qtest_add_func("/ivshmem-flat/registers/intrstatus",
                   test_registers_intrstatus);
    qtest_add_func("/ivshmem-flat/registers/ivposition",
                   test_registers_ivposition);
    qtest_add_func("/ivshmem-flat/registers/reserved",
                   test_registers_reserved);
    qtest_add_func("/ivshmem-flat/registers/narrow", test_registers_narrow);
    qtest_add_func("/ivshmem-flat/registers/wide", test_registers_wide);
    qtest_add_func("/ivshmem-flat/registers/after-system-reset",
                   test_registers_after_system_reset);

    qtest_add_func("/ivshmem-flat/shmem/between-machines",
                   test_shmem_between_machines);
    qtest_add_func("/ivshmem-flat/shmem/is-the-servers-object",
                   test_shmem_is_the_servers_object);

    qtest_add_func("/ivshmem-flat/doorbell/to-itself",
                   test_doorbell_to_itself);
    qtest_add_func("/ivshmem-flat/doorbell/to-itself-on-two-vectors",
                   test_doorbell_to_itself_on_two_vectors);
    qtest_add_func("/ivshmem-flat/doorbell/between-machines",
                   test_doorbell_between_machines);
    qtest_add_func("/ivshmem-flat/doorbell/moves-the-addressed-eventfd-only",
                   test_doorbell_moves_the_addressed_eventfd_only);
    qtest_add_func("/ivshmem-flat/doorbell/to-nobody-is-ignored",
                   test_doorbell_to_nobody_is_ignored);
    qtest_add_func("/ivshmem-flat/doorbell/needs-32-bits",
                   test_doorbell_needs_32_bits);
    qtest_add_func("/ivshmem-flat/doorbell/to-a-full-counter",
                   test_doorbell_to_a_full_counter);
    qtest_add_func("/ivshmem-flat/doorbell/to-an-announced-peer-arrives",
                   test_doorbell_to_an_announced_peer_arrives);
    qtest_add_func("/ivshmem-flat/doorbell/first-thing-arrives",
                   test_doorbell_first_thing_arrives);
    qtest_add_func("/ivshmem-flat/doorbell/to-a-later-peer-is-dropped",
                   test_doorbell_to_a_later_peer_is_dropped);
    qtest_add_func("/ivshmem-flat/doorbell/in-an-announcement",
                   test_doorbell_in_an_announcement_does_not_wait);
    qtest_add_func("/ivshmem-flat/doorbell/to-many-announced-peers",
                   test_doorbells_to_many_announced_peers);
    qtest_add_func("/ivshmem-flat/doorbell/to-an-id-used-again",
                   test_doorbell_to_an_id_used_again);
    qtest_add_func("/ivshmem-flat/doorbell/while-an-id-is-used-again",
                   test_doorbells_while_an_id_is_used_again);
    qtest_add_func("/ivshmem-flat/doorbell/to-many-known-peers",
                   test_doorbells_to_many_known_peers);
    qtest_add_func("/ivshmem-flat/doorbell/while-the-server-talks",
                   test_doorbell_while_the_server_talks);
    qtest_add_func("/ivshmem-flat/interrupt/from-a-peer",
                   test_interrupt_from_a_peer);
    qtest_add_func("/ivshmem-flat/interrupt/extra-vectors-are-not-served",
                   test_interrupt_of_an_extra_vector_is_not_served);

    qtest_add_func("/ivshmem-flat/vectors/drive-their-outputs",
                   test_vectors_drive_their_outputs);
    qtest_add_func("/ivshmem-flat/vectors/all-at-once",
                   test_vectors_all_at_once);
    qtest_add_func("/ivshmem-flat/vectors/fewer-from-the-server",
                   test_vectors_fewer_from_the_server);
    qtest_add_func("/ivshmem-flat/vectors/without-a-wire",
                   test_vectors_without_a_wire);
    qtest_add_func("/ivshmem-flat/vectors/are-outputs",
                   test_vectors_are_outputs);
    qtest_add_func("/ivshmem-flat/vectors/in-json", test_vectors_in_json);
    qtest_add_func("/ivshmem-flat/revision-0/status-and-mask",
                   test_revision_0);
    qtest_add_func("/ivshmem-flat/looking-in", test_looking_in);
    if (qtest_has_machine("mps3-an536")) {
        qtest_add_func("/ivshmem-flat/revision-0/at-a-level-input",
                       test_revision_0_at_a_level_input);
        qtest_add_func("/ivshmem-flat/revision-1/at-a-level-input",
                       test_revision_1_at_a_level_input);
    }

    qtest_add_func("/ivshmem-flat/no-interrupt/off-both-ways",
                   test_no_interrupt);
    qtest_add_func("/ivshmem-flat/no-interrupt/warns-once",
                   test_no_interrupt_warns_once);

    qtest_add_func("/ivshmem-flat/properties/refused",
                   test_properties_refused);
    if (qtest_has_machine("virt")) {
        qtest_add_func("/ivshmem-flat/properties/on-a-platform-bus",
                       test_property_on_a_platform_bus);
    }
    qtest_add_func("/ivshmem-flat/properties/on-an-unimplemented-device",
                   test_property_on_an_unimplemented_device);
    qtest_add_func("/ivshmem-flat/properties/chardev",
                   test_property_chardev);
    qtest_add_func("/ivshmem-flat/properties/shmem-size",
                   test_property_shmem_size);
    qtest_add_func("/ivshmem-flat/properties/x-irq-qompath",
                   test_property_irq_qompath);
    qtest_add_func("/ivshmem-flat/properties/iothread",
                   test_property_iothread);
    qtest_add_func("/ivshmem-flat/properties/help", test_help);

    qtest_add_func("/ivshmem-flat/two-devices/on-one-server",
                   test_two_devices_on_one_server);
    qtest_add_func("/ivshmem-flat/two-devices/on-two-servers",
                   test_two_devices_on_two_servers);
    qtest_add_func("/ivshmem-flat/two-devices/alike", test_two_devices_alike);
    qtest_add_func("/ivshmem-flat/four-devices/on-four-servers",
                   test_four_devices_on_four_servers);
    qtest_add_func("/ivshmem-flat/two-devices/in-one-place",
                   test_two_devices_in_one_place);

    for (unsigned i = 0; i < ARRAY_SIZE(boards); i++) {
        static const struct {
            const char *name;
            void (*test)(const void *board);
        } tests[] = {
            { "works", test_board },
            { "vectors", test_board_vectors },
            { "iothread", test_board_iothread },
            { "starts-bare", test_board_bare },
            { "refuses", test_board_refuses },
            { "help", test_board_help },
        };

        for (unsigned j = 0; j < ARRAY_SIZE(tests); j++) {
            g_autofree char *path = g_strdup_printf(
                "/ivshmem-flat/%s/%s", boards[i], tests[j].name);

            qtest_add_data_func(path, boards[i], tests[j].test);
        }
    }

    qtest_add_func("/ivshmem-flat/monitor/shows-the-device",
                   test_monitor_shows_the_device);
    qtest_add_func("/ivshmem-flat/restart/twenty-times", test_restart);
    qtest_add_func("/ivshmem-flat/restart/in-between",
                   test_restart_in_between);
    qtest_add_func("/ivshmem-flat/restart/other-memory",
                   test_restart_with_other_memory);
    qtest_add_func("/ivshmem-flat/restart/bad-greeting",
                   test_restart_with_a_bad_greeting);
    qtest_add_func("/ivshmem-flat/restart/memory-last",
                   test_restart_with_the_memory_last);
    qtest_add_func("/ivshmem-flat/restart/by-the-user",
                   test_restart_by_the_user);
    qtest_add_func("/ivshmem-flat/restart/file-elsewhere",
                   test_restart_with_a_file_elsewhere);
    qtest_add_func("/ivshmem-flat/restart/silence", test_restart_with_silence);
    qtest_add_func("/ivshmem-flat/restart/real-server",
                   test_restart_of_the_real_server);
    qtest_add_func("/ivshmem-flat/restart/at-start", test_restart_at_start);
    qtest_add_func("/ivshmem-flat/restart/start-before-the-server",
                   test_start_before_the_server);
    qtest_add_func("/ivshmem-flat/restart/start-says-why",
                   test_start_before_the_server_says_why);
    qtest_add_func("/ivshmem-flat/restart/start-says-it-once",
                   test_start_before_the_server_says_it_once);
    qtest_add_func("/ivshmem-flat/restart/start-without-the-server",
                   test_start_without_the_server);
    qtest_add_func("/ivshmem-flat/restart/start-can-be-interrupted",
                   test_start_before_the_server_can_be_interrupted);
    qtest_add_func("/ivshmem-flat/migration/without-master",
                   test_migration_without_master);
    qtest_add_func("/ivshmem-flat/migration/second-master",
                   test_migration_second_master);
    qtest_add_func("/ivshmem-flat/migration/by-cpr", test_migration_by_cpr);
    qtest_add_func("/ivshmem-flat/migration/to-another-server",
                   test_migration);
    qtest_add_func("/ivshmem-flat/migration/between-machines",
                   test_migration_between_machines);
    qtest_add_func("/ivshmem-flat/migration/without-servers",
                   test_migration_without_servers);
    qtest_add_func("/ivshmem-flat/migration/while-the-server-restarts",
                   test_migration_while_the_server_restarts);
    qtest_add_func("/ivshmem-flat/migration/other-server-restarts",
                   test_migration_while_the_other_server_restarts);
    qtest_add_func("/ivshmem-flat/migration/snapshot", test_snapshot);
    qtest_add_func("/ivshmem-flat/migration/snapshot-without-master",
                   test_snapshot_without_master);
    qtest_add_func("/ivshmem-flat/migration/snapshot-of-two-devices",
                   test_snapshot_of_two_devices);
    qtest_add_func("/ivshmem-flat/migration/two-devices",
                   test_migration_of_two_devices);
    qtest_add_func("/ivshmem-flat/migration/on-one-server",
                   test_migration_on_one_server);
    qtest_add_func("/ivshmem-flat/migration/replay-is-refused",
                   test_replay_is_refused);

    qtest_add_func("/ivshmem-flat/greeting/version", test_greeting_version);
    qtest_add_func("/ivshmem-flat/greeting/id", test_greeting_id);
    qtest_add_func("/ivshmem-flat/greeting/order", test_greeting_order);
    qtest_add_func("/ivshmem-flat/greeting/fds", test_greeting_fds);
    qtest_add_func("/ivshmem-flat/greeting/memory-last",
                   test_greeting_memory_last);
    qtest_add_func("/ivshmem-flat/greeting/without-memory",
                   test_greeting_without_memory);
    qtest_add_func("/ivshmem-flat/greeting/memory-kind",
                   test_greeting_memory_kind);
    qtest_add_func("/ivshmem-flat/greeting/memory-huge-pages",
                   test_greeting_memory_huge_pages);
    qtest_add_func("/ivshmem-flat/greeting/memory-of-another-user",
                   test_greeting_memory_of_another_user);
    qtest_add_func("/ivshmem-flat/greeting/memory-sealed",
                   test_greeting_memory_sealed);
    qtest_add_func("/ivshmem-flat/greeting/memory-size",
                   test_greeting_memory_size);
    qtest_add_func("/ivshmem-flat/greeting/end-of-stream",
                   test_greeting_end_of_stream);
    qtest_add_func("/ivshmem-flat/greeting/silence", test_greeting_silence);
    qtest_add_func("/ivshmem-flat/greeting/something-else",
                   test_greeting_of_something_else);
    qtest_add_func("/ivshmem-flat/greeting/legacy-server",
                   test_greeting_of_a_legacy_server);
    qtest_add_func("/ivshmem-flat/greeting/in-pieces",
                   test_greeting_in_pieces);
    qtest_add_func("/ivshmem-flat/greeting/in-one-write",
                   test_greeting_in_one_write);
    qtest_add_func("/ivshmem-flat/greeting/without-vectors",
                   test_greeting_without_vectors);

    qtest_add_func("/ivshmem-flat/message/bad-id", test_message_bad_id);
    qtest_add_func("/ivshmem-flat/message/second-shmem",
                   test_message_second_shmem);
    qtest_add_func("/ivshmem-flat/message/several-fds",
                   test_message_several_fds);
    qtest_add_func("/ivshmem-flat/message/not-an-eventfd",
                   test_message_not_an_eventfd);
    qtest_add_func("/ivshmem-flat/message/own-id-gone",
                   test_message_own_id_gone);
    qtest_add_func("/ivshmem-flat/message/unknown-peer-gone",
                   test_message_unknown_peer_gone);
    qtest_add_func("/ivshmem-flat/message/in-pieces", test_message_in_pieces);
    qtest_add_func("/ivshmem-flat/message/an-fd-on-each-piece",
                   test_message_with_an_fd_on_each_piece);
    qtest_add_func("/ivshmem-flat/peer/eventfds-stay-nonblocking",
                   test_peer_eventfds_stay_nonblocking);
    qtest_add_func("/ivshmem-flat/peer/comes-and-goes",
                   test_peer_comes_and_goes);
    qtest_add_func("/ivshmem-flat/peer/many-vectors",
                   test_peer_with_many_vectors);
    qtest_add_func("/ivshmem-flat/peer/ten-thousand", test_peers_come_and_go);
    qtest_add_func("/ivshmem-flat/server/gone", test_server_gone);
    qtest_add_func("/ivshmem-flat/server/gone-in-a-message",
                   test_server_gone_in_a_message);
    qtest_add_func("/ivshmem-flat/server/gone-before-the-greeting",
                   test_server_gone_before_the_greeting);
    qtest_add_func("/ivshmem-flat/server/gone-after-the-greeting",
                   test_server_gone_after_the_greeting);
    qtest_add_func("/ivshmem-flat/server/gone-at-start",
                   test_server_gone_at_start);
    qtest_add_func("/ivshmem-flat/server/killed", test_server_killed);
    qtest_add_func("/ivshmem-flat/server/stopped", test_server_stopped);
    qtest_add_func("/ivshmem-flat/server/stopped-at-start",
                   test_server_stopped_at_start);
    qtest_add_func("/ivshmem-flat/server/rings-without-end",
                   test_server_rings_without_end);
    qtest_add_func("/ivshmem-flat/server/counts-to-a-million",
                   test_server_counts_to_a_million);
    qtest_add_func("/ivshmem-flat/server/never-stops",
                   test_server_never_stops);
    qtest_add_func("/ivshmem-flat/server/stopped-in-a-message",
                   test_server_stopped_in_a_message);
    qtest_add_func("/ivshmem-flat/server/out-of-fds", test_out_of_fds);
    qtest_add_func("/ivshmem-flat/server/out-of-fds-at-start",
                   test_out_of_fds_at_start);
    qtest_add_func("/ivshmem-flat/server/out-of-fds-for-a-known-peer",
                   test_out_of_fds_for_a_known_peer);
    qtest_add_func("/ivshmem-flat/guest/rings-everything",
                   test_guest_rings_everything);
    qtest_add_func("/ivshmem-flat/guest/touches-everything",
                   test_guest_touches_everything);
    qtest_add_func("/ivshmem-flat/guest/touches-all-memory",
                   test_guest_touches_all_memory);
    qtest_add_func("/ivshmem-flat/guest/errors", test_guest_errors);
    qtest_add_func("/ivshmem-flat/guest/floods", test_guest_floods);
    qtest_add_func("/ivshmem-flat/life/reset-in-traffic",
                   test_reset_in_traffic);
    qtest_add_func("/ivshmem-flat/life/quit-in-traffic", test_quit_in_traffic);
    qtest_add_func("/ivshmem-flat/life/hotplug-is-refused",
                   test_hotplug_is_refused);
    qtest_add_func("/ivshmem-flat/life/introspection", test_introspection);
    if (qtest_has_machine("virt")) {
        qtest_add_func("/ivshmem-flat/life/realized-again",
                       test_realized_again);
        qtest_add_func("/ivshmem-flat/life/realized-again-same-server",
                       test_realized_again_same_server);
        qtest_add_func("/ivshmem-flat/life/realized-again-disconnected",
                       test_realized_again_disconnected);
    }
    qtest_add_func("/ivshmem-flat/life/introspection-before-realize",
                   test_introspection_before_realize);

    for (unsigned i = 0; i < ARRAY_SIZE(iothreads); i++) {
        static const struct {
            const char *name;
            void (*test)(const void *args);
        } tests[] = {
            { "vectors-all-at-once", check_vectors_all_at_once },
            { "counts", test_iothread_counts },
            { "restart", test_iothread_restart },
            { "reset", test_iothread_reset },
            { "revision-0", test_iothread_revision_0 },
            { "hostile-server", test_iothread_hostile_server },
            { "unrealize", test_iothread_unrealize },
            { "quit", test_iothread_quit },
        };

        for (unsigned j = 0; j < ARRAY_SIZE(tests); j++) {
            g_autofree char *path = g_strdup_printf(
                "/ivshmem-flat/%s/%s", iothreads[i].name, tests[j].name);

            qtest_add_data_func(path, iothreads[i].args, tests[j].test);
        }
    }
    qtest_add_func("/ivshmem-flat/iothread/deleted", test_iothread_deleted);

    return g_test_run();
}
