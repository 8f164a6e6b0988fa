/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/worker_pods.h"

#include <errno.h>
#include <stdlib.h>

#include "proxy/connection/acceptor.h"
#include "proxy/connection/outbound_policy.h"
#include "proxy/connection/worker_dns.h"
#include "proxy/connection/worker_socks.h"
#include "proxy/hbone/tunnel.h"
#include "proxy/socket/lingering.h"
#include "proxy/socket/socket.h"
#include "proxy/worker/connection.h"

/* A peer that dials an ending pod again has nowhere else to go. It is told again at this interval, and not by
 * each tunnel at once, which would cost a handshake for each connection. */
#define ENDING_MILLISECONDS 1000

static void on_ending(struct loop_timer *timer);

struct worker_pod *worker_pod_find(struct worker *w, const struct pod *pod)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        if (wp->pod == pod)
            return wp;
    }
    return NULL;
}

static struct worker_pod *worker_pod_new(struct worker *w, struct pod *pod)
{
    struct worker_pod *wp = calloc(1, sizeof(*wp));

    if (!wp)
        return NULL;
    wp->worker = w;
    wp->pod = pod;
    pod_ref(pod);
    wp->local_stale = true;
    wp->memory =
        (struct budget_share){.process = &w->proxy->memory, .pod = &pod->memory, .news = &w->memory_news};
    list_init(&wp->memory.node);
    wp->level = w->level;
    list_init(&wp->connections);
    list_init(&wp->servers);
    list_init(&wp->lingering);
    list_init(&wp->socks);
    list_init(&wp->handshakes);
    worker_pod_init_waiting(wp);
    loop_timer_init(&wp->ending, on_ending);
    for (size_t i = 0; i < array_size(wp->clients); i++)
        list_init(&wp->clients[i]);
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        acceptor_init(&wp->acceptors[i], wp, (enum acceptor_kind)i);
    worker_socks_init(wp);
    list_add_tail(&w->pods, &wp->node);
    atomic_fetch_add(&pod->workers_attached, 1);
    return wp;
}

int worker_pod_add(struct worker *w, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT])
{
    struct worker_pod *wp = worker_pod_find(w, pod);

    if (!wp)
        wp = worker_pod_new(w, pod);
    if (!wp)
        return -ENOMEM;
    wp->draining = false;
    loop_timer_cancel(&wp->ending);
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        acceptor_set(&wp->acceptors[i], listeners[i]);
        if (w->serving && !w->draining)
            acceptor_start(&wp->acceptors[i]);
    }
    worker_dns_start(wp);
    worker_socks_start(wp);
    outbound_policy_check(wp);
    return 0;
}

static void drain_servers(struct worker_pod *wp)
{
    struct tunnel *t;

    list_for_each (t, &wp->servers, node)
        tunnel_drain(t);
}

/* Pods of this process may have no tunnel by which to hear of it. */
static void tell_neighbours(const struct worker_pod *wp)
{
    struct worker *w = wp->worker;

    for (int i = 0; w->settings->same_node != SAME_NODE_HBONE && i < wp->pod->addresses_len; i++) {
        struct endpoint host = ejected_host(&wp->pod->addresses[i]);

        if (ejected_add(&w->leaving, &host, loop_now(w->loop), w->settings->ejection_time, BRUMA_REASON_NONE))
            telemetry_leaving(w->telemetry);
    }
}

void worker_pod_end(struct worker_pod *wp)
{
    drain_servers(wp);
    tell_neighbours(wp);
    loop_timer_set(wp->worker->loop, &wp->ending, ENDING_MILLISECONDS);
}

static void on_ending(struct loop_timer *timer)
{
    worker_pod_end(container_of(timer, struct worker_pod, ending));
}

static void drain_tunnels(struct worker_pod *wp)
{
    struct tunnel *t;

    drain_servers(wp);
    for (size_t i = 0; i < array_size(wp->clients); i++) {
        list_for_each (t, &wp->clients[i], node)
            tunnel_drain(t);
    }
}

void worker_pod_drain(struct worker_pod *wp)
{
    if (wp->draining)
        return;
    wp->draining = true;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        acceptor_stop(&wp->acceptors[i]);
    worker_dns_stop(wp);
    worker_socks_stop(wp);
    drain_tunnels(wp);
}

static void close_tunnels(struct list *tunnels, enum bruma_reason reason)
{
    while (!list_empty(tunnels))
        tunnel_close(list_first(tunnels, struct tunnel, node), reason, NULL);
}

/* Tunnels first: their ends tell the peers that the streams have been cut off. */
void worker_pod_abort(struct worker_pod *wp, enum bruma_reason reason)
{
    close_tunnels(&wp->servers, reason);
    for (size_t i = 0; i < array_size(wp->clients); i++)
        close_tunnels(&wp->clients[i], reason);
    while (!list_empty(&wp->connections)) {
        struct connection *c = list_first(&wp->connections, struct connection, node);

        c->abort(c, reason, NULL);
    }
}

void worker_pod_remove(struct worker_pod *wp, enum bruma_reason reason)
{
    struct worker *w = wp->worker;

    wp->deleted = true;
    loop_timer_cancel(&wp->policy_timer);
    loop_timer_cancel(&wp->ending);
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        acceptor_close(&wp->acceptors[i]);
    worker_dns_free(wp);
    worker_socks_close(wp);
    worker_pod_abort(wp, reason);
    worker_end_waiting(wp);
    worker_pod_abort(wp, reason); /* such as those that these waiters have begun */
    lingering_end_all(wp);
    /* A thread inside the namespace would keep it alive. */
    socket_leave(w, wp->pod);
    delivery_ports_free(&wp->ports);
    list_del(&wp->node);
    list_del(&wp->memory.node);
    workload_unref(wp->local);
    wp->local = NULL;
    atomic_fetch_sub(&wp->pod->workers_attached, 1);
    pod_unref(wp->pod);
    loop_free_later(w->loop, wp);
}

void worker_pods_end(struct worker *w)
{
    while (!list_empty(&w->pods))
        worker_pod_remove(list_first(&w->pods, struct worker_pod, node), BRUMA_REASON_DRAIN_DEADLINE);
}

void worker_pods_accept(struct worker *w)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        for (int i = 0; i < BRUMA_LISTENER_COUNT && w->serving && !w->draining && !wp->draining; i++)
            acceptor_start(&wp->acceptors[i]);
        worker_dns_start(wp);
        worker_socks_start(wp);
    }
}

void worker_pods_drain(struct worker *w)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
            if (wp->pod->redirected)
                acceptor_finish(&wp->acceptors[i]);
            else
                acceptor_stop(&wp->acceptors[i]);
        }
        worker_dns_drain(wp);
        worker_socks_drain(wp);
    }
}

void worker_pods_drain_tunnels(struct worker *w)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node)
        drain_tunnels(wp);
}
