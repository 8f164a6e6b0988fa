/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of a tunnel on their way out: all of a turn together. */
#include <errno.h>
#include <string.h>

#include "proxy/hbone/inner.h"
#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_data.h"
#include "proxy/hbone/tunnel_internal.h"
#include "proxy/hbone/tunnel_move.h"

static struct loop *loop_of(const struct tunnel *t)
{
    return t->wp->worker->loop;
}

/* One inside of a gateway's stands still together with that. */
void tunnel_go_on(struct tunnel *t)
{
    struct moving *moving;

    if (t->inner && t->frozen)
        t = inner_outer(t->inner);
    moving = t->moving;
    if (!t->frozen || !moving)
        return;
    t->moving = NULL;
    moving->gone(moving);
    tunnel_thaw(t);
}

void tunnel_wants_flush(struct tunnel *t)
{
    tunnel_go_on(t);
    if (t->state == TUNNEL_OPEN && list_empty(&t->flush_node))
        list_add_tail(&t->wp->worker->flush, &t->flush_node);
}

static void release_held(struct tunnel *t)
{
    while (!list_empty(&t->held)) {
        struct stream *s = list_first(&t->held, struct stream, held_node);

        list_del(&s->held_node);
        tunnel_stream_readable(t, s);
    }
}

static int fill_frames(struct tunnel *t)
{
    const uint8_t *data;
    ssize_t n;
    int r;

    t->turn_bytes = 0;
    t->out_error = 0;
    while ((n = nghttp2_session_mem_send(t->session, &data)) > 0) {
        r = tunnel_data_append(t, data, (size_t)n);
        if (r < 0)
            return r;
    }
    if (n < 0)
        return t->out_error ? t->out_error : -EPROTO;
    r = tunnel_data_push(t);
    return r < 0 ? r : tls_flush(&t->tls);
}

int tunnel_fill(struct tunnel *t)
{
    struct shared_buffer *out = &t->wp->worker->plain_out;
    int r;

    shared_buffer_take(out, t);
    r = fill_frames(t);
    shared_buffer_leave(out, t); /* after an error it may hold something */
    return r;
}

/*
 * Reading goes on while writing is blocked: of two ends that both wait until the other reads, neither ever
 * would. It stops where a peer does not read and what it sends only makes more answers for it.
 */
static void watch_open(struct tunnel *t)
{
    bool blocked = tls_blocked(&t->tls),
         stop = blocked && (tls_unanswerable(&t->tls) ||
                            nghttp2_session_get_outbound_queue_size(t->session) > TUNNEL_UNSENT_FRAMES);

    if (t->inner)
        inner_set_stopped(t->inner, stop);
    else
        loop_watch_modify(loop_of(t), &t->watch, (stop ? 0u : EPOLLIN) | (blocked ? (uint32_t)EPOLLOUT : 0u));
}

/* Everything is said and both sides know: nothing keeps the connection open. */
static bool finished(const struct tunnel *t)
{
    return t->goaway && !t->streams_len && !t->queue_len && !t->shutting_down;
}

/* In the middle of what was read. Where the socket fails, the flush at the end of the turn finds the same:
 * what was read before counts. */
void tunnel_send_answers(struct tunnel *t)
{
    int r = tunnel_fill(t);

    if (r == -ENOBUFS)
        tunnel_close_reported(t, BRUMA_REASON_MEMORY_BUDGET, "its peer does not read");
    else if (r < 0)
        tunnel_wants_flush(t);
    else
        watch_open(t);
}

/* The peer has broken the protocol: nghttp2 has told it so, and takes no more. */
static bool broken(const struct tunnel *t)
{
    return !t->shutting_down && !nghttp2_session_want_read(t->session);
}

void tunnel_close_if_over(struct tunnel *t)
{
    if (nghttp2_session_want_write(t->session) || tls_blocked(&t->tls))
        return;
    if (finished(t))
        tunnel_close(t, BRUMA_REASON_NONE, NULL);
    else if (broken(t))
        tunnel_close_reported(t, BRUMA_REASON_HTTP2_ERROR, "the peer broke the protocol of HTTP/2");
}

void tunnel_flush(struct tunnel *t)
{
    int r;

    list_del(&t->flush_node);
    if (t->state != TUNNEL_OPEN)
        return;
    t->busy++;
    if (tls_blocked(&t->tls)) {
        r = tls_flush(&t->tls);
        if (r == 0)
            release_held(t);
    } else {
        r = 0;
    }
    if (r == 0)
        r = tunnel_fill(t);
    if (r < 0) {
        char buf[128];

        if (r != -EPROTO && r != -ENOBUFS)
            tunnel_read_rest(t);
        if (r == -ENOBUFS)
            tunnel_close_reported(t, BRUMA_REASON_MEMORY_BUDGET, "its peer does not read");
        else
            tunnel_close(t, BRUMA_REASON_HTTP2_ERROR,
                         r == -EPROTO ? "HTTP/2 session failed" : strerror_r(-r, buf, sizeof(buf)));
    } else if (r == 1) {
        watch_open(t);
    } else {
        watch_open(t);
        if (!list_empty(&t->held)) {
            /* Stopped for fairness, not by the socket: go on in the next turn. */
            release_held(t);
            tunnel_wants_flush(t);
            loop_again(loop_of(t));
        }
        tunnel_close_if_over(t);
    }
    tunnel_leave(t);
}
