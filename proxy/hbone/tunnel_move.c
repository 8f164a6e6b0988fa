/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel_move.h"

#include <string.h>

#include "bruma/handover.h"
#include "proxy/hbone/http2_state.h"
#include "proxy/hbone/inner_move.h"
#include "proxy/hbone/stream_move.h"
#include "proxy/hbone/tunnel_frames.h"
#include "proxy/hbone/tunnel_internal.h"
#include "proxy/tls/tls_move.h"

/* Bytes of a unit that are not for applications or the peer, as they usually are. */
#define TUNNEL_ROOM (32 * 1024)
#define STREAM_ROOM 1024

static struct loop *loop_of(const struct tunnel *t)
{
    return t->wp->worker->loop;
}

const char *tunnel_stays_text(enum tunnel_stays why)
{
    static const char *const texts[] = {
        [TUNNEL_MOVES] = "it moves",
        [TUNNEL_STAYS_TABLE] = "a tunnel whose peer keeps a header table",
        [TUNNEL_STAYS_NOT_OPEN] = "a tunnel that is not open yet",
        [TUNNEL_STAYS_NO_SETTINGS] = "a tunnel whose peer has not acknowledged our SETTINGS",
        [TUNNEL_STAYS_OPENING] = "a tunnel with a stream that is not open yet",
        [TUNNEL_STAYS_IN_FRAME] = "a tunnel in the middle of a frame",
        [TUNNEL_STAYS_UNREAD] = "a tunnel with too many unread bytes",
        [TUNNEL_STAYS_ENDING] = "a tunnel that ends",
        [TUNNEL_STAYS_IDLE] = "a tunnel without streams",
        [TUNNEL_STAYS_INSIDE] = "a tunnel inside of a gateway's",
        [TUNNEL_STAYS_OWN] = "the proxy's own pod",
        [TUNNEL_STAYS_STATE] = "a tunnel whose session is in a state of its own",
        [TUNNEL_STAYS_MEMORY] = "no memory is left for the unit",
    };

    return texts[why];
}

void tunnel_offer(struct tunnel *t, struct moving *moving)
{
    t->moving = moving;
}

void tunnel_withdraw(struct tunnel *t)
{
    t->moving = NULL;
}

size_t tunnel_move_fds(const struct tunnel *t)
{
    struct stream *s;
    size_t n = t->inner ? 0 : 1;

    list_for_each (s, &t->streams, tunnel_node) {
        if (s->inner)
            n += inner_tunnel(s->inner) ? tunnel_move_fds(inner_tunnel(s->inner)) : 0;
        else
            n += !s->request;
    }
    return n;
}

/* ---- whether it can ---- */

/* Bytes of its unit, at most. */
static size_t unit_bytes(const struct tunnel *t)
{
    size_t bytes = t->frames.kept_len + t->tls.pending_len - t->tls.pending_offset + TUNNEL_ROOM;
    struct stream *s;

    list_for_each (s, &t->streams, tunnel_node) {
        bytes += s->pending_len + STREAM_ROOM + (s->request ? s->request->header_bytes : 0);
        if (s->inner)
            bytes += inner_waiting(s->inner) + unit_bytes(inner_tunnel(s->inner));
    }
    return bytes;
}

static bool may_go(const struct tunnel *t, const struct stream *s)
{
    if (s->request)
        return t->moving && t->moving->late && !t->wp->keeps_undecided;
    return s->state == STREAM_OPEN && !s->c.news && s->fd >= 0;
}

static enum tunnel_stays look_at_session(const struct tunnel *t);

/* At what a stream carries. */
static enum tunnel_stays look_inside(const struct stream *s)
{
    if (s->state != STREAM_OPEN || !inner_is_whole(s->inner))
        return TUNNEL_STAYS_OPENING;
    return look_at_session(inner_tunnel(s->inner));
}

static enum tunnel_stays look_at_streams(const struct tunnel *t)
{
    enum tunnel_stays why = TUNNEL_MOVES;
    struct stream *s;

