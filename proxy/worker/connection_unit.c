/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/connection_unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "lib/reasons.h"
#include "lib/spiffe.h"
#include "proxy/state/state_store.h"
#include "proxy/telemetry/tracing.h"

#define ENDPOINT_BYTES 18
#define TEXT_MAX       65536

/* ---- writing ---- */

void endpoint_write(struct wire_writer *w, uint32_t field, const struct endpoint *endpoint)
{
    uint8_t bytes[ENDPOINT_BYTES];
    uint16_t port = htons(endpoint->port);

    memcpy(bytes, endpoint->addr.bytes, sizeof(endpoint->addr.bytes));
    memcpy(bytes + sizeof(endpoint->addr.bytes), &port, sizeof(port));
    wire_put_bytes(w, field, bytes, sizeof(bytes));
}

static void number_write(struct wire_writer *w, uint32_t field, uint64_t value)
{
    if (value)
        wire_put_varint(w, field, value);
}

static void flow_write(struct wire_writer *w, const struct flow *flow)
{
    struct wire_writer part = {};

    wire_put_string(&part, BRUMA_TOLD_SOURCE, flow->source ? flow->source->uid : NULL);
    wire_put_string(&part, BRUMA_TOLD_DESTINATION, flow->destination ? flow->destination->uid : NULL);
    if (flow->service) {
        wire_put_string(&part, BRUMA_TOLD_SERVICE_NAMESPACE, flow->service->namespace);
        wire_put_string(&part, BRUMA_TOLD_SERVICE, flow->service->hostname);
    }
    endpoint_write(&part, BRUMA_TOLD_SOURCE_ADDRESS, &flow->source_address);
    endpoint_write(&part, BRUMA_TOLD_DESTINATION_ADDRESS, &flow->destination_address);
    wire_put_string(&part, BRUMA_TOLD_BAGGAGE, flow->baggage);
    wire_put_string(&part, BRUMA_TOLD_AUTHORITY, flow->hbone_authority);
    number_write(&part, BRUMA_TOLD_OPENED, flow->opened);
    number_write(&part, BRUMA_TOLD_RECEIVED, flow->received);
    number_write(&part, BRUMA_TOLD_SENT, flow->sent);
    number_write(&part, BRUMA_TOLD_RETRIES, flow->retries);
    if (flow->retry_reason != BRUMA_REASON_NONE)
        wire_put_string(&part, BRUMA_TOLD_RETRY_REASON, reason_name(flow->retry_reason));
    wire_put_flag(&part, BRUMA_TOLD_TENTATIVE, flow->tentative);
    if (tracing_of(flow)) {
        char trace[TRACE_TEXT_LEN + 1];

        trace_write(tracing_of(flow), trace);
        wire_put_string(&part, BRUMA_TOLD_TRACE, trace);
    }
    wire_put_message(w, BRUMA_CONNECTION_FLOW, &part);
}

void connection_write(struct wire_writer *w, uint32_t field, const struct connection *c)
{
    struct wire_writer part = {};

    wire_put_string(&part, BRUMA_CONNECTION_POD, c->wp->pod->uid);
    wire_put_varint(&part, BRUMA_CONNECTION_COOKIE, c->wp->pod->cookie);
    wire_put_flag(&part, BRUMA_CONNECTION_INBOUND, c->inbound);
    endpoint_write(&part, BRUMA_CONNECTION_CLIENT, &c->client);
    endpoint_write(&part, BRUMA_CONNECTION_DESTINATION, &c->destination);
    if (c->endpoint.port)
        endpoint_write(&part, BRUMA_CONNECTION_ENDPOINT, &c->endpoint);
    if (c->opened || c->opens_late)
        flow_write(&part, &c->flow);
    wire_put_string(&part, BRUMA_CONNECTION_PEER_IDENTITY, c->peer_identity);
    if (c->flow.same_node && c->peer_certificate)
        wire_put_string(&part, BRUMA_CONNECTION_SAME_NODE, c->peer_certificate->identity);
    wire_put_flag(&part, BRUMA_CONNECTION_GATEWAY, c->gateway);
    wire_put_flag(&part, BRUMA_CONNECTION_OPENS_LATE, c->opens_late);
    number_write(&part, BRUMA_CONNECTION_DRY_RUN, (uint64_t)c->dry_run);
    wire_put_message(w, field, &part);
}

