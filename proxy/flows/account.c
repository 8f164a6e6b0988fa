/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/flows/account.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/route/policy.h"
#include "proxy/route/route.h"
#include "proxy/socket/socket.h"
#include "proxy/state/hash.h"
#include "proxy/telemetry/metric_series.h"

#define BUCKETS_MIN 256

int account_init(struct account *a)
{
    a->buckets = calloc(BUCKETS_MIN, sizeof(struct flow_record *));
    if (!a->buckets)
        return -ENOMEM;
    a->buckets_len = BUCKETS_MIN;
    return 0;
}

/* ---- the table ---- */

static struct flow_record **place(struct account *a, uint64_t socket_cookie)
{
    struct flow_record **at = &a->buckets[hash_pair(socket_cookie, 0) & (a->buckets_len - 1)];

    while (*at && (*at)->socket_cookie != socket_cookie)
        at = &(*at)->next;
    return at;
}

struct flow_record *account_find(struct account *a, uint64_t socket_cookie)
{
    return *place(a, socket_cookie);
}

/* Longer chains are no error. */
static void grow(struct account *a)
{
    struct flow_record **old = a->buckets;
    size_t len = a->buckets_len;

    a->buckets = calloc(len * 2, sizeof(struct flow_record *));
    if (!a->buckets) {
        a->buckets = old;
        return;
    }
    a->buckets_len = len * 2;
    for (size_t i = 0; i < len; i++) {
        while (old[i]) {
            struct flow_record *r = old[i], **at = place(a, r->socket_cookie);

            old[i] = r->next;
            r->next = *at;
            *at = r;
        }
    }
    free(old);
}

static void insert(struct account *a, struct flow_record *r)
{
    struct flow_record **at;

    if (a->live >= a->buckets_len)
        grow(a);
    at = place(a, r->socket_cookie);
    r->next = *at;
    *at = r;
    __atomic_store_n(&a->live, a->live + 1, __ATOMIC_RELAXED);
}

static void release(struct flow *flow)
{
    workload_unref(flow->source);
    workload_unref(flow->destination);
    service_unref(flow->service);
    flow->source = flow->destination = NULL;
    flow->service = NULL;
}

static void take_out(struct account *a, struct flow_record *r)
{
    *place(a, r->socket_cookie) = r->next;
    __atomic_store_n(&a->live, a->live - 1, __ATOMIC_RELAXED);
    release(&r->flow);
    free(r);
}

void account_each(struct account *a, void (*fn)(void *data, struct flow_record *record), void *data)
{
    for (size_t i = 0; i < a->buckets_len; i++) {
        struct flow_record *r = a->buckets[i];

        while (r) {
            struct flow_record *next = r->next;

            fn(data, r);
            r = next;
        }
    }
}

static void forget(void *data, struct flow_record *r)
{
    struct account *a = data;

    telemetry_forget(a->telemetry, &r->flow, false);
    take_out(a, r);
}

void account_clear(struct account *a)
{
    account_each(a, forget, a);
    free(a->buckets);
    a->buckets = NULL;
    a->buckets_len = 0;
}

void account_lost(struct account *a, struct flow_record *r)
{
    counter_add(&a->endless, 1);
    telemetry_forget(a->telemetry, &r->flow, true);
    take_out(a, r);
}

/* ---- who talks to whom ---- */

static bool is_inbound(enum bruma_direct_way way)
{
    return way & (BRUMA_DIRECT_PASS | BRUMA_DIRECT_REFUSE | BRUMA_DIRECT_BYPASS | BRUMA_DIRECT_NODE_INBOUND);
}

static bool is_outbound(enum bruma_direct_way way)
{
    return way & (BRUMA_DIRECT_OUTSIDE | BRUMA_DIRECT_NODE);
}

/* A way is one bit. */
static bool is_way(enum bruma_direct_way way)
{
    return (is_inbound(way) || is_outbound(way)) && !(way & (way - 1));
}

static struct endpoint endpoint_of(const struct bruma_address *address, uint32_t port)
{
    struct endpoint e = {.port = (uint16_t)port};

    memcpy(e.addr.bytes, address->bytes, sizeof(e.addr.bytes));
    return e;
}

/* To whom, as the proxy would have found it: somebody in the mesh who takes no tunnels, or nobody that it
 * knows. What it has come to know since was not there when the connection was made. */
static void find_destination(struct account *a, struct flow *flow)
{
    struct route route;

    if (!flow->source)
        return;
    route_outbound(a->state, flow->source, &flow->destination_address, &a->random, NULL, &route);
    if (route.kind == ROUTE_TCP) {
        flow->destination = route.upstream;
        flow->service = route.service;
        route.upstream = NULL;
        route.service = NULL;
    }
    route_release(&route);
}

