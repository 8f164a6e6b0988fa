/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/log_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "cleanup.h"

#define GATHER       (16 * 1024)
#define FIRST_BUFFER (32 * 1024)
#define FILE_CHUNK   (64 * 1024)
#define WAIT         75 /* milliseconds; the timer's resolution comes on top */
#define LAST_WAIT    500

enum sink_kind {
    SINK_FILE,   /* a regular file: never makes us wait for a reader */
    SINK_OPENED, /* our own non-blocking description of it */
    SINK_SOCKET,
    SINK_POLLED, /* none of these: asked with poll() before each write */
};

struct log_sink {
    struct loop *loop;
    struct loop_timer timer;
    struct loop_watch watch; /* while the reader is behind */
    enum sink_kind kind;
    int fd;
    char *buffer;
    size_t size, begin, end;
    uint64_t dropped; /* relaxed atomic, written by the worker */
};

/* poll() and write() of SINK_POLLED belong together, for all workers of the process. */
static pthread_mutex_t polled_lock = PTHREAD_MUTEX_INITIALIZER;

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

static int open_again(int fd)
{
    char path[32];
    int r;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    return r < 0 ? -errno : r;
}

int log_sink_new(struct loop *loop, int fd, struct log_sink **ret)
{
    struct log_sink *s = calloc(1, sizeof(*s));
    struct stat st;
    int r = 0;

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->fd = s->watch.fd = -1;
    loop_timer_init(&s->timer, on_time);
    if (fstat(fd, &st) < 0) {
        r = -errno;
    } else if (S_ISREG(st.st_mode)) {
        s->kind = SINK_FILE;
    } else if (S_ISSOCK(st.st_mode)) {
        s->kind = SINK_SOCKET;
    } else {
        s->kind = SINK_OPENED;
        s->fd = open_again(fd);
        /* A pipe of another user cannot be opened again. */
        if (s->fd < 0)
            s->kind = SINK_POLLED;
    }
    if (r == 0 && s->fd < 0) {
        s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (s->fd < 0)
            r = -errno;
    }
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
    if (s->fd >= 0) {
        for (int i = 0; s->end > s->begin && i < 10; i++) {
            struct pollfd p = {.fd = s->fd, .events = POLLOUT};

            flush(s);
            if (s->end > s->begin)
                poll(&p, 1, LAST_WAIT / 10);
        }
        loop_watch_remove(s->loop, &s->watch);
        loop_timer_cancel(&s->timer);
        close(s->fd);
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

/* Bytes of whole lines, as many as fit one write. */
static size_t chunk(const struct log_sink *s)
{
    size_t len = s->end - s->begin, limit = s->kind == SINK_FILE ? FILE_CHUNK : LOG_SINK_LINE;
    const char *from = s->buffer + s->begin, *newline;

    if (len <= limit)
        return len;
    newline = memrchr(from, '\n', limit);
    return newline ? (size_t)(newline - from) + 1 : limit;
}

static ssize_t write_polled(int fd, const char *bytes, size_t len)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    ssize_t n;

    pthread_mutex_lock(&polled_lock);
    n = poll(&p, 1, 0) == 1 ? write(fd, bytes, len) : (errno = EAGAIN, -1);
    pthread_mutex_unlock(&polled_lock);
    return n;
}

static ssize_t write_chunk(struct log_sink *s, size_t len)
{
    const char *from = s->buffer + s->begin;
    ssize_t n;

    if (s->kind == SINK_SOCKET)
        n = send(s->fd, from, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (s->kind == SINK_POLLED)
        n = write_polled(s->fd, from, len);
    else
        n = write(s->fd, from, len);
    return n < 0 ? -errno : n;
}

/* The reader is behind: go on when it has taken something. Where that cannot be watched, a little later. */
static void wait_for_reader(struct log_sink *s)
{
    if (s->watch.fn)
        return;
    if (loop_watch_add(s->loop, &s->watch, s->fd, EPOLLOUT, on_writable) < 0 && !loop_timer_armed(&s->timer))
        loop_timer_set(s->loop, &s->timer, WAIT);
}

static void flush(struct log_sink *s)
{
    while (s->end > s->begin) {
        size_t len = chunk(s);
        ssize_t n = write_chunk(s, len);

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
