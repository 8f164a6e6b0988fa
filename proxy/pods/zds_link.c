/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pods/zds_link.h"

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
/* After connections that ended before their snapshot: something is wrong that trying does not mend. */
#define BROKEN_RETRY_MAX 15000

#define MESSAGES_PER_TURN 64
#define FDS_MAX           8 /* more than a good message has, so that a bad one can be told */

struct zds_link {
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
static void disconnect(struct zds_link *link)
{
    int fd = link->watch.fd;

    if (fd < 0)
        return;
    loop_watch_remove(link->loop, &link->watch);
    close(fd);
    link->watch.fd = -1;
    name_set_clear(&link->named);
    if (link->stopped)
        return;
    if (link->snapshot) {
        loop_timer_set(link->loop, &link->retry, 0);
    } else {
        loop_timer_set(link->loop, &link->retry, link->broken_after);
        link->broken_after =
            link->broken_after < BROKEN_RETRY_MAX / 2 ? 2 * link->broken_after : BROKEN_RETRY_MAX;
    }
    link->snapshot = false;
}

/* The agent waits for each answer, so there is always room for one. */
static bool answer(struct zds_link *link, const char *error)
{
    uint8_t buf[ZDS_MESSAGE_MAX];
    ssize_t len = zds_response_encode(error, buf);
    int r = len < 0 ? (int)len : seqpacket_send(link->watch.fd, buf, (size_t)len, NULL, 0);

    if (r < 0)
        log_warn_errno(r, "cannot answer the CNI agent");
    return r == 0;
}

/* ---- messages ---- */

static enum outcome add(struct zds_link *link, const struct zds_request *q, int *fd, char *error, size_t size)
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
    if (!link->snapshot && name_set_add(&link->named, q->uid) < 0) {
        snprintf(error, size, "out of memory");
        return BROKEN;
    }
    return zds_pods_add(&link->pods, &info, take_fd(fd), error, size) < 0 ? REFUSED : OBEYED;
}

static enum outcome keep(struct zds_link *link, const struct zds_request *q, char *error, size_t size)
{
    if (link->snapshot) {
        snprintf(error, size, "protocol error: a keep after the snapshot");
        return FATAL;
    }
    if (name_set_add(&link->named, q->uid) < 0) {
        snprintf(error, size, "out of memory");
        return BROKEN;
    }
    return OBEYED;
}

/* Before the snapshot is complete only the name is forgotten: the end of the snapshot removes the pod. */
static enum outcome del(struct zds_link *link, const struct zds_request *q)
{
    zds_pods_forget(&link->pods, q->uid);
    if (link->snapshot)
        pods_delete(link->proxy, q->uid);
    else
        name_set_remove(&link->named, q->uid);
    return OBEYED;
}

static enum outcome snapshot_sent(struct zds_link *link, char *error, size_t size)
{
    if (link->snapshot) {
        snprintf(error, size, "protocol error: a second snapshot");
        return FATAL;
    }
    pods_delete_unnamed(link->proxy, &link->named);
    zds_pods_forget_unnamed(&link->pods, &link->named);
    log_info("the CNI agent's snapshot is complete\tpods=%zu pending=%zu", link->named.len,
             link->pods.pending_len);
    name_set_clear(&link->named);
    link->snapshot = true;
    link->broken_after = RETRY_MIN;
    return OBEYED;
}

static enum outcome obey(struct zds_link *link, size_t len, int *fds, size_t fds_len, char *error,
                         size_t size)
{
    _cleanup_zds_request_ struct zds_request q = {};
    int r = zds_request_decode(link->buf, len, &q);

    if (r < 0) {
        snprintf(error, size, "cannot read the message: it is no request of this protocol's version 1");
        return BROKEN;
    }
    if (fds_len != (q.kind == ZDS_ADD ? ZDS_ADD_FDS : 0)) {
        snprintf(error, size, "cannot read the message: %s with %zu descriptors",
                 zds_request_kind_name(q.kind), fds_len);
        return BROKEN;
    }
    switch (q.kind) {
    case ZDS_ADD:
        return add(link, &q, &fds[0], error, size);
    case ZDS_KEEP:
        return keep(link, &q, error, size);
    case ZDS_DEL:
        return del(link, &q);
    case ZDS_SNAPSHOT_SENT:
        return snapshot_sent(link, error, size);
    }
    return BROKEN;
}

