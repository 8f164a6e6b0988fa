/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/proxies/zds_peers.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "proxies"
#include "lib/log.h"

#define LOOK_AGAIN  100 /* milliseconds between looks for a pod's listeners */
#define LOOKS_NONE  5   /* looks that may find none: they are open before the answer is sent */
#define LOOKS_TWICE 30  /* looks that may find two of one kind: the older one is being closed */
#define DRAIN_LOOK  300 /* milliseconds between looks whether a pod that leaves has connections */

_Static_assert(offsetof(struct zds_view, base) == 0, "it is allocated, and freed, as a struct pod_view");

void zds_view_free(struct zds_view *v)
{
    if (v->peer->asked_view == v)
        v->peer->asked_view = NULL;
    free(v->account);
    pod_view_free(&v->base);
}

static struct zds_view *view_of(const struct zds_peer *p, const struct pod *pod)
{
    return (struct zds_view *)pod_views_find(&p->views, pod);
}

struct zds_view *zds_view_get(struct zds_peer *p, struct pod *pod)
{
    struct zds_view *v = (struct zds_view *)pod_views_get(&p->views, pod, sizeof(*v));

    if (v)
        v->peer = p;
    return v;
}

void zds_view_wish(struct zds_view *v, enum zds_wish wish)
{
    v->wish = wish;
    pod_view_wish(&v->base, wish != ZDS_WISH_NOTHING);
}

static void wish_add(struct zds_view *v)
{
    v->looks = 0;
    v->looking = false;
    if (v->state != ZDS_VIEW_SERVING)
        v->state = ZDS_VIEW_PENDING;
    zds_view_wish(v, ZDS_WISH_ADD);
}

static bool is_served(const struct pod *pod)
{
    return pod->netns_fd >= 0 &&
           (pod->state == POD_ENROLLING || pod->state == POD_ENROLLED || pod->state == POD_LEAVING);
}

void zds_views_begin(struct zds_peer *p)
{
    struct pod *pod;

    list_for_each (pod, &p->server->pods->list, node) {
        struct zds_view *v;

        /* Of one that drains the proxy may still carry connections, and would cut them if it was not named.
         */
        if (!is_served(pod) && (pod->state != POD_DRAINING || pod->netns_fd < 0))
            continue;
        v = zds_view_get(p, pod);
        if (v)
            wish_add(v);
    }
}

struct zds_peer *zds_find_serving(const struct zds_server *s)
{
    struct zds_peer *p, *found = NULL;

    list_for_each (p, &s->peers, node) {
        if (p->state == ZDS_SERVING)
            found = p;
    }
    return found;
}

/* Its listeners are to be in the slots: it serves, or nobody does yet. */
static bool is_to_serve(const struct zds_peer *p)
{
    const struct zds_peer *serving = zds_find_serving(p->server);

    return !serving || serving == p;
}

/* ---- listeners ---- */

static void settle(struct zds_view *v, enum bruma_reason reason, const char *error)
{
    const struct proxies_events *events = &v->peer->server->events;

    v->looking = false;
    v->looks = 0;
    v->state = error ? ZDS_VIEW_FAILED : ZDS_VIEW_SERVING;
    v->reason = error ? reason : BRUMA_REASON_NONE;
    snprintf(v->error, sizeof(v->error), "%s", error ? error : "");
    if (error)
        log_error("a node proxy does not serve a pod\tpid=%d uid=%s reason=%s error=\"%s\"",
                  (int)v->peer->process.pid, v->base.uid, reason_name(reason), error);
    if (is_to_serve(v->peer))
        events->answered(events->data, v->base.pod, reason, error);
}

static int take_listeners(struct zds_view *v, struct steer_error *error)
{
    const struct proxies_events *events = &v->peer->server->events;
    int fds[BRUMA_LISTENER_COUNT];
    int r = steer_foreign_listeners(&v->peer->process, v->base.pod->netns_fd, fds, error);

    if (r < 0)
        return r;
    r = events->listeners_opened(events->data, v->base.pod, fds, error);
    /* At once: a duplicate would keep a listener open that its proxy has closed. */
    close_fds(fds, BRUMA_LISTENER_COUNT);
    return r;
}

static void look(struct zds_view *v)
{
    struct steer_error error = {0};
    int r = take_listeners(v, &error);

    v->looks++;
    v->looking = (r == -ENOENT && v->looks < LOOKS_NONE) || (r == -EBUSY && v->looks < LOOKS_TWICE);
    if (v->looking)
        loop_timer_set(v->peer->server->loop, &v->peer->look_again, LOOK_AGAIN);
    else
        settle(v, error.reason, r < 0 ? error.text : NULL);
}

