/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/cni_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "lib/message.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "cni"
#include "lib/log.h"

#define UID_MAX_LEN 128  /* it names a file */
#define KNOWN_WAIT  5000 /* milliseconds that an ADD waits for the source to tell of the pod */
#define RETRY_WAIT  20   /* milliseconds between tries while an address is new to its device */

struct add_request {
    const cJSON *message; /* whose text it is */
    const char *container_id, *netns, *ifname, *network, *namespace, *name, *uid;
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    uint64_t cookie;
};

/* One connection of the plugin. */
struct cni {
    struct agent *agent;
    struct connection *connection;
    struct pod *pod; /* of the enrollment that this connection has begun; NULL otherwise */

    /* an ADD that waits: the source has not told of the pod yet, or its address cannot be used yet */
    bool waits;
    cJSON *kept; /* its message; NULL: none */
    struct add_request request;
    int netns_fd;
    uint64_t waits_until; /* loop time; for the source; 0: not for that */
    struct source_waiter waiter;
    struct loop_timer timer;
};

static void on_wait(struct loop_timer *timer);
static void on_heard(struct source_waiter *waiter);

void *cni_accept(struct agent *agent)
{
    struct cni *cni = calloc(1, sizeof(*cni));

    if (cni) {
        cni->agent = agent;
        cni->netns_fd = -1;
        list_init(&cni->waiter.node);
        cni->waiter.heard = on_heard;
        loop_timer_init(&cni->timer, on_wait);
    }
    return cni;
}

static void answer_done(struct cni *cni)
{
    cni->agent->plugin_successes++;
    connection_send(cni->connection, message_new("done"), NULL, 0);
}

static void answer_error(struct cni *cni, enum bruma_reason reason, const char *text)
{
    cni->agent->plugin_errors++;
    log_warn("the plugin gets an error\treason=%s error=\"%s\"", reason_name(reason), text);
    connection_send_error(cni->connection, reason, text);
}

static void answer_pass(struct cni *cni, bool enrolled)
{
    cJSON *m = message_new("decision");

    cJSON_AddStringToObject(m, "decision", "pass");
    cJSON_AddBoolToObject(m, "enrolled", enrolled);
    cni->agent->plugin_successes++;
    connection_send(cni->connection, m, NULL, 0);
}

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
        r = pod_new(&agent->pods, q->uid, q->namespace, q->name, &pod);
        if (r < 0)
            return r;
        pod->loop = agent->loop;
        pod->owner = agent;
        pod->added_at = (int64_t)time(NULL);
        pod->added = loop_now(agent->loop);
        r = pod_set_sandbox(pod, q->container_id, q->netns, q->cookie);
        if (r < 0) {
            pod_free(pod);
            return r;
        }
    }
    r = pod_attach(pod, q->network, q->ifname);
    if (r == 0)
        r = pod_merge_addresses(pod, q->addresses, q->addresses_len);
    if (r < 0) {
        if (fresh)
            pod_free(pod);
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
        answer_done(cni);
    else
        answer_error(cni, error->reason, error->text);
}

/* Keeps the request, which may be the kept one, and takes its descriptor: it is tried again. */
static int keep(struct cni *cni, const struct add_request *q, int *netns)
{
    if (q != &cni->request) {
        cni->kept = cJSON_Duplicate(q->message, true);
        if (!cni->kept || parse_add(cni->kept, &cni->request)) {
            cJSON_Delete(take_pointer(cni->kept));
            answer_error(cni, BRUMA_REASON_OUT_OF_RESOURCES, "no memory");
            return -ENOMEM;
        }
    }
    cni->netns_fd = take_fd(netns);
    cni->waits = true;
    return 0;
}

/* Nothing tells of an address that its device has got used to before its pod is followed. */
static void wait_for_address(struct cni *cni, const struct add_request *q, int *netns)
{
    if (keep(cni, q, netns) == 0)
        loop_timer_set(cni->agent->loop, &cni->timer, RETRY_WAIT);
}