/* False if the connection has ended. */
static bool conclude(struct zds_link *link, enum outcome outcome, const char *error)
{
    bool sent = answer(link, outcome == OBEYED ? NULL : error);

    switch (outcome) {
    case OBEYED:
    case REFUSED:
        break;
    case BROKEN:
        log_error(
            "a message of the CNI agent cannot be used; the connection begins anew\treason=%s error=\"%s\"",
            reason_name(BRUMA_REASON_MESSAGE_INVALID), error);
        sent = false;
        break;
    case FATAL:
        log_error("the CNI agent breaks the protocol; the proxy ends\treason=%s error=\"%s\"",
                  reason_name(BRUMA_REASON_MESSAGE_INVALID), error);
        zds_link_stop(link);
        link->failed(link->proxy);
        return false;
    }
    if (!sent)
        disconnect(link);
    return sent;
}

static void receive(struct zds_link *link)
{
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        char error[ZDS_ERROR_MAX] = "cannot read the message: too long, or too many descriptors";
        enum outcome outcome = BROKEN;
        int fds[FDS_MAX];
        size_t fds_len;
        ssize_t n = seqpacket_receive(link->watch.fd, link->buf, sizeof(link->buf), fds, FDS_MAX, &fds_len);

        if (n == -EAGAIN)
            return;
        if (n == -EMFILE)
            snprintf(error, sizeof(error), "no file descriptors are left for those of the message");
        if (n == 0 || (n < 0 && n != -EMSGSIZE && n != -EMFILE)) {
            close_fds(fds, fds_len);
            log_warn("the CNI agent is gone; the last known pods are served on");
            disconnect(link);
            return;
        }
        if (n > 0)
            outcome = obey(link, (size_t)n, fds, fds_len, error, sizeof(error));
        close_fds(fds, fds_len);
        if (!conclude(link, outcome, error))
            return;
    }
}

static void on_agent(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    receive(container_of(watch, struct zds_link, watch));
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
    struct zds_link *link = container_of(timer, struct zds_link, retry);
    _cleanup_fd_ int fd = seqpacket_connect(link->path, 0, true);
    int r = fd < 0 ? fd : greet(fd);

    if (r == 0)
        r = loop_watch_add(link->loop, &link->watch, fd, EPOLLIN, on_agent);
    if (r < 0) {
        link->watch.fd = -1;
        if (!link->complained)
            log_warn_errno(r, "cannot reach the CNI agent; trying on\tsocket=%s", link->path);
        link->complained = true;
        loop_timer_set(link->loop, timer, link->retry_after);
        link->retry_after = link->retry_after < RETRY_MAX / 2 ? 2 * link->retry_after : RETRY_MAX;
        return;
    }
    take_fd(&fd);
    link->complained = false;
    link->retry_after = RETRY_MIN;
    log_info("connected to the CNI agent\tsocket=%s", link->path);
}

int zds_link_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                 const struct pod_listener_options *options, int own_netns_fd, void (*failed)(struct proxy *),
                 struct zds_link **ret)
{
    struct zds_link *link = calloc(1, sizeof(*link));
    uint64_t own_cookie;
    int r = link ? netns_cookie(own_netns_fd, &own_cookie) : -ENOMEM;

    if (r == 0) {
        link->path = strdup(socket_path);
        r = link->path ? 0 : -ENOMEM;
    }
    if (r < 0) {
        free(link);
        return r;
    }
    link->loop = loop;
    link->proxy = proxy;
    link->failed = failed;
    link->watch.fd = -1;
    link->retry_after = link->broken_after = RETRY_MIN;
    zds_pods_init(&link->pods, loop, proxy, options, own_netns_fd, own_cookie);
    loop_timer_init(&link->retry, on_retry);
    loop_timer_set(loop, &link->retry, 0);
    *ret = link;
    return 0;
}

void zds_link_stop(struct zds_link *link)
{
    link->stopped = true;
    loop_timer_cancel(&link->retry);
    zds_pods_clear(&link->pods);
    disconnect(link);
}

void zds_link_free(struct zds_link **ptr)
{
    struct zds_link *link = *ptr;

    if (!link)
        return;
    zds_link_stop(link);
    free(link->path);
    free(link);
    *ptr = NULL;
}

bool zds_link_ready(const struct zds_link *link)
{
    return link->snapshot && !link->pods.pending_len && !link->stopped;
}

void zds_link_listener_closed(struct zds_link *link, const char *uid)
{
    if (!link->stopped)
        zds_pods_reopen(&link->pods, uid);
}

const struct zds_pods *zds_link_pods(const struct zds_link *link)
{
    return &link->pods;
}
