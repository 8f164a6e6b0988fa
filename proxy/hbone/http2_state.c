/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/http2_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "proxy/hbone/stream.h"

#define SETTING_BYTES 6
#define WINDOW_MAX    INT32_MAX

/* What we announce; of a header table nothing is said, for the peer has none by then. */
static const int32_t client_settings[] = {NGHTTP2_SETTINGS_ENABLE_PUSH, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                          NGHTTP2_SETTINGS_MAX_FRAME_SIZE,
                                          NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE};
static const int32_t server_settings[] = {
    NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
    NGHTTP2_SETTINGS_MAX_FRAME_SIZE, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE};
/* All that nghttp2 knows. */
static const int32_t peer_settings[] = {
    NGHTTP2_SETTINGS_HEADER_TABLE_SIZE,       NGHTTP2_SETTINGS_ENABLE_PUSH,
    NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,  NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
    NGHTTP2_SETTINGS_MAX_FRAME_SIZE,          NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
    NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES};

/* ---- of a session ---- */

static void add_setting(struct http2_settings *list, int32_t id, uint32_t value)
{
    list->entries[list->len++] = (nghttp2_settings_entry){id, value};
}

static void take_settings(nghttp2_session *session, bool server, struct http2_state *ret)
{
    for (size_t i = 0; i < array_size(client_settings); i++) {
        int32_t id = server ? server_settings[i] : client_settings[i];

        add_setting(&ret->local, id, nghttp2_session_get_local_settings(session, id));
    }
    for (size_t i = 0; i < array_size(peer_settings); i++) {
        int32_t id = peer_settings[i];
        uint32_t value = nghttp2_session_get_remote_settings(session, id);

        /* a server may not say it, and all ones is what was never said */
        if (value != UINT32_MAX && (server || id != NGHTTP2_SETTINGS_ENABLE_PUSH))
            add_setting(&ret->remote, id, value);
    }
}

static int by_id(const void *a, const void *b)
{
    const struct http2_stream *left = a, *right = b;

    return left->id < right->id ? -1 : left->id > right->id;
}

static void take_streams(const struct tunnel *t, struct http2_state *ret)
{
    struct stream *s;

    list_for_each (s, &t->streams, tunnel_node) {
        int64_t unread = (int64_t)(s->pending_len - (s->uncounted < s->pending_len ? s->uncounted : 0));

        ret->streams[ret->streams_len++] = (struct http2_stream){
            .id = s->id,
            .local_end = s->read_closed,
            .remote_end = s->remote_closed,
            .requested = s->request != NULL,
            .window = s->window,
            /* behind its end the peer has no use for more */
            .received = s->remote_closed
                            ? unread
                            : nghttp2_session_get_stream_effective_recv_data_length(t->session, s->id),
            .unread = unread,
            .credit = (int64_t)s->credit,
            .stream = s,
        };
    }
    qsort(ret->streams, ret->streams_len, sizeof(*ret->streams), by_id);
}

int http2_state_of(const struct tunnel *t, struct http2_state *ret)
{
    const struct tunnel_frames *f = &t->frames;

    *ret = (struct http2_state){
        .server = t->server,
        .unknown_settings = t->unknown_settings,
        .send_window = nghttp2_session_get_remote_window_size(t->session),
        .receive_window = nghttp2_session_get_effective_local_window_size(t->session),
        .receive_left = nghttp2_session_get_local_window_size(t->session),
        .goaway_said = t->goaway_said,
        .goaway_heard = t->goaway_heard,
        .said_last = t->said_last,
        .heard_last = t->heard_last,
    };
    ret->streams = calloc(t->streams_len + 1, sizeof(*ret->streams));
    if (!ret->streams)
        return -ENOMEM;
    memcpy(ret->unknown_windows, t->unknown_windows, sizeof(ret->unknown_windows));
    take_settings(t->session, t->server, ret);
    take_streams(t, ret);
    if (t->server)
        ret->last_id = t->last_stream;
    else if (nghttp2_session_get_next_stream_id(t->session) > 1)
        ret->last_id = (int32_t)nghttp2_session_get_next_stream_id(t->session) - 2;
    if (f->in_data && f->left) {
        memcpy(ret->rest_header, f->header, sizeof(ret->rest_header));
        ret->rest = f->left;
    }
    return 0;
}

void http2_state_clear(struct http2_state *state)
{
    free(state->streams);
    state->streams = NULL;
    state->streams_len = 0;
}

