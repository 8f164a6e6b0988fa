/* SPDX-License-Identifier: Apache-2.0 */
/* The way out of the mesh. Who decides that a pod goes it is enroll.c. */
#include <errno.h>
#include <stdio.h>

#include "agent/enroll/dns_capture.h"
#include "agent/enroll/enroll_private.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/source.h"

#define LOG_SCOPE "enroll"
#include "lib/log.h"

#define TOLD_WAIT 15000 /* milliseconds that a pod which leaves stays reachable until its peers can know */

void enroll_leave(struct agent *agent, struct pod *pod, const char *why)
{
    struct transition *t = transition_of(pod);
    struct steer_error error = {0};

    log_info("pod leaves the mesh\tpod=\"%s/%s\" why=\"%s\"", pod->namespace, pod->name, why);
    enroll_set_state(agent, pod, POD_LEAVING);
    guard_pass(agent, pod->cookie, pod->namespace, pod->name);
    enroll_announce(agent, pod);
    enroll_note(pod, "stopping outbound capture", steer_pod_stop_outbound(agent->steer, pod->cookie, &error),
                &error);
    dns_end(agent, pod);
    t->leave_until = loop_now(agent->loop) + TOLD_WAIT;
    loop_timer_set(agent->loop, &t->timer, agent->settings->drain_grace);
}

/* Outbound was stopped and nothing else yet. */
void enroll_come_back(struct agent *agent, struct pod *pod)
{
    struct steer_error error = {0};
    struct steer_pod p;
    int r;

    enroll_describe(agent, pod, &p);
    r = steer_pod_commit(agent->steer, &p, &error);
    if (r < 0) {
        /* It goes on leaving, and is enrolled afresh from there. */
        enroll_note(pod, "starting outbound capture again", r, &error);
        return;
    }
    loop_timer_cancel(&transition_of(pod)->timer);
    enroll_set_state(agent, pod, POD_ENROLLED);
    guard_forget(agent, pod->cookie);
    dns_follow(agent, pod);
    enroll_announce(agent, pod);
    log_info("pod stays in the mesh\tpod=\"%s/%s\"", pod->namespace, pod->name);
}

void enroll_drain(struct agent *agent, struct pod *pod)
{
    enroll_set_state(agent, pod, POD_DRAINING);
    proxies_pod_drain(agent->proxies, pod);
    if (!proxies_serving(agent->proxies))
        transition_of(pod)->clean_not_before = loop_now(agent->loop) + agent->settings->adopt_wait;
    enroll_drained(agent, pod);
}

void enroll_drained(struct agent *agent, struct pod *pod)
{
    struct transition *t = transition_of(pod);
    uint64_t now = loop_now(agent->loop);

    if (pod->enrollment->state != POD_DRAINING || proxies_busy(agent->proxies, pod))
        return;
    if (now < t->clean_not_before) {
        loop_timer_set(agent->loop, &t->timer, t->clean_not_before - now);
        return;
    }
    loop_timer_cancel(&t->timer);
    enroll_clean(agent, pod, pod->netns_fd);
    proxies_pod_delete(agent->proxies, pod);
    enroll_close_descriptors(pod);
    enroll_set_state(agent, pod, POD_OUTSIDE);
    log_info("pod has left the mesh\tpod=\"%s/%s\"", pod->namespace, pod->name);
}

void enroll_remove(struct agent *agent, struct pod *pod, const char *why)
{
    bool present = pod->netns_fd >= 0 && pod_netns_present(pod) > 0;
    struct steer_error error = {.reason = BRUMA_REASON_POD_REMOVED};

    log_info("pod removed\tpod=\"%s/%s\" state=%s why=\"%s\"", pod->namespace, pod->name,
             pod_state_name(pod->enrollment->state), why);
    snprintf(error.text, sizeof(error.text), "%s", why);
    source_forget(agent, pod->uid);
    if (pod->enrollment->state != POD_OUTSIDE) {
        dns_end(agent, pod);
        enroll_undo_capture(agent, pod);
        enroll_clean(agent, pod, present ? pod->netns_fd : -1);
    }
    guard_forget(agent, pod->cookie);
    proxies_pod_delete(agent->proxies, pod);
    store_remove(&agent->store, pod->uid);
    enroll_end(pod, -ECANCELED, &error);
    enroll_pod_free(pod);
}
