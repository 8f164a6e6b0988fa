/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pods/agent_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/message.h"
#include "lib/outbox.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "lib/tls_policy.h"
#include "proxy/pods/agent_client_internal.h"
#include "proxy/pods/pods.h"

#define LOG_SCOPE "agent_client"
#include "lib/log.h"

#define RETRY_MIN         20 /* milliseconds, doubled up to RETRY_MAX */
#define RETRY_MAX         1000
#define MESSAGES_PER_TURN 64
#define SEQ_MAX           (UINT64_C(1) << 53)

/* One message of the agent. */
struct order {
    const cJSON *message;
    const char *op, *uid;
    int *fds;
    size_t fds_len;
    bool is_short; /* it came with descriptors that this process has no room for */
};

static int remember_name(struct agent_client *client, const char *uid)
{
    return client->ready ? 0 : name_set_add(&client->named, uid);
}

/* What the agent has told stays in force; only the connection is lost. */
void agent_client_disconnect(struct agent_client *client)
{
    int fd = client->watch.fd;

    if (fd < 0)
        return;
    loop_watch_remove(client->loop, &client->watch);
    close(fd);
    outbox_clear(&client->outbox);
    name_set_clear(&client->named);
    client->ready = false;
    loop_timer_set(client->loop, &client->retry, client->retry_after);
}

int agent_client_send(struct agent_client *client, cJSON *message, const int *fds, size_t fds_len)
{
    char *text = message ? cJSON_PrintUnformatted(message) : NULL;
    int r = -ENOTCONN;

    cJSON_Delete(message);
    if (client->watch.fd < 0 || !text) {
        free(text);
        return client->watch.fd < 0 ? -ENOTCONN : -ENOMEM;
    }
    r = outbox_send(&client->outbox, client->watch.fd, text, strlen(text), fds, fds_len);
    if (r > 0)
        r = loop_watch_modify(client->loop, &client->watch, EPOLLIN | EPOLLOUT);
    if (r < 0)
        log_warn_errno(r, "cannot send to the agent");
    return r;
}

static int send_ack(struct agent_client *client, const char *op, uint64_t seq, enum bruma_reason reason,
                    const char *error)
{
    cJSON *m = message_new("ack");

    cJSON_AddNumberToObject(m, "seq", (double)seq);
    if (reason != BRUMA_REASON_NONE) {
        cJSON_AddStringToObject(m, "reason", reason_name(reason));
        cJSON_AddStringToObject(m, "error", error);
    }
    if (op && !strcmp(op, "snapshot-end") && !client->serves)
        cJSON_AddFalseToObject(m, "ready");
    return agent_client_send(client, m, NULL, 0);
}

/* ---- orders: 0 done, 1 refused (reason and error are sent), -EBADMSG the message is malformed ---- */

/* An agent of before, and one whom nobody tells, says nothing. What a newer one says and is not known here
 * fails closed. */
static int parse_policy(const cJSON *message, enum outbound_policy *ret)
{
    const char *text;
    int r = message_text(message, "outboundPolicy", 64, &text);

    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (outbound_policy_parse(text, ret) < 0)
        *ret = OUTBOUND_REGISTRY_ONLY;
    return 0;
}

static int parse_switch(const cJSON *message, const char *key, enum direct_switch *ret)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(message, key);

    if (item && !cJSON_IsBool(item))
        return -EBADMSG;
    if (item)
        *ret = cJSON_IsTrue(item) ? DIRECT_ON : DIRECT_OFF;
    return 0;
}

