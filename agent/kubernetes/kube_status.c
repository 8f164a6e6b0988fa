/* SPDX-License-Identifier: Apache-2.0 */
/* What the API server is told of a pod: the annotation that istiod waits for, and Events. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "agent/enroll/forwards.h"
#include "agent/kubernetes/kube_pods.h"
#include "lib/message.h"
#include "lib/reasons.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define ANSWER_MAX   (4u * 1024 * 1024)
#define PATCH_REST   200    /* milliseconds between two patches of one pod */
#define PENDING_LOOK 300    /* milliseconds between looks whether a proxy serves the pod now */
#define EVENT_REST   300000 /* milliseconds between two Events with the same reason */

static const char *value_of(enum kube_redirection redirection)
{
    return redirection == KUBE_REDIRECTION_ENABLED ? "enabled" : "pending";
}

/* ---- the annotation ---- */

static bool waits_for_proxy(const struct pod *p)
{
    return p->enrollment->last_reason == BRUMA_REASON_PROXY_NOT_CONNECTED ||
           p->enrollment->last_reason == BRUMA_REASON_PROXY_AWAY ||
           p->enrollment->last_reason == BRUMA_REASON_PROXY_REFUSED_POD ||
           p->enrollment->last_reason == BRUMA_REASON_PROXY_LISTENERS_MISSING ||
           p->enrollment->last_reason == BRUMA_REASON_ZDS_PROTOCOL;
}

/* What it should be. False: as it is, something is under way. */
static bool desired(struct kube_pod *pod, enum kube_redirection *ret)
{
    const struct pod *p = kube_agent_pod(pod);
    const char *why;
    bool wanted;

    if (!kube_ready(pod->source) || !kube_namespace_by_name(pod->source, pod->namespace))
        return false;
    wanted = kube_pod_wanted(pod->source, pod, &why);
    *ret = KUBE_REDIRECTION_NONE;
    if (p && p->enrollment->state != POD_OUTSIDE)
        pod->left = false;
    if (!p)
        return !pod->deleting && (!wanted || pod->left || pod->locate_tries > 0);
    switch (p->enrollment->state) {
    case POD_ENROLLING:
        return false;
    case POD_ENROLLED:
        if (!forwards_announced(p))
            return !p->enrollment->awaits_listeners;
        /* While nobody serves it, peers that know that it is in the mesh would wait. Once they know, they go
         * on. */
        *ret = pod->redirection == KUBE_REDIRECTION_ENABLED ||
                       !strcmp(proxies_pod_state(pod->source->agent->proxies, p), "serving")
                   ? KUBE_REDIRECTION_ENABLED
                   : KUBE_REDIRECTION_PENDING;
        return !p->enrollment->awaits_listeners;
    case POD_OUTSIDE:
        /* Peers that ask why see that it waits for a proxy, as they do with stock agents. */
        if (wanted && proxies_open_listeners(pod->source->agent->proxies) && waits_for_proxy(p))
            *ret = KUBE_REDIRECTION_PENDING;
        return !wanted || p->enrollment->failed_tries > 0;
    default:
        return true;
    }
}

static void patch_failed(struct kube_pod *pod, const struct kube_reply *reply)
{
    char text[200], quoted[420];

    if (reply->result)
        snprintf(text, sizeof(text), "%.190s", reply->error);
    else
        kube_status_text(reply->body, reply->len, text, sizeof(text));
    log_warn("a pod's annotation cannot be written\tpod=\"%s/%s\" reason=%s status=%d error=%s",
             pod->namespace, pod->name, reason_name(BRUMA_REASON_ANNOTATION_FAILED), reply->status,
             log_quote(quoted, sizeof(quoted), text));
    loop_timer_set(pod->source->agent->loop, &pod->patch_timer, kube_backoff(pod->patch_tries));
    pod->patch_tries++;
}

static void on_patched(void *data, const struct kube_reply *reply)
{
    struct kube_pod *pod = data;

    pod->patch = NULL;
    /* 404: the pod is gone, and with it the annotation; the watch says so too. */
    if (reply->result || (reply->status != 200 && reply->status != 404)) {
        patch_failed(pod, reply);
        return;
    }
    if (reply->status == 200)
        log_info("annotation written\tpod=\"%s/%s\" redirection=%s", pod->namespace, pod->name,
                 pod->patched == KUBE_REDIRECTION_NONE ? "none" : value_of(pod->patched));
    pod->redirection = pod->patched;
    pod->patch_tries = 0;
    /* What changed meanwhile, and what somebody else writes again and again, has to wait a moment. */
    loop_timer_set(pod->source->agent->loop, &pod->patch_timer, PATCH_REST);
}

