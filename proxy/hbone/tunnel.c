/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/hbone/inner.h"
#include "proxy/hbone/pool.h"
#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_frames.h"
#include "proxy/hbone/tunnel_internal.h"
#include "proxy/hbone/tunnel_session.h"
#include "proxy/socket/lingering.h"
#include "proxy/socket/socket.h"
#include "proxy/state/hash.h"
#include "proxy/worker/moving.h"

static void on_timer(struct loop_timer *timer);

static struct loop *loop_of(const struct tunnel *t)
{
    return t->wp->worker->loop;
}

static void evict_tunnel(struct handshake *h);

struct tunnel *tunnel_new(struct worker_pod *wp, bool server)
{
    struct tunnel *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->wp = wp;
    t->server = server;
    t->watch.fd = -1;
    list_init(&t->node);
    list_init(&t->flush_node);
    handshake_init(&t->handshake, evict_tunnel);
    list_init(&t->streams);
    list_init(&t->held);
    list_init(&t->queue);
    loop_timer_init(&t->timer, on_timer);
    if (wp) {
        t->last_received = loop_now(wp->worker->loop);
        t->frames.account.share = &wp->memory;
    }
    return t;
}

/* ---- end ---- */

/* The end must not overtake what was said before it: frames that wait, an alert. The peer may still be
 * sending, and would be answered by a reset that destroys them. cut: streams have ended with the tunnel. */
static void part(struct tunnel *t, int fd, bool open, bool aborted)
{
    struct lingering_request q = {.wp = t->wp, .fd = fd, .end = true};

    if (open) {
        if (aborted || !t->goaway) /* also: no request leaves any more */
            nghttp2_session_terminate_session(t->session, NGHTTP2_NO_ERROR);
        (void)tunnel_fill(t);
        tls_shutdown(&t->tls);
    }
    budget_move(&t->tls.account, &q.account, t->tls.account.held);
    q.unsent = tls_take_pending(&t->tls, &q.unsent_offset, &q.unsent_len);
    lingering_begin(&q);
}

void tunnel_close(struct tunnel *t, enum bruma_reason reason, const char *detail)
{
    struct worker *w = t->wp->worker;
    bool open = t->state == TUNNEL_OPEN, connected = open || t->state == TUNNEL_HANDSHAKING;
    bool aborted = t->streams_len > 0;
    char text[160];
    int fd = open && !t->inner ? t->tls.fd : t->watch.fd; /* one that stands still is not watched */

    if (t->state == TUNNEL_DEAD)
        return;
    if (t->busy) {
        if (!t->closing) {
            t->closing = true;
            t->close_reason = reason;
            snprintf(t->close_detail, sizeof(t->close_detail), "%s", detail ? detail : "");
        }
        return;
    }
    if (t->inner)
        tunnel_go_on(t); /* both, before this one ends */
    else if (t->frozen)
        inner_go_on_inside(t);
    if (open && !t->inner)
        telemetry_socket(w->telemetry, TELEMETRY_LEG_TUNNEL, fd);
    inner_describe_end(t, reason, detail, text, sizeof(text));
    t->frozen = t->mute = false;
    moving_gone(&t->moving);
    t->state = TUNNEL_DEAD;
    handshake_end(t->wp, &t->handshake);
    quota_release(t->wp, &t->peer.addr, &t->quota);
    list_del(&t->node);
    list_del(&t->flush_node);
    loop_timer_cancel(&t->timer);
    loop_watch_remove(w->loop, &t->watch);
    tunnel_end_streams(t, reason, text[0] ? text : NULL);
    if (t->inner) {
        inner_part(t, open, aborted, reason == BRUMA_REASON_MEMORY_BUDGET);
    } else if (fd >= 0 && connected && !t->lost && reason != BRUMA_REASON_MEMORY_BUDGET) {
        part(t, fd, open, aborted);
    } else if (fd >= 0 && reason == BRUMA_REASON_MEMORY_BUDGET) {
        socket_reset_on_close(fd); /* the kernel need not keep anything for it either */
        close(fd);
    } else if (fd >= 0) {
        if (open)
            tls_shutdown(&t->tls);
        close(fd);
    }
    nghttp2_session_del(t->session);
    t->session = NULL;
    tunnel_frames_free(t);
    if (t->tls_ready) {
        workload_unref(t->tls.expected.upstream);
        service_unref(t->tls.expected.service);
        tls_destroy(&t->tls);
    }
    worker_connection_end(t->wp);
    loop_free_later(w->loop, t);
}

void tunnel_leave(struct tunnel *t)
{
    if (--t->busy == 0 && t->closing)
        tunnel_close(t, t->close_reason, t->close_detail[0] ? t->close_detail : NULL);
}

