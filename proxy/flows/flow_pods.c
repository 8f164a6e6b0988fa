/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/flows/flow_pods.h"

#include <errno.h>
#include <stdlib.h>

#include "proxy/state/rcu.h"

#define BUCKETS 1024

struct flow_pod {
    struct flow_pod *next; /* in its bucket */
    struct list node;      /* in gone; else linked to itself */
    uint64_t cookie;
    struct pod *pod;            /* referenced; NULL: it is gone */
    const struct workload *was; /* of one that is gone: referenced, or NULL */
};

struct flow_pods {
    pthread_mutex_t lock;
    struct flow_pod *buckets[BUCKETS];
    struct list gone; /* the oldest first */
    unsigned gone_len;
};

int flow_pods_new(struct flow_pods **ret)
{
    struct flow_pods *pods = calloc(1, sizeof(*pods));

    if (!pods)
        return -ENOMEM;
    pthread_mutex_init(&pods->lock, NULL);
    list_init(&pods->gone);
    *ret = pods;
    return 0;
}

static struct flow_pod **place(struct flow_pods *pods, uint64_t cookie)
{
    struct flow_pod **at = &pods->buckets[cookie % BUCKETS];

    while (*at && (*at)->cookie != cookie)
        at = &(*at)->next;
    return at;
}

/* Takes it out, and gives back what it refers to. */
static void drop(struct flow_pods *pods, struct flow_pod **at)
{
    struct flow_pod *p = *at;

    *at = p->next;
    if (!p->pod)
        pods->gone_len--;
    list_del(&p->node);
    workload_unref(p->was);
    if (p->pod)
        pod_unref(p->pod);
    free(p);
}

void flow_pods_free(struct flow_pods **ptr)
{
    struct flow_pods *pods = *ptr;

    if (!pods)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (pods->buckets[i])
            drop(pods, &pods->buckets[i]);
    }
    pthread_mutex_destroy(&pods->lock);
    free(pods);
    *ptr = NULL;
}

int flow_pods_add(struct flow_pods *pods, struct pod *pod)
{
    struct flow_pod *p = calloc(1, sizeof(*p)), **at;
    int r = p ? 0 : -ENOMEM;

    pthread_mutex_lock(&pods->lock);
    at = place(pods, pod->cookie);
    if (p && (!*at || (*at)->pod != pod)) {
        if (*at)
            drop(pods, at); /* who it was before */
        at = place(pods, pod->cookie);
        p->cookie = pod->cookie;
        p->pod = pod;
        pod_ref(pod);
        list_init(&p->node);
        p->next = *at;
        *at = take_pointer(p);
    }
    pthread_mutex_unlock(&pods->lock);
    free(p);
    return r;
}

static const struct workload *workload_of(const struct state *state, const struct pod *pod)
{
    const struct workload *local = state_find_local(state, pod->namespace, pod->name, pod->service_account);

    if (!local)
        local = rcu_read(pod->placeholder);
    if (local)
        workload_ref(local);
    return local;
}

/* The descriptors of the pod must not be kept: they would keep its network namespace. */
void flow_pods_remove(struct flow_pods *pods, struct pod *pod)
{
    struct flow_pod *p;

    pthread_mutex_lock(&pods->lock);
    p = *place(pods, pod->cookie);
    if (p && p->pod == pod) {
        p->was = workload_of(pod->proxy->state, pod);
        p->pod = NULL;
        list_add_tail(&pods->gone, &p->node);
        if (++pods->gone_len > FLOW_PODS_GONE_MAX)
            drop(pods, place(pods, list_first(&pods->gone, struct flow_pod, node)->cookie));
        pthread_mutex_unlock(&pods->lock);
        pod_unref(pod);
        return;
    }
    pthread_mutex_unlock(&pods->lock);
}

const struct workload *flow_pods_workload(struct flow_pods *pods, const struct state *state, uint64_t cookie,
                                          bool *ret_known)
{
    const struct workload *w = NULL;
    struct flow_pod *p;

    pthread_mutex_lock(&pods->lock);
    p = *place(pods, cookie);
    *ret_known = p != NULL;
    if (p && p->pod) {
        w = workload_of(state, p->pod);
    } else if (p && p->was) {
        w = p->was;
        workload_ref(w);
    }
    pthread_mutex_unlock(&pods->lock);
    return w;
}

struct pod *flow_pods_find(struct flow_pods *pods, uint64_t cookie)
{
    struct flow_pod *p;
    struct pod *pod;

    pthread_mutex_lock(&pods->lock);
    p = *place(pods, cookie);
    pod = p ? p->pod : NULL;
    if (pod)
        pod_ref(pod);
    pthread_mutex_unlock(&pods->lock);
    return pod;
}
