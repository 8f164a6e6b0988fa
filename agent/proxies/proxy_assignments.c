/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proxies/proxy_assignments.h"

#include <stdlib.h>
#include <string.h>

#include "agent/proxies/hand_over.h"
#include "bruma/protocol.h"
#include "lib/message.h"

static const char *const proxy_state_names[] = {"new",     "offering", "syncing", "not_ready",
                                                "serving", "replaced", "ending"};

_Static_assert(offsetof(struct proxy_assignment, base) == 0,
               "it is allocated, and freed, as a struct pod_assignment");

struct proxy_assignment *assignment_of(const struct local_proxy *proxy, const struct pod *pod)
{
    return (struct proxy_assignment *)pod_assignments_find(&proxy->assignments, pod);
}

struct proxy_assignment *assignment_get(struct local_proxy *proxy, struct pod *pod)
{
    struct proxy_assignment *a =
        (struct proxy_assignment *)pod_assignments_get(&proxy->assignments, pod, sizeof(*a));

    if (a)
        a->proxy = proxy;
    return a;
}

void assignment_set_pending(struct proxy_assignment *a, enum proxy_command command)
{
    a->pending = command;
    pod_assignment_set_pending(&a->base, command != COMMAND_NONE);
}

/* The newest that has acknowledged its snapshot. */
struct local_proxy *proxy_server_find_serving(const struct proxy_server *server)
{
    struct local_proxy *p, *found = NULL;

    list_for_each (p, &server->list, node) {
        if (p->state == PROXY_SERVING)
            found = p;
    }
    return found;
}

static int send_message(struct local_proxy *p, cJSON *message, const int *fds, size_t fds_len)
{
    int r;

    cJSON_AddNumberToObject(message, "seq", (double)++p->seq);
    r = connection_send(p->connection, message, fds, fds_len);
    if (r == 0 && !p->unanswered++)
        loop_timer_set(p->server->loop, &p->answer, PROXY_ANSWER_MAX);
    return r;
}

static int send_setup(struct local_proxy *p)
{
    cJSON *m = message_new("setup");

    cJSON_AddStringToObject(m, "pinDir", p->server->settings->pin_dir);
    p->setup_sent = true;
    return send_message(p, m, (const int[]){p->server->maps.proxy_sockets, p->server->maps.deliveries},
                        p->takes_deliveries ? 2 : 1);
}

/* Annotations only switch off, or lengthen: what they say beyond that need not be told. */
static void add_direct(cJSON *m, const struct enrollment *e)
{
    if (e->direct.outside == DIRECT_OFF)
        cJSON_AddFalseToObject(m, "directOutside");
    if (e->direct.inbound == DIRECT_OFF)
        cJSON_AddFalseToObject(m, "directInbound");
    if (e->direct.same_node != SAME_NODE_UNSAID)
        cJSON_AddStringToObject(m, "sameNode", same_node_name(e->direct.same_node));
    if (e->bypass_inbound)
        cJSON_AddTrueToObject(m, "bypassInbound");
}

static int send_direct(struct local_proxy *p)
{
    const struct agent_settings *settings = p->server->settings;
    bool able = p->server->maps.direct_able;
    cJSON *m = message_new("direct");

    cJSON_AddBoolToObject(m, "outside", able && settings->direct_outside);
    cJSON_AddBoolToObject(m, "inbound", able && settings->direct_inbound);
    cJSON_AddStringToObject(
        m, "sameNode", able || strcmp(settings->same_node, "kernel") != 0 ? settings->same_node : "relay");
    if (!able)
        cJSON_AddBoolToObject(m, "noKernel", true);
    p->direct_wanted = false;
    p->node_wanted = able && p->server->maps.node[0] >= 0;
    return send_message(p, m, p->server->maps.direct, BRUMA_DIRECT_FD_COUNT);
}

static int send_node(struct local_proxy *p)
{
    p->node_wanted = false;
    return send_message(p, message_new("direct-node"), p->server->maps.node, BRUMA_NODE_FD_COUNT);
}

