/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proxies/proxy_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proxies/hand_over.h"
#include "agent/proxies/proxy_assignments.h"
#include "bruma/protocol.h"
#include "lib/message.h"
#include "lib/proc.h"
#include "lib/reasons.h"

#define LOG_SCOPE "proxies"
#include "lib/log.h"

#define SEQ_MAX (UINT64_C(1) << 53)
/* A proxy that was replaced may be the first that finds a new agent; its successor tries again each second.
 */
#define RESUME_PATIENCE 2000 /* milliseconds */
/* For the hand-over before: more than one takes whose proxies both live (proxy/handover/handover.c). */
#define HAND_OVER_PATIENCE 25000

static bool is_set(const cJSON *message, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(message, key));
}

static void bad_message(struct local_proxy *p, const char *what)
{
    log_error("a message of a proxy cannot be used; it is disconnected\tpid=%d reason=%s error=\"%s\"",
              (int)connection_pid(p->connection), reason_name(BRUMA_REASON_MESSAGE_INVALID), what);
    connection_send_error(p->connection, BRUMA_REASON_MESSAGE_INVALID, what);
    connection_close(p->connection);
}

static void on_answer_timeout(struct loop_timer *timer)
{
    struct local_proxy *p = container_of(timer, struct local_proxy, answer);

    log_error("a proxy does not answer; it is disconnected\tpid=%d unanswered=%u",
              (int)connection_pid(p->connection), p->unanswered);
    connection_close(p->connection);
}

void *proxy_server_accept(struct proxies *proxies)
{
    struct local_proxy *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->server = container_of(proxies, struct proxy_server, proxies);
    list_init(&p->node);
    pod_assignments_init(&p->assignments);
    hand_over_init(p);
    loop_timer_init(&p->answer, on_answer_timeout);
    return p;
}

/* Connections come in any order after a restart of the agent; the youngest process is the one to serve. */
static void insert_by_age(struct proxy_server *server, struct local_proxy *p)
{
    struct local_proxy *other;

    p->born = proc_start(connection_pid(p->connection));
    list_for_each (other, &server->list, node) {
        if (p->born && other->born > p->born) {
            list_add_tail(&other->node, &p->node);
            return;
        }
    }
    list_add_tail(&server->list, &p->node);
}

static void on_hello(struct local_proxy *p, struct local_connection *connection, const cJSON *message)
{
    const char *version = "", *compliance = "";
    const cJSON *handed_over = cJSON_GetObjectItemCaseSensitive(message, "handedOver");
    struct local_proxy *other;

    p->connection = connection;
    if (message_text(message, "version", sizeof(p->version) - 1, &version) == -EBADMSG ||
        message_text(message, "compliance", sizeof(p->compliance) - 1, &compliance) == -EBADMSG ||
        (handed_over && hand_over_told(p, handed_over) < 0)) {
        bad_message(
            p, "proxy-hello: version or compliance is not a short string, or handedOver not as it was told");
        return;
    }
    snprintf(p->version, sizeof(p->version), "%s", version);
    snprintf(p->compliance, sizeof(p->compliance), "%s", compliance);
    p->takes_deliveries = is_set(message, "deliveries");
    p->takes_dns = is_set(message, "dns");
    p->takes_endings = is_set(message, "endings");
    p->takes_direct = p->direct_wanted = is_set(message, "direct");
    p->takes_serving = is_set(message, "serving");
    p->hands_over = is_set(message, "handOver");
    p->state = PROXY_OFFERING;
    p->connected_at = loop_now(p->server->loop);
    /* The same process again: its former connection is about to end anyway, and must not be told to drain. */
    list_for_each (other, &p->server->list, node) {
        if (connection_pid(connection) && connection_pid(other->connection) == connection_pid(connection))
            connection_close(other->connection);
    }
    insert_by_age(p->server, p);
    /* While it introduces itself it counts as one that will serve. */
    loop_timer_set(p->server->loop, &p->answer, PROXY_ANSWER_MAX);
    log_info("proxy connected\tpid=%d version=\"%s\"", (int)connection_pid(connection), p->version);
}

