/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_body.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/rpc/http_gzip.h"
#include "proxy/wire/wire.h"

#define FIELD_HEAD 16 /* bytes at most in front of a field's own */

/* Numbers of fields; see lib/proto/otlp.proto. */
enum { REQUEST_RESOURCE = 1, RESOURCE_ITSELF = 1, RESOURCE_SCOPE = 2, SCOPE_ITSELF = 1, SCOPE_RECORD = 2 };
enum { SCOPE_NAME = 1, SCOPE_VERSION = 2 };

static void put_scope(struct wire_writer *w, const struct otlp_batch *batch)
{
    struct wire_writer part = {}, scope = {};

    wire_put_string(&scope, SCOPE_NAME, "bruma");
    wire_put_string(&scope, SCOPE_VERSION, BRUMA_VERSION);
    wire_writer_reserve(&part, batch->bytes + batch->records * FIELD_HEAD + 64);
    wire_put_message(&part, SCOPE_ITSELF, &scope);
    for (const struct otlp_record *r = batch->first; r; r = r->next)
        wire_put_bytes(&part, SCOPE_RECORD, r->data, r->len);
    wire_put_message(w, RESOURCE_SCOPE, &part);
}

int otlp_body_make(const struct otlp_config *config, const struct otlp_batch *batch, struct otlp_body *ret)
{
    struct wire_writer request = {}, resource = {};
    int r = 0;

    wire_put_bytes(&resource, RESOURCE_ITSELF, config->resource, config->resource_len);
    put_scope(&resource, batch);
    wire_put_message(&request, REQUEST_RESOURCE, &resource);
    if (request.failed) {
        wire_writer_clear(&request);
        return -ENOMEM;
    }
    if (config->gzip) {
        r = http_gzip((const char *)request.data, request.len, &ret->data, &ret->len);
        wire_writer_clear(&request);
        return r;
    }
    ret->data = (char *)request.data;
    ret->len = request.len;
    return 0;
}
