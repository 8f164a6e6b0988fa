/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel_session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_frames.h"

#define FRAME_HEADER           9
#define ROOM_MIN               (FRAME_HEADER + 16384) /* less room than this in plain_out: encrypt first */
#define FRAME_PAYLOAD_MAX      (256 * 1024)
#define TURN_BYTES_MAX         (1024 * 1024) /* of one tunnel; then the others have their turn */
#define PRESSED_BYTES_MAX      (64 * 1024)   /* the same, and of one frame, when much is held already */
#define HEADER_LIST_MAX        65536
#define CLIENT_HEADER_LIST_MAX 16384
#define STREAM_LIMIT_SLACK     1000

/* Stream resets of a peer: a burst, and so many a second on top; more ends the connection (rapid reset). */
#define RESET_BURST 1000
#define RESET_RATE  33

/* ---- sending ---- */

int tunnel_session_push(struct tunnel *tunnel)
{
    struct shared_buffer *out = &tunnel->wp->worker->plain_out;
    size_t len = out->len;

    shared_buffer_take(out, tunnel);
    out->len = 0;
    return len ? tls_write(&tunnel->tls, out->data, len) : 0;
}

/*
 * nghttp2 ends a connection whose peer opens more streams than were announced; we refuse single streams
 * instead. So nghttp2 is told a higher limit, and the announced one is put into the SETTINGS frame on its way
 * out.
 */
static void announce_stream_limit(struct tunnel *tunnel, uint8_t *frame, size_t len)
{
    uint32_t limit = (uint32_t)tunnel->wp->worker->settings->max_streams;

    for (size_t i = FRAME_HEADER; i + 6 <= len; i += 6) {
        if (frame[i] == 0 && frame[i + 1] == NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) {
            frame[i + 2] = (uint8_t)(limit >> 24);
            frame[i + 3] = (uint8_t)(limit >> 16);
            frame[i + 4] = (uint8_t)(limit >> 8);
            frame[i + 5] = (uint8_t)limit;
        }
    }
}

int tunnel_session_append(struct tunnel *tunnel, const uint8_t *data, size_t len)
{
    struct shared_buffer *out = &tunnel->wp->worker->plain_out;

    shared_buffer_take(out, tunnel);
    while (len) {
        size_t room = out->size - out->len, n = len < room ? len : room;
        uint8_t *at = out->data + out->len;

        if (!n) {
            int r = tunnel_session_push(tunnel);

            if (r < 0)
                return r;
            continue;
        }
        memcpy(at, data, n);
        if (tunnel->server && !tunnel->settings_sent && n > FRAME_HEADER && at[3] == NGHTTP2_SETTINGS) {
            announce_stream_limit(tunnel, at, n);
            tunnel->settings_sent = true;
        }
        out->len += n;
        data += n;
        len -= n;
    }
    return 0;
}

static bool pressed(const struct tunnel *tunnel)
{
    return tunnel->wp->level != BUDGET_CALM;
}

/* Called right before data_read(); what it returns is also the room that data_read() may count on. */
static ssize_t data_length(nghttp2_session *session, uint8_t frame_type, int32_t stream_id,
                           int32_t session_window, int32_t stream_window, uint32_t frame_max, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct shared_buffer *out = &tunnel->wp->worker->plain_out;
    ssize_t n = pressed(tunnel) ? PRESSED_BYTES_MAX : FRAME_PAYLOAD_MAX, room;

    (void)session;
    (void)frame_type;
    (void)stream_id;
    if (out->size - out->len < ROOM_MIN && !tls_blocked(&tunnel->tls))
        tunnel->out_error = tunnel_session_push(tunnel);
    room = (ssize_t)(out->size - out->len) - FRAME_HEADER;
    if (n > room)
        n = room;
    if (n > session_window)
        n = session_window;
    if (n > stream_window)
        n = stream_window;
    if (n > (ssize_t)frame_max)
        n = (ssize_t)frame_max;
    return n > 0 ? n : 1;
}

static void hold(struct tunnel *tunnel, struct stream *s)
{
    if (list_empty(&s->held_node))
        list_add_tail(&tunnel->held, &s->held_node);
    s->waiting_data = true;
}

/* Reads the application's bytes straight behind the room for their frame header. */
static ssize_t data_read(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length,
                         uint32_t *flags, nghttp2_data_source *source, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct shared_buffer *out = &tunnel->wp->worker->plain_out;
    struct stream *s = source->ptr;
    bool end = false;
    ssize_t n;

    (void)session;
    (void)stream_id;
    (void)buf;
    if (s->tunnel != tunnel)
        return NGHTTP2_ERR_DEFERRED; /* the tunnel is being closed, and its streams have gone */
    if (tunnel->out_error)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (tls_blocked(&tunnel->tls) ||
        tunnel->turn_bytes > (pressed(tunnel) ? PRESSED_BYTES_MAX : TURN_BYTES_MAX) ||
        out->size - out->len < FRAME_HEADER + length) {
        hold(tunnel, s);
        return NGHTTP2_ERR_DEFERRED;
    }
    n = stream_read(s, out->data + out->len + FRAME_HEADER, length, &end);
    if (n == -EAGAIN) {
        s->waiting_data = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n < 0)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* the application reset: the stream is reset */
    if (end)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    return n;
}

