/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes of services: who is a member, and the published array of usable endpoints. Writer's side. */
#include <stdlib.h>

#define LOG_SCOPE "state"
#include "lib/log.h"
#include "proxy/state/state_store.h"

uint64_t service_node_hash(const void *node)
{
    const struct service_node *n = node;

    return hash_pair(intern_hash(n->namespace), intern_hash(n->hostname));
}

static void node_release(void *node)
{
    service_node_put(node);
}

void service_node_put(struct service_node *node)
{
    if (!node || __atomic_sub_fetch(&node->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    intern_put(node->namespace);
    intern_put(node->hostname);
    free(node->members);
    free(node);
}

struct service_node *service_node_get(struct state *state, const char *namespace, const char *hostname)
{
    struct service_node *node = find_node(state, namespace, hostname);

    if (!node) {
        if (index_reserve(&state->nodes, 1, &state->reclaim) < 0)
            return NULL;
        node = calloc(1, sizeof(*node));
        if (!node)
            return NULL;
        node->references = 1;
        node->namespace = intern_get(namespace);
        node->hostname = intern_get(hostname);
        if (!node->namespace || !node->hostname) {
            service_node_put(node);
            return NULL;
        }
        node->indexed = true;
        index_insert(&state->nodes, node);
        service_node_touch(state, node); /* the commit forgets it again if nothing comes of it */
    }
    __atomic_add_fetch(&node->references, 1, __ATOMIC_RELAXED);
    return node;
}

void service_node_touch(struct state *state, struct service_node *node)
{
    if (node->dirty)
        return;
    node->dirty = true;
    node->next_dirty = state->dirty_nodes;
    state->dirty_nodes = node;
}

int service_node_reserve(struct service_node *node, size_t n)
{
    size_t capacity = node->members_capacity;
    struct workload_service **members;

    if (node->members_len + n <= capacity)
        return 0;
    while (capacity < node->members_len + n)
        capacity = capacity ? capacity * 2 : 4;
    members = realloc(node->members, capacity * sizeof(struct workload_service *));
    if (!members)
        return -ENOMEM;
    node->members = members;
    node->members_capacity = (uint32_t)capacity;
    return 0;
}

void service_node_join(struct state *state, struct workload_service *membership)
{
    struct service_node *node = membership->node;

    membership->member = node->members_len;
    node->members[node->members_len++] = membership;
    service_node_touch(state, node);
}

void service_node_leave(struct state *state, struct workload_service *membership)
{
    struct service_node *node = membership->node;
    struct workload_service *last = node->members[--node->members_len];

    node->members[membership->member] = last;
    last->member = membership->member;
    service_node_touch(state, node);
}

static bool usable(const struct service_full *service, const struct workload_service *membership)
{
    return service->allow_unhealthy || workload_of_service(membership)->public.healthy;
}

static struct endpoints *build(const struct service_node *node)
{
    struct endpoints *e;
    uint32_t len = 0;

    for (uint32_t i = 0; node->service && i < node->members_len; i++)
        len += usable(node->service, node->members[i]);
    if (!len)
        return NULL;
    e = malloc(sizeof(*e) + len * sizeof(e->items[0]));
    if (!e) {
        /* the old array may name workloads that are gone: better none */
        log_error("no memory for the endpoints of a service\tservice=%s/%s", node->namespace, node->hostname);
        return NULL;
    }
    e->len = 0;
    e->capacity_max = 0;
    for (uint32_t i = 0; i < node->members_len; i++) {
        uint32_t capacity = workload_of_service(node->members[i])->public.capacity;

        if (!usable(node->service, node->members[i]))
            continue;
        e->items[e->len++] = node->members[i];
        if (capacity > e->capacity_max)
            e->capacity_max = capacity;
    }
    return e;
}

void service_nodes_commit(struct state *state)
{
    struct service_node *next;

    for (struct service_node *node = state->dirty_nodes; node; node = next) {
        struct endpoints *old = node->endpoints;

        next = node->next_dirty;
        node->dirty = false;
        rcu_publish(node->endpoints, build(node));
        touch_service(state, node->service);
        reclaim_add(&state->reclaim, free, old);
        if (!node->service && !node->members_len) {
            index_remove(&state->nodes, node);
            node->indexed = false;
            reclaim_add(&state->reclaim, node_release, node);
        }
    }
    state->dirty_nodes = NULL;
}

void service_nodes_free(struct state *state)
{
    struct service_node *node;
    size_t at = 0;

    while ((node = index_each(&state->nodes, &at))) {
        free(node->endpoints);
        node->endpoints = NULL;
        service_node_put(node);
    }
    index_free(&state->nodes);
}
