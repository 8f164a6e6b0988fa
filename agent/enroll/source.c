/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/source.h"

#include <string.h>

bool source_ready(const struct agent *agent)
{
    return agent->source->ops->ready(agent->source);
}

const char *source_not_ready(const struct agent *agent)
{
    return agent->source->ops->not_ready;
}

bool source_knows(const struct agent *agent, const char *uid, const char *container_id, const char *namespace,
                  const char *name)
{
    return agent->source->ops->knows(agent->source, uid, container_id, namespace, name);
}

bool source_knows_pod(const struct agent *agent, const struct pod *pod)
{
    return source_ready(agent) && source_knows(agent, pod->uid, pod->container_id, pod->namespace, pod->name);
}

void source_wait(struct agent *agent, struct source_waiter *waiter)
{
    list_add_tail(&agent->source->waiters, &waiter->node);
}

void source_wait_end(struct source_waiter *waiter)
{
    list_del(&waiter->node);
}

uint64_t source_events(const struct agent *agent, enum source_event event)
{
    return agent->source->events[event];
}

void source_init(struct source *source, const struct source_ops *ops)
{
    source->ops = ops;
    list_init(&source->waiters);
}

void source_heard(struct source *source, const char *namespace, const char *name)
{
    struct source_waiter *w;

    list_for_each (w, &source->waiters, node) {
        if (strcmp(w->name, name) != 0 || strcmp(w->namespace, namespace) != 0)
            continue;
        source_wait_end(w);
        w->heard(w);
    }
}

bool source_tells_endings(const struct agent *agent)
{
    return agent->source->ops->tells_endings;
}

bool source_excludes(const struct agent *agent, const char *namespace)
{
    return agent->source->ops->excludes(agent->source, namespace);
}

bool source_wanted(const struct agent *agent, const struct pod *pod, const char **ret_why)
{
    return agent->source->ops->wanted(agent->source, pod, ret_why);
}

int source_service_account(const struct agent *agent, const struct pod *pod, char *buf, size_t size)
{
    return agent->source->ops->service_account(agent->source, pod, buf, size);
}

bool source_bypass_inbound(const struct agent *agent, const struct pod *pod)
{
    return agent->source->ops->bypass_inbound(agent->source, pod);
}

bool source_dns_capture(const struct agent *agent, const struct pod *pod)
{
    return agent->source->ops->dns_capture(agent->source, pod, agent->settings->dns_capture);
}

enum outbound_policy source_outbound_policy(const struct agent *agent, const struct pod *pod,
                                            const char **ret_why)
{
    return agent->source->ops->outbound_policy(agent->source, pod, ret_why);
}

struct direct_switches source_direct(const struct agent *agent, const struct pod *pod)
{
    return agent->source->ops->direct(agent->source, pod);
}

bool source_exclusions(const struct agent *agent, const struct pod *pod, const struct steer_exclusions **ret)
{
    return agent->source->ops->exclusions(agent->source, pod, ret);
}

int source_probe_ports(const struct agent *agent, const struct pod *pod, const uint16_t **ret)
{
    return agent->source->ops->probe_ports(agent->source, pod, ret);
}

void source_expect(struct agent *agent, const struct pod *pod)
{
    agent->source->ops->expect(agent->source, pod);
}

void source_announce(struct agent *agent, const struct pod *pod)
{
    agent->source->ops->announce(agent->source, pod);
}

bool source_acked(const struct agent *agent, const struct pod *pod)
{
    return agent->source->ops->acked(agent->source, pod);
}

void source_forget(struct agent *agent, const char *uid)
{
    agent->source->ops->forget(agent->source, uid);
}

void source_report_failure(struct agent *agent, const struct pod *pod, enum bruma_reason reason,
                           const char *text)
{
    agent->source->ops->report_failure(agent->source, pod, reason, text);
}

void source_report(const struct agent *agent, cJSON *object)
{
    agent->source->ops->report(agent->source, object);
}

enum bruma_reason source_check(const struct agent *agent, char *text, size_t size)
{
    return agent->source->ops->check(agent->source, text, size);
}

bool source_serving(const struct agent *agent, struct source_serving *ret)
{
    return agent->source->ops->serving(agent->source, ret);
}

void source_close(struct source **source)
{
    if (*source)
        (*source)->ops->close(*source);
    *source = NULL;
}
