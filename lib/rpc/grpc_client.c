/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grpc.h"
#include "grpc_message.h"
#include "h2_connection.h"

#define CONNECT_LIMIT_MILLISECONDS 5000
#define PING_INTERVAL_MILLISECONDS 30000
#define PING_TIMEOUT_MILLISECONDS  10000
#define STREAM_WINDOW              (1024 * 1024)
#define CONNECTION_WINDOW          (4 * 1024 * 1024)
#define HEADERS_MAX                24

static const char suites[] = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
static const unsigned char alpn[] = {2, 'h', '2'};

struct grpc_channel {
    struct h2_connection connection;
    struct loop *loop;
    struct list calls;
    SSL_CTX *tls;
    char authority[300];
    size_t max_message;
    bool ready, dead;
    struct loop_timer ping;
    uint64_t ping_sent; /* 0: none outstanding */
    grpc_channel_down_fn down;
    void *data;
};

struct grpc_call {
    struct list node;
    struct grpc_channel *channel;
    int32_t id; /* 0: not submitted yet */
    struct {
        void (*message)(void *, const uint8_t *, size_t);
        void (*end)(void *, enum grpc_status, const char *);
    } events;
    void *data;
    char *path;
    struct grpc_header *headers; /* one allocation */
    size_t headers_len;
    struct grpc_reader reader;
    struct grpc_writer writer;
    struct loop_timer deadline;
    bool deferred, ended, http_bad;
    int http_status, grpc_status;
    char text[256];
};

/* ---- calls ---- */

static void call_free(struct grpc_call *call)
{
    struct grpc_channel *ch = call->channel;

    call->ended = true;
    list_del(&call->node);
    loop_timer_cancel(&call->deadline);
    grpc_reader_clear(&call->reader);
    grpc_writer_clear(&call->writer);
    free(call->path);
    free(call->headers);
    loop_free_later(ch->loop, call);
}

static void detach(struct grpc_call *call)
{
    struct grpc_channel *ch = call->channel;

    if (call->id > 0 && ch->connection.session)
        nghttp2_session_set_stream_user_data(ch->connection.session, call->id, NULL);
}

static void finish(struct grpc_call *call, enum grpc_status status, const char *text)
{
    void (*end)(void *, enum grpc_status, const char *) = call->events.end;
    void *data = call->data;
    char copy[256];

    if (call->ended)
        return;
    snprintf(copy, sizeof(copy), "%s", text);
    detach(call);
    call_free(call);
    end(data, status, copy);
}

static void reset(struct grpc_call *call)
{
    struct grpc_channel *ch = call->channel;

    if (call->id > 0 && ch->connection.session && !ch->connection.closed) {
        nghttp2_submit_rst_stream(ch->connection.session, NGHTTP2_FLAG_NONE, call->id, NGHTTP2_CANCEL);
        detach(call);
        h2_connection_send(&ch->connection);
    }
}

static void abort_call(struct grpc_call *call, enum grpc_status status, const char *text)
{
    reset(call);
    finish(call, status, text);
}

static void on_deadline(struct loop_timer *timer)
{
    abort_call(container_of(timer, struct grpc_call, deadline), GRPC_DEADLINE_EXCEEDED, "deadline exceeded");
}

static ssize_t read_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
                         nghttp2_data_source *source, void *unused)
{
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, id);
    size_t n;

    (void)source;
    (void)unused;
    if (!call)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    n = grpc_writer_get(&call->writer, buf, len);
    if (!call->writer.queued && call->writer.ended) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (!n) {
        call->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static nghttp2_nv nv(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)name,
                        .namelen = strlen(name),
                        .value = (uint8_t *)value,
                        .valuelen = strlen(value)};
}

static void submit(struct grpc_call *call)
{
    struct grpc_channel *ch = call->channel;
    nghttp2_data_provider provider = {.read_callback = read_data};
    nghttp2_nv headers[HEADERS_MAX + 6];
    size_t n = 0;

    headers[n++] = nv(":method", "POST");
    headers[n++] = nv(":scheme", ch->tls ? "https" : "http");
    headers[n++] = nv(":path", call->path);
    headers[n++] = nv(":authority", ch->authority);
    headers[n++] = nv("content-type", "application/grpc");
    headers[n++] = nv("te", "trailers");
    for (size_t i = 0; i < call->headers_len; i++)
        headers[n++] = nv(call->headers[i].name, call->headers[i].value);
    call->id = nghttp2_submit_request(ch->connection.session, NULL, headers, n, &provider, call);
    if (call->id < 0) {
        call->id = 0;
        finish(call, GRPC_UNAVAILABLE, "the call could not be sent");
    }
}

