/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "pods"
#include "proxy/pod/pod.h"

#include <stdlib.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/seqpacket.h"
#include "proxy/pod/live_connections.h"

void pod_free(void *data)
{
    struct pod *pod = data;

    identity_put(pod->identity);
    workload_unref(pod->placeholder);
    workload_unref(pod->inbound.workload);
    live_connections_free(&pod->live_connections);
    live_connections_free(&pod->peers);
    dns_servers_destroy(&pod->dns_servers);
    close_fds(pod->fds, BRUMA_POD_FD_COUNT);
    close_fds(pod->dns_fds, array_size(pod->dns_fds));
    close_fds(pod->socks_fds, array_size(pod->socks_fds));
    free(pod->uid);
    free(pod->name);
    free(pod->namespace);
    free(pod->service_account);
    free(pod->trust_domain);
    free(pod);
}

void pod_ref(struct pod *pod)
{
    atomic_fetch_add_explicit(&pod->references, 1, memory_order_relaxed);
}

void pod_unref(struct pod *pod)
{
    if (atomic_fetch_sub(&pod->references, 1) != 1)
        return;
    /* Identities belong to the control thread. */
    if (loop_post(pod->proxy->loop, pod_free, pod) < 0)
        log_error("out of memory: pod %s is not freed", pod->uid);
}

bool pod_has_address(const struct pod *pod, const struct addr *addr)
{
    for (int i = 0; i < pod->addresses_len; i++) {
        if (addr_equal(&pod->addresses[i], addr))
            return true;
    }
    return false;
}

bool pod_shares_address(const struct pod *pod, const struct pod *other)
{
    for (int i = 0; pod != other && i < pod->addresses_len; i++) {
        if (pod_has_address(other, &pod->addresses[i]))
            return true;
    }
    return false;
}

static void idle(void *data)
{
    struct pod *pod = data;

    pod->events->idle(pod);
    pod_unref(pod);
}

void pod_is_idle(struct pod *pod)
{
    pod_ref(pod);
    loop_post(pod->proxy->loop, idle, pod);
}

static void listener_closed(void *data)
{
    struct pod *pod = data;

    if (!pod->deleted)
        pod->events->listener_closed(pod);
    pod_unref(pod);
}

void pod_listener_closed(struct pod *pod)
{
    pod_ref(pod);
    if (loop_post(pod->proxy->loop, listener_closed, pod) < 0)
        pod_unref(pod); /* the agent's timer finds it */
}

static void certificate_wanted(void *data)
{
    struct pod *pod = data;
    struct identity *same;

    if (!pod->deleted && pod->identity &&
        identity_get(pod->proxy->identities, identity_uri(pod->identity), IDENTITY_REALTIME, &same) == 0)
        identity_put(same);
    pod_unref(pod);
}

void pod_certificate_wanted(struct pod *pod)
{
    pod_ref(pod);
    if (loop_post(pod->proxy->loop, certificate_wanted, pod) < 0)
        pod_unref(pod);
}
