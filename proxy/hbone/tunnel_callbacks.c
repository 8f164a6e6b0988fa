/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel_callbacks.h"

#include <string.h>

#include "proxy/hbone/inner.h"
#include "proxy/hbone/request.h"
#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_frames.h"
#include "proxy/hbone/tunnel_session.h"

/* HEADERS for a stream that is over: see also tunnel_frames.h. Requests on streams that their number has
 * passed are an error too (RFC 9113, section 5.1.1). */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *user_data)
{
    struct tunnel *tunnel = user_data;
    const struct closed_stream *closed;

    if (tunnel->replay || hd->type != NGHTTP2_HEADERS || hd->stream_id <= 0 ||
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

    if (tunnel->replay || !tunnel->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    if (tunnel_refuses(tunnel) || tunnel->streams_len >= tunnel->wp->worker->settings->max_streams) {
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

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags;
    if (!s || tunnel->replay || frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    if (tunnel->server) {
        if (s->request)
            request_keep_header(s->request, name, name_len, value, value_len);
    } else if (s->state == STREAM_REQUESTED && name_len == 7 && !memcmp(name, ":status", 7) &&
               value_len == 3) {
        s->status = (value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0');
    } else if (tunnel->inner && s->state == STREAM_REQUESTED) {
        request_keep_answer(&s->answer_baggage, name, name_len, value, value_len);
    }
    return 0;
}

/* Its pod, or its proxy, is about to end. While it is among several, connections go to the others for a
 * moment; it serves whoever comes nevertheless. */
static void peer_leaves(struct tunnel *t)
{
    struct worker *w = t->wp->worker;
    struct endpoint host = ejected_host(&t->peer.addr);

    if (ejected_add(&w->leaving, &host, loop_now(w->loop), w->settings->ejection_time, BRUMA_REASON_NONE))
        telemetry_leaving(w->telemetry);
}

/* A table of no size may be added to: that only empties it. Whoever does so has said its size in a header
 * block, which the next process is led to believe. */
static void look_at_table(struct tunnel *t)
{
    if (!t->settings_known)
        return;
    if (nghttp2_session_get_hd_inflate_dynamic_table_size(t->session) > 0)
        t->table_filled = true;
    else
        t->table_none = true;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s;

    if (tunnel->replay)
        return 0;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        look_at_table(tunnel);
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
        if (!tunnel->server && !tunnel->inner && !tunnel->goaway &&
            frame->goaway.error_code == NGHTTP2_NO_ERROR)
            peer_leaves(tunnel);
        tunnel->goaway = tunnel->goaway_heard = true;
        tunnel->heard_last = frame->goaway.last_stream_id;
        inner_drain_carried(tunnel);
        break;
    case NGHTTP2_RST_STREAM:
        tunnel->reset_stream = frame->hd.stream_id;
        tunnel_frames_reset(tunnel, frame->hd.stream_id);
        /* One that has ended on both sides costs nothing: of many short connections each may be reset so. */
        if (nghttp2_session_find_stream(session, frame->hd.stream_id))
            tunnel_session_reset(tunnel);
        break;
    case NGHTTP2_SETTINGS:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            tunnel_session_acknowledged(tunnel);
        else
            tunnel->settings_received = true;
        break;
    case NGHTTP2_WINDOW_UPDATE:
        s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (s)
            s->window += frame->window_update.window_size_increment;
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
    const struct tunnel *tunnel = user_data;
    struct stream *s = nghttp2_session_get_stream_user_data(session, stream_id);

    (void)flags;
    if (tunnel->replay)
        return 0;
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

    if (tunnel->replay)
        return 0;
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

    if (tunnel->replay)
        return 0;
    if (tunnel->server && frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
        !nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id))
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        tunnel->goaway_said = true;
        tunnel->said_last = frame->goaway.last_stream_id;
    }
    return 0;
}

/* A frame of ours could not be sent: the stream it was for has gone meanwhile, or GOAWAY forbids new ones. */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user_data)
{
    struct tunnel *tunnel = user_data;
    struct stream *s;

    (void)error;
    if (tunnel->replay || frame->hd.type != NGHTTP2_HEADERS || tunnel->server)
        return 0;
    s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (s && s->tunnel == tunnel && s->state == STREAM_REQUESTED) {
        nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, NULL);
        stream_detached(s, NGHTTP2_REFUSED_STREAM);
    }
    return 0;
}

void tunnel_callbacks_set(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
}
