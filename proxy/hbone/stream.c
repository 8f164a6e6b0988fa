/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "proxy/socket/lingering.h"
#include "proxy/socket/socket.h"

#define GATHERED_FIRST 4
#define GATHERED_KEEP  16  /* pieces that a stream has room for between turns */
#define GATHERED_MAX   256 /* then they are delivered: frames may be of one byte */

static void on_timer(struct loop_timer *timer);
static int deliver_gathered(struct stream *s);

static struct loop *loop_of(const struct stream *s)
{
    return s->c.wp->worker->loop;
}

static void abort_connection(struct connection *c, enum bruma_reason reason, const char *detail)
{
    stream_close(container_of(c, struct stream, c), reason, detail, true);
}

static struct stream *stream_alloc(int fd, const struct stream_events *events)
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
    connection_init(&s->c, wp, true, client, destination, abort_connection);
    return s;
}

struct stream *stream_take(struct connection *c, int fd, const struct stream_events *events)
{
    struct stream *s = stream_alloc(fd, events);

    if (s)
        connection_move(&s->c, c, abort_connection);
    return s;
}

static void free_pending(struct stream *s)
{
    free(s->pending);
    budget_give(&s->c.account, s->pending_size);
    s->pending = NULL;
    s->pending_len = s->pending_offset = s->pending_size = 0;
}

/* Both sides have said all, or nothing was ever to be said: close() is enough. Else the application is owed
 * what the peer had sent, and has the end or the reset behind it. */
static void part(struct stream *s, bool reset, bool owed)
{
    if (owed && deliver_gathered(s) < 0)
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

void stream_close(struct stream *s, enum bruma_reason reason, const char *detail, bool reset)
{
    struct worker *w = s->c.wp->worker;
    bool owed = s->state == STREAM_OPEN && !s->app_reset && (reset || !s->read_closed) &&
                reason != BRUMA_REASON_MEMORY_BUDGET;

    if (s->state == STREAM_CLOSED)
        return;
    if (s->tunnel) {
        if (s->state == STREAM_WAITING) {
            list_del(&s->tunnel_node);
            s->tunnel->queue_len--;
            s->tunnel = NULL;
        } else {
            tunnel_reset_stream(s->tunnel, s, NGHTTP2_CANCEL);
        }
    }
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
    service_unref(s->expected_service);
    connection_close(&s->c, reason, detail);
    loop_free_later(w->loop, s);
}

/* ---- the application's side ---- */

static void set_interest(struct stream *s, bool writable)
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
    bool last_bytes = s->app_reset || !s->tunnel;
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
    case STREAM_CLOSED:
        break;
    }
}

