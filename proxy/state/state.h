/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control plane has told us: workloads, services, policies. One writer (the control thread), readers
 * without locks (liburcu, QSBR flavour: each worker is a registered reader that is quiescent between loop
 * turns).
 *
 * A published object never changes; an update publishes a new one. A reader that wants to keep an object
 * beyond its loop turn takes a reference (workload_ref) and gives it back later on any thread.
 *
 * The writer is a registered RCU thread too (rcu.h), online or offline: only it takes objects out, so it
 * reads its own state without protection, and commits do not wait for readers.
 */
#ifndef PROXY_STATE_STATE_H
#define PROXY_STATE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/addr.h"
#include "lib/trust_domains.h"

/* How a workload is reached. The numbers of both are those of the messages. */
enum tunnel_protocol { TUNNEL_NONE = 0, TUNNEL_HBONE = 1 };
enum workload_type { WORKLOAD_DEPLOYMENT = 0, WORKLOAD_CRONJOB = 1, WORKLOAD_POD = 2, WORKLOAD_JOB = 3 };

struct state;

/* All strings are never NULL ("" if absent) and live as long as the object. */
struct workload {
    int references; /* atomic */
    const char *uid, *name, *namespace, *service_account, *trust_domain, *network, *node, *cluster_id;
    const char *canonical_name, *canonical_revision, *workload_name, *hostname;
    const char *region, *zone, *subzone;
    const char *identity; /* spiffe://trust_domain/ns/namespace/sa/service_account */
    enum tunnel_protocol protocol;
    enum workload_type type;
    bool healthy, host_network, native_tunnel;
    uint8_t application_tunnel_protocol; /* 0 none, 1 PROXY */
    uint16_t application_tunnel_port;    /* 0: not set */
    uint32_t capacity;
    /* more, private to state.c and its neighbours, follows in struct workload_full */
};

struct service {
    int references; /* atomic */
    const char *name, *namespace, *hostname;
    const char *const *subject_alt_names; /* only usable ones (spiffe://...) */
    size_t subject_alt_names_len;
};

/* Each ref is one more reference, which an unref gives back; any thread. */
void workload_ref(const struct workload *workload);
void workload_unref(const struct workload *workload); /* NULL is fine */
void service_ref(const struct service *service);
void service_unref(const struct service *service); /* NULL is fine */

enum state_type { STATE_ADDRESS = 0, STATE_AUTHORIZATION = 1, STATE_TYPES = 2 };

/* node_name: "" means that every workload counts as local. network: of this node. changed(data,
 * policies) is called on the writer's thread after each commit that changed something; policies: policies
 * too. 0 or -ENOMEM. */
int state_new(const char *node_name, const char *network, void (*changed)(void *data, bool policies),
              void *data, struct state **ret);
/* No reader is left. Referenced workloads and services live on. */
void state_free(struct state **state);

/* Trust domains beside the mesh's own in which identities are the same to policies. Kept, not copied; before
 * the first policy_check(). */
void state_set_trust_domains(struct state *state, const struct trust_domains *aliases);

/* What policy_check() does when a workload names a policy that has not arrived: deny (the default) or skip
 * it. */
void state_set_unknown_policy(struct state *state, bool deny);

/* Whoever keeps answers of policies outside of RCU is told that they are about to change: called on the
 * writer's thread before readers see the first change of a response, once; the commit tells when it is over.
 * NULL: nobody. */
void state_watch_policies(struct state *state, void (*changing)(void *data), void *data);

/* Whoever keeps where addresses lead outside of RCU is told: called on the writer's thread at the commit,
 * once readers see all of it, before changed(): an address that may lead elsewhere now, or NULL: any may.
 * NULL: nobody. */
void state_watch_routes(struct state *state, void (*touched)(void *data, const struct addr *addr),
                        void *data);

/* ---- writer (control thread). One response = any number of apply/remove, then commit. ---- */

/* Decodes one resource (istio.workload.Address or istio.security.Authorization) and publishes it. 0;
 * -EBADMSG: a resource that cannot be used is refused whole, with the reason in error; -ENOMEM. What was
 * known under that name stays then. */
int state_apply(struct state *state, enum state_type type, const char *name, const uint8_t *value, size_t len,
                char *error, size_t error_size);
/* Takes back what was applied under that name; harmless if there is nothing. */
void state_remove(struct state *state, enum state_type type, const char *name);
/* Readers see the endpoints and policies as they are now; what went is freed once none sees it. */
void state_commit(struct state *state);

/* Writer's thread: the node-local workload of a pod, or NULL (for certificates); valid until the next
 * apply or remove. */
const struct workload *state_local_workload(struct state *state, const char *namespace, const char *name,
                                            const char *service_account);
/* What the agent says of a pod. trust_domain "": nobody has said it. */
struct pod_words {
    const char *uid, *name, *namespace, *service_account, *trust_domain;
};

/* Any thread: such a pod as a workload of this node, for as long as the mesh does not know it. A reference
 * for the caller. 0 or -ENOMEM. */
int state_placeholder(const struct state *state, const struct pod_words *pod, const struct workload **ret);

/* Writer's thread: the trust domain of some node-local workload, valid until the next apply, or NULL. A
 * control plane has one. */
const char *state_local_trust_domain(struct state *state);

/* Each is how many there are now. Any thread. */
size_t state_workload_count(const struct state *state);
size_t state_service_count(const struct state *state);
size_t state_policy_count(const struct state *state);

/* ---- readers: inside a registered RCU thread; results are valid until the next quiescent state unless
 * referenced ---- */

/* The workload with this address in the node's network, or NULL. */
const struct workload *state_workload_by_address(const struct state *state, const struct addr *addr);
/* The node-local workload of a pod, valid as said above, or NULL: name, namespace and service account must
 * match ("" service account: any). */
const struct workload *state_find_local(const struct state *state, const char *namespace, const char *name,
                                        const char *service_account);

#endif