/* The same as for the policy: what a newer agent says is the long way. */
static int parse_direct(const cJSON *message, struct pod_info *info)
{
    enum direct_switch bypass = DIRECT_UNSAID;
    const char *text;
    int r = message_text(message, "sameNode", 64, &text);

    if (r == 0 && same_node_parse(text, &info->direct.same_node) < 0)
        info->direct.same_node = SAME_NODE_HBONE;
    if ((r < 0 && r != -ENOENT) || parse_switch(message, "directOutside", &info->direct.outside) < 0 ||
        parse_switch(message, "directInbound", &info->direct.inbound) < 0 ||
        parse_switch(message, "bypassInbound", &bypass) < 0)
        return -EBADMSG;
    info->bypass_inbound = bypass == DIRECT_ON;
    return 0;
}

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
        message_addresses(o->message, "ips", info.addresses, BRUMA_POD_ADDRESSES, &info.addresses_len) < 0 ||
        parse_policy(o->message, &info.outbound_policy) < 0 || parse_direct(o->message, &info) < 0)
        return -EBADMSG;
    info.generation = (uint32_t)generation;
    *ret = info;
    return 0;
}

static int pod_add(struct agent_client *client, const struct order *o, enum bruma_reason *reason, char *error,
                   size_t error_size)
{
    struct pod_info info;
    int fds[BRUMA_POD_FD_COUNT], r;

    if (o->is_short) {
        *reason = BRUMA_REASON_OUT_OF_RESOURCES;
        snprintf(error, error_size, "no file descriptors are left for the pod's listeners");
        r = remember_name(client, o->uid);
        return r < 0 ? r : 1;
    }
    if (parse_pod(o, &info) < 0)
        return -EBADMSG;
    r = remember_name(client, info.uid);
    if (r < 0)
        return r;
    memcpy(fds, o->fds, sizeof(fds));
    for (int i = 0; i < BRUMA_POD_FD_COUNT; i++)
        o->fds[i] = -1;
    r = pods_add(client->proxy, &info, fds, reason, error, error_size);
    return r < 0 ? 1 : 0;
}

static int pod_dns(struct agent_client *client, const struct order *o, enum bruma_reason *reason, char *error,
                   size_t error_size)
{
    int r;

    if (o->fds_len > 1)
        return -EBADMSG;
    r = o->is_short ? -EMFILE
                    : pods_set_dns(client->proxy, o->uid, o->fds_len ? take_fd(&o->fds[0]) : -1, -1);
    if (r == 0)
        return 0;
    *reason = BRUMA_REASON_OUT_OF_RESOURCES;
    snprintf(error, error_size, "the socket for the pod's questions: %s", strerror(-r));
    return 1;
}

static int setup(struct agent_client *client, const struct order *o)
{
    /* An agent of before has no map of deliveries. */
    if (o->fds_len != 1 && o->fds_len != 2)
        return -EBADMSG;
    pods_set_maps(client->proxy, take_fd(&o->fds[0]), o->fds_len == 2 ? take_fd(&o->fds[1]) : -1);
    return 0;
}

/* Which ways the agent's settings allow. */
static int direct(struct agent_client *client, const struct order *o, enum bruma_reason *reason, char *error,
                  size_t error_size)
{
    struct direct_switches switches = {.same_node = SAME_NODE_HBONE};
    const char *text;
    enum direct_switch no_kernel = DIRECT_UNSAID;
    int fds[BRUMA_DIRECT_FD_COUNT], r = message_text(o->message, "sameNode", 64, &text);

    if (o->is_short) {
        *reason = BRUMA_REASON_OUT_OF_RESOURCES;
        snprintf(error, error_size, "no file descriptors are left for the maps of direct ways");
        return 1;
    }
    if ((r < 0 && r != -ENOENT) || parse_switch(o->message, "noKernel", &no_kernel) < 0 ||
        (o->fds_len != BRUMA_DIRECT_FD_COUNT && (o->fds_len || no_kernel != DIRECT_ON)) ||
        parse_switch(o->message, "outside", &switches.outside) < 0 ||
        parse_switch(o->message, "inbound", &switches.inbound) < 0)
        return -EBADMSG;
    if (r == 0 && same_node_parse(text, &switches.same_node) < 0)
        switches.same_node = SAME_NODE_HBONE;
    for (int i = 0; i < BRUMA_DIRECT_FD_COUNT; i++)
        fds[i] = o->fds_len ? take_fd(&o->fds[i]) : -1;
    r = client->events->direct(client->proxy, &switches, o->fds_len ? fds : NULL);
    if (r == 0)
        return 0;
    *reason = BRUMA_REASON_OUT_OF_RESOURCES;
    snprintf(error, error_size, "the maps of direct ways: %s", strerror(-r));
    return 1;
}

