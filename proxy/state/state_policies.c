/* SPDX-License-Identifier: Apache-2.0 */
/* The store of policies: by name, and in sets by namespace. The set of a namespace changes as a whole at the
 * commit. */
#include <stdlib.h>

#define LOG_SCOPE "state"
#include "lib/log.h"
#include "proxy/state/state_store.h"

uint64_t policy_hash(const void *policy)
{
    return intern_hash(((const struct policy *)policy)->key);
}

uint64_t policy_set_hash(const void *set)
{
    return intern_hash(((const struct policy_set *)set)->namespace);
}

static struct policy *find_by_text(const struct state *state, const char *key)
{
    struct index_cursor cursor = index_cursor(&state->policies, hash_text(key));
    struct policy *p;

    while ((p = index_next(&cursor)) && strcmp(p->key, key) != 0)
        ;
    return p;
}

const struct policy *find_policy(const struct state *state, const char *key)
{
    struct index_cursor cursor = index_cursor(&state->policies, intern_hash(key));
    const struct policy *p;

    while ((p = index_next(&cursor)) && p->key != key)
        ;
    return p;
}

static struct policy_set *find_set(const struct state *state, const char *namespace)
{
    struct index_cursor cursor = index_cursor(&state->policy_sets, hash_text(namespace));
    struct policy_set *set;

    while ((set = index_next(&cursor)) && strcmp(set->namespace, namespace) != 0)
        ;
    return set;
}

const struct policy_list *find_policies(const struct state *state, const char *namespace)
{
    struct policy_set *set = find_set(state, namespace);

    return set ? rcu_read(set->list) : NULL;
}

static void set_free(void *pointer)
{
    struct policy_set *set = pointer;

    intern_put(set->namespace);
    free(set->members);
    free(set->list);
    free(set);
}

static void touch(struct state *state, struct policy_set *set)
{
    if (set->dirty)
        return;
    set->dirty = true;
    set->next_dirty = state->dirty_sets;
    state->dirty_sets = set;
}

static struct policy_set *get_set(struct state *state, const char *namespace)
{
    struct policy_set *set = find_set(state, namespace);

    if (set)
        return set;
    if (index_reserve(&state->policy_sets, 1, &state->reclaim) < 0)
        return NULL;
    set = calloc(1, sizeof(*set));
    if (!set)
        return NULL;
    set->namespace = intern_get(namespace);
    if (!set->namespace) {
        set_free(set);
        return NULL;
    }
    index_insert(&state->policy_sets, set);
    touch(state, set);
    return set;
}

/* The set that a policy is in; false: in none, it is only named by workloads. */
static bool set_name(const struct policy *policy, const char **ret)
{
    *ret = policy->scope == POLICY_GLOBAL ? "" : policy->namespace;
    return policy->scope != POLICY_WORKLOAD;
}

static int reserve_member(struct policy_set *set)
{
    size_t capacity = set->members_capacity ? set->members_capacity * 2 : 4;
    struct policy **members;

    if (set->members_len < set->members_capacity)
        return 0;
    members = realloc(set->members, capacity * sizeof(struct policy *));
    if (!members)
        return -ENOMEM;
    set->members = members;
    set->members_capacity = capacity;
    return 0;
}

static void unlink_policy(struct state *state, struct policy *policy)
{
    const char *namespace;
    struct policy_set *set = set_name(policy, &namespace) ? find_set(state, namespace) : NULL;

    for (size_t i = 0; set && i < set->members_len; i++) {
        if (set->members[i] != policy)
            continue;
        memmove(&set->members[i], &set->members[i + 1], (--set->members_len - i) * sizeof(struct policy *));
        touch(state, set);
        break;
    }
    reclaim_add(&state->reclaim, policy_free, policy);
}

int policies_apply(struct state *state, struct policy *policy)
{
    struct policy *old = find_by_text(state, policy->key);
    struct policy_set *set = NULL;
    const char *namespace;

    if (index_reserve(&state->policies, 1, &state->reclaim) < 0)
        return -ENOMEM;
    policy->sequence = ++state->sequence;
    if (set_name(policy, &namespace)) {
        set = get_set(state, namespace);
        if (!set || reserve_member(set) < 0)
            return -ENOMEM;
        set->members[set->members_len++] = policy;
        touch(state, set);
    }
    if (old) {
        index_replace(&state->policies, old, policy);
        unlink_policy(state, old);
    } else {
        index_insert(&state->policies, policy);
    }
    return 0;
}

bool policies_remove(struct state *state, const char *key)
{
    struct policy *policy = find_by_text(state, key);

    if (!policy)
        return false;
    index_remove(&state->policies, policy);
    unlink_policy(state, policy);
    return true;
}

static void commit_set(struct state *state, struct policy_set *set)
{
    struct policy_list *list = NULL, *old = set->list;

    if (set->members_len) {
        list = malloc(sizeof(*list) + set->members_len * sizeof(list->items[0]));
        if (!list) {
            log_error("no memory for the policies of a namespace\tnamespace=%s", set->namespace);
            abort(); /* to go on without them would let through what they deny */
        }
        list->len = set->members_len;
        memcpy(list->items, set->members, set->members_len * sizeof(list->items[0]));
    }
    rcu_publish(set->list, list);
    reclaim_add(&state->reclaim, free, old);
}

void policies_commit(struct state *state)
{
    struct policy_set *next;

    for (struct policy_set *set = state->dirty_sets; set; set = next) {
        next = set->next_dirty;
        set->dirty = false;
        commit_set(state, set);
        if (!set->members_len) {
            index_remove(&state->policy_sets, set);
            reclaim_add(&state->reclaim, set_free, set);
        }
    }
    state->dirty_sets = NULL;
}

void policies_free(struct state *state)
{
    struct policy_set *set;
    struct policy *policy;
    size_t at = 0;

    while ((set = index_each(&state->policy_sets, &at)))
        set_free(set);
    at = 0;
    while ((policy = index_each(&state->policies, &at)))
        policy_free(policy);
    index_free(&state->policy_sets);
    index_free(&state->policies);
}
