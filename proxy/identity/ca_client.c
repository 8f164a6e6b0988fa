/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/ca_client.h"

#include <stdlib.h>

#include "proxy/identity/certificate.h"

#define METHOD            "/istio.v1.auth.IstioCertificateService/CreateCertificate"
#define CALL_MILLISECONDS 10000
#define CHANNEL_IDLE      30000 /* milliseconds; then it is closed */

static void on_idle(struct loop_timer *timer)
{
    struct ca_client *c = container_of(timer, struct ca_client, idle);

    if (!c->requests)
        grpc_channel_close(&c->channel);
}

int ca_client_init(struct ca_client *c, struct loop *loop, const struct identity_config *config)
{
    *c = (struct ca_client){.loop = loop, .config = config};
    loop_timer_init(&c->idle, on_idle);
    return server_address_parse(config->ca_address, &c->address);
}

void ca_client_close(struct ca_client *c)
{
    loop_timer_cancel(&c->idle);
    grpc_channel_close(&c->channel);
}

static void on_down(void *data, const char *why)
{
    struct ca_client *c = data;

    (void)why; /* its calls have ended with that text */
    grpc_channel_close(&c->channel);
}

/* Roots are read again for each connection, the token for each call. */
static int open_channel(struct ca_client *c)
{
    struct grpc_channel_config config = {
        .host = c->address.host,
        .port = c->address.port,
        .alternate_host = c->config->alternate_host,
        .plaintext = c->address.plaintext,
    };
    char *roots = NULL;
    int r;

    if (c->channel)
        return 0;
    r = config.plaintext ? 0 : roots_load(c->config->ca_roots, &roots);
    config.roots_pem = roots;
    if (r == 0)
        r = grpc_channel_open(c->loop, &config, on_down, c, &c->channel);
    free(roots);
    return r;
}

void ca_client_done(struct ca_client *c)
{
    if (--c->requests == 0)
        loop_timer_set(c->loop, &c->idle, CHANNEL_IDLE);
}

int ca_client_request(struct ca_client *c, const char *identity, const struct grpc_call_events *events,
                      void *data, EVP_PKEY **ret_key, struct grpc_call **ret_call)
{
    struct credential_headers headers = {};
    struct wire_writer message = {};
    struct grpc_call *call = NULL;
    EVP_PKEY *key = NULL;
    int r;

    c->requests++;
    r = open_channel(c);
    if (r == 0)
        r = credential_headers_load(c->config->auth_token, c->config->token_file, c->config->cluster_id,
                                    "CA_HEADER_", &headers);
    if (r == 0)
        r = certificate_request(identity, c->config->for_itself, c->config->ttl_seconds, &key, &message);
    if (r == 0)
        r = grpc_call_open(c->channel, METHOD, headers.headers, headers.len, CALL_MILLISECONDS, events, data,
                           &call);
    if (r == 0)
        r = grpc_call_send(call, message.data, message.len, true);
    credential_headers_free(&headers);
    wire_writer_clear(&message);
    if (r < 0) {
        grpc_call_cancel(&call);
        EVP_PKEY_free(key);
        ca_client_done(c);
        return r;
    }
    *ret_key = key;
    *ret_call = call;
    return 0;
}
