/* SPDX-License-Identifier: Apache-2.0 */
/* Finding pods and namespaces among those that the API server has told of, and whether one belongs to the
 * mesh. */
#include "agent/kubernetes/kube_pods.h"

#include <string.h>

#include "agent/enroll/ending.h"
#include "bruma/mesh.h"

/* ---- finding ---- */

static bool named(const void *item, const void *key)
{
    return !strcmp(((const struct kube_namespace *)item)->name, key);
}

struct kube_namespace *kube_namespace_by_name(const struct kube_source *s, const char *name)
{
    return item_index_find(&s->namespaces_by_name, item_index_hash_text(0, name), named, name);
}

struct kube_pod *kube_pod_by_api_uid(const struct kube_source *s, const char *uid)
{
    struct kube_pod *pod;

    list_for_each (pod, &s->pods, node) {
        if (!strcmp(pod->uid, uid))
            return pod;
    }
    return NULL;
}

static struct kube_pod *pod_by_name(const struct kube_source *s, const char *namespace, const char *name)
{
    struct kube_pod *pod;

    list_for_each (pod, &s->pods, node) {
        if (!strcmp(pod->name, name) && !strcmp(pod->namespace, namespace))
            return pod;
    }
    return NULL;
}

/* Without a UID of its own the pod is known by its name. */
struct kube_pod *kube_pod_find(const struct kube_source *s, const char *uid, const char *container_id,
                               const char *namespace, const char *name)
{
    struct kube_pod *pod;

    if (!strcmp(uid, container_id))
        return pod_by_name(s, namespace, name);
    list_for_each (pod, &s->pods, node) {
        if (!strcmp(pod->runtime_uid, uid) && !strcmp(pod->name, name) && !strcmp(pod->namespace, namespace))
            return pod;
    }
    return NULL;
}

struct pod *kube_agent_pod(const struct kube_pod *pod)
{
    const struct pods *pods = &pod->source->agent->pods;
    struct pod *p = pods_by_uid(pods, pod->runtime_uid);

    if (p && !strcmp(p->name, pod->name) && !strcmp(p->namespace, pod->namespace))
        return p;
    p = pods_by_name(pods, pod->namespace, pod->name);
    return p && !strcmp(p->uid, p->container_id) ? p : NULL;
}

/* ---- the end ---- */

/* Of a static pod the server's copy alone is deleted: the kubelet runs it on, and makes another copy. */
void kube_ending_check(const struct kube_pod *pod, bool deleted)
{
    struct pod *p = kube_agent_pod(pod);
    bool is_static = strcmp(pod->uid, pod->runtime_uid) != 0;

    if (p)
        ending_set(pod->source->agent, p, (pod->deleting || deleted) && !is_static,
                   deleted         ? "it was deleted"
                   : pod->deleting ? "it has a deletionTimestamp"
                                   : "it has no deletionTimestamp");
}

/* Who is enrolled was known once. */
void kube_ending_check_unlisted(const struct kube_source *s)
{
    struct pod *p;

    list_for_each (p, &s->agent->pods.list, node) {
        if (p->enrollment->state == POD_ENROLLED &&
            !kube_pod_find(s, p->uid, p->container_id, p->namespace, p->name))
            ending_set(s->agent, p, true, "the API server does not know it any more");
    }
}

/* ---- belonging ---- */

bool kube_ready(const struct kube_source *s)
{
    return kube_watch_report(s->watch_pods)->synced && kube_watch_report(s->watch_namespaces)->synced &&
           kube_mesh_config_synced(&s->mesh_config);
}

static bool is_listed(const char *list, const char *word)
{
    size_t len = strlen(word);

    while (list && *list) {
        size_t n = strcspn(list, ", ");

        if (n == len && !memcmp(list, word, len))
            return true;
        list += n + strspn(list + n, ", ");
    }
    return false;
}

bool kube_excludes(const struct kube_source *s, const char *namespace)
{
    return is_listed(s->agent->settings->exclude_namespaces, namespace);
}

static bool is_node_proxy(const struct kube_source *s, const struct kube_pod *pod)
{
    const char *app = kube_label(pod->labels, "app");

    return app && !strcmp(app, "ztunnel") && !strcmp(pod->namespace, s->agent->settings->system_namespace);
}

/* Words for the default selectors; others are somebody's own. */
static const char *why_of(const struct kube_source *s, const struct kube_pod *pod, int match)
{
    const char *mode = kube_label(pod->labels, BRUMA_LABEL_DATAPLANE_MODE);

    if (!s->default_selectors)
        return match < 0 ? "no enablement selector matches the pod and its namespace"
                         : "an enablement selector matches the pod and its namespace";
    if (match >= 0)
        return match == 0 ? "the pod has istio.io/dataplane-mode=ambient"
                          : "the namespace has istio.io/dataplane-mode=ambient";
    return mode && !strcmp(mode, "none")
               ? "the pod has istio.io/dataplane-mode=none"
               : "neither the pod nor its namespace has istio.io/dataplane-mode=ambient";
}

bool kube_pod_wanted(const struct kube_source *s, const struct kube_pod *pod, const char **ret_why)
{
    const struct kube_namespace *n = kube_namespace_by_name(s, pod->namespace);
    int match = kube_selectors_match(s->selectors, pod->labels, n ? n->labels : NULL);

    *ret_why = why_of(s, pod, match);
    if (match < 0)
        return false;
    if (pod->host_network)
        *ret_why = "the pod uses the node's network (hostNetwork)";
    else if (pod->sidecar)
        *ret_why = "the pod has a sidecar (annotation sidecar.istio.io/status)";
    else if (is_node_proxy(s, pod))
        *ret_why = "the pod is the mesh's own proxy";
    else if (kube_excludes(s, pod->namespace))
        *ret_why = "its namespace is excluded (EXCLUDE_NAMESPACES)";
    else if (pod->completed)
        *ret_why = "the pod has completed";
    else
        return true;
    return false;
}

/* ---- what annotations and the mesh configuration say ---- */

enum outbound_policy kube_outbound_policy(const struct kube_source *s, const struct kube_pod *pod,
                                          const char **ret_why)
{
    const struct kube_namespace *n = kube_namespace_by_name(s, pod->namespace);
    const struct {
        enum outbound_policy policy;
        bool may_relax;
        const char *why;
    } said[] = {{pod->outbound_policy, s->agent->settings->outbound_overrides, "the pod's annotation"},
                {n ? n->outbound_policy : OUTBOUND_UNSAID, s->agent->settings->outbound_overrides,
                 "its namespace's annotation"},
                {s->mesh_config.policy, true, "the mesh configuration"}};

    for (size_t i = 0; i < array_size(said); i++) {
        if (said[i].policy == OUTBOUND_REGISTRY_ONLY ||
            (said[i].policy == OUTBOUND_ALLOW_ANY && said[i].may_relax)) {
            *ret_why = said[i].why;
            return said[i].policy;
        }
    }
    *ret_why = "nobody says it, so the proxy's settings do";
    return OUTBOUND_UNSAID;
}
