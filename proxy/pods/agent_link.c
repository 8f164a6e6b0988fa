/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pods/agent_link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/message.h"
#include "lib/outbox.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "proxy/pods/name_set.h"
#include "proxy/pods/pods.h"

#define LOG_SCOPE "agent_link"
#include "lib/log.h"

#define RETRY_MIN         20 /* milliseconds, doubled up to RETRY_MAX */
#define RETRY_MAX         1000
#define MESSAGES_PER_TURN 64
#define SEQ_MAX           (UINT64_C(1) << 53)

struct agent_link {
    struct loop *loop;
    struct proxy *proxy;
    const struct agent_link_events *events;
    char *path;
    struct loop_watch watch; /* fd -1 while not connected */
    struct loop_timer retry;
    uint64_t retry_after;
    bool complained; /* that the agent is away; said once */
    bool ready;
    bool draining; /* another proxy has taken over */
    bool ending;   /* this one was told to end */
    bool serves;   /* the mesh is known */
    struct outbox outbox;
    struct name_set named; /* uids since the connection began, until snapshot-end */
    char buf[BRUMA_MESSAGE_MAX + 1];
};

/* One message of the agent. */
struct order {
    const cJSON *message;
    const char *op, *uid;
    int *fds;
    size_t fds_len;
    bool is_short; /* it came with descriptors that this process has no room for */
};

static int remember_name(struct agent_link *link, const char *uid)
{
    return link->ready ? 0 : name_set_add(&link->named, uid);
}

/* What the agent has told stays in force; only the connection is lost. */
static void disconnect(struct agent_link *link)
{
    int fd = link->watch.fd;

    if (fd < 0)
        return;
    loop_watch_remove(link->loop, &link->watch);
    close(fd);
    outbox_clear(&link->outbox);
    name_set_clear(&link->named);
    link->ready = false;
    loop_timer_set(link->loop, &link->retry, link->retry_after);
}

static int send_message(struct agent_link *link, cJSON *message, const int *fds, size_t fds_len)
{
    char *text = message ? cJSON_PrintUnformatted(message) : NULL;
    int r = -ENOTCONN;

    cJSON_Delete(message);
    if (link->watch.fd < 0 || !text) {
        free(text);
        return link->watch.fd < 0 ? -ENOTCONN : -ENOMEM;
    }
    r = outbox_send(&link->outbox, link->watch.fd, text, strlen(text), fds, fds_len);
    if (r > 0)
        r = loop_watch_modify(link->loop, &link->watch, EPOLLIN | EPOLLOUT);
    if (r < 0)
        log_warn_errno(r, "cannot send to the agent");
    return r;
}

static int send_ack(struct agent_link *link, const char *op, uint64_t seq, enum bruma_reason reason,
                    const char *error)
{
    cJSON *m = message_new("ack");

    cJSON_AddNumberToObject(m, "seq", (double)seq);
    if (reason != BRUMA_REASON_NONE) {
        cJSON_AddStringToObject(m, "reason", reason_name(reason));
        cJSON_AddStringToObject(m, "error", error);
    }
    if (op && !strcmp(op, "snapshot-end") && !link->serves)
        cJSON_AddFalseToObject(m, "ready");
    return send_message(link, m, NULL, 0);
}

/* ---- orders: 0 done, 1 refused (reason and error are sent), -EBADMSG the message is malformed ---- */

static int parse_pod(const struct order *o, struct pod_info *ret)
{
    struct pod_info info = {.uid = o->uid, .service_account = "", .trust_domain = ""};
    uint64_t generation;

    if (o->fds_len != BRUMA_POD_FD_COUNT || message_u64(o->message, "cookie", &info.cookie) < 0 ||
        message_number(o->message, "generation", UINT32_MAX, &generation) < 0 ||
        message_name(o->message, "name", &info.name) < 0 ||
        message_name(o->message, "namespace", &info.namespace) < 0 ||
        message_text(o->message, "serviceAccount", MESSAGE_NAME_MAX, &info.service_account) == -EBADMSG ||
        message_text(o->message, "trustDomain", MESSAGE_NAME_MAX, &info.trust_domain) == -EBADMSG ||
        message_addresses(o->message, "ips", info.addresses, BRUMA_POD_ADDRESSES, &info.addresses_len) < 0)
        return -EBADMSG;
    info.generation = (uint32_t)generation;
    *ret = info;
    return 0;
}

