/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "memory"
#include "proxy/connection/pressure.h"

#include "lib/log.h"
#include "proxy/connection/worker_post.h"
#include "proxy/hbone/tunnel.h"
#include "proxy/memory/memory.h"
#include "proxy/socket/lingering.h"
#include "proxy/worker/connection.h"
#include "proxy/worker/worker.h"

#define SAY_AGAIN_MILLISECONDS 10000

static void each_tunnel(struct worker_pod *wp, void (*fn)(struct tunnel *, void *), void *data)
{
    struct tunnel *t;

    list_for_each (t, &wp->servers, node)
        fn(t, data);
    for (size_t i = 0; i < array_size(wp->clients); i++) {
        list_for_each (t, &wp->clients[i], node)
            fn(t, data);
    }
}

static void adapt(struct tunnel *t, void *data)
{
    (void)data;
    tunnel_adapt(t);
}

static void set_level(struct worker_pod *wp, enum budget_level level)
{
    if (level == wp->level)
        return;
    wp->level = level;
    each_tunnel(wp, adapt, NULL);
}

/* True: the pod's own level has changed. */
static bool look_at_pod(struct worker_pod *wp)
{
    enum budget_level before = wp->pod_level;

    wp->pod_level = budget_level(wp->memory.pod, before);
    set_level(wp, wp->pod_level > wp->worker->level ? wp->pod_level : wp->worker->level);
    return wp->pod_level != before;
}

static void look_at_pods(struct worker *w)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node)
        look_at_pod(wp);
}

/* ---- who holds most is cut ---- */

struct victims {
    size_t most, at_least; /* bytes */
    const struct budget *until;
    bool any;
};

static bool enough(const struct budget *budget)
{
    return budget_level(budget, BUDGET_FULL) < BUDGET_FULL;
}

static void see_tunnel(struct tunnel *t, void *data)
{
    struct victims *v = data;

    if (t->tls.account.held > v->most)
        v->most = t->tls.account.held;
}

static void abort_tunnel(struct tunnel *t, void *data)
{
    struct victims *v = data;

    if (t->tls.account.held >= v->at_least && !enough(v->until)) {
        tunnel_close_reported(t, BRUMA_REASON_MEMORY_BUDGET, "its peer does not read");
        v->any = true;
    }
}

static void see(struct worker_pod *wp, struct victims *v)
{
    struct connection *c;

    if (lingering_most(wp) > v->most)
        v->most = lingering_most(wp);
    each_tunnel(wp, see_tunnel, v);
    list_for_each (c, &wp->connections, node) {
        if (c->account.held > v->most)
            v->most = c->account.held;
    }
}

static void abort_heaviest(struct worker_pod *wp, struct victims *v)
{
    struct connection *c;

    v->any = lingering_abort(wp, v->at_least, v->until) || v->any;
    list_for_each (c, &wp->connections, node) {
        if (c->account.held >= v->at_least && !enough(v->until)) {
            c->abort(c, BRUMA_REASON_MEMORY_BUDGET, NULL);
            v->any = true;
        }
    }
    each_tunnel(wp, abort_tunnel, v);
}

/* only: a pod, or NULL for all of the worker's. Each round cuts all that hold at least half of what the
 * greatest does, so there are few rounds. */
static bool shed(struct worker *w, struct worker_pod *only, const struct budget *until)
{
    struct worker_pod *wp;
    bool any = false;

    while (!enough(until)) {
        struct victims v = {.until = until};

        list_for_each (wp, &w->pods, node) {
            if (!only || wp == only)
                see(wp, &v);
        }
        if (!v.most)
            break;
        v.at_least = v.most / 2 + 1;
        list_for_each (wp, &w->pods, node) {
            if (!only || wp == only)
                abort_heaviest(wp, &v);
        }
        if (!v.any)
            break;
        any = true;
    }
    return any;
}

/* ---- levels ---- */

static void others_look(void *data)
{
    struct proxy *p = data;

    for (unsigned i = 0; i < p->workers_len; i++)
        worker_look_at_memory(p->workers[i]);
}

static void say(struct worker *w, enum budget_level level)
{
    struct budget *b = &w->proxy->memory;
    uint64_t now = loop_now(w->loop);

    if (level < BUDGET_SMALL_WINDOWS || (w->memory_said && now - w->memory_said < SAY_AGAIN_MILLISECONDS))
        return;
    w->memory_said = now;
    log_warn("much data is buffered for slow readers: %s\tbuffered=%zu budget=%zu",
             level == BUDGET_FULL ? "the largest holders are closed" : "peers get less credit",
             atomic_load(&b->used), b->limit);
}

static size_t own_share(const struct worker *w)
{
    const struct worker_pod *wp;
    size_t sum = 0;

    list_for_each (wp, &w->pods, node)
        sum += wp->memory.held;
    return sum;
}

/* Of several workers, those cut that hold at least their part. */
static bool holds_its_part(const struct worker *w, size_t held, const struct budget *budget)
{
    return held >= atomic_load(&budget->used) / w->proxy->workers_len;
}

/* True: something was cut. */
static bool relieve_pod(struct worker_pod *wp)
{
    struct worker *w = wp->worker;

    if (wp->pod_level != BUDGET_FULL || !holds_its_part(w, wp->memory.held, wp->memory.pod) ||
        !shed(w, wp, wp->memory.pod))
        return false;
    look_at_pod(wp);
    return true;
}

/* Levels are the process's and the pods', and each worker follows them by itself: who sees one change tells
 * the others, whose own accounts may have nothing to say for long. */
void pressure_look(struct worker *w)
{
    struct proxy *p = w->proxy;
    enum budget_level level = budget_level(&p->memory, w->level);
    bool notified = w->memory_notified, changed = level != w->level, notify = changed && !notified;

    w->memory_notified = false;
    if (level < w->level)
        memory_was_freed(p);
    if (changed)
        say(w, level);
    w->level = level;
    if (changed || notified)
        look_at_pods(w);
    while (!list_empty(&w->memory_news)) {
        struct worker_pod *wp = list_first(&w->memory_news, struct worker_pod, memory.node);

        list_del(&wp->memory.node);
        notify = look_at_pod(wp) || notify;
        notify = relieve_pod(wp) || notify;
    }
    for (struct list *n = notified ? w->pods.next : &w->pods; n != &w->pods; n = n->next)
        notify = relieve_pod(list_entry(n, struct worker_pod, node)) || notify;
    if (level == BUDGET_FULL && holds_its_part(w, own_share(w), &p->memory) && shed(w, NULL, &p->memory)) {
        w->level = budget_level(&p->memory, w->level);
        look_at_pods(w);
        notify = true;
    }
    if (notify && p->workers_len > 1)
        loop_post(p->loop, others_look, p);
}
