/* SPDX-License-Identifier: Apache-2.0 */
/* What a request says. */
#include <string.h>

#include "lib/rpc/http_connection.h"
#include "lib/rpc/http_gzip.h"

const struct http_head *http_request_head(const struct http_request *request)
{
    return &request->head;
}

static bool span_is(struct http_span span, const char *text)
{
    return span.len == strlen(text) && !memcmp(span.at, text, span.len);
}

bool http_method_is(const struct http_request *request, const char *method)
{
    return span_is(request->head.method, method);
}

bool http_path_is(const struct http_request *request, const char *path)
{
    return span_is(request->head.path, path);
}

const struct peer_source *http_request_source(const struct http_request *request)
{
    return request->connection ? &request->connection->member.source : NULL;
}

int http_query(const struct http_request *request, const char *name, char *buf, size_t size)
{
    return http_query_find(request->head.query, name, buf, size);
}

bool http_request_accepts_gzip(const struct http_request *request)
{
    return http_accepts_gzip(http_head_find(&request->head, "accept-encoding"));
}
