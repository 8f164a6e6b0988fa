/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/state.h"

#include <stdio.h>
#include <stdlib.h>

#include "proxy/state/mesh_ranges.h"
#include "proxy/state/state_store.h"

int state_new(const char *node_name, const char *network, void (*changed)(void *data, bool policies),
              void *data, struct state **ret)
{
    struct state *state = calloc(1, sizeof(*state));

    if (!state)
        return -ENOMEM;
    state->node_name = strdup(node_name);
    state->network = intern_get(network);
    if (!state->node_name || !state->network) {
        state_free(&state);
        return -ENOMEM;
    }
    state->changed = changed;
    state->data = data;
    state->unknown_policy_denies = true;
    state->workloads.hash = workload_uid_hash;
    state->addresses.hash = workload_address_hash;
    state->node_addresses.hash = workload_address_hash;
    state->locals.hash = workload_name_hash;
    state->hostnames.hash = workload_hostname_hash;
    state->nodes.hash = service_node_hash;
    state->services.hash = service_hostname_hash;
    state->vips.hash = service_address_hash;
    state->policies.hash = policy_hash;
    state->policy_sets.hash = policy_set_hash;
    *ret = state;
    return 0;
}

void state_free(struct state **state)
{
    struct state *s = *state;
    struct workload_full *w;
    struct service_full *service;
    size_t at = 0;

    if (!s)
        return;
    *state = NULL;
    reclaim_flush(&s->reclaim);
    reclaim_wait();
    policies_free(s);
    service_nodes_free(s);
    while ((w = index_each(&s->workloads, &at)))
        workload_unref(&w->public);
    at = 0;
    while ((service = index_each(&s->services, &at)))
        service_unref(&service->public);
    index_free(&s->workloads);
    index_free(&s->addresses);
    index_free(&s->node_addresses);
    index_free(&s->locals);
    index_free(&s->hostnames);
    index_free(&s->services);
    index_free(&s->vips);
    intern_put(s->network);
    free(s->node_name);
    free(s);
}

void state_set_trust_domains(struct state *state, const struct trust_domains *aliases)
{
    state->trust_domains = aliases;
}

void state_set_unknown_policy(struct state *state, bool deny)
{
    __atomic_store_n(&state->unknown_policy_denies, deny, __ATOMIC_RELAXED);
}

void state_watch_policies(struct state *state, void (*changing)(void *data), void *data)
{
    state->changing = changing;
    state->changing_data = data;
}

/* Before readers see it. Nothing may come of it; the commit takes it back all the same. */
static void announce_policies(struct state *state)
{
    if (!state->changing || state->policies_announced)
        return;
    state->policies_announced = true;
    state->changing(state->changing_data);
}

static void count(struct state *state, int which, size_t value)
{
    __atomic_store_n(&state->counts[which], value, __ATOMIC_RELAXED);
}

static void release_workload(void *workload)
{
    workload_unref(workload);
}

static void release_service(void *service)
{
    service_unref(service);
}

/* ---- workloads ---- */

static bool is_local(const struct state *state, const struct workload_full *w)
{
    return !*state->node_name || !strcmp(w->public.node, state->node_name);
}

static struct index *address_index(struct state *state, const struct workload_full *w)
{
    return w->public.host_network ? &state->node_addresses : &state->addresses;
}

static bool same_policies(const struct workload_full *a, const struct workload_full *b)
{
    return a->public.namespace == b->public.namespace && a->policies_len == b->policies_len &&
           !memcmp(a->policies, b->policies, a->policies_len * sizeof(a->policies[0]));
}

