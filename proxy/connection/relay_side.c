/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/relay_side.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * A read of so much speaks for bulk, and less against it. For less than that a splice costs what a copy does,
 * or more.
 */
#define BULK_READ 32768
#define BULK_SURE 2 /* from here on bytes are spliced */
#define BULK_MOST 4

#define PIPE_DESCRIPTORS 2

static struct pipes *pipes_of(const struct connection *c)
{
    return &connection_worker(c)->pipes;
}

/* ---- reading ---- */

struct pipe relay_side_pipe(const struct connection *c, const struct relay_side *from)
{
    struct pipe pipe;

    if (from->bulk < BULK_SURE || c->wp->level != BUDGET_CALM ||
        !pipes_take(pipes_of(c), loop_now(connection_worker(c)->loop), &pipe))
        return PIPE_IS_NONE;
    return pipe;
}

ssize_t relay_side_read(struct relay_side *from, const struct pipe *pipe, uint8_t *buf, size_t size)
{
    ssize_t n;

    do {
        n = pipe->in >= 0 ? splice(from->fd, NULL, pipe->in, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
                          : recv(from->fd, buf, size, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (n >= BULK_READ && from->bulk < BULK_MOST)
        from->bulk++;
    else if (n < BULK_READ && from->bulk)
        from->bulk--;
    return n;
}

/* ---- writing ---- */

/* How much of it the socket takes, or -errno. */
static ssize_t send_some(const struct relay_side *to, const uint8_t *data, size_t len)
{
    ssize_t n;

    do
        n = send(to->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? (errno == EAGAIN ? 0 : -errno) : n;
}

/* The same of what is in a pipe. */
static ssize_t splice_some(const struct relay_side *to, const struct pipe *pipe, size_t len)
{
    ssize_t n;

    do
        n = splice(pipe->out, NULL, to->fd, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (n < 0 && errno == EINTR);
    return n < 0 ? (errno == EAGAIN ? 0 : -errno) : n;
}

/* ---- keeping ---- */

static void release_pipe(struct connection *c, struct relay_side *side)
{
    quota_release_more(c->wp, PIPE_DESCRIPTORS);
    if (side->unsent_len)
        pipes_discard(pipes_of(c), &side->pipe);
    else
        pipes_give(pipes_of(c), &side->pipe);
}

void relay_side_free_unsent(struct connection *c, struct relay_side *side)
{
    if (side->pipe.out >= 0)
        release_pipe(c, side);
    free(side->unsent);
    side->unsent = NULL;
    budget_give(&c->account, side->unsent_size);
    side->unsent_len = side->unsent_size = 0;
}

/* Of the account's memory, which holds len bytes. */
static int read_out(const struct pipe *pipe, uint8_t *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = read(pipe->out, data + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int keep(struct connection *c, struct relay_side *to, size_t len)
{
    int r = budget_take(&c->account, len);

    if (r < 0)
        return r;
    to->unsent = malloc(len);
    if (!to->unsent) {
        budget_give(&c->account, len);
        return -ENOMEM;
    }
    to->unsent_len = to->unsent_size = len;
    to->unsent_offset = 0;
    return 0;
}

int relay_side_write(struct connection *c, struct relay_side *to, const uint8_t *data, size_t len)
{
    ssize_t n = send_some(to, data, len);
    int r;

    if (n < 0 || (size_t)n == len)
        return n < 0 ? (int)n : 0;
    r = keep(c, to, len - (size_t)n);
    if (r == 0)
        memcpy(to->unsent, data + n, to->unsent_len);
    return r;
}

/* Few bytes may hold many pages: all of the pipe counts. */
static bool may_keep_pipe(struct connection *c)
{
    if (!quota_take_more(c->wp, PIPE_DESCRIPTORS))
        return false;
    if (budget_take(&c->account, PIPES_BYTES) == 0)
        return true;
    quota_release_more(c->wp, PIPE_DESCRIPTORS);
    return false;
}

int relay_side_splice(struct connection *c, struct relay_side *to, struct pipe *pipe, size_t len)
{
    struct pipes *pipes = pipes_of(c);
    ssize_t n = splice_some(to, pipe, len);
    int r = n < 0 ? (int)n : 0;

    atomic_fetch_add_explicit(&pipes->spliced, len, memory_order_relaxed);
    if (n == (ssize_t)len)
        return 0;
    if (r == 0 && may_keep_pipe(c)) {
        to->pipe = *pipe;
        *pipe = PIPE_IS_NONE;
        to->unsent_len = len - (size_t)n;
        to->unsent_size = PIPES_BYTES;
        return 0;
    }
    if (r == 0)
        r = keep(c, to, len - (size_t)n);
    if (r == 0)
        r = read_out(pipe, to->unsent, to->unsent_len);
    if (r < 0)
        pipes_discard(pipes, pipe);
    return r;
}

int relay_side_write_unsent(struct connection *c, struct relay_side *to)
{
    ssize_t n = to->pipe.out >= 0 ? splice_some(to, &to->pipe, to->unsent_len)
                                  : send_some(to, to->unsent + to->unsent_offset, to->unsent_len);

    if (n < 0)
        return (int)n;
    to->unsent_offset += (size_t)n;
    to->unsent_len -= (size_t)n;
    if (!to->unsent_len)
        relay_side_free_unsent(c, to);
    return 0;
}

int relay_side_take_unsent(struct connection *c, struct relay_side *side)
{
    size_t len = side->unsent_len;
    uint8_t *data;
    int r;

    if (side->pipe.out < 0)
        return 0;
    data = malloc(len);
    r = data ? read_out(&side->pipe, data, len) : -ENOMEM;
    if (r < 0) {
        free(data);
        relay_side_free_unsent(c, side);
        return r;
    }
    side->unsent_len = 0;
    release_pipe(c, side);
    budget_give(&c->account, side->unsent_size - len);
    side->unsent = data;
    side->unsent_len = side->unsent_size = len;
    side->unsent_offset = 0;
    return 0;
}
