/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/enrollment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/enroll/member.h"
#include "lib/seqpacket.h"

static const char *const state_names[POD_STATE_COUNT] = {
    [POD_OUTSIDE] = "outside", [POD_ENROLLING] = "enrolling", [POD_ENROLLED] = "enrolled",
    [POD_LEAVING] = "leaving", [POD_DRAINING] = "draining",
};

int enroll_pod_new(struct pods *pods, const char *uid, const char *namespace, const char *name,
                   struct pod **ret)
{
    struct member *m = calloc(1, sizeof(*m));

    if (!m)
        return -ENOMEM;
    m->pod.enrollment = &m->enrollment;
    m->pod.health = &m->health;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        m->enrollment.listeners[i] = -1;
    m->enrollment.dns_socket = -1;
    steer_quick_check_init(&m->health.quick_check);
    loop_timer_init(&m->transition.timer, NULL);
    loop_timer_init(&m->following.verify_soon, NULL);
    m->following.routes.fd = m->following.routes_fd = -1;
    if (pod_init(&m->pod, uid, namespace, name) < 0) {
        free(m);
        return -ENOMEM;
    }
    list_add_tail(&pods->list, &m->pod.node);
    *ret = &m->pod;
    return 0;
}

void enroll_close_descriptors(struct pod *pod)
{
    struct following *f = following_of(pod);

    if (f->routes.fd >= 0)
        loop_watch_remove(pod->loop, &f->routes);
    close_fds(&f->routes_fd, 1);
    steer_quick_check_close(&health_of(pod)->quick_check);
    close_fds(enrollment_of(pod)->listeners, BRUMA_LISTENER_COUNT);
    close_fds(&enrollment_of(pod)->dns_socket, 1);
    pod_close_netns(pod);
}

void enroll_pod_free(struct pod *pod)
{
    struct member *m = member_of(pod);
    struct loop *loop = pod->loop;

    list_del(&pod->node);
    loop_timer_cancel(&m->transition.timer);
    loop_timer_cancel(&m->following.verify_soon);
    enroll_close_descriptors(pod);
    free(m->enrollment.exclusions);
    pod_release(pod);
    if (loop)
        loop_free_later(loop, m);
    else
        free(m);
}

void enroll_pods_free(struct pods *pods)
{
    struct pod *pod;

    list_for_each (pod, &pods->list, node)
        enroll_pod_free(pod);
}

int enroll_count(const struct pods *pods, enum pod_state state)
{
    const struct pod *pod;
    int n = 0;

    list_for_each (pod, &pods->list, node)
        n += pod->enrollment->state == state;
    return n;
}

void enroll_set_error(struct pod *pod, enum bruma_reason reason, const char *text)
{
    struct enrollment *e = enrollment_of(pod);

    e->last_reason = reason;
    snprintf(e->last_error, sizeof(e->last_error), "%s", text);
}

const char *pod_state_name(enum pod_state state)
{
    return state_names[state];
}

enum pod_state pod_state_from_name(const char *name)
{
    int i;

    for (i = 0; i < POD_STATE_COUNT && strcmp(state_names[i], name); i++)
        ;
    return (enum pod_state)i;
}
