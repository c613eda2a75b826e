/*
 * QTest testcase for ivshmem-flat: a server that dies and comes back
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

#include <sys/prctl.h>
#include <sys/socket.h>

static void test_restart(void)
{
    FakeServer *srv = fake_new();
    unsigned nfds, nthreads;
    uint64_t before = 0;
    QTestState *qts;
    int old_peer, peer, own;

    fake_script_with_peer(srv, 100, PEER_ID, &old_peer);
    qts = reconnecting_machine(srv, WIRED_MACHINE);
    qtest_writel(qts, SHMEM, 0x12345678);
    nfds = count_fds(qts);
    nthreads = count_in_proc(qts, "task");

    for (unsigned i = 101; i <= 120; i++) {
        fake_restart(srv);
        own = fake_script_with_peer(srv, i, PEER_ID, &peer);
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

    fake_script_with_peer(srv, OWN_ID, PEER_ID, &peer);
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

    WAIT_UNTIL(count_in_file(maps, "memfd:ivshmem-test") == 1);
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

    fake_script_with_peer(srv, 100, PEER_ID, NULL);
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

/*
 * What a user does for a chardev that does not reconnect. The server begins
 * its greeting.
 */
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
    fake_send(srv, message(0, 0, NULL));
    fake_send(srv, message(100, 0, NULL));
}

/* The chardev does not reconnect, but the user gives it a connection. */
static void test_restart_by_the_user(void)
{
    FakeServer *srv = fake_new();
    int old_peer, peer, own;
    QTestState *qts;

    fake_script_with_peer(srv, OWN_ID, PEER_ID, &old_peer);
    qts = fake_machine_with(srv, WIRED_MACHINE " 2>%s", srv->errors);
    fake_restart(srv);
    WAIT_UNTIL(!is_connected(qts));
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(old_peer), ==, 1);

    /* One that comes to nothing leaves the peers as they are. */
    give_connection(qts, srv);
    fake_hang_up(srv);
    WAIT_UNTIL(count_errors(srv, "server closed the connection after 16 "
                                 "bytes, expected the shared memory"));
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(old_peer), ==, 1);
    g_assert_cmpint(qtest_readl(qts, IVPOSITION), ==, OWN_ID);

    /* Others in their place cannot be rung before the greeting is complete. */
    give_connection(qts, srv);
    peer = fake_send_vector(srv, PEER_ID);
    WAIT_UNTIL(count_peers(qts) == 1 && fake_is_read(srv));
    qtest_writel(qts, DOORBELL, doorbell(PEER_ID, 0));
    g_assert_cmpint(rung(old_peer), ==, 0);
    g_assert_cmpint(rung(peer), ==, 0);
    fake_hang_up(srv);
    WAIT_UNTIL(count_peers(qts) == 0);

    give_connection(qts, srv);
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

/* Ends with us, however that is.  It allocates: fork before fake_start(). */
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
    qts = reconnecting_machine_at(srv, path, WIRED_MACHINE);
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
    qts = reconnecting_machine_at(srv, path, WIRED_MACHINE);
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
    qts = reconnecting_machine_at(srv, path, WIRED_MACHINE);
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_cmpint(count_errors(srv, "symbolic links"), ==, 1);
    qtest_quit(qts);
    unlink(path);
    fake_free(srv);
}

/* Without reconnect-ms it does not wait; a hint follows QEMU's own error. */
static void test_start_without_the_server(void)
{
    Output out = run_qemu(NULL, CHARDEV_AND_DEVICE, "/nonexistent/socket",
                          "");

    g_assert_true(WIFEXITED(out.status));
    g_assert_cmpint(WEXITSTATUS(out.status), ==, 1);
    g_assert_nonnull(strstr(out.text, "Failed to connect to "
                            "'/nonexistent/socket': No such file or "
                            "directory\nThe server that listens there has to "
                            "be started first; for ivshmem-* that is "
                            "ivshmem-server\n"));
    output_free(out);
}

static void test_start_before_the_server_can_be_interrupted(void)
{
    Output out = run_qemu("waiting for a server", "-machine mps2-an385 "
                          "-chardev socket,id=c,path=/nonexistent/socket,"
                          "reconnect-ms=10 -device ivshmem-flat,chardev=c");

    g_assert_true(WIFSIGNALED(out.status));
    g_assert_cmpint(WTERMSIG(out.status), ==, SIGTERM);
    output_free(out);
}

void add_restart_tests(void)
{
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
}