/* Ends the stream once nothing is left to do in either direction. */
static void finish(struct stream *s)
{
    const struct proxy_settings *settings = s->c.wp->worker->settings;

    if (s->remote_closed && !s->pending_len && !s->gathered_len && !s->write_closed) {
        s->write_closed = true;
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
    if (s->app_reset)
        return;
    s->app_reset = true;
    if (s->tunnel)
        tunnel_stream_consumed(s->tunnel, s,
                               s->pending_len - (s->uncounted < s->pending_len ? s->uncounted : 0));
    free_pending(s);
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

/* keep() has failed with this. */
static void cannot_hold(struct stream *s, int error)
{
    stream_close(s, error == -ENOBUFS ? BRUMA_REASON_MEMORY_BUDGET : BRUMA_REASON_OUT_OF_RESOURCES, NULL,
                 true);
}

static int keep(struct stream *s, const uint8_t *data, size_t len)
{
    if (s->pending_offset + s->pending_len + len > s->pending_size) {
        size_t size = s->pending_len + len;
        uint8_t *grown;
        int r;

        size = size < 4096 ? 4096 : size + size / 2;
        r = budget_take(&s->c.account, size);
        if (r < 0)
            return r;
        grown = malloc(size);
        if (!grown) {
            budget_give(&s->c.account, size);
            return -ENOMEM;
        }
        budget_give(&s->c.account, s->pending_size);
        if (s->pending_len)
            memcpy(grown, s->pending + s->pending_offset, s->pending_len);
        free(s->pending);
        s->pending = grown;
        s->pending_size = size;
        s->pending_offset = 0;
    }
    memcpy(s->pending + s->pending_offset + s->pending_len, data, len);
    s->pending_len += len;
    return 0;
}

static void took(struct stream *s, size_t bytes)
{
    s->last_activity = loop_now(loop_of(s));
    if (s->tunnel && bytes)
        tunnel_stream_consumed(s->tunnel, s, bytes);
}

/* Bytes that the peer never asked credit for, such as a PROXY header, are not counted as taken. */
static void write_pending(struct stream *s)
{
    size_t total = 0;

    while (s->pending_len) {
        ssize_t n = send(s->fd, s->pending + s->pending_offset, s->pending_len, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            application_reset(s);
            return;
        }
        if (n < 0)
            break;
        s->pending_offset += (size_t)n;
        s->pending_len -= (size_t)n;
        total += (size_t)n;
    }
    if (!s->pending_len) {
        free_pending(s);
        set_interest(s, false);
    }
    if (total > s->uncounted) {
        took(s, total - s->uncounted);
        s->uncounted = 0;
    } else {
        s->uncounted -= total;
    }
    finish(s);
}

void stream_gather(struct stream *s, const uint8_t *data, size_t len)
{
    if (s->state == STREAM_DIALING && s->tunnel) {
        /* A peer that does not wait for the answer: its window bounds what it can send so. */
        int r = keep(s, data, len);

        if (r < 0)
            cannot_hold(s, r);
        return;
    }
    if (s->state != STREAM_OPEN) {
        /* bytes behind a refused request: nobody wants them */
        if (s->tunnel)
            tunnel_stream_consumed(s->tunnel, s, len);
        return;
    }
    if (s->gathered_len == GATHERED_MAX) {
        stream_deliver(s);
        if (s->state != STREAM_OPEN)
            return;
    }
    if (s->gathered_len == s->gathered_size) {
        unsigned size = s->gathered_size ? s->gathered_size * 2 : GATHERED_FIRST;
        struct iovec *grown = realloc(s->gathered, size * sizeof(*grown));

        if (!grown) {
            stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
            return;
        }
        s->gathered = grown;
        s->gathered_size = size;
    }
    s->gathered[s->gathered_len++] = (struct iovec){.iov_base = (void *)data, .iov_len = len};
    if (list_empty(&s->touched_node))
        list_add_tail(&s->c.wp->worker->touched, &s->touched_node);
    if (s->c.inbound)
        telemetry_bytes(&s->c.flow, len, 0);
    else
        telemetry_bytes(&s->c.flow, 0, len);
}

/* Sends the gathered pieces; returns how many bytes the socket took, or -errno. */
static ssize_t send_gathered(struct stream *s)
{
    struct msghdr msg = {.msg_iov = s->gathered,
                         .msg_iovlen = s->gathered_len < IOV_MAX ? s->gathered_len : IOV_MAX};
    ssize_t n;

    do
        n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -errno;
    return n;
}

static void drop_gathered(struct stream *s)
{
    size_t total = 0;

    for (unsigned i = 0; i < s->gathered_len; i++)
        total += s->gathered[i].iov_len;
    s->gathered_len = 0;
    took(s, total);
}

/* What the socket does not take is kept. -EPIPE: the application has reset the connection. */
static int deliver_gathered(struct stream *s)
{
    size_t skip = 0;
    int r;

    if (!s->pending_len && s->gathered_len) {
        ssize_t n = send_gathered(s);

        if (n < 0)
            return -EPIPE;
        skip = (size_t)n;
        took(s, skip);
    }
    for (unsigned i = 0; i < s->gathered_len; i++) {
        const struct iovec *v = &s->gathered[i];

        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        r = keep(s, (const uint8_t *)v->iov_base + skip, v->iov_len - skip);
        if (r < 0)
            return r;
        skip = 0;
    }
    s->gathered_len = 0;
    return 0;
}

void stream_deliver(struct stream *s)
{
    int r;

    if (s->state != STREAM_OPEN)
        return;
    if (s->app_reset) {
        drop_gathered(s);
        return;
    }
    r = deliver_gathered(s);
    if (r == -EPIPE) {
        drop_gathered(s);
        application_reset(s);
        return;
    }
    if (r < 0) {
        s->gathered_len = 0;
        cannot_hold(s, r);
        return;
    }
    if (s->gathered_size > GATHERED_KEEP) {
        free(s->gathered);
        s->gathered = NULL;
        s->gathered_size = 0;
    }
    if (s->pending_len)
        set_interest(s, true);
    finish(s);
}

static void on_event(struct loop_watch *watch, uint32_t events)
{
    struct stream *s = container_of(watch, struct stream, watch);

    if (s->state == STREAM_DIALING) {
        s->events->dialed(s);
        return;
    }
    if (events & EPOLLOUT) {
        write_pending(s);
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
    if (s->watch.fd >= 0) {
        set_interest(s, false);
        return;
    }
    r = stream_watch(s, EPOLLIN | EPOLLRDHUP | EPOLLET);
    if (r < 0)
        stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
}

void stream_send_first(struct stream *s, const uint8_t *data, size_t len)
{
    if (len) {
        struct iovec ahead = {.iov_base = s->pending, .iov_len = s->pending_len};
        size_t at = s->pending_offset, size = s->pending_size;
        int r;

        s->pending = NULL;
        s->pending_len = s->pending_offset = s->pending_size = 0;
        r = keep(s, data, len);
        if (r == 0 && ahead.iov_len)
            r = keep(s, (const uint8_t *)ahead.iov_base + at, ahead.iov_len);
        free(ahead.iov_base);
        budget_give(&s->c.account, size);
        if (r < 0) {
            cannot_hold(s, r);
            return;
        }
        s->uncounted = len;
    }
    if (s->pending_len)
        write_pending(s);
    else if (s->remote_closed)
        finish(s);
    if (s->state == STREAM_OPEN && s->pending_len)
        set_interest(s, true);
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
        finish(s);
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
                finish(s);
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
