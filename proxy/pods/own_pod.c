/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "pods"
#include "proxy/pods/own_pod.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/log_rest.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "proxy/pods/pods.h"

#define RETRY_MILLISECONDS 5000
#define UID_MAX            600

struct own_pod {
    struct loop *loop;
    struct proxy *proxy;
    struct own_pod_config config;
    char uid[UID_MAX]; /* no agent's: see pods.c */
    int own_netns_fd;
    bool ready, stopped;
    bool dns_served;
    struct loop_timer retry;
    struct log_rest line; /* that it still cannot be served */
};

static int serve_dns(struct own_pod *own, enum bruma_reason *reason, char *error, size_t size)
{
    int udp, tcp, r;

    if (!own->config.options.dns || own->dns_served)
        return 0;
    *reason = BRUMA_REASON_LISTENER_OPEN_FAILED;
    r = pod_listeners_open_dns(&own->config.options, own->own_netns_fd, own->own_netns_fd, &udp, &tcp, error,
                               size);
    if (r < 0)
        return r;
    *reason = BRUMA_REASON_OUT_OF_RESOURCES;
    r = pods_set_dns(own->proxy, own->uid, udp, tcp);
    if (r < 0)
        snprintf(error, size, "%s", strerror(-r));
    own->dns_served = r == 0;
    return r;
}

/* With what waits in their backlog. */
static void keep_living(void *data, const struct pod_info *info, bool draining,
                        const int fds[BRUMA_POD_FD_COUNT])
{
    int *kept = data;

    (void)info;
    (void)draining;
    for (int i = BRUMA_POD_FD_OUTBOUND; i < BRUMA_POD_FD_COUNT; i++) {
        if (fds[i] >= 0 && !pod_listener_dead(fds[i]))
            kept[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
    }
}

static int serve(struct own_pod *own, enum bruma_reason *reason, char *error, size_t size)
{
    int fds[BRUMA_POD_FD_COUNT] = {-1, -1, -1, -1};
    const struct own_pod_config *c = &own->config;
    const struct pod_info info = {
        .uid = own->uid,
        .name = c->name,
        .namespace = c->namespace,
        .service_account = c->service_account,
        .trust_domain = *c->trust_domain ? c->trust_domain : NULL,
        .own = true,
        .hides_clients = c->hides_clients,
        .mark = c->options.mark,
    };
    int r;

    pods_each_own(own->proxy, keep_living, fds);
    *reason = BRUMA_REASON_LISTENER_OPEN_FAILED;
    r = pod_listeners_open(&c->options, own->own_netns_fd, own->own_netns_fd, fds + BRUMA_POD_FD_OUTBOUND,
                           error, size);
    if (r < 0) {
        close_fds(fds, BRUMA_POD_FD_COUNT);
        return r;
    }
    fds[BRUMA_POD_FD_NETNS] = fcntl(own->own_netns_fd, F_DUPFD_CLOEXEC, 0);
    if (fds[BRUMA_POD_FD_NETNS] < 0) {
        r = -errno;
        *reason = BRUMA_REASON_OUT_OF_RESOURCES;
        snprintf(error, size, "%s", strerror(-r));
        close_fds(fds, BRUMA_POD_FD_COUNT);
        return r;
    }
    r = pods_add(own->proxy, &info, fds, reason, error, size);
    return r < 0 ? r : serve_dns(own, reason, error, size);
}

static void open_listeners(struct own_pod *own)
{
    enum bruma_reason reason = BRUMA_REASON_INTERNAL;
    char error[256] = "";
    uint64_t unsaid;

    own->ready = serve(own, &reason, error, sizeof(error)) == 0;
    if (own->ready)
        return;
    if (log_rest_over(&own->line, loop_now(own->loop), &unsaid))
        log_error("the proxy's own pod cannot be served; retrying\tpod=\"%s/%s\" reason=%s error=\"%s\"",
                  own->config.namespace, own->config.name, reason_name(reason), error);
    loop_timer_set(own->loop, &own->retry, RETRY_MILLISECONDS);
}

static void on_retry(struct loop_timer *timer)
{
    open_listeners(container_of(timer, struct own_pod, retry));
}

int own_pod_new(struct loop *loop, struct proxy *proxy, const struct own_pod_config *config, int own_netns_fd,
                struct own_pod **ret)
{
    struct own_pod *own = calloc(1, sizeof(*own));

    if (!own)
        return -ENOMEM;
    own->loop = loop;
    own->proxy = proxy;
    own->config = *config;
    own->own_netns_fd = own_netns_fd;
    snprintf(own->uid, sizeof(own->uid), "own:%s/%s", config->namespace, config->name);
    loop_timer_init(&own->retry, on_retry);
    open_listeners(own);
    *ret = own;
    return 0;
}

void own_pod_free(struct own_pod **ptr)
{
    own_pod_stop(*ptr);
    free(*ptr);
    *ptr = NULL;
}

void own_pod_stop(struct own_pod *own)
{
    if (!own)
        return;
    own->stopped = true;
    own->ready = own->dns_served = false;
    loop_timer_cancel(&own->retry);
}

void own_pod_start(struct own_pod *own)
{
    if (!own)
        return;
    own->stopped = false;
    open_listeners(own);
}

/* Several are told of one by one; all are looked at. */
void own_pod_listener_closed(struct own_pod *own)
{
    if (!own || own->stopped || !own->ready)
        return;
    own->ready = false;
    loop_timer_set(own->loop, &own->retry, 0);
}

bool own_pod_ready(const struct own_pod *own)
{
    return own && own->ready;
}