static void on_offer(struct local_proxy *p, const cJSON *message, int *fds, size_t fds_len)
{
    struct offered_pod offer = {.fds = fds};
    uint64_t generation = 0;
    struct pod *pod;
    struct proxy_assignment *a;

    if (message_name(message, "uid", &offer.uid) < 0 || message_u64(message, "cookie", &offer.cookie) < 0 ||
        message_number(message, "generation", UINT32_MAX, &generation) < 0) {
        bad_message(p, "pod-held: uid, cookie or generation is missing or wrong");
        return;
    }
    if (fds_len != BRUMA_POD_FD_COUNT) {
        bad_message(p, "pod-held: needs the descriptors netns, outbound, inbound, hbone");
        return;
    }
    loop_timer_set(p->server->loop, &p->answer, PROXY_ANSWER_MAX);
    offer.generation = (uint32_t)generation;
    offer.draining = is_set(message, "draining");
    pod = p->server->events.offered(p->server->events.data, &offer);
    a = pod ? assignment_get(p, pod) : NULL;
    if (a)
        a->state = offer.draining ? ASSIGNMENT_DRAINING : ASSIGNMENT_PENDING;
}

/* ---- who serves ---- */

static void on_resume(struct loop_timer *timer)
{
    struct proxy_server *server = container_of(timer, struct proxy_server, resume);
    struct local_proxy *p, *youngest = NULL;

    list_for_each (p, &server->list, node) {
        if ((p->state < PROXY_REPLACED && p->state != PROXY_NOT_READY) || p->resume_wanted || p->resume_seq)
            return; /* it serves, or will soon */
        if (p->state == PROXY_REPLACED && !p->cannot_resume && !p->not_ready)
            youngest = p;
    }
    if (!youngest)
        return;
    log_info("no other proxy is left; the replaced one is asked to serve again\tpid=%d",
             (int)connection_pid(youngest->connection));
    youngest->drain_wanted = false;
    youngest->resume_wanted = true;
    proxy_push(youngest);
}

static void resume_somebody(struct proxy_server *server, uint64_t after_milliseconds)
{
    if (!loop_timer_armed(&server->resume) ||
        server->resume.due > loop_now(server->loop) + after_milliseconds)
        loop_timer_set(server->loop, &server->resume, after_milliseconds);
}

static void assign_pods(struct local_proxy *p)
{
    bool replaced = p->state >= PROXY_REPLACED;
    struct pod *pod;

    list_for_each (pod, &p->server->pods->list, node) {
        struct proxy_assignment *a = assignment_of(p, pod);

        if (pod->enrollment->state == POD_DRAINING) {
            if (a)
                assignment_set_pending(a, COMMAND_DRAIN);
        } else if (!pod_is_served(pod)) {
            if (a)
                pod_assignment_free(&a->base);
        } else if (replaced) {
            if (a)
                assignment_set_pending(a, COMMAND_KEEP);
        } else {
            a = assignment_get(p, pod);
            if (a)
                assignment_set_pending(a, COMMAND_ADD);
        }
    }
}

static void on_offers_end(struct local_proxy *p, const cJSON *message)
{
    bool ending = is_set(message, "ending"), replaced = ending || is_set(message, "draining");

    p->server->events.offers_end(p->server->events.data);
    p->state = ending ? PROXY_ENDING : replaced ? PROXY_REPLACED : PROXY_SYNCING;
    assign_pods(p);
    if (replaced)
        resume_somebody(p->server, RESUME_PATIENCE);
}

/* A proxy takes from one at a time. */
static void give(struct local_proxy *p, struct local_proxy *by)
{
    p->gives_later = by->takes_over;
    if (p->gives_later)
        return;
    hand_over_begin(p, by);
    p->gives_to = by->takes_over ? by : NULL;
}

