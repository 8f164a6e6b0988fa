/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel_data.h"

#include <errno.h>
#include <string.h>

#include "proxy/hbone/http2_replay.h"
#include "proxy/hbone/stream.h"

#define FRAME_HEADER      9
#define ROOM_MIN          (FRAME_HEADER + 16384) /* less room than this in plain_out: encrypt first */
#define FRAME_PAYLOAD_MAX (256 * 1024)
#define TURN_BYTES_MAX    (1024 * 1024) /* of one tunnel; then the others have their turn */
#define PRESSED_BYTES_MAX (64 * 1024)   /* the same, and of one frame, when much is held already */

int tunnel_data_push(struct tunnel *tunnel)
{
    struct shared_buffer *out = &tunnel->wp->worker->plain_out;
    size_t len = out->len;

    shared_buffer_take(out, tunnel);
    out->len = 0;
    return len ? tls_write(&tunnel->tls, out->data, len) : 0;
}

static void put_value(uint8_t *entry, uint32_t value)
{
    entry[2] = (uint8_t)(value >> 24);
    entry[3] = (uint8_t)(value >> 16);
    entry[4] = (uint8_t)(value >> 8);
    entry[5] = (uint8_t)value;
}

/*
 * Our first SETTINGS are stricter than what nghttp2 is told, which would end a connection for what can be
 * borne: it knows a higher limit of streams, of which we refuse single ones instead, and the usual header
 * table. Peers are to have none, because nobody can move what is in it to another process; one that fills it
 * all the same only stays where it is.
 */
static void announce(struct tunnel *tunnel, uint8_t *frame, size_t len)
{
    for (size_t i = FRAME_HEADER; i + 6 <= len; i += 6) {
        if (frame[i] == 0 && frame[i + 1] == NGHTTP2_SETTINGS_HEADER_TABLE_SIZE)
            put_value(frame + i, 0);
        else if (tunnel->server && frame[i] == 0 && frame[i + 1] == NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
            put_value(frame + i, (uint32_t)tunnel->wp->worker->settings->max_streams);
    }
}

int tunnel_data_append(struct tunnel *tunnel, const uint8_t *data, size_t len)
{
    struct shared_buffer *out = &tunnel->wp->worker->plain_out;

    shared_buffer_take(out, tunnel);
    while (len) {
        size_t room = out->size - out->len, n = len < room ? len : room;
        uint8_t *at = out->data + out->len;

        if (!n) {
            int r = tunnel_data_push(tunnel);

            if (r < 0)
                return r;
            continue;
        }
        memcpy(at, data, n);
        if (!tunnel->settings_sent && n > FRAME_HEADER && at[3] == NGHTTP2_SETTINGS) {
            announce(tunnel, at, n);
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
    struct shared_buffer *out;
    ssize_t n, room;

    (void)session;
    (void)frame_type;
    (void)stream_id;
    if (tunnel->replay)
        return FRAME_PAYLOAD_MAX; /* nghttp2 knows the windows */
    out = &tunnel->wp->worker->plain_out;
    n = pressed(tunnel) ? PRESSED_BYTES_MAX : FRAME_PAYLOAD_MAX;
    if (out->size - out->len < ROOM_MIN && !tls_blocked(&tunnel->tls))
        tunnel->out_error = tunnel_data_push(tunnel);
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
    struct shared_buffer *out;
    struct stream *s = source->ptr;
    bool end = false;
    ssize_t n;

    (void)session;
    (void)stream_id;
    (void)buf;
    if (tunnel->replay)
        return http2_replay_read(tunnel->replay, s, length, flags);
    out = &tunnel->wp->worker->plain_out;
    if (s->tunnel != tunnel)
        return NGHTTP2_ERR_DEFERRED; /* the tunnel is being closed, and its streams have gone */
    if (tunnel->out_error)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (tunnel->mute || tls_blocked(&tunnel->tls) ||
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
    struct shared_buffer *out;
    struct stream *s = source->ptr;

    (void)session;
    if (tunnel->replay)
        return 0;
    out = &tunnel->wp->worker->plain_out;
    memcpy(out->data + out->len, header, FRAME_HEADER);
    out->len += FRAME_HEADER + length;
    tunnel->turn_bytes += length;
    s->window -= (int64_t)length;
    if (s->c.inbound)
        telemetry_bytes(&s->c.flow, 0, length);
    else
        telemetry_bytes(&s->c.flow, length, 0);
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
        s->read_closed = true;
    return 0;
}

nghttp2_data_provider tunnel_data_provider(struct stream *stream)
{
    return (nghttp2_data_provider){.source.ptr = stream, .read_callback = data_read};
}

void tunnel_data_set(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_send_data_callback(callbacks, data_send);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, data_length);
}
