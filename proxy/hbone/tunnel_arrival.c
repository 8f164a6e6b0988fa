/* SPDX-License-Identifier: Apache-2.0 */
/* Tunnels that have come from another process. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "proxy/hbone/http2_replay.h"
#include "proxy/hbone/inner_move.h"
#include "proxy/hbone/pool.h"
#include "proxy/hbone/stream_move.h"
#include "proxy/hbone/tunnel_frames.h"
#include "proxy/hbone/tunnel_internal.h"
#include "proxy/hbone/tunnel_move.h"
#include "proxy/socket/socket.h"
#include "proxy/tls/tls_move.h"

#define UNIT_MAX (64 * 1024) /* bytes of a frame but DATA that has come in part */

/* What a stream carries; or nothing. */
struct tunnel_inside {
    struct inner_arrival between;
    struct tunnel_arrival *tunnel;
};

struct tunnel_arrival {
    struct tunnel *tunnel; /* with its session; in no list, and counted nowhere */
    struct pod *pod;       /* referenced */
    struct http2_state state;
    struct stream_arrival *streams; /* as many as the state has */
    struct tunnel_inside *insides;  /* likewise */
    size_t streams_len;
    bool inside; /* of another */
    bool has_ping;
    uint64_t last_received, ping, idle; /* milliseconds ago */
};

/* Not its sockets, before it has taken them. */
void tunnel_arrival_free(struct tunnel_arrival *a)
{
    struct tunnel *t = a->tunnel;

    for (size_t i = 0; i < a->streams_len; i++) {
        stream_arrival_clear(&a->streams[i]);
        inner_arrival_clear(&a->insides[i].between);
        if (a->insides[i].tunnel)
            tunnel_arrival_free(a->insides[i].tunnel);
    }
    free(a->streams);
    free(a->insides);
    http2_state_clear(&a->state);
    if (t) {
        nghttp2_session_del(t->session);
        tunnel_frames_free(t);
        if (t->tls_ready) {
            if (t->tls.fd >= 0)
                close(t->tls.fd);
            tls_destroy(&t->tls);
        }
        free(t);
    }
    if (a->pod)
        pod_unref(a->pod);
    free(a);
}

static struct tunnel_arrival *arrival_new(void)
{
    struct tunnel_arrival *a = calloc(1, sizeof(*a));

    if (a)
        a->tunnel = tunnel_new(NULL, false);
    if (a && !a->tunnel) {
        free(a);
        return NULL;
    }
    return a;
}

/* ---- reading ---- */

/* What must be there, and what is read last. */
struct parts {
    char pod[256];
    uint64_t cookie;
    struct wire_field tls, http2;
    size_t streams; /* how many */
    bool has_peer, has_arrival;
};

static int refuse(char *error, size_t size, int r, const char *text)
{
    snprintf(error, size, "%s", text);
    return r;
}

static int text_of(const struct wire_field *f, char *ret, size_t size)
{
    if (f->type != WIRE_BYTES || f->len >= size || memchr(f->bytes, '\0', f->len))
        return -EBADMSG;
    memcpy(ret, f->bytes, f->len);
    ret[f->len] = '\0';
    return 0;
}

static int message_of(const struct wire_field *f, struct wire_field *ret)
{
    if (f->type != WIRE_BYTES || ret->bytes)
        return -EBADMSG;
    *ret = *f;
    return 0;
}

