/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes by which a worker's relays pass bulk from one socket to the other without copying it (splice()). A
 * relay borrows one while it moves bytes, and keeps it only while the reader leaves some in it. So there need
 * be few: there is a bound on them, and without one bytes are copied. Of one worker, and so of one thread.
 */
#ifndef PROXY_WORKER_PIPES_H
#define PROXY_WORKER_PIPES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define PIPES_BYTES  (128 * 1024) /* that one holds at most */
#define PIPES_IDLE   8            /* that are kept for the next who needs one */
#define PIPES_REST   1000         /* milliseconds: the system had none, it is not asked again so soon */
#define PIPE_IS_NONE ((struct pipe){-1, -1})

struct proxy;

/* Both ends do not block. */
struct pipe {
    int out, in; /* -1: none */
};

struct pipes {
    unsigned limit; /* 0: bytes are always copied */
    struct pipe idle[PIPES_IDLE];
    unsigned idle_len;
    uint64_t rest_until; /* of the caller's clock */
    /* Written by the worker, read by the pages. */
    atomic_uint open;      /* idle ones too */
    atomic_ulong spliced;  /* bytes */
    atomic_ulong copied;   /* turns in which bulk was copied, since there was no pipe to be had */
    atomic_int last_error; /* of the system, as it had none; 0: never */
};

/* There are none yet. limit: how many there may be at a time; 0: bytes are always copied. */
void pipes_init(struct pipes *pipes, unsigned limit);
/* Closes the idle ones; the others have been given back. */
void pipes_destroy(struct pipes *pipes);

/* An empty one; the caller owes it back. False: there is none to be had, and ret is not written. now:
 * loop_now(). */
bool pipes_take(struct pipes *pipes, uint64_t now, struct pipe *ret);
/* Takes it back, and leaves none. It must be empty: the next who has it would send what is in it. */
void pipes_give(struct pipes *pipes, struct pipe *pipe);
/* Closes one that is not empty, and leaves none. */
void pipes_discard(struct pipes *pipes, struct pipe *pipe);

/* Appends OpenMetrics text, of all workers. Any thread, while there are workers. */
void pipes_write_metrics(const struct proxy *proxy, FILE *out);

#endif
