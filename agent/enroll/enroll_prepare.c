/* SPDX-License-Identifier: Apache-2.0 */
/* What steering is told of a pod: before it enters the mesh, and when it changes. */
#include <errno.h>
#include <string.h>

#include "agent/enroll/enroll_private.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "lib/netns.h"
#include "lib/reasons.h"

#define LOG_SCOPE "enroll"
#include "lib/log.h"

static int open_netns(struct pod *pod, struct steer_error *error)
{
    uint64_t cookie;
    int r;

    if (pod->netns_fd >= 0)
        return 0;
    _cleanup_fd_ int fd = netns_open(pod->netns_path);

    if (fd < 0)
        return enroll_fail(error, fd, BRUMA_REASON_NETNS_UNUSABLE, "cannot open %.100s: %s", pod->netns_path,
                           strerror(-fd));
    r = netns_cookie(fd, &cookie);
    if (r < 0)
        return enroll_fail(error, r, BRUMA_REASON_NETNS_UNUSABLE, "cannot enter %.100s: %s", pod->netns_path,
                           strerror(-r));
    if (cookie != pod->cookie)
        return enroll_fail(error, -ESTALE, BRUMA_REASON_NETNS_UNUSABLE,
                           "%.100s is another network namespace now", pod->netns_path);
    pod->netns_fd = take_fd(&fd);
    return 0;
}

int enroll_prepare(struct agent *agent, struct pod *pod, int *ret_program_fd, struct steer_error *error)
{
    struct steer_pod p;
    const char *ignored;
    int r;

    /* Steered to nobody it would be cut off. */
    if (proxies_open_listeners(agent->proxies) && !proxies_serving(agent->proxies))
        return enroll_fail(error, -ENOTCONN, BRUMA_REASON_PROXY_NOT_CONNECTED,
                           "no node proxy is connected to %.150s that could serve the pod",
                           agent->settings->zds_socket);
    if (!pod->addresses_len)
        return enroll_fail(error, -EADDRNOTAVAIL, BRUMA_REASON_POD_ADDRESS_MISSING, "%s",
                           reason_what(BRUMA_REASON_POD_ADDRESS_MISSING));
    r = source_service_account(agent, pod, enrollment_of(pod)->service_account,
                               sizeof(pod->enrollment->service_account));
    if (r < 0)
        return enroll_fail(error, r, BRUMA_REASON_INTERNAL, "the pod's service account: %s", strerror(-r));
    enrollment_of(pod)->bypass_inbound = source_bypass_inbound(agent, pod);
    enrollment_of(pod)->outbound_policy = source_outbound_policy(agent, pod, &ignored);
    enrollment_of(pod)->direct = source_direct(agent, pod);
    r = open_netns(pod, error);
    if (r < 0)
        return r;
    if (pod->cookie == agent->own_cookie)
        return enroll_fail(error, -EINVAL, BRUMA_REASON_NETNS_IS_HOST, "%s",
                           reason_what(BRUMA_REASON_NETNS_IS_HOST));
    memset(enrollment_of(pod)->listener_cookies, 0, sizeof(pod->enrollment->listener_cookies));
    if (!proxies_open_listeners(agent->proxies))
        r = steer_listeners_open(pod->netns_fd, enrollment_of(pod)->listeners, error);
    if (r < 0)
        return r;
    enrollment_of(pod)->generation++;
    enrollment_of(pod)->exclusions_set = false;
    enroll_describe(agent, pod, &p);
    return steer_pod_prepare(agent->steer, &p, ret_program_fd, error);
}

int enroll_listeners_opened(struct agent *agent, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT],
                            struct steer_error *error)
{
    uint64_t cookies[BRUMA_LISTENER_COUNT];
    struct steer_pod p;
    int r = 0;

