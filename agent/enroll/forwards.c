/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/forwards.h"

#include <stdio.h>
#include <string.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/member.h"
#include "agent/enroll/source.h"
#include "lib/reasons.h"

#define LOG_SCOPE "forwards"
#include "lib/log.h"

const char *forwards_by(const struct pod *pod)
{
    return member_of(pod)->forwards;
}

bool forwards_announced(const struct pod *pod)
{
    return pod->enrollment->state == POD_ENROLLED && !*forwards_by(pod);
}

static const char *first_device(const struct pod *pod)
{
    const struct attachment *a;

    list_for_each (a, &pod->attachments, node)
        return a->ifname;
    return "eth0"; /* found by its processes: nobody has said */
}

static void report(struct agent *agent, struct pod *pod)
{
    char text[256];

    if (!*forwards_by(pod)) {
        log_info("a pod no longer forwards traffic of others and is announced again\tpod=\"%s/%s\"",
                 pod->namespace, pod->name);
        return;
    }
    snprintf(text, sizeof(text),
             "the pod forwards traffic of others (%s), which is not captured: it is not announced",
             forwards_by(pod));
    log_warn("a pod is not announced\tpod=\"%s/%s\" reason=%s detail=\"%s\"", pod->namespace, pod->name,
             reason_name(BRUMA_REASON_POD_FORWARDS), forwards_by(pod));
    source_report_failure(agent, pod, BRUMA_REASON_POD_FORWARDS, text);
}

void forwards_look(struct agent *agent, struct pod *pod)
{
    struct member *m = member_of(pod);
    char why[sizeof(m->forwards)] = "";
    bool before = *m->forwards;

    if (!agent->settings->forwarding_look || pod->netns_fd < 0)
        return;
    /* Where that cannot be told now it is as it was. */
    if (steer_pod_forwards(pod->netns_fd, first_device(pod), why, sizeof(why)) < 0)
        return;
    memcpy(m->forwards, why, sizeof(why));
    if (before == (*why != '\0'))
        return;
    report(agent, pod);
    if (pod->enrollment->state == POD_ENROLLED)
        enroll_announce(agent, pod);
}

static void on_look(struct loop_timer *timer)
{
    struct agent *agent = container_of(timer, struct agent, forwards);
    struct pod *pod;

    list_for_each (pod, &agent->pods.list, node) {
        if (pod->enrollment->state == POD_ENROLLED)
            forwards_look(agent, pod);
    }
    loop_timer_set(agent->loop, &agent->forwards, agent->settings->forwarding_look);
}

void forwards_start(struct agent *agent)
{
    loop_timer_init(&agent->forwards, on_look);
    if (agent->settings->forwarding_look)
        loop_timer_set(agent->loop, &agent->forwards, agent->settings->forwarding_look);
}

void forwards_stop(struct agent *agent)
{
    loop_timer_cancel(&agent->forwards);
}
