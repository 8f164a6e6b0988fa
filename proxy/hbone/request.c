/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/hbone/tunnel_data.h"
#include "proxy/telemetry/tracing.h"

void request_clear(struct request *request)
{
    free(request->authority);
    free(request->baggage);
    free(request->forwarded);
    free(request->forwarded_network);
}

static bool is(const uint8_t *name, size_t len, const char *text)
{
    return len == strlen(text) && !memcmp(name, text, len);
}

/* The first value counts, but for baggage, whose lines are joined. */
static void keep_header(char **at, const uint8_t *value, size_t len, bool join)
{
    size_t had = *at ? strlen(*at) : 0;
    char *grown;

    if (memchr(value, '\0', len) || (had && !join))
        return;
    grown = realloc(*at, had + len + 2);
    if (!grown)
        return;
    if (had)
        grown[had++] = ',';
    memcpy(grown + had, value, len);
    grown[had + len] = '\0';
    *at = grown;
}

/* What is none is as if it were not there. */
static void keep_traceparent(struct request *r, const uint8_t *value, size_t len)
{
    struct trace_parent parent;

    if (r->traceparent[0] || !trace_parent_read((const char *)value, len, &parent))
        return;
    memcpy(r->traceparent, value, TRACEPARENT_LEN);
    r->traceparent[TRACEPARENT_LEN] = '\0';
}

void request_keep_header(struct request *r, const uint8_t *name, size_t name_len, const uint8_t *value,
                         size_t value_len)
{
    r->header_bytes += name_len + value_len + 32; /* as RFC 9113 section 6.5.2 counts */
    if (r->header_bytes > REQUEST_HEADERS_MAX) {
        r->too_large = true;
        return;
    }
    if (is(name, name_len, ":method")) {
        size_t n = value_len < sizeof(r->method) - 1 ? value_len : sizeof(r->method) - 1;

        memcpy(r->method, value, n);
        r->method[n] = '\0';
    } else if (is(name, name_len, ":authority")) {
        keep_header(&r->authority, value, value_len, false);
    } else if (is(name, name_len, "baggage")) {
        keep_header(&r->baggage, value, value_len, true);
    } else if (is(name, name_len, "forwarded")) {
        keep_header(&r->forwarded, value, value_len, false);
    } else if (is(name, name_len, "x-forwarded-network")) {
        keep_header(&r->forwarded_network, value, value_len, false);
    } else if (is(name, name_len, "traceparent")) {
        keep_traceparent(r, value, value_len);
    }
}

#define ANSWER_BAGGAGE_MAX 4096

void request_keep_answer(char **baggage, const uint8_t *name, size_t name_len, const uint8_t *value,
                         size_t value_len)
{
    size_t had = *baggage ? strlen(*baggage) : 0;

    if (is(name, name_len, "baggage") && had + value_len < ANSWER_BAGGAGE_MAX)
        keep_header(baggage, value, value_len, true);
}

static nghttp2_nv header(const char *name, size_t name_len, const char *value, size_t value_len,
                         uint8_t flags)
{
    return (nghttp2_nv){.name = (uint8_t *)name,
                        .namelen = name_len,
                        .value = (uint8_t *)value,
                        .valuelen = value_len,
                        .flags = flags};
}

#define HEADER(name, value, len, flags) header(name, sizeof(name) - 1, value, len, flags)

/* That of its span. A connection that has none is in a trace of its own that nobody tells of. */
static void traceparent(struct worker *worker, const struct flow *flow, char buf[TRACEPARENT_LEN + 1])
{
    const struct trace *own = tracing_of(flow);
    struct trace random;

    if (!own)
        random = (struct trace){worker_random(worker), worker_random(worker), worker_random(worker), 0};
    trace_parent_write(own ? own : &random, own != NULL, buf);
}

static size_t forwarded(const struct stream *s, char *buf, size_t size)
{
    char client[ENDPOINT_TEXT_LEN];
    int n;

    endpoint_format(&s->c.client, client);
    if (s->c.flow.service)
        n = snprintf(buf, size, "for=\"%s\";host=%s", client, s->c.flow.service->hostname);
    else
        n = snprintf(buf, size, "for=\"%s\"", client);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

int request_submit(struct tunnel *t, struct stream *s)
{
    char baggage[1024], trace[TRACEPARENT_LEN + 1], by[512];
    size_t baggage_len = baggage_format(s->c.flow.source, baggage, sizeof(baggage));
    size_t by_len = forwarded(s, by, sizeof(by));
    const char *authority = s->c.flow.hbone_authority;
    const char *network = t->wp->worker->settings->network;
    nghttp2_nv nv[6];
    size_t len = 5;
    int32_t id;

    traceparent(t->wp->worker, &s->c.flow, trace);
    nv[0] = HEADER(":method", "CONNECT", 7, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE);
    nv[1] = HEADER(":authority", authority, strlen(authority), NGHTTP2_NV_FLAG_NO_COPY_NAME);
    nv[2] = HEADER("baggage", baggage, baggage_len, NGHTTP2_NV_FLAG_NO_COPY_NAME);
    /* these two never come again: they would only push useful entries out of the header table */
    nv[3] = HEADER("forwarded", by, by_len, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX);
    nv[4] = HEADER("traceparent", trace, TRACEPARENT_LEN,
                   NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX);
    if (t->inner)
        nv[len++] = HEADER("x-forwarded-network", network, strlen(network), NGHTTP2_NV_FLAG_NO_COPY_NAME);
    id = nghttp2_submit_headers(t->session, NGHTTP2_FLAG_NONE, -1, NULL, nv, len, s);
    if (id < 0)
        return id == NGHTTP2_ERR_NOMEM ? -ENOMEM : -ECONNRESET;
    s->id = id;
    return 0;
}

int request_respond(struct tunnel *t, struct stream *s, int status)
{
    char text[4], baggage[1024];
    nghttp2_nv nv[2];
    nghttp2_data_provider provider = tunnel_data_provider(s);
    size_t len = 1;
    int r;

    snprintf(text, sizeof(text), "%03d", status);
    nv[0] = HEADER(":status", text, 3, NGHTTP2_NV_FLAG_NO_COPY_NAME);
    if (status == 200 && t->wp->worker->settings->response_baggage && s->c.flow.destination) {
        size_t n = baggage_format(s->c.flow.destination, baggage, sizeof(baggage));

        nv[len++] = HEADER("baggage", baggage, n, NGHTTP2_NV_FLAG_NO_COPY_NAME);
    }
    r = nghttp2_submit_response(t->session, s->id, nv, len, status == 200 ? &provider : NULL);
    return r ? -ECONNRESET : 0;
}
