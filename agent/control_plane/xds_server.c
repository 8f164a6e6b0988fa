/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/xds_server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/control_plane/grpc_server.h"
#include "lib/cleanup.h"
#include "lib/list.h"
#include "lib/proto/discovery.pb-c.h"

#define LOG_SCOPE "xds"
#include "lib/log.h"

#define REMOVED_NAMES 5000u /* in one response */
#define RETRY_MS      20u   /* between looks at a stream that does not take more */

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest discovery_request;
typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse discovery_response;
typedef Envoy__Service__Discovery__V3__Resource discovery_resource;

static const char *const type_urls[XDS_TYPES] = {XDS_TYPE_AUTHORIZATION, XDS_TYPE_ADDRESS};

struct xds_server {
    struct loop *loop;
    const struct xds_transport *transport;
    struct xds_resources *resources[XDS_TYPES];
    struct list streams;
    struct loop_timer push;
    char version[32]; /* of this run of the server, for clients' logs */
    bool ready;
    uint64_t nonce, refused, turn;
};

struct watch {
    struct xds_subscriber *subscriber; /* NULL until the type is asked for */
    bool answer_due;                   /* even if there is nothing to say */
    uint32_t names;
    uint64_t last_nonce; /* sent */
};

struct xds_stream {
    struct list node;
    struct xds_server *server;
    void *request;
    char node_id[256];
    struct watch watches[XDS_TYPES];
    bool ended, closed; /* by us; over */
    uint64_t turn;      /* of the last push */
};

static int grpc_transport_send(void *request, const uint8_t *message, size_t len)
{
    return grpc_request_send(request, message, len);
}

static size_t grpc_transport_queued(void *request)
{
    return grpc_request_queued(request);
}

static void grpc_transport_end(void *request, enum grpc_status status, const char *text)
{
    grpc_request_end(request, status, text);
}

const struct xds_transport xds_transport_grpc = {grpc_transport_send, grpc_transport_queued,
                                                 grpc_transport_end};

/* ---- sending ---- */

static void end_stream(struct xds_stream *stream, enum grpc_status status, const char *text)
{
    if (stream->ended || stream->closed)
        return;
    stream->ended = true;
    log_warn("a stream is ended\tnode=%s error=\"%s\"", stream->node_id, text);
    stream->server->transport->end(stream->request, status, text);
}

struct batch {
    struct xds_entry entries[XDS_RESPONSE_RESOURCES];
    discovery_resource resources[XDS_RESPONSE_RESOURCES], *resource_list[XDS_RESPONSE_RESOURCES];
    Google__Protobuf__Any values[XDS_RESPONSE_RESOURCES];
    char *removed[REMOVED_NAMES];
    int entries_len, removed_len;
};

/* One at a time, so that a response ends once it is large enough. */
static int fill_batch(struct watch *w, struct batch *b)
{
    size_t bytes = 0;
    int n = 1;

    while (b->entries_len < (int)XDS_RESPONSE_RESOURCES && bytes < XDS_RESPONSE_BYTES) {
        n = xds_subscriber_take(w->subscriber, &b->entries[b->entries_len], 1);
        if (n <= 0)
            break;
        bytes += b->entries[b->entries_len++].len;
    }
    if (n == 0) {
        n = xds_subscriber_take_removed(w->subscriber, b->removed, REMOVED_NAMES);
        b->removed_len = n > 0 ? n : 0;
    }
    return n < 0 && !b->entries_len ? n : 0;
}

static void free_batch(struct batch *b)
{
    for (int i = 0; i < b->entries_len; i++)
        xds_entry_clear(&b->entries[i]);
    for (int i = 0; i < b->removed_len; i++)
        free(b->removed[i]);
    free(b);
}

static int send_response(struct xds_stream *stream, const char *type_url, uint64_t nonce, struct batch *b)
{
    discovery_response response = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
    _cleanup_free_ uint8_t *bytes = NULL;
    char nonce_text[24];
    size_t len;

    snprintf(nonce_text, sizeof(nonce_text), "%" PRIu64, nonce);
    response.system_version_info = stream->server->version;
    response.type_url = (char *)type_url;
    response.nonce = nonce_text;
    for (int i = 0; b && i < b->entries_len; i++) {
        envoy__service__discovery__v3__resource__init(&b->resources[i]);
        google__protobuf__any__init(&b->values[i]);
        b->values[i].type_url = (char *)type_url;
        b->values[i].value.data = b->entries[i].value;
        b->values[i].value.len = b->entries[i].len;
        b->resources[i].name = (char *)b->entries[i].name;
        b->resources[i].version = b->entries[i].version;
        b->resources[i].resource = &b->values[i];
        b->resources[i].aliases = b->entries[i].aliases;
        b->resources[i].n_aliases = b->entries[i].aliases_len;
        b->resource_list[i] = &b->resources[i];
    }
    if (b) {
        response.resources = b->resource_list;
        response.n_resources = (size_t)b->entries_len;
        response.removed_resources = b->removed;
        response.n_removed_resources = (size_t)b->removed_len;
    }
    len = envoy__service__discovery__v3__delta_discovery_response__get_packed_size(&response);
    bytes = malloc(len + 1);
    if (!bytes)
        return -ENOMEM;
    envoy__service__discovery__v3__delta_discovery_response__pack(&response, bytes);
    log_debug("response\tnode=%s type=%s nonce=%s resources=%zu removed=%zu bytes=%zu", stream->node_id,
              type_url, nonce_text, response.n_resources, response.n_removed_resources, len);
    return stream->server->transport->send(stream->request, bytes, len);
}

