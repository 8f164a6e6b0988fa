/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/route.h"

#include <stdarg.h>
#include <stdio.h>

#include "bruma/mesh.h"
#include "proxy/route/endpoints.h"
#include "proxy/route/route_reference.h"
#include "proxy/state/state_store.h"

/* One decision; what the steps of section 4.1 share. */
struct decision {
    const struct state *state;
    const struct workload_full *source;
    const struct endpoint *destination;
    uint64_t *random;
    const struct endpoint_filter *filter;
    struct route *route;
};

static void __attribute__((format(printf, 3, 4)))
fail(struct decision *d, enum bruma_reason reason, const char *format, ...)
{
    va_list arguments;

    d->route->kind = ROUTE_FAILED;
    d->route->reason = reason;
    va_start(arguments, format);
    vsnprintf(d->route->detail, sizeof(d->route->detail), format, arguments);
    va_end(arguments);
}

static void keep_service(const struct service **field, const struct service_full *service)
{
    if (!service)
        return;
    service_ref(&service->public);
    *field = &service->public;
}

static const struct workload *keep_workload(const struct workload_full *w)
{
    workload_ref(&w->public);
    return &w->public;
}

static void keep_upstream(struct decision *d, const struct workload_full *upstream)
{
    d->route->upstream = keep_workload(upstream);
}

/* ---- addresses (section 4.5) ---- */

static bool family_allowed(const struct service_full *service, const struct addr *addr)
{
    if (!service)
        return true;
    if (service->families == FAMILIES_IPV4)
        return addr_is_v4(addr);
    if (service->families == FAMILIES_IPV6)
        return !addr_is_v4(addr);
    return true;
}

/* The workload's address to use: the wanted one if it has it, else one of its family, else any that the
 * service allows. NULL: none. */
static const struct addr *listed_address(const struct workload_full *w, const struct service_full *service,
                                         const struct addr *wanted)
{
    const struct addr *other = NULL;

    if (workload_has_address(w, wanted))
        return wanted;
    for (size_t i = 0; i < w->addresses_len; i++) {
        const struct addr *a = &w->addresses[i].addr;

        if (!family_allowed(service, a))
            continue;
        if (addr_is_v4(a) == addr_is_v4(wanted))
            return a;
        if (!other)
            other = a;
    }
    return other;
}

/* Where the workload is reached, at that port. One with a hostname in place of addresses is asked of DNS by
 * the caller. False: it has no address that may be used. */
static bool set_target(struct decision *d, const struct workload_full *w, const struct service_full *service,
                       const struct addr *wanted, uint16_t port)
{
    const struct addr *addr = listed_address(w, service, wanted);

    d->route->target = (struct endpoint){.port = port};
    if (addr) {
        d->route->target.addr = *addr;
        return true;
    }
    if (w->addresses_len || !*w->public.hostname) {
        fail(d, BRUMA_REASON_NO_HEALTHY_UPSTREAM, "workload %s/%s has no address of a usable family",
             w->public.namespace, w->public.name);
        return false;
    }
    d->route->hostname = w->public.hostname;
    d->route->prefers_ipv4 = addr_is_v4(wanted);
    return true;
}

/* ---- other networks (section 4.4) ---- */

/* Neither without a gateway nor without knowing whom to expect behind it. */
static void fail_other_network(struct decision *d, const struct service_full *s, bool no_names)
{
    if (no_names)
        fail(d, BRUMA_REASON_GATEWAY_NAMES_MISSING,
             "service %.30s/%.50s is in other networks only, without subject alternative names",
             s->public.namespace, s->public.hostname);
    else
        fail(d, BRUMA_REASON_GATEWAY_UNRESOLVED,
             "service %.30s/%.50s is in other networks only, without a gateway", s->public.namespace,
             s->public.hostname);
}

