/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_daemonset.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/kubernetes/kube_affinity.h"
#include "agent/kubernetes/kube_pods.h"
#include "lib/message.h"

#define LOG_SCOPE "uninstall"
#include "lib/log.h"

#define ANSWER_MAX (4u * 1024 * 1024)
#define DEADLINE   5000 /* milliseconds for each of two questions */

struct question {
    struct loop *loop;
    struct kube_client *client;
    struct kube_request *request;
    const struct agent_settings *settings;
    cJSON *daemonset;
    bool leaves;
};

int kube_daemonset_path(const struct agent_settings *settings, char *path, size_t size)
{
    return snprintf(path, size, "/apis/apps/v1/namespaces/%s/daemonsets/%s", settings->pod_namespace,
                    settings->daemonset) >= (int)size
               ? -ENAMETOOLONG
               : 0;
}

static void stay(struct question *q, const char *why, const struct kube_reply *reply)
{
    log_info("everything stays in place\twhy=\"%s\" status=%d error=\"%s\"", why, reply->status,
             reply->result ? reply->error : "");
    loop_stop(q->loop);
}

static void leave(struct question *q, const char *why)
{
    log_info("everything is uninstalled from this node\twhy=\"%s\"", why);
    q->leaves = true;
    loop_stop(q->loop);
}

static int ask(struct question *q, const char *path, kube_done_fn done)
{
    const struct kube_call call = {
        .path = path, .body_max = ANSWER_MAX, .deadline = DEADLINE, .done = done, .data = q};

    return kube_send(q->client, &call, &q->request);
}

static void on_node(void *data, const struct kube_reply *reply)
{
    struct question *q = data;
    _cleanup_message_ cJSON *node = NULL;

    q->request = NULL;
    if (reply->result || reply->status != 200) {
        stay(q, "the DaemonSet exists, and the node cannot be read", reply);
        return;
    }
    node = cJSON_ParseWithLength(reply->body, reply->len);
    if (kube_daemonset_wants(q->daemonset, node) == KUBE_WANTS_OTHERS)
        leave(q, "the DaemonSet exists and no longer selects this node");
    else
        stay(q, "the DaemonSet exists", reply);
}

static void ask_for_node(struct question *q, const struct kube_reply *reply)
{
    char path[600] = "/api/v1/nodes/";

    if (kube_append_encoded(path, sizeof(path), q->settings->node) < 0 || ask(q, path, on_node) < 0)
        stay(q, "the DaemonSet exists, and the node cannot be read", reply);
}

static void on_daemonset(void *data, const struct kube_reply *reply)
{
    struct question *q = data;
    const cJSON *metadata;
    bool going, marked;

    q->request = NULL;
    if (reply->result || reply->status != 200) {
        stay(q,
             reply->status == 404 ? "the DaemonSet is gone, but it was not marked as being uninstalled"
                                  : "the state of the DaemonSet cannot be read",
             reply);
        return;
    }
    q->daemonset = cJSON_ParseWithLength(reply->body, reply->len);
    metadata = cJSON_GetObjectItemCaseSensitive(q->daemonset, "metadata");
    going = cJSON_IsString(cJSON_GetObjectItemCaseSensitive(metadata, "deletionTimestamp"));
    marked = cJSON_IsString(cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(metadata, "annotations"), KUBE_UNINSTALL_MARK));
    if (going && marked)
        leave(q, "the DaemonSet is being uninstalled");
    else if (going)
        stay(q, "the DaemonSet is being deleted, but it is not marked as being uninstalled", reply);
    else
        ask_for_node(q, reply);
}

bool kube_node_leaves(const struct agent_settings *settings)
{
    struct question q = {.settings = settings};
    char path[700];
    int r;

    if (!*settings->daemonset)
        return false;
    r = kube_daemonset_path(settings, path, sizeof(path));
    if (r == 0)
        r = loop_new(&q.loop);
    if (r == 0)
        r = kube_open_client(q.loop, settings, &q.client);
    if (r == 0)
        r = ask(&q, path, on_daemonset);
    if (r == 0)
        r = loop_run(q.loop);
    if (r < 0)
        log_error_errno(r, "the DaemonSet cannot be read from the API server; everything stays");
    kube_client_free(&q.client);
    loop_free(&q.loop);
    cJSON_Delete(q.daemonset);
    return r == 0 && q.leaves;
}
