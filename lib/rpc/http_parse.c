/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/http_parse.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define METHOD_MAX     32
#define CONTENT_DIGITS 15

struct cursor {
    const char *at, *end;
};

static int fail(int *ret_status, int status)
{
    *ret_status = status;
    return -EBADMSG;
}

static bool is_token(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_text(unsigned char c)
{
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

static bool equal(struct http_span span, const char *text)
{
    return span.len == strlen(text) && !strncasecmp(span.at, text, span.len);
}

static struct http_span trim(struct http_span s)
{
    while (s.len && (s.at[0] == ' ' || s.at[0] == '\t')) {
        s.at++;
        s.len--;
    }
    while (s.len && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* The next line without its end; false if it is not complete. */
static bool next_line(struct cursor *c, struct http_span *ret)
{
    const char *newline = memchr(c->at, '\n', (size_t)(c->end - c->at));

    if (!newline)
        return false;
    ret->at = c->at;
    ret->len = (size_t)(newline - c->at);
    if (ret->len && ret->at[ret->len - 1] == '\r')
        ret->len--;
    c->at = newline + 1;
    return true;
}

/* The part up to the next space. */
static struct http_span word(struct http_span *line)
{
    const char *space = memchr(line->at, ' ', line->len);
    struct http_span w = {line->at, space ? (size_t)(space - line->at) : line->len};
    size_t used = w.len + (space ? 1 : 0);

    line->at += used;
    line->len -= used;
    return w;
}

/* "http://host" in front of the path is left out. */
static bool split_target(struct http_span target, struct http_head *head)
{
    const char *mark;

    if (target.len > 7 && !strncasecmp(target.at, "http://", 7)) {
        const char *slash = memchr(target.at + 7, '/', target.len - 7);

        if (!slash)
            target = (struct http_span){"/", 1};
        else
            target = (struct http_span){slash, target.len - (size_t)(slash - target.at)};
    }
    if (!target.len || (target.at[0] != '/' && !equal(target, "*")))
        return false;
    for (size_t i = 0; i < target.len; i++) {
        if ((unsigned char)target.at[i] <= 0x20 || (unsigned char)target.at[i] >= 0x7f)
            return false;
    }
    mark = memchr(target.at, '?', target.len);
    head->path = target;
    head->query = (struct http_span){NULL, 0};
    if (mark) {
        head->path.len = (size_t)(mark - target.at);
        head->query = (struct http_span){mark + 1, target.len - head->path.len - 1};
    }
    return true;
}

static int request_line(struct http_span line, struct http_head *head, bool *ret_old, int *ret_status)
{
    struct http_span target;

    head->method = word(&line);
    if (!head->method.len || head->method.len > METHOD_MAX)
        return fail(ret_status, 400);
    for (size_t i = 0; i < head->method.len; i++) {
        if (!is_token((unsigned char)head->method.at[i]))
            return fail(ret_status, 400);
    }
    target = word(&line);
    if (line.len != 8 || strncmp(line.at, "HTTP/", 5) != 0 || line.at[6] != '.' || line.at[5] < '0' ||
        line.at[5] > '9' || line.at[7] < '0' || line.at[7] > '9')
        return fail(ret_status, 400);
    if (line.at[5] != '1')
        return fail(ret_status, 505);
    *ret_old = line.at[7] == '0';
    head->old = *ret_old;
    head->keep_alive = !*ret_old;
    return split_target(target, head) ? 0 : fail(ret_status, 400);
}

static int content_length(struct http_head *head, struct http_span value, bool *seen, int *ret_status)
{
    uint64_t n = 0;

    if (!value.len || value.len > CONTENT_DIGITS)
        return fail(ret_status, 400);
    for (size_t i = 0; i < value.len; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return fail(ret_status, 400);
        n = n * 10 + (uint64_t)(value.at[i] - '0');
    }
    if (*seen && n != head->content_length)
        return fail(ret_status, 400);
    *seen = true;
    head->content_length = n;
    return 0;
}

static int header_line(struct http_span line, struct http_head *head, int *ret_status)
{
    const char *colon = memchr(line.at, ':', line.len);
    struct http_span name, value;

    if (!colon || colon == line.at)
        return fail(ret_status, 400);
    name = (struct http_span){line.at, (size_t)(colon - line.at)};
    value = trim((struct http_span){colon + 1, line.len - name.len - 1});
    /* A space in front of the colon, or a line that continues the one before, is no token either. */
    for (size_t i = 0; i < name.len; i++) {
        if (!is_token((unsigned char)name.at[i]))
            return fail(ret_status, 400);
    }
    for (size_t i = 0; i < value.len; i++) {
        if (!is_text((unsigned char)value.at[i]))
            return fail(ret_status, 400);
    }
    if (head->headers_len == HTTP_HEADERS_MAX)
        return fail(ret_status, 431);
    head->headers[head->headers_len].name = name;
    head->headers[head->headers_len++].value = value;
    return 0;
}

/* What the headers say about the message as such. */
static int framing(struct http_head *head, bool old, int *ret_status)
{
    bool has_length = false, has_encoding = false, listed;
    size_t hosts = 0;

    for (size_t i = 0; i < head->headers_len; i++) {
        struct http_span name = head->headers[i].name, value = head->headers[i].value;

        if (equal(name, "content-length")) {
            int r = content_length(head, value, &has_length, ret_status);

            if (r < 0)
                return r;
        } else if (equal(name, "transfer-encoding")) {
            has_encoding = true;
        } else if (equal(name, "host")) {
            hosts++;
        } else if (equal(name, "connection")) {
            if (http_list_accepts(value, "close", &listed))
                head->keep_alive = false;
            else if (old && http_list_accepts(value, "keep-alive", &listed))
                head->keep_alive = true;
        } else if (equal(name, "expect")) {
            if (!equal(value, "100-continue"))
                return fail(ret_status, 417);
            head->expects_continue = true;
        }
    }
    if (hosts > 1 || (!hosts && !old))
        return fail(ret_status, 400);
    if (has_encoding)
        return fail(ret_status, has_length || old ? 400 : 411);
    return 0;
}

/* A first line that has not ended yet: garbage is refused before it fills the buffer. */
static int look_at_part(struct cursor c, bool too_long, int *ret_status)
{
    size_t len = (size_t)(c.end - c.at), i = 0;

    while (i < len && is_token((unsigned char)c.at[i]))
        i++;
    if (i > METHOD_MAX || (i < len && c.at[i] != ' ' && c.at[i] != '\r') || (len && !i))
        return fail(ret_status, 400);
    for (; i < len; i++) {
        if ((unsigned char)c.at[i] < 0x20 && !(c.at[i] == '\r' && i + 1 == len))
            return fail(ret_status, 400);
    }
    return too_long ? fail(ret_status, 414) : 0;
}

int http_parse(const char *text, size_t len, struct http_head *ret, int *ret_status)
{
    bool too_long = len >= HTTP_HEAD_MAX, old = false;
    struct cursor c = {text, text + (too_long ? HTTP_HEAD_MAX : len)};
    struct http_head head = {};
    struct http_span line;
    int r;

    /* Empty lines in front are left over from bodies of sloppy clients. */
    while (c.at < c.end && (*c.at == '\n' || *c.at == '\r')) {
        if (*c.at == '\r' && c.at + 1 < c.end && c.at[1] != '\n')
            return fail(ret_status, 400);
        c.at++;
    }
    if (!next_line(&c, &line))
        return look_at_part(c, too_long, ret_status);
    r = request_line(line, &head, &old, ret_status);
    while (r == 0) {
        if (!next_line(&c, &line))
            return too_long ? fail(ret_status, 431) : 0;
        if (!line.len)
            break;
        r = header_line(line, &head, ret_status);
    }
    if (r == 0)
        r = framing(&head, old, ret_status);
    if (r < 0)
        return r;
    *ret = head;
    return (int)(c.at - text);
}

struct http_span http_head_find(const struct http_head *head, const char *name)
{
    for (size_t i = 0; i < head->headers_len; i++) {
        if (equal(head->headers[i].name, name))
            return head->headers[i].value;
    }
    return (struct http_span){NULL, 0};
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static int decode(struct http_span value, char *buf, size_t size)
{
    size_t len = 0;

    for (size_t i = 0; i < value.len; i++) {
        int c = (unsigned char)value.at[i];

        if (c == '+') {
            c = ' ';
        } else if (c == '%') {
            int high = i + 2 < value.len ? hex_digit(value.at[i + 1]) : -1;
            int low = i + 2 < value.len ? hex_digit(value.at[i + 2]) : -1;

            c = high * 16 + low;
            if (high < 0 || low < 0 || !c)
                return -EINVAL;
            i += 2;
        }
        if (len + 1 >= size)
            return -EINVAL;
        buf[len++] = (char)c;
    }
    buf[len] = '\0';
    return (int)len;
}

int http_query_find(struct http_span query, const char *name, char *buf, size_t size)
{
    size_t name_len = strlen(name);

    while (query.len) {
        const char *amp = memchr(query.at, '&', query.len);
        struct http_span part = {query.at, amp ? (size_t)(amp - query.at) : query.len};
        const char *sign = memchr(part.at, '=', part.len);
        size_t key_len = sign ? (size_t)(sign - part.at) : part.len;

        if (key_len == name_len && !memcmp(part.at, name, name_len)) {
            struct http_span value = {sign ? sign + 1 : part.at + part.len,
                                      sign ? part.len - key_len - 1 : 0};

            return decode(value, buf, size);
        }
        query.at += part.len + (amp ? 1 : 0);
        query.len -= part.len + (amp ? 1 : 0);
    }
    return -ENOENT;
}

/* ";q=0", ";q=0.0" and so on among the parameters. */
static bool weight_is_zero(struct http_span parameters)
{
    while (parameters.len) {
        const char *semicolon = memchr(parameters.at, ';', parameters.len);
        struct http_span p = {parameters.at,
                              semicolon ? (size_t)(semicolon - parameters.at) : parameters.len};
        size_t used = p.len + (semicolon ? 1 : 0);

        p = trim(p);
        if (p.len >= 3 && (p.at[0] == 'q' || p.at[0] == 'Q') && p.at[1] == '=') {
            size_t zeros = 2;

            while (zeros < p.len && (p.at[zeros] == '0' || p.at[zeros] == '.'))
                zeros++;
            return zeros == p.len;
        }
        parameters.at += used;
        parameters.len -= used;
    }
    return false;
}

bool http_list_accepts(struct http_span list, const char *token, bool *ret_listed)
{
    if (ret_listed)
        *ret_listed = false;
    while (list.len) {
        const char *comma = memchr(list.at, ',', list.len);
        struct http_span element = {list.at, comma ? (size_t)(comma - list.at) : list.len}, name = element;
        const char *semicolon = memchr(element.at, ';', element.len);
        size_t used = element.len + (comma ? 1 : 0);

        if (semicolon)
            name.len = (size_t)(semicolon - element.at);
        if (equal(trim(name), token)) {
            if (ret_listed)
                *ret_listed = true;
            return !semicolon ||
                   !weight_is_zero((struct http_span){semicolon + 1, element.len - name.len - 1});
        }
        list.at += used;
        list.len -= used;
    }
    return false;
}
