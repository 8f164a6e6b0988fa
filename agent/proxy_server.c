/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/protocol.h"
#include "message.h"
#include "reasons.h"

#define LOG_SCOPE "proxies"
#include "log.h"

#define ANSWER_MAX 10000 /* milliseconds that a proxy may leave messages unacknowledged */
#define SEQ_MAX    (UINT64_C(1) << 53)

enum proxy_state { PROXY_NEW, PROXY_OFFERING, PROXY_SYNCING, PROXY_SERVING, PROXY_REPLACED };
enum wish { WISH_NOTHING, WISH_ADD, WISH_KEEP, WISH_DRAIN, WISH_DELETE };
enum view_state { VIEW_PENDING, VIEW_SERVING, VIEW_FAILED, VIEW_DRAINING, VIEW_DRAINED };

static const char *const proxy_state_names[] = {"new", "offering", "syncing", "serving", "replaced"};

struct proxy {
    struct list node; /* oldest process first */
    struct proxies *proxies;
    struct connection *connection;
    enum proxy_state state;
    char version[64];
    uint64_t connected_at; /* loop time */
    uint64_t born;         /* start of its process, in clock ticks; 0: not known */
    struct list views, wishes;
    uint64_t seq, snapshot_seq;
    bool setup_sent, drain_wanted;
    unsigned unanswered;
    struct loop_timer answer;
};

/* One pod as one proxy is to see it. */
struct view {
    struct list of_proxy, of_pod, wished;
    struct proxy *proxy;
    struct pod *pod; /* NULL once it is gone; then only the delete is left to send */
    char *uid;
    enum wish wish;
    enum view_state state;
    uint64_t seq; /* of the last message about it, 0: none was sent */
    enum bruma_reason reason;
    char error[256];
};

struct proxies {
    struct loop *loop;
    const struct agent_config *config;
    const struct pods *pods;
    int proxy_sockets_fd;
    struct proxies_events events;
    struct list list;
};

static void view_free(struct view *v)
{
    list_del(&v->of_proxy);
    list_del(&v->of_pod);
    list_del(&v->wished);
    free(v->uid);
    free(v);
}

static struct view *view_of(const struct proxy *proxy, const struct pod *pod)
{
    struct view *v;

    list_for_each (v, &pod->views, of_pod) {
        if (v->proxy == proxy)
            return v;
    }
    return NULL;
}

static struct view *view_get(struct proxy *proxy, struct pod *pod)
{
    struct view *v = view_of(proxy, pod);

    if (v)
        return v;
    v = calloc(1, sizeof(*v));
    if (!v)
        return NULL;
    v->uid = strdup(pod->uid);
    if (!v->uid) {
        free(v);
        return NULL;
    }
    v->proxy = proxy;
    v->pod = pod;
    list_init(&v->wished);
    list_add_tail(&proxy->views, &v->of_proxy);
    list_add_tail(&pod->views, &v->of_pod);
    return v;
}

static void view_wish(struct view *v, enum wish wish)
{
    v->wish = wish;
    list_del(&v->wished);
    if (wish != WISH_NOTHING)
        list_add_tail(&v->proxy->wishes, &v->wished);
}

/* The newest that has acknowledged its snapshot. */
static struct proxy *serving(const struct proxies *proxies)
{
    struct proxy *p, *found = NULL;

    list_for_each (p, &proxies->list, node) {
        if (p->state == PROXY_SERVING)
            found = p;
    }
    return found;
}

static int send_message(struct proxy *p, cJSON *message, const int *fds, size_t fds_len)
{
    int r;

    cJSON_AddNumberToObject(message, "seq", (double)++p->seq);
    r = connection_send(p->connection, message, fds, fds_len);
    if (r == 0 && !p->unanswered++)
        loop_timer_set(p->proxies->loop, &p->answer, ANSWER_MAX);
    return r;
}

static int send_setup(struct proxy *p)
{
    cJSON *m = message_new("setup");

    cJSON_AddStringToObject(m, "pinDir", p->proxies->config->pin_dir);
    p->setup_sent = true;
    return send_message(p, m, &p->proxies->proxy_sockets_fd, 1);
}