void zds_views_look_again(struct loop_timer *timer)
{
    struct zds_peer *p = container_of(timer, struct zds_peer, look_again);
    struct zds_view *v;

    /* settle() may end an enrolment and so take this view away, and no other. */
    list_for_each (v, &p->views.all, base.of_proxy) {
        if (v->looking && v->base.pod)
            look(v);
    }
    zds_peer_push(p);
}

void zds_views_take_over(struct zds_peer *p)
{
    struct zds_view *v;

    list_for_each (v, &p->views.all, base.of_proxy) {
        if (v->state == ZDS_VIEW_SERVING && v->base.pod && v->wish == ZDS_WISH_NOTHING &&
            is_served(v->base.pod))
            look(v);
    }
}

/* ---- answers ---- */

static void drain(struct zds_view *v)
{
    struct zds_server *s = v->peer->server;

    v->looking = false;
    v->state = ZDS_VIEW_DRAINING;
    v->drain_until = loop_now(s->loop) + s->config->proxy_drain;
    if (!loop_timer_armed(&s->drain_look))
        loop_timer_set(s->loop, &s->drain_look, DRAIN_LOOK);
}

static void on_deleted(struct zds_view *v)
{
    const struct proxies_events *events = &v->peer->server->events;
    struct pod *pod = v->base.pod;

    zds_view_free(v);
    if (pod)
        events->drained(events->data, pod);
}

void zds_view_answered(struct zds_view *v, enum zds_wish asked, const char *error)
{
    if (asked == ZDS_WISH_DEL) {
        if (error)
            log_error("a node proxy could not let a pod go\tpid=%d uid=%s error=\"%s\"",
                      (int)v->peer->process.pid, v->base.uid, error);
        if (v->wish == ZDS_WISH_NOTHING)
            on_deleted(v);
        return;
    }
    if (v->wish != ZDS_WISH_NOTHING || !v->base.pod || v->state == ZDS_VIEW_DRAINING)
        return;
    if (asked == ZDS_WISH_RESTART)
        wish_add(v);
    else if (error)
        settle(v, BRUMA_REASON_PROXY_REFUSED_POD, error);
    else if (v->base.pod->state == POD_DRAINING)
        drain(v);
    else if (is_to_serve(v->peer))
        look(v);
    else
        v->state = ZDS_VIEW_SERVING;
}

/* A stock proxy cuts a pod's connections when it is told to let it go, so it is told when there are none. */
void zds_views_drain_look(struct loop_timer *timer)
{
    struct zds_server *s = container_of(timer, struct zds_server, drain_look);
    uint64_t now = loop_now(s->loop);
    bool again = false;
    struct zds_peer *p;
    struct zds_view *v;

    list_for_each (p, &s->peers, node) {
        list_for_each (v, &p->views.all, base.of_proxy) {
            if (v->state != ZDS_VIEW_DRAINING || v->wish != ZDS_WISH_NOTHING || p->asked_view == v ||
                !v->base.pod)
                continue;
            if (now < v->drain_until && steer_marked_connections(v->base.pod->netns_fd) > 0)
                again = true;
            else
                zds_view_wish(v, ZDS_WISH_DEL);
        }
        zds_peer_push(p);
    }
    if (again)
        loop_timer_set(s->loop, &s->drain_look, DRAIN_LOOK);
}

/* ---- what the agent asks for ---- */

static struct zds_server *server_of(const struct proxies *proxies)
{
    return container_of(proxies, struct zds_server, proxies);
}

static bool serving(const struct proxies *proxies)
{
    return zds_find_serving(server_of(proxies)) != NULL;
}

static const struct zds_view *serving_view(const struct proxies *proxies, const struct pod *pod)
{
    const struct zds_peer *p = zds_find_serving(server_of(proxies));

    return p ? view_of(p, pod) : NULL;
}

static bool answer_pending(const struct proxies *proxies, const struct pod *pod)
{
    const struct zds_view *v = serving_view(proxies, pod);

    return v && v->state == ZDS_VIEW_PENDING;
}

static const char *pod_state(const struct proxies *proxies, const struct pod *pod)
{
    static const char *const names[] = {[ZDS_VIEW_PENDING] = "pending",
                                        [ZDS_VIEW_SERVING] = "serving",
                                        [ZDS_VIEW_FAILED] = "failed",
                                        [ZDS_VIEW_DRAINING] = "draining"};
    const struct zds_view *v = serving_view(proxies, pod);

    if (!serving(proxies))
        return "not_connected";
    return v ? names[v->state] : "pending";
}

static bool busy(const struct proxies *proxies, const struct pod *pod)
{
    (void)proxies;
    return !list_empty(&pod->views);
}

