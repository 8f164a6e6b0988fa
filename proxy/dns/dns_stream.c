/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions by TCP (RFC 7766): messages behind their length, as many as the client likes, answered in any
 * order. What the server says goes through as it is, message by message, so that a transfer of a zone does,
 * too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proxy/dns/asked.h"
#include "proxy/dns/dns_private.h"
#include "proxy/worker/connection.h"

#define PREFIX            2            /* bytes of a message's length */
#define HELD_MAX          (128 * 1024) /* bytes of one direction; a message may go beyond */
#define READ_SIZE         16384
#define IDLE_MILLISECONDS 10000  /* nobody asks, and nothing is waited for */
#define WAIT_MILLISECONDS 120000 /* the server is silent, and the client waits */

struct bytes {
    uint8_t *data;
    size_t begin, end, room;
};

/* One of the two connections. */
struct side {
    struct loop_watch watch;
    int fd;           /* -1: none */
    struct bytes in;  /* the beginning of a message */
    struct bytes out; /* what it has not taken yet */
    bool ended, told; /* it says nothing more; it was told that we do not */
};

struct dns_stream {
    struct list node; /* in dns_pod.streams */
    struct dns_pod *pod;
    struct side client, server;
    struct endpoint client_address, server_address;
    dns_connect_fn connect;
    struct loop_timer timer; /* nobody says anything */
    struct loop_timer due;   /* the oldest question has waited for its answer */
    struct asked asked;
    bool server_over; /* it has answered, and then ended the connection */
    bool heard;       /* it has said something */
    struct quota quota;
    struct budget_account account; /* the room of all four */
};

/* ---- bytes ---- */

static size_t held(const struct bytes *b)
{
    return b->end - b->begin;
}

/* Room for len bytes behind the last; NULL without memory. */
static uint8_t *more(struct bytes *b, size_t len)
{
    size_t room = b->room ? b->room : 1024;
    uint8_t *grown;

    if (b->begin == b->end)
        b->begin = b->end = 0;
    if (b->room - b->end >= len)
        return b->data + b->end;
    if (b->begin) {
        memmove(b->data, b->data + b->begin, held(b));
        b->end -= b->begin;
        b->begin = 0;
    }
    while (room - b->end < len)
        room *= 2;
    grown = room > b->room ? realloc(b->data, room) : b->data;
    if (!grown)
        return NULL;
    b->data = grown;
    b->room = room;
    return b->data + b->end;
}

static int append(struct bytes *b, const uint8_t *data, size_t len)
{
    uint8_t *to = more(b, len);

    if (!to)
        return -ENOMEM;
    memcpy(to, data, len);
    b->end += len;
    return 0;
}

/* The length of the whole message that comes first, with its prefix; 0: it is not whole. */
static size_t whole(const struct bytes *b)
{
    const uint8_t *p;
    size_t len;

    if (held(b) < PREFIX)
        return 0;
    p = b->data + b->begin;
    len = PREFIX + (size_t)(p[0] << 8 | p[1]);
    return held(b) >= len ? len : 0;
}

/* Nothing is kept for those who are silent. */
static size_t bytes_settle(struct bytes *b)
{
    if (b->begin == b->end) {
        free(b->data);
        *b = (struct bytes){};
    }
    return b->room;
}

/* -ENOBUFS: neither the pod nor the proxy may hold so much more. */
static int settle(struct dns_stream *s)
{
    size_t room = bytes_settle(&s->client.in) + bytes_settle(&s->client.out) + bytes_settle(&s->server.in) +
                  bytes_settle(&s->server.out) + s->asked.bytes;

    if (room > s->account.held)
        return budget_take(&s->account, room - s->account.held);
    budget_give(&s->account, s->account.held - room);
    return 0;
}

/* ---- ends ---- */

static void side_close(struct dns_stream *s, struct side *side)
{
    loop_watch_remove(s->pod->wp->worker->loop, &side->watch);
    if (side->fd >= 0)
        close(side->fd);
    side->fd = -1;
    free(side->in.data);
    free(side->out.data);
    side->in = side->out = (struct bytes){};
}

static void stream_end(struct dns_stream *s)
{
    struct worker_pod *wp = s->pod->wp;

    list_del(&s->node);
    loop_timer_cancel(&s->timer);
    loop_timer_cancel(&s->due);
    side_close(s, &s->client);
    side_close(s, &s->server);
    asked_end(s->pod, &s->asked);
    budget_give_all(&s->account);
    quota_release(wp, NULL, &s->quota);
    worker_connection_end(wp);
    loop_free_later(wp->worker->loop, s);
}

void dns_streams_end(struct dns_pod *d)
{
    while (!list_empty(&d->streams))
        stream_end(list_first(&d->streams, struct dns_stream, node));
}

static void on_idle(struct loop_timer *timer)
{
    stream_end(container_of(timer, struct dns_stream, timer));
}

