/* SPDX-License-Identifier: Apache-2.0 */
/* Pods and namespaces as the API server has told them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/enroll/guard.h"
#include "agent/kubernetes/kube_decisions.h"
#include "agent/kubernetes/kube_pods.h"
#include "lib/message.h"
#include "lib/reasons.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

static void count(struct kube_source *s, enum source_event event)
{
    s->source.events[event]++;
}

static void reconcile_namespace(struct kube_source *s, const char *name)
{
    struct kube_pod *pod;

    list_for_each (pod, &s->pods, node) {
        if (!name || !strcmp(pod->namespace, name)) {
            count(s, SOURCE_EVENT_UPDATE);
            kube_reconcile(pod);
        }
    }
}

void kube_cache_reconcile_all(struct kube_source *s)
{
    reconcile_namespace(s, NULL);
}

/* ---- pods ---- */

static void pod_forget(struct kube_pod *pod)
{
    list_del(&pod->node);
    guard_forget(pod->source->agent, pod->passed);
    kube_status_free(pod);
    locate_netns_free(pod);
    cJSON_Delete(pod->labels);
    free(pod->exclusions);
    free(pod->uid);
    free(pod->runtime_uid);
    free(pod->namespace);
    free(pod->name);
    free(pod->service_account);
    loop_free_later(pod->source->agent->loop, pod);
}

static struct kube_pod *pod_make(struct kube_source *s, const struct kube_pod_object *o)
{
    struct kube_pod *pod = calloc(1, sizeof(*pod));

    if (!pod)
        return NULL;
    pod->source = s;
    list_init(&pod->node);
    kube_status_init(pod);
    locate_netns_init(pod);
    pod->uid = strdup(o->uid);
    pod->runtime_uid = strdup(o->runtime_uid);
    pod->namespace = strdup(o->namespace);
    pod->name = strdup(o->name);
    if (!pod->uid || !pod->runtime_uid || !pod->namespace || !pod->name) {
        pod_forget(pod);
        return NULL;
    }
    list_add_tail(&s->pods, &pod->node);
    return pod;
}

static int pod_update(struct kube_pod *pod, struct kube_pod_object *o)
{
    cJSON *labels = o->labels ? cJSON_Duplicate(o->labels, true) : NULL;
    char *account = strdup(o->service_account), wrong[sizeof(o->wrong_annotation)];
    struct steer_exclusions *exclusions = NULL;
    int r = exclusion_rules_parse(o->exclusions, &exclusions, wrong, sizeof(wrong));

    if (!account || (o->labels && !labels) || r < 0) {
        free(account);
        free(exclusions);
        cJSON_Delete(labels);
        return -ENOMEM;
    }
    if (!*o->wrong_annotation)
        memcpy(o->wrong_annotation, wrong, sizeof(wrong));
    free(pod->exclusions);
    pod->exclusions = exclusions;
    free(pod->service_account);
    cJSON_Delete(pod->labels);
    pod->service_account = account;
    pod->labels = labels;
    /* The last report of a pod that has ended may lack its addresses. */
    if (o->addresses_len) {
        memcpy(pod->addresses, o->addresses, sizeof(pod->addresses));
        pod->addresses_len = o->addresses_len;
    }
    pod->host_network = o->host_network;
    pod->sidecar = o->sidecar;
    pod->completed = o->completed;
    pod->deleting = o->deleting;
    pod->bypass_inbound = o->bypass_inbound;
    pod->dns_capture = o->dns_capture;
    pod->outbound_policy = o->outbound_policy;
    pod->direct = o->direct;
    memcpy(pod->probe_ports, o->probe_ports, sizeof(pod->probe_ports));
    pod->probe_ports_len = o->probe_ports_len;
    pod->redirection = o->redirection;
    return 0;
}

/* Once, as long as it is so: pods are told of again and again. Of a pod that stays outside only the log
 * tells. */
static void warn_of_annotations(struct kube_pod *pod, const struct kube_pod_object *o)
{
    char quoted[540];
    const char *why;

    if (o->unknown_annotation && !pod->warned)
        log_warn("an annotation asks for what is not supported yet\tpod=\"%s/%s\" annotation=%s",
                 pod->namespace, pod->name, o->unknown_annotation);
    pod->warned = o->unknown_annotation;
    if (!strcmp(pod->wrong_annotation, o->wrong_annotation))
        return;
    snprintf(pod->wrong_annotation, sizeof(pod->wrong_annotation), "%s", o->wrong_annotation);
    if (!*pod->wrong_annotation)
        return;
    log_warn("an annotation has a value that cannot be used\tpod=\"%s/%s\" reason=%s error=%s",
             pod->namespace, pod->name, reason_name(BRUMA_REASON_ANNOTATION_INVALID),
             log_quote(quoted, sizeof(quoted), pod->wrong_annotation));
    if (kube_pod_wanted(pod->source, pod, &why))
        kube_status_event(pod, BRUMA_REASON_ANNOTATION_INVALID, pod->wrong_annotation);
}

