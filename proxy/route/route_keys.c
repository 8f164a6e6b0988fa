/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/route_keys.h"

#include <stdio.h>

#include "proxy/route/authority.h"
#include "proxy/route/route_reference.h"
#include "proxy/state/state_store.h"

#define KEY_LEN 512

struct asker {
    const struct state *state;
    route_key_fn fn;
    void *data;
    bool waits;
};

static void ask(struct asker *a, const char *key, bool here)
{
    a->waits |= !a->fn(a->data, key, here);
}

static bool found(void *data, const struct service_full *service)
{
    (void)data;
    (void)service;
    return true;
}

/* A prefix that has the address is not it: a service may have the address itself. */
static bool address_is_here(const struct state *state, const char *network, const struct addr *addr)
{
    return find_workload(state, network, addr) || each_service_by_address(state, network, addr, found, NULL);
}

static void ask_address(struct asker *a, const char *network, const struct addr *addr)
{
    char key[KEY_LEN], text[ADDR_TEXT_LEN];

    snprintf(key, sizeof(key), "%s/%s", network, addr_format(addr, text));
    ask(a, key, address_is_here(a->state, network, addr));
}

static void ask_reference(struct asker *a, const struct gateway_reference *r)
{
    char key[KEY_LEN];

    if (r->network) {
        ask_address(a, r->network, &r->addr);
        return;
    }
    reference_format(r, key, sizeof(key));
    ask(a, key,
        find_service(a->state, r->namespace, r->hostname) ||
            find_workload_by_hostname(a->state, r->namespace, r->hostname));
}

bool route_key_address(const struct state *state, const char *network, const struct addr *addr,
                       route_key_fn fn, void *data)
{
    struct asker a = {.state = state, .fn = fn, .data = data};

    ask_address(&a, network ? network : state->network, addr);
    return !a.waits;
}

bool route_keys_of_route(const struct state *state, const struct route *route, route_key_fn fn, void *data)
{
    struct asker a = {.state = state, .fn = fn, .data = data};

    for (unsigned i = 0; i < route->needs.len; i++)
        ask_reference(&a, route->needs.all[i]);
    return !a.waits;
}

/* Whether the service goes through the local workload is to be known. */
static bool ask_waypoints(void *data, const struct service_full *service)
{
    struct asker *a = data;

    if (service->waypoint)
        ask_reference(a, service->waypoint);
    for (size_t i = 0; i < service->weighted_len; i++)
        ask_reference(a, &service->weighted[i].reference);
    return false;
}

static void ask_authority(struct asker *a, const struct workload_full *local, const struct addr *arrival,
                          const struct addr *named)
{
    const struct workload_full *workload;

    if (addr_equal(named, arrival) || local->application_tunnel)
        return;
    ask_address(a, a->state->network, named);
    workload = find_workload(a->state, a->state->network, named);
    if (workload && workload->waypoint)
        ask_reference(a, workload->waypoint);
    if (!workload)
        each_service_by_vip(a->state, a->state->network, named, ask_waypoints, a);
}

bool route_keys_inbound(const struct state *state, const struct workload *local_workload,
                        const struct endpoint *arrival, const char *authority_text, size_t authority_len,
                        route_key_fn fn, void *data)
{
    const struct workload_full *local = workload_full(local_workload);
    struct asker a = {.state = state, .fn = fn, .data = data};
    struct authority authority;

    for (size_t i = 0; i < local->services_len; i++) {
        const struct service_node *node = local->services[i].node;
        char key[KEY_LEN];

        snprintf(key, sizeof(key), "%s/%s", node->namespace, node->hostname);
        ask(&a, key, rcu_read(node->service) != NULL);
    }
    if (authority_parse(authority_text, authority_len, &authority) == 0 && authority.is_address)
        ask_authority(&a, local, &arrival->addr, &authority.addr);
    return !a.waits;
}