static int send_add(struct proxy *p, struct view *v)
{
    const struct agent_config *config = p->proxies->config;
    const struct pod *pod = v->pod;
    cJSON *m = message_new("pod-add");
    int fds[BRUMA_POD_FD_COUNT] = {pod->netns_fd, pod->listeners[0], pod->listeners[1], pod->listeners[2]};

    cJSON_AddStringToObject(m, "uid", pod->uid);
    message_add_u64(m, "cookie", pod->cookie);
    cJSON_AddNumberToObject(m, "generation", pod->generation);
    cJSON_AddStringToObject(m, "name", pod->name);
    cJSON_AddStringToObject(m, "namespace", pod->namespace);
    cJSON_AddStringToObject(m, "serviceAccount", pod->service_account);
    cJSON_AddStringToObject(m, "trustDomain", config->trust_domain);
    cJSON_AddStringToObject(m, "node", config->node);
    message_add_addresses(m, "ips", pod->addresses, pod->addresses_len);
    return send_message(p, m, fds, BRUMA_POD_FD_COUNT);
}

static int send_about(struct proxy *p, const struct view *v, const char *op)
{
    cJSON *m = message_new(op);

    cJSON_AddStringToObject(m, "uid", v->uid);
    return send_message(p, m, NULL, 0);
}

static int send_wish(struct proxy *p, struct view *v)
{
    enum wish wish = v->wish;
    int r = 0;

    view_wish(v, WISH_NOTHING);
    switch (wish) {
    case WISH_NOTHING:
        return 0;
    case WISH_ADD:
        r = send_add(p, v);
        v->state = VIEW_PENDING;
        break;
    case WISH_KEEP:
        r = send_about(p, v, "pod-keep");
        v->state = VIEW_SERVING;
        break;
    case WISH_DRAIN:
        r = send_about(p, v, "pod-drain");
        v->state = VIEW_DRAINING;
        break;
    case WISH_DELETE:
        r = send_about(p, v, "pod-del");
        view_free(v);
        return r;
    }
    v->seq = p->seq;
    return r;
}

static int send_drain(struct proxy *p)
{
    cJSON *m = message_new("drain");

    p->drain_wanted = false;
    cJSON_AddNumberToObject(m, "deadlineMilliseconds", (double)p->proxies->config->proxy_drain);
    return send_message(p, m, NULL, 0);
}

/* Sends what is wished for as long as the socket takes it; connection_send() may queue one message at the
 * most. */
static void push(struct proxy *p)
{
    if (p->state < PROXY_SYNCING)
        return;
    while (connection_flushed(p->connection)) {
        int r;

        if (!p->setup_sent)
            r = send_setup(p);
        else if (!list_empty(&p->wishes))
            r = send_wish(p, list_first(&p->wishes, struct view, wished));
        else if (!p->snapshot_seq) {
            p->snapshot_seq = p->seq + 1;
            r = send_message(p, message_new("snapshot-end"), NULL, 0);
        } else if (p->drain_wanted)
            r = send_drain(p);
        else
            return;
        if (r < 0)
            return;
    }
}

static void bad_message(struct proxy *p, const char *what)
{
    log_error("a message of a proxy cannot be used; it is disconnected\tpid=%d reason=%s error=\"%s\"",
              (int)connection_pid(p->connection), reason_name(BRUMA_REASON_MESSAGE_INVALID), what);
    connection_send_error(p->connection, BRUMA_REASON_MESSAGE_INVALID, what);
    connection_close(p->connection);
}

static void on_answer_timeout(struct loop_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, answer);

    log_error("a proxy does not answer; it is disconnected\tpid=%d unanswered=%u",
              (int)connection_pid(p->connection), p->unanswered);
    connection_close(p->connection);
}

void *proxies_accept(struct proxies *proxies)
{
    struct proxy *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->proxies = proxies;
    list_init(&p->node);
    list_init(&p->views);
    list_init(&p->wishes);
    loop_timer_init(&p->answer, on_answer_timeout);
    return p;
}

