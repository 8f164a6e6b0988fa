/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/outbound_gateway.h"

#include <stdio.h>

int outbound_gateway_describe(struct connection *c, const struct workload *local, struct route *route)
{
    int r;

    workload_ref(local);
    r = connection_describe(c, local, NULL, route->service, NULL, NULL, route->authority);
    if (r < 0) {
        workload_unref(local);
        return r;
    }
    route->service = NULL;
    c->endpoint = route->endpoint;
    connection_dial(c, &route->target);
    return 0;
}

void outbound_gateway_take(struct stream *s, struct route *route)
{
    unsigned long most = connection_worker(&s->c)->settings->gateway_tunnels;

    s->gateway = route->gateway;
    s->gateway_service = route->gateway_service;
    s->spread = route->upstream->capacity < most ? route->upstream->capacity : (unsigned)most;
    route->gateway = NULL;
    route->gateway_service = NULL;
}

int outbound_gateway_answered(struct stream *s)
{
    struct endpoint target = s->c.flow.destination_address;
    const struct workload *source = s->c.flow.source;
    const struct service *service = s->c.flow.service;
    char authority[ROUTE_AUTHORITY_LEN];
    int r;

    snprintf(authority, sizeof(authority), "%s", s->c.flow.hbone_authority);
    workload_ref(source);
    service_ref(service);
    r = connection_describe(&s->c, source, NULL, service, s->tunnel->tls.peer_identity, s->answer_baggage,
                            authority);
    if (r < 0) {
        workload_unref(source);
        service_unref(service);
        return r;
    }
    connection_open(&s->c, &target);
    return 0;
}
