/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "worker"
#include "proxy/worker/pipes.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/metrics_text.h"
#include "proxy/worker/worker.h"

void pipes_init(struct pipes *p, unsigned limit)
{
    *p = (struct pipes){.limit = limit};
}

static void close_pipe(struct pipes *p, struct pipe *pipe)
{
    close(pipe->out);
    close(pipe->in);
    *pipe = PIPE_IS_NONE;
    atomic_fetch_sub_explicit(&p->open, 1, memory_order_relaxed);
}

void pipes_destroy(struct pipes *p)
{
    while (p->idle_len)
        close_pipe(p, &p->idle[--p->idle_len]);
}

/* Who has used up what the system lets one user have in pipes gets one of two pages, or of the usual sixteen:
 * the former would be slower than copying. */
static int open_pipe(struct pipe *ret)
{
    int fds[2], size;

    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0)
        return -errno;
    size = fcntl(fds[1], F_SETPIPE_SZ, PIPES_BYTES);
    if (size < 0)
        size = fcntl(fds[1], F_GETPIPE_SZ);
    if (size < PIPES_BYTES / 2) {
        close(fds[0]);
        close(fds[1]);
        return -EPERM;
    }
    *ret = (struct pipe){fds[0], fds[1]};
    return 0;
}

bool pipes_take(struct pipes *p, uint64_t now, struct pipe *ret)
{
    int r;

    if (!p->limit)
        return false;
    if (p->idle_len) {
        *ret = p->idle[--p->idle_len];
        return true;
    }
    if (atomic_load_explicit(&p->open, memory_order_relaxed) < p->limit && now >= p->rest_until) {
        r = open_pipe(ret);
        if (r == 0) {
            atomic_fetch_add_explicit(&p->open, 1, memory_order_relaxed);
            return true;
        }
        if (!atomic_load_explicit(&p->last_error, memory_order_relaxed))
            log_warn_errno(r, "bulk is copied from socket to socket: there is no pipe to be had\tpipes=%u",
                           atomic_load_explicit(&p->open, memory_order_relaxed));
        atomic_store_explicit(&p->last_error, -r, memory_order_relaxed);
        p->rest_until = now + PIPES_REST;
    }
    atomic_fetch_add_explicit(&p->copied, 1, memory_order_relaxed);
    return false;
}

void pipes_give(struct pipes *p, struct pipe *pipe)
{
    if (p->idle_len == PIPES_IDLE) {
        close_pipe(p, pipe);
        return;
    }
    p->idle[p->idle_len++] = *pipe;
    *pipe = PIPE_IS_NONE;
}

void pipes_discard(struct pipes *p, struct pipe *pipe)
{
    close_pipe(p, pipe);
}

void pipes_write_metrics(const struct proxy *proxy, FILE *out)
{
    unsigned long open = 0, spliced = 0, copied = 0;

    for (unsigned i = 0; i < proxy->workers_len; i++) {
        const struct pipes *p = &proxy->workers[i]->pipes;

        open += atomic_load_explicit(&p->open, memory_order_relaxed);
        spliced += atomic_load_explicit(&p->spliced, memory_order_relaxed);
        copied += atomic_load_explicit(&p->copied, memory_order_relaxed);
    }
    metric_gauge(out, "bruma_relay_pipes", "Pipes by which workers pass bulk from socket to socket.", open);
    metric_counter(out, "bruma_relay_spliced_bytes", "Bytes that went from socket to socket without a copy.",
                   spliced);
    metric_counter(out, "bruma_relay_pipes_missed",
                   "Turns in which bulk was copied since there was no pipe to be had.", copied);
}
