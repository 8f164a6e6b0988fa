/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rpc/http_gzip.h"
#include "lib/rpc/http_parse.h"

static struct http_head head;
static int status;

static int parse(const char *text)
{
    status = 0;
    return http_parse(text, strlen(text), &head, &status);
}

static bool is(struct http_span span, const char *text)
{
    return span.len == strlen(text) && (!span.len || !memcmp(span.at, text, span.len));
}

Test(http_parse, a_request)
{
    const char *text =
        "POST /logging?level=debug&reset HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX:  y z \r\n\r\nabc";

    cr_assert(parse(text) == (int)strlen(text) - 3);
    cr_expect(is(head.method, "POST"));
    cr_expect(is(head.path, "/logging"));
    cr_expect(is(head.query, "level=debug&reset"));
    cr_expect(head.content_length == 3);
    cr_expect(head.keep_alive);
    cr_expect(head.headers_len == 3);
    cr_expect(is(http_head_find(&head, "x"), "y z"));
    cr_expect(http_head_find(&head, "absent").at == NULL);
}

Test(http_parse, every_prefix_is_incomplete)
{
    const char *text = "\r\nGET /a HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";

    for (size_t len = 0; len < strlen(text); len++)
        cr_assert(http_parse(text, len, &head, &status) == 0, "%zu", len);
    cr_assert(parse(text) == (int)strlen(text));
}

Test(http_parse, lenient_forms)
{
    cr_expect(parse("GET / HTTP/1.1\nHost: a\n\n") > 0, "bare newlines");
    cr_expect(parse("GET http://h:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n") > 0);
    cr_expect(is(head.path, "/x") && is(head.query, "y"));
    cr_expect(parse("GET http://h HTTP/1.1\r\nHost: a\r\n\r\n") > 0);
    cr_expect(is(head.path, "/"));
    cr_expect(parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n") > 0);
}

Test(http_parse, keep_alive)
{
    cr_expect(parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n") > 0 && !head.keep_alive);
    cr_expect(parse("GET / HTTP/1.0\r\n\r\n") > 0 && !head.keep_alive);
    cr_expect(parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n") > 0 && head.keep_alive);
}

Test(http_parse, refusals)
{
    static const struct {
        const char *text;
        int status;
    } cases[] = {
        {"\x16\x03\x01\x02", 400}, /* TLS */
        {"garbage\x01", 400},
        {" GET / HTTP/1.1\r\n\r\n", 400},
        {"GET\t/ HTTP/1.1", 400},
        {"AVERYLONGMETHODTHATISNONEATALLREALLY", 400},
        {"PRI * HTTP/2.0\r\n\r\n", 505},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
        {"GET / HTTP/1.1\r\n\r\n", 400}, /* no Host */
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
        {"GET /\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
        {"GET / http/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\x01\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411},
        {"POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", 417},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_expect(parse(cases[i].text) == -EBADMSG, "case %zu: %s", i, cases[i].text);
        cr_expect(status == cases[i].status, "case %zu: %d", i, status);
    }
}

Test(http_parse, sizes)
{
    static char text[HTTP_HEAD_MAX * 2];
    size_t len;

    memset(text, 'a', sizeof(text));
    memcpy(text, "GET /", 5);
    cr_expect(http_parse(text, HTTP_HEAD_MAX - 1, &head, &status) == 0);
    cr_expect(http_parse(text, HTTP_HEAD_MAX, &head, &status) == -EBADMSG && status == 414);
    cr_expect(http_parse(text, sizeof(text), &head, &status) == -EBADMSG && status == 414);
    len = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    memset(text + len, 'a', sizeof(text) - len);
    cr_expect(http_parse(text, HTTP_HEAD_MAX, &head, &status) == -EBADMSG && status == 431);
    /* a head that just fits */
    memcpy(text + HTTP_HEAD_MAX - 4, "\r\n\r\n", 4);
    cr_expect(http_parse(text, HTTP_HEAD_MAX, &head, &status) == HTTP_HEAD_MAX);
    len = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < HTTP_HEADERS_MAX; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "a: b\r\n");
    len += (size_t)snprintf(text + len, sizeof(text) - len, "\r\n");
    cr_expect(http_parse(text, len, &head, &status) == -EBADMSG && status == 431, "too many headers");
    cr_expect(http_parse("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 30, &head, &status) == -EBADMSG &&
              status == 400);
}

static int query(const char *text, const char *name, char *buf, size_t size)
{
    return http_query_find((struct http_span){text, strlen(text)}, name, buf, size);
}

Test(http_parse, queries)
{
    char buf[16];

    cr_expect(query("level=xds%3Ddebug&reset", "level", buf, sizeof(buf)) == 9 && !strcmp(buf, "xds=debug"));
    cr_expect(query("level=a=b", "level", buf, sizeof(buf)) == 3 && !strcmp(buf, "a=b"));
    cr_expect(query("level=a+b", "level", buf, sizeof(buf)) == 3 && !strcmp(buf, "a b"));
    cr_expect(query("x&reset", "reset", buf, sizeof(buf)) == 0);
    cr_expect(query("reset=", "reset", buf, sizeof(buf)) == 0);
    cr_expect(query("resets", "reset", buf, sizeof(buf)) == -ENOENT);
    cr_expect(query("", "reset", buf, sizeof(buf)) == -ENOENT);
    cr_expect(query("&&&", "reset", buf, sizeof(buf)) == -ENOENT);
    cr_expect(query("level=%", "level", buf, sizeof(buf)) == -EINVAL);
    cr_expect(query("level=%4", "level", buf, sizeof(buf)) == -EINVAL);
    cr_expect(query("level=%zz", "level", buf, sizeof(buf)) == -EINVAL);
    cr_expect(query("level=%00", "level", buf, sizeof(buf)) == -EINVAL);
    cr_expect(query("level=%41", "level", buf, sizeof(buf)) == 1 && buf[0] == 'A');
    cr_expect(query("level=0123456789abcde", "level", buf, sizeof(buf)) == 15);
    cr_expect(query("level=0123456789abcdef", "level", buf, sizeof(buf)) == -EINVAL);
}

static bool gzip(const char *text)
{
    return http_accepts_gzip((struct http_span){text, strlen(text)});
}

Test(http_parse, accept_encoding)
{
    cr_expect(gzip("gzip"));
    cr_expect(gzip("deflate, GZIP;q=0.5 , br"));
    cr_expect(gzip("*"));
    cr_expect(gzip("br;q=1, *;q=0.1"));
    cr_expect(!gzip(""));
    cr_expect(!gzip("identity"));
    cr_expect(!gzip("gzip;q=0"));
    cr_expect(!gzip("gzip; q=0.000, *"));
    cr_expect(!gzip("xgzip, gzipx"));
    cr_expect(!http_accepts_gzip((struct http_span){NULL, 0}));
}
