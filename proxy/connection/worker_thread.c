/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "worker"
#include "proxy/connection/worker_thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <urcu-qsbr.h>

#include "lib/log.h"
#include "proxy/connection/acceptor.h"
#include "proxy/connection/pressure.h"
#include "proxy/hbone/tunnel.h"
#include "proxy/socket/lingering.h"
#include "proxy/socket/route_device.h"
#include "proxy/socket/socket.h"
#include "proxy/state/rcu.h"
#include "proxy/tls/crl.h"
#include "proxy/worker/connection.h"
#include "proxy/worker/pod_notes.h"

/* ---- messages of the control thread ---- */

struct message {
    struct worker *worker;
    struct pod *pod; /* referenced, or NULL */
    int listeners[BRUMA_LISTENER_COUNT];
    bool policies;
    struct pod_notes *notes;
    loop_post_fn done;
    void *data;
};

static void post(struct worker *w, struct pod *pod, loop_post_fn fn, const struct message *fill)
{
    struct message *m = calloc(1, sizeof(*m));

    if (m) {
        if (fill)
            *m = *fill;
        m->worker = w;
        m->pod = pod;
        if (pod)
            pod_ref(pod);
        if (loop_post(w->loop, fn, m) == 0)
            return;
    }
    /* Without memory for a message the worker's view of the pods would be wrong from here on. */
    log_error("out of memory: a message to worker %u is lost", w->index);
    abort();
}

static void message_free(struct message *m)
{
    if (m->pod)
        pod_unref(m->pod);
    free(m);
}

/* ---- pods ---- */

static struct worker_pod *find(struct worker *w, const struct pod *pod)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        if (wp->pod == pod)
            return wp;
    }
    return NULL;
}

static void do_add_pod(void *data)
{
    struct message *m = data;
    struct worker *w = m->worker;
    struct worker_pod *wp = find(w, m->pod);

    if (!wp) {
        wp = calloc(1, sizeof(*wp));
        if (!wp)
            abort(); /* as in post() */
        wp->worker = w;
        wp->pod = m->pod;
        pod_ref(wp->pod);
        wp->local_stale = true;
        wp->memory = (struct budget_share){
            .process = &w->proxy->memory, .pod = &wp->pod->memory, .news = &w->memory_news};
        list_init(&wp->memory.node);
        wp->level = w->level;
        list_init(&wp->connections);
        list_init(&wp->servers);
        list_init(&wp->lingering);
        list_init(&wp->handshakes);
        worker_pod_init_waiting(wp);
        for (size_t i = 0; i < array_size(wp->clients); i++)
            list_init(&wp->clients[i]);
        for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
            acceptor_init(&wp->acceptors[i], wp, (enum acceptor_kind)i);
        list_add_tail(&w->pods, &wp->node);
        atomic_fetch_add(&wp->pod->workers_attached, 1);
    }
    wp->draining = false;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        acceptor_set(&wp->acceptors[i], m->listeners[i]);
        if (w->serving && !w->draining)
            acceptor_start(&wp->acceptors[i]);
    }
    message_free(m);
}

static void drain_tunnels(struct worker_pod *wp)
{
    struct tunnel *t;

    list_for_each (t, &wp->servers, node)
        tunnel_drain(t);
    for (size_t i = 0; i < array_size(wp->clients); i++) {
        list_for_each (t, &wp->clients[i], node)
            tunnel_drain(t);
    }
}

static void do_drain_pod(void *data)
{
    struct message *m = data;
    struct worker_pod *wp = find(m->worker, m->pod);

    if (wp && !wp->draining) {
        wp->draining = true;
        for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
            acceptor_stop(&wp->acceptors[i]);
        drain_tunnels(wp);
    }
    /* Whoever is last sees that nothing is left, even where there never was a connection. */
    pod_is_idle(m->pod);
    message_free(m);
}

static void close_tunnels(struct list *tunnels, enum bruma_reason reason)
{
    while (!list_empty(tunnels))
        tunnel_close(list_first(tunnels, struct tunnel, node), reason, NULL);
}

/* Tunnels first: their ends tell the peers that the streams have been cut off. */
static void abort_connections(struct worker_pod *wp, enum bruma_reason reason)
{
    close_tunnels(&wp->servers, reason);
    for (size_t i = 0; i < array_size(wp->clients); i++)
        close_tunnels(&wp->clients[i], reason);
    while (!list_empty(&wp->connections)) {
        struct connection *c = list_first(&wp->connections, struct connection, node);

        c->abort(c, reason, NULL);
    }
}

