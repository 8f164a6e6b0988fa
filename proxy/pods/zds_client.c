/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pods/zds_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "lib/zds.h"
#include "proxy/pods/name_set.h"

#define LOG_SCOPE "zds"
#include "lib/log.h"

/* Between attempts to connect, milliseconds, doubled: a pod that starts meanwhile waits for us. */
#define RETRY_MIN 20
#define RETRY_MAX 1000
/* After connections that ended before their snapshot: something is wrong that trying does not repair. */
#define BROKEN_RETRY_MAX 15000

#define MESSAGES_PER_TURN 64
#define FDS_MAX           8 /* more than a good message has, so that a bad one can be told */

struct zds_client {
    struct loop *loop;
    struct proxy *proxy;
    void (*failed)(struct proxy *proxy);
    char *path;
    struct loop_watch watch; /* fd -1 while not connected */
    struct loop_timer retry;
    uint64_t retry_after, broken_after;
    bool complained; /* that the agent is away; said once */
    bool snapshot;   /* received on this connection */
    bool stopped;
    struct name_set named; /* uids since the connection began, until the snapshot is complete */
    struct zds_pods pods;
    uint8_t buf[ZDS_MESSAGE_MAX + 1];
};

/* What a message leads to. */
enum outcome { OBEYED, REFUSED, BROKEN, FATAL };

/* What the agent has told stays in force; only the connection is lost. */
static void disconnect(struct zds_client *client)
{
    int fd = client->watch.fd;

    if (fd < 0)
        return;
    loop_watch_remove(client->loop, &client->watch);
    close(fd);
    client->watch.fd = -1;
    name_set_clear(&client->named);
    if (client->stopped)
        return;
    if (client->snapshot) {
        loop_timer_set(client->loop, &client->retry, 0);
    } else {
        loop_timer_set(client->loop, &client->retry, client->broken_after);
        client->broken_after =
            client->broken_after < BROKEN_RETRY_MAX / 2 ? 2 * client->broken_after : BROKEN_RETRY_MAX;
    }
    client->snapshot = false;
}

/* The agent waits for each answer, so there is always room for one. */
static bool answer(struct zds_client *client, const char *error)
{
    uint8_t buf[ZDS_MESSAGE_MAX];
    ssize_t len = zds_response_encode(error, buf);
    int r = len < 0 ? (int)len : seqpacket_send(client->watch.fd, buf, (size_t)len, NULL, 0);

    if (r < 0)
        log_warn_errno(r, "cannot answer the CNI agent");
    return r == 0;
}

/* ---- messages ---- */

static enum outcome add(struct zds_client *client, const struct zds_request *q, int *fd, char *error,
                        size_t size)
{
    const struct pod_info info = {
        .uid = q->uid, .name = q->name, .namespace = q->namespace, .service_account = q->service_account};

    if (!q->has_info) {
        snprintf(error, size, "protocol error: an add without workload_info");
        return FATAL;
    }
    if (!*q->uid) {
        snprintf(error, size, "an add without a uid");
        return BROKEN;
    }
    if (!client->snapshot && name_set_add(&client->named, q->uid) < 0) {
        snprintf(error, size, "out of memory");
        return BROKEN;
    }
    return zds_pods_add(&client->pods, &info, take_fd(fd), error, size) < 0 ? REFUSED : OBEYED;
}

static enum outcome keep(struct zds_client *client, const struct zds_request *q, char *error, size_t size)
{
    if (client->snapshot) {
        snprintf(error, size, "protocol error: a keep after the snapshot");
        return FATAL;
    }
    if (name_set_add(&client->named, q->uid) < 0) {
        snprintf(error, size, "out of memory");
        return BROKEN;
    }
    return OBEYED;
}

/* Before the snapshot is complete only the name is forgotten: the end of the snapshot removes the pod. */
static enum outcome del(struct zds_client *client, const struct zds_request *q)
{
    zds_pods_forget(&client->pods, q->uid);
    if (client->snapshot)
        pods_delete(client->proxy, q->uid);
    else
        name_set_remove(&client->named, q->uid);
    return OBEYED;
}

static enum outcome snapshot_sent(struct zds_client *client, char *error, size_t size)
{
    if (client->snapshot) {
        snprintf(error, size, "protocol error: a second snapshot");
        return FATAL;
    }
    pods_delete_unnamed(client->proxy, &client->named);
    zds_pods_forget_unnamed(&client->pods, &client->named);
    log_info("the CNI agent's snapshot is complete\tpods=%zu pending=%zu", client->named.len,
             client->pods.pending_len);
    name_set_clear(&client->named);
    client->snapshot = true;
    client->broken_after = RETRY_MIN;
    return OBEYED;
}

static enum outcome obey(struct zds_client *client, size_t len, int *fds, size_t fds_len, char *error,
                         size_t size)
{
    _cleanup_zds_request_ struct zds_request q = {};
    int r = zds_request_decode(client->buf, len, &q);

    if (r < 0) {
        snprintf(error, size, "cannot read the message: it is not a request of version 1 of this protocol");
        return BROKEN;
    }
    if (fds_len != (q.kind == ZDS_ADD ? ZDS_ADD_FDS : 0)) {
        snprintf(error, size, "cannot read the message: %s with %zu descriptors",
                 zds_request_kind_name(q.kind), fds_len);
        return BROKEN;
    }
    switch (q.kind) {
    case ZDS_ADD:
        return add(client, &q, &fds[0], error, size);
    case ZDS_KEEP:
        return keep(client, &q, error, size);
    case ZDS_DEL:
        return del(client, &q);
    case ZDS_SNAPSHOT_SENT:
        return snapshot_sent(client, error, size);
    }
    return BROKEN;
}

