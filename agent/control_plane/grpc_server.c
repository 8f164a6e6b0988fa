/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/accept_rest.h"
#include "lib/reasons.h"
#include "lib/rpc/crowd.h"
#include "lib/rpc/grpc.h"
#include "lib/rpc/grpc_message.h"
#include "lib/rpc/h2_connection.h"

#define LOG_SCOPE "grpc"
#include "lib/log.h"

#define HANDSHAKE_LIMIT_MILLISECONDS 5000
#define IDLE_LIMIT_MILLISECONDS      60000 /* of a connection without a call */
#define CHECK_MILLISECONDS           15000 /* a client that was silent for so long is sent a PING; */
#define SILENCE_LIMIT_MILLISECONDS   45000 /* one that stays silent is gone */
#define BACKLOG                      64
#define REQUESTS_MAX                 64 /* of one connection */
#define HEADER_BYTES_MAX             16384
#define HEADERS_MAX                  64
#define MESSAGE_MAX                  (16 * 1024 * 1024)

struct grpc_server {
    struct loop *loop;
    struct loop_watch watch;
    struct accept_rest rest;
    SSL_CTX *tls;
    const struct grpc_service *services;
    size_t services_len;
    void *data;
    struct crowd crowd;
    unsigned stall; /* milliseconds, 0: none */
    uint64_t stalls;
};

struct client {
    struct h2_connection connection;
    struct crowd_member member;
    struct list requests;
    unsigned accepted, accepted_ever; /* calls that a service has begun */
    struct grpc_server *server;
    struct loop_timer check;
    uint64_t idle_since; /* loop_now() */
    unsigned requests_len;
    bool gone;
};

struct header_copy {
    struct header_copy *next;
    char *value;
    char name[];
};

struct grpc_request {
    struct list node;
    struct client *client;
    int32_t id;
    const struct grpc_service *service; /* NULL until begin() has accepted */
    void *call_data;
    struct header_copy *headers;
    size_t header_bytes, headers_len;
    uint64_t moved; /* loop_now() of the last bytes of either side */
    bool too_large, deferred, answered, trailers_sent, done;
    bool heard; /* a whole message */
    struct grpc_reader reader;
    struct grpc_writer writer;
    int status; /* of the end, -1: not ended */
    char text[256];
};

/* ---- requests ---- */

static void request_free(struct grpc_request *q)
{
    if (q->done)
        return;
    q->done = true;
    list_del(&q->node);
    if (--q->client->requests_len == 0)
        q->client->idle_since = loop_now(q->client->server->loop);
    grpc_reader_clear(&q->reader);
    grpc_writer_clear(&q->writer);
    while (q->headers) {
        struct header_copy *h = q->headers;

        q->headers = h->next;
        free(h->value);
        free(h);
    }
    if (q->service) {
        q->client->accepted--;
        q->service->end(q->call_data);
    }
    loop_free_later(q->client->server->loop, q);
}

const char *grpc_request_header(const struct grpc_request *q, const char *name)
{
    for (const struct header_copy *h = q->headers; h; h = h->next) {
        if (!strcmp(h->name, name))
            return h->value;
    }
    return NULL;
}

size_t grpc_request_queued(const struct grpc_request *q)
{
    return q->done ? 0 : q->writer.queued + h2_connection_queued(&q->client->connection);
}

/* Percent-encoding of grpc-message. */
static void encode_text(const char *text, char *out, size_t size)
{
    size_t n = 0;

    for (; *text && n + 4 < size; text++) {
        unsigned char c = (unsigned char)*text;

        if (c >= 0x20 && c < 0x7f && c != '%')
            out[n++] = (char)c;
        else
            n += (size_t)snprintf(out + n, size - n, "%%%02X", c);
    }
    out[n] = '\0';
}