    list_for_each (s, &t->streams, tunnel_node) {
        enum tunnel_stays inside = s->inner ? look_inside(s) : TUNNEL_MOVES;

        if (inside != TUNNEL_MOVES)
            return inside;
        if (!s->inner && !may_go(t, s))
            why = TUNNEL_STAYS_OPENING;
    }
    return why;
}

static enum tunnel_stays look_at_session(const struct tunnel *t)
{
    const struct tunnel_frames *f = &t->frames;

    if (t->state == TUNNEL_DEAD || t->closing || t->lost || t->tls.peer_closed)
        return TUNNEL_STAYS_ENDING;
    if (t->state != TUNNEL_OPEN || t->busy)
        return TUNNEL_STAYS_NOT_OPEN;
    if (!nghttp2_session_want_read(t->session))
        return TUNNEL_STAYS_ENDING;
    /* until then the peer may refer to a header table, which cannot be moved */
    if (!t->settings_received || !t->settings_known || t->unknown_settings > TUNNEL_SETTINGS_KEPT)
        return TUNNEL_STAYS_NO_SETTINGS;
    if (t->table_filled)
        return TUNNEL_STAYS_TABLE;
    if (tunnel_frames_in_the_middle(t) || (f->in_data && f->left && (f->header[4] & NGHTTP2_FLAG_PADDED)))
        return TUNNEL_STAYS_IN_FRAME;
    return look_at_streams(t);
}

static enum tunnel_stays look(const struct tunnel *t)
{
    enum tunnel_stays why = t->inner          ? TUNNEL_STAYS_INSIDE
                            : t->wp->pod->own ? TUNNEL_STAYS_OWN
                                              : look_at_session(t);

    if (why == TUNNEL_MOVES && !t->server && !t->streams_len)
        why = TUNNEL_STAYS_IDLE;
    if (why == TUNNEL_MOVES && unit_bytes(t) > BRUMA_HANDOVER_UNIT_MAX)
        why = TUNNEL_STAYS_UNREAD;
    return why;
}

/* ---- writing ---- */

static uint64_t since(uint64_t now, uint64_t then)
{
    return now > then ? now - then : 0;
}

static void http2_write(struct wire_writer *w, const struct tunnel *t, const struct http2_state *state)
{
    struct wire_writer part = {};

    http2_state_write(state, &part);
    if (t->frames.kept_len)
        wire_put_bytes(&part, BRUMA_HTTP2_UNIT, t->frames.kept, t->frames.kept_len);
    wire_put_flag(&part, BRUMA_HTTP2_SHUTTING_DOWN, t->shutting_down);
    wire_put_flag(&part, BRUMA_HTTP2_TABLE_NONE, t->table_none);
    for (unsigned i = 0; i < TUNNEL_CLOSED_KEPT; i++) {
        const struct closed_stream *c = &t->closed[(t->closed_next + i) % TUNNEL_CLOSED_KEPT];

        if (c->id)
            wire_put_varint(&part, BRUMA_HTTP2_CLOSED, (uint64_t)(uint32_t)c->id << 1 | c->by_peer);
    }
    if (t->reset_stream)
        wire_put_varint(&part, BRUMA_HTTP2_RESET, (uint64_t)(uint32_t)t->reset_stream);
    wire_put_message(w, BRUMA_TUNNEL_HTTP2, &part);
}

