/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "main"
#include "proxy/drain.h"

#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/connection/worker_post.h"
#include "proxy/direct/direct.h"
#include "proxy/handover/handover.h"
#include "proxy/handover/rendezvous.h"
#include "proxy/proxy.h"

static int connections_left(const struct proxy *p)
{
    int n = 0;

    for (unsigned i = 0; i < p->workers_len; i++)
        n += atomic_load(&p->workers[i]->connections);
    return n;
}

#define DRAIN_CHECK_MILLISECONDS 50
#define LAST_BYTES_MILLISECONDS  500 /* after the deadline: for readers to take what is there for them */

/* What is carried may still go: no peer is told that it ends. */
static bool may_give(const struct proxy *p)
{
    return rendezvous_is_leaving(p->rendezvous) || handover_is_giving(p->handover);
}

static void on_drain_check(struct loop_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, drain_check);

    if (connections_left(p) || may_give(p) || loop_now(p->loop) < p->linger_until)
        loop_timer_set(p->loop, timer, DRAIN_CHECK_MILLISECONDS);
    else
        loop_stop(p->loop);
}

/* What may still move has not missed the deadline of who is replaced; but who is told to end is killed after
 * its own. */
static void on_drain_deadline(struct loop_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, drain_timer);

    if (p->aborted) {
        loop_stop(p->loop);
        return;
    }
    if (handover_is_giving(p->handover) && (!p->ending || loop_now(p->loop) < p->end_due)) {
        loop_timer_set(p->loop, timer, DRAIN_CHECK_MILLISECONDS);
        return;
    }
    log_warn("drain deadline reached\tconnections=%d reason=%s", connections_left(p),
             reason_name(BRUMA_REASON_DRAIN_DEADLINE));
    p->aborted = true;
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_abort_connections(p->workers[i]);
    loop_timer_set(p->loop, timer, LAST_BYTES_MILLISECONDS);
}

static void drain_tunnels(struct proxy *p)
{
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_drain_tunnels(p->workers[i]);
}

void proxy_gave(struct proxy *p)
{
    if (p->draining)
        drain_tunnels(p);
}

static void begin_drain(struct proxy *p, uint64_t deadline_milliseconds)
{
    uint64_t due = loop_now(p->loop) + deadline_milliseconds;

    if (!p->draining || due < p->drain_timer.due)
        loop_timer_set(p->loop, &p->drain_timer, deadline_milliseconds);
    if (p->draining)
        return;
    direct_drain(p->direct);
    p->draining = true;
    p->aborted = false;
    log_info("draining\tconnections=%d deadline=%llums", connections_left(p),
             (unsigned long long)deadline_milliseconds);
    if (p->zds)
        zds_client_stop(p->zds);
    own_pod_stop(p->own);
    pods_close_socks(p);
    pods_close_listeners(p);
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_drain(p->workers[i]);
    if (!may_give(p))
        drain_tunnels(p);
    loop_timer_set(p->loop, &p->drain_check, DRAIN_CHECK_MILLISECONDS);
}

void proxy_drain(struct proxy *p, uint64_t deadline_milliseconds)
{
    uint64_t due = loop_now(p->loop) + deadline_milliseconds;

    p->linger_until = 0;
    if (!p->ending || due < p->end_due)
        p->end_due = due;
    if (!p->ending) {
        p->ending = true;
        agent_client_ending(p->agent);
        rendezvous_leave(p->rendezvous, connections_left(p) > 0);
    }
    begin_drain(p, deadline_milliseconds);
}

/* It holds the listeners on for a while: its successor may be the only other holder, and who ends by itself
 * in a pod is started again, and would take over again. */
void proxy_replaced(struct proxy *p, uint64_t deadline_milliseconds)
{
    if (!p->draining)
        p->linger_until = loop_now(p->loop) + p->settings.replaced_linger;
    admin_replaced(p->admin);
    begin_drain(p, deadline_milliseconds);
}

void proxy_resume(struct proxy *p)
{
    if (p->ending || !p->draining)
        return;
    log_info("serving again");
    admin_resumed(p->admin);
    p->draining = false;
    p->linger_until = 0;
    loop_timer_cancel(&p->drain_timer);
    loop_timer_cancel(&p->drain_check);
    own_pod_start(p->own);
    pods_open_socks(p);
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_resume(p->workers[i]);
    direct_resume(p->direct);
}

void drain_init(struct proxy *p)
{
    loop_timer_init(&p->drain_timer, on_drain_deadline);
    loop_timer_init(&p->drain_check, on_drain_check);
}
