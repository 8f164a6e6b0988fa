/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/pods_pages.h"

#include "lib/metrics_text.h"
#include "proxy/proxy.h"
#include "proxy/worker/pod_notes.h"

/* Without memory the page has fewer. */
static void describe(struct pod_notes *notes, const struct pod_info *info, const char *state)
{
    struct pod_note *pod = pod_notes_pod(notes, info->uid);

    if (pod)
        (void)pod_note_describe(pod, state, info->name, info->namespace, info->service_account);
}

static void note_pod(void *data, const struct pod_info *info, bool draining,
                     const int fds[BRUMA_POD_FD_COUNT])
{
    struct pod_note *pod = pod_notes_pod(data, info->uid);

    (void)fds;
    describe(data, info, draining ? "Draining" : "Up");
    if (pod)
        pod_note_policy(pod, outbound_policy_name(info->outbound_policy));
}

/* One that is served and lacks a listener is both; then this is what people must see. */
static void note_pending(void *data, const struct pod_info *info)
{
    describe(data, info, "Pending");
}

void pods_note(struct proxy *p, struct pod_notes *notes)
{
    pods_each(p, note_pod, notes);
    pods_each_own(p, note_pod, notes);
    if (p->zds)
        zds_pods_each_pending(zds_client_pods(p->zds), note_pending, notes);
}

static void count(void *data, const struct pod_info *info, bool draining, const int fds[BRUMA_POD_FD_COUNT])
{
    (void)info;
    (void)draining;
    (void)fds;
    ++*(unsigned long *)data;
}

void pods_write_metrics(struct proxy *p, FILE *out)
{
    unsigned long active = 0;

    pods_each(p, count, &active);
    metric_gauge(out, "workload_manager_active_proxy_count", "Pods that are served.", active);
    metric_gauge(out, "workload_manager_pending_proxy_count", "Pods that cannot be served yet.",
                 p->zds ? zds_client_pods(p->zds)->pending_len : 0);
    metric_counter(out, "workload_manager_proxies_started", "Pods that the proxy began to serve.",
                   p->pods_started);
    metric_counter(out, "workload_manager_proxies_stopped", "Pods that the proxy ceased to serve.",
                   p->pods_stopped);
}
