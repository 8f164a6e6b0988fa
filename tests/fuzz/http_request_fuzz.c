/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of HTTP requests: the parser, and that a head is the same however much follows it. */
#include <stdlib.h>
#include <string.h>

#include "lib/rpc/http_gzip.h"
#include "lib/rpc/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(struct http_span span, const char *begin, size_t len)
{
    if (span.at && (span.at < begin || span.at + span.len > begin + len))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_head head, again;
    int status = 0, n, m;
    char value[64];
    char *text = malloc(size + 1);

    if (!text)
        return 0;
    memcpy(text, data, size);
    n = http_parse(text, size, &head, &status);
    if (n < 0 && (status < 400 || status > 599))
        abort();
    if (n > 0) {
        if ((size_t)n > size || n > HTTP_HEAD_MAX)
            abort();
        inside(head.method, text, (size_t)n);
        inside(head.query, text, (size_t)n);
        for (size_t i = 0; i < head.headers_len; i++) {
            inside(head.headers[i].name, text, (size_t)n);
            inside(head.headers[i].value, text, (size_t)n);
        }
        m = http_parse(text, (size_t)n, &again, &status);
        if (m != n || again.headers_len != head.headers_len || again.content_length != head.content_length)
            abort();
        http_query_find(head.query, "level", value, sizeof(value));
        http_accepts_gzip(http_head_find(&head, "accept-encoding"));
        http_list_accepts(http_head_find(&head, "accept"), "application/openmetrics-text", NULL);
    }
    free(text);
    return 0;
}
