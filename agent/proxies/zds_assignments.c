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

_Static_assert(offsetof(struct zds_assignment, base) == 0,
               "it is allocated, and freed, as a struct pod_assignment");

void zds_assignment_free(struct zds_assignment *a)
{
    if (a->peer->asked_assignment == a)
        a->peer->asked_assignment = NULL;
    free(a->account);
    pod_assignment_free(&a->base);
}

static struct zds_assignment *assignment_of(const struct zds_peer *p, const struct pod *pod)
{
    return (struct zds_assignment *)pod_assignments_find(&p->assignments, pod);
}

struct zds_assignment *zds_assignment_get(struct zds_peer *p, struct pod *pod)
{
    struct zds_assignment *a = (struct zds_assignment *)pod_assignments_get(&p->assignments, pod, sizeof(*a));

    if (a)
        a->peer = p;
    return a;
}

void zds_assignment_set_pending(struct zds_assignment *a, enum zds_command command)
{
    a->pending = command;
    pod_assignment_set_pending(&a->base, command != ZDS_COMMAND_NONE);
}

static void command_add(struct zds_assignment *a)
{
    a->looks = 0;
    a->looking = false;
    if (a->state != ZDS_ASSIGNMENT_SERVING)
        a->state = ZDS_ASSIGNMENT_PENDING;
    zds_assignment_set_pending(a, ZDS_COMMAND_ADD);
}

static bool is_served(const struct pod *pod)
{
    return pod->netns_fd >= 0 &&
           (pod->state == POD_ENROLLING || pod->state == POD_ENROLLED || pod->state == POD_LEAVING);
}

