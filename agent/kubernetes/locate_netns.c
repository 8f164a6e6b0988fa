/* SPDX-License-Identifier: Apache-2.0 */
/* Running pods that no CNI call has named: their network namespaces are searched in a thread, many at a time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/guard.h"
#include "agent/kubernetes/kube_pods.h"
#include "lib/reasons.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define GATHER      30 /* milliseconds in which pods of one search come together */
#define TRIES_QUIET 3  /* a sandbox that is being recreated is found, or named by CNI, after a moment */

struct locate_job {
    struct kube_source *source;
    struct loop *loop;
    pthread_t thread;
    struct netns_find_config config;
    uint64_t own;
    struct netns_wanted *wanted;
    size_t len;
};

static void job_free(struct locate_job *job)
{
    for (size_t i = 0; i < job->len; i++) {
        if (job->wanted[i].fd >= 0)
            close(job->wanted[i].fd);
    }
    free(job->wanted);
    free(job);
}

static void not_found(struct kube_pod *pod, const char *error)
{
    struct loop *loop = pod->source->agent->loop;
    char quoted[600];

    snprintf(pod->locate_error, sizeof(pod->locate_error), "%s", error);
    loop_timer_set(loop, &pod->locate_timer, kube_backoff(pod->locate_tries++));
    if (pod->locate_tries < TRIES_QUIET)
        return;
    log_warn("the network namespace of a running pod cannot be found\tpod=\"%s/%s\" reason=%s error=%s",
             pod->namespace, pod->name, reason_name(BRUMA_REASON_NETNS_NOT_FOUND),
             log_quote(quoted, sizeof(quoted), error));
    kube_status_event(pod, BRUMA_REASON_NETNS_NOT_FOUND, error);
    kube_status_check(pod);
}

/* Somebody else's namespace is only taken from who is gone. */
static bool make_room(struct agent *agent, const struct kube_source *s, uint64_t cookie)
{
    struct pod *other = pods_by_cookie(&agent->pods, cookie);

    if (other && kube_pod_find(s, other->uid, other->container_id, other->namespace, other->name))
        return false;
    if (other)
        enroll_remove(agent, other, "another pod has its network namespace now");
    return true;
}