/* service: the one that was dialed. expected: whose names the other end may have. */
static void through_gateway(struct decision *d, const struct service_full *service,
                            const struct service_full *expected, const struct workload_full *upstream,
                            const struct gateway_target *gateway)
{
    const struct addr *wanted = gateway->hint ? gateway->hint : &d->destination->addr;

    if (!service || !gateway->workload) {
        fail(d, BRUMA_REASON_GATEWAY_UNRESOLVED, "%.40s/%.40s is in network \"%.24s\", and %s",
             upstream->public.namespace, upstream->public.name, upstream->public.network,
             service ? "no gateway is known to it" : "not called by a service");
        return;
    }
    if (!set_target(d, gateway->workload, gateway->service, wanted, gateway->port))
        return;
    d->route->kind = ROUTE_HBONE;
    snprintf(d->route->authority, ROUTE_AUTHORITY_LEN, "%s:%u", service->public.hostname,
             d->destination->port);
    d->route->gateway = keep_workload(gateway->workload);
    keep_service(&d->route->gateway_service, gateway->service);
    keep_upstream(d, upstream);
    keep_service(&d->route->expected_service, expected);
}

/* ---- waypoints ---- */

static const struct gateway_reference *waypoint_of_service(const struct service_full *s, uint64_t *random)
{
    uint64_t at;

    if (!s->weights)
        return s->waypoint;
    at = random_below(random, s->weights);
    for (size_t i = 0; i < s->weighted_len; i++) {
        if (at < s->weighted[i].weight)
            return &s->weighted[i].reference;
        at -= s->weighted[i].weight;
    }
    return s->waypoint;
}

static void fail_waypoint(struct decision *d, const struct gateway_reference *reference,
                          const struct reference_target *target)
{
    char name[160];

    reference_format(reference, name, sizeof(name));
    if (target->no_names)
        fail(d, BRUMA_REASON_GATEWAY_NAMES_MISSING,
             "waypoint %.60s is in another network, and its service has no subject alternative names", name);
    else if (target->no_gateway)
        fail(d, BRUMA_REASON_GATEWAY_UNRESOLVED, "waypoint %.60s is in another network, without a gateway",
             name);
    else
        fail(d, BRUMA_REASON_WAYPOINT_UNRESOLVED, "waypoint %.80s: %s", name, target->why);
}

/* The waypoint becomes the upstream; the original destination stays the authority. There is no way around it.
 * service: the one that was dialed, or NULL. */
static void through_waypoint(struct decision *d, const struct gateway_reference *reference,
                             const struct service_full *service)
{
    const struct addr *hint = reference->network ? &reference->addr : &d->destination->addr;
    struct reference_target target;

    reference_resolve(d->state, reference, &d->source->public, BALANCE_FOR_WAYPOINT, d->random, d->filter,
                      &target);
    if (!target.workload) {
        fail_waypoint(d, reference, &target);
        return;
    }
    d->route->via_waypoint = true;
    d->route->endpoint = target.endpoint;
    if (target.workload->public.network != d->source->public.network) {
        if (!target.service) /* and so no names to expect */
            target.no_names = true;
        if (target.no_names)
            fail_waypoint(d, reference, &target);
        else
            through_gateway(d, service, target.service, target.workload, &target.gateway);
        return;
    }
    if (!set_target(d, target.workload, target.service, hint, target.port))
        return;
    d->route->kind = ROUTE_HBONE;
    endpoint_format(d->destination, d->route->authority);
    keep_upstream(d, target.workload);
    keep_service(&d->route->expected_service, target.service);
}

/* ---- direct (steps 6 to 11) ---- */

static void fail_no_upstream(struct decision *d, const struct service_full *s,
                             const struct choice_of_endpoint *choice)
{
    if (choice->no_port)
        fail(d, BRUMA_REASON_NO_HEALTHY_UPSTREAM, "service %s/%s has no port %u", s->public.namespace,
             s->public.hostname, d->destination->port);
    else if (choice->no_names || choice->no_gateway)
        fail_other_network(d, s, choice->no_names);
    else
        fail(d, BRUMA_REASON_NO_HEALTHY_UPSTREAM, "service %s/%s has no usable endpoint for port %u",
             s->public.namespace, s->public.hostname, d->destination->port);
}

static void passthrough(struct decision *d)
{
    d->route->kind = ROUTE_PASSTHROUGH;
    d->route->target = *d->destination;
}

/* A waypoint that calls a workload behind it does not go through itself again (step 9). */
static bool is_own_waypoint(struct decision *d, const struct workload_full *upstream)
{
    return upstream->waypoint && reference_names(d->state, upstream->waypoint, d->source, NULL);
}

/* The target is reached by a tunnel to its own pod or node. */
static void tunnel_to_target(struct route *route)
{
    endpoint_format(&route->target, route->authority);
    route->application_port = route->target.port;
    route->target.port = BRUMA_PORT_HBONE;
}