static void deny(struct tunnel *t, enum bruma_reason reason, const char *detail)
{
    /* A tunnel of a peer that never came to a request: nobody else would log it. */
    if (t->server && t->state != TUNNEL_OPEN)
        telemetry_early_deny(t->wp->worker->telemetry, REPORTER_DESTINATION, &t->peer, &t->arrival, reason,
                             detail);
    tunnel_close(t, reason, detail);
}

static void evict_tunnel(struct handshake *h)
{
    struct tunnel *t = container_of(h, struct tunnel, handshake);

    t->lost = true; /* its descriptor is wanted now, whether it takes what was sent or not */
    deny(t, BRUMA_REASON_HANDSHAKE_EVICTED, NULL);
}

static void deny_errno(struct tunnel *t, enum bruma_reason reason, int error)
{
    char buf[128];

    deny(t, reason, strerror_r(error < 0 ? -error : error, buf, sizeof(buf)));
}

int tunnel_let_go(struct tunnel *t, struct endpoint *ret_peer, struct endpoint *ret_arrival)
{
    struct worker_pod *wp = t->wp;
    int fd = t->tls.fd;

    if (!t->server || t->state != TUNNEL_HANDSHAKING || tls_has_read(&t->tls))
        return -1;
    *ret_peer = t->peer;
    *ret_arrival = t->arrival;
    moving_gone(&t->moving);
    t->state = TUNNEL_DEAD;
    handshake_end(wp, &t->handshake);
    quota_release(wp, &t->peer.addr, &t->quota);
    list_del(&t->node);
    loop_timer_cancel(&t->timer);
    loop_watch_remove(loop_of(t), &t->watch);
    tls_destroy(&t->tls);
    worker_connection_end(wp);
    loop_free_later(wp->worker->loop, t);
    return fd;
}

/* ---- until it is open ---- */

static void on_timer(struct loop_timer *timer)
{
    struct tunnel *t = container_of(timer, struct tunnel, timer);

    switch (t->state) {
    case TUNNEL_CONNECTING:
        deny(t, BRUMA_REASON_HBONE_BLOCKED, "connect timed out; maybe a network policy blocks port 15008");
        break;
    case TUNNEL_HANDSHAKING:
        deny(t, BRUMA_REASON_TLS_HANDSHAKE_TIMEOUT, NULL);
        break;
    case TUNNEL_OPEN:
        tunnel_look_at_peer(t);
        break;
    case TUNNEL_DEAD:
        break;
    }
}

