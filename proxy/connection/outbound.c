/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of a pod's applications (contract section 4): decide, find a tunnel, ask the other side. */
#include "proxy/connection/outbound.h"

#include <errno.h>
#include <string.h>

#include "proxy/connection/relay.h"
#include "proxy/hbone/pool.h"
#include "proxy/hbone/stream.h"
#include "proxy/socket/socket.h"
#include "proxy/state/rcu.h"

#define ATTEMPTS_MAX         3
#define FOREIGN_MILLISECONDS 500

static void fail_errno(struct stream *s, enum bruma_reason reason, int error)
{
    char buf[128];

    stream_close(s, reason, strerror_r(error < 0 ? -error : error, buf, sizeof(buf)), true);
}

static void tunnel_lost(struct stream *s, enum bruma_reason reason, const char *detail);

/* Sends CONNECT on an open tunnel. */
static void request(struct stream *s, struct tunnel *t)
{
    int r;

    s->state = STREAM_REQUESTED;
    s->status = 0;
    r = tunnel_request(t, s);
    if (r < 0)
        tunnel_lost(s, BRUMA_REASON_HTTP2_ERROR, "CONNECT could not be sent");
    else
        loop_timer_set(connection_worker(&s->c)->loop, &s->timer,
                       connection_worker(&s->c)->settings->answer_timeout);
}

static void find_tunnel(struct stream *s)
{
    struct worker_pod *wp = s->c.wp;
    struct tls_context *context = worker_pod_context(wp);
    uint64_t hash = route_expected_hash(s->route.upstream, s->route.expected_service);
    struct tunnel *t;
    int r = 0;

    if (!context) {
        char why[256];

        worker_pod_identity_failed(wp, why, sizeof(why));
        stream_close(s, BRUMA_REASON_IDENTITY_UNAVAILABLE, why[0] ? why : NULL, true);
        return;
    }
    s->state = STREAM_WAITING;
    s->attempts++;
    t = pool_find(wp, &s->route.target, hash, context->serial);
    if (!t) {
        struct tls_expected expected = {s->route.upstream, s->route.expected_service};

        workload_ref(expected.upstream);
        if (expected.service)
            service_ref(expected.service);
        r = tunnel_dial(wp, &s->route.target, context, &expected, hash, &t);
    }
    tls_context_unref(context);
    if (r < 0)
        fail_errno(s, socket_reason(r), r);
    else if (t->state == TUNNEL_OPEN)
        request(s, t);
    else
        tunnel_enqueue(t, s);
}

static void tunnel_ready(struct stream *s)
{
    s->attempts--; /* the attempt goes on: it is counted again below */
    find_tunnel(s);
}

/*
 * Nothing of the application has been sent before the answer, so another tunnel may be tried: the peer may
 * just have closed the pooled one. Failures of a fresh tunnel (refused, untrusted ...) would only repeat
 * themselves.
 */
static void tunnel_lost(struct stream *s, enum bruma_reason reason, const char *detail)
{
    bool again = reason == BRUMA_REASON_HTTP2_ERROR || reason == BRUMA_REASON_NONE ||
                 reason == BRUMA_REASON_PEER_RESET || reason == BRUMA_REASON_TUNNEL_PING_TIMEOUT;

    loop_timer_cancel(&s->timer);
    if (again && s->attempts < ATTEMPTS_MAX && !s->c.wp->deleted) {
        find_tunnel(s);
        return;
    }
    s->state = STREAM_REQUESTED;
    stream_close(s, reason == BRUMA_REASON_NONE ? BRUMA_REASON_HTTP2_ERROR : reason, detail, true);
}

static void answered(struct stream *s, int status)
{
    struct tunnel *t = s->tunnel;
    char text[64];

    if (status == 200) {
        stream_open(s);
        if (s->state == STREAM_OPEN && tunnel_stream_start(t, s) < 0)
            stream_close(s, BRUMA_REASON_HTTP2_ERROR, NULL, true);
        return;
    }
    if (status >= 100 && status < 200)
        return;
    snprintf(text, sizeof(text), "the peer answered CONNECT with status %d", status);
    stream_close(s, BRUMA_REASON_CONNECT_REJECTED, text, true);
}

/* Plain destinations leave the stream: two sockets and no tunnel. */
static void go_plain(struct stream *s, const struct workload *local)
{
    struct relay_request request = {
        .wp = s->c.wp,
        .fd = s->fd,
        .inbound = false,
        .client = s->c.client,
        .destination = s->c.destination,
        .target = s->route.target,
        .source = local,
        .upstream = s->route.upstream,
        .service = s->route.service,
    };

    if (s->route.upstream)
        workload_ref(s->route.upstream);
    if (s->route.service)
        service_ref(s->route.service);
    workload_ref(local);
    s->fd = -1;
    stream_close(s, BRUMA_REASON_NONE, NULL, false);
    relay_start(&request);
}