uint32_t http2_setting(const struct http2_settings *settings, int32_t id, uint32_t otherwise)
{
    for (size_t i = 0; i < settings->len; i++) {
        if (settings->entries[i].settings_id == id)
            return settings->entries[i].value;
    }
    return otherwise;
}

/* ---- comparing ---- */

static bool settings_match(nghttp2_session *session, const struct http2_state *s)
{
    for (size_t i = 0; i < s->local.len; i++) {
        const nghttp2_settings_entry *e = &s->local.entries[i];

        if (nghttp2_session_get_local_settings(session, (nghttp2_settings_id)e->settings_id) != e->value)
            return false;
    }
    for (size_t i = 0; i < s->remote.len; i++) {
        const nghttp2_settings_entry *e = &s->remote.entries[i];

        if (nghttp2_session_get_remote_settings(session, (nghttp2_settings_id)e->settings_id) != e->value)
            return false;
    }
    return true;
}

static bool stream_matches(nghttp2_session *session, const struct http2_state *s,
                           const struct http2_stream *m)
{
    int64_t window =
        (int64_t)http2_setting(&s->remote, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 65535) + m->window;
    int64_t local = http2_setting(&s->local, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 65535);

    return nghttp2_session_find_stream(session, m->id) &&
           nghttp2_session_get_stream_remote_window_size(session, m->id) == (window > 0 ? window : 0) &&
           nghttp2_session_get_stream_effective_local_window_size(session, m->id) == local &&
           (m->remote_end ||
            nghttp2_session_get_stream_effective_recv_data_length(session, m->id) == m->received) &&
           m->received >= m->unread && m->received >= m->credit &&
           nghttp2_session_get_stream_local_close(session, m->id) == m->local_end &&
           nghttp2_session_get_stream_remote_close(session, m->id) == m->remote_end;
}

bool http2_state_matches(const struct tunnel *t, const struct http2_state *s)
{
    nghttp2_session *session = t->session;
    int32_t next = s->last_id ? s->last_id + 2 : 1;

    for (size_t i = 0; i < s->streams_len; i++) {
        if (!stream_matches(session, s, &s->streams[i]))
            return false;
    }
    return settings_match(session, s) && nghttp2_session_want_read(session) &&
           !nghttp2_session_get_outbound_queue_size(session) &&
           nghttp2_session_get_remote_window_size(session) == s->send_window &&
           nghttp2_session_get_effective_local_window_size(session) == s->receive_window &&
           nghttp2_session_get_local_window_size(session) == s->receive_left &&
           (s->server ? nghttp2_session_get_last_proc_stream_id(session) == s->last_id
                      : nghttp2_session_get_next_stream_id(session) == (uint32_t)next);
}

/* ---- as fields ---- */

static void put_settings(struct wire_writer *w, uint32_t field, const struct http2_settings *settings)
{
    uint8_t bytes[SETTING_BYTES * HTTP2_SETTINGS_MAX];
    uint8_t *at = bytes;

    for (size_t i = 0; i < settings->len; i++) {
        uint32_t id = (uint32_t)settings->entries[i].settings_id, value = settings->entries[i].value;

        *at++ = (uint8_t)(id >> 8);
        *at++ = (uint8_t)id;
        for (int shift = 24; shift >= 0; shift -= 8)
            *at++ = (uint8_t)(value >> shift);
    }
    wire_put_bytes(w, field, bytes, (size_t)(at - bytes));
}

void http2_state_write(const struct http2_state *s, struct wire_writer *w)
{
    put_settings(w, BRUMA_HTTP2_LOCAL_SETTINGS, &s->local);
    for (unsigned i = 0; i < s->unknown_settings; i++)
        wire_put_varint(w, BRUMA_HTTP2_UNKNOWN_WINDOW, s->unknown_windows[i]);
    put_settings(w, BRUMA_HTTP2_REMOTE_SETTINGS, &s->remote);
    wire_put_varint(w, BRUMA_HTTP2_SEND_WINDOW, (uint64_t)s->send_window);
    wire_put_varint(w, BRUMA_HTTP2_RECEIVE_WINDOW, (uint64_t)s->receive_window);
    wire_put_varint(w, BRUMA_HTTP2_RECEIVE_LEFT, (uint64_t)s->receive_left);
    wire_put_varint(w, BRUMA_HTTP2_LAST_ID, (uint64_t)s->last_id);
    if (s->goaway_said)
        wire_put_varint(w, BRUMA_HTTP2_GOAWAY_SAID, (uint64_t)s->said_last);
    if (s->goaway_heard)
        wire_put_varint(w, BRUMA_HTTP2_GOAWAY_HEARD, (uint64_t)s->heard_last);
    if (s->rest) {
        wire_put_bytes(w, BRUMA_HTTP2_REST_HEADER, s->rest_header, sizeof(s->rest_header));
        wire_put_varint(w, BRUMA_HTTP2_REST, s->rest);
    }
}