static void open_tunnel(struct tunnel *t)
{
    t->small_windows = t->wp->level >= BUDGET_SMALL_WINDOWS;
    if (tunnel_session_new(t) < 0) {
        deny(t, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
        return;
    }
    t->state = TUNNEL_OPEN;
    telemetry_handshake(t->wp->worker->telemetry, t->server ? REPORTER_DESTINATION : REPORTER_SOURCE,
                        t->handshake_since);
    handshake_end(t->wp, &t->handshake);
    t->idle_since = loop_now(loop_of(t));
    tunnel_arm_ping(t);
    tunnel_wants_flush(t);
    if (t->server && (t->wp->draining || t->wp->worker->draining))
        tunnel_drain(t);
    tunnel_check_trusted(t); /* since the handshake began */
    /* The streams that waited; those that do not fit find another tunnel. */
    while (!list_empty(&t->queue)) {
        struct stream *s = list_first(&t->queue, struct stream, tunnel_node);

        list_del(&s->tunnel_node);
        t->queue_len--;
        s->tunnel = NULL;
        telemetry_waited(t->wp->worker->telemetry, TELEMETRY_WAIT_TUNNEL, s->c.flow.opened);
        s->events->tunnel_ready(s);
    }
    tunnel_read(t); /* data may have come with the last message of the handshake */
}

static void on_handshake(struct tunnel *t)
{
    int r = tls_handshake(&t->tls);

    if (r == -EPROTO) {
        deny(t, t->tls.reason, t->tls.error);
    } else if (r < 0) {
        t->lost = true;
        deny_errno(t, BRUMA_REASON_TLS_HANDSHAKE_FAILED, r);
    } else if (r == 1) {
        open_tunnel(t);
    } else {
        loop_watch_modify(loop_of(t), &t->watch, tls_blocked(&t->tls) ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

void tunnel_begin_handshake(struct tunnel *t)
{
    const struct proxy_settings *set = t->wp->worker->settings;

    t->state = TUNNEL_HANDSHAKING;
    t->handshake_since = telemetry_now();
    /* A peer that restarts has us in its backlog, where we were accepted by its kernel alone. */
    loop_timer_set(loop_of(t), &t->timer, t->server ? set->handshake_timeout : set->peer_handshake_timeout);
    loop_watch_modify(loop_of(t), &t->watch, EPOLLIN);
    if (!t->server)
        on_handshake(t);
}

void tunnel_on_event(struct tunnel *t, uint32_t events)
{
    int r;

    switch (t->state) {
    case TUNNEL_CONNECTING:
        r = socket_connect_result(t->watch.fd);
        if (r < 0 && r != -EINPROGRESS)
            deny_errno(t, r == -ETIMEDOUT ? BRUMA_REASON_HBONE_BLOCKED : socket_reason(r), r);
        else if (events & EPOLLOUT)
            tunnel_begin_handshake(t);
        break;
    case TUNNEL_HANDSHAKING:
        on_handshake(t);
        break;
    case TUNNEL_OPEN:
        if (events & EPOLLOUT)
            tunnel_wants_flush(t);
        if (events & ~(uint32_t)EPOLLOUT)
            tunnel_read(t);
        break;
    case TUNNEL_DEAD:
        break;
    }
}

void tunnel_watch_event(struct loop_watch *watch, uint32_t events)
{
    tunnel_on_event(container_of(watch, struct tunnel, watch), events);
}

/* ---- begin ---- */

int tunnel_start_server(struct worker_pod *wp, int fd, const struct endpoint *peer,
                        const struct endpoint *arrival, struct tls_context *context, tunnel_request_fn begin)
{
    struct tunnel *t = tunnel_new(wp, true);
    int r;

    if (!t)
        return -ENOMEM;
    t->peer = *peer;
    t->arrival = *arrival;
    t->begin_request = begin;
    r = tls_init(&t->tls, context, &wp->worker->tls, fd, true);
    t->tls.account.share = &wp->memory;
    if (r == 0) {
        t->tls_ready = true;
        r = loop_watch_add(wp->worker->loop, &t->watch, fd, EPOLLIN, tunnel_watch_event);
    }
    if (r < 0) {
        if (t->tls_ready)
            tls_destroy(&t->tls);
        free(t);
        return r;
    }
    list_add_tail(&wp->servers, &t->node);
    quota_take(wp, &peer->addr, &t->quota);
    worker_connection_begin(wp);
    tunnel_begin_handshake(t);
    handshake_begin(wp, &t->handshake);
    return 0;
}

/* Equal for tunnels that end at the same proxy, as far as the mesh says where it is. */
static uint64_t proxy_of(const struct workload *upstream, const struct endpoint *target)
{
    uint64_t place = 0;

    if (!upstream || !upstream->node || !*upstream->node)
        return hash_pair(hash_bytes(&target->addr, sizeof(target->addr)), target->port) | 1;
    for (size_t i = 0; i < 3; i++) {
        const char *part = i == 0 ? upstream->cluster_id : i == 1 ? upstream->network : upstream->node;

        place = hash_pair(place, hash_text(part ? part : ""));
    }
    return place | 1;
}

int tunnel_dial(struct worker_pod *wp, const struct endpoint *target, struct tls_context *context,
                const struct tls_expected *expected, uint64_t expected_hash, struct tunnel **ret)
{
    struct worker *w = wp->worker;
    _cleanup_fd_ int fd = -1;
    struct tunnel *t;
    bool connected;
    int r;

    fd = socket_dial(w, wp->pod, target, &connected);
    t = fd < 0 ? NULL : tunnel_new(wp, false);
    if (!t) {
        workload_unref(expected->upstream);
        service_unref(expected->service);
        return fd < 0 ? fd : -ENOMEM;
    }
    t->peer = *target;
    t->expected_hash = expected_hash;
    t->context_serial = context->serial;
    r = tls_init(&t->tls, context, &w->tls, fd, false);
    t->tls.account.share = &wp->memory;
    if (r == 0)
        r = loop_watch_add(w->loop, &t->watch, fd, EPOLLOUT, tunnel_watch_event);
    if (r < 0) {
        tls_destroy(&t->tls);
        free(t);
        workload_unref(expected->upstream);
        service_unref(expected->service);
        return r;
    }
    take_fd(&fd);
    t->tls.expected = *expected;
    t->tls.target = proxy_of(expected->upstream, target);
    t->tls_ready = true;
    t->state = TUNNEL_CONNECTING;
    pool_add(wp, t);
    quota_take(wp, NULL, &t->quota);
    worker_connection_begin(wp);
    loop_timer_set(w->loop, &t->timer, w->settings->connect_timeout);
    *ret = t;
    return 0;
}
