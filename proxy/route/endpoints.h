/* SPDX-License-Identifier: Apache-2.0 */
/* Choice of one endpoint of a service: contract section 4.2. Reader side. */
#ifndef PROXY_ROUTE_ENDPOINTS_H
#define PROXY_ROUTE_ENDPOINTS_H

#include "proxy/route/ejected.h"
#include "proxy/state/state_objects.h"

struct route_needs;

enum balance_purpose {
    BALANCE_FOR_TRAFFIC,
    BALANCE_FOR_WAYPOINT, /* the service is a waypoint: application tunnels need no port of the service */
    BALANCE_FOR_GATEWAY,  /* the service is an east-west gateway: its own network does not matter */
};

/* Endpoints that are left out. They are known by the first address of their workload, or a hash of its
 * hostname, and their port. */
struct endpoint_filter {
    const struct ejected *leaving; /* by ejected_host(), not if all others are out too; NULL: none */
    const struct ejected *ejected; /* not if all others are out, or leaving; NULL: none */
    uint64_t now;                  /* loop_now() */
    const struct endpoint *tried;  /* by the same connection: in no case */
    unsigned tried_len;
    uint64_t behind; /* choosing a gateway for an endpoint in another network: see gateway_endpoint(); or 0 */
    struct route_needs *needs; /* what has been looked for is noted there; NULL: it is not */
};

/* The gateway to an endpoint in another network. */
struct gateway_target {
    const struct workload_full *workload; /* NULL: none is needed */
    const struct service_full *service;   /* through which it was found, or NULL */
    const struct addr *hint;              /* the address that the reference names, or NULL */
    uint16_t port;
};

struct choice_of_endpoint {
    const struct workload_full *workload; /* NULL: none */
    uint16_t port;
    struct endpoint endpoint;      /* by which a filter knows it */
    struct gateway_target gateway; /* of one in another network */
    bool left_out;                 /* a filter has left some out */
    /* why there is none, the most telling one: */
    bool no_port;    /* the service has no such port */
    bool no_gateway; /* endpoints exist in other networks, and their gateway is not known or has no address */
    bool no_names;   /* the same, and the service does not say whom to expect there */
};

/*
 * port: of the service. Usable is what has an address or a hostname in the source's network, or is in another
 * one whose gateway is found (gateway.h). Among these the service's preferences rank and capacities weigh.
 * random: xorshift state of the caller, not 0. filter: NULL for none. Fills ret whole; what it points to is
 * the state's, valid until the next quiescent state.
 */
void endpoints_choose(const struct state *state, const struct service_full *service,
                      const struct workload *source, uint16_t port, enum balance_purpose purpose,
                      uint64_t *random, const struct endpoint_filter *filter, struct choice_of_endpoint *ret);
/* The same without those that are ejected, also if there are no others. Fills ret whole. */
void endpoints_choose_strictly(const struct state *state, const struct service_full *service,
                               const struct workload *source, uint16_t port, enum balance_purpose purpose,
                               uint64_t *random, const struct endpoint_filter *filter,
                               struct choice_of_endpoint *ret);

/* By what a filter knows the workload at that port: its first address, or a hash of the hostname that stands
 * for it. */
struct endpoint endpoint_of_workload(const struct workload_full *workload, uint16_t port);
/* Whether the filter leaves it out; filter NULL: no. */
bool endpoint_is_left_out(const struct endpoint_filter *filter, const struct endpoint *endpoint);

/* A number below limit, limit at least 1. */
uint64_t random_below(uint64_t *random, uint64_t limit);

#endif