static int pod_add(struct agent_link *link, const struct order *o, enum bruma_reason *reason, char *error,
                   size_t error_size)
{
    struct pod_info info;
    int fds[BRUMA_POD_FD_COUNT], r;

    if (o->is_short) {
        *reason = BRUMA_REASON_OUT_OF_RESOURCES;
        snprintf(error, error_size, "no file descriptors are left for the pod's listeners");
        r = remember_name(link, o->uid);
        return r < 0 ? r : 1;
    }
    if (parse_pod(o, &info) < 0)
        return -EBADMSG;
    r = remember_name(link, info.uid);
    if (r < 0)
        return r;
    memcpy(fds, o->fds, sizeof(fds));
    for (int i = 0; i < BRUMA_POD_FD_COUNT; i++)
        o->fds[i] = -1;
    r = pods_add(link->proxy, &info, fds, reason, error, error_size);
    return r < 0 ? 1 : 0;
}

static int setup(struct agent_link *link, const struct order *o)
{
    /* An agent of before has no map of deliveries. */
    if (o->fds_len != 1 && o->fds_len != 2)
        return -EBADMSG;
    pods_set_maps(link->proxy, take_fd(&o->fds[0]), o->fds_len == 2 ? take_fd(&o->fds[1]) : -1);
    return 0;
}

static int snapshot_end(struct agent_link *link)
{
    if (link->ready)
        return -EBADMSG;
    pods_delete_unnamed(link->proxy, &link->named);
    log_info("the agent's snapshot is complete\tpods=%zu", link->named.len);
    name_set_clear(&link->named);
    link->ready = true;
    link->retry_after = RETRY_MIN;
    return 0;
}

static int drain(struct agent_link *link, const struct order *o)
{
    uint64_t deadline;

    if (message_number(o->message, "deadlineMilliseconds", UINT32_MAX, &deadline) < 0)
        return -EBADMSG;
    link->draining = true;
    log_info("another proxy has taken over\tdeadline-milliseconds=%lu", (unsigned long)deadline);
    link->events->replaced(link->proxy, deadline);
    return 0;
}

static int resume(struct agent_link *link)
{
    link->draining = false;
    log_info("the proxy that had taken over is gone");
    link->events->resumed(link->proxy);
    return 0;
}

static int obey(struct agent_link *link, const struct order *o, enum bruma_reason *reason, char *error,
                size_t error_size)
{
    if (!strcmp(o->op, "setup"))
        return setup(link, o);
    if (!strcmp(o->op, "snapshot-end"))
        return snapshot_end(link);
    if (!strcmp(o->op, "drain"))
        return drain(link, o);
    if (!strcmp(o->op, "resume"))
        return resume(link);
    if (strcmp(o->op, "pod-add") && strcmp(o->op, "pod-keep") && strcmp(o->op, "pod-drain") &&
        strcmp(o->op, "pod-del")) {
        /* A newer agent may know more; it is told, and nothing else is at stake. */
        *reason = BRUMA_REASON_MESSAGE_INVALID;
        snprintf(error, error_size, "unknown op");
        return 1;
    }
    if (!o->uid)
        return -EBADMSG;
    if (!strcmp(o->op, "pod-add"))
        return pod_add(link, o, reason, error, error_size);
    if (!strcmp(o->op, "pod-del")) {
        pods_delete(link->proxy, o->uid);
        return 0;
    }
    if (!strcmp(o->op, "pod-drain"))
        pods_drain(link->proxy, o->uid);
    return remember_name(link, o->uid);
}