/* False if the connection has ended. */
static bool conclude(struct zds_client *client, enum outcome outcome, const char *error)
{
    bool sent = answer(client, outcome == OBEYED ? NULL : error);

    switch (outcome) {
    case OBEYED:
    case REFUSED:
        break;
    case BROKEN:
        log_error("a message of the CNI agent cannot be used; reconnecting\treason=%s error=\"%s\"",
                  reason_name(BRUMA_REASON_MESSAGE_INVALID), error);
        sent = false;
        break;
    case FATAL:
        log_error("the CNI agent breaks the protocol; the proxy ends\treason=%s error=\"%s\"",
                  reason_name(BRUMA_REASON_MESSAGE_INVALID), error);
        zds_client_stop(client);
        client->failed(client->proxy);
        return false;
    }
    if (!sent)
        disconnect(client);
    return sent;
}

static void receive(struct zds_client *client)
{
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        char error[ZDS_ERROR_MAX] = "cannot read the message: too long, or too many descriptors";
        enum outcome outcome = BROKEN;
        int fds[FDS_MAX];
        size_t fds_len;
        ssize_t n =
            seqpacket_receive(client->watch.fd, client->buf, sizeof(client->buf), fds, FDS_MAX, &fds_len);

        if (n == -EAGAIN)
            return;
        if (n == -EMFILE)
            snprintf(error, sizeof(error), "no file descriptors are left for those of the message");
        if (n == 0 || (n < 0 && n != -EMSGSIZE && n != -EMFILE)) {
            close_fds(fds, fds_len);
            log_warn("the CNI agent is gone; the last known pods stay served");
            disconnect(client);
            return;
        }
        if (n > 0)
            outcome = obey(client, (size_t)n, fds, fds_len, error, sizeof(error));
        close_fds(fds, fds_len);
        if (!conclude(client, outcome, error))
            return;
    }
}

static void on_agent(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    receive(container_of(watch, struct zds_client, watch));
}

/* ---- connecting ---- */

static int greet(int fd)
{
    uint8_t buf[ZDS_MESSAGE_MAX];
    ssize_t len = zds_hello_encode(buf);

    return len < 0 ? (int)len : seqpacket_send(fd, buf, (size_t)len, NULL, 0);
}

static void on_retry(struct loop_timer *timer)
{
    struct zds_client *client = container_of(timer, struct zds_client, retry);
    _cleanup_fd_ int fd = seqpacket_connect(client->path, 0, true);
    int r = fd < 0 ? fd : greet(fd);

    if (r == 0)
        r = loop_watch_add(client->loop, &client->watch, fd, EPOLLIN, on_agent);
    if (r < 0) {
        client->watch.fd = -1;
        if (!client->complained)
            log_warn_errno(r, "cannot reach the CNI agent; retrying\tsocket=%s", client->path);
        client->complained = true;
        loop_timer_set(client->loop, timer, client->retry_after);
        client->retry_after = client->retry_after < RETRY_MAX / 2 ? 2 * client->retry_after : RETRY_MAX;
        return;
    }
    take_fd(&fd);
    client->complained = false;
    client->retry_after = RETRY_MIN;
    log_info("connected to the CNI agent\tsocket=%s", client->path);
}

int zds_client_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                   const struct pod_listener_options *options, int own_netns_fd,
                   void (*failed)(struct proxy *), struct zds_client **ret)
{
    struct zds_client *client = calloc(1, sizeof(*client));
    uint64_t own_cookie;
    int r = client ? netns_cookie(own_netns_fd, &own_cookie) : -ENOMEM;

    if (r == 0) {
        client->path = strdup(socket_path);
        r = client->path ? 0 : -ENOMEM;
    }
    if (r < 0) {
        free(client);
        return r;
    }
    client->loop = loop;
    client->proxy = proxy;
    client->failed = failed;
    client->watch.fd = -1;
    client->retry_after = client->broken_after = RETRY_MIN;
    zds_pods_init(&client->pods, loop, proxy, options, own_netns_fd, own_cookie);
    loop_timer_init(&client->retry, on_retry);
    loop_timer_set(loop, &client->retry, 0);
    *ret = client;
    return 0;
}

void zds_client_stop(struct zds_client *client)
{
    client->stopped = true;
    loop_timer_cancel(&client->retry);
    zds_pods_clear(&client->pods);
    disconnect(client);
}

void zds_client_free(struct zds_client **ptr)
{
    struct zds_client *client = *ptr;

    if (!client)
        return;
    zds_client_stop(client);
    free(client->path);
    free(client);
    *ptr = NULL;
}

bool zds_client_ready(const struct zds_client *client)
{
    return client->snapshot && !client->pods.pending_len && !client->stopped;
}

void zds_client_listener_closed(struct zds_client *client, const char *uid)
{
    if (!client->stopped)
        zds_pods_reopen(&client->pods, uid);
}

const struct zds_pods *zds_client_pods(const struct zds_client *client)
{
    return &client->pods;
}
