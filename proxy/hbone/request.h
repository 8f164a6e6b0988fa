/* SPDX-License-Identifier: Apache-2.0 */
/* The CONNECT request of a tunnel (contract 3.3): building ours, keeping what a peer's says. */
#ifndef PROXY_HBONE_REQUEST_H
#define PROXY_HBONE_REQUEST_H

#include "proxy/hbone/stream.h"

/* Frees what was kept; the struct is the caller's. */
void request_clear(struct request *request);

/* Forwarded, traceparent and baggage beside method and authority, queued in the session. The stream's id is
 * set. 0 or -errno. */
int request_submit(struct tunnel *tunnel, struct stream *stream);

/* Answers with a status; 200 carries our baggage and begins the stream's DATA, anything else ends the
 * stream. 0, or -ECONNRESET: the session does not take it any more. */
int request_respond(struct tunnel *tunnel, struct stream *stream, int status);

#endif