void connection_forget(struct connection *c)
{
    if (c->opened)
        telemetry_forget(connection_worker(c)->telemetry, &c->flow, false);
    c->opened = c->opens_late = false;
    connection_close(c, BRUMA_REASON_NONE, NULL);
}

void connection_unopen(struct connection *c)
{
    bool counted = c->flow.counted || (c->opened && !c->flow.tentative);

    if (c->opened)
        telemetry_forget(connection_worker(c)->telemetry, &c->flow, false);
    c->flow.counted = counted;
    c->opened = c->opens_late = false;
}

void connection_undecide(struct connection *c, struct connection_past *ret)
{
    connection_unopen(c);
    *ret = (struct connection_past){.opened = c->flow.opened, .counted = c->flow.counted};
    connection_close(c, BRUMA_REASON_NONE, NULL);
}

void connection_remember(struct connection *c, const struct connection_past *past)
{
    c->flow.opened = past->opened;
    c->flow.counted = past->counted;
}

/* ---- reading ---- */

int endpoint_read(const struct wire_field *field, struct endpoint *ret)
{
    uint16_t port;

    if (field->type != WIRE_BYTES || field->len != ENDPOINT_BYTES)
        return -EBADMSG;
    memcpy(ret->addr.bytes, field->bytes, sizeof(ret->addr.bytes));
    memcpy(&port, field->bytes + sizeof(ret->addr.bytes), sizeof(port));
    ret->port = ntohs(port);
    return 0;
}

char *text_read(const struct wire_field *field)
{
    char *text;

    if (field->type != WIRE_BYTES || field->len > TEXT_MAX || memchr(field->bytes, 0, field->len))
        return NULL;
    text = malloc(field->len + 1);
    if (!text)
        return NULL;
    memcpy(text, field->bytes, field->len);
    text[field->len] = '\0';
    return text;
}

/* What is told of one, as texts; all of them are freed together. */
struct unit_words {
    char *pod, *peer_identity, *same_node, *source, *destination, *namespace, *service, *baggage, *authority;
    uint64_t cookie;
    bool has_flow;
};

static void words_clear(struct unit_words *words)
{
    char **all[] = {&words->pod,     &words->peer_identity, &words->same_node,
                    &words->source,  &words->destination,   &words->namespace,
                    &words->service, &words->baggage,       &words->authority};

    for (size_t i = 0; i < array_size(all); i++) {
        free(*all[i]);
        *all[i] = NULL;
    }
}

static int take_text(const struct wire_field *field, char **ret)
{
    char *text = text_read(field);

    if (!text)
        return -EBADMSG;
    free(*ret);
    *ret = text;
    return 0;
}

static int take_reason(const struct wire_field *field, enum bruma_reason *ret)
{
    char *text = text_read(field);

    if (!text)
        return -EBADMSG;
    /* One of another release is a failure all the same. */
    *ret = reason_from_name(text);
    if (*ret == BRUMA_REASON_COUNT)
        *ret = BRUMA_REASON_INTERNAL;
    free(text);
    return 0;
}

/* One that cannot be read, or kept, is none. */
static int take_trace(const struct wire_field *field, struct flow *flow)
{
    struct trace trace;
    char *text = text_read(field);

    if (!text)
        return -EBADMSG;
    if (!flow->trace && trace_read(text, &trace)) {
        flow->trace = malloc(sizeof(trace));
        if (flow->trace)
            *flow->trace = trace;
    }
    free(text);
    return 0;
}

