/* SPDX-License-Identifier: Apache-2.0 */
/* ADD: a sandbox has come, or another network of one that is there. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "agent/api/cni_connection.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/watchdog.h"
#include "lib/message.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "cni"
#include "lib/log.h"

#define UID_MAX_LEN 128  /* it names a file */
#define KNOWN_WAIT  5000 /* milliseconds that an ADD waits for the source to tell of the pod */

/* Returns what is wrong with the message, or NULL. */
static const char *parse_add(const cJSON *m, struct add_request *ret)
{
    struct add_request q = {.message = m, .network = "", .ifname = ""};
    int r;

    if (message_name(m, "containerId", &q.container_id) < 0)
        return "cni-add: containerId is missing or wrong";
    if (message_text(m, "netns", 4095, &q.netns) < 0 || *q.netns != '/')
        return "cni-add: netns is missing or no absolute path";
    if (message_text(m, "ifname", 15, &q.ifname) == -EBADMSG)
        return "cni-add: ifname is wrong";
    if (message_text(m, "network", 255, &q.network) == -EBADMSG)
        return "cni-add: network is wrong";
    if (message_name(m, "podNamespace", &q.namespace) < 0 || message_name(m, "podName", &q.name) < 0)
        return "cni-add: podName or podNamespace is missing or wrong";
    r = message_name(m, "podUid", &q.uid);
    if (r == -ENOENT)
        q.uid = q.container_id;
    else if (r < 0)
        return "cni-add: podUid is wrong";
    if (strlen(q.uid) > UID_MAX_LEN)
        return "cni-add: podUid is too long";
    r = message_addresses(m, "ips", q.addresses, BRUMA_POD_ADDRESSES, &q.addresses_len);
    if (r < 0)
        return "cni-add: ips is wrong";
    *ret = q;
    return NULL;
}

/* The pod of the request, new or known. One that is known in another sandbox is removed first: it was
 * recreated. */
static int find_or_make(struct agent *agent, const struct add_request *q, struct pod **ret)
{
    struct pod *pod = pods_by_uid(&agent->pods, q->uid), *other = pods_by_cookie(&agent->pods, q->cookie);
    bool fresh;
    int r;

    if (pod && (pod->cookie != q->cookie || strcmp(pod->container_id, q->container_id))) {
        enroll_remove(agent, pod, "its sandbox was recreated");
        pod = NULL;
    }
    if (other && other != pod && pods_by_cookie(&agent->pods, q->cookie) == other)
        enroll_remove(agent, other, "another pod has its network namespace now");
    fresh = !pod;
    if (fresh) {
        r = enroll_pod_add(agent, q->uid, q->namespace, q->name, &pod);
        if (r < 0)
            return r;
        r = pod_set_sandbox(pod, q->container_id, q->netns, q->cookie);
        if (r < 0) {
            enroll_pod_free(pod);
            return r;
        }
    }
    r = pod_attach(pod, q->network, q->ifname);
    if (r == 0)
        r = pod_merge_addresses(pod, q->addresses, q->addresses_len);
    if (r < 0) {
        if (fresh)
            enroll_pod_free(pod);
        return r;
    }
    *ret = pod;
    return 0;
}

/* An enrollment that the plugin took part in has ended. */
static void on_enrolled(void *data, struct pod *pod, int r, const struct steer_error *error)
{
    struct cni *cni = data;

    cni->pod = NULL;
    if (r == 0)
        cni_answer_done(cni);
    else
        cni_answer_error(cni, error->reason, error->text);
}

/* Keeps the request, which may be the kept one, and takes its descriptor: it is tried again. */
static int keep(struct cni *cni, const struct add_request *q, int *netns)
{
    if (q != &cni->request) {
        cni->kept = cJSON_Duplicate(q->message, true);
        if (!cni->kept || parse_add(cni->kept, &cni->request)) {
            cJSON_Delete(take_pointer(cni->kept));
            cni_answer_error(cni, BRUMA_REASON_OUT_OF_RESOURCES, "no memory");
            return -ENOMEM;
        }
    }
    cni->netns_fd = take_fd(netns);
    cni->waits = true;
    return 0;
}

