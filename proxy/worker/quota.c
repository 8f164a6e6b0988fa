/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/quota.h"

#include "proxy/pod/live_connections.h"

static struct endpoint key_of(const struct addr *peer)
{
    return (struct endpoint){.addr = *peer};
}

void quota_take(struct worker_pod *wp, const struct addr *peer, struct quota *ret)
{
    struct endpoint key;

    *ret = (struct quota){.of_pod = true};
    atomic_fetch_add_explicit(&wp->pod->descriptors, 1, memory_order_relaxed);
    if (!peer)
        return;
    key = key_of(peer);
    ret->peer_connections = live_connections_add(wp->pod->peers, &key, 0);
    ret->of_peer = ret->peer_connections > 0;
}

void quota_release(struct worker_pod *wp, const struct addr *peer, struct quota *quota)
{
    struct endpoint key;

    if (quota->of_pod)
        atomic_fetch_sub_explicit(&wp->pod->descriptors, 1, memory_order_relaxed);
    if (quota->of_peer) {
        key = key_of(peer);
        live_connections_remove(wp->pod->peers, &key, 0);
    }
    *quota = (struct quota){};
}

bool quota_allows(const struct worker_pod *wp, const struct quota *quota, enum bruma_reason *ret_reason)
{
    const struct proxy_settings *s = wp->worker->settings;

    if ((unsigned long)atomic_load_explicit(&wp->pod->descriptors, memory_order_relaxed) >
        s->max_pod_descriptors) {
        *ret_reason = BRUMA_REASON_POD_DESCRIPTORS;
        return false;
    }
    if (quota->of_peer && (unsigned long)quota->peer_connections > s->max_peer_connections) {
        *ret_reason = BRUMA_REASON_PEER_CONNECTIONS;
        return false;
    }
    return true;
}

bool quota_take_more(struct worker_pod *wp, unsigned descriptors)
{
    int had = atomic_fetch_add_explicit(&wp->pod->descriptors, (int)descriptors, memory_order_relaxed);

    if ((unsigned long)had + descriptors <= wp->worker->settings->max_pod_descriptors)
        return true;
    quota_release_more(wp, descriptors);
    return false;
}

void quota_release_more(struct worker_pod *wp, unsigned descriptors)
{
    atomic_fetch_sub_explicit(&wp->pod->descriptors, (int)descriptors, memory_order_relaxed);
}
