/* SPDX-License-Identifier: Apache-2.0 */
/* Resources for tests of the mesh state, written as C initialisers and applied as a control plane would send
 * them. */
#ifndef TESTS_UNIT_PROXY_MESH_SAMPLES_H
#define TESTS_UNIT_PROXY_MESH_SAMPLES_H

#include "proxy/route/policy.h"
#include "proxy/route/route.h"
#include "proxy/state/state.h"

struct sample_port {
    unsigned service, target;
};

struct sample_workload {
    const char *name;
    const char *uid;          /* default: Kubernetes//Pod/<namespace>/<name> */
    const char *namespace;    /* default: shop */
    const char *account;      /* default: the name */
    const char *addresses[4]; /* "bad": five bytes */
    const char *network, *node, *hostname, *cluster, *region, *zone, *subzone, *trust_domain;
    bool plain;        /* TUNNEL_NONE; default: HBONE */
    unsigned protocol; /* the raw value, if not 0 */
    unsigned status, mode, type;
    const char *waypoint, *gateway; /* "ns/hostname:port" or "@network/address:port" or "none" */
    struct {
        const char *key; /* namespace/hostname */
        struct sample_port ports[3];
    } services[4];
    const char *policies[4];
    unsigned capacity; /* 0: the field is absent */
    bool no_capacity;  /* the field is there and 0 */
    bool tunnel, native;
    unsigned tunnel_protocol, tunnel_port;
};

struct sample_service {
    const char *name;
    const char *namespace;    /* default: shop */
    const char *hostname;     /* default: <name>.<namespace>.svc.cluster.local */
    const char *addresses[4]; /* "10.0.0.1", "10.0.0.0/8", and "network@..." */
    struct sample_port ports[4];
    const char *names[4]; /* subject_alt_names */
    const char *waypoint;
    struct {
        const char *reference;
        unsigned weight;
    } weighted[4];
    bool balancing;
    unsigned mode, health, preferences[6], families, visibility;
    bool canonical;
};

/* Strings: "=x" exact, "x*" prefix, "*x" suffix, "*" presence, "?" no variant. Addresses "10.0.0.0/8" or
 * "bad". Ports "80". Accounts "namespace/name". The order is that of the fields' names. */
struct sample_match {
    const char *namespaces[3], *not_namespaces[3], *principals[3], *not_principals[3], *source_ips[3],
        *not_source_ips[3], *destination_ips[3], *not_destination_ips[3], *destination_ports[3],
        *not_destination_ports[3], *accounts[3], *not_accounts[3];
};

struct sample_clause {
    int matches_len;
    struct sample_match matches[2];
};

struct sample_rule {
    int clauses_len;
    struct sample_clause clauses[2];
};

struct sample_policy {
    const char *name, *namespace; /* namespace default: shop */
    unsigned scope, action;
    bool dry_run;
    int rules_len;
    struct sample_rule rules[2];
};

/* The resource as bytes, to be freed. */
uint8_t *workload_bytes(const struct sample_workload *w, size_t *ret_len);
uint8_t *service_bytes(const struct sample_service *s, size_t *ret_len);
uint8_t *policy_bytes(const struct sample_policy *p, size_t *ret_len);

/* The result of state_apply(); the error text is in sample_error. */
extern char sample_error[256];
int apply_workload(struct state *state, const struct sample_workload *w);
int apply_service(struct state *state, const struct sample_service *s);
int apply_policy(struct state *state, const struct sample_policy *p);

#define WORKLOAD(state, ...) apply_workload(state, &(struct sample_workload){__VA_ARGS__})
#define SERVICE(state, ...)  apply_service(state, &(struct sample_service){__VA_ARGS__})
#define POLICY(state, ...)   apply_policy(state, &(struct sample_policy){__VA_ARGS__})

/* A state of node "node-a", network "", that counts its changes, and is freed by state_free(). */
struct sample_changes {
    int all, policies;
};
extern struct sample_changes sample_changes;
struct state *sample_state(void);

struct addr sample_addr(const char *text);
struct endpoint sample_endpoint(const char *text);

#endif
