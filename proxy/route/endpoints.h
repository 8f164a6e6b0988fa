/* SPDX-License-Identifier: Apache-2.0 */
/* Choice of one endpoint of a service: contract section 4.2. Reader side. */
#ifndef PROXY_ROUTE_ENDPOINTS_H
#define PROXY_ROUTE_ENDPOINTS_H

#include "proxy/state/state_objects.h"

enum balance_purpose {
    BALANCE_FOR_TRAFFIC,
    BALANCE_FOR_WAYPOINT, /* the service is a waypoint: application tunnels need no port of the service */
};

struct choice_of_endpoint {
    const struct workload_full *workload; /* NULL: none */
    uint16_t port;
    /* why there is none, the most telling one: */
    bool no_port;       /* the service has no such port */
    bool other_network; /* endpoints exist, but only behind a gateway of another network */
    bool no_address;    /* endpoints exist, but they have a hostname in place of an address */
};

/*
 * port: of the service. Endpoints in the source's network that have an address are preferred to all others,
 * since the others cannot be reached; if there are only such, none is chosen and the result says why. Among
 * the usable ones the service's preferences rank and capacities weigh. random: xorshift state of the caller,
 * not 0.
 */
void endpoints_choose(const struct service_full *service, const struct workload *source, uint16_t port,
                      enum balance_purpose purpose, uint64_t *random, struct choice_of_endpoint *ret);

/* A number below limit, limit at least 1. */
uint64_t random_below(uint64_t *random, uint64_t limit);

#endif