/* It has said how that ended, or cannot any more: the next one may have what it has not taken. */
static void takes_no_more(struct local_proxy *p, bool all)
{
    struct local_proxy *other;

    p->takes_over = false;
    list_for_each (other, &p->server->list, node) {
        if (other->gives_to != p)
            continue;
        other->gives_to = NULL;
        other->gives_later = !all;
    }
}

static void replace(struct local_proxy *p, struct local_proxy *by)
{
    log_info("proxy is replaced\tpid=%d by=%d", (int)connection_pid(p->connection),
             (int)connection_pid(by->connection));
    p->state = PROXY_REPLACED;
    p->drain_wanted = true;
    p->waits = p->serving_wanted = false;
    give(p, by);
    proxy_push(by);
    proxy_push(p);
}

static void take_over_now(struct local_proxy *p)
{
    struct local_proxy *other;
    bool younger = false;

    p->waits = false;
    p->state = PROXY_SERVING;
    log_info("proxy serves\tpid=%d", (int)connection_pid(p->connection));
    list_for_each (other, &p->server->list, node) {
        if (other == p) {
            younger = true;
        } else if (younger && other->state == PROXY_SERVING) {
            replace(p, other);
            return;
        } else if (!younger && other->state >= PROXY_SYNCING && other->state <= PROXY_SERVING) {
            replace(other, p);
        }
    }
    p->serving_wanted = p->takes_serving;
}

/* What could not go with those that it went with, or only a part of it. */
static void give_rest(struct proxy_server *server)
{
    struct local_proxy *p, *serving = proxy_server_find_serving(server);

    list_for_each (p, &server->list, node) {
        if (!p->gives_later || !serving || serving->takes_over)
            continue;
        p->gives_later = false;
        if (p->state < PROXY_REPLACED)
            continue;
        give(p, serving);
        proxy_push(serving);
        proxy_push(p);
    }
}

/* Whoever is replaced drains, and takes nothing more: what is on its way to it would be cut. */
static void take_over(struct local_proxy *p)
{
    struct proxy_server *server = p->server;
    const struct local_proxy *serving = proxy_server_find_serving(server);

    if (!serving || !serving->takes_over) {
        take_over_now(p);
        give_rest(server);
        return;
    }
    log_info("proxy waits until another one has taken over\tpid=%d other=%d",
             (int)connection_pid(p->connection), (int)connection_pid(serving->connection));
    p->state = PROXY_SYNCING;
    p->waits = true;
    if (!loop_timer_armed(&server->hurry))
        loop_timer_set(server->loop, &server->hurry, HAND_OVER_PATIENCE);
}

/* The youngest of those that wait: one has ended, or has taken what there was to take. */
static void take_over_next(struct proxy_server *server, bool patient)
{
    const struct local_proxy *serving = proxy_server_find_serving(server);
    struct local_proxy *p, *youngest = NULL;

    list_for_each (p, &server->list, node) {
        if (p->waits)
            youngest = p;
    }
    if (youngest && (!patient || !serving || !serving->takes_over)) {
        loop_timer_cancel(&server->hurry);
        take_over_now(youngest);
    }
    give_rest(server);
}

static void on_hurry(struct loop_timer *timer)
{
    take_over_next(container_of(timer, struct proxy_server, hurry), false);
}

/* One that would accept nothing yet takes nothing from one that does: its control plane may never answer. */
static void on_snapshot_taken(struct local_proxy *p, const cJSON *ack)
{
    p->not_ready = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(ack, "ready"));
    if (p->state != PROXY_SYNCING)
        return;
    if (!p->not_ready) {
        take_over(p);
        return;
    }
    p->state = PROXY_NOT_READY;
    log_info("proxy waits for its control plane\tpid=%d", (int)connection_pid(p->connection));
    resume_somebody(p->server, RESUME_PATIENCE);
}

static void on_ready(struct local_proxy *p)
{
    p->not_ready = false;
    if (p->state == PROXY_NOT_READY)
        take_over(p);
    else if (p->state == PROXY_REPLACED)
        resume_somebody(p->server, 0);
}

