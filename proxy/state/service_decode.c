/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/service_decode.h"

#include <stdlib.h>

#include "lib/spiffe.h"
#include "proxy/state/decode.h"
#include "proxy/state/gateway_reference.h"
#include "proxy/state/intern.h"

typedef Istio__Workload__Service Message;

static int address_prefix(const Istio__Workload__NetworkAddress *address, struct cidr *ret)
{
    uint32_t length = (uint32_t)address->address.len * 8;

    if (address->prefix_case == ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH)
        length = address->length;
    return prefix_decode(&address->address, length, ret);
}

static int check(const Message *m, char *error, size_t error_size)
{
    struct cidr cidr;
    int r;

    if (!*m->hostname)
        return refuse(error, error_size, "a service without hostname");
    if (m->n_addresses > STATE_LIST_MAX || m->n_weighted_waypoints > STATE_LIST_MAX)
        return refuse(error, error_size, "more than %d addresses or waypoints", STATE_LIST_MAX);
    for (size_t i = 0; i < m->n_addresses; i++) {
        if (address_prefix(m->addresses[i], &cidr) < 0)
            return refuse(error, error_size, "address %zu has %zu bytes or too long a prefix", i,
                          m->addresses[i]->address.len);
    }
    for (size_t i = 0; i < m->n_weighted_waypoints; i++) {
        if (!m->weighted_waypoints[i]->destination)
            return refuse(error, error_size, "weighted waypoint %zu without a destination", i);
        r = gateway_reference_check(m->weighted_waypoints[i]->destination, "weighted waypoint", error,
                                    error_size);
        if (r < 0)
            return r;
    }
    return gateway_reference_check(m->waypoint, "waypoint", error, error_size);
}

/* Sets the pointers to the parts behind the struct; with s NULL it counts. Returns the size of all. */
static size_t place(const Message *m, struct service_full *s)
{
    struct layout l = {.base = (char *)s};
    struct service_full scratch, *to = s ? s : &scratch;

    layout_take(&l, sizeof(*s));
    to->addresses = layout_take(&l, m->n_addresses * sizeof(*to->addresses));
    to->weighted = layout_take(&l, m->n_weighted_waypoints * sizeof(*to->weighted));
    to->alternative_names = layout_take(&l, m->n_subject_alt_names * sizeof(*to->alternative_names));
    to->waypoint = m->waypoint ? layout_take(&l, sizeof(*to->waypoint)) : NULL;
    to->ports = layout_take(&l, m->n_ports * sizeof(*to->ports));
    to->preferences = layout_take(&l, m->load_balancing ? m->load_balancing->n_routing_preference : 0);
    to->public.name = layout_text(&l, m->name);
    return l.len;
}

static void fill_balancing(struct service_full *s, const Istio__Workload__LoadBalancing *m)
{
    static bool warned_mode, warned_health, warned_scope;
    uint8_t *preferences = (uint8_t *)(uintptr_t)s->preferences;

    s->load_balancing = true;
    if ((unsigned)m->mode <= BALANCE_PASSTHROUGH)
        s->mode = (uint8_t)m->mode;
    else
        warn_unknown(&warned_mode, "load_balancing.mode", (int)m->mode, "UNSPECIFIED_MODE");
    s->allow_unhealthy = m->health_policy == ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL;
    if ((unsigned)m->health_policy > ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL)
        warn_unknown(&warned_health, "load_balancing.health_policy", (int)m->health_policy, "ONLY_HEALTHY");
    for (size_t i = 0; i < m->n_routing_preference; i++) {
        unsigned scope = (unsigned)m->routing_preference[i];

        if (scope >= SCOPE_REGION && scope <= SCOPE_NETWORK)
            preferences[s->preferences_len++] = (uint8_t)scope;
        else
            warn_unknown(&warned_scope, "load_balancing.routing_preference", (int)scope, "absent");
    }
}

static void fill_values(struct service_full *s, const Message *m)
{
    static bool warned_families, warned_visibility;
    struct port_map *ports = (struct port_map *)(uintptr_t)s->ports;

    for (size_t i = 0; i < m->n_ports; i++)
        ports[i] =
            (struct port_map){port_decode(m->ports[i]->service_port), port_decode(m->ports[i]->target_port)};
    s->ports_len = (uint32_t)m->n_ports;
    if (m->load_balancing)
        fill_balancing(s, m->load_balancing);
    if ((unsigned)m->ip_families <= FAMILIES_DUAL)
        s->families = (uint8_t)m->ip_families;
    else
        warn_unknown(&warned_families, "ip_families", (int)m->ip_families, "AUTOMATIC");
    s->canonical = m->canonical;
    s->namespace_only = m->visibility == ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE;
    if ((unsigned)m->visibility > ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE)
        warn_unknown(&warned_visibility, "visibility", (int)m->visibility, "PUBLIC");
}

/* Those that can be a peer's identity first, the others behind them (they are only shown). */
static int fill_alternative_names(struct service_full *s, const Message *m)
{
    for (int usable = 1; usable >= 0; usable--) {
        for (size_t i = 0; i < m->n_subject_alt_names; i++) {
            const char *text = m->subject_alt_names[i], *name;
            struct spiffe parts;

            if ((spiffe_parse(text, strlen(text), &parts) == 0) != usable)
                continue;
            name = intern_get(text);
            if (!name)
                return -ENOMEM;
            s->alternative_names[s->alternative_names_len++] = name;
        }
        if (usable)
            s->public.subject_alt_names_len = s->alternative_names_len;
    }
    s->public.subject_alt_names = s->alternative_names;
    return 0;
}

static int fill_lists(struct service_full *s, const Message *m)
{
    struct weighted_waypoint *weighted = (struct weighted_waypoint *)(uintptr_t)s->weighted;

    for (size_t i = 0; i < m->n_addresses; i++) {
        struct service_address *a = &s->addresses[s->addresses_len];

        address_prefix(m->addresses[i], &a->cidr);
        a->offset = (uint32_t)((char *)a - (char *)s);
        a->network = intern_get(m->addresses[i]->network);
        if (!a->network)
            return -ENOMEM;
        if (service_same_address(s, a)) { /* none twice */
            intern_put(a->network);
            continue;
        }
        s->addresses_len++;
    }
    for (size_t i = 0; i < m->n_weighted_waypoints; i++) {
        s->weighted_len++; /* counted first: a half-filled one is released too */
        weighted[i].weight = m->weighted_waypoints[i]->weight;
        s->weights += weighted[i].weight;
        if (gateway_reference_fill(&weighted[i].reference, m->weighted_waypoints[i]->destination) < 0)
            return -ENOMEM;
    }
    if (s->waypoint &&
        gateway_reference_fill((struct gateway_reference *)(uintptr_t)s->waypoint, m->waypoint) < 0)
        return -ENOMEM;
    return fill_alternative_names(s, m);
}

int service_decode(const Message *m, const struct node_source *nodes, struct service_full **ret, char *error,
                   size_t error_size)
{
    struct service_full *s;
    int r = check(m, error, error_size);

    if (r < 0)
        return r;
    s = calloc(1, place(m, NULL));
    if (!s)
        return -ENOMEM;
    place(m, s);
    s->public.references = 1;
    s->public.namespace = intern_get(m->namespace_);
    s->public.hostname = intern_get(m->hostname);
    s->node = nodes->get(nodes->data, m->namespace_, m->hostname);
    r = s->public.namespace && s->public.hostname && s->node ? fill_lists(s, m) : -ENOMEM;
    if (r < 0) {
        service_unref(&s->public);
        return r;
    }
    fill_values(s, m);
    *ret = s;
    return 0;
}