/* False if the connection must begin anew. */
static bool handle(struct agent_link *link, size_t len, int *fds, size_t fds_len, bool is_short)
{
    enum bruma_reason reason = BRUMA_REASON_INTERNAL;
    _cleanup_message_ cJSON *message = NULL;
    struct order order = {.fds = fds, .fds_len = fds_len, .is_short = is_short};
    char error[256] = "";
    const char *text = "";
    uint64_t seq = 0;
    int r = message_parse(link->buf, len, &message);

    if (r == 0) {
        order.message = message;
        order.op = message_op(message);
        if (!strcmp(order.op, "error")) {
            (void)message_text(message, "error", 1024, &text);
            log_error("the agent reports an error\terror=\"%s\"", text);
            return true;
        }
        r = message_number(message, "seq", SEQ_MAX, &seq);
    }
    if (r == 0 && message_name(message, "uid", &order.uid) == -EBADMSG)
        r = -EBADMSG;
    if (r == 0)
        r = obey(link, &order, &reason, error, sizeof(error));
    if (r < 0) {
        log_error(
            "a message of the agent cannot be used; the connection begins anew\treason=%s op=%s error=\"%s\"",
            reason_name(r == -ENOMEM ? BRUMA_REASON_OUT_OF_RESOURCES : BRUMA_REASON_MESSAGE_INVALID),
            order.op ? order.op : "-", strerror(-r));
        return false;
    }
    if (r > 0)
        log_error("an order of the agent was refused\top=%s uid=%s reason=%s error=\"%s\"", order.op,
                  order.uid ? order.uid : "-", reason_name(reason), error);
    /* Obeying may have ended the connection. */
    if (link->watch.fd < 0)
        return true;
    return send_ack(link, order.op, seq, r ? reason : BRUMA_REASON_NONE, error) >= 0;
}

static void receive(struct agent_link *link)
{
    for (int i = 0; i < MESSAGES_PER_TURN && link->watch.fd >= 0; i++) {
        int fds[BRUMA_MESSAGE_FDS_MAX];
        size_t fds_len;
        bool is_short = false, good;
        ssize_t n = seqpacket_receive_short(link->watch.fd, link->buf, sizeof(link->buf), fds,
                                            BRUMA_MESSAGE_FDS_MAX, &fds_len, &is_short);

        if (n == -EAGAIN)
            return;
        if (n == -EMSGSIZE)
            log_error("a message of the agent is too large; the connection begins anew\treason=%s",
                      reason_name(BRUMA_REASON_MESSAGE_INVALID));
        else if (n <= 0)
            log_warn("the agent is gone; the last known pods are served on");
        good = n > 0 && handle(link, (size_t)n, fds, fds_len, is_short);
        if (n >= 0)
            close_fds(fds, fds_len);
        if (!good) {
            disconnect(link);
            return;
        }
    }
}

