/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pods/zds_pods.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "proxy/pods/name_set.h"

#define LOG_SCOPE "zds"
#include "lib/log.h"
#include "lib/log_rest.h"

struct pending_pod {
    struct list node;
    char *uid, *name, *namespace, *service_account;
    int netns_fd;
    struct log_rest line; /* that it still cannot be served */
};

static struct pod_info info_of(const struct pending_pod *p)
{
    return (struct pod_info){
        .uid = p->uid, .name = p->name, .namespace = p->namespace, .service_account = p->service_account};
}

/* ---- what is pending ---- */

static void pending_free(struct zds_pods *pods, struct pending_pod *p)
{
    list_del(&p->node);
    pods->pending_len--;
    if (p->netns_fd >= 0)
        close(p->netns_fd);
    free(p->uid);
    free(p->name);
    free(p->namespace);
    free(p->service_account);
    free(p);
}

static struct pending_pod *find(const struct zds_pods *pods, const char *uid)
{
    struct pending_pod *p;

    list_for_each (p, &pods->pending, node) {
        if (!strcmp(p->uid, uid))
            return p;
    }
    return NULL;
}

/* Takes the descriptor. Without memory the agent's own repetition is all that is left. */
static void put_pending(struct zds_pods *pods, const struct pod_info *info, int netns_fd)
{
    struct pending_pod *p = calloc(1, sizeof(*p));

    if (!p) {
        close(netns_fd);
        return;
    }
    list_add_tail(&pods->pending, &p->node);
    pods->pending_len++;
    p->netns_fd = netns_fd;
    p->uid = strdup(info->uid);
    p->name = strdup(info->name);
    p->namespace = strdup(info->namespace);
    p->service_account = strdup(info->service_account);
    if (!p->uid || !p->name || !p->namespace || !p->service_account) {
        pending_free(pods, p);
        return;
    }
    if (!loop_timer_armed(&pods->retry))
        loop_timer_set(pods->loop, &pods->retry, ZDS_RETRY_MILLISECONDS);
}

void zds_pods_forget(struct zds_pods *pods, const char *uid)
{
    struct pending_pod *p = find(pods, uid);

    if (p)
        pending_free(pods, p);
}

void zds_pods_forget_unnamed(struct zds_pods *pods, const struct name_set *named)
{
    struct pending_pod *p;

    list_for_each (p, &pods->pending, node) {
        if (!name_set_has(named, p->uid))
            pending_free(pods, p);
    }
}

void zds_pods_each_pending(const struct zds_pods *pods, zds_pending_fn fn, void *data)
{
    struct pending_pod *p;

    list_for_each (p, &pods->pending, node) {
        struct pod_info info = info_of(p);

        fn(data, &info);
    }
}

/* ---- serving ---- */

/* Names become parts of an identity, spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT. A pod that names no
 * account, as static pods do, has "default". */
static bool fit_for_identity(const struct pod_info *info)
{
    return *info->name && *info->namespace && !strchr(info->name, '/') && !strchr(info->namespace, '/') &&
           !strchr(info->service_account, '/');
}

static int check(const struct zds_pods *pods, struct pod_info *info, int netns_fd, enum bruma_reason *reason,
                 char *error, size_t size)
{
    int r;

    if (!fit_for_identity(info)) {
        *reason = BRUMA_REASON_MESSAGE_INVALID;
        snprintf(error, size, "a name is empty or has a slash");
        return -EINVAL;
    }
    *reason = BRUMA_REASON_NETNS_UNUSABLE;
    r = netns_check(netns_fd);
    if (r < 0) {
        snprintf(error, size, "the descriptor is not a network namespace");
        return r;
    }
    r = netns_cookie(netns_fd, &info->cookie);
    if (r < 0) {
        snprintf(error, size, "the network namespace cannot be entered: %s", strerror(-r));
        return r;
    }
    if (info->cookie == pods->own_cookie) {
        *reason = BRUMA_REASON_NETNS_IS_HOST;
        snprintf(error, size, "the network namespace is the proxy's own");
        return -EINVAL;
    }
    return 0;
}

