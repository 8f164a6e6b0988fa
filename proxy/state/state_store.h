/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store behind struct state, and the lookups that readers make in it. Private to the state and what reads
 * it.
 *
 * A service is found through its node, which exists as long as the service or a workload that names it does;
 * so the endpoints of a service that has not arrived yet wait there ("staged"). The node holds the two things
 * that change while readers look: which version of the service is current, and its endpoints.
 */
#ifndef PROXY_STATE_STATE_STORE_H
#define PROXY_STATE_STATE_STORE_H

#include "lib/cleanup.h"
#include "proxy/state/hash.h"
#include "proxy/state/index.h"
#include "proxy/state/intern.h"
#include "proxy/state/rcu.h"
#include "proxy/state/state_objects.h"

/* The usable endpoints of a service. */
struct endpoints {
    uint32_t len;
    uint32_t capacity_max; /* largest capacity of a workload in it */
    const struct workload_service *items[];
};

struct service_node {
    uint32_t references;                    /* atomic: the index, each workload and each service of it */
    bool indexed, dirty;                    /* writer's, as the rest but for service and endpoints */
    const char *namespace, *hostname;       /* shared */
    struct service_full *service;           /* published; NULL: not known */
    struct endpoints *endpoints;            /* published; NULL: none */
    struct workload_service **members;      /* of all workloads that name the service, usable or not */
    uint32_t members_len, members_capacity; /* entries */
    struct service_node *next_dirty;
};

/* Policies of one namespace (scope NAMESPACE), or of all ("", scope GLOBAL). */
struct policy_list {
    size_t len;
    const struct policy *items[];
};

struct policy_set {
    const char *namespace;    /* shared */
    struct policy_list *list; /* published; NULL: empty */
    struct policy **members;
    size_t members_len, members_capacity; /* entries */
    bool dirty;
    struct policy_set *next_dirty;
};

struct mesh_watch;

#define STATE_TOUCHED_MAX 256 /* addresses */

/* Addresses that lead elsewhere since the last commit, or may. */
struct touched {
    /* called as state_watch_routes() says, on the writer's thread; or NULL */
    void (*fn)(void *data, const struct addr *addr);
    void *data;
    bool any; /* more than there is room for, or nobody knows which */
    size_t len;
    struct addr addresses[STATE_TOUCHED_MAX];
};

struct state {
    char *node_name;
    const char *network; /* shared */
    void (*changed)(void *data,
                    bool policies); /* called as state_new() says, on the writer's thread; or NULL */
    void *data;
    const struct mesh_watch *watch;            /* the caller's, or NULL */
    bool unknown_policy_denies;                /* atomic */
    const struct trust_domains *trust_domains; /* the caller's, or NULL */

    struct index workloads; /* by uid: struct workload_full */
    struct index
        addresses; /* by network and address: struct workload_address, not those of host-network workloads */
    struct index node_addresses; /* the same, those of host-network workloads: several have one */
    struct index locals;         /* by namespace and name: struct workload_full on this node */
    struct index hostnames;      /* by namespace and hostname: struct workload_full that have one */
    struct index nodes;          /* by namespace and hostname: struct service_node */
    struct index services;       /* by hostname: struct service_full */
    struct index vips;           /* by network, prefix and its length: struct service_address */
    uint64_t serial;             /* of the last new service */
    uint64_t sequence;           /* of the last workload or policy */
    uint32_t prefixes[128];      /* how many VIPs have each prefix length; atomic */
    uint32_t prefixes_total;     /* atomic */

    struct index policies;    /* by key: struct policy */
    struct index policy_sets; /* by namespace: struct policy_set */

    struct service_node *dirty_nodes;
    struct policy_set *dirty_sets;
    struct reclaim reclaim;
    bool some_changed, policies_changed; /* since the last commit */
    bool policies_announced;             /* changing was called since */
    /* called as state_watch_policies() says, on the writer's thread; or NULL */
    void (*changing)(void *data);
    void *changing_data;
    struct touched touched;
    size_t counts[3]; /* workloads, services, policies; atomic */
};

enum { COUNT_WORKLOADS, COUNT_SERVICES, COUNT_POLICIES };

/* ---- parts of the writer ---- */

