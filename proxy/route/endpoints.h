/* SPDX-License-Identifier: Apache-2.0 */
/* Choice of one endpoint of a service: contract section 4.2. Reader side. */
#ifndef PROXY_ROUTE_ENDPOINTS_H
#define PROXY_ROUTE_ENDPOINTS_H

#include "proxy/route/ejected.h"
#include "proxy/state/state_objects.h"

enum balance_purpose {
    BALANCE_FOR_TRAFFIC,
    BALANCE_FOR_WAYPOINT, /* the service is a waypoint: application tunnels need no port of the service */
};

/* Endpoints that are left out. They are known by the first address of their workload, or a hash of its
 * hostname, and their port. */
struct endpoint_filter {
    const struct ejected *leaving; /* by ejected_host(), not if all others are out too; NULL: none */
    const struct ejected *ejected; /* not if all others are out, or leaving; NULL: none */
    uint64_t now;                  /* loop_now() */
    const struct endpoint *tried;  /* by the same connection: in no case */
    unsigned tried_len;
};

struct choice_of_endpoint {
    const struct workload_full *workload; /* NULL: none */
    uint16_t port;
    struct endpoint endpoint; /* by which a filter knows it */
    bool left_out;            /* a filter has left some out */
    /* why there is none, the most telling one: */
    bool no_port;       /* the service has no such port */
    bool other_network; /* endpoints exist, but only behind a gateway of another network */
};

/*
 * port: of the service. Endpoints in the source's network that have an address, or a hostname in its place,
 * are preferred to all others, since the others cannot be reached; if there are only such, none is chosen and
 * the result says why. Among the usable ones the service's preferences rank and capacities weigh. random:
 * xorshift state of the caller, not 0. filter: NULL for none.
 */
void endpoints_choose(const struct service_full *service, const struct workload *source, uint16_t port,
                      enum balance_purpose purpose, uint64_t *random, const struct endpoint_filter *filter,
                      struct choice_of_endpoint *ret);

/* A number below limit, limit at least 1. */
uint64_t random_below(uint64_t *random, uint64_t limit);

#endif
