/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_decisions.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/enroll/store.h"
#include "agent/kubernetes/kube_pods.h"
#include "bruma/protocol.h"
#include "lib/message.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define SOON_MS  200
#define AGAIN_MS 300000 /* the agent stands by what it has written */

/* How much is known of pods of this namespace that nobody has told of: NULL if they may belong to the mesh
 * without a word of their own. */
static const char *outside(const struct kube_source *s, const struct kube_namespace *n)
{
    if (!kube_selectors_possible(s->selectors, n->labels))
        return BRUMA_OUTSIDE_ALWAYS;
    return kube_selectors_match(s->selectors, NULL, n->labels) < 0 ? BRUMA_OUTSIDE_UNLABELLED : NULL;
}

static cJSON *decisions_of(const struct kube_source *s)
{
    cJSON *o = cJSON_CreateObject(), *namespaces = cJSON_AddObjectToObject(o, "namespaces"),
          *pods = cJSON_AddObjectToObject(o, "pods");
    const struct kube_namespace *n;
    const struct kube_pod *pod;
    const char *why;

    cJSON_AddStringToObject(o, "withoutAgent", s->agent->config->without_agent);
    cJSON_AddNumberToObject(o, "validSeconds", (double)(s->agent->config->decisions_age / 1000));
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
    return o;
}

static int write_decisions(struct kube_source *s)
{
    _cleanup_message_ cJSON *o = decisions_of(s);
    char *what = o ? cJSON_PrintUnformatted(o) : NULL;
    _cleanup_free_ char *text = NULL;

    if (!what)
        return -ENOMEM;
    if (!s->decisions || strcmp(s->decisions, what) != 0)
        s->decisions_revision++;
    free(s->decisions);
    s->decisions = what;
    cJSON_AddNumberToObject(o, "revision", (double)s->decisions_revision);
    cJSON_AddNumberToObject(o, "writtenAt", (double)time(NULL));
    text = cJSON_PrintUnformatted(o);
    return text ? store_write(s->agent->config->run_dir, BRUMA_DECISIONS, text) : -ENOMEM;
}

static void on_timer(struct loop_timer *timer)
{
    struct kube_source *s = container_of(timer, struct kube_source, decisions_timer);
    /* Before the API server has spoken the ones of an earlier agent stay. */
    int r = kube_ready(s) ? write_decisions(s) : 0;

    if (r < 0)
        log_warn_errno(r, "decisions cannot be kept: without an agent the older ones count, or pods wait");
    loop_timer_set(s->agent->loop, timer, AGAIN_MS);
}

void kube_decisions_open(struct kube_source *s)
{
    struct timespec now;

    /* those of one agent come after those of the one before */
    (void)clock_gettime(CLOCK_REALTIME, &now);
    s->decisions_revision = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    loop_timer_init(&s->decisions_timer, on_timer);
    kube_decisions_touch(s);
}

void kube_decisions_touch(struct kube_source *s)
{
    uint64_t now = loop_now(s->agent->loop);

    if (!loop_timer_armed(&s->decisions_timer) || s->decisions_timer.due > now + SOON_MS)
        loop_timer_set(s->agent->loop, &s->decisions_timer, SOON_MS);
}

void kube_decisions_close(struct kube_source *s)
{
    if (s->decisions_timer.node.next)
        loop_timer_cancel(&s->decisions_timer);
    free(s->decisions);
    s->decisions = NULL;
}