static void pod_add(struct proxies *proxies, struct pod *pod)
{
    struct zds_peer *p;

    if (!is_served(pod))
        return;
    list_for_each (p, &server_of(proxies)->peers, node) {
        struct zds_view *v = p->state == ZDS_GREETING ? NULL : zds_view_get(p, pod);

        if (!v)
            continue;
        v->state = ZDS_VIEW_PENDING;
        wish_add(v);
        /* To be told of a pod that it has already is nothing to the proxy. As somebody else it has to begin
         * anew. */
        if (v->told && v->account && strcmp(v->account, pod->service_account) != 0)
            zds_view_wish(v, ZDS_WISH_RESTART);
        zds_peer_push(p);
    }
}

static void pod_retry(struct proxies *proxies, struct pod *pod)
{
    struct zds_view *v;

    (void)proxies;
    list_for_each (v, &pod->views, base.of_pod) {
        if (v->state != ZDS_VIEW_FAILED || v->wish != ZDS_WISH_NOTHING || v->peer->asked_view == v ||
            !is_served(pod))
            continue;
        wish_add(v);
        zds_peer_push(v->peer);
    }
}

static void pod_drain(struct proxies *proxies, struct pod *pod)
{
    struct zds_view *v;

    (void)proxies;
    list_for_each (v, &pod->views, base.of_pod) {
        zds_view_wish(v, ZDS_WISH_NOTHING);
        if (v->told)
            drain(v);
        else
            zds_view_free(v);
    }
}

static void pod_delete(struct proxies *proxies, struct pod *pod)
{
    struct zds_view *v;

    (void)proxies;
    list_for_each (v, &pod->views, base.of_pod) {
        struct zds_peer *p = v->peer;

        pod_view_lose_pod(&v->base);
        v->looking = false;
        if (v->told)
            zds_view_wish(v, ZDS_WISH_DEL);
        else
            zds_view_free(v);
        zds_peer_push(p);
    }
}

static void pod_reopen(struct proxies *proxies, struct pod *pod)
{
    struct zds_peer *p = zds_find_serving(server_of(proxies));
    struct zds_view *v = p ? view_of(p, pod) : NULL;
    struct steer_error error = {0};

    if (!v || v->wish != ZDS_WISH_NOTHING || v->looking || p->asked_view == v ||
        v->state != ZDS_VIEW_SERVING || take_listeners(v, &error) == 0)
        return;
    /* It has to let go of it first, see pod_add(). */
    log_warn("a node proxy has lost its listeners in a pod; it opens them anew\tpod=\"%s/%s\" pid=%d",
             pod->namespace, pod->name, (int)p->process.pid);
    zds_view_wish(v, ZDS_WISH_RESTART);
    zds_peer_push(p);
}

static cJSON *report(const struct proxies *proxies)
{
    static const char *const names[] = {"greeting", "syncing", "serving"};
    const struct zds_server *s = server_of(proxies);
    const struct zds_peer *serves = zds_find_serving(s);
    cJSON *array = cJSON_CreateArray();
    struct zds_peer *p;

    list_for_each (p, &s->peers, node) {
        cJSON *o = cJSON_CreateObject();
        int counts[ZDS_VIEW_DRAINING + 1] = {0};
        struct zds_view *v;

        list_for_each (v, &p->views.all, base.of_proxy)
            counts[v->state]++;
        cJSON_AddStringToObject(o, "kind", s->proxies.ops->kind);
        cJSON_AddNumberToObject(o, "pid", p->process.pid);
        cJSON_AddStringToObject(o, "version", "");
        cJSON_AddStringToObject(o, "state",
                                p->state == ZDS_SERVING && p != serves ? "replaced" : names[p->state]);
        cJSON_AddNumberToObject(o, "connectedSeconds",
                                (double)((loop_now(s->loop) - p->connected_at) / 1000));
        cJSON_AddNumberToObject(o, "podsServing", counts[ZDS_VIEW_SERVING]);
        cJSON_AddNumberToObject(o, "podsPending", counts[ZDS_VIEW_PENDING]);
        cJSON_AddNumberToObject(o, "podsFailed", counts[ZDS_VIEW_FAILED]);
        cJSON_AddNumberToObject(o, "podsDraining", counts[ZDS_VIEW_DRAINING]);
        cJSON_AddItemToArray(array, o);
    }
    return array;
}

static void destroy(struct proxies *proxies)
{
    zds_server_free(server_of(proxies));
}

const struct proxies_ops zds_server_ops = {
    .kind = "ztunnel",
    .opens_listeners = true,
    .serving = serving,
    .answer_pending = answer_pending,
    .pod_state = pod_state,
    .busy = busy,
    .pod_add = pod_add,
    .pod_retry = pod_retry,
    .pod_drain = pod_drain,
    .pod_delete = pod_delete,
    .pod_reopen = pod_reopen,
    .report = report,
    .free = destroy,
};
