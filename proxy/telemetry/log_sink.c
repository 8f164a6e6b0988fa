/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/log_sink.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log_fd.h"

#define GATHER       (16 * 1024)
#define FIRST_BUFFER (32 * 1024)
#define WAIT         75 /* milliseconds; the timer's resolution comes on top */
#define LAST_WAIT    500

struct log_sink {
    struct loop *loop;
    struct loop_timer timer;
    struct loop_watch watch; /* while the reader is behind */
    struct log_fd out;
    char *buffer;
    size_t size, begin, end;
    uint64_t dropped; /* relaxed atomic, written by the worker */
};

static void flush(struct log_sink *s);

static void on_time(struct loop_timer *timer)
{
    flush(container_of(timer, struct log_sink, timer));
}

static void on_writable(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    flush(container_of(watch, struct log_sink, watch));
}

int log_sink_new(struct loop *loop, int fd, struct log_sink **ret)
{
    struct log_sink *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->out.fd = s->watch.fd = -1;
    loop_timer_init(&s->timer, on_time);
    r = log_fd_open(fd, &s->out);
    s->buffer = r == 0 ? malloc(FIRST_BUFFER) : NULL;
    s->size = FIRST_BUFFER;
    if (!s->buffer) {
        log_sink_free(&s);
        return r < 0 ? r : -ENOMEM;
    }
    *ret = s;
    return 0;
}

void log_sink_free(struct log_sink **ptr)
{
    struct log_sink *s = *ptr;

    if (!s)
        return;
    if (s->out.fd >= 0) {
        for (int i = 0; s->end > s->begin && i < 10; i++) {
            struct pollfd p = {.fd = s->out.fd, .events = POLLOUT};

            flush(s);
            if (s->end > s->begin)
                poll(&p, 1, LAST_WAIT / 10);
        }
        loop_watch_remove(s->loop, &s->watch);
        loop_timer_cancel(&s->timer);
        log_fd_close(&s->out);
    }
    free(s->buffer);
    free(s);
    *ptr = NULL;
}

static void drop(struct log_sink *s, size_t len)
{
    uint64_t lines = 0;

    for (size_t i = 0; i < len; i++)
        lines += s->buffer[s->begin + i] == '\n';
    __atomic_fetch_add(&s->dropped, lines, __ATOMIC_RELAXED);
    s->begin += len;
}

/* The reader is behind: go on when it has taken something. Where that cannot be watched, a little later. */
static void wait_for_reader(struct log_sink *s)
{
    if (s->watch.fn)
        return;
    if (loop_watch_add(s->loop, &s->watch, s->out.fd, EPOLLOUT, on_writable) < 0 &&
        !loop_timer_armed(&s->timer))
        loop_timer_set(s->loop, &s->timer, WAIT);
}

static void flush(struct log_sink *s)
{
    while (s->end > s->begin) {
        const char *from = s->buffer + s->begin;
        ssize_t n = log_fd_write(&s->out, from, log_fd_chunk(&s->out, from, s->end - s->begin));

        if (n == -EAGAIN) {
            wait_for_reader(s);
            return;
        }
        if (n == -EINTR)
            continue;
        if (n < 0)
            drop(s, s->end - s->begin); /* nobody reads any more, or the disk is full */
        else
            s->begin += (size_t)n;
    }
    s->begin = s->end = 0;
    loop_timer_cancel(&s->timer);
    loop_watch_remove(s->loop, &s->watch);
    if (s->size > FIRST_BUFFER) {
        char *smaller = realloc(s->buffer, FIRST_BUFFER);

        if (smaller) {
            s->buffer = smaller;
            s->size = FIRST_BUFFER;
        }
    }
}

static bool make_room(struct log_sink *s)
{
    char *larger;

    if (s->begin > 0) {
        memmove(s->buffer, s->buffer + s->begin, s->end - s->begin);
        s->end -= s->begin;
        s->begin = 0;
    }
    if (s->size - s->end >= LOG_SINK_LINE)
        return true;
    if (s->size >= LOG_SINK_LIMIT)
        return false;
    larger = realloc(s->buffer, s->size * 2);
    if (!larger)
        return false;
    s->buffer = larger;
    s->size *= 2;
    return true;
}

char *log_sink_begin(struct log_sink *s)
{
    if (s->size - s->end < LOG_SINK_LINE && !make_room(s)) {
        __atomic_fetch_add(&s->dropped, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    return s->buffer + s->end;
}

void log_sink_end(struct log_sink *s, size_t len)
{
    s->end += len;
    if (s->watch.fn)
        return; /* the reader is behind */
    if (s->end - s->begin >= GATHER)
        flush(s);
    else if (!loop_timer_armed(&s->timer))
        loop_timer_set(s->loop, &s->timer, WAIT);
}

uint64_t log_sink_dropped(const struct log_sink *s)
{
    return __atomic_load_n(&s->dropped, __ATOMIC_RELAXED);
}