static void on_resumed(struct local_proxy *p, enum bruma_reason reason, const char *error)
{
    p->resume_seq = 0;
    if (error) {
        log_error("a replaced proxy cannot serve again\tpid=%d reason=%s error=\"%s\"",
                  (int)connection_pid(p->connection), reason_name(reason), error);
        p->cannot_resume = true;
        resume_somebody(p->server, 0);
        return;
    }
    if (p->state != PROXY_REPLACED)
        return;
    p->state = PROXY_SYNCING;
    assign_pods(p);
    take_over(p);
}

static void on_ending(struct local_proxy *p)
{
    struct proxy_server *server = p->server;
    bool served = p->state == PROXY_SERVING;

    log_info("proxy ends\tpid=%d", (int)connection_pid(p->connection));
    p->state = PROXY_ENDING;
    p->drain_wanted = p->resume_wanted = p->serving_wanted = p->waits = false;
    p->resume_seq = 0;
    takes_no_more(p, false);
    /* Its answers decide nothing any more: nobody waits for them. */
    if (served)
        server->events.gone(server->events.data);
    take_over_next(server, true);
    resume_somebody(server, 0);
}

static void on_assignment_answer(struct local_proxy *p, struct proxy_assignment *a, enum bruma_reason reason,
                                 const char *error)
{
    struct proxy_server *server = p->server;

    if (error) {
        log_error("a proxy refused a pod\tpid=%d uid=%s reason=%s error=\"%s\"",
                  (int)connection_pid(p->connection), a->base.uid, reason_name(reason), error);
        snprintf(a->error, sizeof(a->error), "%s", error);
        a->reason = reason;
    }
    if (a->state == ASSIGNMENT_PENDING)
        a->state = error ? ASSIGNMENT_FAILED : ASSIGNMENT_SERVING;
    if (a->base.pod && p == proxy_server_find_serving(server) && a->pending == COMMAND_NONE)
        server->events.answered(server->events.data, a->base.pod, reason, error);
}

static void on_ack(struct local_proxy *p, const cJSON *message)
{
    const char *name = NULL, *error = NULL;
    enum bruma_reason reason = BRUMA_REASON_NONE;
    uint64_t seq;
    struct proxy_assignment *a;

    if (message_number(message, "seq", SEQ_MAX, &seq) < 0 || !seq || seq > p->seq ||
        message_text(message, "reason", 64, &name) == -EBADMSG ||
        message_text(message, "error", 4096, &error) == -EBADMSG) {
        bad_message(p, "ack: seq, reason or error is missing or wrong");
        return;
    }
    if (name)
        reason = reason_from_name(name);
    if (reason == BRUMA_REASON_COUNT)
        reason = BRUMA_REASON_INTERNAL;
    if (reason != BRUMA_REASON_NONE && !error)
        error = reason_what(reason);
    if (reason == BRUMA_REASON_NONE)
        error = NULL;
    if (p->unanswered && --p->unanswered)
        loop_timer_set(p->server->loop, &p->answer, PROXY_ANSWER_MAX);
    else
        loop_timer_cancel(&p->answer);
    if (seq == p->snapshot_seq) {
        on_snapshot_taken(p, message);
        return;
    }
    if (seq == p->resume_seq) {
        on_resumed(p, reason, error);
        return;
    }
    list_for_each (a, &p->assignments.all, base.of_proxy) {
        if (a->seq == seq) {
            on_assignment_answer(p, a, reason, error);
            return;
        }
    }
    if (error)
        log_error("a proxy could not carry out a command\tpid=%d seq=%lu reason=%s error=\"%s\"",
                  (int)connection_pid(p->connection), (unsigned long)seq, reason_name(reason), error);
    if (error && seq == p->take_seq) {
        takes_no_more(p, false);
        take_over_next(p->server, true);
    }
}