static int tunnel_field(const struct wire_field *f, struct tunnel_arrival *a, struct parts *parts)
{
    struct tunnel *t = a->tunnel;

    switch (f->number) {
    case BRUMA_TUNNEL_POD:
        return text_of(f, parts->pod, sizeof(parts->pod));
    case BRUMA_TUNNEL_COOKIE:
        return wire_take_number(f, UINT64_MAX, &parts->cookie);
    case BRUMA_TUNNEL_SERVER:
        return wire_take_flag(f, &t->server);
    case BRUMA_TUNNEL_PEER:
        parts->has_peer = true;
        return endpoint_read(f, &t->peer);
    case BRUMA_TUNNEL_ARRIVAL:
        parts->has_arrival = true;
        return endpoint_read(f, &t->arrival);
    case BRUMA_TUNNEL_TLS:
        return message_of(f, &parts->tls);
    case BRUMA_TUNNEL_HTTP2:
        return message_of(f, &parts->http2);
    case BRUMA_TUNNEL_STREAM:
        parts->streams++;
        return f->type == WIRE_BYTES ? 0 : -EBADMSG;
    case BRUMA_TUNNEL_LAST_RECEIVED:
        return wire_take_number(f, INT64_MAX, &a->last_received);
    case BRUMA_TUNNEL_SMALL_WINDOWS:
        return wire_take_flag(f, &t->small_windows);
    case BRUMA_TUNNEL_EXPIRED:
        return wire_take_flag(f, &t->expired);
    case BRUMA_TUNNEL_UNTRUSTED:
        return wire_take_flag(f, &t->untrusted);
    case BRUMA_TUNNEL_PING:
        a->has_ping = true;
        return wire_take_number(f, INT64_MAX, &a->ping);
    case BRUMA_TUNNEL_IDLE:
        return wire_take_number(f, INT64_MAX, &a->idle);
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

static int keep_unit(struct tunnel *t, const struct wire_field *f)
{
    if (t->frames.kept || !f->len || f->len > UNIT_MAX)
        return -EBADMSG;
    t->frames.kept = malloc(f->len);
    if (!t->frames.kept)
        return -ENOMEM;
    memcpy(t->frames.kept, f->bytes, f->len);
    t->frames.kept_len = f->len;
    return 0;
}

/* What of HTTP/2 the tunnel keeps itself; the rest is http2_state_read()'s. */
static int own_http2(struct tunnel *t, const struct wire_field *part)
{
    struct wire_reader reader = wire_reader(part->bytes, part->len);
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        r = 0;
        if (f.number == BRUMA_HTTP2_UNIT)
            r = f.type == WIRE_BYTES ? keep_unit(t, &f) : -EBADMSG;
        else if (f.number == BRUMA_HTTP2_SHUTTING_DOWN)
            r = wire_take_flag(&f, &t->shutting_down);
        else if (f.number == BRUMA_HTTP2_TABLE_NONE)
            r = wire_take_flag(&f, &t->table_none);
        else if (f.number == BRUMA_HTTP2_CLOSED && f.type == WIRE_VARINT && f.value >> 1 <= INT32_MAX)
            tunnel_frames_closed(t, (int32_t)(f.value >> 1), f.value & 1);
        else if (f.number == BRUMA_HTTP2_RESET && f.type == WIRE_VARINT && f.value <= INT32_MAX)
            t->reset_stream = (int32_t)f.value;
        if (r < 0)
            return r;
    }
    return r;
}

/* The walk through the peer's bytes goes on where it was. */
static int go_into_frame(struct tunnel *t, const struct http2_state *state)
{
    struct tunnel_frames *f = &t->frames;

    f->preface_seen = true;
    if (state->rest && f->kept)
        return -EBADMSG;
    if (state->rest) {
        memcpy(f->header, state->rest_header, sizeof(f->header));
        f->left = state->rest;
        f->in_unit = f->passes = f->in_data = true;
    }
    return tunnel_frames_resume(t);
}

/* Sockets of a unit, of which those before next are somebody's. */
struct unit_sockets {
    const int *fds;
    size_t len, next;
};

static int read_all(struct worker *w, struct tunnel_arrival *a, const struct wire_field *f, bool inside,
                    struct unit_sockets *sockets, char *error, size_t error_size);

static int read_inside(struct worker *w, struct tunnel_inside *inside, const struct wire_field *f,
                       struct unit_sockets *sockets, char *error, size_t error_size)
{
    int r = inner_arrival_read(&inside->between, f);

    if (r < 0)
        return refuse(error, error_size, r,
                      r == -EPROTONOSUPPORT ? "a tunnel inside of another with a field that is not known here"
                      : r == -ENOMEM        ? "no memory is left for it"
                                            : "a malformed tunnel inside of another");
    inside->tunnel = arrival_new();
    if (!inside->tunnel)
        return refuse(error, error_size, -ENOMEM, "no memory is left for it");
    return read_all(w, inside->tunnel, &inside->between.tunnel, true, sockets, error, error_size);
}

static int read_stream(struct worker *w, struct tunnel_arrival *a, const struct wire_field *f,
                       struct unit_sockets *sockets, char *error, size_t error_size)
{
    struct stream_arrival *stream = &a->streams[a->streams_len];
    int fd = sockets->next < sockets->len ? sockets->fds[sockets->next] : STREAM_NO_SOCKET,
        r = stream_arrival_read(w, f->bytes, f->len, fd, stream, &a->state.streams[a->streams_len], error,
                                error_size);

    if (r < 0)
        return r;
    sockets->next += stream_arrival_has_socket(stream);
    a->streams_len++;
    a->state.streams_len++;
    if (!stream->requested && stream->record.pod != a->pod)
        return refuse(error, error_size, -EBADMSG, "a stream of another pod than its tunnel");
    if (!stream->inside.bytes)
        return 0;
    if (a->inside || a->tunnel->server)
        return refuse(error, error_size, -EBADMSG, "a tunnel inside of one that carries none");
    return read_inside(w, &a->insides[a->streams_len - 1], &stream->inside, sockets, error, error_size);
}

static int read_streams(struct worker *w, struct tunnel_arrival *a, const struct wire_field *field,
                        struct unit_sockets *sockets, char *error, size_t error_size)
{
    struct wire_reader reader = wire_reader(field->bytes, field->len);
    struct wire_field f;
    int r = 0;

    while (r == 0 && wire_next(&reader, &f) > 0) {
        if (f.number == BRUMA_TUNNEL_STREAM)
            r = read_stream(w, a, &f, sockets, error, error_size);
    }
    return r;
}

static int read_session(struct tunnel_arrival *a, const struct parts *parts, char *error, size_t error_size)
{
    struct tunnel *t = a->tunnel;
    struct http2_stream *streams = a->state.streams;
    size_t streams_len = a->state.streams_len;
    int r = own_http2(t, &parts->http2);

    if (r == 0)
        r = http2_state_read(&a->state, parts->http2.bytes, parts->http2.len);
    a->state.streams = streams;
    a->state.streams_len = streams_len;
    if (r == 0)
        r = go_into_frame(t, &a->state);
    if (r < 0)
        return refuse(error, error_size, r,
                      r == -EPROTONOSUPPORT ? "HTTP/2 with a field that is not known here"
                      : r == -ENOMEM        ? "no memory is left for it"
                                            : "malformed HTTP/2");
    a->state.server = t->server;
    t->settings_sent = t->settings_received = t->settings_known = true;
    t->unknown_settings = a->state.unknown_settings;
    memcpy(t->unknown_windows, a->state.unknown_windows, sizeof(t->unknown_windows));
    t->goaway_said = a->state.goaway_said;
    t->goaway_heard = a->state.goaway_heard;
    t->said_last = a->state.said_last;
    t->heard_last = a->state.heard_last;
    t->goaway = t->goaway_heard || (t->goaway_said && !t->shutting_down);
    t->last_stream = t->server ? a->state.last_id : 0;
    r = http2_replay(t, &a->state);
    return r < 0 ? refuse(error, error_size, r,
                          r == -ENOMEM ? "no memory is left for it" : "an HTTP/2 session that cannot be made")
                 : 0;
}

static int read_all(struct worker *w, struct tunnel_arrival *a, const struct wire_field *field, bool inside,
                    struct unit_sockets *sockets, char *error, size_t error_size)
{
    struct wire_reader reader = wire_reader(field->bytes, field->len);
    struct parts parts = {};
    struct worker_pod *wp;
    const char *why = "";
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        r = tunnel_field(&f, a, &parts);
        if (r < 0)
            break;
    }
    if (r == 0 && (!parts.pod[0] || !parts.tls.bytes || !parts.http2.bytes || !parts.has_peer ||
                   !parts.has_arrival || (inside && a->tunnel->server)))
        r = -EBADMSG;
    if (r < 0)
        return refuse(error, error_size, r,
                      r == -EPROTONOSUPPORT ? "a tunnel with a field that is not known here"
                                            : "a malformed tunnel");
    wp = unit_pod(w, parts.pod, parts.cookie);
    if (!wp || wp->draining)
        return refuse(error, error_size, -ENOENT, "its pod is not served here");
    a->pod = wp->pod;
    pod_ref(a->pod);
    r = tls_move_read(&a->tunnel->tls, &w->tls, -1, a->tunnel->server, parts.tls.bytes, parts.tls.len, &why);
    if (r < 0)
        return refuse(error, error_size, r, why);
    a->tunnel->tls_ready = true;
    a->inside = inside;
    a->streams = calloc(parts.streams + 1, sizeof(*a->streams));
    a->insides = calloc(parts.streams + 1, sizeof(*a->insides));
    a->state.streams = calloc(parts.streams + 1, sizeof(*a->state.streams));
    if (!a->streams || !a->insides || !a->state.streams)
        return refuse(error, error_size, -ENOMEM, "no memory is left for it");
    r = read_streams(w, a, field, sockets, error, error_size);
    return r < 0 ? r : read_session(a, &parts, error, error_size);
}