static int answer(struct xds_stream *stream, enum xds_type type)
{
    struct watch *w = &stream->watches[type];
    struct batch *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return -ENOMEM;
    r = fill_batch(w, b);
    if (r == 0 && (b->entries_len || b->removed_len || w->answer_due)) {
        w->answer_due = false;
        w->last_nonce = ++stream->server->nonce;
        r = send_response(stream, type_urls[type], w->last_nonce, b);
    }
    free_batch(b);
    return r;
}

static bool pending(const struct watch *w)
{
    return w->subscriber && (w->answer_due || xds_subscriber_pending(w->subscriber));
}

/* Returns true if there is more to send than the stream takes now. */
static bool push_stream(struct xds_stream *stream)
{
    struct xds_server *server = stream->server;

    for (int type = 0; type < XDS_TYPES; type++) {
        while (!stream->ended && !stream->closed && pending(&stream->watches[type])) {
            int r;

            if (server->transport->queued(stream->request) >= XDS_QUEUED_BYTES)
                return true;
            r = answer(stream, (enum xds_type)type);
            if (r == 0)
                continue;
            /* What the lost response held counts as sent, so the client has to begin anew. */
            end_stream(stream, GRPC_UNAVAILABLE, "a response cannot be sent");
            return false;
        }
    }
    return false;
}

/* One that was not served in this turn. Not a walk along the list: a send that fails may end several streams.
 */
static struct xds_stream *next_stream(struct xds_server *server)
{
    struct xds_stream *stream;

    list_for_each (stream, &server->streams, node) {
        if (stream->turn != server->turn)
            return stream;
    }
    return NULL;
}

void xds_server_push(struct xds_server *server)
{
    struct xds_stream *stream;
    bool more = false;

    server->turn++;
    while (server->ready && (stream = next_stream(server))) {
        stream->turn = server->turn;
        more |= push_stream(stream);
    }
    if (more)
        loop_timer_set(server->loop, &server->push, RETRY_MS);
}

static void on_push(struct loop_timer *timer)
{
    xds_server_push(container_of(timer, struct xds_server, push));
}

/* ---- requests ---- */

static bool has_name(char **names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(names[i], name))
            return true;
    }
    return false;
}

static bool is_star(const char *name)
{
    return !strcmp(name, "*");
}

/* The first request for a type: what is wanted, and what the client has from an earlier stream. */
static int open_watch(struct xds_stream *stream, enum xds_type type, const discovery_request *q)
{
    struct watch *w = &stream->watches[type];
    bool star = has_name(q->resource_names_subscribe, q->n_resource_names_subscribe, "*");
    bool no_star = has_name(q->resource_names_unsubscribe, q->n_resource_names_unsubscribe, "*");
    bool wildcard = (star || !q->n_resource_names_subscribe) && !no_star;
    int r = xds_subscriber_open(stream->server->resources[type], wildcard, &w->subscriber);

    for (size_t i = 0; i < q->n_initial_resource_versions && r == 0; i++)
        r = xds_subscriber_holds(w->subscriber, q->initial_resource_versions[i]->key,
                                 q->initial_resource_versions[i]->value);
    if (r == 0)
        log_info("subscribed\tnode=%s type=%s resources=%s held=%zu", stream->node_id, type_urls[type],
                 wildcard ? "all" : "by_name", q->n_initial_resource_versions);
    w->answer_due = true;
    return r;
}

static int change_names(struct xds_stream *stream, enum xds_type type, const discovery_request *q, bool first)
{
    struct watch *w = &stream->watches[type];
    int r = 0;

    for (size_t i = 0; i < q->n_resource_names_unsubscribe && r == 0; i++) {
        const char *name = q->resource_names_unsubscribe[i];

        if (!is_star(name))
            xds_subscriber_remove(w->subscriber, name);
        else if (!first)
            r = xds_subscriber_set_wildcard(w->subscriber, false);
    }
    for (size_t i = 0; i < q->n_resource_names_subscribe && r == 0; i++) {
        const char *name = q->resource_names_subscribe[i];

        if (is_star(name)) {
            if (!first)
                r = xds_subscriber_set_wildcard(w->subscriber, true);
            continue;
        }
        if (++w->names > XDS_SUBSCRIBED_NAMES)
            return -E2BIG;
        r = xds_subscriber_add(w->subscriber, name);
    }
    return r;
}

