/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROXY_CONNECTION_INBOUND_H
#define PROXY_CONNECTION_INBOUND_H

#include "proxy/hbone/stream.h"

/* A request of a peer begins (see tunnel_request_fn). */
struct stream *inbound_begin(struct tunnel *tunnel, int32_t id);

#endif