/* They are the caller's still. */
static void leave_sockets(struct tunnel_arrival *a)
{
    for (size_t i = 0; i < a->streams_len; i++) {
        a->streams[i].stream->fd = -1;
        if (a->insides[i].tunnel)
            leave_sockets(a->insides[i].tunnel);
    }
}

int tunnel_arrival_read(struct worker *w, const uint8_t *data, size_t len, int fds[], size_t fds_len,
                        tunnel_request_fn begin, struct tunnel_arrival **ret, char *error, size_t error_size)
{
    const struct wire_field field = {.type = WIRE_BYTES, .bytes = data, .len = len};
    struct unit_sockets sockets = {.fds = fds, .len = fds_len, .next = 1};
    struct tunnel_arrival *a = arrival_new();
    int r;

    if (!a)
        return refuse(error, error_size, -ENOMEM, "no memory is left for it");
    r = read_all(w, a, &field, false, &sockets, error, error_size);
    if (r == 0 && sockets.next != fds_len)
        r = refuse(error, error_size, -EBADMSG, "a tunnel with sockets of nobody");
    if (r < 0) {
        leave_sockets(a);
        tunnel_arrival_free(a);
        return r;
    }
    a->tunnel->begin_request = begin;
    a->tunnel->tls.fd = fds[0];
    for (size_t i = 0; i < fds_len; i++)
        fds[i] = -1;
    *ret = a;
    return 0;
}

