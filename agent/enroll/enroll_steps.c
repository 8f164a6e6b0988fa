/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/enroll_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/enroll/source.h"
#include "lib/reasons.h"
#include "lib/spiffe.h"

#define LOG_SCOPE "enroll"
#include "lib/log.h"

int enroll_fail(struct steer_error *error, int r, enum bruma_reason reason, const char *format, ...)
{
    va_list ap;

    error->reason = reason_of_failure(reason, r);
    va_start(ap, format);
    vsnprintf(error->text, sizeof(error->text), format, ap);
    va_end(ap);
    return r;
}

void enroll_describe(const struct agent *agent, const struct pod *pod, struct steer_pod *ret)
{
    struct steer_pod p = {
        .netns_fd = pod->netns_fd, .cookie = pod->cookie, .generation = pod->enrollment->generation};
    char identity[SPIFFE_MAX];

    snprintf(p.name, sizeof(p.name), "%.*s/%.*s", 63, pod->namespace, 63, pod->name);
    if (spiffe_format(identity, sizeof(identity), agent->settings->trust_domain, pod->namespace,
                      pod->enrollment->service_account) < 0)
        identity[0] = '\0';
    snprintf(p.identity, sizeof(p.identity), "%.*s", (int)sizeof(p.identity) - 1, identity);
    memcpy(p.addresses, pod->addresses, sizeof(p.addresses));
    p.addresses_len = pod->addresses_len;
    p.bypass_inbound = pod->enrollment->bypass_inbound;
    memcpy(p.listeners, pod->enrollment->listeners, sizeof(p.listeners));
    p.foreign_listeners = proxies_open_listeners(agent->proxies);
    memcpy(p.listener_cookies, pod->enrollment->listener_cookies, sizeof(p.listener_cookies));
    *ret = p;
}

void enroll_announce(struct agent *agent, struct pod *pod)
{
    source_announce(agent, pod);
}

void enroll_set_state(struct agent *agent, struct pod *pod, enum pod_state state)
{
    enrollment_of(pod)->state = state;
    /* Without its record the pod is recovered from what is pinned; the failure was logged. */
    (void)store_save(&agent->store, pod);
}

/* Failures on the way out are reported and do not stop it: what is left is less to undo. */
void enroll_note(const struct pod *pod, const char *step, int r, const struct steer_error *error)
{
    if (r < 0 && r != -ENOENT)
        log_error("%s failed\tpod=\"%s/%s\" reason=%s error=\"%s\"", step, pod->namespace, pod->name,
                  reason_name(error->reason), error->text);
}

void enroll_undo_capture(struct agent *agent, struct pod *pod)
{
    struct steer_error error = {0};

    enroll_note(pod, "stopping outbound capture", steer_pod_stop_outbound(agent->steer, pod->cookie, &error),
                &error);
    enroll_note(pod, "detaching", steer_pod_detach(agent->steer, pod->cookie, &error), &error);
}

void enroll_clean(struct agent *agent, struct pod *pod, int netns_fd)
{
    struct steer_error error = {0};

    enroll_note(pod, "cleaning", steer_pod_clean(agent->steer, pod->cookie, netns_fd, &error), &error);
}

void enroll_end(struct pod *pod, int r, const struct steer_error *error)
{
    struct transition *t = transition_of(pod);
    pod_enrolled_fn done = t->done;

    t->done = NULL;
    if (done)
        done(t->done_data, pod, r, error);
}
