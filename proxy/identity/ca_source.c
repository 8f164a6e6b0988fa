/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates from the mesh's CA (contract section 7), which are asked for anew when half of their life is
 * over.
 */
#define LOG_SCOPE "identity"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "proxy/identity/ca_client.h"
#include "proxy/identity/ca_roots.h"
#include "proxy/identity/identity_source.h"
#include "proxy/identity/identity_store.h"

#define CONCURRENT_MAX 8
#define ROOTS_SPREAD   20000 /* within which certificates are renewed after it has changed */

struct ca_source {
    struct identity_source source;
    struct loop *loop;
    struct ca_client client;
    struct ca_roots roots;
};

/* A request under way. */
struct ca_request {
    struct ca_source *source;
    struct identity *identity;
    struct grpc_call *call;
    EVP_PKEY *key;
    bool answered;
    struct issued issued;
    char error[200]; /* of the answer; "": it is good */
};

static struct ca_source *source_of(struct identity_source *s)
{
    return container_of(s, struct ca_source, source);
}

/* Its identity may be asked for again, or freed. */
static void end(struct ca_request *request)
{
    request->identity->asked = NULL;
    issued_clear(&request->issued);
    EVP_PKEY_free(request->key);
    ca_client_done(&request->source->client);
    loop_free_later(request->source->loop, request);
}

static void on_message(void *data, const uint8_t *message, size_t len)
{
    struct ca_request *q = data;

    if (q->answered)
        return;
    q->answered = true;
    if (certificate_response(message, len, identity_uri(q->identity), q->key, &q->issued.certificate,
                             q->error, sizeof(q->error)) == 0) {
        EVP_PKEY_up_ref(q->key);
        q->issued.key = q->key;
    }
}

static void on_end(void *data, enum grpc_status status, const char *text)
{
    struct ca_request *q = data;
    struct identity *identity = q->identity;
    struct issued issued = q->issued;
    bool good = status == GRPC_OK && q->answered && !*q->error;
    char error[200];

    if (status == GRPC_OK)
        snprintf(error, sizeof(error), "%s", q->answered ? q->error : "the CA's answer is empty");
    else
        snprintf(error, sizeof(error), "%s", text);
    q->issued = (struct issued){};
    end(q);
    if (good)
        identity_issued(identity, &issued);
    else
        identity_failed(identity,
                        status == GRPC_UNAVAILABLE || status == GRPC_DEADLINE_EXCEEDED
                            ? BRUMA_REASON_CA_UNREACHABLE
                            : BRUMA_REASON_CA_REFUSED,
                        error);
    issued_clear(&issued);
}

static const struct grpc_call_events call_events = {.message = on_message, .end = on_end};

static int request(struct identity_source *s, struct identity *identity)
{
    struct ca_source *source = source_of(s);
    struct ca_request *q = calloc(1, sizeof(*q));
    int r;

    if (!q)
        return -ENOMEM;
    q->source = source;
    q->identity = identity;
    r = ca_client_request(&source->client, identity_uri(identity), &call_events, q, &q->key, &q->call);
    if (r < 0) {
        free(q);
        return r;
    }
    identity->asked = q;
    return 0;
}

static void forget(struct identity_source *s, struct identity *identity)
{
    struct ca_request *q = identity->asked;

    (void)s;
    if (!q)
        return;
    grpc_call_cancel(&q->call);
    end(q);
}

static void free_source(struct identity_source *s)
{
    struct ca_source *source = source_of(s);

    ca_roots_clear(&source->roots);
    ca_client_close(&source->client);
    free(source);
}

/* Peers' roots come with the pod's own certificate, which is good for half a day more: without this, a node
 * would not know a new root until then. */
static void on_roots_changed(void *data)
{
    struct ca_source *source = data;

    log_info("the CA's roots have changed; certificates are renewed");
    identity_source_renew(&source->source, ROOTS_SPREAD);
}

static const struct identity_source_type type = {
    .name = "ca",
    .concurrent = CONCURRENT_MAX,
    .unreachable = BRUMA_REASON_CA_UNREACHABLE,
    .refused = BRUMA_REASON_CA_REFUSED,
    .request = request,
    .forget = forget,
    .free = free_source,
};

int ca_source_new(struct loop *loop, const struct identity_config *config, struct identity_source **ret)
{
    struct ca_source *source = calloc(1, sizeof(*source));
    int r;

    if (!source)
        return -ENOMEM;
    source->source.type = &type;
    source->loop = loop;
    r = ca_client_init(&source->client, loop, config);
    if (r < 0) {
        free(source);
        return r;
    }
    ca_roots_follow(&source->roots, loop, config->ca_roots, on_roots_changed, source);
    *ret = &source->source;
    return 0;
}
