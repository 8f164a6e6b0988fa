/* SPDX-License-Identifier: Apache-2.0 */
/* The head of an HTTP/1.1 request: RFC 9112. */
#ifndef LIB_HTTP_PARSE_H
#define LIB_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEAD_MAX    8192 /* bytes of the request line and all headers */
#define HTTP_HEADERS_MAX 64

/* Points into the text that was parsed; not NUL-terminated. */
struct http_span {
    const char *at;
    size_t len;
};

struct http_head {
    struct http_span method, path, query; /* path without the query; neither is decoded */
    struct {
        struct http_span name, value;
    } headers[HTTP_HEADERS_MAX];
    size_t headers_len;
    uint64_t content_length;
    bool keep_alive;
    bool old; /* HTTP/1.0: knows no chunks */
    bool expects_continue;
};

/*
 * Returns the length of the head with its empty line, 0 if the rest has not arrived yet, -EBADMSG if it
 * cannot be served: then *ret_status is the answer (400, 411, 414, 431, 501, 505). ret is only written if a
 * head is there. Lines may end with a bare newline. len beyond HTTP_HEAD_MAX is not looked at.
 */
int http_parse(const char *text, size_t len, struct http_head *ret, int *ret_status);

/* Value of the first header with this name, any case; at is NULL if there is none. */
struct http_span http_head_find(const struct http_head *head, const char *name);

/* Decodes %XX and + of one parameter ("level=info&reset"). Its length, -ENOENT if it is not there, -EINVAL if
 * it is not well formed or does not fit (with the NUL). A parameter without "=" is empty. */
int http_query_find(struct http_span query, const char *name, char *buf, size_t size);

/* True if an element of a comma separated list is this token, any case, with parameters or without:
 * "gzip;q=0.5". A weight of zero means no; ret_listed (may be NULL) says whether the token is there at all.
 */
bool http_list_accepts(struct http_span list, const char *token, bool *ret_listed);

#endif
