/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the mesh knows a destination, which REGISTRY_ONLY asks for. Reader side of state.h. */
#ifndef PROXY_ROUTE_KNOWN_H
#define PROXY_ROUTE_KNOWN_H

#include <stdbool.h>

#include "proxy/state/state.h"

/*
 * True for the address of a workload, of a service that source may see, single or as a part of its range,
 * and of a node on which a workload uses the node's network; and for port 53 of a link-local IPv4 address,
 * where nodes have their DNS caches. Ports of services are for the route to judge.
 */
bool destination_known(const struct state *state, const struct workload *source,
                       const struct endpoint *destination);

#endif