/* The runtime and the agent hear of a pod at the same time, from the same server. */
static void wait_for_source(struct cni *cni, const struct add_request *q, int *netns)
{
    uint64_t now = loop_now(cni->agent->loop);

    if (cni->waits_until && now >= cni->waits_until) {
        cni->waits_until = 0;
        answer_error(cni, BRUMA_REASON_AGENT_NOT_READY, "the agent does not know the pod yet");
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
    pod->repair_at = 0;
    if (steer_pod_commit(cni->agent->steer, &p, &error) < 0 ||
        watchdog_verify(cni->agent, pod, true, &error) < 0) {
        if (enroll_address_wait(cni->agent, pod, &error)) {
            wait_for_address(cni, q, netns);
            return;
        }
        answer_error(cni, error.reason, error.text);
        return;
    }
    pod->address_until = 0;
    (void)store_save(&cni->agent->store, pod);
    enroll_announce(cni->agent, pod);
    proxies_pod_add(cni->agent->proxies, pod);
    answer_pass(cni, true);
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
        answer_error(cni, error.reason, error.text);
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
        answer_error(cni, BRUMA_REASON_OUT_OF_RESOURCES, strerror(-r));
        return;
    }
    pod_look_at_netns(pod, *netns);
    if (pod->netns_unseen)
        log_warn(
            "the agent does not see a network namespace where the runtime has it; is its directory mounted? "
            "(cni.cniNetnsDir)\tpod=\"%s/%s\" netns=%s",
            pod->namespace, pod->name, pod->netns_path);
    if (pod->state == POD_LEAVING)
        enroll_reconcile(agent, pod);
    if (pod->state == POD_ENROLLED) {
        merge(cni, pod, q, netns);
        return;
    }
    if (pod->state == POD_ENROLLING || pod->state == POD_LEAVING) {
        answer_error(cni, BRUMA_REASON_AGENT_NOT_READY, "the pod is being enrolled or is leaving the mesh");
        return;
    }
    if (!enroll_wanted(agent, pod, &why)) {
        r = store_save(&agent->store, pod);
        if (r < 0) {
            answer_error(cni, BRUMA_REASON_INTERNAL, "the pod cannot be remembered");
            return;
        }
        guard_pass(agent, pod->cookie, pod->namespace, pod->name);
        enroll_announce(agent, pod);
        answer_pass(cni, false);
        return;
    }
    if (pod->netns_fd < 0)
        pod->netns_fd = fcntl(*netns, F_DUPFD_CLOEXEC, 3);
    if (pod->netns_fd < 0) {
        answer_error(cni, BRUMA_REASON_OUT_OF_RESOURCES, strerror(errno));
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
        answer_error(cni, BRUMA_REASON_AGENT_NOT_READY, source_not_ready(agent));
        return;
    }
    r = netns_check(*netns);
    if (r == 0)
        r = netns_cookie(*netns, &q->cookie);
    if (r < 0) {
        enum bruma_reason reason = reason_of_failure(BRUMA_REASON_NETNS_UNUSABLE, r);

        answer_error(cni, reason, reason_what(reason));
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

static void on_add(struct cni *cni, const cJSON *m, int *fds, size_t fds_len)
{
    struct add_request q;
    const char *wrong = parse_add(m, &q);

    if (!wrong && fds_len != 1)
        wrong = "cni-add: needs one descriptor, the network namespace";
    if (!wrong && (cni->pod || cni->waits))
        wrong = "cni-add: the one before has not ended";
    if (wrong) {
        answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, wrong);
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
    if (!cni->waits)
        cJSON_Delete(take_pointer(cni->kept));
}

static void on_attached(struct cni *cni)
{
    struct pod *pod = cni->pod;

    if (!pod) {
        answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "cni-attached: nothing is being enrolled");
        return;
    }
    enroll_attached(cni->agent, pod);
}

static void give_up(struct cni *cni, enum bruma_reason reason, const char *text)
{
    struct pod *pod = cni->pod;

    cni->pod = NULL;
    pod->done = NULL;
    enroll_abort(cni->agent, pod, reason, text);
}

static void on_failed(struct cni *cni, const cJSON *m)
{
    const char *name = "", *text = "the plugin could not attach";
    enum bruma_reason reason;

    if (message_text(m, "reason", 64, &name) == -EBADMSG ||
        message_text(m, "error", 4096, &text) == -EBADMSG || !cni->pod) {
        answer_error(cni, BRUMA_REASON_MESSAGE_INVALID,
                     cni->pod ? "cni-failed: reason or error is wrong"
                              : "cni-failed: nothing is being enrolled");
        return;
    }
    reason = reason_from_name(name);
    give_up(cni, reason == BRUMA_REASON_COUNT ? BRUMA_REASON_ATTACH_FAILED : reason, text);
    answer_done(cni);
}

static void on_del(struct cni *cni, const cJSON *m)
{
    const char *container, *ifname = "";
    struct pod *pod;

    if (message_name(m, "containerId", &container) < 0 ||
        message_text(m, "ifname", 15, &ifname) == -EBADMSG) {
        answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "cni-del: containerId or ifname is missing or wrong");
        return;
    }
    /* By container alone: the DEL of an old sandbox may come after the ADD of the pod's new one. */
    pod = pods_by_container(&cni->agent->pods, container);
    if (pod && pod_detach(pod, ifname))
        enroll_remove(cni->agent, pod, "CNI DEL");
    else if (pod)
        (void)store_save(&cni->agent->store, pod);
    answer_done(cni);
}

