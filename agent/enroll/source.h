/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the agent has its knowledge of pods from: whether one belongs to the mesh, and as whom. On one
 * machine that is the mesh file (mesh_source.h), in a cluster the Kubernetes API (kube_source.h); main.c
 * opens one of them. The core of the agent asks here. All on the loop's thread.
 */
#ifndef AGENT_ENROLL_SOURCE_H
#define AGENT_ENROLL_SOURCE_H

#include "agent/agent.h"

struct steer_exclusions;

/* What a control plane that is ours has had to do. */
struct source_serving {
    uint64_t stalls;      /* calls that were reset since nothing moved */
    uint64_t turned_away; /* connections that were closed or refused because there were too many */
};

/* A source has all of them. */
struct source_ops {
    const char *name;      /* "mesh file", "kubernetes" */
    const char *not_ready; /* a sentence */
    bool tells_endings;    /* it says itself when pods are told to end */
    /* Each is called on the loop's thread by the function below that has its name, and returns what that
     * says: true or false, 0 or -errno, how many; texts are static. */
    bool (*ready)(const struct source *source);
    bool (*knows)(const struct source *source, const char *uid, const char *container_id,
                  const char *namespace, const char *name);
    bool (*wanted)(const struct source *source, const struct pod *pod, const char **ret_why);
    bool (*excludes)(const struct source *source, const char *namespace);
    int (*service_account)(const struct source *source, const struct pod *pod, char *buf, size_t size);
    bool (*bypass_inbound)(const struct source *source, const struct pod *pod);
    bool (*dns_capture)(const struct source *source, const struct pod *pod, bool otherwise);
    enum outbound_policy (*outbound_policy)(const struct source *source, const struct pod *pod,
                                            const char **ret_why);
    struct direct_switches (*direct)(const struct source *source, const struct pod *pod);
    bool (*exclusions)(const struct source *source, const struct pod *pod,
                       const struct steer_exclusions **ret);
    int (*probe_ports)(const struct source *source, const struct pod *pod, const uint16_t **ret);
    void (*expect)(struct source *source, const struct pod *pod);
    void (*announce)(struct source *source, const struct pod *pod);
    bool (*acked)(const struct source *source, const struct pod *pod);
    void (*forget)(struct source *source, const char *uid);
    void (*report_failure)(struct source *source, const struct pod *pod, enum bruma_reason reason,
                           const char *text);
    void (*report)(const struct source *source, cJSON *object);
    enum bruma_reason (*check)(const struct source *source, char *text, size_t size);
    bool (*serving)(const struct source *source, struct source_serving *ret);
    /* Called on the loop's thread when decisions are written: adds namespaces of which it is known how much
     * of them is outside, see decisions.h. */
    void (*outside)(const struct source *source, cJSON *namespaces);
    /* Called once on the loop's thread, by source_close(): frees the source. */
    void (*close)(struct source *source);
};

/* What a source that is told of pods one by one was told. */
enum source_event { SOURCE_EVENT_ADD, SOURCE_EVENT_UPDATE, SOURCE_EVENT_DELETE, SOURCE_EVENT_COUNT };

/* A source begins with it. */
struct source {
    const struct source_ops *ops;
    struct list waiters;
    uint64_t events[SOURCE_EVENT_COUNT]; /* of pods, handled */
};

/* Somebody who waits for the source to hear of a pod. The strings are the waiter's. */
struct source_waiter {
    struct list node;
    const char *namespace, *name;
    /* Called once on the loop's thread, in the middle of what the source does: look at it later. It does not
     * wait any more then. */
    void (*heard)(struct source_waiter *waiter);
};

/* It can be asked at all. */
bool source_ready(const struct agent *agent);
/* Why not, while it cannot: a static text, never NULL. */
const char *source_not_ready(const struct agent *agent);
/* Whether it has heard of the pod, so that the questions below have an answer. container_id equal to uid:
 * nobody has told the UID. */
bool source_knows(const struct agent *agent, const char *uid, const char *container_id, const char *namespace,
                  const char *name);
/* The same of a pod that the agent has; false while the source is not ready. */
bool source_knows_pod(const struct agent *agent, const struct pod *pod);
/* Waits until source_knows() may be true of the pod: it, or its namespace, was heard of. */
void source_wait(struct agent *agent, struct source_waiter *waiter);
/* Harmless if it does not wait; but then list_init() of its node was called. */
void source_wait_end(struct source_waiter *waiter);

/* Its pods stay outside by the settings, whatever else is known: not even the source has to be there. */
bool source_excludes(const struct agent *agent, const char *namespace);

/* Whether the pod belongs to the mesh; *ret_why says why or why not in any case, a static text. */
bool source_wanted(const struct agent *agent, const struct pod *pod, const char **ret_why);
/* Writes it to buf. 0, or -ENAMETOOLONG if it does not fit. */
int source_service_account(const struct agent *agent, const struct pod *pod, char *buf, size_t size);
/* Whether plaintext from outside goes straight to the application. */
bool source_bypass_inbound(const struct agent *agent, const struct pod *pod);
/* Whether questions of the pod to DNS are captured: the pod says so, or where it says nothing the settings
 * do. */
bool source_dns_capture(const struct agent *agent, const struct pod *pod);

/* What the source says of connections of the pod to destinations that the mesh does not know; UNSAID:
 * nothing, so the proxy's settings do. *ret_why says by what, in any case: a static text. */
enum outbound_policy source_outbound_policy(const struct agent *agent, const struct pod *pod,
                                            const char **ret_why);
/* What its annotations, else its namespace's, say of direct ways. */
struct direct_switches source_direct(const struct agent *agent, const struct pod *pod);

/* What the pod excludes from capture: *ret is the source's, NULL for nothing. False, and *ret is not written,
 * if it does not know the pod. */
bool source_exclusions(const struct agent *agent, const struct pod *pod, const struct steer_exclusions **ret);

/* Ports that the kubelet may call past policy: those that the pod declares probes for. Returns how many; they
 * are the source's. */
int source_probe_ports(const struct agent *agent, const struct pod *pod, const uint16_t **ret);

/* What has become of the pod on this node. */
void source_announce(struct agent *agent, const struct pod *pod);
/* The pod is being enrolled: whoever signs certificates here may do it for this one. */
void source_expect(struct agent *agent, const struct pod *pod);
/* Whether what was announced has reached whoever tells the peers. */
bool source_acked(const struct agent *agent, const struct pod *pod);
/* The pod is gone from the node. */
void source_forget(struct agent *agent, const char *uid);
/* It could not be enrolled. */
void source_report_failure(struct agent *agent, const struct pod *pod, enum bruma_reason reason,
                           const char *text);
/* Whether it says itself when pods are told to end (ending.h), so that nobody else need. */
bool source_tells_endings(const struct agent *agent);
/* Adds its keys to the object of `brumactl status`. */
void source_report(const struct agent *agent, cJSON *object);
/* For `brumactl doctor`: NONE and what is well, or the reason of what is not and words about it. */
enum bruma_reason source_check(const struct agent *agent, char *text, size_t size);
/* False, and ret is not written, if proxies have their control plane from somebody else. */
bool source_serving(const struct agent *agent, struct source_serving *ret);

/* For sources: one begins. */
void source_init(struct source *source, const struct source_ops *ops);
/* How many it has handled; 0 for a source that reads all pods at once. */
uint64_t source_events(const struct agent *agent, enum source_event event);

/* For sources: one has heard of the pod of that name. Who waits for it is called. */
void source_heard(struct source *source, const char *namespace, const char *name);

/* Frees it; NULL is fine. Nobody waits any more. */
void source_close(struct source **source);

#endif