/* Field 22 of /proc/PID/stat, counted after the last ")": the name before it may hold anything. */
static uint64_t process_start(pid_t pid)
{
    char path[64], line[1024];
    const char *at;
    size_t len;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    _cleanup_file_ FILE *f = fopen(path, "re");

    if (!f)
        return 0;
    len = fread(line, 1, sizeof(line) - 1, f);
    line[len] = '\0';
    at = strrchr(line, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

/* Connections come in any order after a restart of the agent; the youngest process is the one to serve. */
static void insert_by_age(struct proxies *proxies, struct proxy *p)
{
    struct proxy *other;

    p->born = process_start(connection_pid(p->connection));
    list_for_each (other, &proxies->list, node) {
        if (p->born && other->born > p->born) {
            list_add_tail(&other->node, &p->node);
            return;
        }
    }
    list_add_tail(&proxies->list, &p->node);
}

static void on_hello(struct proxy *p, struct connection *connection, const cJSON *message)
{
    const char *version = "";
    struct proxy *other;

    p->connection = connection;
    if (message_text(message, "version", sizeof(p->version) - 1, &version) == -EBADMSG) {
        bad_message(p, "proxy-hello: version is not a short string");
        return;
    }
    snprintf(p->version, sizeof(p->version), "%s", version);
    p->state = PROXY_OFFERING;
    p->connected_at = loop_now(p->proxies->loop);
    /* The same process again: its former connection is about to end anyway, and must not be told to drain. */
    list_for_each (other, &p->proxies->list, node) {
        if (connection_pid(connection) && connection_pid(other->connection) == connection_pid(connection))
            connection_close(other->connection);
    }
    insert_by_age(p->proxies, p);
    log_info("proxy connected\tpid=%d version=\"%s\"", (int)connection_pid(connection), p->version);
}

static void on_held(struct proxy *p, const cJSON *message, int *fds, size_t fds_len)
{
    struct held_pod offer = {.fds = fds};
    uint64_t generation = 0;
    struct pod *pod;
    struct view *v;

    if (message_name(message, "uid", &offer.uid) < 0 || message_u64(message, "cookie", &offer.cookie) < 0 ||
        message_number(message, "generation", UINT32_MAX, &generation) < 0) {
        bad_message(p, "pod-held: uid, cookie or generation is missing or wrong");
        return;
    }
    if (fds_len != BRUMA_POD_FD_COUNT) {
        bad_message(p, "pod-held: needs the descriptors netns, outbound, inbound, hbone");
        return;
    }
    offer.generation = (uint32_t)generation;
    offer.draining = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(message, "draining"));
    pod = p->proxies->events.held(p->proxies->events.data, &offer);
    v = pod ? view_get(p, pod) : NULL;
    if (v)
        v->state = offer.draining ? VIEW_DRAINING : VIEW_PENDING;
}

static bool pod_is_served(const struct pod *pod)
{
    return (pod->state == POD_ENROLLING || pod->state == POD_ENROLLED || pod->state == POD_LEAVING) &&
           !pod->awaits_listeners && pod->netns_fd >= 0;
}

static void on_held_end(struct proxy *p, const cJSON *message)
{
    bool replaced = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(message, "draining"));
    struct pod *pod;

    p->proxies->events.held_end(p->proxies->events.data);
    p->state = replaced ? PROXY_REPLACED : PROXY_SYNCING;
    list_for_each (pod, &p->proxies->pods->list, node) {
        struct view *v = view_of(p, pod);

        if (pod->state == POD_DRAINING) {
            if (v)
                view_wish(v, WISH_DRAIN);
        } else if (!pod_is_served(pod)) {
            if (v)
                view_free(v);
        } else if (replaced) {
            if (v)
                view_wish(v, WISH_KEEP);
        } else {
            v = view_get(p, pod);
            if (v)
                view_wish(v, WISH_ADD);
        }
    }
}

static void replace(struct proxy *p, const struct proxy *by)
{
    log_info("proxy is replaced\tpid=%d by=%d", (int)connection_pid(p->connection),
             (int)connection_pid(by->connection));
    p->state = PROXY_REPLACED;
    p->drain_wanted = true;
    push(p);
}

static void take_over(struct proxy *p)
{
    struct proxy *other;
    bool younger = false;

    if (p->state != PROXY_SYNCING)
        return;
    p->state = PROXY_SERVING;
    log_info("proxy serves\tpid=%d", (int)connection_pid(p->connection));
    list_for_each (other, &p->proxies->list, node) {
        if (other == p) {
            younger = true;
        } else if (younger && other->state == PROXY_SERVING) {
            replace(p, other);
            return;
        } else if (!younger && (other->state == PROXY_SERVING || other->state == PROXY_SYNCING)) {
            replace(other, p);
        }
    }
}