static void on_pod(void *data, const cJSON *object, bool deleted)
{
    struct kube_source *s = data;
    struct kube_pod_object o;
    struct kube_pod *pod;
    char why[256];

    kube_decisions_touch(s);
    if (kube_pod_decode(object, &o, why, sizeof(why)) < 0) {
        log_error("a pod of the API server cannot be used\terror=\"%s\"", why);
        return;
    }
    pod = kube_pod_by_api_uid(s, o.uid);
    if (deleted) {
        /* Its capture lasts as long as its network namespace. */
        count(s, SOURCE_EVENT_DELETE);
        if (pod) {
            kube_ending_check(pod, true);
            pod_forget(pod);
        }
        return;
    }
    count(s, pod ? SOURCE_EVENT_UPDATE : SOURCE_EVENT_ADD);
    if (!pod)
        pod = pod_make(s, &o);
    if (!pod || pod_update(pod, &o) < 0) {
        log_error("no memory for a pod\tpod=\"%s/%s\"", o.namespace, o.name);
        return;
    }
    pod->list = s->pods_list;
    warn_of_annotations(pod, &o);
    kube_reconcile(pod);
}

static void on_pods_begin(void *data)
{
    ((struct kube_source *)data)->pods_list++;
}

static void on_pods_complete(void *data)
{
    struct kube_source *s = data;
    struct kube_pod *pod;

    kube_decisions_touch(s);
    list_for_each (pod, &s->pods, node) {
        if (pod->list != s->pods_list) {
            count(s, SOURCE_EVENT_DELETE);
            pod_forget(pod);
        }
    }
    kube_ending_check_unlisted(s);
    reconcile_namespace(s, NULL);
}

/* ---- namespaces ---- */

static void namespace_forget(struct kube_source *s, struct kube_namespace *n)
{
    if (n->name)
        item_index_remove(&s->namespaces_by_name, item_index_hash_text(0, n->name), n);
    list_del(&n->node);
    cJSON_Delete(n->labels);
    free(n->name);
    free(n);
}

static struct kube_namespace *namespace_make(struct kube_source *s, const char *name)
{
    struct kube_namespace *n = calloc(1, sizeof(*n));

    if (!n)
        return NULL;
    list_init(&n->node);
    n->name = strdup(name);
    if (!n->name || item_index_add(&s->namespaces_by_name, item_index_hash_text(0, name), n) < 0) {
        namespace_forget(s, n);
        return NULL;
    }
    list_add_tail(&s->namespaces, &n->node);
    return n;
}

static void on_namespace(void *data, const cJSON *object, bool deleted)
{
    struct kube_source *s = data;
    struct kube_namespace *n;
    const cJSON *labels;
    enum outbound_policy policy;
    struct direct_switches direct;
    const char *name;
    char why[256], wrong[256], quoted[540];
    cJSON *copy;
    bool changed;

    kube_decisions_touch(s);
    if (kube_namespace_decode(object, &name, &labels, why, sizeof(why)) < 0) {
        log_error("a namespace of the API server cannot be used\terror=\"%s\"", why);
        return;
    }
    n = kube_namespace_by_name(s, name);
    if (deleted) {
        if (n)
            namespace_forget(s, n);
        return;
    }
    policy = kube_namespace_policy(object, wrong, sizeof(wrong));
    direct = kube_namespace_direct(object, wrong, sizeof(wrong));
    changed = !n || n->outbound_policy != policy || !direct_switches_equal(n->direct, direct) ||
              !cJSON_Compare(n->labels, labels, true);
    if (changed && *wrong)
        log_error("an annotation has a value that cannot be used\tnamespace=%s reason=%s error=%s", name,
                  reason_name(BRUMA_REASON_ANNOTATION_INVALID), log_quote(quoted, sizeof(quoted), wrong));
    if (!n)
        n = namespace_make(s, name);
    copy = labels ? cJSON_Duplicate(labels, true) : NULL;
    if (!n || (labels && !copy)) {
        log_error("no memory for a namespace\tnamespace=%s", name);
        return;
    }
    cJSON_Delete(n->labels);
    n->labels = copy;
    n->outbound_policy = policy;
    n->direct = direct;
    n->list = s->namespaces_list;
    if (changed)
        reconcile_namespace(s, n->name);
}

static void on_namespaces_begin(void *data)
{
    ((struct kube_source *)data)->namespaces_list++;
}

static void on_namespaces_complete(void *data)
{
    struct kube_source *s = data;
    struct kube_namespace *n;

    kube_decisions_touch(s);
    list_for_each (n, &s->namespaces, node) {
        if (n->list != s->namespaces_list)
            namespace_forget(s, n);
    }
    reconcile_namespace(s, NULL);
}

/* ---- the whole ---- */

struct kube_watch_events kube_cache_pods_events(struct kube_source *s)
{
    return (struct kube_watch_events){
        .list_begins = on_pods_begin, .object = on_pod, .list_complete = on_pods_complete, .data = s};
}

struct kube_watch_events kube_cache_namespaces_events(struct kube_source *s)
{
    return (struct kube_watch_events){.list_begins = on_namespaces_begin,
                                      .object = on_namespace,
                                      .list_complete = on_namespaces_complete,
                                      .data = s};
}

void kube_cache_init(struct kube_source *s)
{
    list_init(&s->pods);
    list_init(&s->namespaces);
}

void kube_cache_free(struct kube_source *s)
{
    struct kube_namespace *n;
    struct kube_pod *pod;

    list_for_each (pod, &s->pods, node)
        pod_forget(pod);
    list_for_each (n, &s->namespaces, node)
        namespace_forget(s, n);
    item_index_free(&s->namespaces_by_name);
}
