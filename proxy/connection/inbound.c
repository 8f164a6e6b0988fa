/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of peers' tunnels (contract section 5.1): check, ask the policies, connect to the application,
 * answer. */
#include "proxy/connection/inbound.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/connection/admission.h"
#include "proxy/connection/demand.h"
#include "proxy/connection/proxy_header.h"
#include "proxy/hbone/request.h"
#include "proxy/hbone/stream.h"
#include "proxy/socket/socket.h"
#include "proxy/worker/connection_unit.h"

/* A stream's request until it is answered. */
struct inbound {
    struct request request;
    struct admission admission;
    bool proxy_header;        /* the application expects a PROXY header */
    struct endpoint original; /* the destination that it names */
};

static struct inbound *inbound_of(const struct stream *s)
{
    return container_of(s->request, struct inbound, request);
}

static struct stream *stream_of(const struct admission *a)
{
    return container_of(a->c, struct stream, c);
}

static void abandoned(struct stream *s)
{
    struct inbound *in = inbound_of(s);

    worker_wait_cancel(&in->admission.waiter);
    request_clear(&in->request);
    free(in);
    s->request = NULL;
}

/* The service's and the source's share of telemetry. A gateway's own address would say nothing about the
 * source. */
static int describe(struct stream *s, const struct workload *local, const struct inbound_target *target)
{
    struct worker *w = connection_worker(&s->c);
    const char *network = s->request->forwarded_network;
    bool from_gateway = network && strcasecmp(network, w->settings->network) != 0;
    const struct workload *source = NULL;
    struct trace_parent parent;
    int r;

    if (trace_parent_read(s->request->traceparent, strlen(s->request->traceparent), &parent))
        telemetry_trace(w->telemetry, &s->c.flow, &parent);
    if (!from_gateway)
        source = state_workload_by_address(w->state, &s->c.client.addr);
    if (source)
        workload_ref(source);
    workload_ref(local);
    r = connection_describe(&s->c, source, local, target->service, s->tunnel->tls.peer_identity,
                            s->request->baggage, s->request->authority);
    if (r < 0) {
        workload_unref(source);
        workload_unref(local);
        service_unref(target->service);
    }
    return r;
}

#define HEADERS_FREE 4096 /* what usual headers take is not counted */

/* Headers are held for as long as the answer takes: a policy, a pod, the application may have to be waited
 * for. */
static int count_headers(struct stream *s)
{
    struct request *request = s->request;

    if (request->header_bytes <= HEADERS_FREE)
        return 0;
    if (budget_take(&s->c.account, request->header_bytes) < 0)
        return -ENOBUFS;
    request->counted = request->header_bytes;
    return 0;
}

static void drop_request(struct stream *s)
{
    budget_give(&s->c.account, s->request->counted);
    abandoned(s);
}

static void answer(struct stream *s)
{
    struct tunnel *t = s->tunnel;
    uint8_t header[PROXY_HEADER_MAX];
    size_t header_len = 0;

    if (inbound_of(s)->proxy_header)
        header_len = proxy_header_format(&s->c.client, &inbound_of(s)->original, s->c.peer_identity, header);
    stream_open(s);
    if (s->state != STREAM_OPEN)
        return;
    if (t && tunnel_respond(t, s, 200) < 0) {
        stream_close(s, BRUMA_REASON_HTTP2_ERROR, NULL, true);
        return;
    }
    drop_request(s);
    stream_send_first(s, header, header_len);
    if (!t)
        stream_close(s, BRUMA_REASON_NONE, NULL, true); /* the peer has left meanwhile */
}

static void dial_failed(struct stream *s, int error)
{
    char buf[128];

    stream_refuse(s, 503, socket_reason(error), strerror_r(error < 0 ? -error : error, buf, sizeof(buf)));
}

static void dialed(struct stream *s)
{
    int r = socket_connect_result(s->fd);

    if (r == -EINPROGRESS)
        return;
    if (r < 0 && !socket_was_reset(r)) {
        dial_failed(s, r);
        return;
    }
    answer(s);
    if (r < 0)
        stream_application_reset(s);
}

void inbound_delivery(const struct connection *c, const struct workload *local, struct endpoint *ret_target,
                      const struct addr **ret_client)
{
    const struct proxy_settings *set = connection_worker(c)->settings;

    *ret_target = c->destination;
    *ret_client = set->original_source ? &c->client.addr : NULL;
    if (local->application_tunnel_protocol && set->localhost_application_tunnel) {
        addr_parse(addr_is_v4(&ret_target->addr) ? "127.0.0.1" : "::1", &ret_target->addr);
        *ret_client = NULL;
    }
}

static void dial(struct stream *s, const struct workload *local)
{
    struct worker *w = connection_worker(&s->c);
    const struct addr *client;
    struct endpoint target;
    bool connected;
    int fd;

    inbound_delivery(&s->c, local, &target, &client);
    fd = socket_deliver(s->c.wp, &target, client, &connected, &s->delivery_port);
    if (fd < 0) {
        dial_failed(s, fd);
        return;
    }
    s->fd = fd;
    s->state = STREAM_DIALING;
    if (connected) {
        answer(s);
        return;
    }
    if (stream_watch(s, EPOLLOUT) < 0) {
        dial_failed(s, -ENOMEM);
        return;
    }
    loop_timer_set(w->loop, &s->timer, w->settings->connect_timeout);
}

