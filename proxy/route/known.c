/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/known.h"

#include "bruma/mesh.h"
#include "proxy/state/state_store.h"

/* Pods query such servers over UDP, which is not captured; by TCP they repeat what did not fit. */
static bool is_dns_of_node(const struct endpoint *destination)
{
    const uint8_t *v4 = destination->addr.bytes + 12;

    return destination->port == BRUMA_PORT_DNS && addr_is_v4(&destination->addr) && v4[0] == 169 &&
           v4[1] == 254;
}

static bool known_in(const struct state *state, const char *network, const struct workload *source,
                     const struct addr *addr)
{
    return find_workload(state, network, addr) ||
           find_service_by_vip(state, network, addr, source->namespace) ||
           is_node_address(state, network, addr);
}

/* Both networks, as a route is looked for in both. */
bool destination_known(const struct state *state, const struct workload *source,
                       const struct endpoint *destination)
{
    return known_in(state, state->network, source, &destination->addr) ||
           (source->network != state->network &&
            known_in(state, source->network, source, &destination->addr)) ||
           is_dns_of_node(destination);
}
