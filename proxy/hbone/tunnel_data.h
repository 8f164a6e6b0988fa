/* SPDX-License-Identifier: Apache-2.0 */
/* Frames on their way out: worker.plain_out gathers them, TLS takes them from there. DATA is read from the
 * applications' sockets straight into that buffer. A worker's own thread. */
#ifndef PROXY_HBONE_TUNNEL_DATA_H
#define PROXY_HBONE_TUNNEL_DATA_H

#include "proxy/hbone/tunnel.h"

/* The whole frame of a stream's DATA, for nghttp2_submit_*. Valid as long as the stream. */
nghttp2_data_provider tunnel_data_provider(struct stream *stream);

/* Encrypts what is in worker.plain_out, and empties it. 0, or an error of tls_write(). */
int tunnel_data_push(struct tunnel *tunnel);
/* Appends the bytes of a control frame to worker.plain_out, which is pushed whenever it is full. 0, or an
 * error of tls_write(). */
int tunnel_data_append(struct tunnel *tunnel, const uint8_t *data, size_t len);

/* For the one set of callbacks that all sessions share. */
void tunnel_data_set(nghttp2_session_callbacks *callbacks);

#endif