static void open_connection(struct admission *a)
{
    connection_open(a->c, &stream_of(a)->tunnel->arrival);
}

static void allowed(struct admission *a)
{
    const struct workload *local = worker_pod_workload(a->c->wp);

    dial(stream_of(a), local ? local : a->c->flow.destination);
}

static void refused(struct admission *a, int status, enum bruma_reason reason, const char *detail)
{
    stream_refuse(stream_of(a), status, reason, detail);
}

/* What listens there sees the proxy as its client, and the admin pages trust it. */
static bool asks_for_our_loopback(const struct stream *s)
{
    return s->c.wp->pod->own && addr_is_loopback(&s->tunnel->arrival.addr);
}

/* What the request asks for, and whose it is. */
static enum admission_step place(struct admission *a, bool timed_out)
{
    struct stream *s = stream_of(a);
    struct inbound *in = inbound_of(s);
    const struct request *request = &in->request;
    struct inbound_target target = {};
    const struct workload *local;
    enum admission_step step;
    char detail[256];
    int r;

    if (!admission_needs_workload(a, timed_out, &local, &step))
        return step;
    if (!demand_inbound(a, local, &s->tunnel->arrival, request->authority ? request->authority : "",
                        timed_out))
        return ADMISSION_WAITS;
    route_inbound(connection_worker(&s->c)->state, local, &s->tunnel->arrival, request->authority,
                  request->authority ? strlen(request->authority) : 0, request->forwarded,
                  request->forwarded ? strlen(request->forwarded) : 0, &target);
    if (target.status == 200 &&
        (worker_pod_listens(s->c.wp, target.target.port) || asks_for_our_loopback(s))) {
        target.status = 503;
        target.reason = BRUMA_REASON_SELF_CALL;
    }
    if (target.status != 200) {
        snprintf(detail, sizeof(detail), "authority \"%.200s\"",
                 request->authority ? request->authority : "");
        service_unref(target.service);
        stream_refuse(s, target.status, target.reason, detail);
        return ADMISSION_OVER;
    }
    s->c.destination = target.target;
    in->proxy_header = target.proxy_header;
    in->original = target.original;
    r = describe(s, local, &target);
    if (r < 0) {
        stream_refuse(s, 503, r == -ENOBUFS ? BRUMA_REASON_MEMORY_BUDGET : BRUMA_REASON_OUT_OF_RESOURCES,
                      NULL);
        return ADMISSION_OVER;
    }
    return ADMISSION_POLICIES;
}

static const struct admission_ops ops = {
    .place = place,
    .open = open_connection,
    .allowed = allowed,
    .refused = refused,
};

static void decide(struct stream *s)
{
    struct admission *a = &inbound_of(s)->admission;

    if (count_headers(s) < 0)
        stream_refuse(s, 503, BRUMA_REASON_MEMORY_BUDGET, NULL);
    else if (!admission_begin(a))
        worker_wait(&a->waiter);
}

static void give_up(struct stream *s)
{
    struct inbound *in = inbound_of(s);

    worker_wait_cancel(&in->admission.waiter);
    admission_init(&in->admission, &s->c, &ops);
    in->proxy_header = false;
    budget_give(&s->c.account, in->request.counted);
    in->request.counted = 0;
    if (s->fd >= 0) {
        socket_reset_on_close(s->fd);
        close(s->fd);
        socket_delivery_over(s->c.wp, s->delivery_port);
    }
    s->fd = -1;
    s->delivery_port = 0;
    connection_unopen(&s->c);
}

static void requested(struct stream *s)
{
    struct request *request = s->request;
    enum bruma_reason reason;

    if (!quota_allows(s->c.wp, &s->c.quota, &reason)) {
        stream_refuse(s, 503, reason, NULL);
    } else if (request->too_large) {
        stream_refuse(s, 431, BRUMA_REASON_BAD_AUTHORITY, "the header list is larger than 64 KiB");
    } else if (strcmp(request->method, "CONNECT") != 0) {
        char detail[64];

        snprintf(detail, sizeof(detail), "method %s", request->method);
        stream_refuse(s, 400, BRUMA_REASON_BAD_METHOD, detail);
    } else {
        decide(s);
    }
}

static const struct stream_events stream_events = {
    .requested = requested,
    .dialed = dialed,
    .give_up = give_up,
    .decide = decide,
    .abandoned = abandoned,
};

struct stream *inbound_begin(struct tunnel *t, int32_t id)
{
    struct inbound *in = calloc(1, sizeof(*in));
    struct stream *s = in ? stream_new(t->wp, &t->peer, &t->arrival, &stream_events) : NULL;

    if (!s) {
        free(in);
        return NULL;
    }
    s->id = id;
    s->request = &in->request;
    admission_init(&in->admission, &s->c, &ops);
    tunnel_add_stream(t, s);
    return s;
}