static int direct_node(struct agent_client *client, const struct order *o, enum bruma_reason *reason,
                       char *error, size_t error_size)
{
    int fds[BRUMA_NODE_FD_COUNT], r;

    if (o->fds_len != BRUMA_NODE_FD_COUNT && !o->is_short)
        return -EBADMSG;
    if (o->is_short) {
        r = -EMFILE;
    } else {
        for (int i = 0; i < BRUMA_NODE_FD_COUNT; i++)
            fds[i] = take_fd(&o->fds[i]);
        r = client->events->direct_node(client->proxy, fds);
    }
    if (r == 0)
        return 0;
    *reason = BRUMA_REASON_OUT_OF_RESOURCES;
    snprintf(error, error_size, "the maps of connections between pods of the node: %s", strerror(-r));
    return 1;
}

/* Connections that move between two proxies. */
static int hand_over(struct agent_client *client, const struct order *o, bool give, enum bruma_reason *reason,
                     char *error, size_t error_size)
{
    int r;

    if (!o->is_short && o->fds_len != (give ? 1 : 2))
        return -EBADMSG;
    if (o->is_short)
        r = -EMFILE;
    else if (give)
        r = client->events->give(client->proxy, take_fd(&o->fds[0]));
    else
        r = client->events->take(client->proxy, take_fd(&o->fds[0]), take_fd(&o->fds[1]));
    if (r == 0)
        return 0;
    *reason = r == -EALREADY ? BRUMA_REASON_INTERNAL : BRUMA_REASON_OUT_OF_RESOURCES;
    snprintf(error, error_size, "a hand-over of connections: %s", strerror(-r));
    return 1;
}

static int snapshot_end(struct agent_client *client)
{
    if (client->ready)
        return -EBADMSG;
    pods_delete_unnamed(client->proxy, &client->named);
    log_info("the agent's snapshot is complete\tpods=%zu", client->named.len);
    name_set_clear(&client->named);
    client->ready = true;
    client->retry_after = RETRY_MIN;
    client->events->named(client->proxy);
    return 0;
}

static int drain(struct agent_client *client, const struct order *o)
{
    uint64_t deadline;

    if (message_number(o->message, "deadlineMilliseconds", UINT32_MAX, &deadline) < 0)
        return -EBADMSG;
    client->draining = true;
    client->in_charge = false;
    log_info("another proxy has taken over\tdeadline-milliseconds=%lu", (unsigned long)deadline);
    client->events->replaced(client->proxy, deadline);
    return 0;
}

static int resume(struct agent_client *client)
{
    client->draining = false;
    log_info("the proxy that had taken over is gone");
    client->events->resumed(client->proxy);
    return 0;
}

static int obey(struct agent_client *client, const struct order *o, enum bruma_reason *reason, char *error,
                size_t error_size)
{
    if (!strcmp(o->op, "setup"))
        return setup(client, o);
    if (!strcmp(o->op, "direct"))
        return direct(client, o, reason, error, error_size);
    if (!strcmp(o->op, "direct-node"))
        return direct_node(client, o, reason, error, error_size);
    if (!strcmp(o->op, "hand-over") || !strcmp(o->op, "take"))
        return hand_over(client, o, *o->op == 'h', reason, error, error_size);
    if (!strcmp(o->op, "snapshot-end"))
        return snapshot_end(client);
    if (!strcmp(o->op, "serving")) {
        client->in_charge = true;
        return 0;
    }
    if (!strcmp(o->op, "drain"))
        return drain(client, o);
    if (!strcmp(o->op, "resume"))
        return resume(client);
    if (strcmp(o->op, "pod-add") && strcmp(o->op, "pod-keep") && strcmp(o->op, "pod-drain") &&
        strcmp(o->op, "pod-del") && strcmp(o->op, "pod-dns") && strcmp(o->op, "pod-ending")) {
        /* A newer agent may know more; it is told, and nothing else is at stake. */
        *reason = BRUMA_REASON_MESSAGE_INVALID;
        snprintf(error, error_size, "unknown op");
        return 1;
    }
    if (!o->uid)
        return -EBADMSG;
    if (!strcmp(o->op, "pod-add"))
        return pod_add(client, o, reason, error, error_size);
    if (!strcmp(o->op, "pod-del")) {
        pods_delete(client->proxy, o->uid);
        return 0;
    }
    if (!strcmp(o->op, "pod-dns"))
        return pod_dns(client, o, reason, error, error_size);
    if (!strcmp(o->op, "pod-ending")) {
        pods_ending(client->proxy, o->uid);
        return 0;
    }
    if (!strcmp(o->op, "pod-drain"))
        pods_drain(client->proxy, o->uid);
    return remember_name(client, o->uid);
}