static void on_check(struct cni *cni, const cJSON *m)
{
    struct agent *agent = cni->agent;
    struct steer_error error = {0};
    const char *container, *why;
    struct pod *pod;

    if (message_name(m, "containerId", &container) < 0) {
        answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "cni-check: containerId is missing or wrong");
        return;
    }
    if (!source_ready(agent)) {
        answer_error(cni, BRUMA_REASON_AGENT_NOT_READY, source_not_ready(agent));
        return;
    }
    pod = pods_by_container(&agent->pods, container);
    if (!pod) {
        answer_error(cni, BRUMA_REASON_POD_REMOVED,
                     "the agent knows no such container: it was never added, or deleted");
        return;
    }
    if (pod->state == POD_ENROLLED && !pod->awaits_listeners) {
        if (watchdog_verify(agent, pod, false, &error) < 0) {
            answer_error(cni, error.reason, error.text);
            (void)watchdog_verify(agent, pod, true, &error);
            return;
        }
    } else if (pod->state != POD_ENROLLED && source_knows_pod(agent, pod) &&
               enroll_wanted(agent, pod, &why)) {
        answer_error(cni, pod->last_reason ? pod->last_reason : BRUMA_REASON_AGENT_NOT_READY,
                     *pod->last_error ? pod->last_error
                                      : "the pod belongs to the mesh and is not enrolled yet");
        return;
    }
    answer_done(cni);
}

static bool is_listed(const cJSON *attachments, const char *container, const char *ifname)
{
    const cJSON *a;

    cJSON_ArrayForEach (a, attachments) {
        const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(a, "containerID"));
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(a, "ifname"));

        if (id && name && !strcmp(id, container) && !strcmp(name, ifname))
            return true;
    }
    return false;
}

/* Forgets the runs of the pod for this network that are not listed. True if none is left at all. */
static bool collect(struct pod *pod, const char *network, const cJSON *attachments)
{
    struct attachment *a;

    list_for_each (a, &pod->attachments, node) {
        if (strcmp(a->network, network) || is_listed(attachments, pod->container_id, a->ifname))
            continue;
        if (pod_detach(pod, a->ifname))
            return true;
    }
    return false;
}

static void on_gc(struct cni *cni, const cJSON *m)
{
    const cJSON *attachments = cJSON_GetObjectItemCaseSensitive(m, "attachments");
    struct agent *agent = cni->agent;
    const char *network;
    struct pod *pod;

    if (message_text(m, "network", 255, &network) < 0 || !cJSON_IsArray(attachments)) {
        answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "cni-gc: network or attachments is missing or wrong");
        return;
    }
    list_for_each (pod, &agent->pods.list, node) {
        if (collect(pod, network, attachments))
            enroll_remove(agent, pod, "CNI GC");
        else
            (void)store_save(&agent->store, pod);
    }
    answer_done(cni);
}

static void on_status(struct cni *cni)
{
    if (source_ready(cni->agent))
        connection_send(cni->connection, message_new("done"), NULL, 0); /* every five seconds: not counted */
    else
        connection_send_error(cni->connection, BRUMA_REASON_AGENT_NOT_READY, source_not_ready(cni->agent));
}

static void on_message(struct connection *connection, const cJSON *m, int *fds, size_t fds_len)
{
    struct cni *cni = connection_data(connection);
    const char *op = message_op(m);

    cni->connection = connection;
    if (!strcmp(op, "cni-add"))
        on_add(cni, m, fds, fds_len);
    else if (!strcmp(op, "cni-attached"))
        on_attached(cni);
    else if (!strcmp(op, "cni-failed"))
        on_failed(cni, m);
    else if (!strcmp(op, "cni-del"))
        on_del(cni, m);
    else if (!strcmp(op, "cni-check"))
        on_check(cni, m);
    else if (!strcmp(op, "cni-gc"))
        on_gc(cni, m);
    else if (!strcmp(op, "cni-status"))
        on_status(cni);
    else
        answer_error(cni, BRUMA_REASON_MESSAGE_INVALID, "unknown op");
}

static void on_closed(struct connection *connection)
{
    struct cni *cni = connection_data(connection);

    if (cni->pod)
        give_up(cni, BRUMA_REASON_ATTACH_FAILED, "the plugin disconnected during enrollment");
    loop_timer_cancel(&cni->timer);
    source_wait_end(&cni->waiter);
    close_fds(&cni->netns_fd, 1);
    cJSON_Delete(cni->kept);
    free(cni);
}

const struct server_role cni_role = {.name = "plugin", .message = on_message, .closed = on_closed};
