/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that come to the pod through tunnels. */
#ifndef PROXY_CONNECTION_INBOUND_H
#define PROXY_CONNECTION_INBOUND_H

#include "proxy/hbone/stream.h"

/* A request of a peer begins (see tunnel_request_fn): its stream, the tunnel's; NULL without memory. */
struct stream *inbound_begin(struct tunnel *tunnel, int32_t id);

/* Where in the pod an inbound connection goes that was let through, local being its workload. Fills
 * *ret_target, and *ret_client with whose address the application shall see: valid as long as the connection,
 * or NULL. */
void inbound_delivery(const struct connection *c, const struct workload *local, struct endpoint *ret_target,
                      const struct addr **ret_client);

#endif
