/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of struct stream. A worker's own thread. */
#ifndef PROXY_HBONE_STREAM_INTERNAL_H
#define PROXY_HBONE_STREAM_INTERNAL_H

#include "proxy/hbone/stream.h"

/* stream.c: a new one, of no connection; the caller's to free() until it is in a list. events: kept. NULL
 * without memory. */
struct stream *stream_alloc(int fd, const struct stream_events *events);
/* stream.c: what its route referred to is given back. */
void stream_drop_route(struct stream *stream);
/* stream.c: connection.abort of all streams. */
void stream_abort(struct connection *connection, enum bruma_reason reason, const char *detail);
/* stream.c: the application's socket is watched; writable: also for that. */
void stream_set_interest(struct stream *stream, bool writable);
/* stream.c: passes on an end that is due, and ends the stream if nothing is left to do. */
void stream_finish_if_over(struct stream *stream);

/* stream_deliver.c: bytes that wait for the application are forgotten. */
void stream_free_pending(struct stream *stream);
/* stream_deliver.c: what was gathered goes to the socket; what that does not take is kept. 0, -EPIPE: the
 * application has reset the connection, or -errno of keeping. */
int stream_send_gathered(struct stream *stream);

#endif
