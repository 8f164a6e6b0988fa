/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/http2_replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_data.h"
#include "proxy/hbone/tunnel_session.h"

#define WINDOW_MAX   INT32_MAX
#define WINDOW_USUAL 65535
#define PIECE        (256 * 1024) /* bytes of a DATA frame that is fed */
#define FRAME_MAX    ((1 << 24) - 1)

/* While a session is led to its state. */
struct http2_replay {
    struct tunnel *tunnel;
    nghttp2_session *session;
    const struct http2_state *state;
    int64_t *windows;         /* of state->streams: as struct http2_stream.window, by now */
    struct stream passing;    /* in place of the highest stream, where that is closed */
    struct http2_stream last; /* it; or one of before all others */
    /* For bytes that only the connection's windows are to count, which are sent, or received; or NULL. */
    struct http2_stream *carrier, *receiver;
    const struct stream *burning; /* whose DATA is read ... */
    int64_t left;                 /* ... so many bytes of it */
    bool end;                     /* with END_STREAM behind them */
    int64_t credit;               /* bytes that are received, and not consumed for the connection */
    bool failed;
};

/* ---- both directions ---- */

static void feed(struct http2_replay *r, const uint8_t *data, size_t len)
{
    r->failed = r->failed || nghttp2_session_mem_recv(r->session, data, len) != (ssize_t)len;
}

