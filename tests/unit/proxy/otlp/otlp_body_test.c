/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent, decoded back. */
#include "proxy/otlp/otlp_body.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "lib/proto/otlp.pb-c.h"

static struct otlp_texts texts = {.endpoint = "http://collector:4318",
                                  .endpoints = {"", "", ""},
                                  .exporters = {"otlp", "otlp", "otlp"},
                                  .protocol = "http/protobuf",
                                  .compression = "none",
                                  .headers = "",
                                  .certificate = "",
                                  .sampler = "always_on",
                                  .sampler_argument = "1",
                                  .service_name = "mine",
                                  .resource_attributes = "",
                                  .node_name = "node-a",
                                  .pod_name = "",
                                  .pod_namespace = "",
                                  .cluster_name = ""};

static struct otlp_record *record(const char *word)
{
    Otlp__LogRecord message = OTLP__LOG_RECORD__INIT;
    struct otlp_record *r;

    message.severity_text = (char *)(uintptr_t)word;
    r = otlp_record_new(otlp__log_record__get_packed_size(&message), 1);
    otlp__log_record__pack(&message, r->data);
    return r;
}

static Otlp__LogsRequest *sent(bool gzip)
{
    struct otlp_batch batch = {};
    struct otlp_config config;
    struct otlp_body body;
    Otlp__LogsRequest *request;
    char error[200];

    texts.compression = gzip ? "gzip" : "none";
    cr_assert_eq(otlp_config_make(&texts, &config, error, sizeof(error)), 0, "%s", error);
    otlp_batch_add(&batch, record("first"));
    otlp_batch_add(&batch, record("second"));
    cr_assert_eq(otlp_body_make(&config, &batch, &body), 0);
    if (gzip) {
        uint8_t plain[4096];
        z_stream z = {.next_in = (Bytef *)body.data,
                      .avail_in = (uInt)body.len,
                      .next_out = plain,
                      .avail_out = sizeof(plain)};

        cr_assert_eq(inflateInit2(&z, 31), Z_OK);
        cr_assert_eq(inflate(&z, Z_FINISH), Z_STREAM_END);
        inflateEnd(&z);
        request = otlp__logs_request__unpack(NULL, z.total_out, plain);
    } else {
        request = otlp__logs_request__unpack(NULL, body.len, (uint8_t *)body.data);
    }
    free(body.data);
    otlp_batch_clear(&batch);
    otlp_config_clear(&config);
    return request;
}

static void check(Otlp__LogsRequest *request)
{
    Otlp__ScopeLogs *scope;
    Otlp__Resource *resource;
    bool named = false;

    cr_assert(request && request->n_resource_logs == 1);
    cr_assert_eq(request->resource_logs[0]->n_scope_logs, 1);
    resource = request->resource_logs[0]->resource;
    scope = request->resource_logs[0]->scope_logs[0];
    for (size_t i = 0; i < resource->n_attributes; i++)
        named |= !strcmp(resource->attributes[i]->key, "service.name") &&
                 !strcmp(resource->attributes[i]->value->string_value, "mine");
    cr_expect(named);
    cr_expect_str_eq(scope->scope->name, "bruma");
    cr_expect_str_eq(scope->scope->version, BRUMA_VERSION);
    cr_assert_eq(scope->n_log_records, 2);
    cr_expect_str_eq(scope->log_records[0]->severity_text, "first");
    cr_expect_str_eq(scope->log_records[1]->severity_text, "second");
    otlp__logs_request__free_unpacked(request, NULL);
}

Test(otlp_body, plain)
{
    check(sent(false));
}

Test(otlp_body, compressed)
{
    check(sent(true));
}
