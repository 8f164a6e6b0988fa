/* SPDX-License-Identifier: Apache-2.0 */
/* Lookups in the store, for readers and for the writer (contract section 1.8). */
#include "proxy/state/state_store.h"

/* ---- keys ---- */

static uint64_t address_hash(const char *network, const struct addr *addr)
{
    return hash_pair(intern_hash(network), hash_bytes(addr, sizeof(*addr)));
}

static uint64_t prefix_hash(const char *network, const struct cidr *cidr)
{
    return hash_pair(address_hash(network, &cidr->addr), cidr->length);
}

static uint64_t text_pair_hash(const char *a, const char *b)
{
    return hash_pair(hash_text(a), hash_text(b));
}

uint64_t workload_uid_hash(const void *workload)
{
    return hash_text(((const struct workload *)workload)->uid);
}

uint64_t workload_address_hash(const void *address)
{
    const struct workload_address *a = address;

    return address_hash(workload_of_address(a)->public.network, &a->addr);
}

uint64_t workload_name_hash(const void *workload)
{
    const struct workload *w = workload;

    return hash_pair(intern_hash(w->namespace), hash_text(w->name));
}

uint64_t workload_hostname_hash(const void *workload)
{
    const struct workload *w = workload;

    return hash_pair(intern_hash(w->namespace), hash_text(w->hostname));
}

uint64_t service_hostname_hash(const void *service)
{
    return intern_hash(((const struct service *)service)->hostname);
}

uint64_t service_address_hash(const void *address)
{
    const struct service_address *a = address;

    return prefix_hash(a->network, &a->cidr);
}

/* ---- workloads ---- */

const struct workload_full *find_workload_by_uid(const struct state *state, const char *uid)
{
    struct index_cursor cursor = index_cursor(&state->workloads, hash_text(uid));
    const struct workload_full *w;

    while ((w = index_next(&cursor)) && strcmp(w->public.uid, uid) != 0)
        ;
    return w;
}

static int address_score(const struct workload *w)
{
    return (strstr(w->uid, "//Pod/") ? 2 : 0) + (w->protocol == TUNNEL_HBONE ? 1 : 0);
}

/*
 * Several workloads may claim one address, or one name: pods before others, then those that speak HBONE, then
 * the one that was told of last. An address is given to a new pod while the control plane has not heard yet
 * that the one before is gone.
 */
static bool comes_before(const struct workload_full *w, const struct workload_full *best)
{
    int score = address_score(&w->public), other = best ? address_score(&best->public) : -1;

    return score != other ? score > other : w->sequence > best->sequence;
}

static const struct workload_full *search_workload(const struct index *index, const char *network,
                                                   const struct addr *addr)
{
    struct index_cursor cursor = index_cursor(index, address_hash(network, addr));
    const struct workload_full *best = NULL, *w;
    const struct workload_address *a;

    while ((a = index_next(&cursor))) {
        w = workload_of_address(a);
        if (!addr_equal(&a->addr, addr) || w->public.network != network)
            continue;
        if (comes_before(w, best))
            best = w;
    }
    return best;
}

static const struct workload_full *find_in(const struct index *index, const char *network,
                                           const struct addr *addr)
{
    const struct workload_full *found;
    size_t removals;

    /* an address that one workload takes over from another is never without */
    do {
        removals = index_removals(index);
        found = search_workload(index, network, addr);
    } while (!found && removals != index_removals(index));
    return found;
}

const struct workload_full *find_workload(const struct state *state, const char *network,
                                          const struct addr *addr)
{
    return find_in(&state->addresses, network, addr);
}

bool is_node_address(const struct state *state, const char *network, const struct addr *addr)
{
    return find_in(&state->node_addresses, network, addr) != NULL;
}