static int get_settings(const struct wire_field *f, struct http2_settings *ret)
{
    if (f->len % SETTING_BYTES || f->len > SETTING_BYTES * HTTP2_SETTINGS_MAX)
        return -EBADMSG;
    ret->len = 0;
    for (const uint8_t *at = f->bytes; at < f->bytes + f->len; at += SETTING_BYTES) {
        int32_t id = at[0] << 8 | at[1];

        if (id < 1 || id > NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES || id == 7)
            return -EPROTONOSUPPORT;
        add_setting(ret, id,
                    (uint32_t)at[2] << 24 | (uint32_t)at[3] << 16 | (uint32_t)at[4] << 8 | (uint32_t)at[5]);
    }
    return 0;
}

static int get_window(uint64_t value, int32_t *ret)
{
    if (value > WINDOW_MAX)
        return -EBADMSG;
    *ret = (int32_t)value;
    return 0;
}

static int get_bytes(const struct wire_field *f, struct http2_state *ret)
{
    switch (f->number) {
    case BRUMA_HTTP2_LOCAL_SETTINGS:
        return get_settings(f, &ret->local);
    case BRUMA_HTTP2_REMOTE_SETTINGS:
        return get_settings(f, &ret->remote);
    case BRUMA_HTTP2_REST_HEADER:
        if (f->len != sizeof(ret->rest_header))
            return -EBADMSG;
        memcpy(ret->rest_header, f->bytes, f->len);
        return 0;
    case BRUMA_HTTP2_UNIT: /* the tunnel's */
        return 0;
    default:
        return f->number & 1 ? 0 : -EPROTONOSUPPORT;
    }
}

static int get_number(const struct wire_field *f, struct http2_state *ret)
{
    switch (f->number) {
    case BRUMA_HTTP2_UNKNOWN_WINDOW:
        if (ret->unknown_settings == TUNNEL_SETTINGS_KEPT || f->value > WINDOW_MAX)
            return -EBADMSG;
        ret->unknown_windows[ret->unknown_settings++] = (uint32_t)f->value;
        return 0;
    case BRUMA_HTTP2_SEND_WINDOW:
        return get_window(f->value, &ret->send_window);
    case BRUMA_HTTP2_RECEIVE_WINDOW:
        return get_window(f->value, &ret->receive_window);
    case BRUMA_HTTP2_RECEIVE_LEFT:
        return get_window(f->value, &ret->receive_left);
    case BRUMA_HTTP2_LAST_ID:
        return get_window(f->value, &ret->last_id);
    case BRUMA_HTTP2_GOAWAY_SAID:
        ret->goaway_said = true;
        return get_window(f->value, &ret->said_last);
    case BRUMA_HTTP2_GOAWAY_HEARD:
        ret->goaway_heard = true;
        return get_window(f->value, &ret->heard_last);
    case BRUMA_HTTP2_SHUTTING_DOWN: /* the tunnel's */
        return 0;
    case BRUMA_HTTP2_REST:
        ret->rest = (uint32_t)f->value;
        return f->value && f->value < 1u << 24 ? 0 : -EBADMSG;
    default:
        return f->number & 1 ? 0 : -EPROTONOSUPPORT;
    }
}

int http2_state_read(struct http2_state *ret, const uint8_t *data, size_t len)
{
    struct wire_reader reader = wire_reader(data, len);
    struct http2_state state = {.receive_window = -1, .receive_left = -1, .send_window = -1, .last_id = -1};
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        if (f.type == WIRE_BYTES)
            r = get_bytes(&f, &state);
        else if (f.type == WIRE_VARINT)
            r = get_number(&f, &state);
        else
            r = f.number & 1 ? 0 : -EPROTONOSUPPORT;
        if (r < 0)
            return r;
    }
    if (r < 0)
        return r;
    if (!state.local.len || state.receive_window < 0 || state.receive_left < 0 || state.send_window < 0 ||
        state.last_id < 0 || (state.last_id && !(state.last_id & 1)) ||
        (state.rest && state.rest_header[3] != NGHTTP2_DATA))
        return -EBADMSG;
    *ret = state;
    return 0;
}