/* Each is the hash of the key under which the index of that name has the entry; any thread. */
uint64_t workload_uid_hash(const void *workload);
uint64_t workload_address_hash(const void *address);
uint64_t workload_name_hash(const void *workload);
uint64_t workload_hostname_hash(const void *workload);
uint64_t service_node_hash(const void *node);
uint64_t service_hostname_hash(const void *service);
uint64_t service_address_hash(const void *address);
uint64_t policy_hash(const void *policy);
uint64_t policy_set_hash(const void *set);

/* All addresses of the object; NULL is fine. */
void touch_workload(struct state *state, const struct workload_full *workload);
void touch_service(struct state *state, const struct service_full *service);
/* Tells of all that were touched. */
void touched_commit(struct state *state);

/* A reference on the node, for the caller, made if there is none yet; NULL without memory. */
struct service_node *service_node_get(struct state *state, const char *namespace, const char *hostname);
/* Gives a reference back; any thread; NULL is fine. */
void service_node_put(struct service_node *node);
/* The next commit publishes its endpoints anew. */
void service_node_touch(struct state *state, struct service_node *node);
/* Room for n more members, so that joining cannot fail: 0 or -ENOMEM. */
int service_node_reserve(struct service_node *node, size_t n);
/* The workload names the service from now on (there is room); touches the node. */
void service_node_join(struct state *state, struct workload_service *membership);
/* It does so no more. */
void service_node_leave(struct state *state, struct workload_service *membership);
/* Publishes the endpoints of all nodes that were touched, forgets those that nobody needs. */
void service_nodes_commit(struct state *state);
/* At the end, without readers. */
void service_nodes_free(struct state *state);

/* Puts it in the place of the one with its key. 0, and the policy is taken; or -ENOMEM. */
int policies_apply(struct state *state, struct policy *policy);
/* True if there was one. key: any text. */
bool policies_remove(struct state *state, const char *key);
/* Publishes the lists of all sets that have changed, forgets empty ones. */
void policies_commit(struct state *state);
/* At the end, without readers. */
void policies_free(struct state *state);

/* ---- lookups, for readers ---- */

/* All of these return what is valid until the reader's next quiescent state, or NULL. Strings named network
 * are shared ones. Of several: the one that comes first. */
const struct workload_full *find_workload(const struct state *state, const char *network,
                                          const struct addr *addr);
const struct workload_full *find_workload_by_uid(const struct state *state, const char *uid);
const struct workload_full *find_workload_by_hostname(const struct state *state, const char *namespace,
                                                      const char *hostname);
struct service_node *find_node(const struct state *state, const char *namespace, const char *hostname);
const struct service_full *find_service(const struct state *state, const char *namespace,
                                        const char *hostname);
/* Whether a host-network workload has the address, which is its node's. */
bool is_node_address(const struct state *state, const char *network, const struct addr *addr);
/* Both: the best service with this hostname or VIP for a client in namespace, or NULL; valid as above. */
const struct service_full *find_service_by_hostname(const struct state *state, const char *hostname,
                                                    const char *namespace);
const struct service_full *find_service_by_vip(const struct state *state, const char *network,
                                               const struct addr *addr, const char *namespace);
/* Calls fn, on this thread, for each service with this hostname, whoever may see it, until it returns true.
 * True if it did. */
bool each_service_by_hostname(const struct state *state, const char *hostname,
                              bool (*fn)(void *data, const struct service_full *service), void *data);
/* Calls fn, on this thread, for each service with this VIP, exact alone (by address), or by prefix too, until
 * it returns true. True if it did. */
bool each_service_by_address(const struct state *state, const char *network, const struct addr *addr,
                             bool (*fn)(void *data, const struct service_full *service), void *data);
bool each_service_by_vip(const struct state *state, const char *network, const struct addr *addr,
                         bool (*fn)(void *data, const struct service_full *service), void *data);

/* The workload's membership in a service, a part of the workload; or NULL. */
const struct workload_service *workload_membership(const struct workload_full *workload,
                                                   const struct service_full *service);

/* Both texts are shared ones. What is found is valid until the next quiescent state; NULL: there is none. */
const struct policy *find_policy(const struct state *state, const char *key);
/* Those that hold for a namespace; "": for all. NULL: none; valid as find_policy() says. */
const struct policy_list *find_policies(const struct state *state, const char *namespace);

#endif
