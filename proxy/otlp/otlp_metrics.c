/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_metrics.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto/otlp.pb-c.h"
#include "lib/utf8.h"
#include "proxy/wire/wire.h"

#define NAME_MAX_BYTES 256
#define LINE_MAX_BYTES 16384 /* a longer line is passed over */
#define CUMULATIVE     2

/* Numbers of fields; see lib/proto/otlp.proto. */
enum { METRIC_NAME = 1, METRIC_DESCRIPTION, METRIC_UNIT };
enum { DATA_POINT = 1, DATA_TEMPORALITY, DATA_MONOTONIC };

enum kind {
    KIND_GAUGE = OTLP__METRIC__DATA_GAUGE,
    KIND_SUM = OTLP__METRIC__DATA_SUM,
    KIND_HISTOGRAM = OTLP__METRIC__DATA_HISTOGRAM
};

/* What the lines in front of samples have said. */
struct page_family {
    char name[NAME_MAX_BYTES], help[1024];
    enum kind kind;
};

/* A line; name and labels point into its copy. */
struct sample {
    char *name, *value;
    Otlp__KeyValue keys[OTLP_LABELS_MAX], *pointers[OTLP_LABELS_MAX];
    Otlp__AnyValue values[OTLP_LABELS_MAX];
    size_t len;
    const char *end; /* of a bucket: "le"; or NULL */
};

/* The histogram whose buckets are being read. */
struct buckets {
    double ends[OTLP_BUCKETS_MAX], sum;
    uint64_t below[OTLP_BUCKETS_MAX + 1]; /* cumulative, as the page has them */
    size_t len;
    bool has_rest, broken;
};

struct encoder {
    uint64_t started, now;
    struct otlp_batch *ret;
    struct page_family family;
    char name[NAME_MAX_BYTES]; /* of the metric whose points are being gathered; "": none */
    struct wire_writer points;
    uint32_t items;
    struct buckets buckets;
    bool failed;
};

/* ---- metrics ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), n = strlen(end);

    return len >= n && !strcmp(text + len - n, end);
}

static const char *unit_of(const char *name)
{
    if (ends_with(name, "_seconds") || ends_with(name, "_seconds_total"))
        return "s";
    return ends_with(name, "_bytes") || ends_with(name, "_bytes_total") ? "By" : "";
}

static void keep(struct encoder *e, struct wire_writer *metric)
{
    struct otlp_record *record = metric->failed ? NULL : otlp_record_new(metric->len, e->items);

    if (record) {
        memcpy(record->data, metric->data, metric->len);
        otlp_batch_add(e->ret, record);
    } else {
        e->failed = true;
    }
    wire_writer_clear(metric);
}

/* The points that were gathered are a metric, of which more may follow in another one. */
static void flush(struct encoder *e)
{
    struct wire_writer metric = {};

    if (e->points.failed)
        e->failed = true;
    if (e->items && !e->points.failed) {
        if (e->family.kind != KIND_GAUGE)
            wire_put_varint(&e->points, DATA_TEMPORALITY, CUMULATIVE);
        wire_put_flag(&e->points, DATA_MONOTONIC, e->family.kind == KIND_SUM);
        wire_put_string(&metric, METRIC_NAME, e->name);
        wire_put_string(&metric, METRIC_DESCRIPTION, e->family.help);
        wire_put_string(&metric, METRIC_UNIT, unit_of(e->name));
        wire_put_message(&metric, (uint32_t)e->family.kind, &e->points);
        keep(e, &metric);
    }
    wire_writer_clear(&e->points);
    e->items = 0;
}

/* The metric that the next point belongs to. */
static void enter(struct encoder *e, const char *name)
{
    if (strcmp(e->name, name) != 0) {
        flush(e);
        snprintf(e->name, sizeof(e->name), "%s", name);
    } else if (e->points.len >= OTLP_METRIC_BYTES) {
        flush(e);
    }
}

static void put_point(struct encoder *e, const ProtobufCMessage *point)
{
    size_t len = protobuf_c_message_get_packed_size(point);
    uint8_t *packed = malloc(len + 1);

    if (!packed) {
        e->failed = true;
        return;
    }
    protobuf_c_message_pack(point, packed);
    wire_put_bytes(&e->points, DATA_POINT, packed, len);
    e->items++;
    free(packed);
}

