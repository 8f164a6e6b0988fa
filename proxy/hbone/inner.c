/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/inner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/reasons.h"
#include "proxy/hbone/inner_internal.h"
#include "proxy/hbone/tunnel_internal.h"

#define OUT_MAX    (256 * 1024) /* bytes that wait for the outer tunnel; then the inner one waits */
#define QUEUE_KEPT 4096         /* an empty queue keeps its memory up to so much */

/* ---- queues ---- */

static struct budget_account *account(struct inner *i)
{
    return i->stream ? &i->stream->c.account : NULL;
}

static void queue_free(struct inner *i, struct inner_queue *q)
{
    if (account(i))
        budget_give(account(i), q->size);
    free(q->data);
    *q = (struct inner_queue){};
}

/* 0, -ENOBUFS or -ENOMEM: nothing was added. */
static int queue_reserve(struct inner *i, struct inner_queue *q, size_t len)
{
    size_t size = q->len + len;
    uint8_t *grown;

    if (q->offset && q->offset + size > q->size) {
        memmove(q->data, q->data + q->offset, q->len);
        q->offset = 0;
    }
    if (size <= q->size)
        return 0;
    size += size / 2;
    if (account(i) && budget_take(account(i), size - q->size) < 0)
        return -ENOBUFS;
    grown = realloc(q->data, size);
    if (!grown) {
        if (account(i))
            budget_give(account(i), size - q->size);
        return -ENOMEM;
    }
    q->data = grown;
    q->size = size;
    return 0;
}

static void queue_add(struct inner_queue *q, const uint8_t *data, size_t len)
{
    memcpy(q->data + q->offset + q->len, data, len);
    q->len += len;
}

static size_t queue_take(struct inner *i, struct inner_queue *q, uint8_t *buf, size_t size)
{
    size_t n = q->len < size ? q->len : size;

    memcpy(buf, q->data + q->offset, n);
    q->offset += n;
    q->len -= n;
    if (!q->len) {
        q->offset = 0;
        if (q->size > QUEUE_KEPT)
            queue_free(i, q);
    }
    return n;
}

/* ---- life ---- */

static ssize_t transport_receive(struct tls_carrier *carrier, uint8_t *buf, size_t size)
{
    struct inner *i = container_of(carrier, struct inner, transport);

    if (i->in.len)
        return (ssize_t)queue_take(i, &i->in, buf, size);
    if (i->ended)
        return 0;
    return i->failed ? -ECONNRESET : -EAGAIN;
}

static ssize_t transport_send(struct tls_carrier *carrier, const uint8_t *data, size_t len)
{
    struct inner *i = container_of(carrier, struct inner, transport);
    int r;

    if (!i->stream)
        return -EPIPE;
    if (i->out.len >= OUT_MAX && !i->ending) {
        i->wants_room = true;
        return -EAGAIN;
    }
    r = queue_reserve(i, &i->out, len);
    if (r < 0)
        return r;
    queue_add(&i->out, data, len);
    i->stream->readable = true;
    if (i->stream->tunnel)
        tunnel_stream_readable(i->stream->tunnel, i->stream);
    return (ssize_t)len;
}

struct inner *inner_new(struct worker *worker)
{
    struct inner *i = calloc(1, sizeof(*i));

    if (!i)
        return NULL;
    i->worker = worker;
    i->transport = (struct tls_carrier){.receive = transport_receive, .send = transport_send};
    list_init(&i->node);
    worker->inside_len++;
    return i;
}

void inner_free_if_over(struct inner *i)
{
    if (i->tunnel || i->stream)
        return;
    list_del(&i->node);
    queue_free(i, &i->in);
    queue_free(i, &i->out);
    i->worker->inside_len--;
    loop_free_later(i->worker->loop, i);
}

void inner_wake(struct inner *i)
{
    if (list_empty(&i->node))
        list_add_tail(&i->worker->inside, &i->node);
}

/* ---- the carrier's side ---- */

ssize_t inner_put(struct inner *i, const struct iovec *pieces, unsigned len)
{
    size_t total = 0;
    int r;

    for (unsigned n = 0; n < len; n++)
        total += pieces[n].iov_len;
    if (!i->tunnel)
        return (ssize_t)total; /* nobody reads it any more */
    if (i->stopped)
        return 0;
    r = queue_reserve(i, &i->in, total);
    if (r < 0)
        return r;
    for (unsigned n = 0; n < len; n++)
        queue_add(&i->in, pieces[n].iov_base, pieces[n].iov_len);
    inner_wake(i);
    return (ssize_t)total;
}

ssize_t inner_take(struct inner *i, uint8_t *buf, size_t size, bool *ret_end)
{
    size_t n = i->out.len ? queue_take(i, &i->out, buf, size) : 0;

    if (i->wants_room && i->out.len < OUT_MAX / 2) {
        inner_wake(i);
        loop_again(i->worker->loop);
    }
    if (!i->out.len && i->ending)
        *ret_end = n == 0; /* once more for the end itself */
    else if (!n)
        i->stream->readable = false;
    return n || *ret_end ? (ssize_t)n : -EAGAIN;
}

void inner_ended(struct inner *i)
{
    i->ended = true;
    inner_wake(i);
}

