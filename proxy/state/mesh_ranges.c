/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/mesh_ranges.h"

#include "proxy/state/state_store.h"

/* A workload, a service, or none. */
struct object {
    const struct workload_full *workload;
    const struct service_full *service;
    bool plain; /* a workload that is dialed at its own address, without a tunnel */
};

static struct object workload_object(const struct state *state, const struct workload_full *w)
{
    /* A node's address, which several workloads have, is none of the mesh's. */
    bool plain = w && (w->public.host_network || (w->public.protocol == TUNNEL_NONE && !w->waypoint &&
                                                  w->public.network == state->network));

    return (struct object){.workload = w, .plain = plain};
}

static struct object service_object(const struct service_full *s)
{
    return (struct object){.service = s};
}

static size_t count(const struct object *o)
{
    if (o->workload)
        return (size_t)o->workload->addresses_len + 2;
    return o->service ? (size_t)o->service->addresses_len + o->service->weighted_len + 1 : 0;
}

static bool single(const struct addr *addr, struct cidr *ret)
{
    *ret = (struct cidr){.addr = *addr, .length = 128};
    return true;
}

static bool named(const struct gateway_reference *reference, struct cidr *ret)
{
    return reference && reference->network && single(&reference->addr, ret);
}

/* The one at this place, if there is one. */
static bool range_at(const struct object *o, size_t at, struct cidr *ret)
{
    const struct workload_full *w = o->workload;
    const struct service_full *s = o->service;

    if (w) {
        if (at < w->addresses_len)
            return !o->plain && single(&w->addresses[at].addr, ret);
        return named(at == w->addresses_len ? w->waypoint : w->gateway, ret);
    }
    if (at < s->addresses_len) {
        *ret = s->addresses[at].cidr;
        return true;
    }
    at -= s->addresses_len;
    return named(at < s->weighted_len ? &s->weighted[at].reference : s->waypoint, ret);
}

static bool has(const struct object *o, const struct cidr *range, size_t below)
{
    struct cidr other;

    for (size_t i = 0; i < below; i++) {
        if (range_at(o, i, &other) && other.length == range->length && addr_equal(&other.addr, &range->addr))
            return true;
    }
    return false;
}

/* Each range of o, once, that the other one has not. */
static void each(const struct object *o, const struct object *other, mesh_range_fn fn, void *data)
{
    struct cidr range;

    for (size_t i = 0; i < count(o); i++) {
        if (range_at(o, i, &range) && !has(o, &range, i) && !has(other, &range, count(other)))
            fn(data, &range);
    }
}

void workload_ranges_enter(const struct state *state, const struct workload_full *old,
                           const struct workload_full *next)
{
    const struct object a = workload_object(state, next), b = workload_object(state, old);

    if (state->watch)
        each(&a, &b, state->watch->enters, state->watch->data);
}

void workload_ranges_leave(const struct state *state, const struct workload_full *old,
                           const struct workload_full *next)
{
    const struct object a = workload_object(state, old), b = workload_object(state, next);

    if (state->watch)
        each(&a, &b, state->watch->leaves, state->watch->data);
}

void service_ranges_enter(const struct state *state, const struct service_full *old,
                          const struct service_full *next)
{
    const struct object a = service_object(next), b = service_object(old);

    if (state->watch)
        each(&a, &b, state->watch->enters, state->watch->data);
}

void service_ranges_leave(const struct state *state, const struct service_full *old,
                          const struct service_full *next)
{
    const struct object a = service_object(old), b = service_object(next);

    if (state->watch)
        each(&a, &b, state->watch->leaves, state->watch->data);
}

void state_watch_ranges(struct state *state, const struct mesh_watch *watch)
{
    state->watch = watch;
}

void state_each_range(const struct state *state, mesh_range_fn fn, void *data)
{
    const struct object none = {};
    const struct workload_full *w;
    const struct service_full *s;
    size_t at = 0;

    while ((w = index_each(&state->workloads, &at))) {
        const struct object o = workload_object(state, w);

        each(&o, &none, fn, data);
    }
    at = 0;
    while ((s = index_each(&state->services, &at))) {
        const struct object o = service_object(s);

        each(&o, &none, fn, data);
    }
}
