/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that wait: for their pod to be known, for its certificate, for policies. */
#include "proxy/worker/connection.h"
#include "proxy/worker/worker.h"

static void enqueue(struct waiter *waiter)
{
    struct loop *loop = waiter->pod->worker->loop;
    uint64_t now = loop_now(loop);

    list_add_tail(&waiter->pod->waiting, &waiter->node);
    loop_timer_set(loop, &waiter->timer, waiter->until > now ? waiter->until - now : 0);
}

static void on_wait_over(struct loop_timer *timer)
{
    struct waiter *waiter = container_of(timer, struct waiter, timer);

    list_del(&waiter->node);
    if (!waiter->check(waiter, true))
        enqueue(waiter);
}

void waiter_init(struct waiter *waiter, struct worker_pod *wp, bool (*check)(struct waiter *, bool))
{
    list_init(&waiter->node);
    loop_timer_init(&waiter->timer, on_wait_over);
    waiter->pod = wp;
    waiter->check = check;
}

void waiter_set_time(struct waiter *waiter, uint64_t milliseconds)
{
    waiter->until = loop_now(waiter->pod->worker->loop) + milliseconds;
}

void worker_wait(struct waiter *waiter)
{
    enqueue(waiter);
    pod_certificate_wanted(waiter->pod->pod);
}

void worker_wait_cancel(struct waiter *waiter)
{
    list_del(&waiter->node);
    loop_timer_cancel(&waiter->timer);
}

void worker_check_waiting(struct worker_pod *wp)
{
    struct list waiting;

    list_init(&waiting);
    list_splice(&waiting, &wp->waiting);
    while (!list_empty(&waiting)) {
        struct waiter *waiter = list_first(&waiting, struct waiter, node);

        worker_wait_cancel(waiter);
        if (!waiter->check(waiter, false))
            enqueue(waiter);
    }
}

void worker_end_waiting(struct worker_pod *wp)
{
    while (!list_empty(&wp->waiting)) {
        struct waiter *waiter = list_first(&wp->waiting, struct waiter, node);

        worker_wait_cancel(waiter);
        if (!waiter->check(waiter, true))
            enqueue(waiter); /* for something else, of which the time is over too */
    }
}

/* The connection was allowed, and now its workload names a policy that is not there: a new one has not
 * arrived yet, or one that went is still named. Returns how much longer it may live so. */
static uint64_t patience(struct connection *c)
{
    uint64_t limit = c->wp->worker->settings->policy_timeout, now = loop_now(c->wp->worker->loop);
    uint64_t waited = c->policy_missing_since ? now - c->policy_missing_since : 0;

    if (!c->policy_missing_since)
        c->policy_missing_since = now;
    return waited < limit ? limit - waited : 0;
}

void worker_check_policies(struct worker_pod *wp)
{
    uint64_t again = 0;
    struct connection *c;

    list_for_each (c, &wp->connections, node) {
        enum connection_verdict verdict;
        enum bruma_reason reason;
        uint64_t left;
        char detail[256];

        if (!c->inbound || !c->opened)
            continue;
        verdict = connection_authorize(c, false, &reason, detail, sizeof(detail));
        if (verdict != CONNECTION_UNDECIDED) {
            c->policy_missing_since = 0;
        } else if ((left = patience(c))) {
            again = !again || left < again ? left : again;
        } else {
            verdict = connection_authorize(c, true, &reason, detail, sizeof(detail));
        }
        if (verdict == CONNECTION_DENIED && reason == BRUMA_REASON_POLICY_MISSING)
            c->abort(c, reason, detail);
        else if (verdict == CONNECTION_DENIED)
            c->abort(c, BRUMA_REASON_POLICY_CHANGED, "connection closed due to policy change");
    }
    if (again)
        loop_timer_set(wp->worker->loop, &wp->policy_timer, again);
}

static void on_policy_timer(struct loop_timer *timer)
{
    worker_check_policies(container_of(timer, struct worker_pod, policy_timer));
}

void worker_pod_init_waiting(struct worker_pod *wp)
{
    list_init(&wp->waiting);
    loop_timer_init(&wp->policy_timer, on_policy_timer);
}