static ssize_t read_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
                         nghttp2_data_source *source, void *unused)
{
    struct grpc_request *q = nghttp2_session_get_stream_user_data(session, id);
    char number[12], text[600];
    nghttp2_nv trailers[2];
    size_t n;

    (void)source;
    (void)unused;
    if (!q)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    n = grpc_writer_get(&q->writer, buf, len);
    if (n)
        q->moved = loop_now(q->client->server->loop);
    if (!q->writer.queued && q->status >= 0) {
        snprintf(number, sizeof(number), "%d", q->status);
        encode_text(q->text, text, sizeof(text));
        trailers[0] = h2_header("grpc-status", number);
        trailers[1] = h2_header("grpc-message", text);
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        nghttp2_submit_trailer(session, id, trailers, *text ? 2 : 1);
        q->trailers_sent = true;
        return (ssize_t)n;
    }
    if (!n) {
        q->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static void answer(struct grpc_request *q)
{
    nghttp2_nv headers[] = {h2_header(":status", "200"), h2_header("content-type", "application/grpc")};
    nghttp2_data_provider provider = {.read_callback = read_data};

    if (q->answered)
        return;
    q->answered = true;
    nghttp2_submit_response(q->client->connection.session, q->id, headers, 2, &provider);
}

static void wake(struct grpc_request *q)
{
    answer(q);
    if (q->deferred) {
        q->deferred = false;
        nghttp2_session_resume_data(q->client->connection.session, q->id);
    }
    h2_connection_send(&q->client->connection);
}

int grpc_request_send(struct grpc_request *q, const uint8_t *message, size_t len)
{
    int r;

    if (q->done || q->status >= 0)
        return -ESHUTDOWN;
    if (!q->writer.queued)
        q->moved = loop_now(q->client->server->loop);
    r = grpc_writer_put(&q->writer, message, len);
    if (r == 0)
        wake(q);
    return r;
}

void grpc_request_end(struct grpc_request *q, enum grpc_status status, const char *text)
{
    if (q->done || q->status >= 0)
        return;
    q->status = status;
    snprintf(q->text, sizeof(q->text), "%s", text ? text : "");
    wake(q);
}

/* ---- the session ---- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct client *client = data;
    struct grpc_request *q;

    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    q = calloc(1, sizeof(*q));
    if (!q)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    q->client = client;
    q->id = frame->hd.stream_id;
    q->status = -1;
    q->moved = loop_now(client->server->loop);
    q->reader.max = MESSAGE_MAX;
    grpc_writer_init(&q->writer);
    list_add_tail(&client->requests, &q->node);
    client->requests_len++;
    nghttp2_session_set_stream_user_data(session, q->id, q);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *unused)
{
    struct grpc_request *q = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    struct header_copy *h;

    (void)flags;
    (void)unused;
    if (!q || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    q->header_bytes += name_len + value_len + 32;
    if (q->header_bytes > HEADER_BYTES_MAX || ++q->headers_len > HEADERS_MAX) {
        q->too_large = true;
        return 0;
    }
    h = malloc(sizeof(*h) + name_len + 1);
    if (!h)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    h->value = strndup((const char *)value, value_len);
    memcpy(h->name, name, name_len);
    h->name[name_len] = '\0';
    h->next = q->headers;
    q->headers = h;
    return h->value ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static const struct grpc_service *find_service(const struct grpc_server *s, const char *path)
{
    for (size_t i = 0; path && i < s->services_len; i++) {
        if (!strcmp(s->services[i].path, path))
            return &s->services[i];
    }
    return NULL;
}

static void refuse_http(struct grpc_request *q, const char *status)
{
    nghttp2_nv headers[] = {h2_header(":status", status)};

    q->answered = true;
    nghttp2_submit_response(q->client->connection.session, q->id, headers, 1, NULL);
}

static void begin(struct grpc_request *q)
{
    struct grpc_server *server = q->client->server;
    const struct grpc_service *service = find_service(server, grpc_request_header(q, ":path"));
    const char *type = grpc_request_header(q, "content-type"), *method = grpc_request_header(q, ":method"),
               *text = NULL;
    enum grpc_status status;
    void *call_data = NULL;

    if (q->too_large) {
        refuse_http(q, "431");
    } else if (!method || strcmp(method, "POST") != 0) {
        refuse_http(q, "405");
    } else if (!type || strncmp(type, "application/grpc", 16) != 0) {
        refuse_http(q, "415");
    } else if (!service) {
        grpc_request_end(q, GRPC_UNIMPLEMENTED, "no such method");
    } else {
        status = service->begin(server->data, q, &call_data, &text);
        if (status != GRPC_OK) {
            grpc_request_end(q, status, text);
        } else {
            q->service = service;
            q->call_data = call_data;
            q->client->accepted++;
            q->client->accepted_ever++;
        }
    }
}

static void on_message(void *data, const uint8_t *message, size_t len)
{
    struct grpc_request *q = data;

    q->heard = true;
    if (q->service && q->status < 0)
        q->service->message(q->call_data, q, message, len);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *unused)
{
    struct grpc_request *q = nghttp2_session_get_stream_user_data(session, id);
    int r;

    (void)flags;
    (void)unused;
    if (!q || !q->service || q->status >= 0)
        return 0;
    q->moved = loop_now(q->client->server->loop);
    r = grpc_reader_take(&q->reader, data, len, on_message, q, &q->done);
    if (r == -EMSGSIZE)
        grpc_request_end(q, GRPC_RESOURCE_EXHAUSTED, "the message is too long");
    else if (r == -EBADMSG)
        grpc_request_end(q, GRPC_UNIMPLEMENTED, "compressed messages are not understood");
    else if (r < 0)
        grpc_request_end(q, GRPC_INTERNAL, "out of memory");
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *unused)
{
    struct grpc_request *q = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)unused;
    if (!q)
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        begin(q);
    if (q->done || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM) ||
        (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    /* The client has said all it wanted. A stream that lives on messages ends with it; a unary call was
     * answered in message(). */
    if (grpc_reader_partial(&q->reader))
        grpc_request_end(q, GRPC_INVALID_ARGUMENT, "the message is cut off");
    else
        grpc_request_end(q, GRPC_OK, NULL);
    return 0;
}

/* Our side has ended. A client that has more to say is told to stop: nobody listens. */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *unused)
{
    (void)unused;
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
        nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id) == 0)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *unused)
{
    struct grpc_request *q = nghttp2_session_get_stream_user_data(session, id);

    (void)code;
    (void)unused;
    if (q) {
        nghttp2_session_set_stream_user_data(session, id, NULL);
        request_free(q);
    }
    return 0;
}

