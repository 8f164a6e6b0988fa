/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker makes a record for each connection, so messages are written as they are on the wire (the numbers
 * of fields are those of lib/proto/otlp.proto), without a tree of structs in between.
 */
#include "proxy/telemetry/access_record.h"

#include <string.h>

#include "proxy/telemetry/access_fields.h"
#include "proxy/telemetry/text.h"
#include "proxy/telemetry/tracing.h"

#define FLAG_SAMPLED       0x001u
#define FLAG_KNOWS_REMOTE  0x100u /* the next one says something */
#define FLAG_REMOTE_PARENT 0x200u
#define TEXT_BYTES         (ACCESS_VALUE_MAX * 3 + 64) /* each byte may become three; and a reason's name */
#define FIELD_BYTES        (TEXT_BYTES + 64)           /* with its key and lengths */
#define RECORD_BYTES       (ACCESS_FIELDS_MAX * FIELD_BYTES + TEXT_BYTES + 256)

enum { WIRE_NUMBER = 0, WIRE_FIXED_64 = 1, WIRE_LENGTH = 2, WIRE_FIXED_32 = 5 };
enum { LOG_TIME = 1, LOG_SEVERITY, LOG_SEVERITY_TEXT, LOG_BODY = 5, LOG_ATTRIBUTE, LOG_FLAGS = 8 };
enum { LOG_TRACE_ID = 9, LOG_SPAN_ID, LOG_OBSERVED };
enum { SPAN_TRACE_ID = 1, SPAN_ID, SPAN_PARENT_ID = 4, SPAN_NAME, SPAN_KIND, SPAN_START, SPAN_END };
enum { SPAN_ATTRIBUTE = 9, SPAN_STATUS = 15, SPAN_FLAGS };
enum { STATUS_MESSAGE = 2, STATUS_CODE };
enum { KEY = 1, VALUE, VALUE_TEXT = 1, VALUE_NUMBER = 3 };
enum { KIND_SERVER = 2, KIND_CLIENT, CODE_ERROR = 2 };

/* What is being written: there is room for all that a line may have. */
struct record {
    unsigned attribute; /* number of that field */
    size_t len;
    size_t error_len;
    char error[TEXT_BYTES]; /* of the line, if it has one */
    uint8_t data[RECORD_BYTES];
};

/* ---- the wire ---- */

static size_t number_size(uint64_t n)
{
    size_t size = 1;

    while (n >>= 7)
        size++;
    return size;
}

static void put_number(struct record *r, uint64_t n)
{
    for (; n > 0x7f; n >>= 7)
        r->data[r->len++] = (uint8_t)(n | 0x80);
    r->data[r->len++] = (uint8_t)n;
}

static void put_field(struct record *r, unsigned field, unsigned type, uint64_t number)
{
    put_number(r, field << 3 | type);
    put_number(r, number);
}

static void put_bytes(struct record *r, unsigned field, const void *bytes, size_t len)
{
    put_field(r, field, WIRE_LENGTH, len);
    memcpy(r->data + r->len, bytes, len);
    r->len += len;
}

static void put_string(struct record *r, unsigned field, const char *text)
{
    put_bytes(r, field, text, strlen(text));
}

/* size: 4 or 8 bytes, the lowest first */
static void put_fixed(struct record *r, unsigned field, uint64_t n, size_t size)
{
    put_number(r, field << 3 | (size == 8 ? WIRE_FIXED_64 : WIRE_FIXED_32));
    for (size_t i = 0; i < size; i++, n >>= 8)
        r->data[r->len++] = (uint8_t)n;
}

static void put_ids(struct record *r, unsigned field, const uint64_t *ids, size_t count)
{
    put_field(r, field, WIRE_LENGTH, count * 8);
    for (size_t i = 0; i < count; i++, r->len += 8)
        trace_id_bytes(ids[i], r->data + r->len);
}

/* ---- attributes ---- */

/* The heads of an attribute, of whose value that many bytes come next. */
static void begin_attribute(struct record *r, const char *key, size_t value)
{
    size_t key_len = strlen(key);

    put_field(r, r->attribute, WIRE_LENGTH,
              1 + number_size(key_len) + key_len + 1 + number_size(value) + value);
    put_bytes(r, KEY, key, key_len);
    put_field(r, VALUE, WIRE_LENGTH, value);
}

static void add_text(struct record *r, const char *key, const char *text, size_t len)
{
    begin_attribute(r, key, 1 + number_size(len) + len);
    put_bytes(r, VALUE_TEXT, text, len);
}

static void add_number(struct record *r, const char *key, uint64_t number)
{
    uint64_t n = number <= INT64_MAX ? number : INT64_MAX;

    begin_attribute(r, key, 1 + number_size(n));
    put_field(r, VALUE_NUMBER, WIRE_NUMBER, n);
}

