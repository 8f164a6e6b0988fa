/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/access_log.h"

#include "lib/reasons.h"
#include "proxy/telemetry/baggage.h"
#include "proxy/telemetry/text.h"

#define VALUE_MAX 512 /* bytes of a string that are shown */
#define TAIL      640 /* kept free for keys and numbers, which every line has, however long its strings are */

struct line_writer {
    struct text text;
    bool json, first;
    size_t strings; /* end of the room for strings */
};

/* ---- keys and values ---- */

static void key_text(struct line_writer *w, const char *key, size_t len)
{
    if (w->json) {
        text_literal(&w->text, ",\"");
        text_put(&w->text, key, len);
        text_literal(&w->text, "\":");
        return;
    }
    text_put(&w->text, w->first ? "\t" : " ", 1);
    text_put(&w->text, key, len);
    text_literal(&w->text, "=");
    w->first = false;
}

#define key(w, literal) key_text(w, literal, sizeof(literal) - 1)

/* Bytes of the next string that fit; each may become three. */
static size_t room(const struct line_writer *w)
{
    size_t limit = w->text.len < w->strings ? (w->strings - w->text.len) / 3 : 0;

    return limit < VALUE_MAX ? limit : VALUE_MAX;
}

static void string(struct line_writer *w, const char *value)
{
    text_quoted(&w->text, value, room(w));
}

static void address(struct line_writer *w, const struct endpoint *value)
{
    if (w->json)
        text_literal(&w->text, "\"");
    text_endpoint(&w->text, value);
    if (w->json)
        text_literal(&w->text, "\"");
}

/* The authority is the peer's text: quoted unless it looks like one. */
static void authority(struct line_writer *w, const char *value)
{
    size_t len = strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]*");

    if (w->json || value[len] || !len || len > room(w))
        string(w, value);
    else
        text_put(&w->text, value, len);
}

static void number(struct line_writer *w, uint64_t value)
{
    text_number(&w->text, value);
}

#define string_if(w, literal, value)  \
    do {                              \
        const char *_value = (value); \
        if (_value && *_value) {      \
            key(w, literal);          \
            string(w, _value);        \
        }                             \
    } while (0)

/* ---- parts of a line ---- */

static void begin(struct line_writer *w, struct access_log *log, const struct access_line *line)
{
    static const char *const messages[] = {
        [ACCESS_OPENED] = "connection opened",
        [ACCESS_COMPLETE] = "connection complete",
        [ACCESS_FAILED] = "connection failed",
    };
    char fraction[8] = ".000000Z";
    long micro = line->now.tv_nsec / 1000;

    if (line->now.tv_sec != log->second || !log->date[0]) {
        struct tm tm;

        log->second = line->now.tv_sec;
        gmtime_r(&log->second, &tm);
        strftime(log->date, sizeof(log->date), "%Y-%m-%dT%H:%M:%S", &tm);
    }
    for (int i = 6; i > 0; i--, micro /= 10)
        fraction[i] = (char)('0' + micro % 10);
    if (w->json) {
        text_literal(&w->text, "{\"level\":\"");
        text_string(&w->text, log_level_name(line->level));
        text_literal(&w->text, "\",\"time\":\"");
    }
    text_string(&w->text, log->date);
    text_put(&w->text, fraction, sizeof(fraction));
    if (w->json) {
        text_literal(&w->text, "\",\"scope\":\"" ACCESS_SCOPE "\",\"message\":\"");
        text_string(&w->text, messages[line->event]);
        text_literal(&w->text, "\"");
        return;
    }
    text_literal(&w->text, "\t");
    text_string(&w->text, log_level_name(line->level));
    text_literal(&w->text, "\t" ACCESS_SCOPE "\t");
    text_string(&w->text, messages[line->event]);
}

/* What is known of a side by its baggage alone. */
struct described {
    const char *workload, *namespace, *cluster;
};

static void describe(struct described *d, const struct workload *w, const struct baggage *b)
{
    if (w) {
        d->workload = *w->name ? w->name : w->canonical_name;
        d->namespace = w->namespace;
        d->cluster = w->cluster_id;
    } else if (b) {
        d->workload = b->values[BAGGAGE_SERVICE];
        d->namespace = b->values[BAGGAGE_NAMESPACE];
        d->cluster = b->values[BAGGAGE_CLUSTER];
    }
}

