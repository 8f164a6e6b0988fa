/* SPDX-License-Identifier: Apache-2.0 */
/* Records of the access log, decoded back. */
#include "proxy/telemetry/access_record.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto/otlp.pb-c.h"
#include "proxy/telemetry/trace.h"
#include "tests/unit/proxy/telemetry/telemetry_samples.h"

static Otlp__LogRecord *decoded(const struct access_line *line)
{
    struct otlp_record *record = access_record_log(line);
    Otlp__LogRecord *message;

    cr_assert(record && record->items == 1);
    message = otlp__log_record__unpack(NULL, record->len, record->data);
    free(record);
    cr_assert(message);
    return message;
}

static Otlp__AnyValue *value(const Otlp__LogRecord *message, const char *key)
{
    for (size_t i = 0; i < message->n_attributes; i++) {
        if (!strcmp(message->attributes[i]->key, key))
            return message->attributes[i]->value;
    }
    return NULL;
}

static void text(const Otlp__LogRecord *message, const char *key, const char *expected)
{
    Otlp__AnyValue *v = value(message, key);

    cr_assert(v && v->value_case == OTLP__ANY_VALUE__VALUE_STRING_VALUE, "%s", key);
    cr_expect_str_eq(v->string_value, expected);
}

static void number(const Otlp__LogRecord *message, const char *key, int64_t expected)
{
    Otlp__AnyValue *v = value(message, key);

    cr_assert(v && v->value_case == OTLP__ANY_VALUE__VALUE_INT_VALUE, "%s", key);
    cr_expect_eq(v->int_value, expected);
}

Test(access_record, completion)
{
    struct flow flow = sample_flow();
    struct access_line line = {.level = LOG_LEVEL_ERROR,
                               .event = ACCESS_COMPLETE,
                               .flow = &flow,
                               .lived = 37 * UINT64_C(1000000),
                               .reason = BRUMA_REASON_CONNECT_REJECTED,
                               .detail = "says \"\n\xff\xc3\xbc",
                               .now = {.tv_sec = 1767323045, .tv_nsec = 678901999}};
    Otlp__LogRecord *m;

    flow.received = 420;
    flow.sent = UINT64_MAX;
    flow.retries = 2;
    m = decoded(&line);
    cr_expect_eq(m->time_unix_nano, UINT64_C(1767323045678901999));
    cr_expect(m->severity_number == 17 && !strcmp(m->severity_text, "error"));
    cr_expect_str_eq(m->body->string_value, "connection complete");
    text(m, "src.addr", "10.1.0.7:40122");
    text(m, "src.workload", "cart-6c9f-x2k");
    text(m, "dst.service", "redis.shop.svc.cluster.local");
    text(m, "direction", "outbound");
    text(m, "error.type", "connect_rejected");
    text(m, "error", "connect_rejected: says \"\xef\xbf\xbd\xef\xbf\xbd\xc3\xbc");
    number(m, "bytes_sent", 420);
    number(m, "bytes_recv", INT64_MAX);
    number(m, "duration_ms", 37);
    number(m, "retries", 2);
    otlp__log_record__free_unpacked(m, NULL);
}

Test(access_record, refusal)
{
    struct flow flow = sample_flow();
    struct access_line line = {
        .level = LOG_LEVEL_WARN, .event = ACCESS_FAILED, .flow = &flow, .reason = BRUMA_REASON_POLICY_DENIED};
    Otlp__LogRecord *m = decoded(&line);

    cr_expect_eq(m->severity_number, 13);
    cr_expect_str_eq(m->body->string_value, "connection failed");
    cr_expect_eq(m->n_attributes, 5, "both addresses, direction, error and its type");
    otlp__log_record__free_unpacked(m, NULL);
}

Test(access_record, span)
{
    struct trace trace = {0x0102030405060708, 0x090a0b0c0d0e0f10, 0x1112131415161718, 0};
    struct flow flow = sample_flow();
    struct access_line line = {.level = LOG_LEVEL_ERROR,
                               .event = ACCESS_COMPLETE,
                               .flow = &flow,
                               .lived = 5000000,
                               .reason = BRUMA_REASON_CONNECT_REJECTED,
                               .detail = "no",
                               .now = {.tv_sec = 10}};
    struct otlp_record *record;
    Otlp__LogRecord *m;
    Otlp__Span *s;

    flow.trace = &trace;
    record = access_record_span(&line);
    s = otlp__span__unpack(NULL, record->len, record->data);
    cr_expect(s->trace_id.len == 16 && s->trace_id.data[0] == 1 && s->trace_id.data[15] == 0x10);
    cr_expect(s->span_id.len == 8 && s->span_id.data[0] == 0x11 && s->parent_span_id.len == 0);
    cr_expect(s->kind == 3 && !strcmp(s->name, "outbound connection") && s->flags == 0x101);
    cr_expect(s->end_time_unix_nano == 10000000000 && s->start_time_unix_nano == 9995000000);
    cr_expect(s->status->code == 2 && !strcmp(s->status->message, "connect_rejected: no"));
    otlp__span__free_unpacked(s, NULL);
    free(record);
    trace.parent = 5;
    flow.reporter = REPORTER_DESTINATION;
    line.reason = BRUMA_REASON_NONE;
    record = access_record_span(&line);
    s = otlp__span__unpack(NULL, record->len, record->data);
    cr_expect(s->parent_span_id.len == 8 && s->parent_span_id.data[7] == 5 && s->flags == 0x301);
    cr_expect(s->kind == 2 && !s->status);
    otlp__span__free_unpacked(s, NULL);
    free(record);
    m = decoded(&line);
    cr_expect(m->trace_id.len == 16 && m->span_id.data[7] == 0x18 && m->flags == 1);
    otlp__log_record__free_unpacked(m, NULL);
}

Test(access_record, is_bounded)
{
    static char huge[100000];
    struct flow flow = sample_flow();
    struct access_line line = {.level = LOG_LEVEL_ERROR,
                               .event = ACCESS_COMPLETE,
                               .flow = &flow,
                               .reason = BRUMA_REASON_INTERNAL,
                               .detail = huge};
    struct otlp_record *record;

    memset(huge, 0x01, sizeof(huge) - 1);
    flow.hbone_authority = flow.source_identity = flow.destination_identity = huge;
    record = access_record_log(&line);
    cr_assert(record);
    cr_expect_lt(record->len, 16384);
    free(record);
}