char *kube_status_patch(const char *namespace, const char *name, const char *uid,
                        enum kube_redirection redirection, char *path, size_t path_size)
{
    _cleanup_message_ cJSON *o = cJSON_CreateObject();
    cJSON *metadata = cJSON_AddObjectToObject(o, "metadata"), *annotations;

    /* The subresource is the weaker permission. */
    snprintf(path, path_size, "/api/v1/namespaces/%s/pods/%s/status", namespace, name);
    /* Another pod of the same name has another UID and is left alone. */
    cJSON_AddStringToObject(metadata, "uid", uid);
    annotations = cJSON_AddObjectToObject(metadata, "annotations");
    if (redirection == KUBE_REDIRECTION_NONE)
        cJSON_AddNullToObject(annotations, "ambient.istio.io/redirection");
    else
        cJSON_AddStringToObject(annotations, "ambient.istio.io/redirection", value_of(redirection));
    return o ? cJSON_PrintUnformatted(o) : NULL;
}

static void send_patch(struct kube_pod *pod, enum kube_redirection redirection)
{
    char path[700];
    _cleanup_free_ char *body =
        kube_status_patch(pod->namespace, pod->name, pod->uid, redirection, path, sizeof(path));
    const struct kube_call call = {.method = "PATCH",
                                   .path = path,
                                   .content_type = "application/merge-patch+json",
                                   .body = body,
                                   .body_max = ANSWER_MAX,
                                   .done = on_patched,
                                   .data = pod};
    int r = -ENOMEM;

    pod->patched = redirection;
    if (body)
        r = kube_send(pod->source->client, &call, &pod->patch);
    if (r < 0) {
        log_error_errno(r, "a pod's annotation cannot be written\tpod=\"%s/%s\"", pod->namespace, pod->name);
        loop_timer_set(pod->source->agent->loop, &pod->patch_timer, kube_backoff(pod->patch_tries++));
    }
}

void kube_status_check(struct kube_pod *pod)
{
    enum kube_redirection redirection;

    if (pod->patch || loop_timer_armed(&pod->patch_timer) || !desired(pod, &redirection))
        return;
    if (redirection != pod->redirection)
        send_patch(pod, redirection);
    else if (redirection == KUBE_REDIRECTION_PENDING)
        loop_timer_set(pod->source->agent->loop, &pod->patch_timer, PENDING_LOOK);
}

bool kube_status_is_acked(struct kube_pod *pod)
{
    enum kube_redirection redirection;

    return !pod->patch && (!desired(pod, &redirection) || redirection == pod->redirection);
}

static void on_patch_timer(struct loop_timer *timer)
{
    kube_status_check(container_of(timer, struct kube_pod, patch_timer));
}

void kube_status_soon(struct kube_pod *pod)
{
    if (!loop_timer_armed(&pod->patch_timer))
        loop_timer_set(pod->source->agent->loop, &pod->patch_timer, 0);
}

/* ---- Events ---- */

