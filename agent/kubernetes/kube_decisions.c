/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_decisions.h"

#include "agent/kubernetes/kube_pods.h"
#include "bruma/protocol.h"

/* How much is known of pods of this namespace that nobody has told of: NULL if they may belong to the mesh
 * without a word of their own. */
static const char *outside(const struct kube_source *s, const struct kube_namespace *n)
{
    if (!kube_selectors_possible(s->selectors, n->labels))
        return BRUMA_OUTSIDE_ALWAYS;
    return kube_selectors_match(s->selectors, NULL, n->labels) < 0 ? BRUMA_OUTSIDE_UNLABELLED : NULL;
}

static bool ready(void *data)
{
    return kube_ready(data);
}

static void fill(void *data, cJSON *namespaces, cJSON *pods)
{
    const struct kube_source *s = data;
    const struct kube_namespace *n;
    const struct kube_pod *pod;
    const char *why;

    list_for_each (n, &s->namespaces, node) {
        const char *how = outside(s, n);

        if (how)
            cJSON_AddStringToObject(namespaces, n->name, how);
    }
    list_for_each (pod, &s->pods, node) {
        if (kube_namespace_by_name(s, pod->namespace) && !pod->completed && !kube_pod_wanted(s, pod, &why))
            cJSON_AddStringToObject(pods, pod->runtime_uid, BRUMA_OUTSIDE_ALWAYS);
        else
            cJSON_AddStringToObject(pods, pod->runtime_uid, BRUMA_INSIDE);
    }
}

void kube_decisions_open(struct kube_source *s)
{
    s->decisions.agent = s->agent;
    s->decisions.ready = ready;
    s->decisions.fill = fill;
    s->decisions.data = s;
    decisions_open(&s->decisions);
}

void kube_decisions_touch(struct kube_source *s)
{
    decisions_touch(&s->decisions);
}

void kube_decisions_close(struct kube_source *s)
{
    decisions_close(&s->decisions);
}
