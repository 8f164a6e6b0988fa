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

static void keep_upstream(struct decision *d, const struct workload_full *upstream)
{
    workload_ref(&upstream->public);
    d->route->upstream = &upstream->public;
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

static void fail_other_network(struct decision *d, const struct workload_full *w)
{
    fail(d, BRUMA_REASON_GATEWAY_UNRESOLVED,
         "%s/%s is in network \"%.32s\": tunnels through a gateway (double HBONE) are not supported",
         w->public.namespace, w->public.name, w->public.network);
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

/* The waypoint becomes the upstream; the original destination stays the authority. There is no way around it.
 */
static void through_waypoint(struct decision *d, const struct gateway_reference *reference)
{
    const struct addr *hint = reference->network ? &reference->addr : &d->destination->addr;
    struct reference_target target;
    char name[160];

    reference_resolve(d->state, reference, &d->source->public, d->random, d->filter, &target);
    if (!target.workload) {
        reference_format(reference, name, sizeof(name));
        if (target.other_network)
            fail(d, BRUMA_REASON_GATEWAY_UNRESOLVED, "waypoint %.80s is in another network", name);
        else
            fail(d, BRUMA_REASON_WAYPOINT_UNRESOLVED, "waypoint %.80s: %s", name, target.why);
        return;
    }
    if (target.workload->public.network != d->source->public.network) {
        fail_other_network(d, target.workload);
        return;
    }
    if (!set_target(d, target.workload, target.service, hint, target.port))
        return;
    d->route->kind = ROUTE_HBONE;
    d->route->via_waypoint = true;
    d->route->endpoint = target.endpoint;
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
    else if (choice->other_network)
        fail(d, BRUMA_REASON_GATEWAY_UNRESOLVED,
             "service %s/%s has endpoints in other networks only, and double HBONE is not supported",
             s->public.namespace, s->public.hostname);
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
    route->target.port = BRUMA_PORT_HBONE;
}

static void direct(struct decision *d, const struct service_full *service,
                   const struct workload_full *upstream, uint16_t port, bool service_addressed)
{
    if (upstream->public.network != d->source->public.network) {
        fail_other_network(d, upstream);
        return;
    }
    if (!set_target(d, upstream, service, &d->destination->addr, port))
        return;
    if (!service_addressed && upstream->waypoint && !is_own_waypoint(d, upstream)) {
        d->route->hostname = NULL; /* the waypoint's, if it has one */
        through_waypoint(d, upstream->waypoint);
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
        endpoints_choose(service, source, d->destination->port, BALANCE_FOR_TRAFFIC, d->random, d->filter,
                         &choice);
        if (choice.workload) {
            d->route->endpoint = choice.endpoint;
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
    struct decision d = {.state = state,
                         .source = workload_full(source),
                         .destination = destination,
                         .random = random,
                         .filter = filter,
                         .route = ret};

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
        through_waypoint(&d, waypoint);
        if (ret->kind == ROUTE_HBONE)
            keep_service(&ret->service, service);
    } else {
        select_upstream(&d, service);
    }
}

void route_resolved(struct route *route, const struct addr *addr)
{
    route->target.addr = *addr;
    route->hostname = NULL;
    if (route->kind == ROUTE_HBONE && !route->via_waypoint)
        tunnel_to_target(route);
}

void route_release(struct route *route)
{
    workload_unref(route->upstream);
    service_unref(route->service);
    service_unref(route->expected_service);
    route->upstream = NULL;
    route->service = route->expected_service = NULL;
}

bool route_expects(const struct workload *upstream, const struct service *expected_service,
                   const struct trust_domains *aliases, const char *own, const char *identity)
{
    if (!identity || !*identity)
        return false;
    if (upstream && trust_domains_same_identity(aliases, own, upstream->identity, identity))
        return true;
    for (size_t i = 0; expected_service && i < expected_service->subject_alt_names_len; i++) {
        if (trust_domains_same_identity(aliases, own, expected_service->subject_alt_names[i], identity))
            return true;
    }
    return false;
}

uint64_t route_expected_hash(const struct workload *upstream, const struct service *expected_service)
{
    uint64_t sum = upstream ? hash_text(upstream->identity) : 0;

    /* a sum: the order of the names does not matter. The hash is keyed, so nobody can aim at an equal one. */
    for (size_t i = 0; expected_service && i < expected_service->subject_alt_names_len; i++)
        sum += hash_pair(1, hash_text(expected_service->subject_alt_names[i]));
    return hash_pair(sum, 2);
}