static int make_session(struct client *client)
{
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, REQUESTS_MAX},
                                         {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_BYTES_MAX}};
    nghttp2_session_callbacks *callbacks;
    int r;

    if (nghttp2_session_callbacks_new(&callbacks))
        return -ENOMEM;
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    r = nghttp2_session_server_new(&client->connection.session, callbacks, client);
    nghttp2_session_callbacks_del(callbacks);
    if (!r)
        r = nghttp2_submit_settings(client->connection.session, NGHTTP2_FLAG_NONE, settings, 2);
    return r ? -ENOMEM : 0;
}

/* ---- connections ---- */

static void client_free(struct client *client)
{
    if (client->gone)
        return;
    client->gone = true;
    loop_timer_cancel(&client->check);
    while (!list_empty(&client->requests))
        request_free(list_first(&client->requests, struct grpc_request, node));
    crowd_remove(&client->server->crowd, &client->member);
    h2_connection_close(&client->connection);
    loop_free_later(client->server->loop, client);
}

static void on_down(struct h2_connection *c)
{
    client_free(container_of(c, struct client, connection));
}

/* Clients that answer every PING and still do not take what they asked for, or never say the rest of it. */
static void end_stalled(struct client *client)
{
    struct grpc_server *s = client->server;
    uint64_t now = loop_now(s->loop);
    struct grpc_request *q;

    list_for_each (q, &client->requests, node) {
        bool owed = q->writer.queued || !q->heard || grpc_reader_partial(&q->reader);

        if (!owed || now - q->moved < s->stall)
            continue;
        log_warn(
            "a call makes no progress and is reset\treason=%s call=\"%s\" waiting=\"%s\" milliseconds=%llu",
            reason_name(BRUMA_REASON_CALL_STALLED), q->service ? q->service->path : "-",
            q->writer.queued ? "the client takes nothing" : "the client says no more",
            (unsigned long long)(now - q->moved));
        s->stalls++;
        nghttp2_submit_rst_stream(client->connection.session, NGHTTP2_FLAG_NONE, q->id, NGHTTP2_CANCEL);
    }
    h2_connection_send(&client->connection);
}

static uint64_t check_after(const struct grpc_server *s)
{
    return s->stall && s->stall / 2 < CHECK_MILLISECONDS ? s->stall / 2 : CHECK_MILLISECONDS;
}

/* Connections that are left behind, or were never used, must not keep others out. */
static void on_check(struct loop_timer *timer)
{
    struct client *client = container_of(timer, struct client, check);
    struct h2_connection *c = &client->connection;
    uint64_t now = loop_now(c->loop);

    loop_timer_set(c->loop, timer, check_after(client->server));
    if (c->handshaking)
        return; /* that has a limit of its own */
    if (client->server->stall)
        end_stalled(client);
    if (c->closed)
        return;
    if (!client->requests_len && now - client->idle_since >= IDLE_LIMIT_MILLISECONDS) {
        h2_connection_fail(c, "idle");
    } else if (now - c->last_received >= SILENCE_LIMIT_MILLISECONDS) {
        h2_connection_fail(c, "the client is silent");
    } else if (now - c->last_received >= CHECK_MILLISECONDS) {
        nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, NULL);
        h2_connection_send(c);
    }
}

/* Whoever has had a call accepted has shown a token. */
static enum crowd_worth worth_of(const struct crowd_member *member)
{
    const struct client *client = container_of(member, struct client, member);