static int data_send(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t length,
                     nghttp2_data_source *source, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct shared_buffer *out = &tunnel->wp->worker->plain_out;
    struct stream *s = source->ptr;

    (void)session;
    memcpy(out->data + out->len, header, FRAME_HEADER);
    out->len += FRAME_HEADER + length;
    tunnel->turn_bytes += length;
    if (s->c.inbound)
        telemetry_bytes(&s->c.flow, 0, length);
    else
        telemetry_bytes(&s->c.flow, length, 0);
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
        s->read_closed = true;
    return 0;
}

nghttp2_data_provider tunnel_session_data(struct stream *stream)
{
    return (nghttp2_data_provider){.source.ptr = stream, .read_callback = data_read};
}

/* ---- receiving ---- */

/* HEADERS for a stream that is over: see also tunnel_frames.h. Requests on streams that their number has
 * passed are an error too (RFC 9113, section 5.1.1). */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *user_data)
{
    struct tunnel *tunnel = user_data;
    const struct closed_stream *closed;

    if (hd->type != NGHTTP2_HEADERS || hd->stream_id <= 0 ||
        nghttp2_session_find_stream(session, hd->stream_id))
        return 0;
    if (tunnel->server && hd->stream_id > tunnel->last_stream) {
        tunnel->last_stream = hd->stream_id;
        return 0;
    }
    closed = tunnel_frames_find_closed(tunnel, hd->stream_id);
    if (closed ? closed->by_peer : tunnel->server)
        nghttp2_session_terminate_session(session, closed ? NGHTTP2_STREAM_CLOSED : NGHTTP2_PROTOCOL_ERROR);
    return 0;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s;

    if (!tunnel->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    if (tls_peer_expired(&tunnel->tls)) {
        tunnel_refuse_expired(tunnel);
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
        tunnel_wants_flush(tunnel);
        return 0;
    }
    if (tunnel->streams_len >= tunnel->wp->worker->settings->max_streams) {
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
        tunnel_wants_flush(tunnel);
        return 0;
    }
    s = tunnel->begin_request(tunnel, frame->hd.stream_id);
    if (!s)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, s);
    return 0;
}

static bool is(const uint8_t *name, size_t len, const char *text)
{
    return len == strlen(text) && !memcmp(name, text, len);
}

/* The first value counts, but for baggage, whose lines are joined. */
static void keep_header(char **at, const uint8_t *value, size_t len, bool join)
{
    size_t had = *at ? strlen(*at) : 0;
    char *grown;

    if (memchr(value, '\0', len) || (had && !join))
        return;
    grown = realloc(*at, had + len + 2);
    if (!grown)
        return;
    if (had)
        grown[had++] = ',';
    memcpy(grown + had, value, len);
    grown[had + len] = '\0';
    *at = grown;
}

