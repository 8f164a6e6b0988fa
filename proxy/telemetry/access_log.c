/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/access_log.h"

#include "proxy/telemetry/access_fields.h"
#include "proxy/telemetry/text.h"

#define TAIL 640 /* kept free for keys and numbers, which every line has, however long its strings are */

struct line_writer {
    struct text text;
    bool json, first;
    size_t strings; /* end of the room for strings */
};

/* ---- keys and values ---- */

static void put_key(struct line_writer *w, const char *key)
{
    if (w->json) {
        text_literal(&w->text, ",\"");
        text_string(&w->text, key);
        text_literal(&w->text, "\":");
        return;
    }
    text_put(&w->text, w->first ? "\t" : " ", 1);
    text_string(&w->text, key);
    text_literal(&w->text, "=");
    w->first = false;
}

/* Bytes of the next string that fit; each may become three. */
static size_t room(const struct line_writer *w)
{
    size_t limit = w->text.len < w->strings ? (w->strings - w->text.len) / 3 : 0;

    return limit < ACCESS_VALUE_MAX ? limit : ACCESS_VALUE_MAX;
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
        text_quoted(&w->text, value, room(w));
    else
        text_put(&w->text, value, len);
}

/* In quotes. */
static void error(struct line_writer *w, const struct access_value *value)
{
    text_literal(&w->text, "\"");
    text_string(&w->text, value->reason);
    text_literal(&w->text, ": ");
    text_escaped(&w->text, value->text, room(w));
    text_literal(&w->text, "\"");
}

static void put(void *data, const char *key, const struct access_value *value)
{
    struct line_writer *w = data;

    put_key(w, key);
    switch (value->kind) {
    case ACCESS_TEXT:
        text_quoted(&w->text, value->text, room(w));
        break;
    case ACCESS_AUTHORITY:
        authority(w, value->text);
        break;
    case ACCESS_WORD:
        text_quoted(&w->text, value->text, ACCESS_VALUE_MAX);
        break;
    case ACCESS_ADDRESS:
        address(w, value->address);
        break;
    case ACCESS_NUMBER:
        text_number(&w->text, value->number);
        break;
    case ACCESS_MILLISECONDS:
        text_literal(&w->text, "\"");
        text_number(&w->text, value->number);
        text_literal(&w->text, "ms\"");
        break;
    case ACCESS_ERROR:
        error(w, value);
        break;
    }
}

/* ---- a line ---- */

static void begin(struct line_writer *w, struct access_log *log, const struct access_line *line)
{
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
        text_string(&w->text, access_message(line->event));
        text_literal(&w->text, "\"");
        return;
    }
    text_literal(&w->text, "\t");
    text_string(&w->text, log_level_name(line->level));
    text_literal(&w->text, "\t" ACCESS_SCOPE "\t");
    text_string(&w->text, access_message(line->event));
}

size_t access_log_format(struct access_log *log, const struct access_line *line, char *buf, size_t size)
{
    struct line_writer w = {.text = {buf, 0, size}, .json = log->json, .first = true, .strings = size - TAIL};

    begin(&w, log, line);
    access_fields(line, put, &w);
    if (w.json)
        text_literal(&w.text, "}");
    text_literal(&w.text, "\n");
    return w.text.len;
}
