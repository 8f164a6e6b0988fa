/* SPDX-License-Identifier: Apache-2.0 */
/* Whether an open tunnel's peer is still there, is wanted, and is who it was. */
#include "proxy/hbone/tunnel_internal.h"

static struct loop *loop_of(const struct tunnel *t)
{
    return t->wp->worker->loop;
}

/* To the next look, or to the end of the peer's certificate. The end is a date: a clock that is set is told
 * by worker_clock_set(). */
void tunnel_arm_ping(struct tunnel *t)
{
    uint64_t after = t->wp->worker->settings->ping_interval;

    if (!t->expired) {
        int64_t left = tls_peer_time_left(&t->tls);

        after = left < (int64_t)after ? (uint64_t)(left > 0 ? left : 0) : after;
    }
    loop_timer_set(loop_of(t), &t->timer, after);
}

void tunnel_clock_set(struct tunnel *t)
{
    tunnel_check_expired(t);
    if (t->state == TUNNEL_OPEN && !t->closing)
        tunnel_arm_ping(t);
}

void tunnel_look_at_peer(struct tunnel *t)
{
    const struct proxy_settings *set = t->wp->worker->settings;
    uint64_t now = loop_now(loop_of(t));

    tunnel_check_expired(t);
    tunnel_check_keys(t);
    if (!t->server && !t->streams_len && !t->queue_len && now - t->idle_since >= set->pool_idle_timeout) {
        tunnel_drain(t);
        return;
    }
    if (t->ping_sent && now - t->ping_sent >= set->ping_timeout) {
        tunnel_close(t, BRUMA_REASON_TUNNEL_PING_TIMEOUT, NULL);
        return;
    }
    /* A tunnel that has just received something is alive: no need to ask. */
    if (!t->ping_sent && now - t->last_received >= set->ping_interval) {
        t->ping_sent = now;
        nghttp2_submit_ping(t->session, NGHTTP2_FLAG_NONE, NULL);
        tunnel_wants_flush(t);
    }
    tunnel_arm_ping(t);
}