static void own_write(struct wire_writer *w, const struct tunnel *t)
{
    uint64_t now = loop_now(loop_of(t));

    wire_put_string(w, BRUMA_TUNNEL_POD, t->wp->pod->uid);
    wire_put_varint(w, BRUMA_TUNNEL_COOKIE, t->wp->pod->cookie);
    wire_put_flag(w, BRUMA_TUNNEL_SERVER, t->server);
    endpoint_write(w, BRUMA_TUNNEL_PEER, &t->peer);
    endpoint_write(w, BRUMA_TUNNEL_ARRIVAL, &t->arrival);
    wire_put_varint(w, BRUMA_TUNNEL_LAST_RECEIVED, since(now, t->last_received));
    wire_put_flag(w, BRUMA_TUNNEL_SMALL_WINDOWS, t->small_windows);
    wire_put_flag(w, BRUMA_TUNNEL_EXPIRED, t->expired);
    wire_put_flag(w, BRUMA_TUNNEL_UNTRUSTED, t->untrusted);
    if (t->ping_sent)
        wire_put_varint(w, BRUMA_TUNNEL_PING, since(now, t->ping_sent));
    wire_put_varint(w, BRUMA_TUNNEL_IDLE, since(now, t->idle_since));
}

static enum tunnel_stays write_tunnel(const struct tunnel *t, struct wire_writer *part, int **fds);

/* A stream with its socket, or with what it carries and the sockets of that. */
static enum tunnel_stays write_stream(const struct http2_stream *state, struct wire_writer *part, int **fds)
{
    struct wire_writer inside = {.secret = true}, tunnel = {.secret = true};
    const struct stream *s = state->stream;
    enum tunnel_stays why;

    if (!s->inner) {
        stream_write(part, BRUMA_TUNNEL_STREAM, s, state, NULL);
        if (!state->requested)
            *(*fds)++ = s->fd;
        return TUNNEL_MOVES;
    }
    why = write_tunnel(inner_tunnel(s->inner), &tunnel, fds);
    wire_put_message(&inside, BRUMA_INSIDE_TUNNEL, &tunnel);
    inner_write(s->inner, &inside);
    stream_write(part, BRUMA_TUNNEL_STREAM, s, state, &inside);
    return why;
}

static enum tunnel_stays write_tunnel(const struct tunnel *t, struct wire_writer *part, int **fds)
{
    struct wire_writer tls = {.secret = true};
    struct http2_state state;
    enum tunnel_stays why = TUNNEL_MOVES;

    if (http2_state_of(t, &state) < 0)
        return TUNNEL_STAYS_MEMORY;
    if (!http2_state_matches(t, &state)) {
        http2_state_clear(&state);
        return TUNNEL_STAYS_STATE;
    }
    wire_writer_reserve(part, unit_bytes(t));
    own_write(part, t);
    if (tls_move_write(&t->tls, &tls) < 0)
        why = TUNNEL_STAYS_ENDING;
    wire_put_message(part, BRUMA_TUNNEL_TLS, &tls);
    http2_write(part, t, &state);
    if (!t->inner)
        *(*fds)++ = t->tls.fd;
    for (size_t i = 0; i < state.streams_len && why == TUNNEL_MOVES; i++)
        why = write_stream(&state.streams[i], part, fds);
    http2_state_clear(&state);
    return why;
}

static enum tunnel_stays write_all(const struct tunnel *t, struct wire_writer *unit, int *fds)
{
    struct wire_writer part = {.secret = true};
    enum tunnel_stays why = write_tunnel(t, &part, &fds);

    if (why == TUNNEL_MOVES && part.failed)
        why = TUNNEL_STAYS_MEMORY;
    if (why == TUNNEL_MOVES && part.len > BRUMA_HANDOVER_UNIT_MAX)
        why = TUNNEL_STAYS_UNREAD;
    unit->secret = true;
    wire_writer_reserve(unit, part.len + 16);
    if (why == TUNNEL_MOVES)
        wire_put_message(unit, BRUMA_UNIT_TUNNEL, &part);
    wire_writer_clear(&part);
    return why == TUNNEL_MOVES && unit->failed ? TUNNEL_STAYS_MEMORY : why;
}

/* ---- standing still ---- */

static bool say_own_rest(struct tunnel *t)
{
    int r;

    t->busy++;
    r = tunnel_fill(t);
    if (r < 0)
        tunnel_wants_flush(t); /* which finds the same */
    tunnel_leave(t);
    return r >= 0;
}