static int send_add(struct local_proxy *p, struct proxy_assignment *a)
{
    const struct agent_settings *settings = p->server->settings;
    const struct pod *pod = a->base.pod;
    cJSON *m = message_new("pod-add");
    int fds[BRUMA_POD_FD_COUNT] = {pod->netns_fd, pod->enrollment->listeners[0],
                                   pod->enrollment->listeners[1], pod->enrollment->listeners[2]};

    cJSON_AddStringToObject(m, "uid", pod->uid);
    message_add_u64(m, "cookie", pod->cookie);
    cJSON_AddNumberToObject(m, "generation", pod->enrollment->generation);
    cJSON_AddStringToObject(m, "name", pod->name);
    cJSON_AddStringToObject(m, "namespace", pod->namespace);
    cJSON_AddStringToObject(m, "serviceAccount", pod->enrollment->service_account);
    /* In a cluster the control plane knows the trust domain, and the proxy takes it from there. */
    if (strcmp(settings->source, "kubernetes") != 0)
        cJSON_AddStringToObject(m, "trustDomain", settings->trust_domain);
    cJSON_AddStringToObject(m, "node", settings->node);
    message_add_addresses(m, "ips", pod->addresses, pod->addresses_len);
    if (pod->enrollment->outbound_policy != OUTBOUND_UNSAID)
        cJSON_AddStringToObject(m, "outboundPolicy", outbound_policy_name(pod->enrollment->outbound_policy));
    add_direct(m, pod->enrollment);
    return send_message(p, m, fds, BRUMA_POD_FD_COUNT);
}

static int send_about(struct local_proxy *p, const struct proxy_assignment *a, const char *op)
{
    cJSON *m = message_new(op);

    cJSON_AddStringToObject(m, "uid", a->base.uid);
    return send_message(p, m, NULL, 0);
}

static int send_dns(struct local_proxy *p, const struct proxy_assignment *a)
{
    cJSON *m = message_new("pod-dns");
    int fd = a->base.pod->enrollment->dns_socket;

    cJSON_AddStringToObject(m, "uid", a->base.uid);
    return send_message(p, m, &fd, fd >= 0);
}

/* What has to be said behind an addition: one thing after the other. */
static void follow_up(struct proxy_assignment *a, bool dns)
{
    const struct local_proxy *p = a->proxy;
    const struct enrollment *e = a->base.pod->enrollment;

    if (dns && e->dns_socket >= 0 && p->takes_dns)
        assignment_set_pending(a, COMMAND_DNS);
    else if (e->ending_at && p->takes_endings && !a->told_ending)
        assignment_set_pending(a, COMMAND_ENDING);
}

static int send_pending(struct local_proxy *p, struct proxy_assignment *a)
{
    enum proxy_command command = a->pending;
    int r = 0;

    assignment_set_pending(a, COMMAND_NONE);
    switch (command) {
    case COMMAND_NONE:
        return 0;
    case COMMAND_ADD:
        r = send_add(p, a);
        a->state = ASSIGNMENT_PENDING;
        a->told_ending = false;
        follow_up(a, true);
        break;
    case COMMAND_DNS:
        r = send_dns(p, a);
        follow_up(a, false);
        return r;
    case COMMAND_ENDING:
        a->told_ending = true;
        return send_about(p, a, "pod-ending");
    case COMMAND_KEEP:
        r = send_about(p, a, "pod-keep");
        a->state = ASSIGNMENT_SERVING;
        break;
    case COMMAND_DRAIN:
        r = send_about(p, a, "pod-drain");
        a->state = ASSIGNMENT_DRAINING;
        break;
    case COMMAND_DELETE:
        r = send_about(p, a, "pod-del");
        pod_assignment_free(&a->base);
        return r;
    }
    a->seq = p->seq;
    return r;
}

/* Before it is told that it is replaced. */
static int send_hand_over(struct local_proxy *p)
{
    int fds[2], r;
    size_t fds_len;
    cJSON *m = hand_over_message(p, fds, &fds_len);

    r = send_message(p, m, fds, fds_len);
    if (fds_len == 2)
        p->take_seq = p->seq;
    hand_over_clear(p);
    return r;
}

static int send_drain(struct local_proxy *p)
{
    cJSON *m = message_new("drain");

    p->drain_wanted = false;
    cJSON_AddNumberToObject(m, "deadlineMilliseconds", (double)p->server->settings->proxy_drain);
    return send_message(p, m, NULL, 0);
}

static int send_serving(struct local_proxy *p)
{
    p->serving_wanted = false;
    return send_message(p, message_new("serving"), NULL, 0);
}

static int send_resume(struct local_proxy *p)
{
    p->resume_wanted = false;
    p->resume_seq = p->seq + 1;
    return send_message(p, message_new("resume"), NULL, 0);
}

/*
 * A proxy that has got its snapshot is ready, and a roll-out ends the one before it. That one may be on its
 * way here with the only descriptors of some pods' listeners.
 */