void zds_assignments_begin(struct zds_peer *p)
{
    struct pod *pod;

    list_for_each (pod, &p->server->pods->list, node) {
        struct zds_assignment *a;

        /* Of one that drains the proxy may still carry connections, and would cut them if it was not named.
         */
        if (!is_served(pod) && (pod->state != POD_DRAINING || pod->netns_fd < 0))
            continue;
        a = zds_assignment_get(p, pod);
        if (a)
            command_add(a);
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

static void settle(struct zds_assignment *a, enum bruma_reason reason, const char *error)
{
    const struct proxies_events *events = &a->peer->server->events;

    a->looking = false;
    a->looks = 0;
    a->state = error ? ZDS_ASSIGNMENT_FAILED : ZDS_ASSIGNMENT_SERVING;
    a->reason = error ? reason : BRUMA_REASON_NONE;
    snprintf(a->error, sizeof(a->error), "%s", error ? error : "");
    if (error)
        log_error("a node proxy does not serve a pod\tpid=%d uid=%s reason=%s error=\"%s\"",
                  (int)a->peer->process.pid, a->base.uid, reason_name(reason), error);
    if (is_to_serve(a->peer))
        events->answered(events->data, a->base.pod, reason, error);
}

static int take_listeners(struct zds_assignment *a, struct steer_error *error)
{
    const struct proxies_events *events = &a->peer->server->events;
    int fds[BRUMA_LISTENER_COUNT];
    int r = steer_foreign_listeners(&a->peer->process, a->base.pod->netns_fd, fds, error);

    if (r < 0)
        return r;
    r = events->listeners_opened(events->data, a->base.pod, fds, error);
    /* At once: a duplicate would keep a listener open that its proxy has closed. */
    close_fds(fds, BRUMA_LISTENER_COUNT);
    return r;
}

static void look(struct zds_assignment *a)
{
    struct steer_error error = {0};
    int r = take_listeners(a, &error);

    a->looks++;
    a->looking = (r == -ENOENT && a->looks < LOOKS_NONE) || (r == -EBUSY && a->looks < LOOKS_TWICE);
    if (a->looking)
        loop_timer_set(a->peer->server->loop, &a->peer->look_again, LOOK_AGAIN);
    else
        settle(a, error.reason, r < 0 ? error.text : NULL);
}

void zds_assignments_look_again(struct loop_timer *timer)
{
    struct zds_peer *p = container_of(timer, struct zds_peer, look_again);
    struct zds_assignment *a;

    /* settle() may end an enrollment and so take this assignment away, and no other. */
    list_for_each (a, &p->assignments.all, base.of_proxy) {
        if (a->looking && a->base.pod)
            look(a);
    }
    zds_peer_push(p);
}

void zds_assignments_take_over(struct zds_peer *p)
{
    struct zds_assignment *a;

    list_for_each (a, &p->assignments.all, base.of_proxy) {
        if (a->state == ZDS_ASSIGNMENT_SERVING && a->base.pod && a->pending == ZDS_COMMAND_NONE &&
            is_served(a->base.pod))
            look(a);
    }
}

/* ---- answers ---- */

static void drain(struct zds_assignment *a)
{
    struct zds_server *s = a->peer->server;

    a->looking = false;
    a->state = ZDS_ASSIGNMENT_DRAINING;
    a->drain_until = loop_now(s->loop) + s->settings->proxy_drain;
    if (!loop_timer_armed(&s->drain_look))
        loop_timer_set(s->loop, &s->drain_look, DRAIN_LOOK);
}

static void on_deleted(struct zds_assignment *a)
{
    const struct proxies_events *events = &a->peer->server->events;
    struct pod *pod = a->base.pod;

    zds_assignment_free(a);
    if (pod)
        events->drained(events->data, pod);
}

void zds_assignment_answered(struct zds_assignment *a, enum zds_command asked, const char *error)
{
    if (asked == ZDS_COMMAND_DEL) {
        if (error)
            log_error("a node proxy could not remove a pod\tpid=%d uid=%s error=\"%s\"",
                      (int)a->peer->process.pid, a->base.uid, error);
        if (a->pending == ZDS_COMMAND_NONE)
            on_deleted(a);
        return;
    }
    if (a->pending != ZDS_COMMAND_NONE || !a->base.pod || a->state == ZDS_ASSIGNMENT_DRAINING)
        return;
    if (asked == ZDS_COMMAND_RESTART)
        command_add(a);
    else if (error)
        settle(a, BRUMA_REASON_PROXY_REFUSED_POD, error);
    else if (a->base.pod->state == POD_DRAINING)
        drain(a);
    else if (is_to_serve(a->peer))
        look(a);
    else
        a->state = ZDS_ASSIGNMENT_SERVING;
}

/* A stock proxy cuts a pod's connections when it is told to let it go, so it is told when there are none. */
void zds_assignments_drain_look(struct loop_timer *timer)
{
    struct zds_server *s = container_of(timer, struct zds_server, drain_look);
    uint64_t now = loop_now(s->loop);
    bool again = false;
    struct zds_peer *p;
    struct zds_assignment *a;

    list_for_each (p, &s->peers, node) {
        list_for_each (a, &p->assignments.all, base.of_proxy) {
            if (a->state != ZDS_ASSIGNMENT_DRAINING || a->pending != ZDS_COMMAND_NONE ||
                p->asked_assignment == a || !a->base.pod)
                continue;
            if (now < a->drain_until && steer_marked_connections(a->base.pod->netns_fd) > 0)
                again = true;
            else
                zds_assignment_set_pending(a, ZDS_COMMAND_DEL);
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

static const struct zds_assignment *serving_assignment(const struct proxies *proxies, const struct pod *pod)
{
    const struct zds_peer *p = zds_find_serving(server_of(proxies));

    return p ? assignment_of(p, pod) : NULL;
}

static bool answer_pending(const struct proxies *proxies, const struct pod *pod)
{
    const struct zds_assignment *a = serving_assignment(proxies, pod);

    return a && a->state == ZDS_ASSIGNMENT_PENDING;
}

static const char *pod_state(const struct proxies *proxies, const struct pod *pod)
{
    static const char *const names[] = {[ZDS_ASSIGNMENT_PENDING] = "pending",
                                        [ZDS_ASSIGNMENT_SERVING] = "serving",
                                        [ZDS_ASSIGNMENT_FAILED] = "failed",
                                        [ZDS_ASSIGNMENT_DRAINING] = "draining"};
    const struct zds_assignment *a = serving_assignment(proxies, pod);

    if (!serving(proxies))
        return "not_connected";
    return a ? names[a->state] : "pending";
}

static bool busy(const struct proxies *proxies, const struct pod *pod)
{
    (void)proxies;
    return !list_empty(&pod->assignments);
}

static void pod_add(struct proxies *proxies, struct pod *pod)
{
    struct zds_peer *p;

    if (!is_served(pod))
        return;
    list_for_each (p, &server_of(proxies)->peers, node) {
        struct zds_assignment *a = p->state == ZDS_GREETING ? NULL : zds_assignment_get(p, pod);

        if (!a)
            continue;
        a->state = ZDS_ASSIGNMENT_PENDING;
        command_add(a);
        /* To be told of a pod that it has already is nothing to the proxy. As somebody else it has to begin
         * anew. */
        if (a->sent && a->account && strcmp(a->account, pod->service_account) != 0)
            zds_assignment_set_pending(a, ZDS_COMMAND_RESTART);
        zds_peer_push(p);
    }
}

static void pod_retry(struct proxies *proxies, struct pod *pod)
{
    struct zds_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        if (a->state != ZDS_ASSIGNMENT_FAILED || a->pending != ZDS_COMMAND_NONE ||
            a->peer->asked_assignment == a || !is_served(pod))
            continue;
        command_add(a);
        zds_peer_push(a->peer);
    }
}

static void pod_drain(struct proxies *proxies, struct pod *pod)
{
    struct zds_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        zds_assignment_set_pending(a, ZDS_COMMAND_NONE);
        if (a->sent)
            drain(a);
        else
            zds_assignment_free(a);
    }
}

static void pod_delete(struct proxies *proxies, struct pod *pod)
{
    struct zds_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        struct zds_peer *p = a->peer;

        pod_assignment_lose_pod(&a->base);
        a->looking = false;
        if (a->sent)
            zds_assignment_set_pending(a, ZDS_COMMAND_DEL);
        else
            zds_assignment_free(a);
        zds_peer_push(p);
    }
}

static void pod_reopen(struct proxies *proxies, struct pod *pod)
{
    struct zds_peer *p = zds_find_serving(server_of(proxies));
    struct zds_assignment *a = p ? assignment_of(p, pod) : NULL;
    struct steer_error error = {0};

    if (!a || a->pending != ZDS_COMMAND_NONE || a->looking || p->asked_assignment == a ||
        a->state != ZDS_ASSIGNMENT_SERVING || take_listeners(a, &error) == 0)
        return;
    /* It has to let go of it first, see pod_add(). */
    log_warn("a node proxy has lost its listeners in a pod and opens new ones\tpod=\"%s/%s\" pid=%d",
             pod->namespace, pod->name, (int)p->process.pid);
    zds_assignment_set_pending(a, ZDS_COMMAND_RESTART);
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
        int counts[ZDS_ASSIGNMENT_DRAINING + 1] = {0};
        struct zds_assignment *a;

        list_for_each (a, &p->assignments.all, base.of_proxy)
            counts[a->state]++;
        cJSON_AddStringToObject(o, "kind", s->proxies.ops->kind);
        cJSON_AddNumberToObject(o, "pid", p->process.pid);
        cJSON_AddStringToObject(o, "version", "");
        cJSON_AddStringToObject(o, "state",
                                p->state == ZDS_SERVING && p != serves ? "replaced" : names[p->state]);
        cJSON_AddNumberToObject(o, "connectedSeconds",
                                (double)((loop_now(s->loop) - p->connected_at) / 1000));
        cJSON_AddNumberToObject(o, "podsServing", counts[ZDS_ASSIGNMENT_SERVING]);
        cJSON_AddNumberToObject(o, "podsPending", counts[ZDS_ASSIGNMENT_PENDING]);
        cJSON_AddNumberToObject(o, "podsFailed", counts[ZDS_ASSIGNMENT_FAILED]);
        cJSON_AddNumberToObject(o, "podsDraining", counts[ZDS_ASSIGNMENT_DRAINING]);
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
