/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/stream.h"

#include <errno.h>
#include <stdlib.h>

#include "proxy/hbone/inner.h"
#include "proxy/hbone/stream_internal.h"
#include "proxy/socket/lingering.h"
#include "proxy/socket/socket.h"

static void on_timer(struct loop_timer *timer);

static struct loop *loop_of(const struct stream *s)
{
    return s->c.wp->worker->loop;
}

void stream_abort(struct connection *c, enum bruma_reason reason, const char *detail)
{
    stream_close(container_of(c, struct stream, c), reason, detail, true);
}

struct stream *stream_alloc(int fd, const struct stream_events *events)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->events = events;
    s->fd = fd;
    s->watch.fd = -1;
    list_init(&s->tunnel_node);
    list_init(&s->held_node);
    list_init(&s->touched_node);
    loop_timer_init(&s->timer, on_timer);
    return s;
}

struct stream *stream_new(struct worker_pod *wp, const struct endpoint *client,
                          const struct endpoint *destination, const struct stream_events *events)
{
    struct stream *s = stream_alloc(-1, events);

    if (!s)
        return NULL;
    s->state = STREAM_DIALING;
    connection_init(&s->c, wp, true, client, destination, stream_abort);
    return s;
}

struct stream *stream_take(struct connection *c, int fd, const struct stream_events *events)
{
    struct stream *s = stream_alloc(fd, events);

    if (s)
        connection_move(&s->c, c, stream_abort);
    return s;
}

struct stream *stream_new_carrier(struct worker_pod *wp, const struct endpoint *client, struct inner *inner,
                                  const struct stream_events *events)
{
    struct stream *s = stream_alloc(-1, events);

    if (!s)
        return NULL;
    s->inner = inner;
    s->state = STREAM_WAITING;
    connection_init(&s->c, wp, false, client, client, stream_abort);
    quota_release(wp, NULL, &s->c.quota); /* no descriptor is its own */
    return s;
}

void stream_drop_route(struct stream *s)
{
    service_unref(s->expected_service);
    service_unref(s->gateway_service);
    workload_unref(s->gateway);
    free(s->answer_baggage);
    s->answer_baggage = NULL;
}

/* Both sides have said all, or nothing was ever to be said: close() is enough. Else the application is owed
 * what the peer had sent, and has the end or the reset behind it. */
static void part(struct stream *s, bool reset, bool owed)
{
    if (owed && stream_send_gathered(s) < 0)
        owed = false;
    if (owed) {
        struct lingering_request q = {
            .wp = s->c.wp,
            .fd = s->fd,
            .unsent = s->pending,
            .unsent_offset = s->pending_offset,
            .unsent_len = s->pending_len,
            .end = s->remote_closed && !s->write_closed,
            .reset = reset,
            .last_activity = s->last_activity,
            .delivery_port = s->delivery_port,
        };

        budget_move(&s->c.account, &q.account, s->pending_size);
        lingering_begin(&q);
        s->pending = NULL;
        s->pending_size = 0;
    } else {
        if (reset)
            socket_reset_on_close(s->fd);
        close(s->fd);
        if (reset || (s->read_closed && s->write_closed))
            socket_delivery_over(s->c.wp, s->delivery_port);
    }
    s->fd = -1;
}

static void leave_tunnel(struct stream *s)
{
    if (!s->tunnel)
        return;
    if (s->state == STREAM_WAITING) {
        list_del(&s->tunnel_node);
        s->tunnel->queue_len--;
        s->tunnel = NULL;
    } else {
        tunnel_reset_stream(s->tunnel, s, NGHTTP2_CANCEL);
    }
}

void stream_abandon(struct stream *s)
{
    leave_tunnel(s);
    s->state = STREAM_CLOSED;
    s->fd = -1;
    list_del(&s->held_node);
    list_del(&s->touched_node);
    loop_timer_cancel(&s->timer);
    free(s->gathered);
    s->gathered = NULL;
    stream_free_pending(s);
    stream_drop_route(s);
}

void stream_close(struct stream *s, enum bruma_reason reason, const char *detail, bool reset)
{
    struct worker *w = s->c.wp->worker;
    bool owed = s->state == STREAM_OPEN && !s->app_reset && (reset || !s->read_closed) &&
                reason != BRUMA_REASON_MEMORY_BUDGET;

    if (s->state == STREAM_CLOSED)
        return;
    if (s->state == STREAM_OPEN && s->fd >= 0)
        telemetry_socket(w->telemetry, s->c.inbound ? TELEMETRY_LEG_SERVER : TELEMETRY_LEG_CLIENT, s->fd);
    leave_tunnel(s);
    if (s->inner)
        inner_lost(s, reason, detail);
    s->state = STREAM_CLOSED;
    list_del(&s->held_node);
    list_del(&s->touched_node);
    loop_timer_cancel(&s->timer);
    loop_watch_remove(w->loop, &s->watch);
    if (s->fd >= 0)
        part(s, reset, owed);
    free(s->gathered);
    free(s->pending);
    s->gathered = NULL;
    s->pending = NULL;
    if (s->request)
        s->events->abandoned(s);
    stream_drop_route(s);
    connection_close(&s->c, s->inner ? BRUMA_REASON_NONE : reason, detail);
    loop_free_later(w->loop, s);
}

