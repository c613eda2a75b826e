/*
 * The least that a doorbell between two virtual machines can cost
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Two processes ring each other. In each, one thread polls an eventfd and
 * signals a condition variable, as QEMU's main loop does, and another waits
 * for that and writes the other's eventfd, as a CPU does. With "blocking",
 * each process has but one thread, which reads its eventfd.
 *
 *     floor chain|blocking COUNT [CORE CORE]
 *
 * prints how many nanoseconds COUNT round trips took; with two numbers, each
 * process keeps to that core.
 */

#include <err.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* In one process: what came from the other and is not answered yet. */
static struct {
    int eventfd;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool rung;
} own = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .changed = PTHREAD_COND_INITIALIZER,
};

static void ring(int fd)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) != sizeof(one)) {
        err(1, "write to an eventfd");
    }
}

static void take(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) != sizeof(count)) {
        err(1, "read from an eventfd");
    }
}

static void *main_loop(void *unused)
{
    struct pollfd pfd = { .fd = own.eventfd, .events = POLLIN };

    (void)unused;
    for (;;) {
        poll(&pfd, 1, -1);
        take(own.eventfd);
        pthread_mutex_lock(&own.lock);
        own.rung = true;
        pthread_mutex_unlock(&own.lock);
        pthread_cond_signal(&own.changed);
    }
    return NULL;
}

static void wait_until_rung(void)
{
    pthread_mutex_lock(&own.lock);
    while (!own.rung) {
        pthread_cond_wait(&own.changed, &own.lock);
    }
    own.rung = false;
    pthread_mutex_unlock(&own.lock);
}

static void keep_to_core(const char *core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(atoi(core), &set);
    if (sched_setaffinity(0, sizeof(set), &set)) {
        err(1, "core %s", core);
    }
}

static void play(bool chain, bool first, long count, int other)
{
    long i;

    if (chain) {
        pthread_t thread;
        int error = pthread_create(&thread, NULL, main_loop, NULL);

        if (error) {
            errx(1, "pthread_create: %s", strerror(error));
        }
    }
    for (i = 0; i < count; i++) {
        if (first) {
            ring(other);
        }
        if (chain) {
            wait_until_rung();
        } else {
            take(own.eventfd);
        }
        if (!first) {
            ring(other);
        }
    }
}

int main(int argc, char **argv)
{
    bool chain = argc > 1 && !strcmp(argv[1], "chain");
    long count = argc > 2 ? atol(argv[2]) : 0;
    int fds[2] = { eventfd(0, 0), eventfd(0, 0) };
    struct timespec start, end;
    int status;
    pid_t pid;

    if (count <= 0 || (argc != 3 && argc != 5) ||
        (!chain && strcmp(argv[1], "blocking"))) {
        errx(2, "expected chain|blocking COUNT [CORE CORE]");
    }
    pid = fork();
    if (pid < 0) {
        err(1, "fork");
    }
    if (argc == 5) {
        keep_to_core(argv[pid ? 3 : 4]);
    }
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        own.eventfd = fds[1];
        play(chain, false, count, fds[0]);
        return 0;
    }
    own.eventfd = fds[0];
    clock_gettime(CLOCK_MONOTONIC, &start);
    play(chain, true, count, fds[1]);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (waitpid(pid, &status, 0) != pid || status) {
        errx(1, "the other process failed");
    }
    printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000LL +
           end.tv_nsec - start.tv_nsec);
    return 0;
}
