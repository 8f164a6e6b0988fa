/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to port 15008 until their handshake begins: they wait for their pod to be known and to have a
 * certificate. */
#include <errno.h>
#include <stdlib.h>

#include "proxy/hbone/tunnel.h"

struct accept_waiter {
    struct waiter waiter;
    struct handshake handshake;
    struct quota quota;
    struct worker_pod *wp;
    int fd;
    struct endpoint peer, arrival;
    tunnel_request_fn begin;
};

static void evict_waiter(struct handshake *h)
{
    struct accept_waiter *a = container_of(h, struct accept_waiter, handshake);
    struct worker_pod *wp = a->wp;

    worker_wait_cancel(&a->waiter);
    handshake_end(wp, h);
    quota_release(wp, &a->peer.addr, &a->quota);
    telemetry_early_deny(wp->worker->telemetry, REPORTER_DESTINATION, &a->peer, &a->arrival,
                         BRUMA_REASON_HANDSHAKE_EVICTED, NULL);
    close(a->fd);
    worker_connection_end(wp);
    loop_free_later(wp->worker->loop, a);
}

static bool accept_check(struct waiter *waiter, bool timed_out)
{
    struct accept_waiter *a = container_of(waiter, struct accept_waiter, waiter);
    struct worker_pod *wp = a->wp;
    struct tls_context *context = worker_pod_context(wp);
    bool known = worker_pod_workload(wp) != NULL;
    char why[256] = "";
    int r = 0;

    if ((!context || !known) && !timed_out && !(known && worker_pod_identity_failed(wp, why, sizeof(why)))) {
        tls_context_unref(context);
        if (list_empty(&a->handshake.node))
            handshake_begin(wp, &a->handshake);
        return false;
    }
    handshake_end(wp, &a->handshake);
    quota_release(wp, &a->peer.addr, &a->quota);
    if (context && known)
        r = tunnel_start_server(wp, a->fd, &a->peer, &a->arrival, context, a->begin);
    else
        telemetry_early_deny(wp->worker->telemetry, REPORTER_DESTINATION, &a->peer, &a->arrival,
                             known ? BRUMA_REASON_IDENTITY_UNAVAILABLE : BRUMA_REASON_SOURCE_UNKNOWN,
                             why[0] ? why : NULL);
    if (!context || !known || r < 0)
        close(a->fd);
    tls_context_unref(context);
    worker_connection_end(wp);
    free(a);
    return true;
}

void tunnel_accept(struct worker_pod *wp, int fd, const struct endpoint *peer, const struct endpoint *arrival,
                   tunnel_request_fn begin)
{
    struct accept_waiter *a = calloc(1, sizeof(*a));
    enum bruma_reason reason;

    if (!a) {
        close(fd);
        return;
    }
    *a = (struct accept_waiter){.wp = wp, .fd = fd, .peer = *peer, .arrival = *arrival, .begin = begin};
    handshake_init(&a->handshake, evict_waiter);
    quota_take(wp, &peer->addr, &a->quota);
    if (!quota_allows(wp, &a->quota, &reason)) {
        telemetry_early_deny(wp->worker->telemetry, REPORTER_DESTINATION, peer, arrival, reason, NULL);
        quota_release(wp, &peer->addr, &a->quota);
        close(fd);
        free(a);
        return;
    }
    worker_connection_begin(wp);
    worker_wait(wp, &a->waiter, wp->worker->settings->source_timeout, accept_check);
}
