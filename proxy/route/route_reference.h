/* SPDX-License-Identifier: Apache-2.0 */
/* References to waypoints and gateways: contract section 4.3. Reader side. */
#ifndef PROXY_ROUTE_ROUTE_REFERENCE_H
#define PROXY_ROUTE_ROUTE_REFERENCE_H

#include "proxy/route/endpoints.h"

struct reference_target {
    const struct workload_full *workload; /* NULL: not resolved */
    const struct service_full *service;   /* through which it was found, or NULL */
    uint16_t port;
    struct endpoint endpoint;      /* as in struct route */
    struct gateway_target gateway; /* to a waypoint in another network, of a service */
    bool no_gateway, no_names;     /* of struct choice_of_endpoint */
    bool left_out;                 /* a filter has left out what there is */
    const char *why;               /* not resolved: a few words */
};

/* Fills ret whole; what it points to is the state's, valid until the next quiescent state. purpose: for a
 * waypoint or a gateway; of a gateway's endpoints those that are ejected are never chosen. random and filter:
 * see route.h. */
void reference_resolve(const struct state *state, const struct gateway_reference *reference,
                       const struct workload *source, enum balance_purpose purpose, uint64_t *random,
                       const struct endpoint_filter *filter, struct reference_target *ret);

/* True if the reference stands for this workload: it owns the address, or is an endpoint of the service.
 * arrival: one of its addresses that counts, NULL: any. */
bool reference_names(const struct state *state, const struct gateway_reference *reference,
                     const struct workload_full *workload, const struct addr *arrival);

/* "network/address" or "namespace/hostname"; returns buf. */
const char *reference_format(const struct gateway_reference *reference, char *buf, size_t size);

#endif