/* ---- here ---- */

static struct worker_pod *served(struct worker *w, const struct pod *pod)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        if (wp->pod == pod && !wp->deleted)
            return wp;
    }
    return NULL;
}

static void reset_sockets(struct tunnel_arrival *a)
{
    if (a->tunnel->tls.fd >= 0)
        socket_reset_on_close(a->tunnel->tls.fd);
    for (size_t i = 0; i < a->streams_len; i++) {
        if (a->streams[i].stream->fd >= 0)
            socket_reset_on_close(a->streams[i].stream->fd);
        if (a->insides[i].tunnel)
            reset_sockets(a->insides[i].tunnel);
    }
}

static void reset_all(struct tunnel_arrival *a)
{
    reset_sockets(a);
    tunnel_arrival_free(a);
}

static uint64_t ago(uint64_t now, uint64_t milliseconds)
{
    return now > milliseconds ? now - milliseconds : 0;
}

/* It is one of the pod's, as if it had been opened here. */
static void enter(struct tunnel *t, struct worker_pod *wp, const struct tunnel_arrival *a)
{
    uint64_t now = loop_now(wp->worker->loop);

    t->wp = wp;
    t->state = TUNNEL_OPEN;
    t->last_received = ago(now, a->last_received);
    t->idle_since = ago(now, a->idle);
    t->ping_sent = a->has_ping ? ago(now, a->ping) : 0;
    if (a->has_ping && !t->ping_sent)
        t->ping_sent = 1; /* 0 is none */
    tls_move_count(&t->tls, &wp->memory);
    t->frames.account.share = &wp->memory;
    if (t->frames.kept)
        (void)budget_take(&t->frames.account, t->frames.kept_len);
    if (t->server)
        list_add_tail(&wp->servers, &t->node);
    else
        pool_add(wp, t);
    if (!a->inside)
        quota_take(wp, t->server ? &t->peer.addr : NULL, &t->quota);
    worker_connection_begin(wp);
}

