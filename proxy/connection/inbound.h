/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that come to the pod through tunnels. */
#ifndef PROXY_CONNECTION_INBOUND_H
#define PROXY_CONNECTION_INBOUND_H

#include "proxy/hbone/stream.h"

/* A request of a peer begins (see tunnel_request_fn): its stream, the tunnel's; NULL without memory. */
struct stream *inbound_begin(struct tunnel *tunnel, int32_t id);

#endif