/* The kernel reports when its device has got used to an address; at the limit it is tried once more, and
 * fails. */
static void wait_for_address(struct cni *cni, const struct add_request *q, int *netns)
{
    if (keep(cni, q, netns) == 0)
        address_watch_wait(&cni->address, cni->netns_fd, ENROLL_ADDRESS_WAIT);
}

/* The runtime and the agent hear of a pod at the same time, from the same server. */
static void wait_for_source(struct cni *cni, const struct add_request *q, int *netns)
{
    uint64_t now = loop_now(cni->agent->loop);

    if (cni->waits_until && now >= cni->waits_until) {
        cni->waits_until = 0;
        cni_answer_error(cni, BRUMA_REASON_AGENT_NOT_READY, "the agent does not know the pod yet");
        return;
    }
    if (keep(cni, q, netns) < 0)
        return;
    if (!cni->waits_until)
        cni->waits_until = now + KNOWN_WAIT;
    cni->waiter.namespace = cni->request.namespace;
    cni->waiter.name = cni->request.name;
    source_wait(cni->agent, &cni->waiter);
    loop_timer_set(cni->agent->loop, &cni->timer, cni->waits_until - now);
}

static void on_heard(struct source_waiter *waiter)
{
    struct cni *cni = container_of(waiter, struct cni, waiter);

    loop_timer_set(cni->agent->loop, &cni->timer, 0);
}

/* A later run of the chain for an enrolled pod: its entry, routes and the proxy learn the addresses. */
static void merge(struct cni *cni, struct pod *pod, const struct add_request *q, int *netns)
{
    struct steer_error error = {0};
    struct steer_pod p;

    enroll_describe(cni->agent, pod, &p);
    watchdog_try_again(pod);
    if (steer_pod_commit(cni->agent->steer, &p, &error) < 0 ||
        watchdog_verify(cni->agent, pod, true, &error) < 0) {
        if (enroll_address_wait(cni->agent, pod, &error)) {
            wait_for_address(cni, q, netns);
            return;
        }
        cni_answer_error(cni, error.reason, error.text);
        return;
    }
    enroll_address_settled(pod);
    (void)store_save(&cni->agent->store, pod);
    enroll_announce(cni->agent, pod);
    proxies_pod_add(cni->agent->proxies, pod);
    cni_answer_pass(cni, true);
}

static void begin(struct cni *cni, struct pod *pod, const struct add_request *q, int *netns)
{
    _cleanup_fd_ int program = -1;
    struct steer_error error = {0};
    char path[1024];
    cJSON *m;
    int r = enroll_begin(cni->agent, pod, true, on_enrolled, cni, &program, &error);

    if (r < 0 && enroll_address_wait(cni->agent, pod, &error)) {
        wait_for_address(cni, q, netns);
        return;
    }
    if (r < 0) {
        cni_answer_error(cni, error.reason, error.text);
        enroll_remove(cni->agent, pod, "its enrollment failed");
        return;
    }
    cni->pod = pod;
    r = steer_pod_link_path(cni->agent->steer, pod->cookie, path, sizeof(path));
    if (r < 0) {
        enroll_abort(cni->agent, pod, BRUMA_REASON_INTERNAL, "the path of the link is too long");
        return;
    }
    m = message_new("decision");
    cJSON_AddStringToObject(m, "decision", "enrol");
    cJSON_AddStringToObject(m, "link", path);
    message_add_u64(m, "cookie", pod->cookie);
    connection_send(cni->connection, m, &program, 1);
}

