/*
 * QTest testcase for ivshmem-flat: the greeting
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Each violation is one line, in seconds. What a greeting must not be, message
 * by message, is in tests/unit/ivshmem-client/greeting-tests.c.
 */

#include "qemu/osdep.h"
#include "ivshmem-flat/framework.h"

#include <sys/mman.h>

static void check_greeting(FakeServer *srv, const char *expected)
{
    fake_start(srv);
    assert_refused(expected, CHARDEV_AND_DEVICE, srv->path, "");
    fake_join(srv);
    fake_free(srv);
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

static void check_memory(FakeServer *srv, int fd, const char *expected)
{
    fake_script_id(srv, 0);
    fake_script_id(srv, 3);
    fake_script_fd(srv, -1, fd);
    check_greeting(srv, expected);
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
    out = run_qemu("ivshmem_client_greeting", WIRED_MACHINE " -chardev socket,"
                   "id=ivshmem,path=%s -trace ivshmem_client_greeting",
                   srv->path);
    unwrap_qemu(qemu);
    g_assert_nonnull(strstr(out.text, "ivshmem_client_greeting"));
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

void add_greeting_tests(void)
{
    qtest_add_func("/ivshmem-flat/greeting/memory-last",
                   test_greeting_memory_last);
    qtest_add_func("/ivshmem-flat/greeting/without-memory",
                   test_greeting_without_memory);
    qtest_add_func("/ivshmem-flat/greeting/memory-huge-pages",
                   test_greeting_memory_huge_pages);
    qtest_add_func("/ivshmem-flat/greeting/memory-of-another-user",
                   test_greeting_memory_of_another_user);
    qtest_add_func("/ivshmem-flat/greeting/memory-sealed",
                   test_greeting_memory_sealed);
    qtest_add_func("/ivshmem-flat/greeting/silence", test_greeting_silence);
    qtest_add_func("/ivshmem-flat/greeting/something-else",
                   test_greeting_of_something_else);
    qtest_add_func("/ivshmem-flat/greeting/legacy-server",
                   test_greeting_of_a_legacy_server);
    qtest_add_func("/ivshmem-flat/greeting/in-one-write",
                   test_greeting_in_one_write);
    qtest_add_func("/ivshmem-flat/greeting/without-vectors",
                   test_greeting_without_vectors);
}