/* ---- the application's side ---- */

void stream_set_interest(struct stream *s, bool writable)
{
    uint32_t events = EPOLLIN | EPOLLRDHUP | EPOLLET;

    loop_watch_modify(loop_of(s), &s->watch, writable ? events | EPOLLOUT : events);
}

static void arm(struct stream *s, uint64_t limit)
{
    s->last_activity = loop_now(loop_of(s));
    loop_timer_set(loop_of(s), &s->timer, limit);
}

static void on_timer(struct loop_timer *timer)
{
    struct stream *s = container_of(timer, struct stream, timer);
    const struct proxy_settings *set = s->c.wp->worker->settings;
    bool last_bytes = s->app_reset || !s->tunnel || s->inner;
    uint64_t limit = last_bytes ? set->linger_timeout : set->half_close_timeout, idle;

    switch (s->state) {
    case STREAM_REQUESTED:
        stream_close(s, BRUMA_REASON_CONNECT_ANSWER_TIMEOUT, NULL, true);
        break;
    case STREAM_DIALING:
        stream_refuse(s, 503, BRUMA_REASON_CONNECT_TIMEOUT, NULL);
        break;
    case STREAM_OPEN:
        idle = loop_now(loop_of(s)) - s->last_activity;
        if (idle >= limit) {
            /* They have had their time, and what is missing may not look like an end. */
            s->app_reset = last_bytes;
            stream_close(s, last_bytes ? BRUMA_REASON_LAST_BYTES_UNDELIVERED : BRUMA_REASON_IDLE_HALF_CLOSED,
                         NULL, true);
        } else {
            loop_timer_set(loop_of(s), &s->timer, limit - idle);
        }
        break;
    case STREAM_WAITING:
        s->events->tunnel_late(s);
        break;
    case STREAM_CLOSED:
        break;
    }
}

/* Ends the stream once nothing is left to do in either direction. */
void stream_finish_if_over(struct stream *s)
{
    const struct proxy_settings *settings = s->c.wp->worker->settings;

    if (s->remote_closed && !s->pending_len && !s->gathered_len && !s->write_closed) {
        s->write_closed = true;
        if (s->inner)
            inner_ended(s->inner);
        if (s->fd >= 0)
            shutdown(s->fd, SHUT_WR);
    }
    if (s->write_closed && (s->read_closed || !s->tunnel))
        stream_close(s, BRUMA_REASON_NONE, NULL, false);
    else if (!s->tunnel && !s->lingers) {
        s->lingers = true; /* the application has not taken everything yet */
        arm(s, settings->linger_timeout);
    } else if ((s->write_closed || s->read_closed) && !loop_timer_armed(&s->timer))
        arm(s, settings->half_close_timeout); /* the other direction may not be silent for ever */
}

/* The application reset its connection: the peer shall see a reset too. */
static void aborted(struct stream *s)
{
    s->app_reset = true;
    stream_close(s, BRUMA_REASON_NONE, NULL, true);
}

/*
 * It shows in whatever touches the socket first, mostly in a write. What the application said before (an
 * error answer to a request that it did not want to read) is passed on all the same, as far as the peer takes
 * it; then comes the reset.
 */
static void application_reset(struct stream *s)
{
    if (s->inner) { /* which takes everything, but for want of memory */
        stream_close(s, BRUMA_REASON_MEMORY_BUDGET, NULL, true);
        return;
    }
    if (s->app_reset)
        return;
    s->app_reset = true;
    if (s->tunnel)
        tunnel_stream_consumed(s->tunnel, s,
                               s->pending_len - (s->uncounted < s->pending_len ? s->uncounted : 0));
    stream_free_pending(s);
    s->uncounted = 0;
    if (s->read_closed || !s->tunnel) {
        aborted(s);
        return;
    }
    arm(s, s->c.wp->worker->settings->linger_timeout);
    s->readable = s->read_hangup = true;
    tunnel_stream_readable(s->tunnel, s);
}

void stream_application_reset(struct stream *s)
{
    if (s->state == STREAM_OPEN)
        application_reset(s);
}