static void add_known(struct cni *cni, const struct add_request *q, int *netns)
{
    struct agent *agent = cni->agent;
    const char *why;
    struct pod *pod;
    int r = find_or_make(agent, q, &pod);

    if (r < 0) {
        cni_answer_error(cni, BRUMA_REASON_OUT_OF_RESOURCES, strerror(-r));
        return;
    }
    pod_look_at_netns(pod, *netns);
    if (pod->netns_unseen)
        log_warn(
            "the agent does not see a network namespace where the runtime has it; is its directory mounted? "
            "(cni.cniNetnsDir)\tpod=\"%s/%s\" netns=%s",
            pod->namespace, pod->name, pod->netns_path);
    if (pod->enrollment->state == POD_LEAVING)
        enroll_reconcile(agent, pod);
    if (pod->enrollment->state == POD_ENROLLED) {
        merge(cni, pod, q, netns);
        return;
    }
    if (pod->enrollment->state == POD_ENROLLING || pod->enrollment->state == POD_LEAVING) {
        cni_answer_error(cni, BRUMA_REASON_AGENT_NOT_READY,
                         "the pod is being enrolled or is leaving the mesh");
        return;
    }
    if (!enroll_wanted(agent, pod, &why)) {
        r = store_save(&agent->store, pod);
        if (r < 0) {
            cni_answer_error(cni, BRUMA_REASON_INTERNAL, "the pod cannot be remembered");
            return;
        }
        guard_pass(agent, pod->cookie, pod->namespace, pod->name);
        enroll_announce(agent, pod);
        cni_answer_pass(cni, false);
        return;
    }
    if (pod->netns_fd < 0)
        pod->netns_fd = fcntl(*netns, F_DUPFD_CLOEXEC, 3);
    if (pod->netns_fd < 0) {
        cni_answer_error(cni, BRUMA_REASON_OUT_OF_RESOURCES, strerror(errno));
        enroll_remove(agent, pod, "its enrollment failed");
        return;
    }
    begin(cni, pod, q, netns);
}

static void try_add(struct cni *cni, struct add_request *q, int *netns)
{
    struct agent *agent = cni->agent;
    int r;

    if (!source_ready(agent) && !source_excludes(agent, q->namespace)) {
        cni_answer_error(cni, BRUMA_REASON_AGENT_NOT_READY, source_not_ready(agent));
        return;
    }
    r = netns_check(*netns);
    if (r == 0)
        r = netns_cookie(*netns, &q->cookie);
    if (r < 0) {
        enum bruma_reason reason = reason_of_failure(BRUMA_REASON_NETNS_UNUSABLE, r);

        cni_answer_error(cni, reason, reason_what(reason));
        return;
    }
    if (source_excludes(agent, q->namespace) ||
        source_knows(agent, q->uid, q->container_id, q->namespace, q->name)) {
        cni->waits_until = 0;
        add_known(cni, q, netns);
    } else {
        wait_for_source(cni, q, netns);
    }
}

void cni_add(struct cni *cni, const cJSON *m, int *fds, size_t fds_len)
{
    struct add_request q;
    const char *wrong = parse_add(m, &q);

    if (!wrong && fds_len != 1)
        wrong = "cni-add: needs one descriptor, the network namespace";
    if (!wrong && (cni->pod || cni->waits))
        wrong = "cni-add: the one before has not ended";
    if (wrong) {
        cni_answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, wrong);
        return;
    }
    cni->waits_until = 0;
    try_add(cni, &q, &fds[0]);
}

static void on_wait(struct loop_timer *timer)
{
    struct cni *cni = container_of(timer, struct cni, timer);
    int fd = take_fd(&cni->netns_fd);

    cni->waits = false;
    source_wait_end(&cni->waiter);
    try_add(cni, &cni->request, &fd);
    close_fds(&fd, 1);
    if (!cni->waits) {
        address_watch_end(&cni->address);
        cJSON_Delete(take_pointer(cni->kept));
    }
}

void cni_add_init(struct cni *cni)
{
    cni->netns_fd = -1;
    list_init(&cni->waiter.node);
    cni->waiter.heard = on_heard;
    loop_timer_init(&cni->timer, on_wait);
    address_watch_init(&cni->address, cni->agent->loop, &cni->timer);
}

void cni_add_forget(struct cni *cni)
{
    loop_timer_cancel(&cni->timer);
    source_wait_end(&cni->waiter);
    address_watch_end(&cni->address);
    close_fds(&cni->netns_fd, 1);
    cJSON_Delete(cni->kept);
    cni->kept = NULL;
}