static bool snapshot_is_whole(struct proxy_server *server)
{
    struct pod *pod;
    uint64_t now = loop_now(server->loop);

    if (now >= server->adopt_until)
        return true;
    list_for_each (pod, &server->pods->list, node) {
        if (pod->enrollment->awaits_listeners) {
            loop_timer_set(server->loop, &server->adopted, server->adopt_until - now);
            return false;
        }
    }
    return true;
}

/* Sends what is pending as long as the socket takes it; connection_send() may queue one message at the
 * most. */
void proxy_push(struct local_proxy *p)
{
    if (p->state < PROXY_SYNCING)
        return;
    while (connection_flushed(p->connection)) {
        int r;

        if (!p->setup_sent)
            r = send_setup(p);
        else if (p->direct_wanted)
            r = send_direct(p);
        else if (p->node_wanted)
            r = send_node(p);
        else if (!list_empty(&p->assignments.pending))
            r = send_pending(p, list_first(&p->assignments.pending, struct proxy_assignment, base.pending));
        else if (!p->snapshot_seq) {
            if (!snapshot_is_whole(p->server))
                return;
            p->snapshot_seq = p->seq + 1;
            r = send_message(p, message_new("snapshot-end"), NULL, 0);
        } else if (p->serving_wanted)
            r = send_serving(p);
        else if (hand_over_wanted(p))
            r = send_hand_over(p);
        else if (p->resume_wanted)
            r = send_resume(p);
        else if (p->drain_wanted)
            r = send_drain(p);
        else
            return;
        if (r < 0)
            return;
    }
}

bool pod_is_served(const struct pod *pod)
{
    return (pod->enrollment->state == POD_ENROLLING || pod->enrollment->state == POD_ENROLLED ||
            pod->enrollment->state == POD_LEAVING) &&
           !pod->enrollment->awaits_listeners && pod->netns_fd >= 0;
}

void proxy_server_adopted(struct loop_timer *timer)
{
    struct proxy_server *server = container_of(timer, struct proxy_server, adopted);
    struct local_proxy *p;

    list_for_each (p, &server->list, node)
        proxy_push(p);
}

static struct proxy_server *server_of(const struct proxies *proxies)
{
    return container_of(proxies, struct proxy_server, proxies);
}

static bool serving(const struct proxies *proxies)
{
    return proxy_server_find_serving(server_of(proxies)) != NULL;
}

static bool answer_pending(const struct proxies *proxies, const struct pod *pod)
{
    const struct local_proxy *p = proxy_server_find_serving(server_of(proxies));
    const struct proxy_assignment *a = p ? assignment_of(p, pod) : NULL;

    return a && (a->pending == COMMAND_ADD || a->state == ASSIGNMENT_PENDING);
}

static const char *pod_state(const struct proxies *proxies, const struct pod *pod)
{
    static const char *const names[] = {[ASSIGNMENT_PENDING] = "pending",
                                        [ASSIGNMENT_SERVING] = "serving",
                                        [ASSIGNMENT_FAILED] = "failed",
                                        [ASSIGNMENT_DRAINING] = "draining",
                                        [ASSIGNMENT_DRAINED] = "drained"};
    const struct local_proxy *p = proxy_server_find_serving(server_of(proxies));
    const struct proxy_assignment *a = p ? assignment_of(p, pod) : NULL;

    if (!p)
        return "not_connected";
    return a ? names[a->state] : "pending";
}

static bool busy(const struct proxies *proxies, const struct pod *pod)
{
    const struct proxy_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        if (a->state != ASSIGNMENT_DRAINED || a->pending != COMMAND_NONE)
            return true;
    }
    return false;
}

static void pod_add(struct proxies *proxies, struct pod *pod)
{
    struct local_proxy *p;

    if (!pod_is_served(pod))
        return;
    list_for_each (p, &server_of(proxies)->list, node) {
        struct proxy_assignment *a;

        if (p->state < PROXY_SYNCING || p->state > PROXY_SERVING)
            continue;
        a = assignment_get(p, pod);
        if (!a)
            continue;
        assignment_set_pending(a, COMMAND_ADD);
        proxy_push(p);
    }
}

static void pod_retry(struct proxies *proxies, struct pod *pod)
{
    struct proxy_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        if (a->state != ASSIGNMENT_FAILED || a->pending != COMMAND_NONE || !pod_is_served(pod))
            continue;
        assignment_set_pending(a, COMMAND_ADD);
        proxy_push(a->proxy);
    }
}

