/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent asks of stock proxies, as a whole and about a pod. */
#include "agent/proxies/zds_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proxies/zds_peers.h"

#define LOG_SCOPE "proxies"
#include "lib/log.h"

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

    return p ? zds_assignment_find(p, pod) : NULL;
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

    if (!zds_is_served(pod))
        return;
    list_for_each (p, &server_of(proxies)->peers, node) {
        struct zds_assignment *a = p->state == ZDS_GREETING ? NULL : zds_assignment_get(p, pod);

        if (!a)
            continue;
        a->state = ZDS_ASSIGNMENT_PENDING;
        zds_assignment_add(a);
        /* To be told of a pod that it has already is nothing to the proxy. As somebody else it has to begin
         * anew. */
        if (a->sent && a->account && strcmp(a->account, pod->enrollment->service_account) != 0)
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
            a->peer->asked_assignment == a || !zds_is_served(pod))
            continue;
        zds_assignment_add(a);
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
            zds_assignment_drain(a);
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
    struct zds_assignment *a = p ? zds_assignment_find(p, pod) : NULL;
    struct steer_error error = {0};

    if (!a || a->pending != ZDS_COMMAND_NONE || a->looking || p->asked_assignment == a ||
        a->state != ZDS_ASSIGNMENT_SERVING || zds_assignment_take_listeners(a, &error) == 0)
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
    struct zds_server *s = server_of(proxies);
    struct zds_peer *p;

    list_for_each (p, &s->peers, node)
        zds_peer_close(p);
    zds_accept_close(s);
    loop_timer_cancel(&s->drain_look);
    free(s);
}

static const struct proxies_ops ops = {
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

int zds_server_new(struct loop *loop, const struct agent_settings *settings, const struct pods *pods,
                   struct proxy_cgroups *cgroups, const struct proxies_events *events, struct proxies **ret)
{
    struct zds_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->proxies.ops = &ops;
    s->loop = loop;
    s->settings = settings;
    s->pods = pods;
    s->cgroups = cgroups;
    s->events = *events;
    list_init(&s->peers);
    s->peer_events = &zds_assignments_events;
    zds_assignments_init(s);
    r = zds_accept_open(s);
    if (r < 0) {
        free(s);
        return r;
    }
    *ret = &s->proxies;
    return 0;
}
