/* SPDX-License-Identifier: Apache-2.0 */
/* How a tunnel inside of a gateway's comes to be: a stream to carry it, and the gateway's answer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/hbone/inner_internal.h"
#include "proxy/hbone/pool.h"
#include "proxy/hbone/tunnel_internal.h"
#include "proxy/socket/socket.h"

/* The tunnel that it was to carry hears of it. */
static void fail(struct stream *s, enum bruma_reason reason, const char *detail)
{
    stream_close(s, reason, detail, true);
}

static void fail_errno(struct stream *s, int error)
{
    char buf[128];

    fail(s, socket_reason(error), strerror_r(-error, buf, sizeof(buf)));
}

/* The tunnel to the gateway. */
static int find_outer(struct stream *s, struct tls_context *context, struct tunnel **ret)
{
    const struct endpoint *target = &s->c.flow.destination_address;
    uint64_t hash = route_expected_hash(s->gateway, s->gateway_service);
    struct tls_expected expected = {s->gateway, s->gateway_service};

    *ret = pool_find(s->c.wp, target, hash, context->serial);
    if (*ret)
        return 0;
    workload_ref(expected.upstream);
    if (expected.service)
        service_ref(expected.service);
    return tunnel_dial(s->c.wp, target, context, &expected, hash, ret);
}

/* 0, or -errno: the carrier is as it was. */
static int go_through(struct stream *s, struct tls_context *context)
{
    struct worker *w = connection_worker(&s->c);
    struct tunnel *outer;
    int r = find_outer(s, context, &outer);

    if (r < 0)
        return r;
    if (outer->state != TUNNEL_OPEN) {
        s->state = STREAM_WAITING;
        tunnel_enqueue(outer, s);
        return 0;
    }
    s->state = STREAM_REQUESTED;
    s->status = 0;
    r = tunnel_request(outer, s);
    if (r == 0)
        loop_timer_set(w->loop, &s->timer, w->settings->answer_timeout);
    return r;
}

static void outer_ready(struct stream *s)
{
    struct tls_context *context = worker_pod_context(s->c.wp);
    int r;

    if (!context) {
        fail(s, BRUMA_REASON_IDENTITY_UNAVAILABLE, NULL);
        return;
    }
    r = go_through(s, context);
    tls_context_unref(context);
    if (r < 0)
        fail_errno(s, r);
}

/* A gateway that fails is left alone for a moment, whatever is behind it. */
static void outer_lost(struct stream *s, enum bruma_reason reason, const char *detail)
{
    struct worker *w = connection_worker(&s->c);

    switch (reason) {
    case BRUMA_REASON_CONNECT_REFUSED:
    case BRUMA_REASON_CONNECT_UNREACHABLE:
    case BRUMA_REASON_HBONE_BLOCKED:
    case BRUMA_REASON_TLS_HANDSHAKE_TIMEOUT:
        if (ejected_add(&w->ejected, &s->c.flow.destination_address, loop_now(w->loop),
                        w->settings->ejection_time, reason))
            telemetry_ejected(w->telemetry);
        break;
    default:
        break;
    }
    fail(s, reason, detail);
}

static enum bruma_reason reason_of_status(int status)
{
    return status == 400 || status == 401 || status == 403 ? BRUMA_REASON_GATEWAY_REJECTED
                                                           : BRUMA_REASON_GATEWAY_UNAVAILABLE;
}

static void answered(struct stream *s, int status)
{
    struct worker *w = connection_worker(&s->c);
    char text[64];

    if (status >= 100 && status < 200)
        return;
    if (status != 200) {
        snprintf(text, sizeof(text), "it answered CONNECT with status %d", status);
        fail(s, reason_of_status(status), text);
        return;
    }
    ejected_forget(&w->ejected, &s->c.flow.destination_address);
    stream_open(s);
    if (tunnel_stream_start(s->tunnel, s) < 0) {
        fail(s, BRUMA_REASON_HTTP2_ERROR, NULL);
        return;
    }
    s->inner->begin = true;
    inner_wake(s->inner);
}

static void outer_late(struct stream *s)
{
    (void)s; /* the outer tunnel has its own time */
}

static const struct stream_events carrier_events = {
    .tunnel_ready = outer_ready,
    .tunnel_lost = outer_lost,
    .answered = answered,
    .tunnel_late = outer_late,
};

/* It stands for the connection that needs it first. */
static int describe(struct stream *carrier, const struct stream *s, const struct endpoint *target)
{
    int r;

    workload_ref(s->c.flow.source);
    service_ref(s->c.flow.service);
    r = connection_describe(&carrier->c, s->c.flow.source, NULL, s->c.flow.service, NULL, NULL,
                            s->c.flow.hbone_authority);
    if (r < 0) {
        workload_unref(s->c.flow.source);
        service_unref(s->c.flow.service);
        return r;
    }
    carrier->c.flow.source_address = s->c.client;
    carrier->c.flow.destination_address = *target;
    workload_ref(s->gateway);
    carrier->gateway = s->gateway;
    if (s->gateway_service)
        service_ref(s->gateway_service);
    carrier->gateway_service = s->gateway_service;
    return 0;
}

static struct tunnel *new_tunnel(const struct stream *s, struct inner *inner, const struct endpoint *target,
                                 struct tls_context *context, uint64_t hash)
{
    struct worker_pod *wp = s->c.wp;
    struct tunnel *t = tunnel_new(wp, false);

    if (!t)
        return NULL;
    if (tls_init(&t->tls, context, &wp->worker->tls, -1, false) < 0) {
        free(t);
        return NULL;
    }
    t->tls.account.share = &wp->memory;
    t->tls.carrier = &inner->transport;
    t->tls.expected.service = s->expected_service;
    service_ref(s->expected_service);
    t->tls_ready = true;
    t->peer = *target;
    t->expected_hash = hash;
    t->context_serial = context->serial;
    t->state = TUNNEL_CONNECTING;
    t->inner = inner;
    inner->tunnel = t;
    pool_add(wp, t);
    worker_connection_begin(wp);
    return t;
}

static int dial(struct stream *s, const struct endpoint *target, struct tls_context *context, uint64_t hash,
                struct tunnel **ret)
{
    struct inner *inner = inner_new(s->c.wp->worker);
    struct stream *carrier;
    int r;

    if (!inner)
        return -ENOMEM;
    carrier = stream_new_carrier(s->c.wp, &s->c.client, inner, &carrier_events);
    if (!carrier) {
        inner_free_if_over(inner);
        return -ENOMEM;
    }
    inner->stream = carrier;
    r = describe(carrier, s, target);
    if (r == 0)
        r = go_through(carrier, context);
    if (r == 0 && !new_tunnel(s, inner, target, context, hash))
        r = -ENOMEM;
    if (r < 0) {
        stream_close(carrier, BRUMA_REASON_NONE, NULL, true); /* and what is between */
        return r;
    }
    *ret = inner->tunnel;
    return 0;
}

int inner_find(struct stream *s, const struct endpoint *target, struct tls_context *context,
               struct tunnel **ret)
{
    uint64_t hash = route_inner_hash(s->expected_service, s->c.flow.hbone_authority,
                                     route_expected_hash(s->gateway, s->gateway_service));

    *ret = pool_find_spread(s->c.wp, target, hash, context->serial, s->spread);
    return *ret ? 0 : dial(s, target, context, hash, ret);
}
