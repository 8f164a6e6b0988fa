/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/endpoints.h"

#include <string.h>

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

static bool is_left_out(const struct endpoint_filter *f, const struct endpoint *endpoint)
{
    struct endpoint host = ejected_host(&endpoint->addr);

    if (f->leaving && ejected_has(f->leaving, &host, f->now))
        return true;
    if (f->ejected && ejected_has(f->ejected, endpoint, f->now))
        return true;
    for (unsigned i = 0; i < f->tried_len; i++) {
        if (endpoint_equal(&f->tried[i], endpoint))
            return true;
    }
    return false;
}

/* What a filter knows the workload by: its first address; or, where a hostname stands for it, a hash of that.
 */
static struct addr endpoint_name(const struct workload_full *w)
{
    struct addr name;
    uint64_t hash[2];

    if (w->addresses_len)
        return w->addresses[0].addr;
    hash[0] = hash_text(w->public.hostname);
    hash[1] = hash_pair(hash[0], 1);
    memcpy(name.bytes, hash, sizeof(name.bytes));
    return name;
}

/* Fills what a look at one endpoint tells. True: it is a candidate. */
static bool candidate(const struct workload_service *membership, const struct workload *source,
                      const struct port_map *of_service, uint16_t port, enum balance_purpose purpose,
                      const struct endpoint_filter *filter, struct choice_of_endpoint *ret)
{
    const struct workload_full *w = workload_of_service(membership);

    ret->port = endpoint_port(membership, of_service, port, purpose);
    if (!ret->port)
        return false;
    if (w->public.network != source->network) {
        ret->other_network |= w->gateway || w->addresses_len || *w->public.hostname;
        return false;
    }
    if (!w->addresses_len && !*w->public.hostname)
        return false;
    ret->endpoint = (struct endpoint){endpoint_name(w), ret->port};
    if (filter && is_left_out(filter, &ret->endpoint)) {
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
static bool choose_quickly(const struct service_full *s, const struct endpoints *e,
                           const struct workload *source, const struct port_map *of_service, uint16_t port,
                           enum balance_purpose purpose, uint64_t *random,
                           const struct endpoint_filter *filter, struct choice_of_endpoint *ret)
{
    int best = best_rank(s);

    for (int i = 0; i < TRIES; i++) {
        const struct workload_service *m = e->items[random_below(random, e->len)];

        if (random_below(random, e->capacity_max) < workload_of_service(m)->public.capacity &&
            candidate(m, source, of_service, port, purpose, filter, ret) &&
            rank(s, source, &ret->workload->public) == best)
            return true;
    }
    ret->workload = NULL;
    return false;
}

static void choose_ranked(const struct service_full *s, const struct endpoints *e,
                          const struct workload *source, const struct port_map *of_service, uint16_t port,
                          enum balance_purpose purpose, uint64_t *random,
                          const struct endpoint_filter *filter, struct choice_of_endpoint *ret)
{
    struct choice_of_endpoint best = {};
    uint64_t total = 0;
    int highest = -1;

    for (uint32_t i = 0; i < e->len; i++) {
        struct choice_of_endpoint now = {};
        uint32_t capacity;
        int r;

        if (!candidate(e->items[i], source, of_service, port, purpose, filter, &now)) {
            ret->other_network |= now.other_network;
            ret->left_out |= now.left_out;
            continue;
        }
        r = rank(s, source, &now.workload->public);
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
        if (capacity && random_below(random, total) < capacity)
            best = now;
    }
    ret->workload = best.workload;
    ret->port = best.port;
    ret->endpoint = best.endpoint;
}

static void choose(const struct service_full *s, const struct endpoints *e, const struct workload *source,
                   const struct port_map *of_service, uint16_t port, enum balance_purpose purpose,
                   uint64_t *random, const struct endpoint_filter *filter, struct choice_of_endpoint *ret)
{
    if (!choose_quickly(s, e, source, of_service, port, purpose, random, filter, ret))
        choose_ranked(s, e, source, of_service, port, purpose, random, filter, ret);
}

void endpoints_choose(const struct service_full *service, const struct workload *source, uint16_t port,
                      enum balance_purpose purpose, uint64_t *random, const struct endpoint_filter *filter,
                      struct choice_of_endpoint *ret)
{
    const struct endpoints *e = rcu_read(service->node->endpoints);
    const struct port_map *of_service = service_port(service, port);
    struct endpoint_filter use = {};

    *ret = (struct choice_of_endpoint){.no_port = !of_service && purpose == BALANCE_FOR_TRAFFIC};
    if (!e || ret->no_port || !e->capacity_max)
        return;
    if (filter)
        use = *filter;
    choose(service, e, source, of_service, port, purpose, random, &use, ret);
    /* One that leaves serves still. */
    if (!ret->workload && ret->left_out && use.leaving) {
        use.leaving = NULL;
        choose(service, e, source, of_service, port, purpose, random, &use, ret);
    }
    if (!ret->workload && ret->left_out && use.ejected) {
        use.ejected = NULL;
        choose(service, e, source, of_service, port, purpose, random, &use, ret);
    }
}
