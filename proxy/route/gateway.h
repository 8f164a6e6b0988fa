/* SPDX-License-Identifier: Apache-2.0 */
/*
 * East-west gateways: contract sections 4.3 and 4.4. What is in another network is reached by a tunnel to
 * that network's gateway, and in it a tunnel to the destination. Reader side.
 */
#ifndef PROXY_ROUTE_GATEWAY_H
#define PROXY_ROUTE_GATEWAY_H

#include "proxy/route/endpoints.h"

/* The gateway to remote, a workload in another network than the source's. False: it names none, or it cannot
 * be found or used; *ret_left_out: but for the filter. ret_endpoint: by which a filter knows remote behind
 * this gateway. Nothing else is written on failure. What ret points to is the state's, valid until the next
 * quiescent state. random, filter: of endpoints_choose(). */
bool gateway_resolve(const struct state *state, const struct workload_full *remote,
                     const struct workload *source, uint64_t *random, const struct endpoint_filter *filter,
                     struct gateway_target *ret, struct endpoint *ret_endpoint, bool *ret_left_out);

/* By what a filter knows an endpoint in another network, of which behind is the hash, with this gateway
 * before it. */
struct endpoint gateway_endpoint(uint64_t behind, const struct endpoint *gateway);

#endif
