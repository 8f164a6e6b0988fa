/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.1 on a struct loop, for admin pages, metrics and readiness: plaintext, keep-alive, pipelined
 * requests one after another. libmicrohttpd speaks it; listeners, limits and times are ours. Nothing blocks.
 * What a client may cost is bounded: 16 KiB of headers within 2 s (90 s after another request), a body of at
 * most 64 KiB (read and thrown away), 60 s to take the answer, a number of connections and of those of one
 * source: what goes when there are too many is said in client_limits.h.
 *
 * All calls on the loop's thread.
 */
#ifndef LIB_HTTP_SERVER_H
#define LIB_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#include "lib/addr.h"
#include "lib/loop.h"
#include "lib/rpc/peer_source.h"

struct http_server;
struct http_request;

/* Must lead to exactly one http_respond...(), at once or later. The request lives until then, also if its
 * client goes away or the server is closed in between. */
typedef void (*http_request_fn)(void *data, struct http_request *request);

/* name: for the log. connections: 0 stands for 64, per_source: for 16. */
struct http_limits {
    unsigned connections, per_source;
};

/* fn: called for each request, on the loop's thread. limits may be NULL. 0, -ENOMEM, or -errno of a
 * descriptor. */
int http_server_new(struct loop *loop, const char *name, http_request_fn fn, void *data,
                    const struct http_limits *limits, struct http_server **ret);
/* How many connections were closed or refused because there were too many. */
uint64_t http_server_turned_away(const struct http_server *server);
/* Closes listeners and connections. Requests that wait for an answer may be answered still; nobody hears
 * it. */
void http_server_close(struct http_server **server);

/* Any number of listeners. only_v6: for an IPv6 wildcard, do not take IPv4 too. ret_bound, if not NULL: with
 * the port that was chosen for port 0. 0 or -errno. */
int http_server_listen(struct http_server *server, const struct endpoint *at, bool only_v6,
                       struct endpoint *ret_bound);
/* Every address of the machine: both families by one socket, or IPv4 alone if ipv6 is false or there is no
 * IPv6. 0 or -errno. */
int http_server_listen_any(struct http_server *server, uint16_t port, bool ipv6, struct endpoint *ret_bound);
/* Takes the place of a socket that is there (the one of a process before, or an own one that another process
 * has moved away); it is removed at the end if it is still ours. 0, -ENAMETOOLONG, or
 * -errno. */
int http_server_listen_unix(struct http_server *server, const char *path, mode_t mode);
/* Closes all that it listens on; connections go on, and it may listen again. */
void http_server_unlisten(struct http_server *server);
/* Whether the socket at this path is this server's. */
bool http_server_holds_unix(const struct http_server *server, const char *path);

/* ---- requests ---- */

/* All of these know nothing of a request that nobody waits for any more. */
bool http_method_is(const struct http_request *request, const char *method);
/* Without the query, and decoded. */
bool http_path_is(const struct http_request *request, const char *path);
/* The same path; valid until the answer, never NULL. */
const char *http_path(const struct http_request *request);
/* Who asks, valid until the answer; or NULL. */
const struct peer_source *http_request_source(const struct http_request *request);
/* Value of the first header with this name, any case, or NULL. The library's, until the answer. There is at
 * most one Host. */
const char *http_header(const struct http_request *request, const char *name);
/* Whether Accept-Encoding has gzip, by name or by "*". */
bool http_request_accepts_gzip(const struct http_request *request);
/* Whether the target has parameters. */
bool http_has_query(const struct http_request *request);
/* One parameter of "level=info&reset", decoded. Its length, -ENOENT if it is not there, -EINVAL if it does
 * not fit (with the NUL) or has a NUL inside. A parameter without "=" is empty. */
int http_query(const struct http_request *request, const char *name, char *buf, size_t size);

struct http_answer {
    int status;
    const char *type;           /* content type; NULL: plain text */
    const char *allow;          /* of 405: the methods that are, or NULL */
    bool compress;              /* gzip, if the client takes it */
    const char *const *headers; /* more of them: names and values by turns, NULL behind the last; or NULL */
};

/* Takes the body, which was allocated with malloc(); NULL with len 0 is fine. The request is gone
 * afterwards. */
void http_respond(struct http_request *request, const struct http_answer *answer, char *body, size_t len);
/* A body that several answers share, compressed once. Its functions but http_body_new() on the loop's
 * thread. */
struct http_body;

/* Takes the text, also on failure, which is NULL. The result is a reference for the caller. gzip: keep a
 * compressed form too. */
struct http_body *http_body_new(char *text, size_t len, bool gzip);
void http_body_unref(struct http_body **body);
/* Its text, never NULL, which lives as long as the body; *ret_len is its length. */
const char *http_body_text(const struct http_body *body, size_t *ret_len);
/* The caller keeps its reference. */
void http_respond_body(struct http_request *request, const struct http_answer *answer,
                       struct http_body *body);

/*
 * A body that is made as the client takes it, however long it is: one piece is held at a time, and one is
 * made a turn. All on the loop's thread.
 */
struct http_source {
    /* Called as the client takes it: appends a piece. 1: there is more; 0: that was all; -errno: the
     * client sees the answer end in the middle. */
    int (*next)(void *data, FILE *out);
    void (*done)(void *data); /* called once, whatever the end */
    void *data;
};

/* Takes the source. */
void http_respond_source(struct http_request *request, const struct http_answer *answer,
                         const struct http_source *source);

/* Plain text, copied. */
void http_respond_text(struct http_request *request, int status, const char *text);

#endif