static void request_header(struct request *r, const uint8_t *name, size_t name_len, const uint8_t *value,
                           size_t value_len)
{
    r->header_bytes += name_len + value_len + 32; /* as RFC 9113 section 6.5.2 counts */
    if (r->header_bytes > HEADER_LIST_MAX) {
        r->too_large = true;
        return;
    }
    if (is(name, name_len, ":method")) {
        size_t n = value_len < sizeof(r->method) - 1 ? value_len : sizeof(r->method) - 1;

        memcpy(r->method, value, n);
        r->method[n] = '\0';
    } else if (is(name, name_len, ":authority")) {
        keep_header(&r->authority, value, value_len, false);
    } else if (is(name, name_len, "baggage")) {
        keep_header(&r->baggage, value, value_len, true);
    } else if (is(name, name_len, "forwarded")) {
        keep_header(&r->forwarded, value, value_len, false);
    } else if (is(name, name_len, "x-forwarded-network")) {
        keep_header(&r->forwarded_network, value, value_len, false);
    }
    /* traceparent is not looked at: it is forwarded nowhere */
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags;
    if (!s || frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    if (tunnel->server) {
        if (s->request)
            request_header(s->request, name, name_len, value, value_len);
    } else if (s->state == STREAM_REQUESTED && is(name, name_len, ":status") && value_len == 3) {
        s->status = (value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0');
    }
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (!s)
            break;
        if (tunnel->server && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
            s->events->requested(s);
        /* Not by nghttp2's category: that of an answer behind an interim one (1xx) is not "response". */
        else if (!tunnel->server && s->state == STREAM_REQUESTED)
            s->events->answered(s, s->status);
        s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (s && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
            stream_remote_end(s);
        break;
    case NGHTTP2_DATA:
        s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (s && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
            stream_remote_end(s);
        break;
    case NGHTTP2_GOAWAY:
        tunnel->goaway = true;
        break;
    case NGHTTP2_RST_STREAM:
        tunnel->reset_stream = frame->hd.stream_id;
        break;
    case NGHTTP2_SETTINGS:
        tunnel->settings_received |= !(frame->hd.flags & NGHTTP2_FLAG_ACK);
        break;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            tunnel_ping_answered(tunnel);
        break;
    default:
        break;
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data,
                   size_t len, void *user_data)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, stream_id);

    (void)flags;
    if (s) {
        tunnel_stream_received(user_data, s, len);
        stream_gather(s, data, len);
    } else {
        nghttp2_session_consume(session, stream_id, len);
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s = nghttp2_session_get_stream_user_data(session, stream_id);

    tunnel_frames_closed(tunnel, stream_id,
                         stream_id == tunnel->reset_stream ||
                             nghttp2_session_get_stream_remote_close(session, stream_id) == 1);
    if (code == NGHTTP2_REFUSED_STREAM && !tunnel->server)
        tunnel->refused_streams = true;
    if (s && s->tunnel == tunnel)
        stream_detached(s, code);
    return 0;
}

/* A refusal ends the stream for us; the client's half is cut off behind it, or it would count against its
 * limit. */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct tunnel *tunnel = user_data;

    if (tunnel->server && frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
        !nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id))
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

/* A frame of ours could not be sent: the stream it was for has gone meanwhile, or GOAWAY forbids new ones. */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s;

    (void)error;
    if (frame->hd.type != NGHTTP2_HEADERS || tunnel->server)
        return 0;
    s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (s && s->tunnel == tunnel && s->state == STREAM_REQUESTED) {
        nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, NULL);
        stream_detached(s, NGHTTP2_REFUSED_STREAM);
    }
    return 0;
}

/* Shared by all sessions of the process; never freed. */
static nghttp2_session_callbacks *callbacks;
static nghttp2_option *options;

static void make_callbacks(void)
{
    if (nghttp2_session_callbacks_new(&callbacks) || nghttp2_option_new(&options)) {
        callbacks = NULL;
        return;
    }
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, data_send);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, data_length);
    nghttp2_option_set_no_auto_window_update(options, 1);
    nghttp2_option_set_no_closed_streams(options, 1);
    nghttp2_option_set_peer_max_concurrent_streams(options,
                                                   100); /* until the peer's SETTINGS say otherwise */
    nghttp2_option_set_stream_reset_rate_limit(options, RESET_BURST, RESET_RATE);
}

#define SMALL_STREAM_WINDOW     65535
#define SMALL_CONNECTION_WINDOW (1024 * 1024)

static int32_t at_most(unsigned long window, unsigned long most)
{
    return (int32_t)(window < most ? window : most);
}

static int32_t stream_window(const struct tunnel *tunnel)
{
    return at_most(tunnel->wp->worker->settings->stream_window,
                   tunnel->small_windows ? SMALL_STREAM_WINDOW : INT32_MAX);
}

/* What was given cannot be taken back: a smaller one begins as the peer has used it up. */
static int set_connection_window(struct tunnel *tunnel, nghttp2_session *session)
{
    return nghttp2_session_set_local_window_size(
        session, NGHTTP2_FLAG_NONE, 0,
        at_most(tunnel->wp->worker->settings->connection_window,
                tunnel->small_windows ? SMALL_CONNECTION_WINDOW : INT32_MAX));
}

void tunnel_session_windows(struct tunnel *tunnel)
{
    bool small = tunnel->wp->level >= BUDGET_SMALL_WINDOWS;
    nghttp2_settings_entry entry;

    if (small == tunnel->small_windows)
        return;
    tunnel->small_windows = small;
    entry = (nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)stream_window(tunnel)};
    nghttp2_submit_settings(tunnel->session, NGHTTP2_FLAG_NONE, &entry, 1);
    set_connection_window(tunnel, tunnel->session);
    tunnel_wants_flush(tunnel);
}

int tunnel_session_new(struct tunnel *tunnel)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const struct proxy_settings *set = tunnel->wp->worker->settings;
    nghttp2_settings_entry client[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)stream_window(tunnel)},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, (uint32_t)set->frame_size},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CLIENT_HEADER_LIST_MAX},
    };
    nghttp2_settings_entry server[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)set->max_streams + STREAM_LIMIT_SLACK},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)stream_window(tunnel)},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, (uint32_t)set->frame_size},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX},
    };
    nghttp2_session *session;
    int r;

    pthread_once(&once, make_callbacks);
    if (!callbacks)
        return -ENOMEM;
    r = tunnel->server ? nghttp2_session_server_new2(&session, callbacks, tunnel, options)
                       : nghttp2_session_client_new2(&session, callbacks, tunnel, options);
    if (r)
        return -ENOMEM;
    r = tunnel->server ? nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, server, array_size(server))
                       : nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, client, array_size(client));
    if (!r)
        r = set_connection_window(tunnel, session);
    if (r) {
        nghttp2_session_del(session);
        return -ENOMEM;
    }
    tunnel->session = session;
    return 0;
}