/* One allocation: the array, then the texts. */
static struct grpc_header *copy_headers(const struct grpc_header *headers, size_t len)
{
    size_t size = len * sizeof(*headers) + 1;
    struct grpc_header *copy;
    char *at;

    for (size_t i = 0; i < len; i++)
        size += strlen(headers[i].name) + strlen(headers[i].value) + 2;
    copy = malloc(size);
    if (!copy)
        return NULL;
    at = (char *)(copy + len);
    for (size_t i = 0; i < len; i++) {
        copy[i].name = at;
        at = stpcpy(at, headers[i].name) + 1;
        copy[i].value = at;
        at = stpcpy(at, headers[i].value) + 1;
    }
    return copy;
}

int grpc_call_open(struct grpc_channel *ch, const char *path, const struct grpc_header *headers,
                   size_t headers_len, unsigned deadline_milliseconds, const struct grpc_call_events *events,
                   void *data, struct grpc_call **ret)
{
    struct grpc_call *call;

    if (headers_len > HEADERS_MAX)
        return -E2BIG;
    if (ch->dead)
        return -ENOTCONN;
    call = calloc(1, sizeof(*call));
    if (!call)
        return -ENOMEM;
    call->path = strdup(path);
    call->headers = copy_headers(headers, headers_len);
    if (!call->path || !call->headers) {
        free(call->path);
        free(call->headers);
        free(call);
        return -ENOMEM;
    }
    call->channel = ch;
    call->headers_len = headers_len;
    call->events.message = events->message;
    call->events.end = events->end;
    call->data = data;
    call->grpc_status = -1;
    call->reader.max = ch->max_message;
    grpc_writer_init(&call->writer);
    loop_timer_init(&call->deadline, on_deadline);
    if (deadline_milliseconds)
        loop_timer_set(ch->loop, &call->deadline, deadline_milliseconds);
    list_add_tail(&ch->calls, &call->node);
    *ret = call;
    if (ch->ready) {
        submit(call);
        h2_connection_send(&ch->connection);
    }
    return 0;
}

int grpc_call_send(struct grpc_call *call, const uint8_t *message, size_t len, bool last)
{
    struct grpc_channel *ch = call->channel;
    int r = grpc_writer_put(&call->writer, message, len);

    if (r < 0)
        return r;
    call->writer.ended = last;
    if (call->id > 0 && call->deferred) {
        call->deferred = false;
        nghttp2_session_resume_data(ch->connection.session, call->id);
    }
    if (ch->ready)
        h2_connection_send(&ch->connection);
    return 0;
}

void grpc_call_cancel(struct grpc_call **ptr)
{
    struct grpc_call *call = *ptr;

    *ptr = NULL;
    if (!call || call->ended)
        return;
    reset(call);
    call_free(call);
}

/* ---- the session ---- */

static bool is(const uint8_t *name, size_t len, const char *text)
{
    return len == strlen(text) && !memcmp(name, text, len);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *unused)
{
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    char number[8];

    (void)flags;
    (void)unused;
    if (!call)
        return 0;
    snprintf(number, sizeof(number), "%.*s", (int)(value_len < 7 ? value_len : 7), (const char *)value);
    if (is(name, name_len, ":status"))
        call->http_status = atoi(number);
    else if (is(name, name_len, "grpc-status"))
        call->grpc_status = atoi(number);
    else if (is(name, name_len, "grpc-message"))
        snprintf(call->text, sizeof(call->text), "%.*s", (int)(value_len < 200 ? value_len : 200),
                 (const char *)value);
    else if (is(name, name_len, "content-type") &&
             (value_len < 16 || memcmp(value, "application/grpc", 16) != 0))
        call->http_bad = true;
    return 0;
}

static void on_message(void *data, const uint8_t *message, size_t len)
{
    struct grpc_call *call = data;

    call->events.message(call->data, message, len);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *unused)
{
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, id);
    int r;

    (void)flags;
    (void)unused;
    if (!call || call->http_status != 200)
        return 0;
    r = grpc_reader_take(&call->reader, data, len, on_message, call, &call->ended);
    if (r == -EMSGSIZE)
        abort_call(call, GRPC_RESOURCE_EXHAUSTED, "a message is longer than is accepted");
    else if (r < 0)
        abort_call(call, GRPC_INTERNAL, r == -EBADMSG ? "a compressed message" : "out of memory");
    return 0;
}

