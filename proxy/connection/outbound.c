/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of a pod's applications (contract section 4): decide, find a tunnel, ask the other side. */
#include "proxy/connection/outbound.h"

#include <errno.h>
#include <string.h>

#include "bruma/mesh.h"
#include "proxy/connection/demand.h"
#include "proxy/connection/hostname.h"
#include "proxy/connection/outbound_gateway.h"
#include "proxy/connection/outbound_policy.h"
#include "proxy/connection/pending.h"
#include "proxy/connection/retry.h"
#include "proxy/connection/same_node.h"
#include "proxy/dns/dns.h"
#include "proxy/hbone/inner.h"
#include "proxy/hbone/pool.h"
#include "proxy/hbone/stream.h"
#include "proxy/socket/socket.h"
#include "proxy/state/hash.h"
#include "proxy/state/rcu.h"

#define ATTEMPTS_MAX         3
#define FOREIGN_MILLISECONDS 500

static enum admission_step place(struct admission *a, bool timed_out);
static bool stream_elsewhere(struct stream *s, enum bruma_reason reason);

static const struct admission_ops ops = {.place = place, .refused = pending_refused};

static void fail_errno(struct stream *s, enum bruma_reason reason, int error)
{
    char buf[128];

    if (stream_elsewhere(s, reason))
        return;
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

static int find_direct(struct stream *s, const struct endpoint *target, struct tls_context *context,
                       struct tunnel **ret)
{
    uint64_t hash = route_expected_hash(s->c.flow.destination, s->expected_service);
    struct tls_expected expected = {s->c.flow.destination, s->expected_service};

    *ret = pool_find(s->c.wp, target, hash, context->serial);
    if (*ret)
        return 0;
    workload_ref(expected.upstream);
    if (expected.service)
        service_ref(expected.service);
    return tunnel_dial(s->c.wp, target, context, &expected, hash, ret);
}

/* To where the flow goes, which was found out before the connection was opened. */
static void find_tunnel(struct stream *s)
{
    struct worker_pod *wp = s->c.wp;
    const struct endpoint *target = &s->c.flow.destination_address;
    struct tls_context *context = worker_pod_context(wp);
    struct tunnel *t;
    int r;

    if (!context) {
        char why[256];

        worker_pod_identity_failed(wp, why, sizeof(why));
        stream_close(s, BRUMA_REASON_IDENTITY_UNAVAILABLE, why[0] ? why : NULL, true);
        return;
    }
    s->state = STREAM_WAITING;
    s->attempts++;
    r = s->gateway ? inner_find(s, target, context, &t) : find_direct(s, target, context, &t);
    tls_context_unref(context);
    if (r < 0)
        fail_errno(s, socket_reason(r), r);
    else if (t->state == TUNNEL_OPEN)
        request(s, t);
    else {
        tunnel_enqueue(t, s);
        if (retry_patience(&s->c) && !loop_timer_armed(&s->timer))
            loop_timer_set(connection_worker(&s->c)->loop, &s->timer, retry_patience(&s->c));
    }
}

static void tunnel_ready(struct stream *s)
{
    s->attempts--; /* the attempt goes on: it is counted again below */
    find_tunnel(s);
}

/*
 * Nothing of the application has been sent before the answer, so another tunnel may be tried: the peer may
 * just have closed the pooled one. Failures of a fresh tunnel (refused, untrusted ...) would only repeat
 * themselves; some of them would not at another endpoint.
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
    if (stream_elsewhere(s, reason == BRUMA_REASON_NONE ? BRUMA_REASON_HTTP2_ERROR : reason))
        return;
    s->state = STREAM_REQUESTED;
    stream_close(s, reason == BRUMA_REASON_NONE ? BRUMA_REASON_HTTP2_ERROR : reason, detail, true);
}

/* Its own time is over: another endpoint is tried if there is one, and if not, it waits on. */
static void tunnel_late(struct stream *s)
{
    stream_elsewhere(s, s->tunnel && s->tunnel->state == TUNNEL_HANDSHAKING
                            ? BRUMA_REASON_TLS_HANDSHAKE_TIMEOUT
                            : BRUMA_REASON_HBONE_BLOCKED);
}

static void answered(struct stream *s, int status)
{
    struct tunnel *t = s->tunnel;
    char text[REJECTED_TEXT_LEN];

    if (status == 200) {
        if (s->gateway && outbound_gateway_answered(s) < 0) {
            stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
            return;
        }
        retry_over(&s->c);
        connection_served(&s->c);
        stream_open(s);
        if (s->state == STREAM_OPEN && tunnel_stream_start(t, s) < 0)
            stream_close(s, BRUMA_REASON_HTTP2_ERROR, NULL, true);
        return;
    }
    if (status >= 100 && status < 200)
        return;
    /* 503 is said before the application was reached; everything else is a decision. */
    if (status == 503 && stream_elsewhere(s, BRUMA_REASON_CONNECT_REJECTED))
        return;
    stream_close(s, BRUMA_REASON_CONNECT_REJECTED, retry_rejected_text(status, text), true);
}

static const struct stream_events stream_events = {
    .tunnel_ready = tunnel_ready,
    .tunnel_lost = tunnel_lost,
    .answered = answered,
    .tunnel_late = tunnel_late,
};

/* What the route refers to is the connection's from here on. */
static int describe(struct pending *p, const struct workload *local, struct route *route,
                    const struct same_node_way *way)
{
    bool mesh = route->kind == ROUTE_HBONE;
    int r;

    /* an endpoint before this one may have been of this node, and this one may not */
    tls_context_unref(p->c.peer_certificate);
    p->c.peer_certificate = NULL;
    p->c.flow.same_node = way != NULL;
    if (route->gateway)
        return outbound_gateway_describe(&p->c, local, route);
    workload_ref(local);
    r = connection_describe(&p->c, local, route->upstream, route->service,
                            mesh ? route->upstream->identity : NULL, NULL,
                            mesh && !way ? route->authority : NULL);
    if (r < 0) {
        workload_unref(local);
        return r;
    }
    route->upstream = NULL;
    route->service = NULL;
    p->c.endpoint = route->endpoint;
    connection_open(&p->c, way ? &way->target : &route->target);
    return 0;
}

static void go_tunnel(struct pending *p, struct route *route)
{
    struct stream *s = stream_take(&p->c, p->fd, &stream_events);

    if (!s) {
        pending_refuse(p, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
        return;
    }
    pending_over(p);
    s->expected_service = route->expected_service;
    route->expected_service = NULL;
    if (route->gateway)
        outbound_gateway_take(s, route);
    find_tunnel(s);
}

static bool relay_elsewhere(struct connection *c, int fd, enum bruma_reason reason);

static void go_same_node(struct pending *p, struct same_node_way *way)
{
    if (same_node_start(&p->c, p->fd, way, relay_elsewhere) < 0)
        pending_refuse(p, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
    else
        pending_over(p);
}

static void go(struct pending *p, const struct workload *local, struct route *route)
{
    struct same_node_way way = {};
    bool same_node = same_node_find(&p->c, route, &way);

    if (describe(p, local, route, same_node ? &way : NULL) < 0)
        pending_refuse(p, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
    else if (same_node)
        go_same_node(p, &way);
    else if (route->kind == ROUTE_HBONE)
        go_tunnel(p, route);
    else
        pending_relay(p, &route->target, relay_elsewhere);
    same_node_release(&way);
}

/* ---- another endpoint ---- */

/* route was chosen by retry_elsewhere(). One with a hostname may have to wait for its address: it is decided
 * upon as at first, still without those that have failed. */
static void go_again(struct pending *p, struct route *route)
{
    bool has_name = route->hostname != NULL;

    if (!has_name)
        go(p, worker_pod_source(p->c.wp), route);
    route_release(route);
    if (has_name)
        pending_decide(p);
}

static bool stream_elsewhere(struct stream *s, enum bruma_reason reason)
{
    int fd = s->fd;
    struct route route;
    struct pending p;

    if (!retry_elsewhere(&s->c, reason, &route))
        return false;
    stream_abandon(s);
    pending_again(&p, &ops, fd, &s->c);
    loop_free_later(p.c.wp->worker->loop, s);
    go_again(&p, &route);
    return true;
}

static bool relay_elsewhere(struct connection *c, int fd, enum bruma_reason reason)
{
    struct route route;
    struct pending p;

    if (!retry_elsewhere(c, reason, &route))
        return false;
    pending_again(&p, &ops, fd, c);
    go_again(&p, &route);
    return true;
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
static bool is_to_itself(const struct connection *c)
{
    const struct addr *to = &c->destination.addr;
    struct worker_pod *wp = c->wp;
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

/* ---- where to ---- */

static void find_route(struct pending *p, const struct workload *local, struct route *ret)
{
    uint64_t random;

    if (!p->choice)
        p->choice = hash_pair(worker_random(connection_worker(&p->c)), 1) | 1; /* a sequence of its own */
    random = p->choice;
    if (is_to_itself(&p->c))
        *ret = (struct route){.kind = ROUTE_PASSTHROUGH, .target = p->c.destination};
    else
        retry_route(&p->c, local, &random, ret);
}

enum look {
    LOOK_FIRST, /* at this endpoint */
    LOOK_AGAIN, /* something that was waited for may be there */
    LOOK_LAST,  /* nothing is waited for any longer */
};

/* Where the route says, if nothing is missing. True: it has to be found again, without what has failed. */
static bool follow(struct pending *p, const struct workload *local, struct route *route, enum look look,
                   enum admission_step *ret_step)
{
    struct worker_pod *wp = p->c.wp;
    enum hostname_step name = HOSTNAME_KNOWN;
    char detail[160];

    *ret_step = ADMISSION_OVER;
    if (route->kind == ROUTE_HBONE && look == LOOK_FIRST && worth_waiting(wp)) {
        waiter_set_time(&p->admission.waiter, wp->worker->settings->source_timeout);
        *ret_step = ADMISSION_WAITS;
        return false;
    }
    if (route->kind == ROUTE_FAILED) {
        pending_refuse(p, route->reason, route->detail[0] ? route->detail : NULL);
        return false;
    }
    if (route->kind == ROUTE_PASSTHROUGH && outbound_policy_refuses(&p->c, local, detail, sizeof(detail))) {
        pending_refuse(p, BRUMA_REASON_DESTINATION_UNKNOWN, detail);
        return false;
    }
    if (route->kind == ROUTE_HBONE && !worker_pod_workload(wp) && !rcu_read(wp->pod->identity)) {
        /* not even its trust domain is known, so nobody was asked for a certificate */
        pending_refuse(p, BRUMA_REASON_SOURCE_UNKNOWN, NULL);
        return false;
    }
    if (route->hostname)
        name = hostname_resolve(p, local, route, look == LOOK_LAST);
    if (name == HOSTNAME_KNOWN)
        go(p, local, route);
    else if (name == HOSTNAME_WAITS)
        *ret_step = ADMISSION_WAITS;
    return name == HOSTNAME_ELSEWHERE;
}

/* Destinations outside the mesh wait for nothing, those in it for the pod's certificate alone; where to is
 * looked up again behind that. Who the pod is the agent has told; the mesh may learn of it later. */
static enum admission_step place(struct admission *a, bool timed_out)
{
    struct pending *p = pending_of(a);
    struct worker_pod *wp = p->c.wp;
    const struct workload *local = worker_pod_source(wp);
    enum look look = timed_out ? LOOK_LAST : p->waits && !a->looks ? LOOK_AGAIN : LOOK_FIRST;
    enum admission_step step;
    bool again = true;

    if (p->waits && !p->names && !a->looks && !timed_out && worth_waiting(wp))
        return ADMISSION_WAITS;
    if (!demand_destination(p, local, timed_out, &step))
        return step;
    while (again) {
        struct route route;

        find_route(p, local, &route);
        again = false;
        if (demand_route(p, &route, timed_out, &step)) {
            a->looks = false;
            again = follow(p, local, &route, look, &step);
        }
        look = LOOK_FIRST;
        route_release(&route);
    }
    return step;
}

/*
 * Captured connections carry their true destination; one that names this pod has dialed the listener itself.
 * An address that nobody has named, such as a second network's, is the pod's if its kernel says so: we would
 * come to ourselves, in a circle that ends with the last descriptor. "Any address", which a client can say
 * where it is asked for one, is loopback to connect().
 */
static bool is_self_call(struct worker_pod *wp, const struct endpoint *destination)
{
    static const struct addr any4 = {{[10] = 0xff, [11] = 0xff}};
    const struct addr *to = &destination->addr;

    return addr_is_loopback(to) || addr_is_none(to) || addr_equal(to, &any4) ||
           pod_has_address(wp->pod, to) ||
           (worker_pod_listens(wp, destination->port) && socket_address_is_local(wp->worker, wp->pod, to));
}

static void decide(struct pending *p)
{
    if (is_self_call(p->c.wp, &p->c.destination))
        pending_refuse(p, BRUMA_REASON_SELF_CALL, NULL);
    else
        pending_decide(p);
}

/* fd: the application's connection, or one end of a pair of sockets whose other end asks DNS for it. */
static void begin_for(struct worker_pod *wp, int fd, const struct endpoint *client,
                      const struct endpoint *destination, struct connection_news *news)
{
    enum bruma_reason reason;
    struct pending p;

    pending_init(&p, wp, &ops, false, fd, client, destination);
    p.c.news = news;
    if (quota_allows(wp, &p.c.quota, &reason))
        decide(&p);
    else
        pending_refuse(&p, reason, NULL);
}

void outbound_accept_again(struct worker_pod *wp, int fd, const struct endpoint *client,
                           const struct endpoint *destination, const struct connection_past *past)
{
    struct pending p;

    pending_init(&p, wp, &ops, false, fd, client, destination);
    connection_remember(&p.c, past);
    decide(&p);
}

static void begin(struct worker_pod *wp, int fd, const struct endpoint *client,
                  const struct endpoint *destination)
{
    begin_for(wp, fd, client, destination, NULL);
}

void outbound_accept_told(struct worker_pod *wp, int fd, const struct endpoint *client,
                          const struct endpoint *destination, struct connection_news *news)
{
    begin_for(wp, fd, client, destination, news);
}

void outbound_accept(struct worker_pod *wp, int fd, const struct endpoint *client,
                     const struct endpoint *destination)
{
    if (destination->port == BRUMA_PORT_DNS && dns_pod_serves(wp->dns))
        dns_stream_accept(wp->dns, fd, client, destination, begin);
    else
        begin(wp, fd, client, destination);
}

void outbound_accept_dns(struct worker_pod *wp, int fd, const struct endpoint *client,
                         const struct endpoint *destination)
{
    if (destination->port == BRUMA_PORT_DNS_LISTEN || !wp->dns) {
        close(fd); /* it has dialed the listener itself */
        return;
    }
    dns_stream_accept(wp->dns, fd, client, destination, begin);
}