/* What has become of the pod, of policies and of certificates while it was nobody's. */
static void catch_up(struct tunnel *t)
{
    struct worker_pod *wp = t->wp;

    if (t->server && t->streams_len)
        loop_timer_set(wp->worker->loop, &wp->policy_timer, 0);
    tunnel_check_revoked(t);
    tunnel_check_expired(t);
    tunnel_check_trusted(t);
    tunnel_adapt(t);
    if (t->server && (wp->draining || wp->worker->draining))
        tunnel_drain(t);
}

static void settle(struct worker_pod *wp, struct tunnel_arrival *a);

/* The stream is the worker's, and so is what it carries. */
static void settle_inside(struct stream *s, struct tunnel_inside *inside)
{
    struct tunnel *t = inside->tunnel->tunnel;

    quota_release(s->c.wp, &s->c.client.addr, &s->c.quota); /* no descriptor is its own */
    if (inner_arrive(s, t, &inside->between) < 0) {
        reset_all(inside->tunnel);
        inside->tunnel = NULL;
        stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
        return;
    }
    settle(s->c.wp, inside->tunnel);
    inside->tunnel = NULL;
}

/* The tunnel with its streams is one of the pod's; nothing of it has happened yet. The arrival is taken. */
static void settle(struct worker_pod *wp, struct tunnel_arrival *a)
{
    struct tunnel *t = a->tunnel;

    enter(t, wp, a);
    a->tunnel = NULL;
    t->busy++;
    for (size_t i = 0; i < a->streams_len; i++) {
        struct stream *s = a->streams[i].stream;

        stream_arrive(t, &a->streams[i]);
        if (a->insides[i].tunnel)
            settle_inside(s, &a->insides[i]);
    }
    tunnel_arrival_free(a);
}

/* What it and its streams do and hold goes on. */
static void go_on(struct tunnel *t)
{
    struct stream *s;

    tunnel_arm_ping(t);
    list_for_each (s, &t->streams, tunnel_node) {
        struct tunnel *inside = s->inner ? inner_tunnel(s->inner) : NULL;

        stream_go_on(s);
        if (inside)
            go_on(inside);
    }
    catch_up(t);
    tunnel_wants_flush(t);
    tunnel_leave(t);
}

void tunnel_arrive(struct worker *w, struct tunnel_arrival *a)
{
    struct worker_pod *wp = served(w, a->pod);
    uint32_t events = EPOLLIN | (tls_blocked(&a->tunnel->tls) ? (uint32_t)EPOLLOUT : 0);
    struct tunnel *t = a->tunnel;

    if (!wp) {
        reset_all(a);
        return;
    }
    settle(wp, a);
    if (loop_watch_add(w->loop, &t->watch, t->tls.fd, events, tunnel_watch_event) < 0)
        tunnel_close(t, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
    go_on(t);
    loop_again(w->loop);
}
