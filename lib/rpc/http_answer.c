/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: whole ones, shared ones, and those that are made as the client takes them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rpc/http_accept.h"
#include "lib/rpc/http_connection.h"
#include "lib/rpc/http_gzip.h"
#include "lib/rpc/http_pieces.h"

#define COMPRESS_FROM 1024 /* bytes; less is not worth it */
#define QUEUED_MAX    (256u * 1024 * 1024)
#define BLOCK         (16 * 1024)

struct http_body {
    unsigned references;
    char *text, *gzip; /* gzip may be NULL */
    size_t text_len, gzip_len;
    struct http_server *server; /* whose queued counts it; NULL: nobody's */
};

struct http_body *http_body_new(char *text, size_t len, bool gzip)
{
    struct http_body *b = calloc(1, sizeof(*b));

    if (!b) {
        free(text);
        return NULL;
    }
    b->references = 1;
    b->text = text;
    b->text_len = len;
    if (gzip && len >= COMPRESS_FROM && http_gzip(text, len, &b->gzip, &b->gzip_len) < 0)
        b->gzip = NULL;
    return b;
}

const char *http_body_text(const struct http_body *b, size_t *ret_len)
{
    *ret_len = b->text_len;
    return b->text;
}

void http_body_unref(struct http_body **body)
{
    struct http_body *b = *body;

    *body = NULL;
    if (!b || --b->references)
        return;
    if (b->server)
        b->server->queued -= b->text_len + b->gzip_len;
    free(b->text);
    free(b->gzip);
    free(b);
}

/* Takes the response, which may be NULL. */
static void answer_with(struct http_request *request, const struct http_answer *answer, bool gzip,
                        struct MHD_Response *response)
{
    if (response) {
        MHD_add_response_header(response, "Content-Type",
                                answer->type ? answer->type : "text/plain; charset=utf-8");
        if (gzip)
            MHD_add_response_header(response, "Content-Encoding", "gzip");
        if (answer->compress)
            MHD_add_response_header(response, "Vary", "Accept-Encoding");
        if (answer->allow)
            MHD_add_response_header(response, "Allow", answer->allow);
        for (const char *const *h = answer->headers; h && *h; h += 2)
            MHD_add_response_header(response, h[0], h[1]);
    }
    http_connection_answer(request, answer->status, response);
}

static void unref(void *data)
{
    struct http_body *b = data;

    http_body_unref(&b);
}

void http_respond_body(struct http_request *request, const struct http_answer *answer, struct http_body *body)
{
    struct http_server *s = request->connection ? request->connection->server : NULL;
    size_t size = body->text_len + body->gzip_len;
    struct MHD_Response *response;
    bool gzip;

    if (s && !body->server && s->queued && s->queued + size > QUEUED_MAX) {
        http_respond(request, &(struct http_answer){.status = 503}, NULL, 0);
        return;
    }
    if (s && !body->server) {
        body->server = s;
        s->queued += size;
    }
    gzip = answer->compress && body->gzip && http_request_accepts_gzip(request);
    body->references++;
    response = MHD_create_response_from_buffer_with_free_callback_cls(
        gzip ? body->gzip_len : body->text_len, gzip ? body->gzip : body->text, unref, body);
    if (!response)
        unref(body);
    answer_with(request, answer, gzip, response);
}

void http_respond(struct http_request *request, const struct http_answer *answer, char *text, size_t len)
{
    struct http_body *body = http_body_new(text, len, answer->compress && http_request_accepts_gzip(request));

    if (body)
        http_respond_body(request, answer, body);
    else
        http_connection_answer(request, answer->status, NULL);
    http_body_unref(&body);
}

void http_respond_text(struct http_request *request, int status, const char *text)
{
    struct http_answer answer = {.status = status};
    char *body = strdup(text);

    http_respond(request, &answer, body, body ? strlen(body) : 0);
}

/* ---- made as the client takes it ---- */

struct answer_stream {
    struct http_pieces *pieces;
    char *piece;
    size_t len, sent; /* of the piece */
    bool last;
};

static ssize_t read_stream(void *data, uint64_t position, char *buf, size_t max)
{
    struct answer_stream *s = data;
    size_t n;

    (void)position;
    while (s->sent == s->len) {
        int r;

        free(s->piece);
        s->piece = NULL;
        s->sent = s->len = 0;
        if (s->last)
            return MHD_CONTENT_READER_END_OF_STREAM;
        r = http_pieces_next(s->pieces, &s->piece, &s->len);
        if (r < 0)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        s->last = r == 0;
    }
    n = s->len - s->sent < max ? s->len - s->sent : max;
    memcpy(buf, s->piece + s->sent, n);
    s->sent += n;
    return (ssize_t)n;
}

static void free_stream(void *data)
{
    struct answer_stream *s = data;

    http_pieces_free(&s->pieces);
    free(s->piece);
    free(s);
}

void http_respond_source(struct http_request *request, const struct http_answer *answer,
                         const struct http_source *source)
{
    bool gzip = answer->compress && http_request_accepts_gzip(request);
    struct answer_stream *s = calloc(1, sizeof(*s));
    struct MHD_Response *response;

    /* Some versions of the library end the answer to HEAD with an empty chunk, which is no part of it. */
    if (!s || http_method_is(request, "HEAD")) {
        free(s);
        source->done(source->data);
        http_respond(request, answer, NULL, 0);
        return;
    }
    if (http_pieces_new(source, gzip, &s->pieces) < 0) {
        free(s);
        http_respond_text(request, 503, "out of memory\n");
        return;
    }
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, s, free_stream);
    if (!response)
        free_stream(s);
    answer_with(request, answer, gzip, response);
}
