/* SPDX-License-Identifier: Apache-2.0 */
/* One of the two sockets of a relay, and the bytes that it has not taken. A worker's own thread. */
#ifndef PROXY_CONNECTION_RELAY_SIDE_H
#define PROXY_CONNECTION_RELAY_SIDE_H

#include "lib/loop.h"
#include "proxy/worker/connection.h"

struct relay_side {
    struct loop_watch watch;
    int fd;
    bool ended;           /* nothing more comes from it: all was read */
    bool fin;             /* up to its FIN */
    bool hung_up;         /* all that will ever come from it is in its queue; no longer watched */
    bool reset;           /* by its other end: nothing more is written to it */
    bool shut;            /* FIN was sent to it */
    uint8_t bulk;         /* how sure it is that it sends much at a time; see relay_side_read() */
    struct pipe pipe;     /* with bytes for it that it did not take; or none, and then they are in unsent */
    uint8_t *unsent;      /* the same; NULL: none, or they are in the pipe */
    size_t unsent_len;    /* of either */
    size_t unsent_offset; /* of unsent */
    size_t unsent_size;   /* that the account holds for it */
};

/* A pipe to read bulk of that side with, if it sends such and there is one to be had; else none. The caller
 * owes it back to the worker's pipes, unless relay_side_splice() has kept it. */
struct pipe relay_side_pipe(const struct connection *c, const struct relay_side *from);
/*
 * Reads from a side, at most size bytes: into pipe, or into buf where that is none. Returns how many; 0: it
 * has ended; -errno, -EAGAIN: nothing is there.
 */
ssize_t relay_side_read(struct relay_side *from, const struct pipe *pipe, uint8_t *buf, size_t size);

/* Writes; what the socket does not take is kept, on the connection's account. There must be nothing unsent.
 * 0, -ENOBUFS or -ENOMEM: it cannot be kept, or another -errno: the side is gone. */
int relay_side_write(struct connection *c, struct relay_side *to, const uint8_t *data, size_t len);
/* The same with len bytes that are in a pipe, all that are. It is left empty, or is none any more. 0 or
 * -errno as above. */
int relay_side_splice(struct connection *c, struct relay_side *to, struct pipe *pipe, size_t len);
/* What is unsent, as far as the socket takes it. 0, or -errno: the side is gone. */
int relay_side_write_unsent(struct connection *c, struct relay_side *to);
/* What is unsent is in memory from here on, and unsent the caller's. 0, or -ENOMEM: it is lost. */
int relay_side_take_unsent(struct connection *c, struct relay_side *side);
/* Forgets what is unsent. */
void relay_side_free_unsent(struct connection *c, struct relay_side *side);

#endif