static void on_error(struct agent_client *client, const cJSON *message)
{
    const char *text = "", *reason = "";

    (void)message_text(message, "error", 1024, &text);
    (void)message_text(message, "reason", 64, &reason);
    log_error("the agent reports an error\terror=\"%s\"", text);
    if (strcmp(reason, reason_name(BRUMA_REASON_PROXY_NOT_CONNECTED)) != 0)
        return;
    client->in_charge = false;
    client->events->unwanted(client->proxy);
}

/* False if the connection must begin anew. */
static bool handle(struct agent_client *client, size_t len, int *fds, size_t fds_len, bool is_short)
{
    enum bruma_reason reason = BRUMA_REASON_INTERNAL;
    _cleanup_message_ cJSON *message = NULL;
    struct order order = {.fds = fds, .fds_len = fds_len, .is_short = is_short};
    char error[256] = "";
    uint64_t seq = 0;
    int r = message_parse(client->buf, len, &message);

    if (r == 0) {
        order.message = message;
        order.op = message_op(message);
        if (!strcmp(order.op, "error")) {
            on_error(client, message);
            return true;
        }
        r = message_number(message, "seq", SEQ_MAX, &seq);
    }
    if (r == 0 && message_name(message, "uid", &order.uid) == -EBADMSG)
        r = -EBADMSG;
    if (r == 0)
        r = obey(client, &order, &reason, error, sizeof(error));
    if (r < 0) {
        log_error("a message of the agent cannot be used; reconnecting\treason=%s op=%s error=\"%s\"",
                  reason_name(r == -ENOMEM ? BRUMA_REASON_OUT_OF_RESOURCES : BRUMA_REASON_MESSAGE_INVALID),
                  order.op ? order.op : "-", strerror(-r));
        return false;
    }
    if (r > 0)
        log_error("an order of the agent was refused\top=%s uid=%s reason=%s error=\"%s\"", order.op,
                  order.uid ? order.uid : "-", reason_name(reason), error);
    /* Obeying may have ended the connection. */
    if (client->watch.fd < 0)
        return true;
    return send_ack(client, order.op, seq, r ? reason : BRUMA_REASON_NONE, error) >= 0;
}

static void receive(struct agent_client *client)
{
    for (int i = 0; i < MESSAGES_PER_TURN && client->watch.fd >= 0; i++) {
        int fds[BRUMA_MESSAGE_FDS_MAX];
        size_t fds_len;
        bool is_short = false, good;
        ssize_t n = seqpacket_receive_short(client->watch.fd, client->buf, sizeof(client->buf), fds,
                                            BRUMA_MESSAGE_FDS_MAX, &fds_len, &is_short);

        if (n == -EAGAIN)
            return;
        if (n == -EMSGSIZE)
            log_error("a message of the agent is too large; reconnecting\treason=%s",
                      reason_name(BRUMA_REASON_MESSAGE_INVALID));
        else if (n <= 0)
            log_warn("the agent is gone; the last known pods are served on");
        good = n > 0 && handle(client, (size_t)n, fds, fds_len, is_short);
        if (n >= 0)
            close_fds(fds, fds_len);
        if (!good) {
            agent_client_disconnect(client);
            return;
        }
    }
}