static void both_sides(struct line_writer *w, const struct flow *f)
{
    struct described source = {}, destination = {};
    struct baggage baggage;
    bool vouched = (!f->source || !f->destination) && baggage_vouched(f, &baggage);

    describe(&source, f->source, vouched && f->reporter == REPORTER_DESTINATION ? &baggage : NULL);
    describe(&destination, f->destination, vouched && f->reporter == REPORTER_SOURCE ? &baggage : NULL);

    key(w, "src.addr");
    address(w, &f->source_address);
    string_if(w, "src.workload", source.workload);
    string_if(w, "src.namespace", source.namespace);
    string_if(w, "src.identity", flow_authenticated(f) ? f->source_identity : NULL);
    string_if(w, "src.cluster", source.cluster);
    key(w, "dst.addr");
    address(w, &f->destination_address);
    if (f->hbone_authority && *f->hbone_authority) {
        key(w, "dst.hbone_addr");
        authority(w, f->hbone_authority);
    }
    string_if(w, "dst.service", f->service ? f->service->hostname : NULL);
    string_if(w, "dst.workload", destination.workload);
    string_if(w, "dst.namespace", destination.namespace);
    string_if(w, "dst.identity", flow_authenticated(f) ? f->destination_identity : NULL);
    string_if(w, "dst.cluster", destination.cluster);
}

static void direction(struct line_writer *w, const struct flow *f)
{
    key(w, "direction");
    if (f->reporter == REPORTER_SOURCE)
        text_literal(&w->text, "\"outbound\"");
    else
        text_literal(&w->text, "\"inbound\"");
}

/* Seen from the local workload: outbound, what the initiator sent is sent; inbound, what the application
 * answered. */
static void volume(struct line_writer *w, const struct access_line *line)
{
    const struct flow *f = line->flow;
    bool outbound = f->reporter == REPORTER_SOURCE;

    key(w, "bytes_sent");
    number(w, outbound ? f->received : f->sent);
    key(w, "bytes_recv");
    number(w, outbound ? f->sent : f->received);
    key(w, "duration");
    text_literal(&w->text, "\"");
    number(w, line->milliseconds);
    text_literal(&w->text, "ms\"");
}

/* Endpoints that failed before this one, and why the last of them did. */
static void retries(struct line_writer *w, const struct flow *f)
{
    key(w, "retries");
    number(w, f->retries);
    key(w, "retry_reason");
    text_literal(&w->text, "\"");
    text_string(&w->text, reason_name(f->retry_reason));
    text_literal(&w->text, "\"");
}

/* The name of the reason first: it is what the metrics, the docs and `brumactl` know it by. */
static void error(struct line_writer *w, const struct access_line *line)
{
    const char *detail = line->detail && *line->detail ? line->detail : reason_what(line->reason);

    key(w, "error");
    text_literal(&w->text, "\"");
    text_string(&w->text, reason_name(line->reason));
    text_literal(&w->text, ": ");
    text_escaped(&w->text, detail, room(w));
    text_literal(&w->text, "\"");
}

size_t access_log_format(struct access_log *log, const struct access_line *line, char *buf, size_t size)
{
    struct line_writer w = {.text = {buf, 0, size}, .json = log->json, .first = true, .strings = size - TAIL};

    begin(&w, log, line);
    if (line->event == ACCESS_FAILED) {
        key(&w, "src.addr");
        address(&w, &line->flow->source_address);
        key(&w, "dst.addr");
        address(&w, &line->flow->destination_address);
    } else {
        both_sides(&w, line->flow);
    }
    direction(&w, line->flow);
    if (line->event == ACCESS_COMPLETE)
        volume(&w, line);
    if (line->flow->retries)
        retries(&w, line->flow);
    if (line->flow->direct)
        string_if(&w, "way", "direct");
    if (line->reason != BRUMA_REASON_NONE)
        error(&w, line);
    if (w.json)
        text_literal(&w.text, "}");
    text_literal(&w.text, "\n");
    return w.text.len;
}
