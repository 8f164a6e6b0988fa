/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/source.h"

#include "agent/enroll/forwards.h"

#define LOG_SCOPE "source"
#include "lib/log.h"

bool source_ready(const struct agent *agent)
{
    return agent->source ? agent->source->ops->ready(agent->source) : mesh_ready(agent->mesh);
}

const char *source_not_ready(const struct agent *agent)
{
    return agent->source ? agent->source->ops->not_ready : "no good mesh file has been read yet";
}

bool source_knows(const struct agent *agent, const char *uid, const char *container_id, const char *namespace,
                  const char *name)
{
    return agent->source ? agent->source->ops->knows(agent->source, uid, container_id, namespace, name)
                         : mesh_ready(agent->mesh);
}

bool source_knows_pod(const struct agent *agent, const struct pod *pod)
{
    return source_ready(agent) && source_knows(agent, pod->uid, pod->container_id, pod->namespace, pod->name);
}

bool source_excludes(const struct agent *agent, const char *namespace)
{
    return agent->source && agent->source->ops->excludes(agent->source, namespace);
}

static bool file_wants(const struct agent *agent, const struct pod *pod, const char **ret_why)
{
    enum mesh_mode mode = mesh_pod_mode(agent->mesh, pod->namespace, pod->name);
    bool ambient = mesh_namespace_ambient(agent->mesh, pod->namespace);

    if (mode == MESH_MODE_AMBIENT)
        *ret_why = "the pod has istio.io/dataplane-mode=ambient";
    else if (mode == MESH_MODE_NONE)
        *ret_why = "the pod has istio.io/dataplane-mode=none";
    else if (ambient)
        *ret_why = "the namespace has istio.io/dataplane-mode=ambient";
    else
        *ret_why = "neither the pod nor its namespace has istio.io/dataplane-mode=ambient";
    return mode == MESH_MODE_AMBIENT || (mode != MESH_MODE_NONE && ambient);
}

bool source_wanted(const struct agent *agent, const struct pod *pod, const char **ret_why)
{
    return agent->source ? agent->source->ops->wanted(agent->source, pod, ret_why)
                         : file_wants(agent, pod, ret_why);
}

int source_service_account(const struct agent *agent, const struct pod *pod, char *buf, size_t size)
{
    if (agent->source)
        return agent->source->ops->service_account(agent->source, pod, buf, size);
    return mesh_service_account(agent->mesh, pod->namespace, pod->name, buf, size);
}

bool source_bypass_inbound(const struct agent *agent, const struct pod *pod)
{
    return agent->source && agent->source->ops->bypass_inbound(agent->source, pod);
}

int source_probe_ports(const struct agent *agent, const struct pod *pod, const uint16_t **ret)
{
    return agent->source ? agent->source->ops->probe_ports(agent->source, pod, ret) : 0;
}

void source_expect(struct agent *agent, const struct pod *pod)
{
    const struct mesh_local_pod local = {.uid = pod->uid, .namespace = pod->namespace, .name = pod->name};
    int r = agent->source ? 0 : mesh_expect_pod(agent->mesh, &local);

    if (r < 0)
        log_warn_errno(r, "a pod gets its certificate a little later\tpod=\"%s/%s\"", pod->namespace,
                       pod->name);
}

static void announce_to_mesh(struct agent *agent, const struct pod *pod)
{
    struct mesh_local_pod local = {.uid = pod->uid,
                                   .namespace = pod->namespace,
                                   .name = pod->name,
                                   .addresses_len = pod->addresses_len,
                                   .enrolled = forwards_announced(pod)};
    int r;

    memcpy(local.addresses, pod->addresses, sizeof(local.addresses));
    r = mesh_set_local_pod(agent->mesh, &local);
    if (r < 0)
        log_error_errno(r, "the control plane was not told of a pod\tpod=\"%s/%s\"", pod->namespace,
                        pod->name);
}

void source_announce(struct agent *agent, const struct pod *pod)
{
    if (agent->source)
        agent->source->ops->announce(agent->source, pod);
    else
        announce_to_mesh(agent, pod);
}

bool source_told(const struct agent *agent, const struct pod *pod)
{
    return !agent->source || agent->source->ops->told(agent->source, pod);
}

void source_forget(struct agent *agent, const char *uid)
{
    if (agent->source)
        agent->source->ops->forget(agent->source, uid);
    else
        mesh_remove_local_pod(agent->mesh, uid);
}

void source_trouble(struct agent *agent, const struct pod *pod, enum bruma_reason reason, const char *text)
{
    if (agent->source)
        agent->source->ops->trouble(agent->source, pod, reason, text);
}

void source_report(const struct agent *agent, cJSON *object)
{
    if (agent->source)
        agent->source->ops->report(agent->source, object);
    else
        mesh_report(agent->mesh, object);
}
