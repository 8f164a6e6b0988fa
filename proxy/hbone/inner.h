/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tunnels inside of tunnels (double HBONE, contract section 4.4). A gateway to another network ends the outer
 * tunnel, and passes the bytes of each of its streams on to a node's proxy over there. In such a stream there
 * is a whole tunnel again, TLS and HTTP/2, whose other end is that proxy.
 *
 *     application - stream - inner tunnel - struct inner - carrier, a stream - outer tunnel - socket
 *
 * The inner tunnel is a struct tunnel without a socket, and is pooled like any other. What it says waits in
 * a queue until the outer tunnel sends it, and the other way round; a queue is bounded by the flow control of
 * the outer tunnel's stream, counted as buffered bytes, and empty at rest. Nothing of an inner tunnel runs
 * inside of an event of its outer one, with which it shares the worker's buffers, but at the end of the turn.
 *
 * Everything is the worker's own thread's.
 */
#ifndef PROXY_HBONE_INNER_H
#define PROXY_HBONE_INNER_H

#include <sys/uio.h>

#include "proxy/hbone/stream.h"

/* A tunnel for the stream, which has gateway and expected service: one that is open or is being opened, or a
 * new one, inside of one to the gateway at target. -errno: it could not begin. */
int inner_find(struct stream *stream, const struct endpoint *target, struct tls_context *context,
               struct tunnel **ret);

/* What has come for inner tunnels of the worker, and what became of their carriers: at the end of a turn,
 * before tunnels are flushed. */
void inner_turn(struct worker *worker);

/* ---- for the carrier, a stream of the outer tunnel ---- */

/* Bytes for the inner tunnel. How many it took: all, or none until it reads again; or -errno. */
ssize_t inner_put(struct inner *inner, const struct iovec *pieces, unsigned len);
/* Bytes of the inner tunnel: how many, 0 with *ret_end at its end; -EAGAIN: nothing now. */
ssize_t inner_take(struct inner *inner, uint8_t *buf, size_t size, bool *ret_end);
/* The gateway has ended its side. */
void inner_ended(struct inner *inner);
/* The carrier is being closed, for this reason. What it has gathered still counts. */
void inner_lost(struct stream *carrier, enum bruma_reason reason, const char *detail);

/* ---- for the inner tunnel ---- */

/* It is being closed, and lets go: what it has said, and says now, still leaves, unless the memory is wanted.
 * open, aborted: of tunnel_close(). */
void inner_part(struct tunnel *tunnel, bool open, bool aborted, bool reset);
/* It reads no more, or reads again. */
void inner_set_stopped(struct inner *inner, bool stopped);
/* What it goes through, while it is whole: never NULL then, and valid as long. */
struct tunnel *inner_outer(const struct inner *inner);
/* The outer tunnel takes no new streams, or is gone: neither shall this one. */
bool inner_is_leaving(const struct inner *inner);
/* The outer tunnel ends while it stands still: those that it carries do so no longer, and end with it. */
void inner_go_on_inside(struct tunnel *outer);
/* The outer tunnel's peer has said GOAWAY: so do those that it carries. */
void inner_drain_carried(struct tunnel *outer);
/* Why a tunnel ends, for the log: which of the two it was, where there is one inside of another. detail may
 * be NULL; text is "" then, or for none. */
void inner_describe_end(const struct tunnel *tunnel, enum bruma_reason reason, const char *detail, char *text,
                        size_t size);

#endif
