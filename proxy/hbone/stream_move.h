/* SPDX-License-Identifier: Apache-2.0 */
/* Streams that go to another process with their tunnel: bruma/handover.h, enum bruma_stream_field. A worker's
 * own thread. */
#ifndef PROXY_HBONE_STREAM_MOVE_H
#define PROXY_HBONE_STREAM_MOVE_H

#include "proxy/hbone/http2_state.h"
#include "proxy/hbone/stream.h"
#include "proxy/worker/connection_unit.h"

/* Its socket is watched by nobody, and the tunnel neither tells it nor asks it anything. What was begun for a
 * request is given up. */
void stream_freeze(struct stream *s);
/* It is watched again, or decided upon anew. 0 or -errno of epoll_ctl(). */
int stream_thaw(struct stream *s);
/* Appends a stream that is open, or a request that is not answered, as one field. inside: what it carries, as
 * enum bruma_inside_field, which is emptied; NULL: nothing. state: what the session
 * says of it. */
void stream_write(struct wire_writer *writer, uint32_t field, const struct stream *s,
                  const struct http2_stream *state, struct wire_writer *inside);
/* It is another process's: nothing of its socket is changed by its end here. It leaves its tunnel. */
void stream_release(struct stream *s);

/* Whether the connection is one of ours that waits for its tunnel. */
bool stream_waits(const struct connection *connection);
/* Of one of ours that waits for its tunnel or for the answer to its request: its connection is to be decided
 * anew, and the request is taken back. Its socket, the caller's from here on, has not been touched. -1, and
 * ret is not written: the connection is none of these. */
int stream_let_go(struct connection *connection, struct connection_past *ret);

#define STREAM_NO_SOCKET (-2) /* in place of a descriptor */

/* One that has come, and is not in force. */
struct stream_arrival {
    struct stream *stream;           /* of no tunnel, and its connection is not in force */
    struct connection_record record; /* unless it is a request: */
    bool requested;
    struct request request;
    struct connection_past past;
    struct wire_field inside; /* of what was read: what it carries; bytes NULL: nothing */
    bool timed;               /* its timer is armed */
    uint64_t timer, idle;     /* milliseconds */
};

/* len bytes of data: of the field; *ret_state is what the session is to be told. fd is taken if it succeeds
 * and it has one (stream_arrival_has_socket()). 0, or -errno with why in error. */
int stream_arrival_read(struct worker *w, const uint8_t *data, size_t len, int fd, struct stream_arrival *ret,
                        struct http2_stream *ret_state, char *error, size_t error_size);
/* Whether a socket belongs to it. */
static inline bool stream_arrival_has_socket(const struct stream_arrival *arrival)
{
    return !arrival->requested && !arrival->inside.bytes;
}
/* It is the worker's from here on, on the tunnel, which is so already; the arrival is empty then. Its pod
 * must be served. */
void stream_arrive(struct tunnel *tunnel, struct stream_arrival *arrival);
/* What it says and what it holds goes on: once all streams of the tunnel have arrived. May close it. */
void stream_go_on(struct stream *s);
/* It is another process's still: its socket is closed here, and nothing else is done with it. */
void stream_arrival_clear(struct stream_arrival *arrival);

#endif
