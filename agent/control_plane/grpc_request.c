/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of one connection, and its HTTP/2 session. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control_plane/grpc_server_private.h"

#define REQUESTS_MAX     64 /* of one connection */
#define HEADER_BYTES_MAX 16384
#define HEADERS_MAX      64
#define MESSAGE_MAX      (16 * 1024 * 1024)

/* ---- requests ---- */

void grpc_request_free(struct grpc_request *q)
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
    struct grpc_client *client = data;
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
        grpc_request_end(q, GRPC_INVALID_ARGUMENT, "the message is truncated");
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
        grpc_request_free(q);
    }
    return 0;
}

int grpc_server_session_new(struct grpc_client *client)
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
