/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the Kubernetes source share: pods and namespaces as the API server has told them. */
#ifndef AGENT_KUBERNETES_KUBE_PODS_H
#define AGENT_KUBERNETES_KUBE_PODS_H

#include <pthread.h>

#include "agent/enroll/source.h"
#include "agent/kubernetes/kube_http.h"
#include "agent/kubernetes/kube_mesh_config.h"
#include "agent/kubernetes/kube_object.h"
#include "agent/kubernetes/kube_selector.h"
#include "agent/kubernetes/kube_watch.h"
#include "agent/netns/netns_find.h"
#include "lib/mesh_file/index.h"

struct kube_namespace {
    struct list node;
    char *name;
    cJSON *labels; /* or NULL */
    enum outbound_policy outbound_policy;
    struct direct_switches direct;
    unsigned list; /* number of the list that last named it */
};

struct kube_pod {
    struct list node;
    struct kube_source *source;
    char *uid, *runtime_uid, *namespace, *name, *service_account;
    cJSON *labels; /* or NULL */
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    uint16_t probe_ports[KUBE_PROBES_MAX];
    int probe_ports_len;
    bool host_network, sidecar, completed, deleting, bypass_inbound;
    enum kube_dns dns_capture;
    enum outbound_policy outbound_policy;
    struct direct_switches direct;
    struct steer_exclusions *exclusions; /* or NULL */
    bool warned;                         /* of an annotation that cannot be followed */
    char wrong_annotation[256];          /* as in the object; it has been told */
    unsigned list;

    /* kube_status.c: what the API server is told of it */
    enum kube_redirection redirection; /* as last seen or written */
    enum kube_redirection patched;     /* being written */
    bool left;                         /* its sandbox has gone, and no other has come */
    struct kube_request *patch, *event;
    unsigned patch_tries;
    struct loop_timer patch_timer; /* not before it */
    char event_name[254];          /* "": none was made */
    enum bruma_reason event_reason;
    unsigned event_count;
    uint64_t event_at;            /* loop time */
    enum bruma_reason event_next; /* to be told once the one under way is; NONE: nothing */
    char event_next_text[256];

    /* locate_netns.c: where it runs */
    bool wants_netns; /* in the next search */
    bool searched;    /* in the one that runs */
    unsigned locate_tries;
    struct loop_timer locate_timer; /* of the next search for it */
    char locate_error[256];
    uint64_t passed;  /* cookie of its namespace, where the guard lets it pass as one outside the mesh; 0:
                         nowhere */
    bool was_outside; /* it has not belonged to the mesh from the first word about it on */
};

struct kube_source {
    struct source source;
    struct agent *agent;
    struct kube_client *client;
    struct kube_selectors *selectors;
    bool default_selectors;
    struct kube_watch *watch_pods, *watch_namespaces;
    struct kube_mesh_config mesh_config;
    char selector[300]; /* of the pods of this node */
    struct list pods, namespaces;
    struct item_index namespaces_by_name;
    unsigned pods_list, namespaces_list; /* numbers of the lists under way */
    struct loop_timer locate_soon;
    struct decisions decisions;
    struct locate_job *locate_job; /* a search in a thread, or NULL */
    /* Called by kube_reconcile(); of kube_source.c. */
    void (*reconcile)(struct kube_pod *pod);
};

/* Something was heard of the pod, or of what it depends on: moves it to where it belongs, and tells the
 * server. */
static inline void kube_reconcile(struct kube_pod *pod)
{
    pod->source->reconcile(pod);
}

/* As the settings say. 0, -EINVAL for no server or one that is no https URL, or -ENOMEM; failures are
 * logged. */
int kube_open_client(struct loop *loop, const struct agent_settings *settings, struct kube_client **ret);

/* kube_cache.c: what the watches tell is kept there and leads to kube_reconcile(). */
void kube_cache_init(struct kube_source *s);
/* Forgets all pods and namespaces. */
void kube_cache_free(struct kube_source *s);
/* kube_reconcile() of all pods; for what all depend on. */
void kube_cache_reconcile_all(struct kube_source *s);
/* Both are what a watch needs to tell the cache; s outlives it. */
struct kube_watch_events kube_cache_pods_events(struct kube_source *s);
struct kube_watch_events kube_cache_namespaces_events(struct kube_source *s);

/* ---- kube_pods.c ---- */

/* What was asked for has been complete once: both lists, and the mesh configuration. */
bool kube_ready(const struct kube_source *s);
/* By the UID that the runtime knows, and its names. Without a UID of its own (it is the container's id) the
 * pod is known by its name. It is the cache's, until the watch says that it is gone; NULL: it knows none. */
struct kube_pod *kube_pod_find(const struct kube_source *s, const char *uid, const char *container_id,
                               const char *namespace, const char *name);
/* The same by metadata.uid: the cache's, or NULL. */
struct kube_pod *kube_pod_by_api_uid(const struct kube_source *s, const char *uid);
/* Whether it belongs to the mesh; its namespace must be known. *ret_why says why or why not in any case: a
 * static text. */
bool kube_pod_wanted(const struct kube_source *s, const struct kube_pod *pod, const char **ret_why);
/* True if the settings keep the namespace's pods outside, whatever is known of them. */
bool kube_excludes(const struct kube_source *s, const char *namespace);
/* Of the pod's annotation, else its namespace's, else the mesh configuration's; *ret_why says which, in any
 * case: a static text. */
enum outbound_policy kube_outbound_policy(const struct kube_source *s, const struct kube_pod *pod,
                                          const char **ret_why);
/* The cache's, or NULL. */
struct kube_namespace *kube_namespace_by_name(const struct kube_source *s, const char *name);
/* The pod of the agent's own list, or NULL. */
struct pod *kube_agent_pod(const struct kube_pod *pod);
/* Whether the pod ends, for the agent's own of it if there is one. deleted: the server has it no longer. */
void kube_ending_check(const struct kube_pod *pod, bool deleted);
/* The same for those that the server, which has listed all, does not know. */
void kube_ending_check_unlisted(const struct kube_source *s);

/* Writes the annotation if it is not what it should be. */
void kube_status_check(struct kube_pod *pod);
/* The same a moment later. */
void kube_status_soon(struct kube_pod *pod);
/* It is what it should be, as far as the server has answered. */
bool kube_status_is_acked(struct kube_pod *pod);
/* The request that writes the annotation: its path, and a body that the caller frees, or NULL. */
char *kube_status_patch(const char *namespace, const char *name, const char *uid,
                        enum kube_redirection redirection, char *path, size_t path_size);
/* Tells of a failure by an Event of the pod; the same reason again counts up, and not too often. text is
 * copied. */
void kube_status_event(struct kube_pod *pod, enum bruma_reason reason, const char *text);
/* Of a pod that is new to the cache. */
void kube_status_init(struct kube_pod *pod);
/* Of one that leaves it: requests under way are cancelled. */
void kube_status_free(struct kube_pod *pod);

/* Looks for the network namespace of a running pod that the agent does not know, and enrolls it there. */
void locate_netns(struct kube_pod *pod);
/* There is nothing to look for any more. */
void locate_netns_stop(struct kube_pod *pod);
/* Of a pod that is new to the cache. */
void locate_netns_init(struct kube_pod *pod);
/* Of one that leaves it. */
void locate_netns_free(struct kube_pod *pod);
/* At the source's start, before there are pods. */
void locate_netns_open(struct kube_source *s);
/* Waits for a search that is under way. */
void locate_netns_close(struct kube_source *s);

#endif