static void put_number(struct encoder *e, struct sample *s)
{
    Otlp__NumberDataPoint point = OTLP__NUMBER_DATA_POINT__INIT;
    size_t digits = strspn(s->value, "0123456789");
    char *end;

    if (digits && digits < 19 && !s->value[digits]) {
        point.value_case = OTLP__NUMBER_DATA_POINT__VALUE_AS_INT;
        point.as_int = strtoll(s->value, NULL, 10);
    } else {
        point.value_case = OTLP__NUMBER_DATA_POINT__VALUE_AS_DOUBLE;
        point.as_double = strtod(s->value, &end);
        if (end == s->value || *end)
            return;
    }
    point.start_time_unix_nano = e->family.kind == KIND_SUM ? e->started : 0;
    point.time_unix_nano = e->now;
    point.attributes = s->pointers;
    point.n_attributes = s->len;
    enter(e, s->name);
    put_point(e, &point.base);
}

/* ---- histograms ---- */

static void add_bucket(struct buckets *b, const struct sample *s)
{
    uint64_t below = strtoull(s->value, NULL, 10);

    if (b->len == OTLP_BUCKETS_MAX || b->has_rest) {
        b->broken = true;
        return;
    }
    b->broken |= b->len && below < b->below[b->len - 1];
    if (!strcmp(s->end, "+Inf"))
        b->has_rest = true;
    else
        b->ends[b->len] = strtod(s->end, NULL);
    b->below[b->len] = below;
    b->len += !b->has_rest;
}

/* The last line of a histogram. */
static void put_histogram(struct encoder *e, struct sample *s)
{
    Otlp__HistogramDataPoint point = OTLP__HISTOGRAM_DATA_POINT__INIT;
    struct buckets *b = &e->buckets;
    uint64_t alone[OTLP_BUCKETS_MAX + 1];

    if (b->has_rest && !b->broken) {
        for (size_t i = 0; i <= b->len; i++)
            alone[i] = b->below[i] - (i ? b->below[i - 1] : 0);
        point.start_time_unix_nano = e->started;
        point.time_unix_nano = e->now;
        point.count = b->below[b->len];
        point.optional_sum_case = OTLP__HISTOGRAM_DATA_POINT__OPTIONAL_SUM_SUM;
        point.sum = b->sum;
        point.n_bucket_counts = b->len + 1;
        point.bucket_counts = alone;
        point.n_explicit_bounds = b->len;
        point.explicit_bounds = b->ends;
        point.attributes = s->pointers;
        point.n_attributes = s->len;
        enter(e, e->family.name);
        put_point(e, &point.base);
    }
    *b = (struct buckets){};
}

static void put_part(struct encoder *e, struct sample *s)
{
    const char *part = s->name + strlen(e->family.name);

    if (!strcmp(part, "_bucket") && s->end)
        add_bucket(&e->buckets, s);
    else if (!strcmp(part, "_sum"))
        e->buckets.sum = strtod(s->value, NULL);
    else if (!strcmp(part, "_count"))
        put_histogram(e, s);
}

/* ---- lines ---- */

/* Unescapes, in place, the text up to its closing quote; returns what is behind that, or NULL. What is not
 * UTF-8 would make the whole request unreadable. */
static char *label_text(char *at)
{
    char *to = at;

    while (*at && *at != '"') {
        size_t n = utf8_character(at, 4);

        if (*at == '\\' && at[1]) {
            *to++ = at[1] == 'n' ? '\n' : (unsigned char)at[1] < 0x80 ? at[1] : '?';
            at += 2;
        } else if (n) {
            memmove(to, at, n);
            to += n;
            at += n;
        } else {
            *to++ = '?';
            at++;
        }
    }
    if (!*at)
        return NULL;
    *to = '\0';
    return at + 1;
}

static void add_label(struct sample *s, char *key, char *text)
{
    size_t i = s->len;

    if (!strcmp(key, "le")) {
        s->end = text;
        return;
    }
    if (i == OTLP_LABELS_MAX)
        return;
    otlp__any_value__init(&s->values[i]);
    otlp__key_value__init(&s->keys[i]);
    s->values[i].value_case = OTLP__ANY_VALUE__VALUE_STRING_VALUE;
    s->values[i].string_value = text;
    s->keys[i].key = key;
    s->keys[i].value = &s->values[i];
    s->pointers[i] = &s->keys[i];
    s->len++;
}