struct living {
    const char *uid;
    struct pod_info info; /* its texts are the pod's, which stays while it is served */
    bool found;
    int *fds;
    int error; /* one that lives could not be duplicated */
};

static void copy_living(void *data, const struct pod_info *info, bool draining,
                        const int fds[BRUMA_POD_FD_COUNT])
{
    struct living *living = data;

    (void)draining;
    if (strcmp(info->uid, living->uid) != 0)
        return;
    for (int i = BRUMA_POD_FD_OUTBOUND; i < BRUMA_POD_FD_COUNT; i++) {
        if (fds[i] >= 0 && !pod_listener_dead(fds[i])) {
            living->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
            if (living->fds[i] < 0)
                living->error = -errno;
        }
    }
}

/* Listeners of the pod that is served already, as far as they live: with what waits in their backlog. 1 if
 * all do, 0 if not, or -errno. */
static int all_live(struct zds_pods *pods, const char *uid, int fds[BRUMA_POD_FD_COUNT])
{
    struct living living = {.uid = uid, .fds = fds};

    pods_each(pods->proxy, copy_living, &living);
    if (living.error)
        return living.error;
    for (int i = BRUMA_POD_FD_OUTBOUND; i < BRUMA_POD_FD_COUNT; i++) {
        if (fds[i] < 0)
            return 0;
    }
    return 1;
}

static int open_missing(struct zds_pods *pods, int netns_fd, int fds[BRUMA_POD_FD_COUNT],
                        enum bruma_reason *reason, char *error, size_t size)
{
    int r;

    *reason = BRUMA_REASON_LISTENER_OPEN_FAILED;
    r = pod_listeners_open(&pods->options, netns_fd, pods->own_netns_fd, fds + BRUMA_POD_FD_OUTBOUND, error,
                           size);
    if (r < 0)
        return r;
    fds[BRUMA_POD_FD_NETNS] = fcntl(netns_fd, F_DUPFD_CLOEXEC, 0);
    if (fds[BRUMA_POD_FD_NETNS] >= 0)
        return 0;
    r = -errno;
    *reason = BRUMA_REASON_OUT_OF_RESOURCES;
    snprintf(error, size, "%s", strerror(-r));
    return r;
}

/* A pod whose questions would be redirected to nobody is not served. */
static int serve_dns(struct zds_pods *pods, const struct pod_info *info, int netns_fd,
                     enum bruma_reason *reason, char *error, size_t size)
{
    int udp, tcp, r;

    if (!pods->options.dns)
        return 0;
    *reason = BRUMA_REASON_LISTENER_OPEN_FAILED;
    r = pod_listeners_open_dns(&pods->options, netns_fd, pods->own_netns_fd, &udp, &tcp, error, size);
    if (r == 0) {
        *reason = BRUMA_REASON_OUT_OF_RESOURCES;
        r = pods_set_dns(pods->proxy, info->uid, udp, tcp);
        if (r < 0)
            snprintf(error, size, "%s", strerror(-r));
    }
    if (r < 0)
        pods_delete(pods->proxy, info->uid);
    return r;
}

static int serve(struct zds_pods *pods, struct pod_info *info, int netns_fd, enum bruma_reason *reason,
                 char *error, size_t size)
{
    int fds[BRUMA_POD_FD_COUNT] = {-1, -1, -1, -1};
    int r = check(pods, info, netns_fd, reason, error, size);

    if (r < 0)
        return r;
    if (!pods_serves(pods->proxy, info)) {
        /* Of another sandbox of this pod nothing is left, whether the new one can be served or not. */
        pods_delete(pods->proxy, info->uid);
    } else {
        r = all_live(pods, info->uid, fds);
        if (r != 0)
            close_fds(fds, BRUMA_POD_FD_COUNT);
        if (r < 0) {
            *reason = BRUMA_REASON_OUT_OF_RESOURCES;
            snprintf(error, size, "%s", strerror(-r));
        }
        if (r != 0)
            return r < 0 ? r : 0;
    }
    r = open_missing(pods, netns_fd, fds, reason, error, size);
    if (r < 0) {
        close_fds(fds, BRUMA_POD_FD_COUNT);
        return r;
    }
    r = pods_add(pods->proxy, info, fds, reason, error, size);
    return r < 0 ? r : serve_dns(pods, info, netns_fd, reason, error, size);
}