static int flow_field(const struct wire_field *f, struct flow *flow, struct unit_words *words)
{
    uint64_t number = 0;
    int r = 0;

    switch (f->number) {
    case BRUMA_TOLD_SOURCE:
        return take_text(f, &words->source);
    case BRUMA_TOLD_DESTINATION:
        return take_text(f, &words->destination);
    case BRUMA_TOLD_SERVICE_NAMESPACE:
        return take_text(f, &words->namespace);
    case BRUMA_TOLD_SERVICE:
        return take_text(f, &words->service);
    case BRUMA_TOLD_SOURCE_ADDRESS:
        return endpoint_read(f, &flow->source_address);
    case BRUMA_TOLD_DESTINATION_ADDRESS:
        return endpoint_read(f, &flow->destination_address);
    case BRUMA_TOLD_BAGGAGE:
        return take_text(f, &words->baggage);
    case BRUMA_TOLD_AUTHORITY:
        return take_text(f, &words->authority);
    case BRUMA_TOLD_OPENED:
        return wire_take_number(f, UINT64_MAX, &flow->opened);
    case BRUMA_TOLD_RECEIVED:
        return wire_take_number(f, UINT64_MAX, &flow->received);
    case BRUMA_TOLD_SENT:
        return wire_take_number(f, UINT64_MAX, &flow->sent);
    case BRUMA_TOLD_RETRIES:
        r = wire_take_number(f, UINT32_MAX, &number);
        flow->retries = (unsigned)number;
        return r;
    case BRUMA_TOLD_RETRY_REASON:
        return take_reason(f, &flow->retry_reason);
    case BRUMA_TOLD_TENTATIVE:
        return wire_take_flag(f, &flow->tentative);
    case BRUMA_TOLD_TRACE:
        return take_trace(f, flow);
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

static int flow_read(const struct wire_field *field, struct flow *flow, struct unit_words *words)
{
    struct wire_reader reader;
    struct wire_field f;
    int r;

    if (field->type != WIRE_BYTES)
        return -EBADMSG;
    words->has_flow = true;
    reader = wire_reader(field->bytes, field->len);
    while ((r = wire_next(&reader, &f)) > 0) {
        r = flow_field(&f, flow, words);
        if (r < 0)
            return r;
    }
    return r;
}

static int connection_field(const struct wire_field *f, struct connection *c, struct unit_words *words)
{
    uint64_t number = 0;
    int r;

    switch (f->number) {
    case BRUMA_CONNECTION_POD:
        return take_text(f, &words->pod);
    case BRUMA_CONNECTION_COOKIE:
        return wire_take_number(f, UINT64_MAX, &words->cookie);
    case BRUMA_CONNECTION_INBOUND:
        return wire_take_flag(f, &c->inbound);
    case BRUMA_CONNECTION_CLIENT:
        return endpoint_read(f, &c->client);
    case BRUMA_CONNECTION_DESTINATION:
        return endpoint_read(f, &c->destination);
    case BRUMA_CONNECTION_ENDPOINT:
        return endpoint_read(f, &c->endpoint);
    case BRUMA_CONNECTION_FLOW:
        return flow_read(f, &c->flow, words);
    case BRUMA_CONNECTION_PEER_IDENTITY:
        return take_text(f, &words->peer_identity);
    case BRUMA_CONNECTION_SAME_NODE:
        return take_text(f, &words->same_node);
    case BRUMA_CONNECTION_GATEWAY:
        return wire_take_flag(f, &c->gateway);
    case BRUMA_CONNECTION_OPENS_LATE:
        return wire_take_flag(f, &c->opens_late);
    case BRUMA_CONNECTION_DRY_RUN:
        r = wire_take_number(f, UINT8_MAX, &number);
        c->dry_run = (enum policy_dry_run)number;
        return r;
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

static int refuse(char *error, size_t size, int r, const char *text)
{
    snprintf(error, size, "%s", text);
    return r;
}

struct worker_pod *unit_pod(struct worker *w, const char *uid, uint64_t cookie)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        if (!strcmp(wp->pod->uid, uid) && wp->pod->cookie == cookie && !wp->deleted)
            return wp;
    }
    return NULL;
}

/* Also one of before: whose uid is known no more is told of in the log without its workload. */
static const struct workload *workload_of(const struct worker *w, const char *uid)
{
    const struct workload_full *found = uid ? find_workload_by_uid(w->state, uid) : NULL;

    if (found)
        workload_ref(&found->public);
    return found ? &found->public : NULL;
}

static const struct service *service_of(const struct worker *w, const struct unit_words *words)
{
    const struct service_full *found =
        words->service ? find_service(w->state, words->namespace ? words->namespace : "", words->service)
                       : NULL;

    if (found)
        service_ref(&found->public);
    return found ? &found->public : NULL;
}

/* Whoever was let through in the name of a certificate is so here only once that identity has one here. */
static int find_certificate(struct worker *w, struct connection *c, const char *identity)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        struct tls_context *context = worker_pod_context(wp);

        if (context && !strcmp(context->identity, identity)) {
            c->peer_certificate = context;
            return 0;
        }
        tls_context_unref(context);
    }
    return -EAGAIN;
}

