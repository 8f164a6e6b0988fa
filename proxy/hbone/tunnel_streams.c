/* SPDX-License-Identifier: Apache-2.0 */
/* What streams ask of their tunnel, and its orderly end. */
#include <errno.h>

#include "proxy/hbone/inner.h"
#include "proxy/hbone/request.h"
#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel.h"
#include "proxy/hbone/tunnel_data.h"
#include "proxy/hbone/tunnel_session.h"

void tunnel_stream_credit(struct tunnel *t, struct stream *s)
{
    if (!s->credit)
        return;
    nghttp2_session_consume_connection(t->session, s->credit);
    s->credit = 0;
    tunnel_wants_flush(t);
}

/* The session knows the stream no longer; its frames may still be on their way out. */
static void forget_stream(struct tunnel *t, struct stream *s)
{
    nghttp2_session_set_stream_user_data(t->session, s->id, NULL);
    tunnel_stream_credit(t, s);
    list_del(&s->tunnel_node);
    list_del(&s->held_node);
    s->tunnel = NULL;
    t->streams_len--;
    t->idle_since = loop_now(t->wp->worker->loop);
}

unsigned tunnel_capacity(const struct tunnel *t)
{
    unsigned cap = (unsigned)t->wp->worker->settings->pool_max_streams, used = t->streams_len + t->queue_len;

    if (t->state == TUNNEL_DEAD || t->closing || t->moving || t->goaway || t->refused_streams ||
        (t->state == TUNNEL_OPEN && tls_peer_expired(&t->tls)) || (t->inner && inner_is_leaving(t->inner)))
        return 0;
    /* What it says itself comes behind the handshake, with the first requests on their way already. */
    if (!t->settings_received && t->announced_streams && t->announced_streams < cap)
        cap = t->announced_streams;
    if (t->session) {
        uint32_t peer =
            nghttp2_session_get_remote_settings(t->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);

        if (peer < cap)
            cap = peer;
        if (!nghttp2_session_check_request_allowed(t->session))
            return 0;
    }
    return used < cap ? cap - used : 0;
}

int tunnel_request(struct tunnel *t, struct stream *s)
{
    int r = request_submit(t, s);

    if (r < 0)
        return r;
    s->tunnel = t;
    list_add_tail(&t->streams, &s->tunnel_node);
    t->streams_len++;
    tunnel_wants_flush(t);
    return 0;
}

void tunnel_enqueue(struct tunnel *t, struct stream *s)
{
    s->tunnel = t;
    list_add_tail(&t->queue, &s->tunnel_node);
    t->queue_len++;
}

void tunnel_add_stream(struct tunnel *t, struct stream *s)
{
    s->tunnel = t;
    list_add_tail(&t->streams, &s->tunnel_node);
    t->streams_len++;
}

int tunnel_stream_start(struct tunnel *t, struct stream *s)
{
    nghttp2_data_provider provider = tunnel_data_provider(s);

    if (nghttp2_submit_data(t->session, NGHTTP2_FLAG_END_STREAM, s->id, &provider))
        return -ECONNRESET;
    tunnel_wants_flush(t);
    return 0;
}

int tunnel_respond(struct tunnel *t, struct stream *s, int status)
{
    int r = request_respond(t, s, status);

    tunnel_wants_flush(t);
    /* What the client may still send is cut off once the answer has left (on_frame_send). */
    if (status != 200)
        forget_stream(t, s);
    return r;
}

void tunnel_stream_readable(struct tunnel *t, struct stream *s)
{
    if (s->waiting_data) {
        s->waiting_data = false;
        nghttp2_session_resume_data(t->session, s->id);
        tunnel_wants_flush(t);
    }
}

/* The tunnel's credit is given back at once: a reader that stops must stop its own stream only. When too much
 * is held for such readers, they stop their tunnel. */
void tunnel_stream_received(struct tunnel *t, struct stream *s, size_t bytes)
{
    if (t->wp->level == BUDGET_CALM)
        nghttp2_session_consume_connection(t->session, bytes);
    else
        s->credit += bytes;
}