/* Everything that can fail; nothing is visible afterwards. */
static int workload_reserve(struct state *state, const struct workload_full *w)
{
    if (index_reserve(&state->workloads, 1, &state->reclaim) < 0 ||
        index_reserve(address_index(state, w), w->addresses_len, &state->reclaim) < 0 ||
        index_reserve(&state->locals, 1, &state->reclaim) < 0 ||
        index_reserve(&state->hostnames, 1, &state->reclaim) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < w->services_len; i++) {
        if (service_node_reserve(w->services[i].node, w->services_len) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* What the owner's address index has of w, if that has this address too; or NULL. */
static struct workload_address *indexed_address(const struct workload_full *w,
                                                const struct workload_full *owner, const struct addr *addr)
{
    if (!w || w->public.host_network != owner->public.host_network ||
        w->public.network != owner->public.network)
        return NULL;
    for (size_t i = 0; i < w->addresses_len; i++) {
        if (addr_equal(&w->addresses[i].addr, addr))
            return &w->addresses[i];
    }
    return NULL;
}

/* An entry with the same key is replaced, so that a reader finds one of the two at any time. NULL: not there.
 */
static void index_change(struct index *index, void *old, void *next)
{
    if (old && next && index->hash(old) == index->hash(next)) {
        index_replace(index, old, next);
        return;
    }
    if (next)
        index_insert(index, next);
    if (old)
        index_remove(index, old);
}

/* next takes the place of old; one of them may be NULL. */
static void workload_change(struct state *state, struct workload_full *old, struct workload_full *next)
{
    workload_ranges_enter(state, old, next);
    for (size_t i = 0; next && i < next->addresses_len; i++)
        index_change(address_index(state, next), indexed_address(old, next, &next->addresses[i].addr),
                     &next->addresses[i]);
    for (size_t i = 0; old && i < old->addresses_len; i++) {
        if (!indexed_address(next, old, &old->addresses[i].addr))
            index_remove(address_index(state, old), &old->addresses[i]);
    }
    index_change(&state->locals, old && is_local(state, old) ? old : NULL,
                 next && is_local(state, next) ? next : NULL);
    index_change(&state->hostnames, old && *old->public.hostname ? old : NULL,
                 next && *next->public.hostname ? next : NULL);
    for (size_t i = 0; next && i < next->services_len; i++)
        service_node_join(state, &next->services[i]);
    for (size_t i = 0; old && i < old->services_len; i++)
        service_node_leave(state, &old->services[i]);
    index_change(&state->workloads, old, next);
    workload_ranges_leave(state, old, next);
    touch_workload(state, old);
    touch_workload(state, next);
    reclaim_add(&state->reclaim, release_workload, old);
    count(state, COUNT_WORKLOADS, state->workloads.count);
}

/* Takes the workload if it succeeds. */
static int workload_apply(struct state *state, struct workload_full *w)
{
    struct workload_full *old = (struct workload_full *)find_workload_by_uid(state, w->public.uid);
    int r = workload_reserve(state, w);

    if (r < 0)
        return r;
    w->sequence = ++state->sequence;
    /* the checks of live connections depend on the workload's own list too */
    if (old && is_local(state, old) && !same_policies(old, w)) {
        announce_policies(state);
        state->policies_changed = true;
    }
    workload_change(state, old, w);
    return 0;
}

static bool workload_remove(struct state *state, const char *uid)
{
    struct workload_full *w = (struct workload_full *)find_workload_by_uid(state, uid);

    if (!w)
        return false;
    if (is_local(state, w)) {
        announce_policies(state);
        state->policies_changed = true;
    }
    workload_change(state, w, NULL);
    return true;
}

/* ---- services ---- */

static void count_prefix(struct state *state, const struct service_address *a, int change)
{
    if (a->cidr.length == 128)
        return;
    __atomic_add_fetch(&state->prefixes[a->cidr.length], (uint32_t)change, __ATOMIC_RELAXED);
    __atomic_add_fetch(&state->prefixes_total, (uint32_t)change, __ATOMIC_RELAXED);
}

/* next takes the place of old; one of them may be NULL. */
static void service_change(struct state *state, struct service_full *old, struct service_full *next)
{
    for (size_t i = 0; next && i < next->addresses_len; i++) {
        const struct service_address *same = old ? service_same_address(old, &next->addresses[i]) : NULL;

        index_change(&state->vips, (void *)(uintptr_t)same, &next->addresses[i]);
        if (!same)
            count_prefix(state, &next->addresses[i], 1);
    }
    for (size_t i = 0; old && i < old->addresses_len; i++) {
        if (next && service_same_address(next, &old->addresses[i]))
            continue;
        index_remove(&state->vips, &old->addresses[i]);
        count_prefix(state, &old->addresses[i], -1);
    }
    index_change(&state->services, old, next);
    service_ranges_leave(state, old, next);
    touch_service(state, old); /* next is, with its node */
    reclaim_add(&state->reclaim, release_service, old);
    count(state, COUNT_SERVICES, state->services.count);
}

/* Takes the service if it succeeds. */
static int service_apply(struct state *state, struct service_full *s)
{
    struct service_node *node = s->node;
    struct service_full *old = node->service;

    if (index_reserve(&state->services, 1, &state->reclaim) < 0 ||
        index_reserve(&state->vips, s->addresses_len, &state->reclaim) < 0)
        return -ENOMEM;
    s->serial = old ? old->serial : ++state->serial;
    service_ranges_enter(state, old, s);
    rcu_publish(node->service, s);
    service_node_touch(state, node);
    service_change(state, old, s);
    return 0;
}

static bool service_remove(struct state *state, const char *namespace, const char *hostname)
{
    struct service_node *node = find_node(state, namespace, hostname);
    struct service_full *s = node ? node->service : NULL;

    if (!s)
        return false;
    rcu_publish(node->service, NULL);
    service_node_touch(state, node);
    service_change(state, s, NULL);
    return true;
}

/* ---- resources ---- */

static struct service_node *get_node(void *data, const char *namespace, const char *hostname)
{
    return service_node_get(data, namespace, hostname);
}

static int apply_address(struct state *state, const char *name, const uint8_t *value, size_t len, char *error,
                         size_t error_size)
{
    const struct node_source nodes = {.get = get_node, .data = state};
    struct address_resource resource;
    int r = address_decode(name, value, len, &nodes, &resource, error, error_size);

    if (r < 0)
        return r;
    r = resource.workload ? workload_apply(state, resource.workload) : service_apply(state, resource.service);
    if (r < 0) {
        if (resource.workload)
            workload_unref(&resource.workload->public);
        else
            service_unref(&resource.service->public);
        snprintf(error, error_size, "out of memory");
    }
    return r;
}

static int apply_authorization(struct state *state, const char *name, const uint8_t *value, size_t len,
                               char *error, size_t error_size)
{
    struct policy *policy;
    int r = policy_decode(name, value, len, &policy, error, error_size);

    if (r < 0)
        return r;
    announce_policies(state);
    r = policies_apply(state, policy);
    if (r < 0) {
        policy_free(policy);
        snprintf(error, error_size, "out of memory");
        return r;
    }
    state->policies_changed = true;
    count(state, COUNT_POLICIES, state->policies.count);
    return 0;
}

int state_apply(struct state *state, enum state_type type, const char *name, const uint8_t *value, size_t len,
                char *error, size_t error_size)
{
    int r = type == STATE_AUTHORIZATION ? apply_authorization(state, name, value, len, error, error_size)
                                        : apply_address(state, name, value, len, error, error_size);

    if (r == 0)
        state->some_changed = true;
    return r;
}

/* A workload's uid, or namespace/hostname of a service. A hostname has no slash: then it was the uid of a
 * workload that is not known. */
static bool remove_address(struct state *state, const char *name)
{
    const char *slash = strchr(name, '/');
    char *namespace;
    bool removed;

    if (workload_remove(state, name))
        return true;
    if (!slash || strchr(slash + 1, '/'))
        return false;
    namespace = strndup(name, (size_t)(slash - name));
    if (!namespace)
        return false;
    removed = service_remove(state, namespace, slash + 1);
    free(namespace);
    return removed;
}

void state_remove(struct state *state, enum state_type type, const char *name)
{
    bool removed;

    if (type == STATE_AUTHORIZATION) {
        announce_policies(state);
        removed = policies_remove(state, name);
        state->policies_changed |= removed;
        count(state, COUNT_POLICIES, state->policies.count);
    } else {
        removed = remove_address(state, name);
    }
    state->some_changed |= removed;
}

void state_commit(struct state *state)
{
    bool announced = state->policies_announced, some = state->some_changed || announced,
         policies = state->policies_changed || announced;

    service_nodes_commit(state);
    policies_commit(state);
    reclaim_flush(&state->reclaim);
    state->some_changed = state->policies_changed = state->policies_announced = false;
    touched_commit(state);
    if (some && state->changed)
        state->changed(state->data, policies);
}

const char *state_local_trust_domain(struct state *state)
{
    const struct workload_full *w;
    size_t at = 0;

    w = index_each(&state->locals, &at);
    return w ? w->public.trust_domain : NULL;
}

size_t state_workload_count(const struct state *state)
{
    return __atomic_load_n(&state->counts[COUNT_WORKLOADS], __ATOMIC_RELAXED);
}

size_t state_service_count(const struct state *state)
{
    return __atomic_load_n(&state->counts[COUNT_SERVICES], __ATOMIC_RELAXED);
}

size_t state_policy_count(const struct state *state)
{
    return __atomic_load_n(&state->counts[COUNT_POLICIES], __ATOMIC_RELAXED);
}

int state_placeholder(const struct state *state, const struct pod_words *pod, const struct workload **ret)
{
    struct workload_full *w;
    int r = workload_placeholder(pod, state->network, state->node_name ? state->node_name : "", &w);

    if (r == 0)
        *ret = &w->public;
    return r;
}