static const struct workload *by_address(struct account *a, const struct endpoint *e)
{
    const struct workload *w = state_workload_by_address(a->state, &e->addr);

    if (w)
        workload_ref(w);
    return w;
}

static void describe(struct account *a, const struct bruma_flow *from, struct flow *ret)
{
    struct endpoint local = endpoint_of(&from->tuple.local_address, from->tuple.local_port);
    struct endpoint remote = endpoint_of(&from->tuple.remote_address, from->tuple.remote_port);
    bool inbound = is_inbound(from->way), known;
    const struct workload *pod = flow_pods_workload(a->pods, a->state, from->netns_cookie, &known);

    if (!known)
        counter_add(&a->strangers, 1);
    *ret = (struct flow){
        .direct = true,
        .reporter = inbound ? REPORTER_DESTINATION : REPORTER_SOURCE,
        .source = inbound ? NULL : pod,
        .destination = inbound ? pod : NULL,
        .source_address = inbound ? remote : local,
        .destination_address = inbound ? local : remote,
    };
    if (inbound)
        ret->source = by_address(a, &remote);
    else if (from->way == BRUMA_DIRECT_NODE)
        ret->destination = by_address(a, &remote);
    else
        find_destination(a, ret);
    if (from->way & (BRUMA_DIRECT_NODE | BRUMA_DIRECT_NODE_INBOUND) && ret->source && ret->destination) {
        ret->same_node = true;
        ret->source_identity = ret->source->identity;
        ret->destination_identity = ret->destination->identity;
    }
}

/* ---- bytes ---- */

void account_progress(struct flow_record *r, uint64_t sent, uint64_t received)
{
    uint64_t from = r->inbound ? received : sent, back = r->inbound ? sent : received;

    if (r->elsewhere) {
        r->elsewhere = false;
        r->flow.received = from;
        r->flow.sent = back;
        return;
    }
    from = from > r->flow.received ? from - r->flow.received : 0;
    back = back > r->flow.sent ? back - r->flow.sent : 0;
    telemetry_bytes(&r->flow, from, back);
}

/* ---- events ---- */

/* counted: it was, with what it has carried, by who read before. NULL without memory. */
static struct flow_record *begin(struct account *a, uint64_t socket_cookie, const struct bruma_flow *from,
                                 bool counted)
{
    struct flow_record *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->socket_cookie = socket_cookie;
    r->netns_cookie = from->netns_cookie;
    r->inbound = is_inbound(from->way);
    r->elsewhere = counted;
    describe(a, from, &r->flow);
    telemetry_open_since(a->telemetry, &r->flow, from->opened_nanoseconds, counted);
    insert(a, r);
    return r;
}

void account_adopt(struct account *a, uint64_t socket_cookie, const struct bruma_flow *from)
{
    struct flow_record *r;

    if (from->state != BRUMA_FLOW_ESTABLISHED || !is_way(from->way) || from->way == BRUMA_DIRECT_REFUSE ||
        a->live >= BRUMA_MAX_FLOWS || account_find(a, socket_cookie))
        return;
    r = begin(a, socket_cookie, from, true);
    if (r)
        r->adopted = true;
}

static void condemn(struct account *a, const struct bruma_flow_event *e)
{
    struct pod *pod = a->judge.condemned ? flow_pods_find(a->pods, e->flow.netns_cookie) : NULL;

    if (!pod)
        return; /* it goes with its pod */
    a->judge.condemned(a->judge.data, pod, e->socket_cookie, &e->flow);
    pod_unref(pod);
}

static void opened(struct account *a, const struct bruma_flow_event *e)
{
    struct flow_record *r = account_find(a, e->socket_cookie);
    uint64_t sent = e->sent, received = e->received;

    /* It was found among those that live before its event was read. So nobody has counted it. */
    if (r && r->adopted) {
        if (!r->elsewhere) {
            sent = r->inbound ? r->flow.sent : r->flow.received;
            received = r->inbound ? r->flow.received : r->flow.sent;
        }
        forget(a, r);
        r = NULL;
    }
    /* Without a place its last event says all. */
    if (!r && a->live < BRUMA_MAX_FLOWS)
        r = begin(a, e->socket_cookie, &e->flow, false);
    if (r)
        account_progress(r, sent, received);
    if (r)
        r->late = e->error == ESTALE;
    if (e->error == ESTALE || (e->error == ENOSPC && e->flow.way == BRUMA_DIRECT_PASS))
        condemn(a, e);
    if (r && e->error == ENOSPC) /* the map had no place for it: this is all that the kernel tells */
        account_lost(a, r);
    if (a->judge.opened && e->flow.way == BRUMA_DIRECT_PASS)
        a->judge.opened(a->judge.data, e->socket_cookie, &e->flow);
}