    if (client->accepted)
        return CROWD_KEPT;
    return client->accepted_ever ? CROWD_BUSY : CROWD_UNPROVEN;
}

uint64_t grpc_server_turned_away(const struct grpc_server *s)
{
    return s->crowd.turned_away;
}

static void accept_one(struct grpc_server *s, int fd, const struct peer_source *source)
{
    struct client *client = calloc(1, sizeof(*client));
    SSL *ssl = s->tls ? SSL_new(s->tls) : NULL;
    int on = 1;

    if (!client || (s->tls && !ssl)) {
        free(client);
        SSL_free(ssl);
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (ssl)
        SSL_set_accept_state(ssl);
    client->server = s;
    client->connection.down = on_down;
    client->connection.watch.fd = -1;
    client->connection.last_received = client->idle_since = loop_now(s->loop);
    loop_timer_init(&client->check, on_check);
    loop_timer_set(s->loop, &client->check, check_after(s));
    list_init(&client->requests);
    client->member.source = *source;
    crowd_add(&s->crowd, &client->member);
    if (make_session(client) < 0) {
        SSL_free(ssl);
        close(fd);
        client_free(client);
        return;
    }
    if (h2_connection_open(&client->connection, s->loop, fd, ssl, false, HANDSHAKE_LIMIT_MILLISECONDS) < 0)
        client_free(client);
}

/* Somebody has destroyed the listener (ss -K). It would be acceptable for ever; its port is still ours. */
static void listen_again(struct grpc_server *s)
{
    int fd = s->watch.fd;

    if (listen(fd, BACKLOG) == 0) {
        log_warn("a listener was closed by somebody else, and listens again\treason=%s",
                 reason_name(BRUMA_REASON_LISTENER_CLOSED));
        return;
    }
    log_error_errno(errno, "a listener was closed by somebody else, and cannot listen again\treason=%s",
                    reason_name(BRUMA_REASON_LISTENER_CLOSED));
    loop_watch_remove(s->loop, &s->watch);
    close(fd);
}

static void on_acceptable(struct loop_watch *watch, uint32_t events)
{
    struct grpc_server *s = container_of(watch, struct grpc_server, watch);
    int fd;

    (void)events;
    while ((fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct crowd_member *goes;
        struct peer_source source;
        int r;

        peer_source_get(fd, &source);
        r = crowd_admit(&s->crowd, &source, loop_now(s->loop), &goes);
        if (r > 0)
            client_free(container_of(goes, struct client, member));
        if (r < 0)
            close(fd);
        else
            accept_one(s, fd, &source);
    }
    if (errno == EINVAL)
        listen_again(s);
    else
        (void)accept_rest(&s->rest, -errno, "the control plane's port");
}

int grpc_server_open(struct loop *loop, const struct endpoint *listen_at, SSL_CTX *tls,
                     const struct grpc_service *services, size_t services_len, void *data,
                     unsigned connections, unsigned per_source, struct grpc_server **ret)
{
    struct sockaddr_storage sa;
    int len = endpoint_to_sockaddr(listen_at, AF_UNSPEC, &sa), on = 1, r;
    _cleanup_fd_ int fd = -1;
    struct grpc_server *s;

    fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&sa, (socklen_t)len) < 0 || listen(fd, BACKLOG) < 0)
        return -errno;
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->services = services;
    s->services_len = services_len;
    s->data = data;
    crowd_init(&s->crowd, "control-plane", connections, per_source, worth_of);
    accept_rest_init(&s->rest, loop, &s->watch);
    r = loop_watch_add(loop, &s->watch, fd, EPOLLIN, on_acceptable);
    if (r < 0) {
        free(s);
        return r;
    }
    take_fd(&fd);
    if (tls) {
        SSL_CTX_up_ref(tls);
        s->tls = tls;
    }
    *ret = s;
    return 0;
}

void grpc_server_set_stall(struct grpc_server *s, unsigned milliseconds)
{
    s->stall = milliseconds;
}

uint64_t grpc_server_stalls(const struct grpc_server *s)
{
    return s->stalls;
}

void grpc_server_close(struct grpc_server **ptr)
{
    struct grpc_server *s = *ptr;
    int fd;

    if (!s)
        return;
    *ptr = NULL;
    fd = s->watch.fd;
    accept_rest_cancel(&s->rest);
    loop_watch_remove(s->loop, &s->watch);
    close(fd);
    while (!list_empty(&s->crowd.members))
        client_free(list_first(&s->crowd.members, struct client, member.node));
    SSL_CTX_free(s->tls);
    loop_free_later(s->loop, s);
}