ssize_t stream_read(struct stream *s, uint8_t *buf, size_t size, bool *ret_end)
{
    ssize_t n;

    if (!s->readable || s->state != STREAM_OPEN)
        return -EAGAIN;
    if (s->inner) {
        s->last_activity = loop_now(loop_of(s));
        return inner_take(s->inner, buf, size, ret_end);
    }
    do
        n = recv(s->fd, buf, size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        s->readable = false;
        if (errno == EAGAIN)
            return -EAGAIN;
        aborted(s);
        return -EAGAIN;
    }
    /* A short read has emptied the socket; with a hang-up seen, its end is still to be read. */
    if ((size_t)n < size && !s->read_hangup)
        s->readable = false;
    s->last_activity = loop_now(loop_of(s));
    if (n == 0) {
        s->readable = false;
        if (s->app_reset) { /* the error itself was told to somebody else */
            aborted(s);
            return -EAGAIN;
        }
    }
    *ret_end = n == 0;
    return n;
}

static void on_event(struct loop_watch *watch, uint32_t events)
{
    struct stream *s = container_of(watch, struct stream, watch);

    if (s->state == STREAM_DIALING) {
        s->events->dialed(s);
        return;
    }
    if (events & EPOLLOUT) {
        stream_write_pending(s);
        if (s->state != STREAM_OPEN)
            return;
    }
    /* While we have not ended our side, a hang-up can only be a reset whose error was told to somebody else.
     */
    if ((events & EPOLLERR) || ((events & EPOLLHUP) && !s->write_closed)) {
        application_reset(s);
        return;
    }
    if (!(events & ~(uint32_t)EPOLLOUT) || s->read_closed || !s->tunnel)
        return;
    s->readable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP))
        s->read_hangup = true;
    tunnel_stream_readable(s->tunnel, s);
}

int stream_watch(struct stream *s, uint32_t events)
{
    return loop_watch_add(loop_of(s), &s->watch, s->fd, events, on_event);
}

void stream_open(struct stream *s)
{
    int r;

    s->state = STREAM_OPEN;
    loop_timer_cancel(&s->timer);
    /* Whoever connected has mostly something to say already: the first read is tried without waiting for an
     * event. */
    s->readable = true;
    if (s->inner)
        return;
    if (s->watch.fd >= 0) {
        stream_set_interest(s, false);
        return;
    }
    r = stream_watch(s, EPOLLIN | EPOLLRDHUP | EPOLLET);
    if (r < 0)
        stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
}

/* ---- the tunnel's side ---- */

bool stream_is_ahead(const struct stream *s)
{
    return s->state == STREAM_DIALING && s->fd >= 0 && s->pending_len;
}

void stream_remote_end(struct stream *s)
{
    s->remote_closed = true;
    if (s->state == STREAM_OPEN && list_empty(&s->touched_node))
        stream_finish_if_over(s);
}

void stream_detached(struct stream *s, uint32_t code)
{
    struct tunnel *t = s->tunnel;
    char text[64];

    if (t) {
        tunnel_stream_credit(t, s);
        list_del(&s->tunnel_node);
        list_del(&s->held_node);
        t->streams_len--;
        t->idle_since = loop_now(loop_of(s));
        if (code == NGHTTP2_NO_ERROR)
            t->refused_streams = false; /* it has room again */
        s->tunnel = NULL;
    }
    switch (s->state) {
    case STREAM_REQUESTED:
        snprintf(text, sizeof(text), "the peer reset the stream: %s", nghttp2_http2_strerror(code));
        s->events->tunnel_lost(s, BRUMA_REASON_HTTP2_ERROR, text);
        break;
    case STREAM_DIALING:
    case STREAM_WAITING:
        if (!stream_is_ahead(s))
            stream_close(s, BRUMA_REASON_NONE, NULL, true);
        break;
    case STREAM_OPEN:
        /* Envoy ends its streams with CONNECT_ERROR, and says INTERNAL_ERROR where its own client has left;
         * everything else that is not NO_ERROR cut something off. */
        if (code == NGHTTP2_NO_ERROR || code == NGHTTP2_CONNECT_ERROR) {
            s->remote_closed = true;
            if (list_empty(&s->touched_node))
                stream_finish_if_over(s);
        } else if (code == NGHTTP2_CANCEL || code == NGHTTP2_INTERNAL_ERROR) {
            stream_close(s, BRUMA_REASON_NONE, NULL, true);
        } else {
            snprintf(text, sizeof(text), "the peer reset the stream: %s", nghttp2_http2_strerror(code));
            stream_close(s, BRUMA_REASON_HTTP2_ERROR, text, true);
        }
        break;
    case STREAM_CLOSED:
        break;
    }
}