static int describe(struct worker *w, struct worker_pod *wp, struct connection *c,
                    const struct unit_words *words)
{
    const struct workload *source = workload_of(w, words->source),
                          *destination = workload_of(w, words->destination);
    const struct service *service = service_of(w, words);
    int r;

    /* Nobody counts its strings: the pod may go before the connection is one of its own. */
    c->wp = wp;
    r = connection_describe(c, source, destination, service, words->peer_identity, words->baggage,
                            words->authority);
    c->wp = NULL;
    if (r < 0) {
        workload_unref(source);
        workload_unref(destination);
        service_unref(service);
    }
    return r;
}

static int make(struct worker *w, struct unit_words *words, struct connection_record *ret, char *error,
                size_t error_size)
{
    struct connection *c = &ret->c;
    struct worker_pod *wp;
    int r = 0;

    if (!words->pod)
        return refuse(error, error_size, -EBADMSG, "a connection of no pod");
    wp = unit_pod(w, words->pod, words->cookie);
    if (!wp || wp->draining)
        return refuse(error, error_size, -ENOENT, "its pod is not served here");
    if (!worker_pod_workload(wp))
        return refuse(error, error_size, -EAGAIN, "the mesh does not know its pod yet");
    c->flow.same_node = words->same_node != NULL;
    if (words->same_node)
        r = find_certificate(w, c, words->same_node);
    if (r < 0)
        return refuse(error, error_size, r, "the other pod's certificate is not here yet");
    r = describe(w, wp, c, words);
    if (r < 0)
        return refuse(error, error_size, r, "no memory is left for it");
    ret->pod = wp->pod;
    pod_ref(ret->pod);
    ret->open = words->has_flow && !c->opens_late;
    return 0;
}

int connection_read(struct worker *w, const uint8_t *data, size_t len, struct connection_record *ret,
                    char *error, size_t error_size)
{
    struct wire_reader reader = wire_reader(data, len);
    struct connection_record record = {};
    struct unit_words words = {};
    struct wire_field f;
    int r;

    list_init(&record.c.node);
    while ((r = wire_next(&reader, &f)) > 0) {
        r = connection_field(&f, &record.c, &words);
        if (r < 0)
            break;
    }
    if (r < 0)
        (void)refuse(error, error_size, r,
                     r == -EPROTONOSUPPORT ? "a connection with a field that is not known here"
                                           : "a malformed connection");
    else
        r = make(w, &words, &record, error, error_size);
    words_clear(&words);
    if (r < 0) {
        connection_record_clear(&record);
        return r;
    }
    *ret = record;
    return 0;
}

void connection_record_clear(struct connection_record *record)
{
    struct connection *c = &record->c;

    workload_unref(c->flow.source);
    workload_unref(c->flow.destination);
    service_unref(c->flow.service);
    tls_context_unref(c->peer_certificate);
    tracing_end(&c->flow);
    budget_give_all(&c->account);
    free(c->strings);
    if (record->pod)
        pod_unref(record->pod);
    memset(record, 0, sizeof(*record));
}

static struct worker_pod *served(struct worker *w, const struct pod *pod)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        if (wp->pod == pod && !wp->deleted)
            return wp;
    }
    return NULL;
}

bool connection_begin(struct connection *c, struct worker *w, struct connection_record *record,
                      void (*abort)(struct connection *, enum bruma_reason, const char *))
{
    struct worker_pod *wp = served(w, record->pod);
    uint64_t received = record->c.flow.received, sent = record->c.flow.sent;
    struct pod *pod = record->pod;

    if (!wp)
        return false;
    *c = record->c;
    memset(record, 0, sizeof(*record));
    pod_unref(pod);
    c->wp = wp;
    c->abort = abort;
    c->account.share = &wp->memory;
    list_init(&c->node);
    list_add_tail(&wp->connections, &c->node);
    quota_take(wp, c->inbound ? &c->client.addr : NULL, &c->quota);
    worker_connection_begin(wp);
    c->flow.reporter = c->inbound ? REPORTER_DESTINATION : REPORTER_SOURCE;
    if (!c->opens_late && c->flow.opened) {
        telemetry_open_since(w->telemetry, &c->flow, c->flow.opened, !c->flow.tentative);
        c->flow.received = received;
        c->flow.sent = sent;
        c->opened = true;
    }
    return true;
}