static void direct(struct decision *d, const struct service_full *service,
                   const struct workload_full *upstream, uint16_t port, bool service_addressed)
{
    if (!set_target(d, upstream, service, &d->destination->addr, port))
        return;
    if (!service_addressed && upstream->waypoint && !is_own_waypoint(d, upstream)) {
        d->route->hostname = NULL; /* the waypoint's, if it has one */
        through_waypoint(d, upstream->waypoint, NULL);
        return;
    }
    if (upstream->public.protocol == TUNNEL_HBONE) {
        d->route->kind = ROUTE_HBONE;
        if (!d->route->hostname)
            tunnel_to_target(d->route);
        keep_service(&d->route->expected_service, service);
    } else {
        d->route->kind = ROUTE_TCP;
    }
    keep_upstream(d, upstream);
    keep_service(&d->route->service, service);
}

/* known: the service that the address belongs to in the node's network (step 4), or NULL. */
static void select_upstream(struct decision *d, const struct service_full *known)
{
    const struct workload *source = &d->source->public;
    const struct service_full *service =
        find_service_by_vip(d->state, source->network, &d->destination->addr, source->namespace);
    const struct workload_full *workload;
    struct choice_of_endpoint choice;

    if (service && service->mode == BALANCE_PASSTHROUGH) {
        passthrough(d);
        return;
    }
    if (service) {
        endpoints_choose(d->state, service, source, d->destination->port, BALANCE_FOR_TRAFFIC, d->random,
                         d->filter, &choice);
        if (choice.workload) {
            d->route->endpoint = choice.endpoint;
            if (choice.workload->public.network != source->network) {
                through_gateway(d, known ? service : NULL, service, choice.workload, &choice.gateway);
                keep_service(&d->route->service, service);
                return;
            }
            direct(d, service, choice.workload, choice.port, known != NULL);
        } else {
            fail_no_upstream(d, service, &choice);
        }
        return;
    }
    workload = find_workload(d->state, source->network, &d->destination->addr);
    if (workload)
        direct(d, NULL, workload, d->destination->port, known != NULL);
    else if (known && known->mode != BALANCE_PASSTHROUGH)
        fail(d, BRUMA_REASON_NO_HEALTHY_UPSTREAM, "service %s/%s is not known in network \"%.32s\"",
             known->public.namespace, known->public.hostname, source->network);
    else
        passthrough(d);
}

void route_outbound(const struct state *state, const struct workload *source,
                    const struct endpoint *destination, uint64_t *random,
                    const struct endpoint_filter *filter, struct route *ret)
{
    const struct gateway_reference *waypoint = NULL;
    const struct service_full *service = NULL;
    struct endpoint_filter noting = filter ? *filter : (struct endpoint_filter){};
    struct decision d = {.state = state,
                         .source = workload_full(source),
                         .destination = destination,
                         .random = random,
                         .filter = &noting,
                         .route = ret};

    noting.needs = &ret->needs;
    *ret = (struct route){};
    if (addr_is_loopback(&destination->addr) && route_is_own_port(destination->port)) {
        fail(&d, BRUMA_REASON_SELF_CALL, "port %u is the proxy's own", destination->port);
        return;
    }
    if (!find_workload(state, state->network, &destination->addr))
        service = find_service_by_vip(state, state->network, &destination->addr, source->namespace);
    if (service)
        waypoint = waypoint_of_service(service, random);
    if (waypoint) {
        through_waypoint(&d, waypoint, service);
        if (ret->kind == ROUTE_HBONE)
            keep_service(&ret->service, service);
    } else {
        select_upstream(&d, service);
    }
}

bool route_refers(const struct route *route)
{
    return route->needs.len || (route->upstream && workload_full(route->upstream)->waypoint);
}

void route_resolved(struct route *route, const struct addr *addr)
{
    route->target.addr = *addr;
    route->hostname = NULL;
    if (route->kind == ROUTE_HBONE && !route->via_waypoint && !route->gateway)
        tunnel_to_target(route);
}

void route_release(struct route *route)
{
    workload_unref(route->upstream);
    service_unref(route->service);
    service_unref(route->expected_service);
    workload_unref(route->gateway);
    service_unref(route->gateway_service);
    route->upstream = route->gateway = NULL;
    route->service = route->expected_service = route->gateway_service = NULL;
}