static void remove_pod(struct worker_pod *wp, enum bruma_reason reason)
{
    struct worker *w = wp->worker;

    wp->deleted = true;
    loop_timer_cancel(&wp->policy_timer);
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        acceptor_close(&wp->acceptors[i]);
    abort_connections(wp, reason);
    while (!list_empty(&wp->waiting)) {
        struct waiter *waiter = list_first(&wp->waiting, struct waiter, node);

        worker_wait_cancel(waiter);
        waiter->check(waiter, true);
    }
    abort_connections(wp, reason); /* such as those that these waiters have begun */
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

static void do_delete_pod(void *data)
{
    struct message *m = data;
    struct worker_pod *wp = find(m->worker, m->pod);

    if (wp)
        remove_pod(wp, BRUMA_REASON_POD_REMOVED);
    message_free(m);
}

/* ---- state ---- */

static void do_state_changed(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    list_for_each (wp, &m->worker->pods, node) {
        wp->local_stale = true;
        worker_check_waiting(wp);
        if (m->policies)
            worker_check_policies(wp);
    }
    message_free(m);
}

static void do_set_revoked(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;
    struct tunnel *t;

    crl_unref(m->worker->tls.revoked);
    m->worker->tls.revoked = m->data;
    list_for_each (wp, &m->worker->pods, node) {
        list_for_each (t, &wp->servers, node)
            tunnel_check_revoked(t);
        for (int i = 0; i < 1 << WORKER_POOL_BITS; i++) {
            list_for_each (t, &wp->clients[i], node)
                tunnel_check_revoked(t);
        }
    }
    message_free(m);
}

static void do_clock_set(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    list_for_each (wp, &m->worker->pods, node) {
        struct tunnel *t;

        worker_check_waiting(wp);
        list_for_each (t, &wp->servers, node)
            tunnel_clock_set(t);
        for (size_t i = 0; i < array_size(wp->clients); i++) {
            list_for_each (t, &wp->clients[i], node)
                tunnel_clock_set(t);
        }
    }
    message_free(m);
}

static void accept_again(struct worker *w)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        for (int i = 0; i < BRUMA_LISTENER_COUNT && w->serving && !w->draining && !wp->draining; i++)
            acceptor_start(&wp->acceptors[i]);
    }
}

static void do_look_at_memory(void *data)
{
    struct message *m = data;

    m->worker->memory_notified = true; /* seen at the end of the turn */
    message_free(m);
}

static void do_serve(void *data)
{
    struct message *m = data;

    m->worker->serving = true;
    accept_again(m->worker);
    message_free(m);
}

static void do_resume(void *data)
{
    struct message *m = data;

    m->worker->draining = false;
    accept_again(m->worker);
    message_free(m);
}

static void do_abort_connections(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    list_for_each (wp, &m->worker->pods, node)
        abort_connections(wp, BRUMA_REASON_DRAIN_DEADLINE);
    message_free(m);
}

static void do_drain(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    m->worker->draining = true;
    list_for_each (wp, &m->worker->pods, node) {
        for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
            if (wp->pod->redirected)
                acceptor_finish(&wp->acceptors[i]);
            else
                acceptor_stop(&wp->acceptors[i]);
        }
        drain_tunnels(wp);
    }
    message_free(m);
}

/* ---- the admin page's view ---- */

static int note(struct pod_note *pod, const struct connection *c)
{
    const struct connection_note n = {
        .client = c->client,
        .destination = c->destination,
        .actual = c->flow.destination_address,
        .received = c->flow.received,
        .sent = c->flow.sent,
        .authority = c->flow.hbone_authority,
        .source_identity = c->flow.source_identity,
        .destination_identity = c->flow.destination_identity,
        .inbound = c->inbound,
        .mutual_tls = c->flow.mutual_tls,
    };

    return pod_note_connection(pod, &n);
}

/* Without memory the page has fewer. */
static void do_note(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    list_for_each (wp, &m->worker->pods, node) {
        struct pod_note *pod = pod_notes_pod(m->notes, wp->pod->uid);
        struct connection *c;

        if (!pod)
            break;
        pod_note_serves(pod);
        list_for_each (c, &wp->connections, node) {
            if (c->opened && note(pod, c) < 0)
                break;
        }
    }
    loop_post(m->worker->proxy->loop, m->done, m->data);
    message_free(m);
}

/* ---- control thread's calls ---- */

void worker_serve(struct worker *w)
{
    post(w, NULL, do_serve, NULL);
}

void worker_add_pod(struct worker *w, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT])
{
    struct message fill = {};

    memcpy(fill.listeners, listeners, sizeof(fill.listeners));
    post(w, pod, do_add_pod, &fill);
}

void worker_drain_pod(struct worker *w, struct pod *pod)
{
    post(w, pod, do_drain_pod, NULL);
}

void worker_delete_pod(struct worker *w, struct pod *pod)
{
    post(w, pod, do_delete_pod, NULL);
}

