/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rpc/grpc_client.h"

#define STREAM_WINDOW     (1024 * 1024)
#define CONNECTION_WINDOW (4 * 1024 * 1024)
#define HEADERS_MAX       24

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
    struct loop_timer deadline, stall;
    uint64_t opened, moved; /* loop_now() */
    bool deferred, ended, http_bad;
    bool expects; /* an answer */
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
    loop_timer_cancel(&call->stall);
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

/* A server that sent nothing at all meanwhile may be gone without a word; the next call then needs a new
 * connection. */
static void on_deadline(struct loop_timer *timer)
{
    struct grpc_call *call = container_of(timer, struct grpc_call, deadline);
    struct grpc_channel *ch = call->channel;
    bool silent = ch->ready && ch->connection.last_received <= call->opened;

    abort_call(call, GRPC_DEADLINE_EXCEEDED, "deadline exceeded");
    if (silent && !ch->dead)
        h2_connection_fail(&ch->connection, "the server does not answer");
}

/* ---- progress ---- */

static bool owes(const struct grpc_call *call)
{
    return call->writer.queued || call->expects || grpc_reader_partial(&call->reader);
}

static void moved(struct grpc_call *call)
{
    call->moved = loop_now(call->channel->loop);
}

/* A peer may be alive, answer every PING, and still neither take nor give: no event would ever come. */
static void watch_progress(struct grpc_call *call)
{
    struct grpc_channel *ch = call->channel;

    if (!ch->stall || call->ended || loop_timer_armed(&call->stall) || !owes(call))
        return;
    moved(call);
    loop_timer_set(ch->loop, &call->stall, ch->stall);
}

static void on_stall(struct loop_timer *timer)
{
    struct grpc_call *call = container_of(timer, struct grpc_call, stall);
    struct grpc_channel *ch = call->channel;
    uint64_t idle = loop_now(ch->loop) - call->moved;

    if (!owes(call))
        return;
    if (idle >= ch->stall)
        abort_call(call, GRPC_ABORTED, GRPC_STALLED);
    else
        loop_timer_set(ch->loop, timer, ch->stall - idle);
}

void grpc_call_expect(struct grpc_call *call, bool answer)
{
    call->expects = answer;
    watch_progress(call);
}

