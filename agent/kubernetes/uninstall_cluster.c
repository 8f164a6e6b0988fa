/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/uninstall_cluster.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/kubernetes/kube_daemonset.h"
#include "agent/kubernetes/kube_pods.h"
#include "lib/message.h"

#define LOG_SCOPE "retire"
#include "lib/log.h"

#define TIME_LIMIT 180000 /* milliseconds for all */
#define ASK_EVERY  1000
#define ANSWER_MAX (4u * 1024 * 1024)

/* In the foreground: the DaemonSet is there, and known to be going, for as long as one of its pods is. */
#define MARKING  "{\"metadata\":{\"annotations\":{\"" KUBE_UNINSTALL_MARK "\":\"retired\"}}}"
#define DELETION "{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"propagationPolicy\":\"Foreground\"}"

struct cluster_uninstall {
    struct loop *loop;
    struct kube_client *client;
    struct kube_request *request;
    struct loop_timer again, limit;
    char path[700];
    enum { MARK, DELETE, WATCH } step;
    int left; /* pods, as last told; -1: not known */
    int result;
};

static void ask(struct cluster_uninstall *r);

static void end(struct cluster_uninstall *r, int result)
{
    r->result = result;
    loop_stop(r->loop);
}

static void look_at(struct cluster_uninstall *r, const struct kube_reply *reply)
{
    _cleanup_message_ cJSON *object = cJSON_ParseWithLength(reply->body, reply->len);
    const cJSON *status = cJSON_GetObjectItemCaseSensitive(object, "status");
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(status, "currentNumberScheduled");

    if (cJSON_IsNumber(n) && n->valueint != r->left) {
        r->left = n->valueint;
        log_info("agents uninstall their nodes\tleft=%d", r->left);
    }
}

static void on_answer(void *data, const struct kube_reply *reply)
{
    struct cluster_uninstall *r = data;
    char text[200];

    r->request = NULL;
    if (reply->result) {
        log_warn("the API server does not answer; retrying\terror=\"%s\"", reply->error);
    } else if (reply->status == 404) {
        log_info("the DaemonSet and all its pods have been removed");
        end(r, 0);
        return;
    } else if (reply->status == 401 || reply->status == 403) {
        kube_status_text(reply->body, reply->len, text, sizeof(text));
        log_error("the DaemonSet cannot be deleted\tstatus=%d error=\"%s\"", reply->status, text);
        end(r, -EACCES);
        return;
    } else if (reply->status == 200 || reply->status == 202) {
        look_at(r, reply);
        if (r->step == MARK) {
            r->step = DELETE;
            ask(r);
            return;
        }
        r->step = WATCH;
    }
    loop_timer_set(r->loop, &r->again, ASK_EVERY);
}

/* The mark first: without it the agents would stay. */
static void ask(struct cluster_uninstall *r)
{
    static const struct {
        const char *method, *type, *body;
    } steps[] = {
        [MARK] = {"PATCH", "application/merge-patch+json", MARKING},
        [DELETE] = {"DELETE", "application/json", DELETION},
        [WATCH] = {"GET", NULL, NULL},
    };
    const struct kube_call call = {.method = steps[r->step].method,
                                   .path = r->path,
                                   .content_type = steps[r->step].type,
                                   .body = steps[r->step].body,
                                   .body_max = ANSWER_MAX,
                                   .done = on_answer,
                                   .data = r};
    int e = kube_send(r->client, &call, &r->request);

    if (e < 0)
        end(r, e);
}

static void on_again(struct loop_timer *timer)
{
    ask(container_of(timer, struct cluster_uninstall, again));
}

static void on_limit(struct loop_timer *timer)
{
    struct cluster_uninstall *r = container_of(timer, struct cluster_uninstall, limit);

    log_error("some agents have not ended; are their nodes down?\tleft=%d", r->left);
    end(r, -ETIMEDOUT);
}

static int run(struct cluster_uninstall *r, const struct agent_settings *settings)
{
    int e = kube_daemonset_path(settings, r->path, sizeof(r->path));

    if (e == 0)
        e = kube_open_client(r->loop, settings, &r->client);
    if (e < 0)
        return e;
    loop_timer_set(r->loop, &r->limit, TIME_LIMIT);
    ask(r);
    e = loop_run(r->loop);
    return e < 0 ? e : r->result;
}

int uninstall_cluster(const struct agent_settings *settings)
{
    struct cluster_uninstall r = {.left = -1};
    int e;

    if (!*settings->daemonset) {
        log_error("--retire needs --daemonset");
        return -EINVAL;
    }
    loop_timer_init(&r.again, on_again);
    loop_timer_init(&r.limit, on_limit);
    e = loop_new(&r.loop);
    if (e < 0)
        return log_error_errno(e, "no event loop");
    e = run(&r, settings);
    if (e < 0 && !r.result)
        log_error_errno(e, "the API server cannot be asked");
    loop_timer_cancel(&r.again);
    loop_timer_cancel(&r.limit);
    kube_cancel(&r.request);
    kube_client_free(&r.client);
    loop_free(&r.loop);
    return e;
}
