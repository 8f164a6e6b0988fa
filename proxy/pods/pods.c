/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "pods"
#include "proxy/pods/pods.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/seqpacket.h"
#include "proxy/connection/worker_post.h"
#include "proxy/direct/direct.h"
#include "proxy/flows/flows.h"
#include "proxy/memory/memory.h"
#include "proxy/pod/live_connections.h"
#include "proxy/pod/pod.h"
#include "proxy/proxy.h"
#include "proxy/state/rcu.h"
#include "proxy/state/reclaim.h"

#define DEFAULT_ACCOUNT "default"

/* The own pod is not an agent's, whatever uid it may say. */
static struct pod *find_of(struct proxy *proxy, const char *uid, bool own)
{
    struct pod *pod;

    list_for_each (pod, &proxy->pods, node) {
        if (pod->own == own && !strcmp(pod->uid, uid))
            return pod;
    }
    return NULL;
}

static struct pod *find(struct proxy *proxy, const char *uid)
{
    return find_of(proxy, uid, false);
}

/* Accepted sockets inherit it, which saves a system call for each connection. */
static void prepare_listeners(struct pod *pod)
{
    int on = 1;

    for (int i = BRUMA_POD_FD_OUTBOUND; i < BRUMA_POD_FD_COUNT; i++)
        setsockopt(pod->fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static char *copy(const char *text)
{
    return strdup(text ? text : "");
}

static const char *or_default(const char *text, const char *otherwise)
{
    return text && *text ? text : otherwise;
}

static bool same_identity(const struct pod *pod, const struct pod_info *info)
{
    return !strcmp(pod->service_account, or_default(info->service_account, DEFAULT_ACCOUNT)) &&
           !strcmp(pod->trust_domain, or_default(info->trust_domain, "")) &&
           !strcmp(pod->namespace, info->namespace);
}

/* ---- who the pod is ---- */

/*
 * The mesh says it: the identity of the pod's workload. Until it knows the pod, the trust domain is the
 * agent's, or that of the node's other pods, so that the certificate is there when the first connection is.
 */
static int expected_identity(const struct pod *pod, char ret_uri[SPIFFE_MAX])
{
    struct state *state = pod->proxy->state;
    const struct workload *w = state_local_workload(state, pod->namespace, pod->name, pod->service_account);
    const char *trust_domain = *pod->trust_domain ? pod->trust_domain : state_local_trust_domain(state);

    if (w)
        return *w->identity ? snprintf(ret_uri, SPIFFE_MAX, "%s", w->identity) : -EINVAL;
    if (pod->identity || !trust_domain)
        return -ENOENT; /* a guess is no news to a pod that has one */
    return spiffe_format(ret_uri, SPIFFE_MAX, trust_domain, pod->namespace, pod->service_account);
}

static int choose_identity(struct pod *pod)
{
    struct identity *old = pod->identity, *next = NULL;
    struct reclaim reclaim = {};
    char uri[SPIFFE_MAX];
    int r = expected_identity(pod, uri);

    if (r < 0 || (old && !strcmp(identity_uri(old), uri)))
        return 0; /* not known yet, or nothing new */
    r = identity_get(pod->proxy->identities, uri, IDENTITY_WARMUP, &next);
    if (r < 0)
        return r;
    if (old)
        log_info("the mesh knows a pod by another identity\tpod=\"%s/%s\" identity=\"%s\" before=\"%s\"",
                 pod->namespace, pod->name, uri, identity_uri(old));
    rcu_publish(pod->identity, next);
    /* workers may be looking at it just now */
    reclaim_add(&reclaim, identity_put_later, old);
    reclaim_flush(&reclaim);
    return 0;
}

static void put_placeholder(void *workload)
{
    workload_unref(workload);
}

/* A pod is who the runtime's call says it is. Its own connections need not wait until the mesh says so too.
 */
static int choose_placeholder(struct pod *pod)
{
    struct state *state = pod->proxy->state;
    const char *trust_domain = *pod->trust_domain ? pod->trust_domain : state_local_trust_domain(state);
    const struct pod_words words = {.uid = pod->uid,
                                    .name = pod->name,
                                    .namespace = pod->namespace,
                                    .service_account = pod->service_account,
                                    .trust_domain = trust_domain ? trust_domain : ""};
    const struct workload *old = pod->placeholder, *next;
    struct reclaim reclaim = {};
    int r;

    if (old && (!trust_domain || !strcmp(old->trust_domain, trust_domain)))
        return 0;
    r = state_placeholder(state, &words, &next);
    if (r < 0)
        return r;
    rcu_publish(pod->placeholder, next);
    reclaim_add(&reclaim, put_placeholder, (void *)(uintptr_t)old);
    reclaim_flush(&reclaim);
    return 0;
}

void pods_state_changed(struct proxy *proxy)
{
    struct pod *pod;

    list_for_each (pod, &proxy->pods, node) {
        if (choose_identity(pod) < 0 || choose_placeholder(pod) < 0)
            log_error("out of memory: pod %s/%s gets no certificate", pod->namespace, pod->name);
    }
}

static bool is_part(const char *text, const char *part, size_t len)
{
    return strlen(text) == len && !memcmp(text, part, len);
}

void pods_each_of(void *data, const char *uri, void (*each)(void *each_data, const char *uid),
                  void *each_data)
{
    struct proxy *proxy = data;
    const struct pod *pod;
    struct spiffe s;

    if (spiffe_parse(uri, strlen(uri), &s) < 0)
        return;
    list_for_each (pod, &proxy->pods, node) {
        if (!pod->own && is_part(pod->namespace, s.namespace, s.namespace_len) &&
            is_part(pod->service_account, s.service_account, s.service_account_len))
            each(each_data, pod->uid);
    }
}

/* ---- what is told of pods ---- */

static void remove_pod(struct pod *pod)
{
    struct proxy *proxy = pod->proxy;

    direct_pod_gone(proxy->direct, pod);
    pod->deleted = true;
    list_del(&pod->node);
    flows_pod_remove(proxy->flows, pod);
    proxy->pods_stopped += !pod->own;
    for (unsigned i = 0; i < proxy->workers_len; i++)
        worker_delete_pod(proxy->workers[i], pod);
    pod_unref(pod);
}

static void on_idle(struct pod *pod)
{
    struct proxy *proxy = pod->proxy;

    if (!pod->draining || pod->deleted || atomic_load(&pod->connections))
        return;
    log_info("pod drained\tpod=\"%s/%s\"", pod->namespace, pod->name);
    proxy->pods_events->drained(proxy, pod->uid);
    remove_pod(pod);
}

static void on_listener_closed(struct pod *pod)
{
    const struct pods_events *told = pod->proxy->pods_events;

    if (pod->own)
        told->own_listener_closed(pod->proxy);
    else
        told->listener_closed(pod->proxy, pod->uid);
}

static const struct pod_events events = {.idle = on_idle, .listener_closed = on_listener_closed};

static int pod_new(struct proxy *proxy, const struct pod_info *info, struct pod **ret)
{
    const char *account = or_default(info->service_account, DEFAULT_ACCOUNT);
    struct pod *pod = calloc(1, sizeof(*pod));
    int r;

    if (!pod)
        return -ENOMEM;
    pod->references = 1;
    pod->proxy = proxy;
    pod->events = &events;
    pod->memory.limit = memory_pod_limit(proxy);
    for (int i = 0; i < BRUMA_POD_FD_COUNT; i++)
        pod->fds[i] = -1;
    pod->dns_fds[0] = pod->dns_fds[1] = pod->socks_fds[0] = pod->socks_fds[1] = -1;
    dns_servers_init(&pod->dns_servers);
    list_init(&pod->node);
    pod->uid = copy(info->uid);
    pod->name = copy(info->name);
    pod->namespace = copy(info->namespace);
    pod->service_account = copy(account);
    pod->trust_domain = copy(info->trust_domain);
    pod->cookie = info->cookie;
    pod->own = info->own;
    pod->hides_clients = info->hides_clients;
    pod->redirected = info->own || proxy->zds;
    pod->packet_mark = info->own ? info->mark : pod->redirected ? (uint32_t)proxy->settings.packet_mark : 0;
    if (!pod->uid || !pod->name || !pod->namespace || !pod->service_account || !pod->trust_domain)
        r = -ENOMEM;
    else
        r = live_connections_new(&pod->live_connections);
    if (r == 0)
        r = live_connections_new(&pod->peers);
    if (r == 0)
        r = choose_identity(pod);
    if (r == 0)
        r = choose_placeholder(pod);
    if (r < 0) {
        pod_free(pod);
        return r;
    }
    list_add_tail(&proxy->pods, &pod->node);
    proxy->pods_started += !pod->own;
    *ret = pod;
    return 0;
}

/* Each worker has descriptors of its own. All or none: a worker without would be deaf for that pod. Three
 * ints for each; the caller frees them. */
static int *for_workers(const struct proxy *proxy, const int fds[BRUMA_POD_FD_COUNT])
{
    size_t n = (size_t)proxy->workers_len * BRUMA_LISTENER_COUNT;
    int *copies = malloc((n ? n : 1) * sizeof(*copies));

    for (size_t i = 0; copies && i < n; i++) {
        int fd = fds[BRUMA_POD_FD_OUTBOUND + i % BRUMA_LISTENER_COUNT];

        copies[i] = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (fd >= 0 && copies[i] < 0) {
            int e = errno;

            close_fds(copies, i);
            free(copies);
            errno = e;
            return NULL;
        }
    }
    return copies;
}

static int refuse(int r, const char *uid, int fds[BRUMA_POD_FD_COUNT], enum bruma_reason *reason, char *error,
                  size_t error_size)
{
    *reason = BRUMA_REASON_OUT_OF_RESOURCES;
    snprintf(error, error_size, "pod %s: %s", uid, strerror(-r));
    close_fds(fds, BRUMA_POD_FD_COUNT);
    return r;
}

/* Workers look at it when they are told of the pod, and at each connection. */
static void set_outbound_policy(struct pod *pod, enum outbound_policy policy)
{
    int before;

    if (policy == OUTBOUND_UNSAID)
        policy = pod->proxy->settings.outbound_policy;
    if (policy == OUTBOUND_REGISTRY_ONLY)
        direct_pod_restrict(pod->proxy->direct, pod);
    before = atomic_exchange(&pod->outbound_policy, (int)policy);
    if (before != (int)policy)
        log_info("outbound traffic policy of a pod\tpod=\"%s/%s\" policy=%s", pod->namespace, pod->name,
                 outbound_policy_name(policy));
}

int pods_add(struct proxy *proxy, const struct pod_info *info, int fds[BRUMA_POD_FD_COUNT],
             enum bruma_reason *reason, char *error, size_t error_size)
{
    struct pod *pod = find_of(proxy, info->uid, info->own);
    _cleanup_free_ int *copies = for_workers(proxy, fds);
    int r;

    /* Before anything is changed: the agent tells of the pod again. */
    if (!copies)
        return refuse(-errno, info->uid, fds, reason, error, error_size);
    /* The same pod in another namespace is a new sandbox: what there was of the old one is gone. With another
     * identity it may not go on either: its connections have been made in the name of the former one. */
    if (pod && (pod->cookie != info->cookie || !same_identity(pod, info))) {
        pods_delete(proxy, info->uid);
        pod = NULL;
    }
    if (!pod) {
        r = pod_new(proxy, info, &pod);
        if (r < 0) {
            close_fds(copies, (size_t)proxy->workers_len * BRUMA_LISTENER_COUNT);
            return refuse(r, info->uid, fds, reason, error, error_size);
        }
    }
    /* Workers compare nothing but the struct's address, and use only the netns descriptor, which stays. */
    if (pod->fds[BRUMA_POD_FD_NETNS] >= 0)
        close(fds[BRUMA_POD_FD_NETNS]);
    else
        pod->fds[BRUMA_POD_FD_NETNS] = fds[BRUMA_POD_FD_NETNS];
    for (int i = BRUMA_POD_FD_OUTBOUND; i < BRUMA_POD_FD_COUNT; i++) {
        if (pod->fds[i] >= 0)
            close(pod->fds[i]);
        pod->fds[i] = fds[i];
    }
    prepare_listeners(pod);
    pod->generation = info->generation;
    memcpy(pod->addresses, info->addresses, sizeof(pod->addresses));
    pod->addresses_len = info->addresses_len;
    pod->draining = pod->ending = false;
    set_outbound_policy(pod, info->outbound_policy);
    atomic_store(&pod->same_node, (int)same_node_longer(info->direct.same_node, SAME_NODE_KERNEL));
    pod->direct_outside = info->direct.outside;
    pod->direct_inbound = info->direct.inbound;
    pod->bypass_inbound = info->bypass_inbound;
    flows_pod_add(proxy->flows, pod);
    for (unsigned i = 0; i < proxy->workers_len; i++)
        worker_add_pod(proxy->workers[i], pod, copies + (size_t)i * BRUMA_LISTENER_COUNT);
    pods_open_socks(proxy);
    direct_pod_changed(proxy->direct, pod);
    log_info("pod added\tpod=\"%s/%s\" uid=\"%s\" cookie=%llu", pod->namespace, pod->name, pod->uid,
             (unsigned long long)pod->cookie);
    return 0;
}

void pods_drain(struct proxy *proxy, const char *uid)
{
    struct pod *pod = find(proxy, uid);

    if (!pod) {
        proxy->pods_events->drained(proxy, uid);
        return;
    }
    log_info("pod leaves the mesh\tpod=\"%s/%s\" connections=%d", pod->namespace, pod->name,
             pod->connections);
    pod->draining = true;
    direct_pod_changed(proxy->direct, pod);
    for (unsigned i = 0; i < proxy->workers_len; i++)
        worker_drain_pod(proxy->workers[i], pod);
}

void pods_ending(struct proxy *proxy, const char *uid)
{
    struct pod *pod = find(proxy, uid);

    if (!pod)
        return;
    log_info("pod ends\tpod=\"%s/%s\" connections=%d", pod->namespace, pod->name, pod->connections);
    pod->ending = true;
    direct_pod_changed(proxy->direct, pod);
    for (unsigned i = 0; i < proxy->workers_len; i++)
        worker_end_pod(proxy->workers[i], pod);
}

void pods_delete(struct proxy *proxy, const char *uid)
{
    struct pod *pod = find(proxy, uid);

    if (!pod)
        return;
    log_info("pod removed\tpod=\"%s/%s\" uid=\"%s\"", pod->namespace, pod->name, pod->uid);
    remove_pod(pod);
}

bool pods_serves(struct proxy *proxy, const struct pod_info *info)
{
    const struct pod *pod = find(proxy, info->uid);

    return pod && pod->cookie == info->cookie && same_identity(pod, info) && !pod->draining;
}

void pods_close_listeners(struct proxy *proxy)
{
    struct pod *pod;

    list_for_each (pod, &proxy->pods, node) {
        if (!pod->redirected)
            continue;
        close_fds(pod->fds + BRUMA_POD_FD_OUTBOUND, BRUMA_LISTENER_COUNT);
        close_fds(pod->dns_fds, array_size(pod->dns_fds));
    }
}

static void each(struct proxy *proxy, bool own, pods_each_fn fn, void *data)
{
    struct pod *pod;

    list_for_each (pod, &proxy->pods, node) {
        struct pod_info info = {
            .uid = pod->uid,
            .name = pod->name,
            .namespace = pod->namespace,
            .service_account = pod->service_account,
            .trust_domain = pod->trust_domain,
            .cookie = pod->cookie,
            .generation = pod->generation,
            .addresses_len = pod->addresses_len,
            .outbound_policy = (enum outbound_policy)atomic_load(&pod->outbound_policy),
        };

        memcpy(info.addresses, pod->addresses, sizeof(info.addresses));
        if (pod->own == own)
            fn(data, &info, pod->draining, pod->fds);
    }
}

void pods_each(struct proxy *proxy, pods_each_fn fn, void *data)
{
    each(proxy, false, fn, data);
}

void pods_each_own(struct proxy *proxy, pods_each_fn fn, void *data)
{
    each(proxy, true, fn, data);
}

static void close_map(void *object)
{
    close((int)(intptr_t)object - 1);
}

/* A worker may be about to use the old one: it is closed once none can be. */
static void replace_map(int *map, int fd)
{
    int old = __atomic_exchange_n(map, fd, __ATOMIC_ACQ_REL);
    struct reclaim reclaim = {};

    if (old < 0)
        return;
    reclaim_add(&reclaim, close_map, (void *)((intptr_t)old + 1)); /* NULL would be none */
    reclaim_flush(&reclaim);
}

void pods_set_maps(struct proxy *proxy, int exempt, int deliveries)
{
    replace_map(&proxy->exempt_map_fd, exempt);
    replace_map(&proxy->deliveries_map_fd, deliveries);
}