    enroll_describe(agent, pod, &p);
    memcpy(p.listeners, listeners, sizeof(p.listeners));
    for (int i = 0; r == 0 && i < BRUMA_LISTENER_COUNT; i++)
        r = socket_cookie(listeners[i], &cookies[i]);
    if (r < 0)
        return enroll_fail(error, r, BRUMA_REASON_PROXY_LISTENERS_MISSING, "a listener of the proxy: %s",
                           strerror(-r));
    r = steer_pod_set_listeners(agent->steer, &p, error);
    if (r == 0)
        memcpy(enrollment_of(pod)->listener_cookies, cookies, sizeof(cookies));
    return r;
}

static void update_bypass(struct agent *agent, struct pod *pod)
{
    bool bypass = source_bypass_inbound(agent, pod);
    struct steer_error error = {0};
    struct steer_pod p;

    if (bypass == pod->enrollment->bypass_inbound)
        return;
    log_info("plaintext from outside %s\tpod=\"%s/%s\"",
             bypass ? "goes straight to the application now" : "goes to the proxy again", pod->namespace,
             pod->name);
    enrollment_of(pod)->bypass_inbound = bypass;
    enroll_set_state(agent, pod, POD_ENROLLED);
    enroll_describe(agent, pod, &p);
    enroll_note(pod, "writing the pod's entry", steer_pod_commit(agent->steer, &p, &error), &error);
    if (!proxies_open_listeners(agent->proxies))
        proxies_pod_add(agent->proxies, pod);
}

static void update_identity(struct agent *agent, struct pod *pod)
{
    char account[sizeof(pod->enrollment->service_account)];
    struct steer_error error = {0};
    struct steer_pod p;

    if (source_service_account(agent, pod, account, sizeof(account)) < 0 ||
        !strcmp(account, pod->enrollment->service_account))
        return;
    log_info("a pod's service account changed\tpod=\"%s/%s\" from=%s to=%s", pod->namespace, pod->name,
             pod->enrollment->service_account, account);
    strcpy(enrollment_of(pod)->service_account, account);
    enroll_set_state(agent, pod, POD_ENROLLED);
    enroll_describe(agent, pod, &p);
    enroll_note(pod, "writing the pod's entry", steer_pod_commit(agent->steer, &p, &error), &error);
    proxies_pod_add(agent->proxies, pod);
}

static void update_outbound_policy(struct agent *agent, struct pod *pod)
{
    const char *why;
    enum outbound_policy policy = source_outbound_policy(agent, pod, &why);

    if (policy == pod->enrollment->outbound_policy)
        return;
    log_info("outbound traffic policy of a pod\tpod=\"%s/%s\" policy=%s by=\"%s\"", pod->namespace, pod->name,
             policy == OUTBOUND_UNSAID ? "-" : outbound_policy_name(policy), why);
    enrollment_of(pod)->outbound_policy = policy;
    enroll_set_state(agent, pod, POD_ENROLLED);
    if (!proxies_open_listeners(agent->proxies))
        proxies_pod_add(agent->proxies, pod);
    else if (policy == OUTBOUND_REGISTRY_ONLY)
        log_warn("ztunnel knows no outbound traffic policy: nothing is refused\tpod=\"%s/%s\"",
                 pod->namespace, pod->name);
}

static void update_direct(struct agent *agent, struct pod *pod)
{
    static const char *const words[] = {"-", "false", "true"};
    struct direct_switches direct = source_direct(agent, pod);

    if (direct_switches_equal(direct, pod->enrollment->direct))
        return;
    log_info("annotations about direct ways of a pod\tpod=\"%s/%s\" outside=%s inbound=%s same-node=%s",
             pod->namespace, pod->name, words[direct.outside], words[direct.inbound],
             direct.same_node == SAME_NODE_UNSAID ? "-" : same_node_name(direct.same_node));
    enrollment_of(pod)->direct = direct;
    enroll_set_state(agent, pod, POD_ENROLLED);
    watchdog_look(agent, pod); /* at its device */
    if (!proxies_open_listeners(agent->proxies))
        proxies_pod_add(agent->proxies, pod);
}

void enroll_update(struct agent *agent, struct pod *pod)
{
    update_bypass(agent, pod);
    update_identity(agent, pod);
    update_outbound_policy(agent, pod);
    update_direct(agent, pod);
}