static void pod_drain(struct proxies *proxies, struct pod *pod)
{
    struct proxy_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        assignment_set_pending(a, COMMAND_DRAIN);
        proxy_push(a->proxy);
    }
}

static void pod_delete(struct proxies *proxies, struct pod *pod)
{
    struct proxy_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        struct local_proxy *p = a->proxy;

        pod_assignment_lose_pod(&a->base);
        assignment_set_pending(a, COMMAND_DELETE);
        proxy_push(p);
    }
}

static bool take_dns(const struct proxies *proxies)
{
    const struct local_proxy *p = proxy_server_find_serving(server_of(proxies));

    return !p || p->takes_dns;
}

static void pod_dns(struct proxies *proxies, struct pod *pod)
{
    struct proxy_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        /* With an addition it is told anyway; who is to drain or to forget the pod need not know. */
        if (a->pending != COMMAND_NONE || !a->proxy->takes_dns || a->proxy->state > PROXY_SERVING)
            continue;
        assignment_set_pending(a, COMMAND_DNS);
        proxy_push(a->proxy);
    }
}

static void pod_ending(struct proxies *proxies, struct pod *pod)
{
    struct proxy_assignment *a;

    (void)proxies;
    list_for_each (a, &pod->assignments, base.of_pod) {
        /* As for DNS: what is pending is followed by it, or makes it needless. */
        if (a->pending != COMMAND_NONE || a->proxy->state > PROXY_SERVING)
            continue;
        follow_up(a, false);
        proxy_push(a->proxy);
    }
}

static void direct(struct proxies *proxies, bool able)
{
    struct proxy_server *server = server_of(proxies);
    struct local_proxy *p;

    if (server->maps.direct_able == able)
        return;
    server->maps.direct_able = able;
    list_for_each (p, &server->list, node) {
        p->direct_wanted = p->takes_direct;
        proxy_push(p);
    }
}

static cJSON *report(const struct proxies *proxies)
{
    cJSON *array = cJSON_CreateArray();
    struct local_proxy *p;

    list_for_each (p, &server_of(proxies)->list, node) {
        cJSON *o = cJSON_CreateObject();
        int counts[ASSIGNMENT_DRAINED + 1] = {0};
        struct proxy_assignment *a;

        list_for_each (a, &p->assignments.all, base.of_proxy)
            counts[a->state]++;
        cJSON_AddStringToObject(o, "kind", proxy_server_ops.kind);
        cJSON_AddNumberToObject(o, "pid", connection_pid(p->connection));
        cJSON_AddStringToObject(o, "version", p->version);
        cJSON_AddStringToObject(o, "compliance", p->compliance);
        cJSON_AddStringToObject(o, "state", proxy_state_names[p->state]);
        cJSON_AddNumberToObject(o, "connectedSeconds",
                                (double)((loop_now(server_of(proxies)->loop) - p->connected_at) / 1000));
        cJSON_AddNumberToObject(o, "podsServing", counts[ASSIGNMENT_SERVING]);
        cJSON_AddNumberToObject(o, "podsPending", counts[ASSIGNMENT_PENDING]);
        cJSON_AddNumberToObject(o, "podsFailed", counts[ASSIGNMENT_FAILED]);
        cJSON_AddNumberToObject(o, "podsDraining", counts[ASSIGNMENT_DRAINING]);
        if (p->takes_over)
            cJSON_AddTrueToObject(o, "takesOver");
        if (p->handed_over)
            cJSON_AddItemToObject(o, "handOver", cJSON_Duplicate(p->handed_over, true));
        cJSON_AddItemToArray(array, o);
    }
    return array;
}

static void destroy(struct proxies *proxies)
{
    loop_timer_cancel(&server_of(proxies)->resume);
    loop_timer_cancel(&server_of(proxies)->hurry);
    loop_timer_cancel(&server_of(proxies)->adopted);
    free(server_of(proxies));
}

const struct proxies_ops proxy_server_ops = {
    .kind = "bruma-proxy",
    .serving = serving,
    .answer_pending = answer_pending,
    .pod_state = pod_state,
    .busy = busy,
    .pod_add = pod_add,
    .pod_retry = pod_retry,
    .pod_drain = pod_drain,
    .pod_delete = pod_delete,
    .take_dns = take_dns,
    .pod_dns = pod_dns,
    .pod_ending = pod_ending,
    .direct = direct,
    .report = report,
    .free = destroy,
};
