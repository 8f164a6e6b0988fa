/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/log_output.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log_fd.h"

#define LOOK 1000 /* milliseconds; where a descriptor does not tell that it can be written to */

static struct {
    pthread_mutex_t lock; /* of everything here; nothing waits while it is held */
    struct log_fd out;
    char *kept;
    size_t begin, end; /* of what is kept */
    bool writing;      /* the thread that writes it is there */
    log_output_dropped_fn report;
    uint64_t dropped, reported;
} output = {.lock = PTHREAD_MUTEX_INITIALIZER, .out = {.fd = -1}};

int log_output_open(int fd, log_output_dropped_fn dropped)
{
    int r;

    pthread_mutex_lock(&output.lock);
    log_fd_close(&output.out);
    if (!output.kept)
        output.kept = malloc(LOG_OUTPUT_LIMIT);
    output.report = dropped;
    r = output.kept ? log_fd_open(fd, &output.out) : -ENOMEM;
    pthread_mutex_unlock(&output.lock);
    return r;
}

static void drop(size_t lines)
{
    __atomic_fetch_add(&output.dropped, lines, __ATOMIC_RELAXED);
}

static void drop_kept(void)
{
    size_t lines = 0;

    for (size_t i = output.begin; i < output.end; i++)
        lines += output.kept[i] == '\n';
    drop(lines);
    output.begin = output.end = 0;
}

static void keep(const char *line, size_t len)
{
    if (LOG_OUTPUT_LIMIT - output.end < len && output.begin > 0) {
        memmove(output.kept, output.kept + output.begin, output.end - output.begin);
        output.end -= output.begin;
        output.begin = 0;
    }
    if (LOG_OUTPUT_LIMIT - output.end < len) {
        drop(1);
        return;
    }
    memcpy(output.kept + output.end, line, len);
    output.end += len;
}

/* As much as the reader takes. True if all is written. */
static bool write_kept(void)
{
    while (output.end > output.begin) {
        const char *from = output.kept + output.begin;
        ssize_t n =
            log_fd_write(&output.out, from, log_fd_chunk(&output.out, from, output.end - output.begin));

        if (n == -EAGAIN)
            return false;
        if (n == -EINTR)
            continue;
        if (n < 0)
            drop_kept(); /* nobody reads any more, or the disk is full */
        else
            output.begin += (size_t)n;
    }
    output.begin = output.end = 0;
    return true;
}

static void *write_later(void *unused)
{
    uint64_t dropped;

    (void)unused;
    pthread_mutex_lock(&output.lock);
    while (!write_kept()) {
        struct pollfd p = {.fd = output.out.fd, .events = POLLOUT};

        pthread_mutex_unlock(&output.lock);
        (void)poll(&p, 1, LOOK);
        pthread_mutex_lock(&output.lock);
    }
    output.writing = false;
    dropped = output.dropped - output.reported;
    output.reported = output.dropped;
    pthread_mutex_unlock(&output.lock);
    if (dropped)
        output.report(dropped);
    return NULL;
}

/* Without a thread the next line is the next try. */
static void start_writing(void)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;

    sigfillset(&all);
    if (pthread_attr_init(&attributes))
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    output.writing = pthread_create(&thread, &attributes, write_later, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

int log_output(const char *line, size_t len)
{
    ssize_t n = 0;

    pthread_mutex_lock(&output.lock);
    if (output.out.fd < 0) {
        pthread_mutex_unlock(&output.lock);
        return -EBADF;
    }
    if (output.writing || !write_kept())
        n = -EAGAIN;
    while (n >= 0 && len) {
        n = log_fd_write(&output.out, line, len);
        if (n == -EINTR) {
            n = 0;
        } else if (n >= 0) {
            line += n;
            len -= (size_t)n;
        }
    }
    if (n == -EAGAIN)
        keep(line, len);
    else if (n < 0)
        drop(1);
    if (output.end > output.begin && !output.writing)
        start_writing();
    pthread_mutex_unlock(&output.lock);
    return 0;
}

void log_output_flush(int milliseconds)
{
    bool all = false;

    for (int waited = 0; !all; waited += 50) {
        struct pollfd p = {.events = POLLOUT};

        pthread_mutex_lock(&output.lock);
        all = output.out.fd < 0 || write_kept();
        p.fd = output.out.fd;
        pthread_mutex_unlock(&output.lock);
        if (all || waited >= milliseconds)
            return;
        (void)poll(&p, 1, 50);
    }
}

uint64_t log_output_dropped(void)
{
    return __atomic_load_n(&output.dropped, __ATOMIC_RELAXED);
}