static bool is_name(const char *text, size_t len)
{
    return len && len < NAME_MAX_BYTES &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_:") >= len;
}

/* at: behind the "{". Returns what is behind the "}", or NULL. */
static char *read_labels(struct sample *s, char *at)
{
    while (*at != '}') {
        char *key = at, *equals = strchr(at, '=');

        if (!equals || equals[1] != '"' || !is_name(key, (size_t)(equals - key)))
            return NULL;
        *equals = '\0';
        at = label_text(equals + 2);
        if (!at)
            return NULL;
        add_label(s, key, equals + 2);
        if (*at == ',')
            at++;
        else if (*at != '}')
            return NULL;
    }
    return at + 1;
}

static bool read_sample(char *line, struct sample *s)
{
    size_t name = strcspn(line, "{ ");
    char *at = line + name;

    if (!is_name(line, name) || !*at)
        return false;
    s->name = line;
    s->len = 0;
    s->end = NULL;
    if (*at == '{') {
        *at = '\0';
        at = read_labels(s, at + 1);
    }
    if (!at || *at != ' ')
        return false;
    *at = '\0';
    s->value = at + 1;
    return *s->value != '\0';
}

static enum kind kind_of(const char *type)
{
    if (!strcmp(type, "histogram"))
        return KIND_HISTOGRAM;
    return !strcmp(type, "counter") ? KIND_SUM : KIND_GAUGE;
}

static void begin_family(struct encoder *e, const char *name)
{
    flush(e);
    e->name[0] = '\0';
    e->buckets = (struct buckets){};
    snprintf(e->family.name, sizeof(e->family.name), "%s", name);
    e->family.help[0] = '\0';
    e->family.kind = KIND_GAUGE;
}

static void read_comment(struct encoder *e, char *line)
{
    char *name = line + 7, *rest = strlen(line) > 7 ? strchr(name, ' ') : NULL;
    bool help = !strncmp(line, "# HELP ", 7);

    if (!rest || !is_name(name, (size_t)(rest - name)) || (!help && strncmp(line, "# TYPE ", 7) != 0))
        return;
    *rest++ = '\0';
    if (strcmp(e->family.name, name) != 0)
        begin_family(e, name);
    if (help) {
        /* Escapes and what is cut: the same as of a label. */
        char quoted[sizeof(e->family.help) + 1];

        snprintf(quoted, sizeof(quoted) - 1, "%s", rest);
        quoted[strcspn(quoted, "\"")] = '\0';
        strcat(quoted, "\"");
        label_text(quoted);
        snprintf(e->family.help, sizeof(e->family.help), "%s", quoted);
    } else if (kind_of(rest) != e->family.kind) {
        flush(e); /* points of before are of another kind */
        e->family.kind = kind_of(rest);
    }
}

static void read_line(struct encoder *e, char *line)
{
    struct sample s;

    if (*line == '#')
        read_comment(e, line);
    else if (!read_sample(line, &s) || strncmp(s.name, e->family.name, strlen(e->family.name)) != 0)
        return;
    else if (e->family.kind == KIND_HISTOGRAM)
        put_part(e, &s);
    else
        put_number(e, &s);
}

int otlp_metrics_encode(const char *text, size_t len, uint64_t started, uint64_t now, struct otlp_batch *ret)
{
    struct encoder *e = calloc(1, sizeof(*e));
    char *line = malloc(LINE_MAX_BYTES + 1);
    const char *end = text + len;
    bool failed = !e || !line;

    if (!failed)
        *e = (struct encoder){.started = started, .now = now, .ret = ret, .family.kind = KIND_GAUGE};
    while (!failed && text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop ? stop : end) - text);

        if (n <= LINE_MAX_BYTES && !memchr(text, '\0', n)) {
            memcpy(line, text, n);
            line[n] = '\0';
            read_line(e, line);
        }
        text += n + 1;
    }
    if (!failed) {
        flush(e);
        failed = e->failed;
    }
    free(line);
    free(e);
    return failed ? -ENOMEM : 0;
}
