/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "enroll"
#include "agent/enroll/exclude.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/enroll/enroll_private.h"
#include "agent/enroll/exclusion_rules.h"
#include "agent/enroll/source.h"
#include "lib/log.h"
#include "lib/reasons.h"

static void fail(struct pod *pod, const struct steer_error *error)
{
    if (pod->enrollment->exclusions_reason == error->reason)
        return;
    enrollment_of(pod)->exclusions_reason = error->reason;
    log_error(
        "what a pod excludes from capture cannot be changed; this is retried, and logged once\tpod=\"%s/%s\" "
        "reason=%s error=\"%s\"",
        pod->namespace, pod->name, reason_name(error->reason), error->text);
}

/* As far as this agent has set it, and nobody else has changed it since. */
static bool in_force(struct agent *agent, const struct pod *pod, const struct steer_exclusions *wanted)
{
    return pod->enrollment->exclusions_set && exclusion_rules_equal(pod->enrollment->exclusions, wanted) &&
           steer_exclusions_active(agent->steer, pod->cookie) == (wanted != NULL);
}

void exclusions_follow(struct agent *agent, struct pod *pod)
{
    struct enrollment *e = enrollment_of(pod);
    const struct steer_exclusions *wanted = NULL;
    struct steer_exclusions *copy = NULL;
    struct steer_error error = {0};

    if (pod->netns_fd < 0 || e->state != POD_ENROLLED)
        return;
    if (agent->settings->exclusions && !source_exclusions(agent, pod, &wanted))
        return;
    if (in_force(agent, pod, wanted))
        return;
    if (wanted) {
        copy = malloc(sizeof(*copy));
        if (copy)
            *copy = *wanted;
        else
            enroll_fail(&error, -ENOMEM, BRUMA_REASON_OUT_OF_RESOURCES, "%s", strerror(ENOMEM));
    }
    if ((wanted && !copy) || steer_exclusions_set(agent->steer, pod->cookie, wanted, &error) < 0) {
        free(copy);
        fail(pod, &error);
        return;
    }
    if (wanted || e->exclusions)
        log_info("exclusions of a pod from capture\tpod=\"%s/%s\" ranges=%zu ports=%zu", pod->namespace,
                 pod->name, wanted ? wanted->ranges_len : 0, wanted ? wanted->ports_len : 0);
    free(e->exclusions);
    e->exclusions = copy;
    e->exclusions_set = true;
    e->exclusions_reason = BRUMA_REASON_NONE;
}
