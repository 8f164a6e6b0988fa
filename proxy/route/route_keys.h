/* SPDX-License-Identifier: Apache-2.0 */
/* What a decision needs of the mesh, where that is not all here but asked for on demand: keys as the control
 * plane knows them (contract 1.7), "network/ip" or "namespace/hostname". Reader side. */
#ifndef PROXY_ROUTE_ROUTE_KEYS_H
#define PROXY_ROUTE_ROUTE_KEYS_H

#include "proxy/route/route.h"

/* Called before each of these returns, on its thread. here: the mesh state has something of it. False: it has
 * to be waited for. */
typedef bool (*route_key_fn)(void *data, const char *key, bool here);

/* The key of an address. network NULL: the node's. True if nothing has to be waited for. */
bool route_key_address(const struct state *state, const char *network, const struct addr *addr,
                       route_key_fn fn, void *data);
/* The gateways that the route has come upon. True: as above. */
bool route_keys_of_route(const struct state *state, const struct route *route, route_key_fn fn, void *data);
/* Of an inbound request to the local workload: its services, and what the authority names. True: as above. */
bool route_keys_inbound(const struct state *state, const struct workload *local,
                        const struct endpoint *arrival, const char *authority, size_t authority_len,
                        route_key_fn fn, void *data);

#endif