static void set_mute(struct tunnel *t, bool mute)
{
    struct stream *s;

    t->mute = mute;
    list_for_each (s, &t->streams, tunnel_node) {
        if (s->inner && inner_tunnel(s->inner))
            inner_tunnel(s->inner)->mute = mute;
    }
}

/* All that is not DATA is said now. DATA waits, in tunnel.held, where nobody resumes it; and so does what
 * tunnels inside say, between them and this one. */
static bool say_the_rest(struct tunnel *t)
{
    struct stream *s;

    set_mute(t, true);
    list_for_each (s, &t->streams, tunnel_node) {
        if (s->inner && !say_own_rest(inner_tunnel(s->inner)))
            return false;
    }
    return say_own_rest(t);
}

/* DATA that was put off is said. */
static void say_again(struct tunnel *t)
{
    struct stream *s;

    set_mute(t, false);
    tunnel_wants_flush(t);
    list_for_each (s, &t->streams, tunnel_node) {
        if (s->inner && inner_tunnel(s->inner))
            tunnel_wants_flush(inner_tunnel(s->inner));
    }
}

void tunnel_stand_still(struct tunnel *t)
{
    struct stream *s;

    t->frozen = true;
    list_del(&t->flush_node);
    loop_timer_cancel(&t->timer);
    loop_watch_remove(loop_of(t), &t->watch);
    list_for_each (s, &t->streams, tunnel_node)
        stream_freeze(s);
}

static void give_up_inside(struct tunnel *t)
{
    struct stream *s;

    list_for_each (s, &t->streams, tunnel_node) {
        if (s->inner)
            inner_give_up(s);
    }
}

enum tunnel_stays tunnel_write(struct tunnel *t, struct wire_writer *unit, int *fds)
{
    enum tunnel_stays why;

    if (t->moving && t->moving->late)
        give_up_inside(t);
    why = look(t);
    if (why != TUNNEL_MOVES)
        return why;
    why = say_the_rest(t) ? look(t) : TUNNEL_STAYS_ENDING;
    if (why == TUNNEL_MOVES)
        why = write_all(t, unit, fds);
    if (why == TUNNEL_MOVES)
        tunnel_stand_still(t);
    else
        say_again(t);
    return why;
}

/* What stopped goes on, in this turn or the next. */
void tunnel_thaw(struct tunnel *t)
{
    struct stream *s;
    uint32_t events = tls_blocked(&t->tls) ? EPOLLIN | EPOLLOUT : EPOLLIN;

    t->moving = NULL;
    t->frozen = t->mute = false;
    if (t->state != TUNNEL_OPEN)
        return;
    t->busy++;
    tunnel_arm_ping(t);
    tunnel_wants_flush(t);
    loop_again(loop_of(t));
    if (!t->inner && loop_watch_add(loop_of(t), &t->watch, t->tls.fd, events, tunnel_watch_event) < 0)
        tunnel_close(t, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
    list_for_each (s, &t->streams, tunnel_node) {
        /* what was begun for it is not to be given up again and again */
        t->wp->keeps_undecided |= s->request != NULL;
        if (stream_thaw(s) < 0)
            stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
    }
    tunnel_leave(t);
}

void tunnel_release(struct tunnel *t)
{
    struct loop *loop = loop_of(t);
    struct worker_pod *wp = t->wp;

    t->moving = NULL;
    t->state = TUNNEL_DEAD;
    quota_release(wp, &t->peer.addr, &t->quota);
    list_del(&t->node);
    list_del(&t->flush_node);
    loop_timer_cancel(&t->timer);
    while (!list_empty(&t->streams))
        stream_release(list_first(&t->streams, struct stream, tunnel_node));
    t->streams_len = 0;
    nghttp2_session_del(t->session);
    t->session = NULL;
    tunnel_frames_free(t);
    if (t->tls.fd >= 0)
        close(t->tls.fd);
    workload_unref(t->tls.expected.upstream);
    service_unref(t->tls.expected.service);
    tls_destroy(&t->tls);
    worker_connection_end(wp);
    loop_free_later(loop, t);
}