/* ---- reading and writing ---- */

/* 0, also at the end; -errno. */
static int side_read(struct side *side)
{
    while (!side->ended && held(&side->in) < HELD_MAX) {
        uint8_t *to = more(&side->in, READ_SIZE);
        ssize_t n = to ? recv(side->fd, to, READ_SIZE, MSG_DONTWAIT) : -1;

        if (!to)
            return -ENOMEM;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        side->ended = n == 0;
        side->in.end += (size_t)n;
        if (n < READ_SIZE && n > 0)
            return 0;
    }
    return 0;
}

static int side_write(struct side *side)
{
    while (held(&side->out)) {
        ssize_t n =
            send(side->fd, side->out.data + side->out.begin, held(&side->out), MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        side->out.begin += (size_t)n;
    }
    return 0;
}

static void on_client(struct loop_watch *watch, uint32_t events);
static void on_server(struct loop_watch *watch, uint32_t events);

/* One that takes nothing is not read from either. What it has said already is gone on with once it takes
 * something. */
static void side_watch(struct dns_stream *s, struct side *side, const struct side *other)
{
    uint32_t events = held(&side->out) || whole(&side->in) ? EPOLLOUT : 0;

    if (side->fd < 0)
        return;
    if (!side->ended && held(&side->in) < HELD_MAX && held(&side->out) < HELD_MAX &&
        held(&other->out) < HELD_MAX)
        events |= EPOLLIN;
    (void)loop_watch_modify(s->pod->wp->worker->loop, &side->watch, events);
}

/* ---- questions ---- */

static int connect_server(struct dns_stream *s)
{
    struct worker_pod *wp = s->pod->wp;
    int pair[2], r;

    if (s->server.fd >= 0)
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    s->server.fd = pair[0];
    r = loop_watch_add(wp->worker->loop, &s->server.watch, pair[0], EPOLLIN, on_server);
    if (r < 0) {
        close(pair[1]);
        return r;
    }
    s->connect(wp, pair[1], &s->client_address, &s->server_address);
    return 0;
}

static int answer(struct dns_stream *s, const uint8_t *data, size_t len)
{
    const uint8_t prefix[PREFIX] = {(uint8_t)(len >> 8), (uint8_t)len};
    int r = append(&s->client.out, prefix, PREFIX);

    return r < 0 ? r : append(&s->client.out, data, len);
}

/* Without memory for it the client hears nothing, and waits as for any lost answer. */
static void tell(void *data, const uint8_t *message, size_t len)
{
    (void)answer(data, message, len);
}

/* message: without the prefix. */
static int forward(struct dns_stream *s, struct dns_series *series, const uint8_t *message, size_t len)
{
    enum bruma_reason reason = BRUMA_REASON_OUT_OF_RESOURCES;
    uint8_t *failure;
    size_t failure_len;
    int r = connect_server(s);

    if (r == 0)
        r = asked_add(s->pod, &s->asked, series, message, len, &reason);
    if (r == 0) {
        dns_metrics_upstream(series);
        dns_servers_note(&s->pod->wp->pod->dns_servers, &s->server_address, dns_nanoseconds());
        return append(&s->server.out, message - PREFIX, PREFIX + len);
    }
    dns_metrics_failed(series);
    dns_pod_failed(s->pod, &s->server_address, reason, "");
    if (decide_failure(message, len, &failure, &failure_len) == 0) {
        tell(s, failure, failure_len);
        free(failure);
    }
    return 0;
}

/* len: with the prefix. */
static int take(struct dns_stream *s, const uint8_t *message, size_t len)
{
    struct decided decided;
    int r = 0;

    decide(s->pod->wp, message + PREFIX, len - PREFIX, true, &decided);
    switch (decided.what) {
    case DECISION_IGNORE:
        break;
    case DECISION_ANSWER:
        r = answer(s, decided.answer, decided.answer_len);
        free(decided.answer);
        break;
    case DECISION_FORWARD:
        r = forward(s, decided.series, message + PREFIX, len - PREFIX);
        break;
    }
    return r;
}

/* An answer may be a thousand times as long as its question: those of a client that takes nothing wait. What
 * the server has said is no longer than what was read. */
static int take_all(struct dns_stream *s)
{
    size_t len;
    int r = 0;

    while (r == 0 && !s->server_over && held(&s->client.out) < HELD_MAX && (len = whole(&s->client.in))) {
        r = take(s, s->client.in.data + s->client.in.begin, len);
        s->client.in.begin += len;
    }
    while (r == 0 && s->server.fd >= 0 && (len = whole(&s->server.in))) {
        const uint8_t *message = s->server.in.data + s->server.in.begin;

        s->heard = true;
        if (asked_answered(s->pod, &s->asked, message + PREFIX, len - PREFIX))
            r = append(&s->client.out, message, len);
        s->server.in.begin += len;
    }
    return r;
}

/* A server that ends the connection ends ours: the client asks again what was not answered. */
static bool is_over(const struct dns_stream *s)
{
    if (held(&s->client.out))
        return false;
    return s->server_over || (s->client.ended && s->server.fd < 0 && !whole(&s->client.in));
}

/* Where it was never there the client is told so, as by UDP, and keeps its connection: asking again on
 * another one would not help. Its next question tries anew. */
static void server_ends(struct dns_stream *s)
{
    side_close(s, &s->server);
    s->server_over = s->heard;
    s->server.ended = s->server.told = false;
    if (!s->heard)
        asked_give_up(s->pod, &s->asked, &s->server_address, 0, BRUMA_REASON_DNS_SERVER_UNREACHABLE,
                      "no connection to it, or none that it answers", tell, s);
}

static void watch_due(struct dns_stream *s)
{
    struct worker *w = s->pod->wp->worker;
    uint64_t left;

    if (asked_waits(&s->asked, w->settings->dns_timeout, &left))
        loop_timer_set(w->loop, &s->due, left);
    else
        loop_timer_cancel(&s->due);
}

static void go_on(struct dns_stream *s)
{
    int r = take_all(s);

    if (s->server.fd >= 0 && s->server.ended)
        server_ends(s);
    if (r == 0)
        r = side_write(&s->client);
    /* Gone before it was asked, as where the dial fails at once: its event says so, after what it has said.
     */
    if (r == 0 && s->server.fd >= 0 && side_write(&s->server) < 0)
        s->server.out.begin = s->server.out.end;
    if (r < 0 || is_over(s)) {
        stream_end(s);
        return;
    }
    if (settle(s) < 0) {
        dns_pod_failed(s->pod, &s->server_address, BRUMA_REASON_MEMORY_BUDGET, "");
        stream_end(s);
        return;
    }
    if (s->client.ended && s->server.fd >= 0 && !whole(&s->client.in) && !held(&s->server.out) &&
        !s->server.told) {
        s->server.told = true;
        shutdown(s->server.fd, SHUT_WR);
    }
    side_watch(s, &s->client, &s->server);
    side_watch(s, &s->server, &s->client);
    loop_timer_set(s->pod->wp->worker->loop, &s->timer,
                   s->server.fd >= 0 ? WAIT_MILLISECONDS : IDLE_MILLISECONDS);
    watch_due(s);
}

static void on_due(struct loop_timer *timer)
{
    struct dns_stream *s = container_of(timer, struct dns_stream, due);

    asked_give_up(s->pod, &s->asked, &s->server_address, s->pod->wp->worker->settings->dns_timeout,
                  BRUMA_REASON_DNS_SERVER_SILENT, "", tell, s);
    go_on(s);
}

static void on_client(struct loop_watch *watch, uint32_t events)
{
    struct dns_stream *s = container_of(watch, struct dns_stream, client.watch);

    if (events & EPOLLERR || (events & (EPOLLIN | EPOLLHUP) && side_read(&s->client) < 0))
        stream_end(s);
    else
        go_on(s);
}

static void on_server(struct loop_watch *watch, uint32_t events)
{
    struct dns_stream *s = container_of(watch, struct dns_stream, server.watch);

    /* What it said before a reset goes to the client. */
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && side_read(&s->server) < 0)
        s->server.ended = true;
    go_on(s);
}

