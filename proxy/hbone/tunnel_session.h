/* SPDX-License-Identifier: Apache-2.0 */
/* The nghttp2 session of a tunnel, and its settings. A worker's own thread. */
#ifndef PROXY_HBONE_TUNNEL_SESSION_H
#define PROXY_HBONE_TUNNEL_SESSION_H

#include "proxy/hbone/tunnel.h"

/* Creates the session and queues its SETTINGS. 0 or -ENOMEM. */
int tunnel_session_new(struct tunnel *tunnel);
/* Creates one that has said nothing. 0 or -ENOMEM. */
int tunnel_session_bare(struct tunnel *tunnel);
/* The peer has acknowledged the oldest of our SETTINGS that it had not yet. */
void tunnel_session_acknowledged(struct tunnel *tunnel);
/* The peer has reset a stream; of a client too many resets end the connection, with ENHANCE_YOUR_CALM. */
void tunnel_session_reset(struct tunnel *tunnel);
/* Announces windows that fit the pod's memory level. */
void tunnel_session_windows(struct tunnel *tunnel);

#endif