const struct workload_full *find_workload_by_hostname(const struct state *state, const char *namespace,
                                                      const char *hostname)
{
    struct index_cursor cursor = index_cursor(&state->hostnames, text_pair_hash(namespace, hostname));
    const struct workload_full *best = NULL, *w;

    while ((w = index_next(&cursor))) {
        if (!strcmp(w->public.namespace, namespace) && !strcmp(w->public.hostname, hostname) &&
            comes_before(w, best))
            best = w;
    }
    return best;
}

const struct workload *state_workload_by_address(const struct state *state, const struct addr *addr)
{
    const struct workload_full *w = find_workload(state, state->network, addr);

    return w ? &w->public : NULL;
}

const struct workload *state_find_local(const struct state *state, const char *namespace, const char *name,
                                        const char *service_account)
{
    struct index_cursor cursor = index_cursor(&state->locals, text_pair_hash(namespace, name));
    const struct workload_full *best = NULL, *w;

    while ((w = index_next(&cursor))) {
        if (strcmp(w->public.namespace, namespace) != 0 || strcmp(w->public.name, name) != 0)
            continue;
        if (*service_account && strcmp(w->public.service_account, service_account) != 0)
            continue;
        if (comes_before(w, best))
            best = w;
    }
    return best ? &best->public : NULL;
}

const struct workload *state_local_workload(struct state *state, const char *namespace, const char *name,
                                            const char *service_account)
{
    return state_find_local(state, namespace, name, service_account);
}

const struct workload_service *workload_membership(const struct workload_full *workload,
                                                   const struct service_full *service)
{
    for (size_t i = 0; i < workload->services_len; i++) {
        const struct service_node *node = workload->services[i].node;

        /* by name too: a workload kept for long may hold the node of a service that went and came back */
        if (node == service->node ||
            (node->hostname == service->public.hostname && node->namespace == service->public.namespace))
            return &workload->services[i];
    }
    return NULL;
}

/* ---- services ---- */

struct service_node *find_node(const struct state *state, const char *namespace, const char *hostname)
{
    struct index_cursor cursor = index_cursor(&state->nodes, text_pair_hash(namespace, hostname));
    struct service_node *node;

    while ((node = index_next(&cursor))) {
        if (!strcmp(node->namespace, namespace) && !strcmp(node->hostname, hostname))
            break;
    }
    return node;
}

const struct service_full *find_service(const struct state *state, const char *namespace,
                                        const char *hostname)
{
    struct service_node *node = find_node(state, namespace, hostname);

    return node ? rcu_read(node->service) : NULL;
}

/* A client's choice among services of one hostname or one address. */
struct choice {
    const char *namespace; /* of the client; NULL: not known */
    const struct service_full *best;
    unsigned best_prefix;
};

static bool same_namespace(const struct choice *choice, const struct service_full *s)
{
    return choice->namespace && !strcmp(choice->namespace, s->public.namespace);
}

static bool better(const struct choice *choice, const struct service_full *s, unsigned prefix)
{
    const struct service_full *best = choice->best;

    if (!best)
        return true;
    if (same_namespace(choice, s) != same_namespace(choice, best))
        return same_namespace(choice, s);
    if (prefix != choice->best_prefix)
        return prefix > choice->best_prefix;
    if (s->canonical != best->canonical)
        return s->canonical;
    /* the youngest of the canonical ones, the oldest of the others */
    return s->canonical ? s->serial > best->serial : s->serial < best->serial;
}

static void consider(struct choice *choice, const struct service_full *s, unsigned prefix)
{
    if (choice->namespace && s->namespace_only && !same_namespace(choice, s))
        return;
    if (better(choice, s, prefix)) {
        choice->best = s;
        choice->best_prefix = prefix;
    }
}

const struct service_full *find_service_by_hostname(const struct state *state, const char *hostname,
                                                    const char *namespace)
{
    struct index_cursor cursor = index_cursor(&state->services, hash_text(hostname));
    struct choice choice = {.namespace = namespace};
    const struct service_full *s;

    while ((s = index_next(&cursor))) {
        if (!strcmp(s->public.hostname, hostname))
            consider(&choice, s, 0);
    }
    return choice.best;
}