static void on_agent(struct loop_watch *watch, uint32_t events)
{
    struct agent_client *client = container_of(watch, struct agent_client, watch);

    if (events & EPOLLOUT) {
        int r = outbox_flush(&client->outbox, watch->fd);

        if (r < 0 && r != -EAGAIN) {
            log_warn_errno(r, "cannot send to the agent");
            agent_client_disconnect(client);
            return;
        }
        if (r == 0)
            loop_watch_modify(client->loop, watch, EPOLLIN);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(client);
}

struct offer {
    struct agent_client *client;
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
    offer->r = agent_client_send(offer->client, m, fds, BRUMA_POD_FD_COUNT);
}

static int introduce(struct agent_client *client)
{
    struct offer offer = {.client = client};
    cJSON *m = message_new("proxy-hello");

    cJSON_AddNumberToObject(m, "pid", getpid());
    cJSON_AddStringToObject(m, "version", BRUMA_VERSION);
    cJSON_AddStringToObject(m, "compliance", tls_policy_text());
    cJSON_AddTrueToObject(m, "deliveries");
    cJSON_AddTrueToObject(m, "dns");
    cJSON_AddTrueToObject(m, "endings");
    cJSON_AddTrueToObject(m, "direct");
    cJSON_AddTrueToObject(m, "serving");
    cJSON_AddTrueToObject(m, "handOver");
    if (client->handed_over)
        cJSON_AddItemToObject(m, "handedOver", cJSON_Duplicate(client->handed_over, true));
    offer.r = agent_client_send(client, m, NULL, 0);
    pods_each(client->proxy, offer_pod, &offer);
    if (offer.r < 0)
        return offer.r;
    m = message_new("held-end");
    cJSON_AddBoolToObject(m, "draining", client->draining);
    if (client->ending)
        cJSON_AddTrueToObject(m, "ending");
    return agent_client_send(client, m, NULL, 0);
}

static void on_retry(struct loop_timer *timer)
{
    struct agent_client *client = container_of(timer, struct agent_client, retry);
    int fd = seqpacket_connect(client->path, 0, true), r;

    client->retry_after = client->retry_after < RETRY_MAX / 2 ? 2 * client->retry_after : RETRY_MAX;
    r = fd < 0 ? fd : loop_watch_add(client->loop, &client->watch, fd, EPOLLIN, on_agent);
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        client->watch.fd = -1;
        if (!client->complained)
            log_warn_errno(r, "cannot reach the agent; retrying\tsocket=%s", client->path);
        client->complained = true;
        loop_timer_set(client->loop, &client->retry, client->retry_after);
        return;
    }
    client->complained = false;
    log_info("connected to the agent\tsocket=%s", client->path);
    if (introduce(client) < 0)
        agent_client_disconnect(client);
}

int agent_client_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                     const struct agent_client_events *events, struct agent_client **ret)
{
    struct agent_client *client = calloc(1, sizeof(*client));

    if (!client)
        return -ENOMEM;
    client->path = strdup(socket_path);
    if (!client->path) {
        free(client);
        return -ENOMEM;
    }
    client->loop = loop;
    client->proxy = proxy;
    client->events = events;
    client->watch.fd = -1;
    client->retry_after = RETRY_MIN;
    outbox_init(&client->outbox);
    loop_timer_init(&client->retry, on_retry);
    loop_timer_set(loop, &client->retry, 0);
    *ret = client;
    return 0;
}

void agent_client_free(struct agent_client **ptr)
{
    struct agent_client *client = *ptr;

    if (!client)
        return;
    agent_client_disconnect(client);
    loop_timer_cancel(&client->retry);
    cJSON_Delete(client->handed_over);
    free(client->path);
    free(client);
    *ptr = NULL;
}

bool agent_client_ready(const struct agent_client *client)
{
    return client->ready;
}

bool agent_client_in_charge(const struct agent_client *client)
{
    return client->in_charge;
}

bool agent_client_replaced(const struct agent_client *client)
{
    return client->draining;
}
