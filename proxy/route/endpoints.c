/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/endpoints.h"

#include <string.h>

#include "proxy/route/gateway.h"
#include "proxy/state/hash.h"
#include "proxy/state/state_store.h"

#define TRIES 16 /* random picks before all endpoints are looked at */

uint64_t random_below(uint64_t *random, uint64_t limit)
{
    uint64_t x = *random ? *random : 0x9e3779b97f4a7c15u;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *random = x;
    /* the high bits of the product: an even spread without a division */
    return (uint64_t)(((unsigned __int128)(x * 0x2545f4914f6cdd1du) * limit) >> 64);
}

/* The port to use at an endpoint; 0: not a candidate. */
static uint16_t endpoint_port(const struct workload_service *membership, const struct port_map *of_service,
                              uint16_t port, enum balance_purpose purpose)
{
    const struct workload_full *w = workload_of_service(membership);
    uint16_t mapped;

    if (!of_service && !(purpose == BALANCE_FOR_WAYPOINT && w->application_tunnel))
        return 0;
    mapped = workload_service_port(membership, port);
    if (mapped)
        return mapped;
    if (of_service && of_service->target)
        return of_service->target;
    return purpose == BALANCE_FOR_WAYPOINT && w->application_tunnel && w->public.application_tunnel_port
               ? port
               : 0;
}

static bool matches(enum balance_scope scope, const struct workload *a, const struct workload *b)
{
    /* shared strings: equal texts are equal pointers */
    switch (scope) {
    case SCOPE_REGION:
        return a->region == b->region;
    case SCOPE_ZONE:
        return a->zone == b->zone;
    case SCOPE_SUBZONE:
        return a->subzone == b->subzone;
    case SCOPE_NODE:
        return a->node == b->node;
    case SCOPE_CLUSTER:
        return a->cluster_id == b->cluster_id;
    case SCOPE_NETWORK:
        return a->network == b->network;
    }
    return false;
}

static bool ranked(const struct service_full *s)
{
    return s->mode == BALANCE_STRICT || s->mode == BALANCE_FAILOVER;
}

/* The rank of an endpoint that has all preferences. */
static int best_rank(const struct service_full *s)
{
    int n = ranked(s) ? (int)s->preferences_len : 0;

    return n && s->preferences[0] == SCOPE_NETWORK ? n + n - 1 : n;
}

/* -1: not allowed. Without ranking all are equal. */
static int rank(const struct service_full *s, const struct workload *source, const struct workload *w)
{
    int found = 0, bonus = 0, n = (int)s->preferences_len;

    if (!ranked(s))
        return 0;
    for (int i = 0; i < n; i++) {
        bool network_first = i == 0 && s->preferences[i] == SCOPE_NETWORK;

        if (matches((enum balance_scope)s->preferences[i], source, w)) {
            found++;
            if (network_first)
                bonus = n - 1; /* any endpoint of the network comes before every other one */
        } else if (!network_first) {
            break;
        }
    }
    return s->mode == BALANCE_STRICT && found < n ? -1 : found + bonus;
}

bool endpoint_is_left_out(const struct endpoint_filter *f, const struct endpoint *endpoint)
{
    struct endpoint host, known = *endpoint;

    if (!f)
        return false;
    host = ejected_host(&endpoint->addr);
    if (f->leaving && ejected_has(f->leaving, &host, f->now))
        return true;
    if (f->ejected && ejected_has(f->ejected, endpoint, f->now))
        return true;
    if (f->behind) {
        known = gateway_endpoint(f->behind, endpoint);
        if (f->ejected && ejected_has(f->ejected, &known, f->now))
            return true;
    }
    for (unsigned i = 0; i < f->tried_len; i++) {
        if (endpoint_equal(&f->tried[i], &known))
            return true;
    }
    return false;
}

struct endpoint endpoint_of_workload(const struct workload_full *w, uint16_t port)
{
    struct endpoint name = {.port = port};
    uint64_t hash[2];

    if (w->addresses_len) {
        name.addr = w->addresses[0].addr;
    } else {
        hash[0] = hash_text(w->public.hostname);
        hash[1] = hash_pair(hash[0], 1);
        memcpy(name.addr.bytes, hash, sizeof(name.addr.bytes));
    }
    return name;
}

/* What a choice is made of: whose endpoints, for whom, by which rules. */
struct choosing {
    const struct state *state;
    const struct service_full *service;
    const struct endpoints *endpoints;
    const struct workload *source;
    const struct port_map *of_service;
    uint16_t port;
    enum balance_purpose purpose;
    uint64_t *random;
    const struct endpoint_filter *filter;
};

/* Behind a gateway, which is chosen with it: of several, another one may be tried later. */
static bool remote_candidate(const struct choosing *c, const struct workload_full *w,
                             struct choice_of_endpoint *ret)
{
    bool left_out = false;

