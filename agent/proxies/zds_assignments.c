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

struct zds_assignment *zds_assignment_find(const struct zds_peer *p, const struct pod *pod)
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

void zds_assignment_add(struct zds_assignment *a)
{
    a->looks = 0;
    a->looking = false;
    if (a->state != ZDS_ASSIGNMENT_SERVING)
        a->state = ZDS_ASSIGNMENT_PENDING;
    zds_assignment_set_pending(a, ZDS_COMMAND_ADD);
}

bool zds_is_served(const struct pod *pod)
{
    return pod->netns_fd >= 0 &&
           (pod->enrollment->state == POD_ENROLLING || pod->enrollment->state == POD_ENROLLED ||
            pod->enrollment->state == POD_LEAVING);
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

int zds_assignment_take_listeners(struct zds_assignment *a, struct steer_error *error)
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
    int r = zds_assignment_take_listeners(a, &error);

    a->looks++;
    a->looking = (r == -ENOENT && a->looks < LOOKS_NONE) || (r == -EBUSY && a->looks < LOOKS_TWICE);
    if (a->looking)
        loop_timer_set(a->peer->server->loop, &a->peer->look_again, LOOK_AGAIN);
    else
        settle(a, error.reason, r < 0 ? error.text : NULL);
}

static void on_look_again(struct loop_timer *timer)
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

static void begin(struct zds_peer *p)
{
    struct pod *pod;

    p->look_again.fn = on_look_again;
    list_for_each (pod, &p->server->pods->list, node) {
        struct zds_assignment *a;

        /* Of one that drains the proxy may still carry connections, and would cut them if it was not named.
         */
        if (!zds_is_served(pod) && (pod->enrollment->state != POD_DRAINING || pod->netns_fd < 0))
            continue;
        a = zds_assignment_get(p, pod);
        if (a)
            zds_assignment_add(a);
    }
}

static void take_over(struct zds_peer *p)
{
    struct zds_assignment *a;

    list_for_each (a, &p->assignments.all, base.of_proxy) {
        if (a->state == ZDS_ASSIGNMENT_SERVING && a->base.pod && a->pending == ZDS_COMMAND_NONE &&
            zds_is_served(a->base.pod))
            look(a);
    }
}

/* ---- answers ---- */

void zds_assignment_drain(struct zds_assignment *a)
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

static void answered(struct zds_assignment *a, enum zds_command asked, const char *error)
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
        zds_assignment_add(a);
    else if (error)
        settle(a, BRUMA_REASON_PROXY_REFUSED_POD, error);
    else if (a->base.pod->enrollment->state == POD_DRAINING)
        zds_assignment_drain(a);
    else if (is_to_serve(a->peer))
        look(a);
    else
        a->state = ZDS_ASSIGNMENT_SERVING;
}

/* A stock proxy cuts a pod's connections when it is told to let it go, so it is told when there are none. */
static void on_drain_look(struct loop_timer *timer)
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

static void forget_all(struct zds_peer *p)
{
    struct zds_assignment *a;

    list_for_each (a, &p->assignments.all, base.of_proxy)
        zds_assignment_free(a);
}

const struct zds_peer_events zds_assignments_events = {
    .greeted = begin,
    .answered = answered,
    .took_over = take_over,
    .closed = forget_all,
};

void zds_assignments_init(struct zds_server *s)
{
    loop_timer_init(&s->drain_look, on_drain_look);
}