int zds_pods_add(struct zds_pods *pods, const struct pod_info *info, int netns_fd, char *error,
                 size_t error_size)
{
    enum bruma_reason reason = BRUMA_REASON_INTERNAL;
    struct pod_info with_cookie = *info;
    int r;

    zds_pods_forget(pods, info->uid);
    r = serve(pods, &with_cookie, netns_fd, &reason, error, error_size);
    if (r == 0) {
        close(netns_fd);
        return 0;
    }
    log_error("a pod cannot be served; retrying\tpod=\"%s/%s\" uid=\"%s\" reason=%s error=\"%s\"",
              info->namespace, info->name, info->uid, reason_name(reason), error);
    put_pending(pods, info, netns_fd);
    return r;
}

static void on_retry(struct loop_timer *timer)
{
    struct zds_pods *pods = container_of(timer, struct zds_pods, retry);
    struct pending_pod *p;

    list_for_each (p, &pods->pending, node) {
        enum bruma_reason reason = BRUMA_REASON_INTERNAL;
        struct pod_info info = info_of(p);
        char error[256] = "";
        uint64_t unsaid;

        if (serve(pods, &info, p->netns_fd, &reason, error, sizeof(error)) == 0)
            pending_free(pods, p);
        else if (log_rest_over(&p->line, loop_now(pods->loop), &unsaid))
            log_warn("a pod still cannot be served\tpod=\"%s/%s\" uid=\"%s\" reason=%s error=\"%s\"",
                     p->namespace, p->name, p->uid, reason_name(reason), error);
    }
    if (pods->pending_len)
        loop_timer_set(pods->loop, timer, ZDS_RETRY_MILLISECONDS);
}

static void find_info(void *data, const struct pod_info *info, bool draining,
                      const int fds[BRUMA_POD_FD_COUNT])
{
    struct living *living = data;

    (void)draining;
    if (strcmp(info->uid, living->uid) != 0)
        return;
    living->info = *info;
    living->found = true;
    living->fds[BRUMA_POD_FD_NETNS] = fcntl(fds[BRUMA_POD_FD_NETNS], F_DUPFD_CLOEXEC, 0);
}

void zds_pods_reopen(struct zds_pods *pods, const char *uid)
{
    int fds[BRUMA_POD_FD_COUNT] = {-1, -1, -1, -1};
    struct living living = {.uid = uid, .fds = fds};
    char error[256];

    pods_each(pods->proxy, find_info, &living);
    if (living.found && fds[BRUMA_POD_FD_NETNS] >= 0)
        (void)zds_pods_add(pods, &living.info, fds[BRUMA_POD_FD_NETNS], error, sizeof(error));
}

void zds_pods_init(struct zds_pods *pods, struct loop *loop, struct proxy *proxy,
                   const struct pod_listener_options *options, int own_netns_fd, uint64_t own_cookie)
{
    *pods = (struct zds_pods){
        .proxy = proxy,
        .loop = loop,
        .options = *options,
        .own_netns_fd = own_netns_fd,
        .own_cookie = own_cookie,
    };
    list_init(&pods->pending);
    loop_timer_init(&pods->retry, on_retry);
}

void zds_pods_clear(struct zds_pods *pods)
{
    loop_timer_cancel(&pods->retry);
    while (!list_empty(&pods->pending))
        pending_free(pods, list_first(&pods->pending, struct pending_pod, node));
}
