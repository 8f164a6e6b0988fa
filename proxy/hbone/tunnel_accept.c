/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to port 15008 until their handshake begins: they wait for their pod to be known and to have a
 * certificate. */
#include <errno.h>
#include <stdlib.h>

#include "proxy/hbone/tunnel_internal.h"

struct accept_waiter {
    struct waiter waiter;
    struct handshake handshake;
    struct quota quota;
    struct worker_pod *wp;
    int fd;
    struct endpoint peer, arrival;
    tunnel_request_fn begin;
    bool waits; /* and is on the heap for it */
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
    if (a->waits)
        free(a);
    return true;
}

static void refuse(struct accept_waiter *a, enum bruma_reason reason)
{
    telemetry_early_deny(a->wp->worker->telemetry, REPORTER_DESTINATION, &a->peer, &a->arrival, reason, NULL);
    quota_release(a->wp, &a->peer.addr, &a->quota);
    close(a->fd);
}

static void wait(struct accept_waiter *now)
{
    struct worker_pod *wp = now->wp;
    struct accept_waiter *a;

    worker_connection_begin(wp);
    handshake_init(&now->handshake, evict_waiter);
    waiter_init(&now->waiter, wp, accept_check);
    if (accept_check(&now->waiter, false))
        return;
    a = malloc(sizeof(*a));
    if (!a) {
        refuse(now, BRUMA_REASON_OUT_OF_RESOURCES);
        worker_connection_end(wp);
        return;
    }
    *a = *now;
    a->waits = true;
    handshake_init(&a->handshake, evict_waiter);
    waiter_init(&a->waiter, wp, accept_check);
    waiter_set_time(&a->waiter, wp->worker->settings->source_timeout);
    worker_wait(&a->waiter);
    handshake_begin(wp, &a->handshake);
}

void tunnel_accept(struct worker_pod *wp, int fd, const struct endpoint *peer, const struct endpoint *arrival,
                   tunnel_request_fn begin)
{
    struct accept_waiter now = {.wp = wp, .fd = fd, .peer = *peer, .arrival = *arrival, .begin = begin};
    enum bruma_reason reason;

    quota_take(wp, &peer->addr, &now.quota);
    if (quota_allows(wp, &now.quota, &reason))
        wait(&now);
    else
        refuse(&now, reason);
}

void tunnel_accept_again(struct worker_pod *wp, int fd, const struct endpoint *peer,
                         const struct endpoint *arrival, tunnel_request_fn begin)
{
    struct accept_waiter now = {.wp = wp, .fd = fd, .peer = *peer, .arrival = *arrival, .begin = begin};

    quota_take(wp, &peer->addr, &now.quota);
    wait(&now);
}

bool tunnel_accept_waits(const struct handshake *h)
{
    return h->evict == evict_waiter;
}

int tunnel_accept_let_go(struct handshake *h, struct endpoint *ret_peer, struct endpoint *ret_arrival)
{
    struct accept_waiter *a = container_of(h, struct accept_waiter, handshake);
    struct worker_pod *wp;

    if (!tunnel_accept_waits(h))
        return tunnel_let_go(container_of(h, struct tunnel, handshake), ret_peer, ret_arrival);
    wp = a->wp;
    *ret_peer = a->peer;
    *ret_arrival = a->arrival;
    worker_wait_cancel(&a->waiter);
    handshake_end(wp, h);
    quota_release(wp, &a->peer.addr, &a->quota);
    worker_connection_end(wp);
    loop_free_later(wp->worker->loop, a);
    return a->fd;
}
