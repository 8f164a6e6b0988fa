/* SPDX-License-Identifier: Apache-2.0 */
/* The CONNECT request of a tunnel (contract 3.3): building ours, keeping what a peer's says. */
#ifndef PROXY_HBONE_REQUEST_H
#define PROXY_HBONE_REQUEST_H

#include "proxy/hbone/stream.h"

#define REQUEST_HEADERS_MAX 65536 /* bytes of a header list, as RFC 9113 section 6.5.2 counts */

/* One header of a peer's request: what is of use is copied. Without memory it is as if it had not been there;
 * a list that is too large sets too_large. */
void request_keep_header(struct request *request, const uint8_t *name, size_t name_len, const uint8_t *value,
                         size_t value_len);
/* The same of the answer to ours: its baggage, if it is not too long. */
void request_keep_answer(char **baggage, const uint8_t *name, size_t name_len, const uint8_t *value,
                         size_t value_len);
/* Frees what was kept; the struct is the caller's. */
void request_clear(struct request *request);

/* Forwarded, traceparent and baggage beside method and authority, and inside of a gateway's tunnel our
 * network, queued in the session. The stream's id is set. 0 or -errno. */
int request_submit(struct tunnel *tunnel, struct stream *stream);

/* Answers with a status; 200 carries our baggage and begins the stream's DATA, anything else ends the
 * stream. 0, or -ECONNRESET: the session does not take it any more. */
int request_respond(struct tunnel *tunnel, struct stream *stream, int status);

#endif
