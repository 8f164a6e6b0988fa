/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of peers' tunnels (contract section 5.1): check, ask the policies, connect to the application,
 * answer. */
#include "proxy/connection/inbound.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "proxy/connection/proxy_header.h"
#include "proxy/hbone/request.h"
#include "proxy/hbone/stream.h"
#include "proxy/socket/socket.h"

/* The service's and the source's share of telemetry. A gateway's own address would say nothing about the
 * source. */
static int describe(struct stream *s, const struct workload *local, const struct inbound_target *target)
{
    struct worker *w = connection_worker(&s->c);
    const char *network = s->request->forwarded_network;
    bool from_gateway = network && strcasecmp(network, w->settings->network) != 0;
    const struct workload *source = NULL;
    int r;

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
    request_free(s->request);
    s->request = NULL;
}

static void answer(struct stream *s)
{
    struct tunnel *t = s->tunnel;
    uint8_t header[PROXY_HEADER_MAX];
    size_t header_len = 0;

    if (s->proxy_header)
        header_len = proxy_header_format(&s->c.client, &s->original, s->c.peer_identity, header);
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

static void dial(struct stream *s, const struct workload *local)
{
    struct worker *w = connection_worker(&s->c);
    const struct proxy_settings *set = w->settings;
    struct endpoint target = s->c.destination;
    const struct addr *client = set->original_source ? &s->c.client.addr : NULL;
    bool connected;
    int fd;

    if (local->application_tunnel_protocol && set->localhost_application_tunnel) {
        addr_parse(addr_is_v4(&target.addr) ? "127.0.0.1" : "::1", &target.addr);
        client = NULL;
    }
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
    loop_timer_set(w->loop, &s->timer, set->connect_timeout);
}

/* Waits a while for policies that the workload names and that are not there: denying at once would fail the
 * first connections of a new pod, and passing them would fail open. */
static bool decide(struct waiter *waiter, bool timed_out)
{
    struct stream *s = container_of(waiter, struct stream, waiter);
    const struct workload *local = worker_pod_workload(s->c.wp);
    enum bruma_reason reason;
    char detail[256];

    switch (connection_authorize(&s->c, timed_out, &reason, detail, sizeof(detail))) {
    case CONNECTION_UNDECIDED:
        telemetry_policy_wait(connection_worker(&s->c)->telemetry, &s->policy_waited);
        return false;
    case CONNECTION_ALLOWED:
        connection_open(&s->c, &s->tunnel->arrival);
        dial(s, local ? local : s->c.flow.destination);
        break;
    case CONNECTION_DENIED:
        connection_open(&s->c, &s->tunnel->arrival);
        stream_refuse(s, 401, reason, detail);
        break;
    }
    return true;
}

static void authorize(struct stream *s, const struct workload *local)
{
    struct request *request = s->request;
    struct tunnel *t = s->tunnel;
    struct inbound_target target = {};
    char detail[256];
    int r;

    route_inbound(connection_worker(&s->c)->state, local, &t->arrival, request->authority,
                  request->authority ? strlen(request->authority) : 0, request->forwarded,
                  request->forwarded ? strlen(request->forwarded) : 0, &target);
    if (target.status == 200 && worker_pod_listens(s->c.wp, target.target.port)) {
        target.status = 503;
        target.reason = BRUMA_REASON_SELF_CALL;
    }
    if (target.status != 200) {
        snprintf(detail, sizeof(detail), "authority \"%.200s\"",
                 request->authority ? request->authority : "");
        service_unref(target.service);
        stream_refuse(s, target.status, target.reason, detail);
        return;
    }
    s->c.destination = target.target;
    s->proxy_header = target.proxy_header;
    s->original = target.original;
    r = describe(s, local, &target);
    if (r < 0) {
        stream_refuse(s, 503, r == -ENOBUFS ? BRUMA_REASON_MEMORY_BUDGET : BRUMA_REASON_OUT_OF_RESOURCES,
                      NULL);
        return;
    }
    worker_wait(s->c.wp, &s->waiter, connection_worker(&s->c)->settings->policy_timeout, decide);
}

static bool check(struct waiter *waiter, bool timed_out)
{
    struct stream *s = container_of(waiter, struct stream, waiter);
    const struct workload *local = worker_pod_workload(s->c.wp);

    if (!local && !timed_out)
        return false;
    s->state = STREAM_DIALING; /* no longer waiting */
    if (local)
        authorize(s, local);
    else
        stream_refuse(s, 503, BRUMA_REASON_SOURCE_UNKNOWN, NULL);
    return true;
}

static void requested(struct stream *s)
{
    struct request *request = s->request;
    enum bruma_reason reason;

    s->state = STREAM_DIALING;
    if (!quota_allows(s->c.wp, &s->c.quota, &reason)) {
        stream_refuse(s, 503, reason, NULL);
    } else if (request->too_large) {
        stream_refuse(s, 431, BRUMA_REASON_BAD_AUTHORITY, "the header list is larger than 64 KiB");
    } else if (strcmp(request->method, "CONNECT") != 0) {
        char detail[64];

        snprintf(detail, sizeof(detail), "method %s", request->method);
        stream_refuse(s, 400, BRUMA_REASON_BAD_METHOD, detail);
    } else if (count_headers(s) < 0) {
        stream_refuse(s, 503, BRUMA_REASON_MEMORY_BUDGET, NULL);
    } else {
        worker_wait(s->c.wp, &s->waiter, connection_worker(&s->c)->settings->source_timeout, check);
    }
}

static const struct stream_events events = {.requested = requested, .dialed = dialed};

struct stream *inbound_begin(struct tunnel *t, int32_t id)
{
    struct request *request = request_new();
    struct stream *s = request ? stream_new(t->wp, true, -1, &t->peer, &t->arrival, &events) : NULL;

    if (!s) {
        request_free(request);
        return NULL;
    }
    s->id = id;
    s->request = request;
    tunnel_add_stream(t, s);
    return s;
}
