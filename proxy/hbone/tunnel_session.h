/* SPDX-License-Identifier: Apache-2.0 */
/* The nghttp2 session of a tunnel: settings, callbacks. Only tunnel.c and tunnel_streams.c use it. */
#ifndef PROXY_HBONE_TUNNEL_SESSION_H
#define PROXY_HBONE_TUNNEL_SESSION_H

#include "proxy/hbone/tunnel.h"

/* Announces windows that fit the pod's memory level. */
void tunnel_session_windows(struct tunnel *tunnel);
/* Creates the session and queues its SETTINGS. 0 or -ENOMEM. */
int tunnel_session_new(struct tunnel *tunnel);

/* The whole frame of a stream's DATA, for nghttp2_submit_*. */
nghttp2_data_provider tunnel_session_data(struct stream *stream);

/* Encrypts what is in worker.plain_out, and empties it. 0, or an error of tls_write(). */
int tunnel_session_push(struct tunnel *tunnel);

/* Appends the bytes of a control frame to worker.plain_out, which is pushed whenever it is full. 0, or an
 * error of tls_write(). */
int tunnel_session_append(struct tunnel *tunnel, const uint8_t *data, size_t len);

#endif
