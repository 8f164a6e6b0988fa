/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workloads, services and policies as the state keeps them: each is one allocation, with its arrays and own
 * strings behind the struct and the common strings shared (intern.h). Private to the state and what reads it:
 * route, endpoints, policy, dump. Numbers and rules: contract sections 1.2, 1.3 and 1.8.
 */
#ifndef PROXY_STATE_STATE_OBJECTS_H
#define PROXY_STATE_STATE_OBJECTS_H

#include "proxy/state/state.h"

#define STATE_RESOURCE_MAX \
    (4u << 20)              /* bytes of one resource; larger ones are refused before they are decoded */
#define STATE_LIST_MAX 4096 /* addresses or services of one workload, addresses of one service ... */

struct service_node;

struct port_map {
    uint16_t service, target; /* target 0: each endpoint says its own */
};

/* Names a waypoint or a gateway: by address (network and addr) or by hostname (namespace and hostname). */
struct gateway_reference {
    const char *network;   /* shared; NULL: by hostname */
    const char *namespace; /* shared; NULL: by address */
    const char *hostname;  /* shared; NULL: by address */
    struct addr addr;
    uint16_t port; /* of HBONE */
};

/* An address of a workload; what the address index points to. */
struct workload_address {
    struct addr addr;
    uint32_t offset; /* from the workload */
};

/* The membership of a workload in a service; what a service's endpoints are. */
struct workload_service {
    struct service_node *node; /* referenced by the workload */
    uint32_t member;           /* position in the node's members; writer's */
    uint32_t offset;           /* from the workload */
    uint32_t ports_offset;     /* from the workload */
    uint32_t ports_len;
};

/* A workload with all that readers need of it. */
struct workload_full {
    struct workload public;
    uint64_t sequence; /* grows with each workload that is told of, also again: decides between equals */
    uint16_t addresses_len, services_len, policies_len;
    bool application_tunnel; /* the message is there, whatever it says */
    struct workload_address *addresses;
    struct workload_service *services;
    const char **policies;                              /* shared, namespace/name */
    const struct gateway_reference *waypoint, *gateway; /* NULL: none */
};

/* An address of a service; what the VIP index points to. length 128: a single address. */
struct service_address {
    const char *network; /* shared */
    struct cidr cidr;
    uint32_t offset; /* from the service */
};

/* One of several waypoints, which gets weight of weights. */
struct weighted_waypoint {
    struct gateway_reference reference;
    uint32_t weight;
};

/* Which endpoints a service prefers. The numbers of these three are those of the messages. */
enum balance_mode { BALANCE_STANDARD = 0, BALANCE_STRICT = 1, BALANCE_FAILOVER = 2, BALANCE_PASSTHROUGH = 3 };
/* Of which families the addresses of a service are. */
enum ip_families { FAMILIES_AUTOMATIC = 0, FAMILIES_IPV4 = 1, FAMILIES_IPV6 = 2, FAMILIES_DUAL = 3 };
/* What client and endpoint must have in common to be preferred. */
enum balance_scope {
    SCOPE_REGION = 1,
    SCOPE_ZONE = 2,
    SCOPE_SUBZONE = 3,
    SCOPE_NODE = 4,
    SCOPE_CLUSTER = 5,
    SCOPE_NETWORK = 6,
};

struct service_full {
    struct service public;
    struct service_node *node; /* referenced */
    struct service_address *addresses;
    const struct port_map *ports;
    const uint8_t *preferences;               /* enum balance_scope */
    const struct gateway_reference *waypoint; /* NULL: none */
    const struct weighted_waypoint *weighted;
    const char **alternative_names; /* all of them, shared; the usable ones come first */
    uint64_t weights;               /* sum over weighted */
    uint64_t serial;                /* order of arrival: decides between equals */
    uint32_t addresses_len, ports_len, preferences_len, weighted_len, alternative_names_len;
    uint8_t mode;     /* enum balance_mode */
    uint8_t families; /* enum ip_families */
    bool load_balancing, allow_unhealthy, canonical, namespace_only;
};

enum string_kind {
    STRING_EXACT,
    STRING_PREFIX,
    STRING_SUFFIX,
    STRING_PRESENCE,
    /* An entry that this version does not understand: it counts as what denies more. */
    STRING_ALWAYS,
    STRING_NEVER,
};

struct string_match {
    const char *text;
    uint32_t len;
    uint32_t kind; /* enum string_kind */
};

struct cidr_match {
    struct cidr cidr;
    uint8_t kind; /* STRING_EXACT: compare; STRING_ALWAYS or STRING_NEVER as above */
};

/* A service account; namespace and name are parts of the policy's memory. */
struct account_match {
    const char *namespace, *name;
};

