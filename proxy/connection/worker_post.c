/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "worker"
#include "proxy/connection/worker_post.h"

#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "proxy/connection/same_node.h"
#include "proxy/connection/worker_pods.h"
#include "proxy/hbone/tunnel.h"
#include "proxy/tls/crl.h"
#include "proxy/verdicts/node_verdicts.h"
#include "proxy/worker/connection.h"
#include "proxy/worker/endpoint_notes.h"
#include "proxy/worker/pod_notes.h"

struct message {
    struct worker *worker;
    struct pod *pod; /* referenced, or NULL */
    int listeners[BRUMA_LISTENER_COUNT];
    bool policies;
    struct pod_notes *notes;
    loop_post_fn done;
    void *data;
    unsigned long beat;
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

/* ---- what the worker does ---- */

/* Until now the worker has judged by what it knew of the pod before, and of whose address it is. */
static void verdicts_are_void(struct worker *w, const struct pod *pod)
{
    struct worker_pod *wp;

    node_verdicts_change_pod(w->proxy->node_verdicts, pod->cookie);
    list_for_each (wp, &w->pods, node) {
        if (pod_shares_address(pod, wp->pod))
            node_verdicts_change_pod(w->proxy->node_verdicts, wp->pod->cookie);
    }
}

static void do_add_pod(void *data)
{
    struct message *m = data;

    if (worker_pod_add(m->worker, m->pod, m->listeners) < 0)
        abort(); /* as in post() */
    verdicts_are_void(m->worker, m->pod);
    message_free(m);
}

static void do_end_pod(void *data)
{
    struct message *m = data;
    struct worker_pod *wp = worker_pod_find(m->worker, m->pod);

    if (wp)
        worker_pod_end(wp);
    verdicts_are_void(m->worker, m->pod);
    message_free(m);
}

static void do_drain_pod(void *data)
{
    struct message *m = data;
    struct worker_pod *wp = worker_pod_find(m->worker, m->pod);

    if (wp)
        worker_pod_drain(wp);
    verdicts_are_void(m->worker, m->pod);
    /* Whoever is last sees that nothing is left, even where there never was a connection. */
    pod_is_idle(m->pod);
    message_free(m);
}

static void do_delete_pod(void *data)
{
    struct message *m = data;
    struct worker_pod *wp = worker_pod_find(m->worker, m->pod);

    if (wp)
        worker_pod_remove(wp, BRUMA_REASON_POD_REMOVED);
    verdicts_are_void(m->worker, m->pod);
    message_free(m);
}

/* Whom the pods trust may have changed with it. Clients need not be asked: what they send next goes by a
 * tunnel of the new certificate. */
static void do_identity_changed(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    list_for_each (wp, &m->worker->pods, node) {
        struct tunnel *t;

        wp->local_stale = true;
        worker_check_waiting(wp);
        list_for_each (t, &wp->servers, node)
            tunnel_check_trusted(t);
    }
    message_free(m);
}

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

static void do_check_all(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    list_for_each (wp, &m->worker->pods, node)
        worker_check_waiting(wp);
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
        same_node_check_revoked(wp);
    }
    message_free(m);
}

static void do_beat(void *data)
{
    struct message *m = data;

    atomic_store(&m->worker->beat, m->beat);
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
    worker_pods_accept(m->worker);
    message_free(m);
}

static void do_resume(void *data)
{
    struct message *m = data;

    m->worker->draining = false;
    worker_pods_accept(m->worker);
    message_free(m);
}

static void do_abort_connections(void *data)
{
    struct message *m = data;
    struct worker_pod *wp;

    list_for_each (wp, &m->worker->pods, node)
        worker_pod_abort(wp, BRUMA_REASON_DRAIN_DEADLINE);
    message_free(m);
}

static void do_drain(void *data)
{
    struct message *m = data;

    m->worker->draining = true;
    worker_pods_drain(m->worker);
    message_free(m);
}

static void do_drain_tunnels(void *data)
{
    struct message *m = data;

    if (m->worker->draining)
        worker_pods_drain_tunnels(m->worker);
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
        .same_node = c->flow.same_node,
        .gateway = c->gateway,
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
    (void)endpoint_notes_take(pod_notes_endpoints(m->notes), m->worker);
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

void worker_end_pod(struct worker *w, struct pod *pod)
{
    post(w, pod, do_end_pod, NULL);
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

void worker_identity_changed(struct worker *w)
{
    post(w, NULL, do_identity_changed, NULL);
}

void worker_check_all(struct worker *w)
{
    post(w, NULL, do_check_all, NULL);
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

void worker_drain_tunnels(struct worker *w)
{
    post(w, NULL, do_drain_tunnels, NULL);
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

void worker_beat(struct worker *worker, unsigned long beat)
{
    post(worker, NULL, do_beat, &(struct message){.beat = beat});
}