/* What HTTP said, in gRPC's words (gRPC over HTTP/2, appendix). */
static enum grpc_status http_to_grpc(int status)
{
    switch (status) {
    case 400:
        return GRPC_INTERNAL;
    case 401:
        return GRPC_UNAUTHENTICATED;
    case 403:
        return GRPC_PERMISSION_DENIED;
    case 404:
        return GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return GRPC_UNAVAILABLE;
    default:
        return GRPC_UNKNOWN;
    }
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *unused)
{
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, id);
    char text[128];

    (void)unused;
    if (!call)
        return 0;
    nghttp2_session_set_stream_user_data(session, id, NULL);
    call->id = 0;
    if (call->grpc_status >= 0) {
        finish(call, (enum grpc_status)call->grpc_status, call->text);
    } else if (code) {
        snprintf(text, sizeof(text), "the stream was reset: %s", nghttp2_http2_strerror(code));
        finish(call, code == NGHTTP2_REFUSED_STREAM ? GRPC_UNAVAILABLE : GRPC_UNKNOWN, text);
    } else if (call->http_status != 200) {
        snprintf(text, sizeof(text), "HTTP status %d", call->http_status);
        finish(call, http_to_grpc(call->http_status), text);
    } else {
        finish(call, GRPC_INTERNAL, call->http_bad ? "the answer is not gRPC" : "the answer has no status");
    }
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct grpc_channel *ch = data;

    (void)session;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK))
        ch->ping_sent = 0;
    return 0;
}

static int make_session(struct grpc_channel *ch)
{
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                         {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW}};
    nghttp2_session_callbacks *callbacks;
    int r;

    if (nghttp2_session_callbacks_new(&callbacks))
        return -ENOMEM;
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    r = nghttp2_session_client_new(&ch->connection.session, callbacks, ch);
    nghttp2_session_callbacks_del(callbacks);
    if (!r)
        r = nghttp2_submit_settings(ch->connection.session, NGHTTP2_FLAG_NONE, settings, 2);
    if (!r)
        r = nghttp2_session_set_local_window_size(ch->connection.session, NGHTTP2_FLAG_NONE, 0,
                                                  CONNECTION_WINDOW);
    return r ? -ENOMEM : 0;
}

/* ---- the channel ---- */

static void bury(struct h2_connection *c)
{
    struct grpc_channel *ch = container_of(c, struct grpc_channel, connection);

    h2_connection_close(c);
    SSL_CTX_free(ch->tls);
    loop_free_later(ch->loop, ch);
}

static void on_ping(struct loop_timer *timer)
{
    struct grpc_channel *ch = container_of(timer, struct grpc_channel, ping);
    uint64_t now = loop_now(ch->loop);

    if (ch->ping_sent) {
        snprintf(ch->connection.error, sizeof(ch->connection.error), "the server did not answer a PING");
        ch->connection.closed = true;
        ch->connection.down(&ch->connection);
        return;
    }
    if (!list_empty(&ch->calls)) {
        ch->ping_sent = now;
        nghttp2_submit_ping(ch->connection.session, NGHTTP2_FLAG_NONE, NULL);
        h2_connection_send(&ch->connection);
    }
    loop_timer_set(ch->loop, timer, ch->ping_sent ? PING_TIMEOUT_MILLISECONDS : PING_INTERVAL_MILLISECONDS);
}

static void on_ready(struct h2_connection *c)
{
    struct grpc_channel *ch = container_of(c, struct grpc_channel, connection);
    struct grpc_call *call;

    ch->ready = true;
    loop_timer_set(ch->loop, &ch->ping, PING_INTERVAL_MILLISECONDS);
    list_for_each (call, &ch->calls, node)
        submit(call);
}

/* Calls may open or close others, and even the channel, while they end. */
static void end_calls(struct grpc_channel *ch, const char *why)
{
    while (!list_empty(&ch->calls))
        finish(list_first(&ch->calls, struct grpc_call, node), GRPC_UNAVAILABLE, why);
}

static void on_down(struct h2_connection *c)
{
    struct grpc_channel *ch = container_of(c, struct grpc_channel, connection);
    char why[160];

    if (ch->dead)
        return;
    ch->dead = true;
    snprintf(why, sizeof(why), "%s", c->error);
    loop_timer_cancel(&ch->ping);
    end_calls(ch, why);
    if (ch->down)
        ch->down(ch->data, why);
}

static int add_roots(SSL_CTX *tls, const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert;
    int n = 0;

    while (bio && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        n += X509_STORE_add_cert(SSL_CTX_get_cert_store(tls), cert);
        X509_free(cert);
    }
    BIO_free(bio);
    ERR_clear_error();
    return n ? 0 : -EINVAL;
}