static void add_error(struct record *r, const char *key, const struct access_value *value)
{
    struct text text = {r->error, 0, sizeof(r->error)};

    text_string(&text, value->reason);
    text_literal(&text, ": ");
    text_utf8(&text, value->text, ACCESS_VALUE_MAX);
    r->error_len = text.len;
    add_text(r, key, text.at, text.len);
    add_text(r, "error.type", value->reason, strlen(value->reason));
}

static void put(void *data, const char *key, const struct access_value *value)
{
    struct record *r = data;
    char buf[TEXT_BYTES];
    struct text text = {buf, 0, sizeof(buf)};

    switch (value->kind) {
    case ACCESS_TEXT:
    case ACCESS_AUTHORITY:
        text_utf8(&text, value->text, ACCESS_VALUE_MAX);
        add_text(r, key, text.at, text.len);
        break;
    case ACCESS_WORD:
        add_text(r, key, value->text, strlen(value->text));
        break;
    case ACCESS_ADDRESS:
        text_endpoint(&text, value->address);
        add_text(r, key, text.at, text.len);
        break;
    case ACCESS_NUMBER:
        add_number(r, key, value->number);
        break;
    case ACCESS_MILLISECONDS:
        add_number(r, "duration_ms", value->number);
        break;
    case ACCESS_ERROR:
        add_error(r, key, value);
        break;
    }
}

static void put_attributes(struct record *r, unsigned field, const struct access_line *line)
{
    r->attribute = field;
    access_fields(line, put, r);
}

/* ---- messages ---- */

static void init(struct record *r)
{
    r->len = r->error_len = 0;
}

static struct otlp_record *finish(const struct record *r)
{
    struct otlp_record *record = otlp_record_new(r->len, 1);

    if (record)
        memcpy(record->data, r->data, r->len);
    return record;
}

static uint64_t nanoseconds(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

static unsigned severity(enum log_level level)
{
    return level == LOG_LEVEL_ERROR ? 17 : level == LOG_LEVEL_WARN ? 13 : level == LOG_LEVEL_INFO ? 9 : 5;
}

struct otlp_record *access_record_log(const struct access_line *line)
{
    const struct trace *trace = tracing_of(line->flow);
    const char *message = access_message(line->event);
    struct record r;

    init(&r);
    put_fixed(&r, LOG_TIME, nanoseconds(&line->now), 8);
    put_fixed(&r, LOG_OBSERVED, nanoseconds(&line->now), 8);
    put_field(&r, LOG_SEVERITY, WIRE_NUMBER, severity(line->level));
    put_string(&r, LOG_SEVERITY_TEXT, log_level_name(line->level));
    put_field(&r, LOG_BODY, WIRE_LENGTH, 1 + number_size(strlen(message)) + strlen(message));
    put_string(&r, VALUE_TEXT, message);
    put_attributes(&r, LOG_ATTRIBUTE, line);
    if (trace) {
        put_ids(&r, LOG_TRACE_ID, (uint64_t[]){trace->high, trace->low}, 2);
        put_ids(&r, LOG_SPAN_ID, &trace->span, 1);
        put_fixed(&r, LOG_FLAGS, FLAG_SAMPLED, 4);
    }
    return finish(&r);
}

static void put_status(struct record *r)
{
    put_field(r, SPAN_STATUS, WIRE_LENGTH, 1 + number_size(r->error_len) + r->error_len + 2);
    put_bytes(r, STATUS_MESSAGE, r->error, r->error_len);
    put_field(r, STATUS_CODE, WIRE_NUMBER, CODE_ERROR);
}

struct otlp_record *access_record_span(const struct access_line *line)
{
    const struct trace *trace = tracing_of(line->flow);
    bool outbound = line->flow->reporter == REPORTER_SOURCE;
    uint64_t end = nanoseconds(&line->now);
    struct record r;

    init(&r);
    put_ids(&r, SPAN_TRACE_ID, (uint64_t[]){trace->high, trace->low}, 2);
    put_ids(&r, SPAN_ID, &trace->span, 1);
    if (trace->parent)
        put_ids(&r, SPAN_PARENT_ID, &trace->parent, 1);
    put_fixed(&r, SPAN_FLAGS, FLAG_SAMPLED | FLAG_KNOWS_REMOTE | (trace->parent ? FLAG_REMOTE_PARENT : 0), 4);
    put_string(&r, SPAN_NAME, outbound ? "outbound connection" : "inbound connection");
    put_field(&r, SPAN_KIND, WIRE_NUMBER, outbound ? KIND_CLIENT : KIND_SERVER);
    put_fixed(&r, SPAN_START, end - line->lived, 8);
    put_fixed(&r, SPAN_END, end, 8);
    put_attributes(&r, SPAN_ATTRIBUTE, line);
    if (r.error_len)
        put_status(&r);
    return finish(&r);
}