    if (!c->service->public.subject_alt_names_len) {
        ret->no_names = true;
        return false;
    }
    if (!gateway_resolve(c->state, w, c->source, c->random, c->filter, &ret->gateway, &ret->endpoint,
                         &left_out)) {
        ret->left_out |= left_out;
        ret->no_gateway |= !left_out;
        return false;
    }
    ret->workload = w;
    return true;
}

/* Fills what a look at one endpoint tells. True: it is a candidate. */
static bool candidate(const struct choosing *c, const struct workload_service *membership,
                      struct choice_of_endpoint *ret)
{
    const struct workload_full *w = workload_of_service(membership);

    ret->gateway.workload = NULL;
    ret->port = endpoint_port(membership, c->of_service, c->port, c->purpose);
    if (!ret->port)
        return false;
    if (w->public.network != c->source->network && c->purpose != BALANCE_FOR_GATEWAY)
        return remote_candidate(c, w, ret);
    if (!w->addresses_len && !*w->public.hostname)
        return false;
    ret->endpoint = endpoint_of_workload(w, ret->port);
    if (endpoint_is_left_out(c->filter, &ret->endpoint)) {
        ret->left_out = true;
        return false;
    }
    ret->workload = w;
    return true;
}

/*
 * Pick any endpoint, and keep it with a chance in proportion to its capacity if none can be ranked higher.
 * All such endpoints stand in the right proportion to each other, and where they are not few, a service of
 * thousands costs no more than one of two.
 */
static bool choose_quickly(const struct choosing *c, struct choice_of_endpoint *ret)
{
    const struct endpoints *e = c->endpoints;
    int best = best_rank(c->service);

    for (int i = 0; i < TRIES; i++) {
        const struct workload_service *m = e->items[random_below(c->random, e->len)];

        if (random_below(c->random, e->capacity_max) < workload_of_service(m)->public.capacity &&
            candidate(c, m, ret) && rank(c->service, c->source, &ret->workload->public) == best)
            return true;
    }
    ret->workload = NULL;
    return false;
}

static void choose_ranked(const struct choosing *c, struct choice_of_endpoint *ret)
{
    const struct endpoints *e = c->endpoints;
    struct choice_of_endpoint best = {};
    uint64_t total = 0;
    int highest = -1;

    for (uint32_t i = 0; i < e->len; i++) {
        struct choice_of_endpoint now = {};
        uint32_t capacity;
        int r;

        if (!candidate(c, e->items[i], &now)) {
            ret->no_gateway |= now.no_gateway;
            ret->no_names |= now.no_names;
            ret->left_out |= now.left_out;
            continue;
        }
        r = rank(c->service, c->source, &now.workload->public);
        if (r < 0 || r < highest)
            continue;
        if (r > highest) {
            highest = r;
            best.workload = NULL;
            total = 0;
        }
        /* each newcomer takes the place with a chance in proportion to its weight */
        capacity = now.workload->public.capacity;
        total += capacity;
        if (capacity && random_below(c->random, total) < capacity)
            best = now;
    }
    ret->workload = best.workload;
    ret->port = best.port;
    ret->endpoint = best.endpoint;
    ret->gateway = best.gateway;
}

void endpoints_choose_strictly(const struct state *state, const struct service_full *service,
                               const struct workload *source, uint16_t port, enum balance_purpose purpose,
                               uint64_t *random, const struct endpoint_filter *filter,
                               struct choice_of_endpoint *ret)
{
    const struct endpoints *e = rcu_read(service->node->endpoints);
    struct choosing c = {
        .state = state,
        .service = service,
        .endpoints = e,
        .source = source,
        .of_service = service_port(service, port),
        .port = port,
        .purpose = purpose,
        .random = random,
        .filter = filter,
    };

    *ret = (struct choice_of_endpoint){.no_port = !c.of_service && purpose == BALANCE_FOR_TRAFFIC};
    if (!e || ret->no_port || !e->capacity_max)
        return;
    if (!choose_quickly(&c, ret))
        choose_ranked(&c, ret);
}

void endpoints_choose(const struct state *state, const struct service_full *service,
                      const struct workload *source, uint16_t port, enum balance_purpose purpose,
                      uint64_t *random, const struct endpoint_filter *filter, struct choice_of_endpoint *ret)
{
    struct endpoint_filter use = filter ? *filter : (struct endpoint_filter){};

    endpoints_choose_strictly(state, service, source, port, purpose, random, &use, ret);
    /* One that leaves serves still. */
    if (!ret->workload && ret->left_out && use.leaving) {
        use.leaving = NULL;
        endpoints_choose_strictly(state, service, source, port, purpose, random, &use, ret);
    }
    if (!ret->workload && ret->left_out && use.ejected) {
        use.ejected = NULL;
        endpoints_choose_strictly(state, service, source, port, purpose, random, &use, ret);
    }
}
