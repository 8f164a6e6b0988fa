/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/mesh_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/enroll/forwards.h"
#include "agent/enroll/source.h"
#include "bruma/protocol.h"

#define LOG_SCOPE "source"
#include "lib/log.h"

struct mesh_source {
    struct source source;
    const struct agent_settings *settings;
    struct mesh *mesh;
};

static struct mesh *mesh_of(const struct source *source)
{
    return container_of(source, struct mesh_source, source)->mesh;
}

static bool op_ready(const struct source *source)
{
    return mesh_ready(mesh_of(source));
}

/* What the file does not name has an answer too. */
static bool op_knows(const struct source *source, const char *uid, const char *container_id,
                     const char *namespace, const char *name)
{
    (void)uid, (void)container_id, (void)namespace, (void)name;
    return mesh_ready(mesh_of(source));
}

static bool op_wanted(const struct source *source, const struct pod *pod, const char **ret_why)
{
    enum mesh_mode mode = mesh_pod_mode(mesh_of(source), pod->namespace, pod->name);
    bool ambient = mesh_namespace_ambient(mesh_of(source), pod->namespace);

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

static bool op_excludes(const struct source *source, const char *namespace)
{
    (void)source, (void)namespace;
    return false;
}

static int op_service_account(const struct source *source, const struct pod *pod, char *buf, size_t size)
{
    return mesh_service_account(mesh_of(source), pod->namespace, pod->name, buf, size);
}

static bool op_bypass_inbound(const struct source *source, const struct pod *pod)
{
    (void)source, (void)pod;
    return false;
}

static bool op_dns_capture(const struct source *source, const struct pod *pod, bool otherwise)
{
    (void)source, (void)pod;
    return otherwise;
}

static enum outbound_policy op_outbound_policy(const struct source *source, const struct pod *pod,
                                               const char **ret_why)
{
    return mesh_outbound_policy(mesh_of(source), pod->namespace, pod->name, ret_why);
}

static struct direct_switches op_direct(const struct source *source, const struct pod *pod)
{
    return mesh_direct(mesh_of(source), pod->namespace, pod->name);
}

/* The file has no annotations for them. */
static bool op_exclusions(const struct source *source, const struct pod *pod,
                          const struct steer_exclusions **ret)
{
    (void)source, (void)pod;
    *ret = NULL;
    return true;
}

static int op_probe_ports(const struct source *source, const struct pod *pod, const uint16_t **ret)
{
    (void)source, (void)pod, (void)ret;
    return 0;
}

static void op_expect(struct source *source, const struct pod *pod)
{
    const struct mesh_local_pod local = {.uid = pod->uid, .namespace = pod->namespace, .name = pod->name};
    int r = mesh_expect_pod(mesh_of(source), &local);

    if (r < 0)
        log_warn_errno(r, "a pod's certificate is delayed\tpod=\"%s/%s\"", pod->namespace, pod->name);
}

static void op_announce(struct source *source, const struct pod *pod)
{
    struct mesh_local_pod local = {.uid = pod->uid,
                                   .namespace = pod->namespace,
                                   .name = pod->name,
                                   .addresses_len = pod->addresses_len,
                                   .enrolled = forwards_announced(pod)};
    int r;

    memcpy(local.addresses, pod->addresses, sizeof(local.addresses));
    r = mesh_set_local_pod(mesh_of(source), &local);
    if (r < 0)
        log_error_errno(r, "a pod could not be announced to the control plane\tpod=\"%s/%s\"", pod->namespace,
                        pod->name);
}

/* Its own control plane tells the peers at once. */
static bool op_acked(const struct source *source, const struct pod *pod)
{
    (void)source, (void)pod;
    return true;
}

static void op_forget(struct source *source, const char *uid)
{
    mesh_remove_local_pod(mesh_of(source), uid);
}

/* Nobody beside the log, which has it already. */
static void op_report_failure(struct source *source, const struct pod *pod, enum bruma_reason reason,
                              const char *text)
{
    (void)source, (void)pod, (void)reason, (void)text;
}

static void op_report(const struct source *source, cJSON *object)
{
    mesh_report(mesh_of(source), object);
}

static enum bruma_reason op_check(const struct source *source, char *text, size_t size)
{
    const struct mesh_source *s = container_of(source, struct mesh_source, source);
    const char *error = mesh_error(s->mesh);
    bool ready = mesh_ready(s->mesh);

    if (*error) {
        snprintf(text, size, "%s: %s", s->settings->mesh_file, error);
        return BRUMA_REASON_MESH_FILE_INVALID;
    }
    snprintf(text, size, "%s %s", s->settings->mesh_file, ready ? "has been read" : "has not been read yet");
    return ready ? BRUMA_REASON_NONE : BRUMA_REASON_AGENT_NOT_READY;
}

static bool op_serving(const struct source *source, struct source_serving *ret)
{
    ret->stalls = mesh_stalls(mesh_of(source));
    ret->turned_away = mesh_turned_away(mesh_of(source));
    return true;
}

static void op_close(struct source *source)
{
    struct mesh_source *s = container_of(source, struct mesh_source, source);

    mesh_free(&s->mesh);
    free(s);
}

/* A namespace in which the file names a pod of the mesh is not told of: its pods wait. */
static void add_outside(void *data, const char *name, bool ambient, bool has_ambient_pods)
{
    if (!ambient && !has_ambient_pods)
        cJSON_AddStringToObject(data, name, BRUMA_OUTSIDE_UNLABELLED);
}

static void op_outside(const struct source *source, cJSON *namespaces)
{
    mesh_each_namespace(mesh_of(source), add_outside, namespaces);
}

static const struct source_ops ops = {
    .name = "mesh file",
    .not_ready = "no good mesh file has been read yet",
    .ready = op_ready,
    .knows = op_knows,
    .wanted = op_wanted,
    .excludes = op_excludes,
    .service_account = op_service_account,
    .bypass_inbound = op_bypass_inbound,
    .dns_capture = op_dns_capture,
    .outbound_policy = op_outbound_policy,
    .direct = op_direct,
    .exclusions = op_exclusions,
    .probe_ports = op_probe_ports,
    .expect = op_expect,
    .announce = op_announce,
    .acked = op_acked,
    .forget = op_forget,
    .report_failure = op_report_failure,
    .report = op_report,
    .check = op_check,
    .serving = op_serving,
    .outside = op_outside,
    .close = op_close,
};

int mesh_source_open(struct loop *loop, const struct agent_settings *settings, mesh_changed_fn changed,
                     void *data, struct source **ret)
{
    struct mesh_source *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return log_error_errno(-ENOMEM, "no memory for the source");
    source_init(&s->source, &ops);
    s->settings = settings;
    r = mesh_new(loop, settings, changed, data, &s->mesh);
    if (r < 0) {
        free(s);
        return r;
    }
    *ret = &s->source;
    return 0;
}
