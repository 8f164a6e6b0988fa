/* SPDX-License-Identifier: Apache-2.0 */
/* The outbound traffic policy of pods (REGISTRY_ONLY or ALLOW_ANY) for their connections. Worker's own
 * thread. */
#ifndef PROXY_CONNECTION_OUTBOUND_POLICY_H
#define PROXY_CONNECTION_OUTBOUND_POLICY_H

#include "proxy/worker/connection.h"

/* Whether an outbound connection that has no way through the mesh is refused; detail says why then, and is
 * not written else. */
bool outbound_policy_refuses(const struct connection *connection, const struct workload *source, char *detail,
                             size_t detail_size);
/* Ends the connection if it is an open one that the policy refuses now. source: of the pod. */
void outbound_policy_check_one(struct connection *connection, const struct workload *source);
/* The policy has changed: ends the connections that it refuses now, as a change of authorization policies
 * does. */
void outbound_policy_check(struct worker_pod *wp);

#endif
