/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/cni_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/api/cni_connection.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "lib/message.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "cni"
#include "lib/log.h"

void *cni_accept(struct agent *agent)
{
    struct cni *cni = calloc(1, sizeof(*cni));

    if (cni) {
        cni->agent = agent;
        cni_add_init(cni);
    }
    return cni;
}

static void on_attached(struct cni *cni)
{
    struct pod *pod = cni->pod;

    if (!pod) {
        cni_answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "cni-attached: nothing is being enrolled");
        return;
    }
    enroll_attached(cni->agent, pod);
}

static void give_up(struct cni *cni, enum bruma_reason reason, const char *text)
{
    struct pod *pod = cni->pod;

    cni->pod = NULL;
    enroll_forget_waiter(pod);
    enroll_abort(cni->agent, pod, reason, text);
}

static void on_failed(struct cni *cni, const cJSON *m)
{
    const char *name = "", *text = "the plugin could not attach";
    enum bruma_reason reason;

    if (message_text(m, "reason", 64, &name) == -EBADMSG ||
        message_text(m, "error", 4096, &text) == -EBADMSG || !cni->pod) {
        cni_answer_error(cni, BRUMA_REASON_MESSAGE_INVALID,
                         cni->pod ? "cni-failed: reason or error is wrong"
                                  : "cni-failed: nothing is being enrolled");
        return;
    }
    reason = reason_from_name(name);
    give_up(cni, reason == BRUMA_REASON_COUNT ? BRUMA_REASON_ATTACH_FAILED : reason, text);
    cni_answer_done(cni);
}

static void on_del(struct cni *cni, const cJSON *m)
{
    const char *container, *ifname = "";
    struct pod *pod;

    if (message_name(m, "containerId", &container) < 0 ||
        message_text(m, "ifname", 15, &ifname) == -EBADMSG) {
        cni_answer_error(cni, BRUMA_REASON_MESSAGE_INVALID,
                         "cni-del: containerId or ifname is missing or wrong");
        return;
    }
    /* By container alone: the DEL of an old sandbox may come after the ADD of the pod's new one. */
    pod = pods_by_container(&cni->agent->pods, container);
    if (pod && pod_detach(pod, ifname))
        enroll_remove(cni->agent, pod, "CNI DEL");
    else if (pod)
        (void)store_save(&cni->agent->store, pod);
    cni_answer_done(cni);
}

static void on_check(struct cni *cni, const cJSON *m)
{
    struct agent *agent = cni->agent;
    struct steer_error error = {0};
    const char *container, *why;
    struct pod *pod;

    if (message_name(m, "containerId", &container) < 0) {
        cni_answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "cni-check: containerId is missing or wrong");
        return;
    }
    if (!source_ready(agent)) {
        cni_answer_error(cni, BRUMA_REASON_AGENT_NOT_READY, source_not_ready(agent));
        return;
    }
    pod = pods_by_container(&agent->pods, container);
    if (!pod) {
        cni_answer_error(cni, BRUMA_REASON_POD_REMOVED,
                         "the agent knows no such container: it was never added, or deleted");
        return;
    }
    if (pod->enrollment->state == POD_ENROLLED && !pod->enrollment->awaits_listeners) {
        if (watchdog_verify(agent, pod, false, &error) < 0) {
            cni_answer_error(cni, error.reason, error.text);
            (void)watchdog_verify(agent, pod, true, &error);
            return;
        }
    } else if (pod->enrollment->state != POD_ENROLLED && source_knows_pod(agent, pod) &&
               enroll_wanted(agent, pod, &why)) {
        cni_answer_error(
            cni, pod->enrollment->last_reason ? pod->enrollment->last_reason : BRUMA_REASON_AGENT_NOT_READY,
            *pod->enrollment->last_error ? pod->enrollment->last_error
                                         : "the pod belongs to the mesh and is not enrolled yet");
        return;
    }
    cni_answer_done(cni);
}

static bool is_listed(const cJSON *attachments, const char *container, const char *ifname)
{
    const cJSON *a;

    cJSON_ArrayForEach (a, attachments) {
        const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(a, "containerID"));
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(a, "ifname"));

        if (id && name && !strcmp(id, container) && !strcmp(name, ifname))
            return true;
    }
    return false;
}

/* Forgets the runs of the pod for this network that are not listed. True if none is left at all. */
static bool collect(struct pod *pod, const char *network, const cJSON *attachments)
{
    struct attachment *a;

    list_for_each (a, &pod->attachments, node) {
        if (strcmp(a->network, network) || is_listed(attachments, pod->container_id, a->ifname))
            continue;
        if (pod_detach(pod, a->ifname))
            return true;
    }
    return false;
}

static void on_gc(struct cni *cni, const cJSON *m)
{
    const cJSON *attachments = cJSON_GetObjectItemCaseSensitive(m, "attachments");
    struct agent *agent = cni->agent;
    const char *network;
    struct pod *pod;

    if (message_text(m, "network", 255, &network) < 0 || !cJSON_IsArray(attachments)) {
        cni_answer_error(cni, BRUMA_REASON_MESSAGE_INVALID,
                         "cni-gc: network or attachments is missing or wrong");
        return;
    }
    list_for_each (pod, &agent->pods.list, node) {
        if (collect(pod, network, attachments))
            enroll_remove(agent, pod, "CNI GC");
        else
            (void)store_save(&agent->store, pod);
    }
    cni_answer_done(cni);
}

static void on_status(struct cni *cni)
{
    if (source_ready(cni->agent))
        connection_send(cni->connection, message_new("done"), NULL, 0); /* every five seconds: not counted */
    else
        connection_send_error(cni->connection, BRUMA_REASON_AGENT_NOT_READY, source_not_ready(cni->agent));
}

static void on_message(struct local_connection *connection, const cJSON *m, int *fds, size_t fds_len)
{
    struct cni *cni = connection_data(connection);
    const char *op = message_op(m);

    cni->connection = connection;
    if (!strcmp(op, "cni-add"))
        cni_add(cni, m, fds, fds_len);
    else if (!strcmp(op, "cni-attached"))
        on_attached(cni);
    else if (!strcmp(op, "cni-failed"))
        on_failed(cni, m);
    else if (!strcmp(op, "cni-del"))
        on_del(cni, m);
    else if (!strcmp(op, "cni-check"))
        on_check(cni, m);
    else if (!strcmp(op, "cni-gc"))
        on_gc(cni, m);
    else if (!strcmp(op, "cni-status"))
        on_status(cni);
    else
        cni_answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "unknown op");
}

static void on_closed(struct local_connection *connection)
{
    struct cni *cni = connection_data(connection);

    if (cni->pod)
        give_up(cni, BRUMA_REASON_ATTACH_FAILED, "the plugin disconnected during enrollment");
    cni_add_forget(cni);
    free(cni);
}

const struct server_role cni_role = {.name = "plugin", .message = on_message, .closed = on_closed};
