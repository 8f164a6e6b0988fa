/* SPDX-License-Identifier: Apache-2.0 */
/* L4 authorization: contract section 6. Reader side of state.h. */
#ifndef PROXY_ROUTE_POLICY_H
#define PROXY_ROUTE_POLICY_H

#include "proxy/state/state.h"

struct policy_request {
    struct endpoint source, destination;
    const char *identity; /* whole SPIFFE URI of the peer, NULL without mutual TLS */
};

struct policy_verdict {
    bool allowed;
    bool unknown;     /* a policy that the workload names has not arrived, and the others do not deny */
    char policy[192]; /* "namespace/name" that denied; "" if allowed, or if ALLOW policies exist and none
                         matched */
    char text[256];   /* for logs: "denied by policy ns/name", "ALLOW policies exist, none matched" ... */
};

/* Fills ret whole. local: the workload that the connection goes to. */
void policy_check(const struct state *state, const struct workload *local,
                  const struct policy_request *request, struct policy_verdict *ret);

#endif