bool grpc_call_receiving(const struct grpc_call *call)
{
    return grpc_reader_partial(&call->reader);
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
    if (n)
        moved(call);
    if (!call->writer.queued && call->writer.ended) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (!n) {
        call->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static int submit(struct grpc_call *call)
{
    struct grpc_channel *ch = call->channel;
    nghttp2_data_provider provider = {.read_callback = read_data};
    nghttp2_nv headers[HEADERS_MAX + 6];
    size_t n = 0;

    headers[n++] = h2_header(":method", "POST");
    headers[n++] = h2_header(":scheme", ch->tls ? "https" : "http");
    headers[n++] = h2_header(":path", call->path);
    headers[n++] = h2_header(":authority", ch->authority);
    headers[n++] = h2_header("content-type", "application/grpc");
    headers[n++] = h2_header("te", "trailers");
    for (size_t i = 0; i < call->headers_len; i++)
        headers[n++] = h2_header(call->headers[i].name, call->headers[i].value);
    call->id = nghttp2_submit_request(ch->connection.session, NULL, headers, n, &provider, call);
    if (call->id >= 0)
        return 0;
    call->id = 0;
    return -ECONNABORTED;
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
    if (ch->dead || ch->draining || (ch->ready && ch->connection.closed))
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
    call->opened = loop_now(ch->loop);
    call->reader.max = ch->max_message;
    call->reader.secret = ch->connection.secret;
    grpc_writer_init(&call->writer);
    loop_timer_init(&call->deadline, on_deadline);
    loop_timer_init(&call->stall, on_stall);
    if (deadline_milliseconds)
        loop_timer_set(ch->loop, &call->deadline, deadline_milliseconds);
    list_add_tail(&ch->calls, &call->node);
    if (ch->ready) {
        if (submit(call) < 0) {
            call_free(call);
            return -ECONNABORTED;
        }
        h2_connection_send(&ch->connection);
    }
    *ret = call;
    return 0;
}

int grpc_call_send(struct grpc_call *call, const uint8_t *message, size_t len, bool last)
{
    struct grpc_channel *ch = call->channel;
    int r = call->ended || call->writer.ended ? -ESHUTDOWN : grpc_writer_put(&call->writer, message, len);

    if (r < 0)
        return r;
    call->writer.ended = last;
    watch_progress(call);
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

/* grpc-message is percent-encoded. What is not printable has no place in a log. */
static void decode_text(const uint8_t *value, size_t len, char *out, size_t size)
{
    size_t n = 0;

    for (size_t i = 0; i < len && n + 1 < size; i++) {
        unsigned char c = value[i];
        unsigned decoded;

        if (c == '%' && i + 2 < len && isxdigit(value[i + 1]) && isxdigit(value[i + 2])) {
            char hex[3] = {(char)value[i + 1], (char)value[i + 2], '\0'};

            decoded = (unsigned)strtoul(hex, NULL, 16);
            c = (unsigned char)decoded;
            i += 2;
        }
        out[n++] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    out[n] = '\0';
}

static int number(const uint8_t *value, size_t len)
{
    int n = 0;

    if (!len || len > 3)
        return GRPC_UNKNOWN;
    for (size_t i = 0; i < len; i++) {
        if (!isdigit(value[i]))
            return GRPC_UNKNOWN;
        n = n * 10 + (value[i] - '0');
    }
    return n;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *unused)
{
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags;
    (void)unused;
    if (!call)
        return 0;
    if (is(name, name_len, ":status"))
        call->http_status = number(value, value_len);
    else if (is(name, name_len, "grpc-status"))
        call->grpc_status = number(value, value_len);
    else if (is(name, name_len, "grpc-message"))
        decode_text(value, value_len, call->text, sizeof(call->text));
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
    moved(call);
    r = grpc_reader_take(&call->reader, data, len, on_message, call, &call->ended);
    if (r == -EMSGSIZE)
        abort_call(call, GRPC_RESOURCE_EXHAUSTED, "a message is longer than is accepted");
    else if (r < 0)
        abort_call(call, GRPC_INTERNAL, r == -EBADMSG ? "a compressed message" : "out of memory");
    watch_progress(call);
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

static void conclude(struct grpc_call *call, uint32_t code)
{
    char text[128];

    if (call->grpc_status == GRPC_OK && grpc_reader_partial(&call->reader)) {
        finish(call, GRPC_INTERNAL, "a message is truncated");
    } else if (call->grpc_status >= 0) {
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
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *unused)
{
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, id);

    (void)unused;
    if (!call)
        return 0;
    nghttp2_session_set_stream_user_data(session, id, NULL);
    call->id = 0;
    conclude(call, code);
    return 0;
}

/* The server has said its last word: the call is over, whether or not we had more to say. */
static void on_server_end(nghttp2_session *session, struct grpc_call *call)
{
    int32_t id = call->id;

    if (nghttp2_session_get_stream_local_close(session, id) == 0)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    conclude(call, 0);
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct grpc_channel *ch = data;
    struct grpc_call *call;

    switch (frame->hd.type) {
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            ch->ping_answered = true;
        break;
    case NGHTTP2_GOAWAY:
        ch->draining = true;
        break;
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (call && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
            on_server_end(session, call);
        break;
    default:
        break;
    }
    return 0;
}

int grpc_session_new(struct grpc_channel *ch)
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

void grpc_calls_begin(struct grpc_channel *ch)
{
    struct grpc_call *call;

    list_for_each (call, &ch->calls, node) {
        moved(call);
        if (submit(call) < 0)
            h2_connection_fail(&ch->connection, "a call could not be sent");
    }
}

/* Calls may open or close others, and even the channel, while they end. */
void grpc_calls_end(struct grpc_channel *ch, const char *why)
{
    while (!list_empty(&ch->calls))
        finish(list_first(&ch->calls, struct grpc_call, node), GRPC_UNAVAILABLE, why);
}

void grpc_calls_drop(struct grpc_channel *ch)
{
    while (!list_empty(&ch->calls))
        call_free(list_first(&ch->calls, struct grpc_call, node));
}
