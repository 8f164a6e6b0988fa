/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/watchdog.h"

#include <errno.h>

#include "agent/enroll/adopt.h"
#include "agent/enroll/member.h"
#include "agent/enroll/probes.h"
#include "agent/enroll/reap.h"
#include "agent/steer/direct.h"
#include "lib/reasons.h"

#define LOG_SCOPE "watchdog"
#include "lib/log.h"

#define WALKS_A_SWEEP 5   /* full verifications in the time between two looks at what is left in flows */
#define TICK          400 /* milliseconds; a vanished namespace is noticed within two of them */

void watchdog_verify_now(struct agent *agent, struct pod *pod)
{
    struct steer_error error = {0};

    if (pod->enrollment->awaits_listeners)
        adopt_check(agent, pod);
    if (pod->enrollment->state != POD_ENROLLED)
        return;
    watchdog_follow(agent, pod);
    if (pod->enrollment->awaits_listeners)
        return;
    /* Its outcome was logged and is in the pod's record. */
    (void)watchdog_verify(agent, pod, true, &error);
    proxies_pod_retry(agent->proxies, pod);
}

static void verify_cgroup(struct agent *agent)
{
    struct steer_error error = {0};
    int r = steer_cgroup_verify(agent->steer);

    if (r == 0) {
        agent->cgroup_reason = BRUMA_REASON_NONE;
        return;
    }
    if (r != -ENOLINK)
        return; /* for want of descriptors: it cannot be told now, and is asked again */
    if (agent->cgroup_reason == BRUMA_REASON_NONE)
        log_warn("the connect hooks are not attached\treason=%s error=\"%s\"",
                 reason_name(BRUMA_REASON_CGROUP_LINK_DETACHED), strerror(-r));
    r = steer_cgroup_repair(agent->steer, &error);
    if (r < 0) {
        /* It is tried again each time, and told of once. */
        if (agent->cgroup_reason != error.reason)
            log_error("the connect hooks cannot be attached\treason=%s error=\"%s\"",
                      reason_name(error.reason), error.text);
        agent->cgroup_reason = error.reason;
        snprintf(agent->cgroup_error, sizeof(agent->cgroup_error), "%s", error.text);
        return;
    }
    agent->repairs[BRUMA_REASON_CGROUP_LINK_DETACHED]++;
    agent->cgroup_reason = BRUMA_REASON_NONE;
}

/* How many pods are verified in full at this turn although a quick check finds nothing, so that it is each
 * one's turn in time and never everybody's at once. */
static int walk_share(const struct agent *agent)
{
    uint64_t enrolled = (uint64_t)enroll_count(&agent->pods, POD_ENROLLED),
             walk = agent->settings->verify_walk;
    uint64_t share = (enrolled * agent->settings->verify_interval + walk - 1) / walk;

    return (int)(share < enrolled ? share : enrolled);
}

static bool is_due(const struct agent *agent, const struct pod *pod, int *share)
{
    if (*share <= 0 || loop_now(agent->loop) - health_of(pod)->walked_at < agent->settings->verify_walk)
        return false;
    (*share)--;
    return true;
}

/* It takes a walk over the pod's sockets, and hardly ever finds something. */
static void sweep(const struct agent *agent, struct pod *pod)
{
    struct health *h = health_of(pod);
    uint64_t now = loop_now(agent->loop);
    int n;

    if (now - h->swept_at < WALKS_A_SWEEP * agent->settings->verify_walk)
        return;
    h->swept_at = now;
    n = steer_direct_sweep(agent->steer, pod->netns_fd, pod->cookie);
    if (n > 0)
        log_warn(
            "the end of direct connections was missed; they have no line in the access log\tpod=\"%s/%s\" "
            "connections=%d",
            pod->namespace, pod->name, n);
}

static void on_verify(struct loop_timer *timer)
{
    struct agent *agent = container_of(timer, struct agent, verify);
    struct pod *pod;
    int share;

    verify_cgroup(agent);
    proxies_direct(agent->proxies, steer_direct_able(agent->steer));
    share = walk_share(agent);
    list_for_each (pod, &agent->pods.list, node) {
        bool same = watchdog_follows(pod) && watchdog_quick_check(agent, pod);

        if (same && !is_due(agent, pod, &share)) {
            proxies_pod_retry(agent->proxies, pod);
            continue;
        }
        watchdog_verify_now(agent, pod);
        if (same)
            sweep(agent, pod);
    }
    probes_verify(agent);
    agent->verify_rounds++;
    loop_timer_set(agent->loop, &agent->verify, agent->settings->verify_interval);
}

static void on_tick(struct loop_timer *timer)
{
    struct agent *agent = container_of(timer, struct agent, tick);
    struct pod *pod;

    reap_pods(agent);
    list_for_each (pod, &agent->pods.list, node) {
        if (pod->enrollment->awaits_listeners)
            adopt_check(agent, pod);
    }
    loop_timer_set(agent->loop, &agent->tick, TICK);
}

void watchdog_start(struct agent *agent)
{
    agent->verify_pod = watchdog_verify_now;
    loop_timer_init(&agent->tick, on_tick);
    loop_timer_init(&agent->verify, on_verify);
    loop_timer_set(agent->loop, &agent->tick, TICK);
    loop_timer_set(agent->loop, &agent->verify, agent->settings->verify_interval);
}

void watchdog_stop(struct agent *agent)
{
    loop_timer_cancel(&agent->tick);
    loop_timer_cancel(&agent->verify);
    reap_stop(agent);
}