static void on_agent(struct loop_watch *watch, uint32_t events)
{
    struct agent_link *link = container_of(watch, struct agent_link, watch);

    if (events & EPOLLOUT) {
        int r = outbox_flush(&link->outbox, watch->fd);

        if (r < 0 && r != -EAGAIN) {
            log_warn_errno(r, "cannot send to the agent");
            disconnect(link);
            return;
        }
        if (r == 0)
            loop_watch_modify(link->loop, watch, EPOLLIN);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(link);
}

struct offer {
    struct agent_link *link;
    int r;
};

static void offer_pod(void *data, const struct pod_info *info, bool draining,
                      const int fds[BRUMA_POD_FD_COUNT])
{
    struct offer *offer = data;
    cJSON *m;

    if (offer->r < 0)
        return;
    m = message_new("pod-held");
    cJSON_AddStringToObject(m, "uid", info->uid);
    message_add_u64(m, "cookie", info->cookie);
    cJSON_AddNumberToObject(m, "generation", info->generation);
    cJSON_AddBoolToObject(m, "draining", draining);
    offer->r = send_message(offer->link, m, fds, BRUMA_POD_FD_COUNT);
}

static int introduce(struct agent_link *link)
{
    struct offer offer = {.link = link};
    cJSON *m = message_new("proxy-hello");

    cJSON_AddNumberToObject(m, "pid", getpid());
    cJSON_AddStringToObject(m, "version", BRUMA_VERSION);
    cJSON_AddTrueToObject(m, "deliveries");
    offer.r = send_message(link, m, NULL, 0);
    pods_each(link->proxy, offer_pod, &offer);
    if (offer.r < 0)
        return offer.r;
    m = message_new("held-end");
    cJSON_AddBoolToObject(m, "draining", link->draining);
    if (link->ending)
        cJSON_AddTrueToObject(m, "ending");
    return send_message(link, m, NULL, 0);
}

static void on_retry(struct loop_timer *timer)
{
    struct agent_link *link = container_of(timer, struct agent_link, retry);
    int fd = seqpacket_connect(link->path, 0, true), r;

    link->retry_after = link->retry_after < RETRY_MAX / 2 ? 2 * link->retry_after : RETRY_MAX;
    r = fd < 0 ? fd : loop_watch_add(link->loop, &link->watch, fd, EPOLLIN, on_agent);
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        link->watch.fd = -1;
        if (!link->complained)
            log_warn_errno(r, "cannot reach the agent; trying on\tsocket=%s", link->path);
        link->complained = true;
        loop_timer_set(link->loop, &link->retry, link->retry_after);
        return;
    }
    link->complained = false;
    log_info("connected to the agent\tsocket=%s", link->path);
    if (introduce(link) < 0)
        disconnect(link);
}

int agent_link_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                   const struct agent_link_events *events, struct agent_link **ret)
{
    struct agent_link *link = calloc(1, sizeof(*link));

    if (!link)
        return -ENOMEM;
    link->path = strdup(socket_path);
    if (!link->path) {
        free(link);
        return -ENOMEM;
    }
    link->loop = loop;
    link->proxy = proxy;
    link->events = events;
    link->watch.fd = -1;
    link->retry_after = RETRY_MIN;
    outbox_init(&link->outbox);
    loop_timer_init(&link->retry, on_retry);
    loop_timer_set(loop, &link->retry, 0);
    *ret = link;
    return 0;
}

void agent_link_free(struct agent_link **ptr)
{
    struct agent_link *link = *ptr;

    if (!link)
        return;
    disconnect(link);
    loop_timer_cancel(&link->retry);
    free(link->path);
    free(link);
    *ptr = NULL;
}

bool agent_link_ready(const struct agent_link *link)
{
    return link->ready;
}

void agent_link_serves(struct agent_link *link)
{
    if (!link || link->serves)
        return;
    link->serves = true;
    if (link->ready && send_message(link, message_new("ready"), NULL, 0) < 0)
        disconnect(link);
}

void agent_link_ending(struct agent_link *link)
{
    if (!link)
        return;
    link->ending = true;
    if (link->watch.fd >= 0 && send_message(link, message_new("ending"), NULL, 0) < 0)
        disconnect(link);
}

static void tell_of_pod(struct agent_link *link, const char *op, const char *uid)
{
    cJSON *m;

    if (!link || link->watch.fd < 0)
        return;
    m = message_new(op);
    cJSON_AddStringToObject(m, "uid", uid);
    if (send_message(link, m, NULL, 0) < 0)
        disconnect(link);
}

void agent_link_pod_drained(struct agent_link *link, const char *uid)
{
    /* Not connected: the agent hears it by not being offered the pod when the connection is back. */
    tell_of_pod(link, "pod-drained", uid);
}

void agent_link_listener_closed(struct agent_link *link, const char *uid)
{
    /* Not connected: an agent that starts verifies every pod. */
    tell_of_pod(link, "listener-closed", uid);
}
