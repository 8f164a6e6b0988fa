/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/log_line.h"

#include <stdio.h>
#include <string.h>

#include "lib/utf8.h"

#define END_BYTES 8 /* kept free for what closes a line */

struct log_writer {
    char *buf;
    size_t len, size;
};

/* ---- pieces ---- */

static void put(struct log_writer *w, const char *text, size_t len)
{
    if (len > w->size - w->len)
        len = w->size - w->len;
    memcpy(w->buf + w->len, text, len);
    w->len += len;
}

static void put_string(struct log_writer *w, const char *text)
{
    put(w, text, strlen(text));
}

size_t log_line_escape(char *buf, size_t size, size_t len, const char *text, size_t limit)
{
    for (size_t i = 0, n; i < limit && text[i] && len + 7 < size; i += n) {
        unsigned char c = (unsigned char)text[i];

        n = 1;
        if (c == '"' || c == '\\') {
            buf[len++] = '\\';
            buf[len++] = (char)c;
        } else if (c == '\n') {
            buf[len++] = '\\';
            buf[len++] = 'n';
        } else if (c < 0x20 || c == 0x7f) {
            len += (size_t)snprintf(buf + len, size - len, "\\u%04x", c);
        } else if (c >= 0x80 && !(n = utf8_character(text + i, limit - i))) {
            n = 1;
            memcpy(buf + len, "\xef\xbf\xbd", 3); /* U+FFFD */
            len += 3;
        } else {
            memcpy(buf + len, text + i, n);
            len += n;
        }
    }
    return len;
}

static void put_escaped(struct log_writer *w, const char *text, size_t limit)
{
    w->len = log_line_escape(w->buf, w->size, w->len, text, limit);
}

static void put_quoted(struct log_writer *w, const char *text)
{
    put(w, "\"", 1);
    put_escaped(w, text, strlen(text));
    put(w, "\"", 1);
}

/* ---- pairs ---- */

struct log_pair {
    const char *key, *value; /* the value without its quotes */
    size_t key_len, value_len;
    bool quoted;
};

/* Bytes of the escape that begins with this backslash, if JSON has it too; else 0. */
static size_t escape_length(const char *at)
{
    if (at[1] == 'u')
        return strspn(at + 2, "0123456789abcdefABCDEF") >= 4 ? 6 : 0;
    return at[1] && strchr("\"\\/bfnrt", at[1]) ? 2 : 0;
}

/* Of what stands between quotes. */
static size_t quoted_length(const char *at)
{
    size_t len = 0;

    while (at[len] && at[len] != '"') {
        size_t n = at[len] == '\\' ? escape_length(at + len) : 1;

        if (!n)
            return (size_t)-1;
        len += n;
    }
    return at[len] ? len : (size_t)-1;
}

/* Takes the pair at *at and the space behind it. False if there is none. */
static bool take_pair(const char **at, struct log_pair *ret)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    struct log_pair p = {.key = *at, .key_len = strspn(*at, letters)};
    const char *end;

    if (!p.key_len || p.key[p.key_len] != '=')
        return false;
    p.value = p.key + p.key_len + 1;
    p.quoted = *p.value == '"';
    if (p.quoted) {
        p.value_len = quoted_length(++p.value);
        if (p.value_len == (size_t)-1)
            return false;
        end = p.value + p.value_len + 1;
    } else {
        p.value_len = strcspn(p.value, " \t\"");
        end = p.value + p.value_len;
    }
    if (*end && *end != ' ' && *end != '\t')
        return false;
    *at = *end ? end + 1 : end;
    *ret = p;
    return true;
}

static bool is_number(const struct log_pair *p)
{
    size_t digits = strspn(p->value, "0123456789");

    return !p->quoted && p->value_len && digits == p->value_len && digits < 16 &&
           (digits == 1 || *p->value != '0');
}

static void put_member(struct log_writer *w, const struct log_pair *p)
{
    put(w, ",\"", 2);
    put(w, p->key, p->key_len);
    put(w, "\":", 2);
    if (is_number(p)) {
        put(w, p->value, p->value_len);
        return;
    }
    put(w, "\"", 1);
    for (size_t i = 0, n; i < p->value_len; i += n) {
        bool escape = p->quoted && p->value[i] == '\\';
        const char *next = p->quoted ? memchr(p->value + i, '\\', p->value_len - i) : NULL;

        n = escape ? escape_length(p->value + i) : next ? (size_t)(next - p->value) - i : p->value_len - i;
        if (escape)
            put(w, p->value + i, n);
        else
            put_escaped(w, p->value + i, n);
    }
    put(w, "\"", 1);
}

/* Room for the pair whatever its bytes are: one that is cut would be no JSON. */
static bool fits(const struct log_writer *w, const struct log_pair *p)
{
    return w->size - w->len > p->key_len + 6 * p->value_len + 16;
}

/* ---- lines ---- */

static void json_line(struct log_writer *w, const struct log_line *line)
{
    const char *pairs = strchr(line->message, '\t'), *at = pairs ? pairs + 1 : "";
    struct log_pair p;

    /* What somebody's text has broken stays in the message as it is. */
    while (*at && take_pair(&at, &p))
        ;
    if (*at)
        pairs = NULL;
    put_string(w, "{\"level\":\"");
    put_string(w, line->level);
    put_string(w, "\",\"time\":\"");
    put_string(w, line->when);
    put_string(w, "\",\"scope\":\"");
    put_string(w, line->scope);
    put_string(w, "\",\"message\":\"");
    put_escaped(w, line->message, pairs ? (size_t)(pairs - line->message) : strlen(line->message));
    put_string(w, "\"");
    for (at = pairs ? pairs + 1 : ""; *at && take_pair(&at, &p);) {
        if (fits(w, &p))
            put_member(w, &p);
    }
    p = (struct log_pair){.key = "error", .key_len = 5, .value = line->error ? line->error : ""};
    p.value_len = strlen(p.value);
    if (line->error && fits(w, &p)) {
        put_string(w, ",\"error\":");
        put_quoted(w, line->error);
    }
    w->size += END_BYTES;
    put_string(w, "}\n");
}

/* Control characters would end the line, or reach somebody's terminal. Tabs are ours. */
static void put_readable(struct log_writer *w, const char *text)
{
    for (; *text && w->len + 7 < w->size; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '\n')
            put(w, "\\n", 2);
        else if ((c < 0x20 && c != '\t') || c == 0x7f)
            w->len += (size_t)snprintf(w->buf + w->len, w->size - w->len, "\\u%04x", c);
        else
            put(w, text, 1);
    }
}

static void plain_line(struct log_writer *w, const struct log_line *line)
{
    put_string(w, line->when);
    put(w, "\t", 1);
    put_string(w, line->level);
    put(w, "\t", 1);
    put_string(w, line->scope);
    put(w, "\t", 1);
    put_readable(w, line->message);
    if (line->error) {
        put_string(w, strchr(line->message, '\t') ? " error=" : "\terror=");
        put_quoted(w, line->error);
    }
    w->size += END_BYTES;
    put(w, "\n", 1);
}

size_t log_line_format(const struct log_line *line, bool json, char *buf, size_t size)
{
    struct log_writer w = {buf, 0, size - END_BYTES};

    if (json)
        json_line(&w, line);
    else
        plain_line(&w, line);
    return w.len;
}