void tunnel_adapt(struct tunnel *t)
{
    struct stream *s;

    if (t->state != TUNNEL_OPEN || t->closing)
        return;
    if (t->wp->level == BUDGET_CALM) {
        list_for_each (s, &t->streams, tunnel_node)
            tunnel_stream_credit(t, s);
    }
    tunnel_session_windows(t);
}

void tunnel_stream_consumed(struct tunnel *t, struct stream *s, size_t bytes)
{
    size_t credit = bytes < s->credit ? bytes : s->credit;

    if (credit) {
        s->credit -= credit;
        nghttp2_session_consume_connection(t->session, credit);
    }
    nghttp2_session_consume_stream(t->session, s->id, bytes);
    if (nghttp2_session_want_write(t->session))
        tunnel_wants_flush(t);
}

void tunnel_reset_stream(struct tunnel *t, struct stream *s, uint32_t code)
{
    forget_stream(t, s);
    nghttp2_submit_rst_stream(t->session, NGHTTP2_FLAG_NONE, s->id, code);
    tunnel_wants_flush(t);
}

static void last_goaway(struct tunnel *t)
{
    t->shutting_down = false;
    t->goaway = true;
    nghttp2_submit_goaway(t->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(t->session),
                          NGHTTP2_NO_ERROR, NULL, 0);
    tunnel_wants_flush(t);
}

void tunnel_expire(struct tunnel *t)
{
    /* a client that has said GOAWAY itself may open streams all the same */
    if (!t->goaway || t->server)
        last_goaway(t);
}

void tunnel_ping_answered(struct tunnel *t)
{
    t->ping_sent = 0;
    if (t->shutting_down)
        last_goaway(t);
}

/*
 * Streams that the peer opened before it heard of the end are still served: a first GOAWAY that refuses
 * nothing, a PING to be sure that it arrived, then the one that names the last stream.
 */
void tunnel_drain(struct tunnel *t)
{
    if (t->goaway || t->shutting_down)
        return;
    if (t->state != TUNNEL_OPEN) {
        /* a server drains as soon as it is open (see open_tunnel) */
        t->goaway = !t->server;
        if (!t->server && !t->queue_len)
            tunnel_close(t, BRUMA_REASON_NONE, NULL); /* nobody waits for it any more */
        return;
    }
    if (!t->server) {
        last_goaway(t);
        return;
    }
    t->shutting_down = true;
    nghttp2_submit_shutdown_notice(t->session);
    t->ping_sent = loop_now(t->wp->worker->loop);
    nghttp2_submit_ping(t->session, NGHTTP2_FLAG_NONE, NULL);
    tunnel_wants_flush(t);
}

void tunnel_end_streams(struct tunnel *t, enum bruma_reason reason, const char *detail)
{
    while (!list_empty(&t->queue)) {
        struct stream *s = list_first(&t->queue, struct stream, tunnel_node);

        list_del(&s->tunnel_node);
        t->queue_len--;
        s->tunnel = NULL;
        s->events->tunnel_lost(s, reason, detail);
    }
    while (!list_empty(&t->streams)) {
        struct stream *s = list_first(&t->streams, struct stream, tunnel_node);

        list_del(&s->tunnel_node);
        list_del(&s->held_node);
        t->streams_len--;
        s->tunnel = NULL;
        if (s->state == STREAM_REQUESTED)
            s->events->tunnel_lost(s, reason, detail);
        else if (!t->lost || !stream_is_ahead(s))
            stream_close(s, reason, detail, true);
    }
}

void stream_refuse(struct stream *s, int status, enum bruma_reason reason, const char *detail)
{
    char text[256];

    /* detail may point into the stream */
    snprintf(text, sizeof(text), "%s", detail ? detail : "");
    if (s->tunnel)
        tunnel_respond(s->tunnel, s, status);
    stream_close(s, reason, text[0] ? text : NULL, true);
}