/* As the relay has it: a workload of the mesh's that takes no tunnels, and that drops what comes in
 * plaintext, is told from an application that ends. */
static bool is_plaintext_reset(const struct flow_record *r, uint32_t error)
{
    return socket_was_reset(-(int)error) && !r->inbound && r->flow.destination && r->flow.received &&
           !r->flow.sent;
}

static void closed(struct account *a, const struct bruma_flow_event *e)
{
    struct flow_record *r = account_find(a, e->socket_cookie);
    enum bruma_reason reason = BRUMA_REASON_NONE;
    const char *detail = NULL;

    if (!r)
        r = begin(a, e->socket_cookie, &e->flow, e->flow.opened_nanoseconds < a->since);
    if (!r)
        return;
    account_progress(r, e->sent, e->received);
    if (r->late) {
        reason = BRUMA_REASON_POLICY_CHANGED;
        detail = "answered too late: the destination has come into the mesh, or nobody could be asked";
    } else if (e->error == ECONNABORTED) { /* by SOCK_DESTROY */
        reason = BRUMA_REASON_POLICY_CHANGED;
        detail = "connection closed due to policy change";
    } else if (is_plaintext_reset(r, e->error)) {
        reason = BRUMA_REASON_PLAINTEXT_RESET;
    }
    telemetry_close_at(a->telemetry, &r->flow, reason, detail, e->now_nanoseconds);
    take_out(a, r);
}

/* One that begins and ends with this event. more: others like it. */
static void at_once(struct account *a, const struct bruma_flow_event *e, enum bruma_reason reason,
                    const char *detail, struct flow *flow, uint64_t more)
{
    telemetry_open_since(a->telemetry, flow, e->flow.opened_nanoseconds, false);
    if (more)
        telemetry_repeat(a->telemetry, flow, reason, more);
    telemetry_close_at(a->telemetry, flow, reason, detail, e->now_nanoseconds);
    release(flow);
}

static void failed(struct account *a, const struct bruma_flow_event *e)
{
    char text[128];
    const char *detail = e->error ? strerror_r((int)e->error, text, sizeof(text))
                                  : "the application gave up before there was an answer";
    struct flow flow;

    describe(a, &e->flow, &flow);
    at_once(a, e, e->error ? socket_reason((int)e->error) : BRUMA_REASON_CONNECT_TIMEOUT, detail, &flow, 0);
}

static void refused(struct account *a, const struct bruma_flow_event *e)
{
    struct policy_verdict verdict = {.allowed = true};
    char detail[320] = "", more[48] = "";
    struct flow flow;

    describe(a, &e->flow, &flow);
    if (flow.destination) {
        const struct policy_request request = {.source = flow.source_address,
                                               .destination = flow.destination_address};

        policy_check(a->state, flow.destination, &request, &verdict);
    }
    if (e->repeated)
        snprintf(more, sizeof(more), "; %u more were refused", e->repeated);
    /* What allows it by now was not in force when it came. */
    if (!verdict.allowed || *more)
        snprintf(detail, sizeof(detail), "%s%s",
                 verdict.allowed ? "the policies refused all such connections" : verdict.text, more);
    at_once(a, e, BRUMA_REASON_POLICY_DENIED, *detail ? detail : NULL, &flow, e->repeated);
}

static bool is_good(const struct bruma_flow_event *e)
{
    enum bruma_direct_way way = e->flow.way;

    switch (e->kind) {
    case BRUMA_FLOW_OPENED:
    case BRUMA_FLOW_CLOSED:
        return e->socket_cookie && is_way(way) && way != BRUMA_DIRECT_REFUSE;
    case BRUMA_FLOW_FAILED:
        return is_way(way) && is_outbound(way);
    case BRUMA_FLOW_REFUSED:
        return way == BRUMA_DIRECT_REFUSE;
    }
    return false;
}

void account_event(struct account *a, const void *event, size_t len)
{
    struct bruma_flow_event e;

    if (len == sizeof(e))
        memcpy(&e, event, sizeof(e));
    if (len != sizeof(e) || !is_good(&e)) {
        counter_add(&a->events[0], 1);
        return;
    }
    counter_add(&a->events[e.kind], 1);
    switch (e.kind) {
    case BRUMA_FLOW_OPENED:
        opened(a, &e);
        break;
    case BRUMA_FLOW_CLOSED:
        closed(a, &e);
        break;
    case BRUMA_FLOW_FAILED:
        failed(a, &e);
        break;
    case BRUMA_FLOW_REFUSED:
        refused(a, &e);
        break;
    }
}