/* The twelve lists of a match, in pairs: what must hold, what must not. */
enum match_list {
    MATCH_NAMESPACES,
    MATCH_NOT_NAMESPACES,
    MATCH_PRINCIPALS,
    MATCH_NOT_PRINCIPALS,
    MATCH_SOURCE_IPS,
    MATCH_NOT_SOURCE_IPS,
    MATCH_DESTINATION_IPS,
    MATCH_NOT_DESTINATION_IPS,
    MATCH_DESTINATION_PORTS,
    MATCH_NOT_DESTINATION_PORTS,
    MATCH_ACCOUNTS,
    MATCH_NOT_ACCOUNTS,
    MATCH_LISTS
};

/* Holds if each of its lists that is not empty does; an empty one never does. */
struct match {
    union {
        const struct string_match *strings;
        const struct cidr_match *cidrs;
        const uint32_t *ports;
        const struct account_match *accounts;
        const void *any;
    } list[MATCH_LISTS];
    uint32_t len[MATCH_LISTS];
};

/* Holds if one of its matches does, or if it has none. */
struct clause {
    const struct match *matches;
    uint32_t len;
};

/* Holds if all of its clauses do. */
struct rule {
    const struct clause *clauses;
    uint32_t len;
};

enum policy_scope { POLICY_GLOBAL = 0, POLICY_NAMESPACE = 1, POLICY_WORKLOAD = 2 };

struct policy {
    const char *key;              /* shared, namespace/name */
    const char *name, *namespace; /* parts of the policy's own memory */
    enum policy_scope scope;
    uint64_t sequence; /* grows with each that is told of, also again */
    bool deny, dry_run;
    const struct rule *rules;
    uint32_t len;
};

/* The whole object of a part that is published; it lives as long, and is never NULL. */
static inline const struct workload_full *workload_full(const struct workload *workload)
{
    return (const struct workload_full *)(const void *)workload;
}

/* As workload_full(). */
static inline const struct service_full *service_full(const struct service *service)
{
    return (const struct service_full *)(const void *)service;
}

/* As workload_full(), by the offset. */
static inline struct workload_full *workload_of_address(const struct workload_address *address)
{
    return (struct workload_full *)((char *)(uintptr_t)address - address->offset);
}

/* As workload_full(), by the offset. */
static inline struct workload_full *workload_of_service(const struct workload_service *membership)
{
    return (struct workload_full *)((char *)(uintptr_t)membership - membership->offset);
}

/* As workload_full(), by the offset. */
static inline struct service_full *service_of_address(const struct service_address *address)
{
    return (struct service_full *)((char *)(uintptr_t)address - address->offset);
}

/* The target port that an endpoint maps a service's port to, or 0. */
uint16_t workload_service_port(const struct workload_service *membership, uint16_t port);
/* The service's own entry for a port, or NULL. */
const struct port_map *service_port(const struct service_full *service, uint16_t port);
/* Whether addr is one of its addresses, in whatever network. */
bool workload_has_address(const struct workload_full *workload, const struct addr *addr);
/* The service's own entry for the same prefix of the same network, or NULL. */
const struct service_address *service_same_address(const struct service_full *service,
                                                   const struct service_address *address);
/* Whether it is the same workload, maybe another version of it. */
bool workload_same(const struct workload_full *a, const struct workload_full *b);

/* What a message was: the caller's, by workload_unref() or service_unref(). */
struct address_resource {
    struct workload_full *workload; /* one of the two */
    struct service_full *service;
};

/* A workload without addresses, services and policies, the caller's: what the pod is to others while
 * nobody else has told. 0 or -ENOMEM. */
int workload_placeholder(const struct pod_words *pod, const char *network, const char *node,
                         struct workload_full **ret);

/* Where decoders find the nodes of services. */
struct node_source {
    /* Called on the writer's thread while a message is decoded: a reference on the node of a service, for the
     * caller; NULL without memory. */
    struct service_node *(*get)(void *data, const char *namespace, const char *hostname);
    void *data;
};

/* name: of the xDS resource, the key of a workload without uid. 0, -EBADMSG with the reason in error, or
 * -ENOMEM; the caller owns the one of the two that is there. */
int address_decode(const char *name, const uint8_t *value, size_t len, const struct node_source *nodes,
                   struct address_resource *ret, char *error, size_t error_size);
/* The same for a policy: policy_free(). 0, -EBADMSG with the reason in error, or -ENOMEM. */
int policy_decode(const char *name, const uint8_t *value, size_t len, struct policy **ret, char *error,
                  size_t error_size);
/* For reclaim_add(): of a struct policy that no reader sees; NULL is fine. */
void policy_free(void *policy);

#endif