static void feed_header(struct http2_replay *r, size_t len, uint8_t type, uint8_t flags, int32_t id)
{
    const uint8_t header[9] = {
        (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len,       type,       flags,
        (uint8_t)(id >> 24),  (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};

    feed(r, header, sizeof(header));
}

static void feed_numbers(struct http2_replay *r, uint8_t type, int32_t id, const uint32_t *numbers,
                         size_t len)
{
    feed_header(r, len * 4, type, NGHTTP2_FLAG_NONE, id);
    for (size_t i = 0; i < len; i++) {
        const uint8_t bytes[4] = {(uint8_t)(numbers[i] >> 24), (uint8_t)(numbers[i] >> 16),
                                  (uint8_t)(numbers[i] >> 8), (uint8_t)numbers[i]};

        feed(r, bytes, sizeof(bytes));
    }
}

static void feed_settings(struct http2_replay *r, const nghttp2_settings_entry *entries, size_t len)
{
    feed_header(r, len * 6, NGHTTP2_SETTINGS, NGHTTP2_FLAG_NONE, 0);
    for (size_t i = 0; i < len; i++) {
        uint32_t id = (uint32_t)entries[i].settings_id, value = entries[i].value;
        const uint8_t bytes[6] = {(uint8_t)(id >> 8),     (uint8_t)id,           (uint8_t)(value >> 24),
                                  (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};

        feed(r, bytes, sizeof(bytes));
    }
}

/* What the session says was said long ago, or never needs to be. */
static void discard(struct http2_replay *r)
{
    const uint8_t *data;
    ssize_t n;

    while ((n = nghttp2_session_mem_send(r->session, &data)) > 0)
        ;
    r->failed = r->failed || n < 0;
}

static void check(struct http2_replay *r, int result)
{
    r->failed = r->failed || result < 0;
}

/* ---- the beginning ---- */

static void say_settings(struct http2_replay *r)
{
    nghttp2_settings_entry entries[HTTP2_SETTINGS_MAX];

    memcpy(entries, r->state->local.entries, sizeof(entries));
    for (size_t i = 0; i < r->state->local.len; i++) {
        if (entries[i].settings_id == NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE)
            entries[i].value = WINDOW_MAX;
    }
    check(r, nghttp2_submit_settings(r->session, NGHTTP2_FLAG_NONE, entries, r->state->local.len));
    discard(r);
}

/* What may be said in the first SETTINGS alone, and room for all that follows. */
static void hear_settings(struct http2_replay *r)
{
    const struct http2_settings *remote = &r->state->remote;
    nghttp2_settings_entry entries[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_MAX},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_MAX},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES,
         http2_setting(remote, NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 0)},
        {NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL,
         http2_setting(remote, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 0)},
    };

    if (r->state->server)
        feed(r, (const uint8_t *)NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
    feed_settings(r, entries, array_size(entries));
    feed_header(r, 0, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0);
    discard(r);
}

/* ---- streams ---- */

#define NOT_INDEXED (NGHTTP2_NV_FLAG_NO_INDEX | NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE)
#define NV(name, value)                                                                               \
    {                                                                                                 \
        (uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, sizeof(name) - 1, sizeof(value) - 1, \
            NOT_INDEXED                                                                               \
    }

/* A header block that begins with the size of the peer's table, 0. It may have said so itself long ago, and
 * will not again; where it has not, it will. */
static void feed_headers(struct http2_replay *r, int32_t id, const uint8_t *block, size_t len)
{
    size_t skip = r->tunnel->table_none ? 0 : 1;

    feed_header(r, len - skip, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id);
    feed(r, block + skip, len - skip);
}

#define TABLE_OF_NO_SIZE 0x20

static void begin_as_server(struct http2_replay *r, const struct http2_stream *s)
{
    /* :method CONNECT and :authority a:1, as literals without indexing */
    static const uint8_t request[] = {
        TABLE_OF_NO_SIZE, 2, 7, 'C', 'O', 'N', 'N', 'E', 'C', 'T', 1, 3, 'a', ':', '1'};
    const nghttp2_nv answer = NV(":status", "200");
    nghttp2_data_provider provider = tunnel_data_provider(s->stream);

    feed_headers(r, s->id, request, sizeof(request));
    if (!s->requested)
        check(r, nghttp2_submit_response(r->session, s->id, &answer, 1, &provider));
}

static void begin_as_client(struct http2_replay *r, const struct http2_stream *s)
{
    static const uint8_t answer[] = {TABLE_OF_NO_SIZE, 0x88}; /* :status 200, of the static table */
    const nghttp2_nv request[] = {NV(":method", "CONNECT"), NV(":authority", "a:1")};
    nghttp2_data_provider provider = tunnel_data_provider(s->stream);

    check(r, nghttp2_session_set_next_stream_id(r->session, s->id));
    if (nghttp2_submit_headers(r->session, NGHTTP2_FLAG_NONE, -1, NULL, request, 2, NULL) != s->id)
        r->failed = true;
    discard(r);
    feed_headers(r, s->id, answer, sizeof(answer));
    check(r, nghttp2_submit_data(r->session, NGHTTP2_FLAG_END_STREAM, s->id, &provider));
}

static void begin_stream(struct http2_replay *r, const struct http2_stream *s)
{
    if (r->state->server)
        begin_as_server(r, s);
    else
        begin_as_client(r, s);
    discard(r);
}

/* Frames may still be under way to streams that are over. That is no error, unless their number is one that
 * was never reached: so the highest is begun, too. */
static void begin_passing(struct http2_replay *r, int32_t id)
{
    r->last = (struct http2_stream){.id = id, .stream = &r->passing};
    begin_stream(r, &r->last);
}

static struct http2_stream *first_answered(const struct http2_state *s)
{
    for (size_t i = 0; i < s->streams_len; i++) {
        if (!s->streams[i].requested)
            return &s->streams[i];
    }
    return NULL;
}

static void begin_streams(struct http2_replay *r)
{
    const struct http2_state *s = r->state;
    bool last_lives = s->streams_len && s->streams[s->streams_len - 1].id == s->last_id;

    r->carrier = first_answered(s);
    /* what was sent on streams that are over, while none that lives can send, was sent on the first */
    if (last_lives && !r->carrier && s->streams[0].id > 1)
        begin_passing(r, 1);
    for (size_t i = 0; i < s->streams_len && !r->failed; i++)
        begin_stream(r, &s->streams[i]);
    if (s->last_id && !last_lives)
        begin_passing(r, s->last_id);
    if (!r->carrier && r->last.id)
        r->carrier = &r->last;
    r->receiver = s->streams_len ? &s->streams[0] : r->carrier;
}

/* ---- what was sent ---- */

ssize_t http2_replay_read(struct http2_replay *r, const struct stream *stream, size_t length, uint32_t *flags)
{
    size_t n;

    if (stream != r->burning || (!r->left && !r->end))
        return NGHTTP2_ERR_DEFERRED;
    n = (int64_t)length < r->left ? length : (size_t)r->left;
    r->left -= (int64_t)n;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (!r->left && r->end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        r->end = false;
    }
    return (ssize_t)n;
}

static void raise_connection(struct http2_replay *r, int64_t bytes)
{
    const uint32_t more = (uint32_t)bytes;

    if (bytes > 0)
        feed_numbers(r, NGHTTP2_WINDOW_UPDATE, 0, &more, 1);
}

/* So many bytes of DATA are said. */
static void burn(struct http2_replay *r, const struct http2_stream *s, int64_t bytes, bool end)
{
    r->burning = s->stream;
    r->left = bytes;
    r->end = end;
    while ((r->left || r->end) && !r->failed) {
        int64_t before = r->left, need = before ? before : 1;
        int64_t window = nghttp2_session_get_remote_window_size(r->session);

        if (window < need)
            raise_connection(r, need - window);
        /* an error where it was never put off, for the connection's window was used up */
        (void)nghttp2_session_resume_data(r->session, s->id);
        discard(r);
        r->failed = r->failed || (r->left && r->left == before) || (!r->left && r->end);
    }
    r->burning = NULL;
}

static void send_data(struct http2_replay *r)
{
    const struct http2_state *s = r->state;

    for (size_t i = 0; i < s->streams_len && !r->failed; i++) {
        if (s->streams[i].window >= 0)
            continue;
        burn(r, &s->streams[i], -s->streams[i].window, false);
        r->windows[i] = s->streams[i].window;
    }
}

/* END_STREAM is DATA too, and needs windows that are open. The last DATA of all brings the connection's
 * window to what it is. */
static void send_ends(struct http2_replay *r)
{
    const struct http2_state *s = r->state;
    int64_t window, burnt;
    bool end;

    for (size_t i = 0; i < s->streams_len && !r->failed; i++) {
        if (s->streams[i].local_end && &s->streams[i] != r->carrier)
            burn(r, &s->streams[i], 0, true);
    }
    window = nghttp2_session_get_remote_window_size(r->session);
    if (!r->carrier) {
        raise_connection(r, s->send_window - window);
        return;
    }
    end = r->carrier->local_end;
    if (window < s->send_window) {
        raise_connection(r, s->send_window - window);
        window = s->send_window;
    }
    if (end && !window) {
        raise_connection(r, 1);
        window = 1;
    }
    burnt = window - s->send_window;
    if (burnt > 0 && r->carrier != &r->last) {
        const uint32_t more = (uint32_t)burnt;

        /* its own window is to be as before, and may have no room */
        if (nghttp2_session_get_stream_remote_window_size(r->session, r->carrier->id) < burnt) {
            feed_numbers(r, NGHTTP2_WINDOW_UPDATE, r->carrier->id, &more, 1);
            r->windows[r->carrier - s->streams] += burnt;
        }
        r->windows[r->carrier - s->streams] -= burnt;
    }
    if (burnt > 0 || end)
        burn(r, r->carrier, burnt, end);
}

/* ---- what was received ---- */

/* nghttp2 counts bytes of DATA, and looks at none. */
static const uint8_t no_bytes[PIECE];

static void feed_data(struct http2_replay *r, const struct http2_stream *s, int64_t bytes)
{
    while (bytes > 0 && !r->failed) {
        int64_t room = nghttp2_session_get_local_window_size(r->session), n = bytes < PIECE ? bytes : PIECE;

        n = n < room ? n : room;
        r->failed = n <= 0;
        if (r->failed)
            return;
        feed_header(r, (size_t)n, NGHTTP2_DATA, NGHTTP2_FLAG_NONE, s->id);
        feed(r, no_bytes, (size_t)n);
        bytes -= n;
        r->credit += n;
    }
}

/* DATA that the connection has got its credit for: what was fed of it is as if it had not been. */
static void feed_answered(struct http2_replay *r, const struct http2_stream *s, int64_t bytes)
{
    while (bytes > 0 && !r->failed) {
        int64_t room = nghttp2_session_get_local_window_size(r->session), n = bytes < PIECE ? bytes : PIECE;
        int32_t held;

        n = n < room ? n : room;
        feed_data(r, s, n);
        r->credit -= n;
        bytes -= n;
        check(r, nghttp2_session_consume_connection(r->session, (size_t)n));
        held = nghttp2_session_get_effective_recv_data_length(r->session) - (int32_t)r->credit;
        if (held > 0)
            check(r, nghttp2_submit_window_update(r->session, NGHTTP2_FLAG_NONE, 0, held));
        discard(r);
        r->failed = r->failed || n <= 0;
    }
}

/*
 * The connection's window is L (receive_window), and its peer may send A (receive_left) of it now; C bytes
 * are not consumed (the streams' credit). While DATA is fed the window is large enough for all, X. Then DATA
 * is missing that X - A bytes have come, C among them, and X is made to L: by which nghttp2 lowers the count
 * of what has come as well, so that A stays.
 */
static void receive(struct http2_replay *r)
{
    const struct http2_state *s = r->state;
    int64_t credit = 0, most, missing;

    for (size_t i = 0; i < s->streams_len; i++)
        credit += s->streams[i].credit;
    most = s->receive_left + credit;
    most = most > s->receive_window ? most : s->receive_window;
    most = most > WINDOW_USUAL ? most : WINDOW_USUAL;
    missing = most - s->receive_left - credit;
    r->failed = r->failed || most > WINDOW_MAX || missing < 0 || (missing && !r->receiver);
    if (r->failed)
        return;
    check(r, nghttp2_session_set_local_window_size(r->session, NGHTTP2_FLAG_NONE, 0, (int32_t)most));
    discard(r);
    for (size_t i = 0; i < s->streams_len && !r->failed; i++) {
        const struct http2_stream *m = &s->streams[i];

        feed_answered(r, m, m->received - m->credit);
        feed_data(r, m, m->credit);
        check(r, nghttp2_session_consume_stream(r->session, m->id, (size_t)(m->received - m->unread)));
    }
    if (missing) {
        feed_data(r, r->receiver, missing);
        check(r, nghttp2_session_consume_stream(r->session, r->receiver->id, (size_t)missing));
        check(r,
              nghttp2_submit_window_update(r->session, NGHTTP2_FLAG_NONE, r->receiver->id, (int32_t)missing));
    }
    check(r, nghttp2_session_set_local_window_size(r->session, NGHTTP2_FLAG_NONE, 0, s->receive_window));
    check(r, nghttp2_session_consume_connection(r->session, (size_t)missing));
    discard(r);
}

static void receive_ends(struct http2_replay *r)
{
    for (size_t i = 0; i < r->state->streams_len; i++) {
        if (r->state->streams[i].remote_end)
            feed_header(r, 0, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, r->state->streams[i].id);
    }
}

/* ---- the end ---- */

static void real_settings(struct http2_replay *r)
{
    const struct http2_state *s = r->state;
    const nghttp2_settings_entry no_table = {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 0};
    nghttp2_settings_entry window = {
        NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
        http2_setting(&s->local, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_USUAL)};

    check(r, nghttp2_submit_settings(r->session, NGHTTP2_FLAG_NONE, &window, 1));
    discard(r);
    feed_header(r, 0, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0);
    for (unsigned i = 0; i < s->unknown_settings; i++) {
        window.value = s->unknown_windows[i];
        check(r, nghttp2_submit_settings(r->session, NGHTTP2_FLAG_NONE, &window, 1));
    }
    feed_settings(r, &no_table, 1);
    feed_settings(r, s->remote.entries, s->remote.len);
    discard(r);
    for (size_t i = 0; i < s->streams_len; i++) {
        const uint32_t more = (uint32_t)(s->streams[i].window - r->windows[i]);

        if (s->streams[i].window > r->windows[i])
            feed_numbers(r, NGHTTP2_WINDOW_UPDATE, s->streams[i].id, &more, 1);
    }
}

static void goaways(struct http2_replay *r)
{
    const struct http2_state *s = r->state;
    const uint32_t heard[] = {(uint32_t)s->heard_last, NGHTTP2_NO_ERROR};

    if (s->goaway_heard)
        feed_numbers(r, NGHTTP2_GOAWAY, 0, heard, 2);
    if (s->goaway_said && s->said_last == INT32_MAX && s->server)
        check(r, nghttp2_submit_shutdown_notice(r->session));
    else if (s->goaway_said)
        check(r,
              nghttp2_submit_goaway(r->session, NGHTTP2_FLAG_NONE, s->said_last, NGHTTP2_NO_ERROR, NULL, 0));
    discard(r);
}

static void lead(struct http2_replay *r)
{
    const struct http2_state *s = r->state;

    say_settings(r);
    hear_settings(r);
    begin_streams(r);
    send_data(r);
    receive(r);
    receive_ends(r);
    send_ends(r);
    if (r->last.id)
        check(r, nghttp2_submit_rst_stream(r->session, NGHTTP2_FLAG_NONE, r->last.id, NGHTTP2_NO_ERROR));
    discard(r);
    real_settings(r);
    goaways(r);
    for (size_t i = 0; i < s->streams_len; i++)
        check(r, nghttp2_session_set_stream_user_data(r->session, s->streams[i].id, s->streams[i].stream));
    if (s->rest)
        feed_header(r, s->rest, NGHTTP2_DATA, s->rest_header[4] & NGHTTP2_FLAG_END_STREAM,
                    (int32_t)(((uint32_t)s->rest_header[5] << 24 | (uint32_t)s->rest_header[6] << 16 |
                               (uint32_t)s->rest_header[7] << 8 | s->rest_header[8]) &
                              INT32_MAX));
    discard(r);
}

/* What cannot be so is not tried. */
static bool is_sound(const struct http2_state *s)
{
    int32_t before = -1;

    for (size_t i = 0; i < s->streams_len; i++) {
        const struct http2_stream *m = &s->streams[i];

        if (m->id <= before || !(m->id & 1) || m->id > s->last_id || (m->local_end && m->remote_end) ||
            m->received < 0 || m->received > WINDOW_MAX || m->unread < 0 || m->unread > m->received ||
            m->credit < 0 || m->credit > m->received || m->window < -(int64_t)WINDOW_MAX ||
            m->window > WINDOW_MAX || (m->requested && (!s->server || m->local_end || m->window < 0)))
            return false;
        before = m->id;
    }
    return true;
}

int http2_replay(struct tunnel *t, const struct http2_state *state)
{
    struct http2_replay r = {.tunnel = t, .state = state};
    int result = -ENOMEM;

    r.windows = calloc(state->streams_len + 1, sizeof(*r.windows));
    if (r.windows && tunnel_session_bare(t) == 0) {
        r.session = t->session;
        t->replay = &r;
        result = -EBADMSG;
        if (is_sound(state))
            lead(&r);
        else
            r.failed = true;
        if (!r.failed && http2_state_matches(t, state))
            result = 0;
        t->replay = NULL;
    }
    free(r.windows);
    if (result < 0) {
        nghttp2_session_del(t->session);
        t->session = NULL;
    }
    return result;
}
