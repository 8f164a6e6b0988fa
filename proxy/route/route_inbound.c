/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>

#include "bruma/mesh.h"
#include "proxy/route/authority.h"
#include "proxy/route/route.h"
#include "proxy/route/route_reference.h"
#include "proxy/state/state_store.h"

struct ownership {
    const struct state *state;
    const struct workload_full *local;
    const struct addr *arrival;
};

/* True if the service's traffic goes through the local workload: one of its waypoints is it. */
static bool serves(void *data, const struct service_full *service)
{
    const struct ownership *o = data;

    if (service->waypoint && reference_names(o->state, service->waypoint, o->local, o->arrival))
        return true;
    for (size_t i = 0; i < service->weighted_len; i++) {
        if (reference_names(o->state, &service->weighted[i].reference, o->local, o->arrival))
            return true;
    }
    return false;
}

/* Step 5: may a tunnel that arrived here name this address? */
static bool address_allowed(const struct state *state, const struct workload_full *local,
                            const struct addr *arrival, const struct addr *addr)
{
    struct ownership o = {state, local, arrival};
    const struct workload_full *named;

    if (addr_equal(addr, arrival) || local->application_tunnel)
        return true;
    named = find_workload(state, state->network, addr);
    if (named)
        return named->waypoint && reference_names(state, named->waypoint, local, arrival);
    return each_service_by_vip(state, state->network, addr, serves, &o);
}

/* An address that stands for the service in a PROXY header: of our network first, IPv4 first. */
static const struct addr *service_vip(const struct state *state, const struct service_full *service)
{
    const struct addr *best = NULL;
    int best_score = -1;

    for (size_t i = 0; i < service->addresses_len; i++) {
        const struct service_address *a = &service->addresses[i];
        int score = (a->network == state->network ? 2 : 0) + (addr_is_v4(&a->cidr.addr) ? 1 : 0);

        if (a->cidr.length == 128 && score > best_score) {
            best_score = score;
            best = &a->cidr.addr;
        }
    }
    return best;
}

/* Step 6 for a hostname: the port of the local workload that stands for the service's port. */
static uint16_t hostname_port(const struct workload_full *local, const struct service_full *service,
                              uint16_t port)
{
    const struct workload_service *membership = workload_membership(local, service);
    const struct port_map *of_service;
    uint16_t mapped = membership ? workload_service_port(membership, port) : 0;

    if (mapped)
        return mapped;
    of_service = service_port(service, port);
    return of_service ? of_service->target : 0;
}

static void refused(struct inbound_target *ret, int status, enum bruma_reason reason)
{
    ret->status = status;
    ret->reason = reason;
}

static void resolve_hostname(const struct state *state, const struct workload_full *local,
                             const struct authority *authority, struct inbound_target *ret)
{
    const struct service_full *service =
        find_service_by_hostname(state, authority->host, local->public.namespace);
    const struct addr *vip;

    ret->target.port = service ? hostname_port(local, service, authority->port) : 0;
    if (!ret->target.port) {
        refused(ret, 503, BRUMA_REASON_BAD_AUTHORITY);
        return;
    }
    if (!ret->proxy_header)
        return;
    vip = service_vip(state, service);
    if (vip)
        ret->original = (struct endpoint){*vip, authority->port};
    else
        refused(ret, 503, BRUMA_REASON_BAD_AUTHORITY);
}

/* host= of a Forwarded header; 0 if there is none. */
static size_t forwarded_host(const char *text, size_t len, const char **ret)
{
    const char *at = text, *end = text + len;

    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] >= 0x80)
            return 0;
    }
    while (at < end) {
        const char *semicolon = memchr(at, ';', (size_t)(end - at));
        const char *stop = semicolon ? semicolon : end;

        if (stop - at > 5 && !memcmp(at, "host=", 5)) {
            at += 5;
            if (stop - at >= 2 && *at == '"' && stop[-1] == '"') {
                at++;
                stop--;
            }
            *ret = at;
            return (size_t)(stop - at);
        }
        at = semicolon ? semicolon + 1 : end;
    }
    return 0;
}

static bool has_target_port(const struct workload_service *membership, const struct service_full *service,
                            uint16_t port)
{
    for (size_t i = 0; i < service->ports_len; i++) {
        uint16_t mapped = workload_service_port(membership, service->ports[i].service);

        if (service->ports[i].target == port || mapped == port)
            return true;
    }
    return false;
}

/* The service that telemetry names (end of section 5.1). */
static const struct service_full *named_service(const struct workload_full *local, uint16_t port,
                                                const char *host, size_t host_len)
{
    const struct service_full *first = NULL;

    for (size_t i = 0; i < local->services_len; i++) {
        const struct workload_service *m = &local->services[i];
        const struct service_full *s = rcu_read(m->node->service);

        if (!s)
            continue;
        if (host_len && strlen(s->public.hostname) == host_len && !memcmp(s->public.hostname, host, host_len))
            return s;
        if (!first && has_target_port(m, s, port))
            first = s;
    }
    return first;
}

void route_inbound(const struct state *state, const struct workload *local_workload,
                   const struct endpoint *arrival, const char *authority_text, size_t authority_len,
                   const char *forwarded, size_t forwarded_len, struct inbound_target *ret)
{
    const struct workload_full *local = workload_full(local_workload);
    const struct service_full *service;
    struct authority authority;
    const char *host = NULL;
    size_t host_len;

    *ret = (struct inbound_target){.status = 200, .target = *arrival};
    ret->proxy_header = local->application_tunnel && local->public.application_tunnel_protocol;
    if (authority_parse(authority_text, authority_len, &authority) < 0) {
        refused(ret, 400, BRUMA_REASON_BAD_AUTHORITY);
        return;
    }
    if (!authority.is_address) {
        resolve_hostname(state, local, &authority, ret);
    } else if (address_allowed(state, local, &arrival->addr, &authority.addr)) {
        ret->target.port = authority.port;
        ret->original = (struct endpoint){authority.addr, authority.port};
    } else {
        refused(ret, 400, BRUMA_REASON_BAD_AUTHORITY);
    }
    if (ret->status == 200 && route_is_own_port(ret->target.port))
        refused(ret, 503, BRUMA_REASON_SELF_CALL);
    if (ret->status != 200)
        return;
    if (local->public.application_tunnel_port)
        ret->target.port = local->public.application_tunnel_port;
    host_len = forwarded ? forwarded_host(forwarded, forwarded_len, &host) : 0;
    service = named_service(local, ret->target.port, host, host_len);
    if (service) {
        service_ref(&service->public);
        ret->service = &service->public;
    }
}