static int make_tls(struct grpc_channel *ch, const struct grpc_channel_config *config, SSL **ret)
{
    struct in6_addr ignored;
    SSL *ssl;
    bool is_address =
        inet_pton(AF_INET, config->host, &ignored) == 1 || inet_pton(AF_INET6, config->host, &ignored) == 1;

    ch->tls = SSL_CTX_new(TLS_client_method());
    if (!ch->tls)
        return -ENOMEM;
    SSL_CTX_set_min_proto_version(ch->tls, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(ch->tls, suites);
    SSL_CTX_set_alpn_protos(ch->tls, alpn, sizeof(alpn));
    SSL_CTX_set_verify(ch->tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(ch->tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ch->tls, SSL_MODE_RELEASE_BUFFERS);
    if (config->roots_pem ? add_roots(ch->tls, config->roots_pem) < 0
                          : !SSL_CTX_set_default_verify_paths(ch->tls))
        return -EINVAL;
    ssl = SSL_new(ch->tls);
    if (!ssl)
        return -ENOMEM;
    SSL_set_connect_state(ssl);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (is_address) {
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), config->host);
    } else {
        SSL_set_tlsext_host_name(ssl, config->host);
        SSL_set1_host(ssl, config->host);
    }
    if (config->alternate_host && *config->alternate_host)
        SSL_add1_host(ssl, config->alternate_host);
    *ret = ssl;
    return 0;
}

/* The name is looked up with the system's resolver, which may wait: the control plane's name changes seldom,
 * and nothing of the data path runs here. */
static int dial(const struct grpc_channel_config *config, bool *ret_connecting)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *found = NULL;
    char port[8];
    int fd = -1, r = -EHOSTUNREACH, on = 1;

    snprintf(port, sizeof(port), "%u", config->port);
    if (getaddrinfo(config->host, port, &hints, &found) != 0) {
        /* A machine with loopback alone has no configured address by that flag's measure. */
        hints.ai_flags = 0;
        if (getaddrinfo(config->host, port, &hints, &found) != 0)
            return -EHOSTUNREACH;
    }
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            r = -errno;
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){300}, sizeof(int));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){75}, sizeof(int));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){9}, sizeof(int));
        *ret_connecting = false;
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
            break;
        if (errno == EINPROGRESS) {
            *ret_connecting = true;
            break;
        }
        r = -errno;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd < 0 ? r : fd;
}

int grpc_channel_open(struct loop *loop, const struct grpc_channel_config *config, grpc_channel_down_fn down,
                      void *data, struct grpc_channel **ret)
{
    struct grpc_channel *ch = calloc(1, sizeof(*ch));
    bool connecting = false;
    SSL *ssl = NULL;
    int fd, r;

    if (!ch)
        return -ENOMEM;
    ch->loop = loop;
    ch->down = down;
    ch->data = data;
    ch->max_message = config->max_message ? config->max_message : 4 * 1024 * 1024;
    ch->connection.watch.fd = -1;
    ch->connection.ready = on_ready;
    ch->connection.down = on_down;
    list_init(&ch->calls);
    loop_timer_init(&ch->ping, on_ping);
    snprintf(ch->authority, sizeof(ch->authority), strchr(config->host, ':') ? "[%s]:%u" : "%s:%u",
             config->host, config->port);
    r = config->plaintext ? 0 : make_tls(ch, config, &ssl);
    if (r == 0)
        r = make_session(ch);
    fd = r < 0 ? r : dial(config, &connecting);
    if (fd < 0) {
        SSL_free(ssl);
        ch->dead = true;
        grpc_channel_close(&ch);
        return fd;
    }
    r = h2_connection_open(&ch->connection, loop, fd, ssl, connecting, CONNECT_LIMIT_MILLISECONDS);
    if (r < 0 || ch->connection.closed) {
        grpc_channel_close(&ch);
        return r < 0 ? r : -ECONNREFUSED;
    }
    *ret = ch;
    return 0;
}

void grpc_channel_close(struct grpc_channel **ptr)
{
    struct grpc_channel *ch = *ptr;

    if (!ch)
        return;
    *ptr = NULL;
    ch->dead = true;
    loop_timer_cancel(&ch->ping);
    while (!list_empty(&ch->calls))
        call_free(list_first(&ch->calls, struct grpc_call, node));
    if (ch->connection.busy) {
        /* inside one of its own callbacks: the session must live until that returns */
        ch->connection.closed = true;
        ch->connection.down = bury;
        return;
    }
    bury(&ch->connection);
}
