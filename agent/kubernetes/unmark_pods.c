/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/unmark_pods.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/kubernetes/kube_pods.h"
#include "lib/message.h"

#define LOG_SCOPE "uninstall"
#include "lib/log.h"

#define TIME_LIMIT 30000
#define LIST_MAX   (256u * 1024 * 1024) /* bytes of all pods of a node */
#define ANSWER_MAX (4u * 1024 * 1024)

struct unmarking {
    struct loop *loop;
    struct kube_client *client;
    struct loop_timer limit;
    struct kube_request *list;
    int waiting; /* patches that were not answered */
    int result;  /* of the first failure */
};

static void failed(struct unmarking *f, int r, const char *what, const struct kube_reply *reply)
{
    char text[200];

    kube_status_text(reply->body, reply->len, text, sizeof(text));
    log_error("%s\tstatus=%d error=\"%s\"", what, reply->status, reply->result ? reply->error : text);
    if (!f->result)
        f->result = r;
}

static void on_patched(void *data, const struct kube_reply *reply)
{
    struct unmarking *f = data;

    if (reply->result)
        failed(f, reply->result, "a pod's annotation cannot be removed", reply);
    else if (reply->status != 200 && reply->status != 404 && reply->status != 409)
        failed(f, -EACCES, "a pod's annotation cannot be removed", reply);
    if (--f->waiting == 0)
        loop_stop(f->loop);
}

static int remove_annotation(struct unmarking *f, const struct kube_pod_object *pod)
{
    char path[700];
    _cleanup_free_ char *body =
        kube_status_patch(pod->namespace, pod->name, pod->uid, KUBE_REDIRECTION_NONE, path, sizeof(path));
    const struct kube_call call = {.method = "PATCH",
                                   .path = path,
                                   .content_type = "application/merge-patch+json",
                                   .body = body,
                                   .body_max = ANSWER_MAX,
                                   .deadline = TIME_LIMIT,
                                   .done = on_patched,
                                   .data = f};
    struct kube_request *request;
    int r = body ? kube_send(f->client, &call, &request) : -ENOMEM;

    if (r == 0)
        f->waiting++;
    return r;
}

static void take_list(struct unmarking *f, const struct kube_list *list)
{
    const cJSON *object;

    cJSON_ArrayForEach (object, list->items) {
        struct kube_pod_object pod;
        char why[256];

        if (kube_pod_decode(object, &pod, why, sizeof(why)) < 0 || pod.redirection == KUBE_REDIRECTION_NONE)
            continue;
        if (remove_annotation(f, &pod) < 0 && !f->result)
            f->result = -ENOMEM;
    }
}

static void on_listed(void *data, const struct kube_reply *reply)
{
    struct unmarking *f = data;
    struct kube_list list;
    char why[256];

    f->list = NULL;
    if (reply->result || reply->status != 200) {
        failed(f, reply->result ? reply->result : -EACCES, "the pods of this node cannot be listed", reply);
    } else if (kube_list_decode(reply->body, reply->len, &list, why, sizeof(why)) < 0) {
        log_error("the pods of this node cannot be listed\terror=\"%s\"", why);
        f->result = -EBADMSG;
    } else {
        take_list(f, &list);
        log_info("annotations of this node's pods are removed\tpods=%d", f->waiting);
        cJSON_Delete(list.json);
    }
    if (!f->waiting)
        loop_stop(f->loop);
}

static void on_limit(struct loop_timer *timer)
{
    struct unmarking *f = container_of(timer, struct unmarking, limit);

    log_error("the API server does not answer in time");
    f->result = -ETIMEDOUT;
    loop_stop(f->loop);
}

static int run(struct unmarking *f, const struct agent_settings *settings)
{
    char path[600] = "/api/v1/pods?fieldSelector=";
    char selector[300];
    const struct kube_call call = {
        .path = path, .body_max = LIST_MAX, .deadline = TIME_LIMIT, .done = on_listed, .data = f};
    int r;

    snprintf(selector, sizeof(selector), "spec.nodeName=%s", settings->node);
    r = kube_append_encoded(path, sizeof(path), selector);
    if (r == 0)
        r = kube_open_client(f->loop, settings, &f->client);
    if (r == 0)
        r = kube_send(f->client, &call, &f->list);
    if (r < 0)
        return r;
    loop_timer_set(f->loop, &f->limit, TIME_LIMIT);
    r = loop_run(f->loop);
    return r < 0 ? r : f->result;
}

int unmark_pods(const struct agent_settings *settings)
{
    struct unmarking f = {0};
    int r;

    loop_timer_init(&f.limit, on_limit);
    r = loop_new(&f.loop);
    if (r < 0)
        return log_error_errno(r, "no event loop");
    r = run(&f, settings);
    loop_timer_cancel(&f.limit);
    kube_client_free(&f.client);
    loop_free(&f.loop);
    return r;
}