static void go_tunnel(struct stream *s, const struct workload *local)
{
    workload_ref(local);
    workload_ref(s->route.upstream);
    if (s->route.service)
        service_ref(s->route.service);
    if (connection_describe(&s->c, local, s->route.upstream, s->route.service, s->route.upstream->identity,
                            NULL, s->route.authority) < 0) {
        workload_unref(local);
        workload_unref(s->route.upstream);
        service_unref(s->route.service);
        stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
        return;
    }
    connection_open(&s->c, &s->route.target);
    find_tunnel(s);
}

static bool worth_waiting(struct worker_pod *wp)
{
    struct tls_context *context = worker_pod_context(wp);
    char why[256];

    tls_context_unref(context);
    return !context && !worker_pod_identity_failed(wp, why, sizeof(why));
}

/*
 * To an address of the pod's own that its network has not named, such as a virtual one. It is the pod's
 * although the mesh may know the address too: as that of a service that several pods serve, or of the pod
 * that had it before. The kernel is not asked for each connection: that an address is not the pod's holds for
 * a moment.
 */
static bool is_to_itself(struct stream *s)
{
    const struct addr *to = &s->c.destination.addr;
    struct worker_pod *wp = s->c.wp;
    struct worker *w = wp->worker;
    uint32_t hash = 0;
    size_t at;

    if (wp->pod->redirected)
        return false; /* the rules leave such connections alone */
    for (size_t i = 0; i < sizeof(to->bytes); i++)
        hash = hash * 31 + to->bytes[i];
    at = hash % WORKER_FOREIGN;
    if (loop_now(w->loop) < wp->foreign[at].until && addr_equal(&wp->foreign[at].addr, to))
        return false;
    if (socket_address_is_local(w, wp->pod, to))
        return true;
    wp->foreign[at].addr = *to;
    wp->foreign[at].until = loop_now(w->loop) + FOREIGN_MILLISECONDS;
    return false;
}

/* Destinations outside the mesh wait for nothing, those in it for the pod's certificate alone. Who the pod is
 * the agent has told; the mesh may learn of it later. */
static bool check(struct waiter *waiter, bool timed_out)
{
    struct stream *s = container_of(waiter, struct stream, waiter);
    const struct workload *local = worker_pod_source(s->c.wp);
    struct worker *w = connection_worker(&s->c);

    if (!s->routed && is_to_itself(s))
        s->route = (struct route){.kind = ROUTE_PASSTHROUGH, .target = s->c.destination};
    else if (!s->routed)
        route_outbound(w->state, local, &s->c.destination, &w->random, &s->route);
    s->routed = true;
    switch (s->route.kind) {
    case ROUTE_FAILED:
        stream_close(s, s->route.reason, s->route.detail[0] ? s->route.detail : NULL, true);
        break;
    case ROUTE_PASSTHROUGH:
    case ROUTE_TCP:
        go_plain(s, local);
        break;
    case ROUTE_HBONE:
        if (!timed_out && worth_waiting(s->c.wp))
            return false;
        if (!worker_pod_workload(s->c.wp) && !rcu_read(s->c.wp->pod->identity))
            /* not even its trust domain is known, so nobody was asked for a certificate */
            stream_close(s, BRUMA_REASON_SOURCE_UNKNOWN, NULL, true);
        else
            go_tunnel(s, local);
        break;
    }
    return true;
}

static const struct stream_events events = {
    .tunnel_ready = tunnel_ready,
    .tunnel_lost = tunnel_lost,
    .answered = answered,
};

void outbound_accept(struct worker_pod *wp, int fd, const struct endpoint *client,
                     const struct endpoint *destination)
{
    struct stream *s = stream_new(wp, false, fd, client, destination, &events);
    enum bruma_reason reason;

    if (!s) {
        close(fd);
        return;
    }
    if (!quota_allows(wp, &s->c.quota, &reason)) {
        stream_close(s, reason, NULL, true);
        return;
    }
    /* Captured connections carry their true destination; one that names this pod has dialed the listener
     * itself. */
    if (addr_is_loopback(&destination->addr) || pod_has_address(wp->pod, &destination->addr)) {
        stream_close(s, BRUMA_REASON_SELF_CALL, NULL, true);
        return;
    }
    worker_wait(wp, &s->waiter, wp->worker->settings->source_timeout, check);
}
