/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/access_record.h"

#include <string.h>

#include "lib/proto/otlp.pb-c.h"
#include "proxy/telemetry/access_fields.h"
#include "proxy/telemetry/text.h"
#include "proxy/telemetry/tracing.h"

#define FLAG_SAMPLED       0x001u
#define FLAG_KNOWS_REMOTE  0x100u /* the next one says something */
#define FLAG_REMOTE_PARENT 0x200u
#define TEXTS_MAX          ((ACCESS_FIELDS_MAX * (ACCESS_VALUE_MAX * 3 + 16))) /* each byte may become three */

/* Attributes of one record, on the stack of who packs it. Texts are copied where they need a form of their
 * own. */
struct record_attributes {
    Otlp__KeyValue keys[ACCESS_FIELDS_MAX], *pointers[ACCESS_FIELDS_MAX];
    Otlp__AnyValue values[ACCESS_FIELDS_MAX];
    size_t len;
    const char *error; /* that of the line, if it has one */
    struct text text;
    char texts[TEXTS_MAX];
};

static void init(struct record_attributes *a)
{
    a->len = 0;
    a->error = NULL;
    a->text = (struct text){a->texts, 0, sizeof(a->texts)};
}

static Otlp__AnyValue *add(struct record_attributes *a, const char *key)
{
    Otlp__AnyValue *value = &a->values[a->len];

    if (a->len == ACCESS_FIELDS_MAX)
        return NULL;
    otlp__any_value__init(value);
    otlp__key_value__init(&a->keys[a->len]);
    a->keys[a->len].key = (char *)(uintptr_t)key;
    a->keys[a->len].value = value;
    a->pointers[a->len] = &a->keys[a->len];
    a->len++;
    return value;
}

static void add_number(struct record_attributes *a, const char *key, uint64_t number)
{
    Otlp__AnyValue *value = add(a, key);

    if (!value)
        return;
    value->value_case = OTLP__ANY_VALUE__VALUE_INT_VALUE;
    value->int_value = number <= INT64_MAX ? (int64_t)number : INT64_MAX;
}

static void add_text(struct record_attributes *a, const char *key, const char *text)
{
    Otlp__AnyValue *value = add(a, key);

    if (!value)
        return;
    value->value_case = OTLP__ANY_VALUE__VALUE_STRING_VALUE;
    value->string_value = (char *)(uintptr_t)text;
}

/* Ends the text that was begun at from, and returns it. */
static const char *ended(struct record_attributes *a, size_t from)
{
    if (a->text.len == a->text.size)
        a->text.len--;
    a->text.at[a->text.len++] = '\0';
    return a->text.at + from;
}

static void put(void *data, const char *key, const struct access_value *value)
{
    struct record_attributes *a = data;
    size_t from = a->text.len;

    switch (value->kind) {
    case ACCESS_TEXT:
    case ACCESS_AUTHORITY:
        text_utf8(&a->text, value->text, ACCESS_VALUE_MAX);
        add_text(a, key, ended(a, from));
        break;
    case ACCESS_WORD:
        add_text(a, key, value->text);
        break;
    case ACCESS_ADDRESS:
        text_endpoint(&a->text, value->address);
        add_text(a, key, ended(a, from));
        break;
    case ACCESS_NUMBER:
        add_number(a, key, value->number);
        break;
    case ACCESS_MILLISECONDS:
        add_number(a, "duration_ms", value->number);
        break;
    case ACCESS_ERROR:
        text_string(&a->text, value->reason);
        text_literal(&a->text, ": ");
        text_utf8(&a->text, value->text, ACCESS_VALUE_MAX);
        a->error = ended(a, from);
        add_text(a, key, a->error);
        add_text(a, "error.type", value->reason);
        break;
    }
}

static uint64_t nanoseconds(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

static int severity(enum log_level level)
{
    return level == LOG_LEVEL_ERROR ? 17 : level == LOG_LEVEL_WARN ? 13 : level == LOG_LEVEL_INFO ? 9 : 5;
}

/* Both IDs as a message wants them. */
struct ids {
    uint8_t trace[16], span[8], parent[8];
};

static void fill_ids(const struct trace *trace, struct ids *ret)
{
    trace_id_bytes(trace->high, ret->trace);
    trace_id_bytes(trace->low, ret->trace + 8);
    trace_id_bytes(trace->span, ret->span);
    trace_id_bytes(trace->parent, ret->parent);
}

static ProtobufCBinaryData bytes(uint8_t *data, size_t len)
{
    return (ProtobufCBinaryData){.data = data, .len = len};
}

struct otlp_record *access_record_log(const struct access_line *line)
{
    Otlp__LogRecord message = OTLP__LOG_RECORD__INIT;
    Otlp__AnyValue body = OTLP__ANY_VALUE__INIT;
    const struct trace *trace = tracing_of(line->flow);
    struct otlp_record *record;
    struct record_attributes a;
    struct ids ids;

    init(&a);
    access_fields(line, put, &a);
    body.value_case = OTLP__ANY_VALUE__VALUE_STRING_VALUE;
    body.string_value = (char *)(uintptr_t)access_message(line->event);
    message.time_unix_nano = message.observed_time_unix_nano = nanoseconds(&line->now);
    message.severity_number = severity(line->level);
    message.severity_text = (char *)(uintptr_t)log_level_name(line->level);
    message.body = &body;
    message.n_attributes = a.len;
    message.attributes = a.pointers;
    if (trace) {
        fill_ids(trace, &ids);
        message.trace_id = bytes(ids.trace, sizeof(ids.trace));
        message.span_id = bytes(ids.span, sizeof(ids.span));
        message.flags = FLAG_SAMPLED;
    }
    record = otlp_record_new(otlp__log_record__get_packed_size(&message), 1);
    if (record)
        otlp__log_record__pack(&message, record->data);
    return record;
}

struct otlp_record *access_record_span(const struct access_line *line)
{
    bool outbound = line->flow->reporter == REPORTER_SOURCE;
    Otlp__SpanStatus status = OTLP__SPAN_STATUS__INIT;
    Otlp__Span message = OTLP__SPAN__INIT;
    struct otlp_record *record;
    struct record_attributes a;
    struct ids ids;

    init(&a);
    access_fields(line, put, &a);
    fill_ids(tracing_of(line->flow), &ids);
    message.trace_id = bytes(ids.trace, sizeof(ids.trace));
    message.span_id = bytes(ids.span, sizeof(ids.span));
    message.flags = FLAG_SAMPLED | FLAG_KNOWS_REMOTE;
    if (tracing_of(line->flow)->parent) {
        message.parent_span_id = bytes(ids.parent, sizeof(ids.parent));
        message.flags |= FLAG_REMOTE_PARENT;
    }
    message.name = (char *)(uintptr_t)(outbound ? "outbound connection" : "inbound connection");
    message.kind = outbound ? 3 : 2; /* client, server */
    message.end_time_unix_nano = nanoseconds(&line->now);
    message.start_time_unix_nano = message.end_time_unix_nano - line->lived;
    message.n_attributes = a.len;
    message.attributes = a.pointers;
    if (line->reason != BRUMA_REASON_NONE) {
        status.code = 2;
        status.message = (char *)(uintptr_t)a.error;
        message.status = &status;
    }
    record = otlp_record_new(otlp__span__get_packed_size(&message), 1);
    if (record)
        otlp__span__pack(&message, record->data);
    return record;
}