bool each_service_by_hostname(const struct state *state, const char *hostname,
                              bool (*fn)(void *data, const struct service_full *service), void *data)
{
    struct index_cursor cursor = index_cursor(&state->services, hash_text(hostname));
    const struct service_full *s;

    while ((s = index_next(&cursor))) {
        if (!strcmp(s->public.hostname, hostname) && fn(data, s))
            return true;
    }
    return false;
}

/* The services whose address is exactly this prefix. */
static struct index_cursor prefix_cursor(const struct state *state, const char *network,
                                         const struct cidr *cidr)
{
    return index_cursor(&state->vips, prefix_hash(network, cidr));
}

static const struct service_full *prefix_next(struct index_cursor *cursor, const char *network,
                                              const struct cidr *cidr)
{
    const struct service_address *a;

    while ((a = index_next(cursor))) {
        if (a->cidr.length == cidr->length && addr_equal(&a->cidr.addr, &cidr->addr) && a->network == network)
            return service_of_address(a);
    }
    return NULL;
}

/* The next shorter prefix of addr that some service has. False: none. */
static bool shorter_prefix(const struct state *state, const struct addr *addr, struct cidr *cidr)
{
    bool v4 = addr_is_v4(addr);

    if (!__atomic_load_n(&state->prefixes_total, __ATOMIC_RELAXED))
        return false;
    for (int length = cidr->length - 1; length >= (v4 ? 96 : 0); length--) {
        if (__atomic_load_n(&state->prefixes[length], __ATOMIC_RELAXED))
            return cidr_make(addr, (unsigned)(v4 ? length - 96 : length), cidr) == 0;
    }
    return false;
}

static const struct service_full *search_service(const struct state *state, const char *network,
                                                 const struct addr *addr, const char *namespace)
{
    struct cidr cidr = {.addr = *addr, .length = 128};
    struct index_cursor cursor = prefix_cursor(state, network, &cidr);
    struct choice choice = {.namespace = namespace};
    const struct service_full *s;

    while ((s = prefix_next(&cursor, network, &cidr)))
        consider(&choice, s, cidr.length);
    if (choice.best)
        return choice.best;
    while (shorter_prefix(state, addr, &cidr)) {
        cursor = prefix_cursor(state, network, &cidr);
        while ((s = prefix_next(&cursor, network, &cidr)))
            consider(&choice, s, cidr.length);
    }
    return choice.best;
}

const struct service_full *find_service_by_vip(const struct state *state, const char *network,
                                               const struct addr *addr, const char *namespace)
{
    const struct service_full *found;
    size_t removals;

    do {
        removals = index_removals(&state->vips);
        found = search_service(state, network, addr, namespace);
    } while (!found && removals != index_removals(&state->vips));
    return found;
}

bool each_service_by_address(const struct state *state, const char *network, const struct addr *addr,
                             bool (*fn)(void *data, const struct service_full *service), void *data)
{
    struct cidr cidr = {.addr = *addr, .length = 128};
    struct index_cursor cursor = prefix_cursor(state, network, &cidr);
    const struct service_full *s;

    while ((s = prefix_next(&cursor, network, &cidr))) {
        if (fn(data, s))
            return true;
    }
    return false;
}

bool each_service_by_vip(const struct state *state, const char *network, const struct addr *addr,
                         bool (*fn)(void *data, const struct service_full *service), void *data)
{
    struct cidr cidr = {.addr = *addr, .length = 128};

    do {
        struct index_cursor cursor = prefix_cursor(state, network, &cidr);
        const struct service_full *s;

        while ((s = prefix_next(&cursor, network, &cidr))) {
            if (fn(data, s))
                return true;
        }
    } while (shorter_prefix(state, addr, &cidr));
    return false;
}
