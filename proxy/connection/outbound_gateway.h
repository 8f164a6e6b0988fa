/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is different for a connection to another network. Who is at its other end, only the answer tells that
 * comes from there: before, there are a gateway and a service. So telemetry opens it with the answer
 * (contract section 8.1). A worker's own thread.
 */
#ifndef PROXY_CONNECTION_OUTBOUND_GATEWAY_H
#define PROXY_CONNECTION_OUTBOUND_GATEWAY_H

#include "proxy/hbone/stream.h"

/* What is known of it by its route; the service is the connection's from here on. 0, or -errno: nothing has
 * changed. */
int outbound_gateway_describe(struct connection *c, const struct workload *local, struct route *route);
/* The stream takes from the route what finds its tunnel. */
void outbound_gateway_take(struct stream *s, struct route *route);
/* The answer to CONNECT was 200: the connection is open to telemetry, with the identity and the description
 * of the other end. 0 or -errno. */
int outbound_gateway_answered(struct stream *s);

#endif