static void on_drained(struct local_proxy *p, const cJSON *message)
{
    const char *uid;
    struct proxy_assignment *a;

    if (message_name(message, "uid", &uid) < 0) {
        bad_message(p, "pod-drained: uid is missing or wrong");
        return;
    }
    list_for_each (a, &p->assignments.all, base.of_proxy) {
        if (strcmp(a->base.uid, uid) || a->state != ASSIGNMENT_DRAINING || a->pending != COMMAND_NONE)
            continue;
        a->state = ASSIGNMENT_DRAINED;
        if (a->base.pod)
            p->server->events.drained(p->server->events.data, a->base.pod);
        return;
    }
}

static void on_handed_over(struct local_proxy *p, const cJSON *message)
{
    if (hand_over_told(p, message) < 0) {
        bad_message(p, "handed-over: a number or why is missing or wrong");
        return;
    }
    takes_no_more(p, true);
    take_over_next(p->server, true);
}

static void on_listener_closed(struct local_proxy *p, const cJSON *message)
{
    const char *uid;
    struct proxy_assignment *a;

    if (message_name(message, "uid", &uid) < 0) {
        bad_message(p, "listener-closed: uid is missing or wrong");
        return;
    }
    list_for_each (a, &p->assignments.all, base.of_proxy) {
        if (a->base.pod && !strcmp(a->base.uid, uid)) {
            p->server->events.listener_closed(p->server->events.data, a->base.pod);
            return;
        }
    }
}

static void on_message(struct local_connection *connection, const cJSON *message, int *fds, size_t fds_len)
{
    struct local_proxy *p = connection_data(connection);
    const char *op = message_op(message);

    if (p->state == PROXY_NEW)
        on_hello(p, connection, message);
    else if (p->state == PROXY_OFFERING && !strcmp(op, "pod-held"))
        on_offer(p, message, fds, fds_len);
    else if (p->state == PROXY_OFFERING && !strcmp(op, "held-end"))
        on_offers_end(p, message);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "ack"))
        on_ack(p, message);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "pod-drained"))
        on_drained(p, message);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "listener-closed"))
        on_listener_closed(p, message);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "ending"))
        on_ending(p);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "ready"))
        on_ready(p);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "handed-over"))
        on_handed_over(p, message);
    else if (!strcmp(op, "error"))
        log_error("a proxy reports an error\tpid=%d", (int)connection_pid(connection));
    else
        bad_message(p, "unknown op, or out of order");
    proxy_push(p);
}

static void on_writable(struct local_connection *connection)
{
    proxy_push(connection_data(connection));
}

static void on_closed(struct local_connection *connection)
{
    struct local_proxy *p = connection_data(connection);
    struct proxy_server *server = p->server;
    struct proxy_assignment *a;

    log_info("proxy disconnected\tpid=%d", (int)connection_pid(connection));
    list_del(&p->node);
    loop_timer_cancel(&p->answer);
    hand_over_clear(p);
    cJSON_Delete(p->handed_over);
    list_for_each (a, &p->assignments.all, base.of_proxy)
        pod_assignment_free(&a->base);
    takes_no_more(p, false);
    free(p);
    server->events.gone(server->events.data);
    take_over_next(server, true);
    resume_somebody(server, 0);
}

const struct server_role proxy_server_role = {
    .name = "proxy", .patient = true, .message = on_message, .drained = on_writable, .closed = on_closed};

int proxy_server_new(struct loop *loop, const struct agent_settings *settings, const struct pods *pods,
                     const struct proxy_maps *maps, const struct proxies_events *events, struct proxies **ret)
{
    struct proxy_server *server = calloc(1, sizeof(*server));

    if (!server)
        return -ENOMEM;
    server->proxies.ops = &proxy_server_ops;
    server->loop = loop;
    server->settings = settings;
    server->pods = pods;
    server->maps = *maps;
    server->events = *events;
    list_init(&server->list);
    loop_timer_init(&server->resume, on_resume);
    loop_timer_init(&server->hurry, on_hurry);
    loop_timer_init(&server->adopted, proxy_server_adopted);
    server->adopt_until = loop_now(loop) + settings->adopt_wait;
    *ret = &server->proxies;
    return 0;
}