static void on_view_answer(struct proxy *p, struct view *v, enum bruma_reason reason, const char *error)
{
    struct proxies *proxies = p->proxies;

    if (error) {
        log_error("a proxy refused a pod\tpid=%d uid=%s reason=%s error=\"%s\"",
                  (int)connection_pid(p->connection), v->uid, reason_name(reason), error);
        snprintf(v->error, sizeof(v->error), "%s", error);
        v->reason = reason;
    }
    if (v->state == VIEW_PENDING)
        v->state = error ? VIEW_FAILED : VIEW_SERVING;
    if (v->pod && p == serving(proxies) && v->wish == WISH_NOTHING)
        proxies->events.answered(proxies->events.data, v->pod, reason, error);
}

static void on_ack(struct proxy *p, const cJSON *message)
{
    const char *name = NULL, *error = NULL;
    enum bruma_reason reason = BRUMA_REASON_NONE;
    uint64_t seq;
    struct view *v;

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
        loop_timer_set(p->proxies->loop, &p->answer, ANSWER_MAX);
    else
        loop_timer_cancel(&p->answer);
    if (seq == p->snapshot_seq) {
        take_over(p);
        return;
    }
    list_for_each (v, &p->views, of_proxy) {
        if (v->seq == seq) {
            on_view_answer(p, v, reason, error);
            return;
        }
    }
    if (error)
        log_error("a proxy could not obey\tpid=%d seq=%lu reason=%s error=\"%s\"",
                  (int)connection_pid(p->connection), (unsigned long)seq, reason_name(reason), error);
}

static void on_drained(struct proxy *p, const cJSON *message)
{
    const char *uid;
    struct view *v;

    if (message_name(message, "uid", &uid) < 0) {
        bad_message(p, "pod-drained: uid is missing or wrong");
        return;
    }
    list_for_each (v, &p->views, of_proxy) {
        if (strcmp(v->uid, uid) || v->state != VIEW_DRAINING || v->wish != WISH_NOTHING)
            continue;
        v->state = VIEW_DRAINED;
        if (v->pod)
            p->proxies->events.drained(p->proxies->events.data, v->pod);
        return;
    }
}

static void on_message(struct connection *connection, const cJSON *message, int *fds, size_t fds_len)
{
    struct proxy *p = connection_data(connection);
    const char *op = message_op(message);

    if (p->state == PROXY_NEW)
        on_hello(p, connection, message);
    else if (p->state == PROXY_OFFERING && !strcmp(op, "pod-held"))
        on_held(p, message, fds, fds_len);
    else if (p->state == PROXY_OFFERING && !strcmp(op, "held-end"))
        on_held_end(p, message);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "ack"))
        on_ack(p, message);
    else if (p->state >= PROXY_SYNCING && !strcmp(op, "pod-drained"))
        on_drained(p, message);
    else if (!strcmp(op, "error"))
        log_error("a proxy reports an error\tpid=%d", (int)connection_pid(connection));
    else
        bad_message(p, "unknown op, or not at this time");
    push(p);
}

static void on_writable(struct connection *connection)
{
    push(connection_data(connection));
}

static void on_closed(struct connection *connection)
{
    struct proxy *p = connection_data(connection);
    struct proxies *proxies = p->proxies;
    struct view *v;

    log_info("proxy disconnected\tpid=%d", (int)connection_pid(connection));
    list_del(&p->node);
    loop_timer_cancel(&p->answer);
    list_for_each (v, &p->views, of_proxy)
        view_free(v);
    free(p);
    proxies->events.gone(proxies->events.data);
}

const struct server_role proxies_role = {
    .name = "proxy", .patient = true, .message = on_message, .drained = on_writable, .closed = on_closed};

int proxies_new(struct loop *loop, const struct agent_config *config, const struct pods *pods,
                int proxy_sockets_fd, const struct proxies_events *events, struct proxies **ret)
{
    struct proxies *proxies = calloc(1, sizeof(*proxies));

    if (!proxies)
        return -ENOMEM;
    proxies->loop = loop;
    proxies->config = config;
    proxies->pods = pods;
    proxies->proxy_sockets_fd = proxy_sockets_fd;
    proxies->events = *events;
    list_init(&proxies->list);
    *ret = proxies;
    return 0;
}