/* Of no use any more: its tunnel is closed at the end of the turn. */
static void fail(struct inner *i, enum bruma_reason reason, const char *detail)
{
    char gateway[ENDPOINT_TEXT_LEN] = "";

    if (i->failed || !i->tunnel)
        return;
    i->failed = true;
    i->reason = reason;
    snprintf(i->detail, sizeof(i->detail), "east-west gateway %s: %s",
             endpoint_format(&i->tunnel->peer, gateway),
             detail                        ? detail
             : reason == BRUMA_REASON_NONE ? "it has ended the stream"
                                           : reason_what(reason));
    inner_wake(i);
}

void inner_lost(struct stream *s, enum bruma_reason reason, const char *detail)
{
    struct inner *i = s->inner;

    if (i->stream != s)
        return;
    if (s->gathered_len)
        (void)inner_put(i, s->gathered, s->gathered_len);
    if (!i->ended)
        fail(i, reason, detail);
    budget_give_all(account(i));
    i->stream = NULL;
    inner_free_if_over(i);
}

/* ---- the inner tunnel's side ---- */

/* Behind what is still in the queue; the gateway has a moment to say the same. */
static void end(struct stream *s)
{
    struct worker *w = connection_worker(&s->c);

    if (!s->tunnel || s->read_closed) {
        stream_close(s, BRUMA_REASON_NONE, NULL, false);
        return;
    }
    s->readable = true;
    s->last_activity = loop_now(w->loop);
    loop_timer_set(w->loop, &s->timer, w->settings->linger_timeout);
    tunnel_stream_readable(s->tunnel, s);
}

void inner_part(struct tunnel *t, bool open, bool aborted, bool reset)
{
    struct inner *i = t->inner;

    i->ending = true;
    if (open && !t->lost && !reset && i->stream) {
        if (aborted || !t->goaway)
            nghttp2_session_terminate_session(t->session, NGHTTP2_NO_ERROR);
        (void)tunnel_fill(t);
        tls_shutdown(&t->tls);
    }
    i->tunnel = NULL;
    if (i->stream && (reset || i->stream->state != STREAM_OPEN)) {
        stream_close(i->stream, BRUMA_REASON_NONE, NULL, true);
    } else if (i->stream) {
        end(i->stream);
    } else {
        inner_free_if_over(i);
    }
}

void inner_set_stopped(struct inner *i, bool stopped)
{
    if (i->stopped && !stopped)
        inner_wake(i);
    i->stopped = stopped;
}

struct tunnel *inner_outer(const struct inner *i)
{
    return i->stream->tunnel;
}

bool inner_is_leaving(const struct inner *i)
{
    return i->failed || i->ended || !i->stream || (i->stream->tunnel && i->stream->tunnel->goaway);
}

void inner_drain_carried(struct tunnel *outer)
{
    struct stream *s;

    list_for_each (s, &outer->streams, tunnel_node) {
        if (s->inner && s->inner->tunnel)
            tunnel_drain(s->inner->tunnel);
    }
}

void inner_go_on_inside(struct tunnel *outer)
{
    struct stream *s;

    list_for_each (s, &outer->streams, tunnel_node) {
        if (s->inner && s->inner->tunnel)
            s->inner->tunnel->frozen = s->inner->tunnel->mute = false;
    }
}

void inner_describe_end(const struct tunnel *t, enum bruma_reason reason, const char *detail, char *text,
                        size_t size)
{
    char gateway[ENDPOINT_TEXT_LEN];

    if (!t->inner || t->inner->failed || reason == BRUMA_REASON_NONE)
        snprintf(text, size, "%s", detail ? detail : "");
    else
        snprintf(text, size, "behind the gateway %s: %s", endpoint_format(&t->peer, gateway),
                 detail ? detail : reason_what(reason));
}

/* ---- the end of a turn ---- */

static void look(struct inner *i)
{
    struct tunnel *t = i->tunnel;
    uint32_t events = EPOLLIN;

    if (!t)
        return;
    if (i->failed && !i->in.len) {
        t->lost = true;
        tunnel_close(t, i->reason == BRUMA_REASON_NONE ? BRUMA_REASON_PEER_RESET : i->reason, i->detail);
        return;
    }
    if (t->state == TUNNEL_CONNECTING) {
        if (i->begin)
            tunnel_begin_handshake(t);
        if (i->tunnel && (i->ended || i->in.len))
            inner_wake(i);
        return;
    }
    if (i->wants_room && i->out.len < OUT_MAX / 2) {
        i->wants_room = false;
        events |= EPOLLOUT;
    }
    if (i->stopped)
        events &= ~(uint32_t)EPOLLIN;
    if (events)
        tunnel_on_event(t, events);
    if (i->tunnel && !i->stopped && i->stream && i->stream->pending_len)
        stream_write_pending(i->stream);
    if (i->tunnel && !i->stopped && (i->in.len || i->ended || i->failed))
        inner_wake(i); /* the rest in the next turn */
}

void inner_turn(struct worker *w)
{
    struct list now;

    list_init(&now);
    list_splice(&now, &w->inside);
    while (!list_empty(&now)) {
        struct inner *i = list_first(&now, struct inner, node);

        list_del(&i->node);
        look(i);
    }
}
