/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker knows of a pod. */
#include <string.h>

#include "proxy/memory/memory.h"
#include "proxy/state/rcu.h"
#include "proxy/worker/worker.h"

void worker_connection_begin(struct worker_pod *wp)
{
    atomic_fetch_add(&wp->pod->connections, 1);
    atomic_fetch_add_explicit(&wp->worker->connections, 1, memory_order_relaxed);
}

void worker_connection_end(struct worker_pod *wp)
{
    atomic_fetch_sub_explicit(&wp->worker->connections, 1, memory_order_relaxed);
    memory_was_freed(wp->worker->proxy);
    if (atomic_fetch_sub(&wp->pod->connections, 1) == 1 && wp->draining)
        pod_is_idle(wp->pod);
}

const struct workload *worker_pod_workload(struct worker_pod *wp)
{
    const struct pod *pod = wp->pod;
    const struct workload *found;

    if (!wp->local_stale)
        return wp->local;
    wp->local_stale = false;
    found = state_find_local(wp->worker->state, pod->namespace, pod->name, pod->service_account);
    if (found != wp->local) {
        if (found)
            workload_ref(found);
        workload_unref(wp->local);
        wp->local = found;
    }
    return wp->local;
}

const struct workload *worker_pod_source(struct worker_pod *wp)
{
    const struct workload *local = worker_pod_workload(wp);

    return local ? local : rcu_read(wp->pod->placeholder);
}

struct tls_context *worker_pod_context(struct worker_pod *wp)
{
    const struct workload *local = worker_pod_source(wp);
    struct identity *identity = rcu_read(wp->pod->identity);

    if (!identity || !local || strcmp(identity_uri(identity), local->identity) != 0)
        return NULL;
    return identity_context(identity);
}

bool worker_pod_identity_failed(struct worker_pod *wp, char *text, size_t size)
{
    const struct workload *local = worker_pod_source(wp);
    struct identity *identity = rcu_read(wp->pod->identity);

    *text = '\0';
    if (!identity || !local || strcmp(identity_uri(identity), local->identity) != 0 ||
        !identity_has_failed(identity, text, size))
        return false;
    pod_certificate_wanted(wp->pod); /* by those who come next */
    return true;
}

bool worker_pod_listens(const struct worker_pod *wp, uint16_t port)
{
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (wp->acceptors[i].port == port)
            return true;
    }
    if (wp->socks_acceptors[0].port && wp->socks_acceptors[0].port == port)
        return true;
    return false;
}

uint64_t worker_random(struct worker *w)
{
    uint64_t x = w->random;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    w->random = x;
    return x;
}
