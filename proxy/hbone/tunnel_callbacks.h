/* SPDX-License-Identifier: Apache-2.0 */
/* What nghttp2 says of a tunnel's frames, told to its streams. A worker's own thread. */
#ifndef PROXY_HBONE_TUNNEL_CALLBACKS_H
#define PROXY_HBONE_TUNNEL_CALLBACKS_H

#include "proxy/hbone/tunnel.h"

/* For the one set of callbacks that all sessions share. */
void tunnel_callbacks_set(nghttp2_session_callbacks *callbacks);

#endif