void worker_state_changed(struct worker *w, bool policies)
{
    struct message fill = {.policies = policies};

    post(w, NULL, do_state_changed, &fill);
}

void worker_set_revoked(struct worker *w, struct crl_set *set)
{
    struct message fill = {.data = crl_ref(set)};

    post(w, NULL, do_set_revoked, &fill);
}

void worker_clock_set(struct worker *w)
{
    post(w, NULL, do_clock_set, NULL);
}

void worker_drain(struct worker *w)
{
    post(w, NULL, do_drain, NULL);
}

void worker_abort_connections(struct worker *w)
{
    post(w, NULL, do_abort_connections, NULL);
}

void worker_resume(struct worker *w)
{
    post(w, NULL, do_resume, NULL);
}

void worker_look_at_memory(struct worker *w)
{
    post(w, NULL, do_look_at_memory, NULL);
}

void worker_note(struct worker *w, struct pod_notes *notes, loop_post_fn done, void *data)
{
    struct message fill = {.notes = notes, .done = done, .data = data};

    post(w, NULL, do_note, &fill);
}

/* ---- the thread ---- */

static void turn_end(void *data)
{
    struct worker *w = data;
    struct list flush;

    list_init(&flush);
    list_splice(&flush, &w->flush);
    while (!list_empty(&flush))
        tunnel_flush(list_first(&flush, struct tunnel, flush_node));
    if (!list_empty(&w->memory_news) || w->memory_notified)
        pressure_look(w);
    if (!list_empty(&w->flush))
        loop_again(w->loop);
    shared_buffer_check_free(&w->plain_in);
    shared_buffer_check_free(&w->plain_out);
    shared_buffer_check_free(&w->tls.received);
    shared_buffer_check_free(&w->tls.gathered);
    rcu_quiescent_state();
}

static void before_sleep(void *data)
{
    (void)data;
    rcu_thread_offline();
}

static void after_sleep(void *data)
{
    (void)data;
    rcu_thread_online();
}

static void *run(void *data)
{
    struct worker *w = data;
    char name[16];
    int r;

    snprintf(name, sizeof(name), "worker-%u", w->index);
    pthread_setname_np(pthread_self(), name);
    rcu_register_thread();
    r = loop_run(w->loop);
    if (r < 0)
        log_error_errno(r, "worker %u ends", w->index);
    while (!list_empty(&w->pods))
        remove_pod(list_first(&w->pods, struct worker_pod, node), BRUMA_REASON_DRAIN_DEADLINE);
    rcu_unregister_thread();
    return NULL;
}

static void worker_free(struct worker *w)
{
    telemetry_free(&w->telemetry);
    route_device_close(&w->netlink);
    loop_free(&w->loop);
    tls_buffers_destroy(&w->tls);
    shared_buffer_destroy(&w->plain_in);
    shared_buffer_destroy(&w->plain_out);
    free(w);
}

int worker_start(struct proxy *proxy, unsigned index, struct worker **ret)
{
    struct worker *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return -ENOMEM;
    w->proxy = proxy;
    w->settings = &proxy->settings;
    w->state = proxy->state;
    w->index = index;
    list_init(&w->pods);
    list_init(&w->handshakes);
    list_init(&w->flush);
    list_init(&w->touched);
    list_init(&w->memory_news);
    if (getrandom(&w->random, sizeof(w->random), 0) != sizeof(w->random) || !w->random)
        w->random = 0x9e3779b97f4a7c15u + index;
    r = shared_buffer_init(&w->plain_in, "plain_in", WORKER_BUFFER);
    if (r == 0)
        r = shared_buffer_init(&w->plain_out, "plain_out", WORKER_BUFFER);
    if (r == 0)
        r = tls_buffers_init(&w->tls, WORKER_BUFFER);
    w->tls.max_certificate_list = (unsigned)w->settings->max_certificate_list;
    w->tls.key_updates = (unsigned)w->settings->key_updates;
    if (r == 0)
        r = loop_new(&w->loop);
    if (r == 0)
        r = telemetry_new(w->loop, STDOUT_FILENO, w->settings->log_json, &w->telemetry);
    if (r < 0) {
        worker_free(w);
        return r;
    }
    telemetry_limit_descriptions(w->telemetry, (unsigned)w->settings->peer_descriptions);
    loop_set_turn_end(w->loop, turn_end, w);
    loop_set_sleep_hooks(w->loop, before_sleep, after_sleep, w);
    r = -pthread_create(&w->thread, NULL, run, w);
    if (r < 0) {
        worker_free(w);
        return r;
    }
    *ret = w;
    return 0;
}

void worker_stop(struct worker *w)
{
    loop_stop(w->loop);
    pthread_join(w->thread, NULL);
    worker_free(w);
}