static void timestamp(char *buf, size_t size)
{
    time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(buf, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static const char *what_it_says(enum bruma_reason reason)
{
    if (reason == BRUMA_REASON_CAPTURED_LATE)
        return "belongs to the mesh and ran outside of it";
    if (reason == BRUMA_REASON_ANNOTATION_INVALID)
        return "has an annotation that cannot be used";
    return reason == BRUMA_REASON_POD_FORWARDS ? "is captured only in part"
                                               : "cannot be enrolled in the mesh";
}

static void add_message(cJSON *o, enum bruma_reason reason, const char *text)
{
    const char *what = what_it_says(reason);
    char message[1000];

    snprintf(message, sizeof(message), "%s: %.400s; check: %.400s", what, text, reason_check(reason));
    cJSON_AddStringToObject(o, "message", message);
}

static cJSON *event_of(struct kube_pod *pod, enum bruma_reason reason, const char *text, const char *now)
{
    cJSON *o = cJSON_CreateObject(), *m = cJSON_AddObjectToObject(o, "metadata");
    cJSON *about = cJSON_AddObjectToObject(o, "involvedObject"),
          *source = cJSON_AddObjectToObject(o, "source");
    const char *node = pod->source->agent->settings->node;
    uint64_t noise = 0;

    if (getrandom(&noise, sizeof(noise), GRND_NONBLOCK) < 0)
        noise = (uint64_t)time(NULL); /* right after a boot; the name is no secret, only to be a new one */
    snprintf(pod->event_name, sizeof(pod->event_name), "%.230s.%016" PRIx64, pod->name, noise);
    cJSON_AddStringToObject(m, "name", pod->event_name);
    cJSON_AddStringToObject(m, "namespace", pod->namespace);
    cJSON_AddStringToObject(about, "apiVersion", "v1");
    cJSON_AddStringToObject(about, "kind", "Pod");
    cJSON_AddStringToObject(about, "namespace", pod->namespace);
    cJSON_AddStringToObject(about, "name", pod->name);
    cJSON_AddStringToObject(about, "uid", pod->uid);
    cJSON_AddStringToObject(source, "component", "bruma-agent");
    cJSON_AddStringToObject(source, "host", node);
    cJSON_AddStringToObject(o, "reportingComponent", "bruma-agent");
    cJSON_AddStringToObject(o, "reportingInstance", node);
    cJSON_AddStringToObject(o, "reason", reason_name(reason));
    cJSON_AddStringToObject(o, "type", "Warning");
    cJSON_AddStringToObject(o, "firstTimestamp", now);
    return o;
}

static void event_failed(struct kube_pod *pod, const struct kube_reply *reply)
{
    char text[200] = "";

    /* The next one is made afresh: the server forgets Events after a while. */
    pod->event_name[0] = '\0';
    if (reply->status == 404)
        return;
    if (!reply->result)
        kube_status_text(reply->body, reply->len, text, sizeof(text));
    log_warn("an Event cannot be written\tpod=\"%s/%s\" status=%d error=\"%s\"", pod->namespace, pod->name,
             reply->status, reply->result ? reply->error : text);
}

static void on_event_sent(void *data, const struct kube_reply *reply)
{
    struct kube_pod *pod = data;
    enum bruma_reason next = pod->event_next;

    pod->event = NULL;
    pod->event_next = BRUMA_REASON_NONE;
    if (reply->result || reply->status / 100 != 2)
        event_failed(pod, reply);
    if (next)
        kube_status_event(pod, next, pod->event_next_text);
}

void kube_status_event(struct kube_pod *pod, enum bruma_reason reason, const char *text)
{
    uint64_t now = loop_now(pod->source->agent->loop);
    bool again = pod->event_count && pod->event_reason == reason;
    _cleanup_message_ cJSON *o = NULL;
    _cleanup_free_ char *body = NULL;
    char path[700], at[32];
    struct kube_call call = {.path = path, .body_max = ANSWER_MAX, .done = on_event_sent, .data = pod};

    if (pod->event && !again) {
        pod->event_next = reason;
        snprintf(pod->event_next_text, sizeof(pod->event_next_text), "%s", text);
        return;
    }
    if (again)
        pod->event_count++;
    else
        pod->event_count = 1;
    if (pod->event || (again && now < pod->event_at + EVENT_REST))
        return;
    timestamp(at, sizeof(at));
    snprintf(path, sizeof(path), "/api/v1/namespaces/%s/events", pod->namespace);
    if (again && *pod->event_name) {
        size_t len = strlen(path);

        snprintf(path + len, sizeof(path) - len, "/%s", pod->event_name);
        call.method = "PATCH";
        call.content_type = "application/merge-patch+json";
        o = cJSON_CreateObject();
    } else {
        call.method = "POST";
        o = event_of(pod, reason, text, at);
    }
    add_message(o, reason, text);
    cJSON_AddNumberToObject(o, "count", pod->event_count);
    cJSON_AddStringToObject(o, "lastTimestamp", at);
    body = o ? cJSON_PrintUnformatted(o) : NULL;
    call.body = body;
    pod->event_reason = reason;
    pod->event_at = now;
    if (body && kube_send(pod->source->client, &call, &pod->event) < 0)
        log_error("no memory for an Event\tpod=\"%s/%s\"", pod->namespace, pod->name);
}

void kube_status_init(struct kube_pod *pod)
{
    loop_timer_init(&pod->patch_timer, on_patch_timer);
}

void kube_status_free(struct kube_pod *pod)
{
    loop_timer_cancel(&pod->patch_timer);
    kube_cancel(&pod->patch);
    kube_cancel(&pod->event);
}