void dns_stream_accept(struct dns_pod *d, int fd, const struct endpoint *client,
                       const struct endpoint *server, dns_connect_fn connect)
{
    struct dns_stream *s = calloc(1, sizeof(*s));
    struct worker *w = d->wp->worker;
    enum bruma_reason reason = BRUMA_REASON_OUT_OF_RESOURCES;

    if (!s) {
        close(fd);
        return;
    }
    *s = (struct dns_stream){.pod = d,
                             .client = {.fd = fd, .watch.fd = -1},
                             .server = {.fd = -1, .watch.fd = -1},
                             .client_address = *client,
                             .server_address = *server,
                             .connect = connect,
                             .account.share = &d->wp->memory};
    loop_timer_init(&s->timer, on_idle);
    loop_timer_init(&s->due, on_due);
    asked_init(&s->asked);
    list_add_tail(&d->streams, &s->node);
    worker_connection_begin(d->wp);
    quota_take(d->wp, NULL, &s->quota);
    if (!quota_allows(d->wp, &s->quota, &reason) ||
        loop_watch_add(w->loop, &s->client.watch, fd, EPOLLIN, on_client) < 0) {
        telemetry_early_deny(w->telemetry, REPORTER_SOURCE, client, server, reason, NULL);
        stream_end(s);
        return;
    }
    loop_timer_set(w->loop, &s->timer, IDLE_MILLISECONDS);
}