static void note_answer(struct xds_stream *stream, enum xds_type type, const discovery_request *q)
{
    char last[24], quoted[1024];

    snprintf(last, sizeof(last), "%" PRIu64, stream->watches[type].last_nonce);
    if (q->error_detail) {
        stream->server->refused++;
        log_warn("a client refuses resources\tnode=%s type=%s nonce=%s error=%s", stream->node_id,
                 type_urls[type], q->response_nonce,
                 log_quote(quoted, sizeof(quoted), q->error_detail->message));
    } else {
        log_debug("acknowledged\tnode=%s type=%s nonce=%s%s", stream->node_id, type_urls[type],
                  q->response_nonce, strcmp(last, q->response_nonce) ? " stale=true" : "");
    }
}

static int handle(struct xds_stream *stream, const discovery_request *q)
{
    int type = 0, r = 0;
    bool first;

    while (type < XDS_TYPES && strcmp(type_urls[type], q->type_url) != 0)
        type++;
    if (type == XDS_TYPES) {
        /* A type we do not have has no resources. */
        log_debug("unknown type\tnode=%s type=%.200s", stream->node_id, q->type_url);
        return *q->response_nonce ? 0 : send_response(stream, q->type_url, ++stream->server->nonce, NULL);
    }
    if (*q->response_nonce)
        note_answer(stream, (enum xds_type)type, q);
    first = !stream->watches[type].subscriber;
    if (first)
        r = open_watch(stream, (enum xds_type)type, q);
    if (r == 0)
        r = change_names(stream, (enum xds_type)type, q, first);
    return r;
}

void xds_stream_message(struct xds_stream *stream, const uint8_t *message, size_t len)
{
    discovery_request *q;
    int r;

    if (stream->ended || stream->closed)
        return;
    q = envoy__service__discovery__v3__delta_discovery_request__unpack(NULL, len, message);
    if (!q) {
        end_stream(stream, GRPC_INVALID_ARGUMENT, "the request is not a DeltaDiscoveryRequest");
        return;
    }
    if (!*stream->node_id && q->node && *q->node->id) {
        snprintf(stream->node_id, sizeof(stream->node_id), "%s", q->node->id);
        for (char *p = stream->node_id; *p; p++) {
            if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '"')
                *p = '?';
        }
    }
    if (!*stream->node_id) {
        end_stream(stream, GRPC_INVALID_ARGUMENT, "the first request must carry node.id");
    } else {
        r = handle(stream, q);
        if (r == -E2BIG)
            end_stream(stream, GRPC_RESOURCE_EXHAUSTED, "more than 100000 names are subscribed to");
        else if (r < 0)
            end_stream(stream, GRPC_INTERNAL, strerror(-r));
        else
            xds_server_changed(stream->server);
    }
    envoy__service__discovery__v3__delta_discovery_request__free_unpacked(q, NULL);
}

/* ---- streams and the server ---- */

int xds_stream_open(struct xds_server *server, void *request, struct xds_stream **ret)
{
    struct xds_stream *stream = calloc(1, sizeof(*stream));

    if (!stream)
        return -ENOMEM;
    stream->server = server;
    stream->request = request;
    list_add_tail(&server->streams, &stream->node);
    *ret = stream;
    return 0;
}

void xds_stream_close(struct xds_stream *stream)
{
    stream->closed = true;
    list_del(&stream->node);
    for (int type = 0; type < XDS_TYPES; type++)
        xds_subscriber_close(&stream->watches[type].subscriber);
    if (*stream->node_id)
        log_info("stream over\tnode=%s", stream->node_id);
    /* We may be called from inside a send of ours. */
    loop_free_later(stream->server->loop, stream);
}

int xds_server_new(struct loop *loop, const struct xds_transport *transport, struct xds_server **ret)
{
    struct xds_server *server = calloc(1, sizeof(*server));
    int r = 0;

    if (!server)
        return -ENOMEM;
    server->loop = loop;
    server->transport = transport;
    list_init(&server->streams);
    loop_timer_init(&server->push, on_push);
    snprintf(server->version, sizeof(server->version), "%lld", (long long)time(NULL));
    for (int type = 0; type < XDS_TYPES && r == 0; type++)
        r = xds_resources_new(&server->resources[type]);
    if (r < 0) {
        xds_server_free(&server);
        return r;
    }
    *ret = server;
    return 0;
}

void xds_server_free(struct xds_server **server)
{
    struct xds_server *s = *server;

    if (!s)
        return;
    loop_timer_cancel(&s->push);
    for (int type = 0; type < XDS_TYPES; type++)
        xds_resources_free(&s->resources[type]);
    free(s);
    *server = NULL;
}

struct xds_resources *xds_server_resources(struct xds_server *server, enum xds_type type)
{
    return server->resources[type];
}

void xds_server_ready(struct xds_server *server)
{
    server->ready = true;
    xds_server_changed(server);
}

void xds_server_changed(struct xds_server *server)
{
    if (server->ready && !list_empty(&server->streams))
        loop_timer_set(server->loop, &server->push, 0);
}

unsigned xds_server_streams(const struct xds_server *server)
{
    unsigned n = 0;

    for (const struct list *l = server->streams.next; l != &server->streams; l = l->next)
        n++;
    return n;
}

uint64_t xds_server_refused(const struct xds_server *server)
{
    return server->refused;
}