void proxies_free(struct proxies **proxies)
{
    free(*proxies);
    *proxies = NULL;
}

bool proxies_serving(const struct proxies *proxies)
{
    return serving(proxies) != NULL;
}

bool proxies_answer_pending(const struct proxies *proxies, const struct pod *pod)
{
    const struct proxy *p = serving(proxies);
    const struct view *v = p ? view_of(p, pod) : NULL;

    return v && (v->wish == WISH_ADD || v->state == VIEW_PENDING);
}

const char *proxies_pod_state(const struct proxies *proxies, const struct pod *pod)
{
    static const char *const names[] = {[VIEW_PENDING] = "pending",
                                        [VIEW_SERVING] = "serving",
                                        [VIEW_FAILED] = "failed",
                                        [VIEW_DRAINING] = "draining",
                                        [VIEW_DRAINED] = "drained"};
    const struct proxy *p = serving(proxies);
    const struct view *v = p ? view_of(p, pod) : NULL;

    if (!p)
        return "not_connected";
    return v ? names[v->state] : "pending";
}

bool proxies_busy(const struct proxies *proxies, const struct pod *pod)
{
    const struct view *v;

    (void)proxies;
    list_for_each (v, &pod->views, of_pod) {
        if (v->state != VIEW_DRAINED || v->wish != WISH_NOTHING)
            return true;
    }
    return false;
}

void proxies_pod_add(struct proxies *proxies, struct pod *pod)
{
    struct proxy *p;

    if (!pod_is_served(pod))
        return;
    list_for_each (p, &proxies->list, node) {
        struct view *v;

        if (p->state != PROXY_SYNCING && p->state != PROXY_SERVING)
            continue;
        v = view_get(p, pod);
        if (!v)
            continue;
        view_wish(v, WISH_ADD);
        push(p);
    }
}

void proxies_pod_retry(struct proxies *proxies, struct pod *pod)
{
    struct view *v;

    (void)proxies;
    list_for_each (v, &pod->views, of_pod) {
        if (v->state != VIEW_FAILED || v->wish != WISH_NOTHING || !pod_is_served(pod))
            continue;
        view_wish(v, WISH_ADD);
        push(v->proxy);
    }
}

void proxies_pod_drain(struct proxies *proxies, struct pod *pod)
{
    struct view *v;

    (void)proxies;
    list_for_each (v, &pod->views, of_pod) {
        view_wish(v, WISH_DRAIN);
        push(v->proxy);
    }
}

void proxies_pod_delete(struct proxies *proxies, struct pod *pod)
{
    struct view *v;

    (void)proxies;
    list_for_each (v, &pod->views, of_pod) {
        struct proxy *p = v->proxy;

        v->pod = NULL;
        list_del(&v->of_pod);
        view_wish(v, WISH_DELETE);
        push(p);
    }
}

cJSON *proxies_report(const struct proxies *proxies)
{
    cJSON *array = cJSON_CreateArray();
    struct proxy *p;

    list_for_each (p, &proxies->list, node) {
        cJSON *o = cJSON_CreateObject();
        int counts[VIEW_DRAINED + 1] = {0};
        struct view *v;

        list_for_each (v, &p->views, of_proxy)
            counts[v->state]++;
        cJSON_AddNumberToObject(o, "pid", connection_pid(p->connection));
        cJSON_AddStringToObject(o, "version", p->version);
        cJSON_AddStringToObject(o, "state", proxy_state_names[p->state]);
        cJSON_AddNumberToObject(o, "connectedSeconds",
                                (double)((loop_now(proxies->loop) - p->connected_at) / 1000));
        cJSON_AddNumberToObject(o, "podsServing", counts[VIEW_SERVING]);
        cJSON_AddNumberToObject(o, "podsPending", counts[VIEW_PENDING]);
        cJSON_AddNumberToObject(o, "podsFailed", counts[VIEW_FAILED]);
        cJSON_AddNumberToObject(o, "podsDraining", counts[VIEW_DRAINING]);
        cJSON_AddItemToArray(array, o);
    }
    return array;
}
