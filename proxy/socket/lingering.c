/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/socket/lingering.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/pod/live_connections.h"
#include "proxy/socket/socket.h"
#include "proxy/worker/quota.h"

/* Nothing tells when the kernel's queue has run empty, so it is looked at: milliseconds, the first time and
 * at most. A reader's kernel puts off its acknowledgement for up to 40. */
#define LOOK_FIRST 16
#define LOOK_MAX   256

/* Between the last bytes and the reset; on a wire they are apart too. */
#define RESET_GAP 16

struct lingering_socket {
    struct list node; /* in worker_pod.lingering */
    struct lingering_request q;
    struct quota quota; /* its descriptor is the pod's still */
    struct loop_watch watch;
    struct loop_timer timer;
    uint64_t wait, last_progress;
    size_t left; /* bytes that had not arrived when it was last looked at */
};

static struct loop *loop_of(const struct lingering_socket *p)
{
    return p->q.wp->worker->loop;
}

static void close_socket(struct lingering_request *q)
{
    if (q->reset)
        socket_reset_on_close(q->fd);
    close(q->fd);
    free(q->unsent);
    budget_give_all(&q->account);
    if (q->reset && q->delivery_port)
        socket_delivery_over(q->wp, q->delivery_port);
    if (q->is_live)
        live_connections_remove(q->wp->pod->live_connections, &q->client, q->port);
}

static void finish(struct lingering_socket *p)
{
    loop_timer_cancel(&p->timer);
    loop_watch_remove(loop_of(p), &p->watch);
    close_socket(&p->q);
    list_del(&p->node);
    quota_release(p->q.wp, NULL, &p->quota);
    worker_connection_end(p->q.wp);
    loop_free_later(loop_of(p), p);
}

/* Bytes that have not arrived yet, ours and the kernel's; 0: none, or nobody is there to take them. */
static size_t push(struct lingering_request *q)
{
    while (q->unsent_len) {
        ssize_t n = send(q->fd, q->unsent + q->unsent_offset, q->unsent_len, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return 0;
        q->unsent_offset += (size_t)n;
        q->unsent_len -= (size_t)n;
    }
    if (!q->unsent_len && q->end) {
        q->end = false;
        shutdown(q->fd, SHUT_WR);
    }
    return q->unsent_len + socket_unacknowledged(q->fd);
}

static bool may_end(const struct lingering_request *q)
{
    return !q->reset || loop_now(q->wp->worker->loop) - q->last_activity >= RESET_GAP;
}

static void go(struct lingering_socket *p)
{
    struct worker *w = p->q.wp->worker;
    uint64_t limit = w->settings->linger_timeout, now = loop_now(w->loop);
    size_t left = push(&p->q);

    if (!left && may_end(&p->q)) {
        finish(p);
        return;
    }
    if (left < p->left)
        p->last_progress = p->q.last_activity = now;
    p->left = left;
    if (now - p->last_progress >= limit) {
        telemetry_failure(w->telemetry, BRUMA_REASON_LAST_BYTES_UNDELIVERED);
        p->q.reset = true;
        finish(p);
        return;
    }
    loop_watch_modify(w->loop, &p->watch, p->q.unsent_len ? EPOLLOUT : 0);
    loop_timer_set(w->loop, &p->timer, p->wait);
}

static void on_timer(struct loop_timer *timer)
{
    struct lingering_socket *p = container_of(timer, struct lingering_socket, timer);

    p->wait = p->wait * 2 < LOOK_MAX ? p->wait * 2 : LOOK_MAX;
    go(p);
}

static void on_event(struct loop_watch *watch, uint32_t events)
{
    struct lingering_socket *p = container_of(watch, struct lingering_socket, watch);

    /* Reset by the other side, or both sides have ended and the kernel does the rest by itself. */
    if (events & (EPOLLERR | EPOLLHUP))
        finish(p);
    else
        go(p);
}

void lingering_begin(const struct lingering_request *request)
{
    struct lingering_request q = *request;
    struct worker *w = q.wp->worker;
    size_t left = push(&q);
    bool wait = left || !may_end(&q);
    struct lingering_socket *p;

    p = wait ? calloc(1, sizeof(*p)) : NULL;
    if (!p || loop_watch_add(w->loop, &p->watch, q.fd, q.unsent_len ? EPOLLOUT : 0, on_event) < 0) {
        if (left)
            telemetry_failure(w->telemetry, BRUMA_REASON_OUT_OF_RESOURCES);
        close_socket(&q);
        free(p);
        return;
    }
    p->q = q;
    p->left = left;
    p->wait = LOOK_FIRST;
    p->last_progress = loop_now(w->loop);
    loop_timer_init(&p->timer, on_timer);
    loop_timer_set(w->loop, &p->timer, p->wait);
    list_add_tail(&q.wp->lingering, &p->node);
    quota_take(q.wp, NULL, &p->quota);
    worker_connection_begin(q.wp);
}

size_t lingering_most(const struct worker_pod *wp)
{
    const struct lingering_socket *p;
    size_t most = 0;

    list_for_each (p, &wp->lingering, node) {
        if (p->q.account.held > most)
            most = p->q.account.held;
    }
    return most;
}

bool lingering_abort(struct worker_pod *wp, size_t at_least, const struct budget *until)
{
    struct lingering_socket *p;
    bool any = false;

    list_for_each (p, &wp->lingering, node) {
        if (p->q.account.held < at_least || budget_level(until, BUDGET_FULL) < BUDGET_FULL)
            continue;
        telemetry_failure(wp->worker->telemetry, BRUMA_REASON_MEMORY_BUDGET);
        p->q.reset = true;
        finish(p);
        any = true;
    }
    return any;
}

void lingering_end_all(struct worker_pod *wp)
{
    while (!list_empty(&wp->lingering)) {
        struct lingering_socket *p = list_first(&wp->lingering, struct lingering_socket, node);

        if (push(&p->q)) {
            telemetry_failure(wp->worker->telemetry, BRUMA_REASON_LAST_BYTES_UNDELIVERED);
            p->q.reset = true;
        }
        finish(p);
    }
}