static int make_pod(struct kube_pod *pod, struct netns_wanted *w, struct pod **ret)
{
    struct agent *agent = pod->source->agent;
    struct pod *p;
    int r = pods_by_uid(&agent->pods, pod->runtime_uid) ? -EEXIST : 0;

    if (r == 0)
        r = enroll_pod_add(agent, pod->runtime_uid, pod->namespace, pod->name, &p);
    if (r < 0)
        return r;
    r = pod_set_sandbox(p, w->container_id, w->path, w->cookie);
    if (r == 0)
        r = pod_merge_addresses(p, pod->addresses, pod->addresses_len);
    if (r < 0) {
        enroll_pod_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

/* A pod outside the mesh, which the guard is to let pass. */
static void pass(struct kube_pod *pod, const struct netns_wanted *w)
{
    struct agent *agent = pod->source->agent;

    if (w->fd < 0) {
        if (++pod->locate_tries < TRIES_QUIET)
            loop_timer_set(agent->loop, &pod->locate_timer, kube_backoff(pod->locate_tries));
        else
            log_debug("the guard cannot find the network namespace of a pod outside the mesh\tpod=\"%s/%s\" "
                      "error=\"%s\"",
                      pod->namespace, pod->name, w->error);
        return;
    }
    if (pods_by_cookie(&agent->pods, w->cookie))
        return; /* another pod's */
    pod->passed = w->cookie;
    guard_pass(agent, w->cookie, pod->namespace, pod->name);
}

/* It has belonged to the mesh ever since it was heard of, and ran without. */
static void report_late(struct kube_pod *pod)
{
    if (pod->was_outside)
        return;
    pod->source->agent->captured_late++;
    log_warn("a pod of the mesh ran without being captured; it is captured now\tpod=\"%s/%s\" reason=%s "
             "check=\"%s\"",
             pod->namespace, pod->name, reason_name(BRUMA_REASON_CAPTURED_LATE),
             reason_check(BRUMA_REASON_CAPTURED_LATE));
    kube_status_event(pod, BRUMA_REASON_CAPTURED_LATE, "it was found running and is captured now");
}

static void take(struct kube_source *s, struct netns_wanted *w)
{
    struct agent *agent = s->agent;
    struct kube_pod *pod = kube_pod_by_api_uid(s, w->key);
    const char *why;
    struct pod *p;

    if (pod)
        pod->searched = false;
    /* Much may have happened meanwhile. */
    if (!pod || kube_agent_pod(pod) || !kube_namespace_by_name(s, pod->namespace))
        return;
    if (!kube_pod_wanted(s, pod, &why)) {
        if (guard_wanted(agent))
            pass(pod, w);
        return;
    }
    if (w->fd < 0) {
        not_found(pod, w->error);
        return;
    }
    if (!make_room(agent, s, w->cookie)) {
        not_found(pod, "another pod of this node has the network namespace that was found");
        return;
    }
    if (make_pod(pod, w, &p) < 0) {
        not_found(pod, "no memory, or another pod has its UID");
        return;
    }
    log_info("the network namespace of a running pod was found\tpod=\"%s/%s\" by=%s netns=%s", pod->namespace,
             pod->name, w->how, w->path);
    locate_netns_stop(pod);
    report_late(pod);
    enroll_reconcile(agent, p);
}

static void on_job_done(void *data)
{
    struct locate_job *job = data;
    struct kube_source *s = job->source;
    struct kube_pod *pod;

    (void)pthread_join(job->thread, NULL);
    s->locate_job = NULL;
    for (size_t i = 0; i < job->len; i++)
        take(s, &job->wanted[i]);
    list_for_each (pod, &s->pods, node) {
        if (pod->wants_netns)
            loop_timer_set(s->agent->loop, &s->locate_soon, GATHER);
    }
    job_free(job);
}

static void *run_job(void *data)
{
    struct locate_job *job = data;

    (void)netns_find(&job->config, job->own, job->wanted, job->len);
    /* Without memory for this there is nothing else to do than to wait for some. */
    while (loop_post(job->loop, on_job_done, job) < 0)
        nanosleep(&(const struct timespec){.tv_nsec = 100000000}, NULL);
    return NULL;
}

static struct locate_job *make_job(struct kube_source *s)
{
    const struct agent_settings *c = s->agent->settings;
    struct locate_job *job = calloc(1, sizeof(*job));
    struct kube_pod *pod;
    size_t n = 0;

    if (!job)
        return NULL;
    list_for_each (pod, &s->pods, node)
        n += pod->wants_netns;
    job->wanted = calloc(n ? n : 1, sizeof(*job->wanted));
    if (!job->wanted) {
        free(job);
        return NULL;
    }
    job->source = s;
    job->loop = s->agent->loop;
    job->own = s->agent->own_cookie;
    job->config = (struct netns_find_config){
        .cni_cache = *c->cni_cache ? c->cni_cache : NULL,
        .cri_socket = *c->cri_socket && access(c->cri_socket, F_OK) == 0 ? c->cri_socket : NULL,
        .proc = c->proc};
    list_for_each (pod, &s->pods, node) {
        struct netns_wanted *w = &job->wanted[job->len];

        if (!pod->wants_netns)
            continue;
        pod->wants_netns = false;
        pod->searched = true;
        snprintf(w->uid, sizeof(w->uid), "%s", pod->runtime_uid);
        snprintf(w->key, sizeof(w->key), "%s", pod->uid);
        memcpy(w->addresses, pod->addresses, sizeof(w->addresses));
        w->addresses_len = pod->addresses_len;
        w->fd = -1;
        job->len++;
    }
    return job;
}

static void on_locate_soon(struct loop_timer *timer)
{
    struct kube_source *s = container_of(timer, struct kube_source, locate_soon);
    struct locate_job *job;
    int r;

    if (s->locate_job)
        return;
    job = make_job(s);
    if (job && !job->len) {
        job_free(job);
        return;
    }
    r = job ? pthread_create(&job->thread, NULL, run_job, job) : ENOMEM;
    if (r == 0) {
        s->locate_job = job;
        return;
    }
    log_error_errno(r, "no thread to search for the network namespaces of pods");
    for (size_t i = 0; job && i < job->len; i++) {
        struct kube_pod *pod = kube_pod_by_api_uid(s, job->wanted[i].key);

        if (pod) {
            pod->searched = false;
            not_found(pod, "no thread to search for it");
        }
    }
    if (job)
        job_free(job);
}

void locate_netns(struct kube_pod *pod)
{
    struct kube_source *s = pod->source;

    if (pod->wants_netns || pod->searched || loop_timer_armed(&pod->locate_timer))
        return;
    pod->wants_netns = true;
    if (!s->locate_job && !loop_timer_armed(&s->locate_soon))
        loop_timer_set(s->agent->loop, &s->locate_soon, GATHER);
}

void locate_netns_stop(struct kube_pod *pod)
{
    pod->wants_netns = false;
    pod->locate_tries = 0;
    pod->locate_error[0] = '\0';
    loop_timer_cancel(&pod->locate_timer);
}

static void on_locate_timer(struct loop_timer *timer)
{
    kube_reconcile(container_of(timer, struct kube_pod, locate_timer));
}

void locate_netns_init(struct kube_pod *pod)
{
    loop_timer_init(&pod->locate_timer, on_locate_timer);
}

void locate_netns_free(struct kube_pod *pod)
{
    loop_timer_cancel(&pod->locate_timer);
}

void locate_netns_open(struct kube_source *s)
{
    loop_timer_init(&s->locate_soon, on_locate_soon);
}

void locate_netns_close(struct kube_source *s)
{
    loop_timer_cancel(&s->locate_soon);
    if (!s->locate_job)
        return;
    (void)pthread_join(s->locate_job->thread, NULL);
    loop_unpost(s->agent->loop, on_job_done, s->locate_job);
    job_free(s->locate_job);
    s->locate_job = NULL;
}
