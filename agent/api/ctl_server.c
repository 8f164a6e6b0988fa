/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/ctl_server.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "agent/api/ctl_finding.h"
#include "agent/api/direct_ways.h"
#include "agent/enroll/dns_capture.h"
#include "agent/enroll/ending.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/forwards.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/same_node.h"
#include "agent/enroll/source.h"
#include "agent/install/install.h"
#include "agent/kubernetes/kubelet.h"
#include "agent/steer/direct.h"
#include "agent/steer/exclusions.h"
#include "lib/device_mtu.h"
#include "lib/log_output.h"
#include "lib/long_ways.h"
#include "lib/message.h"
#include "lib/reasons.h"
#include "lib/spiffe.h"
#include "lib/tls_policy.h"

#define LOG_SCOPE "ctl"
#include "lib/log.h"

#define PROBLEMS_MAX 32 /* in one message; `brumactl pods` names them all */
#define NAMES_SIZE   (2 * MESSAGE_NAME_MAX + 2)

static void add_repairs(cJSON *item, const uint32_t repairs[BRUMA_REASON_COUNT])
{
    cJSON *object = cJSON_AddObjectToObject(item, "mends");

    for (int i = 0; i < BRUMA_REASON_COUNT; i++) {
        if (repairs[i])
            cJSON_AddNumberToObject(object, reason_name((enum bruma_reason)i), repairs[i]);
    }
}

static void add_failures(const struct agent *agent, cJSON *item)
{
    cJSON *object = cJSON_AddObjectToObject(item, "failures");
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    for (int i = 1; i < BRUMA_REASON_COUNT; i++) {
        struct bruma_failure_count f;
        cJSON *entry;

        if (steer_failure_count(agent->steer, (enum bruma_reason)i, &f) < 0 || !f.count)
            continue;
        entry = cJSON_AddObjectToObject(object, reason_name((enum bruma_reason)i));
        cJSON_AddNumberToObject(entry, "count", (double)f.count);
        cJSON_AddNumberToObject(entry, "lastSeenSecondsAgo", (double)steer_failure_age(&f, &now));
    }
}

static void add_problem(cJSON *array, enum bruma_reason reason, const char *detail)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "reason", reason_name(reason));
    cJSON_AddStringToObject(o, "what", reason_what(reason));
    cJSON_AddStringToObject(o, "check", reason_check(reason));
    cJSON_AddStringToObject(o, "detail", detail);
    cJSON_AddItemToArray(array, o);
}

static void add_problems(const struct agent *agent, cJSON *item)
{
    cJSON *array = cJSON_AddArrayToObject(item, "problems");
    enum bruma_reason reason;
    const struct pod *pod;
    const char *text;
    char detail[600];

    if (!source_ready(agent))
        add_problem(array, BRUMA_REASON_AGENT_NOT_READY, source_not_ready(agent));
    if (agent->cgroup_reason)
        add_problem(array, agent->cgroup_reason, agent->cgroup_error);
    reason = guard_failure(agent->guard, &text);
    if (reason)
        add_problem(array, reason, text);
    reason = kubelet_failure(agent->kubelet, &text);
    if (reason)
        add_problem(array, reason, text);
    if (!proxies_serving(agent->proxies))
        add_problem(array, BRUMA_REASON_PROXY_NOT_CONNECTED,
                    proxies_open_listeners(agent->proxies)
                        ? "new connections of enrolled pods are dropped, and no pod is enrolled"
                        : "new connections of enrolled pods wait");
    list_for_each (pod, &agent->pods.list, node) {
        if (!pod->enrollment->last_reason || cJSON_GetArraySize(array) >= PROBLEMS_MAX)
            continue;
        snprintf(detail, sizeof(detail), "%.120s/%.120s: %s", pod->namespace, pod->name,
                 pod->enrollment->last_error);
        add_problem(array, pod->enrollment->last_reason, detail);
    }
}

/* What the source has reported of itself. */
static void add_source_problems(cJSON *item)
{
    cJSON *array = cJSON_GetObjectItemCaseSensitive(item, "problems");
    const char *error = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "sourceError"));
    const char *install = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "cniReason"));
    const char *file = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "meshError"));
    const cJSON *lost = cJSON_GetObjectItemCaseSensitive(item, "podsNotFound"), *pod;

    if (error && *error)
        add_problem(array, BRUMA_REASON_API_UNREACHABLE, error);
    if (file && *file)
        add_problem(array, BRUMA_REASON_MESH_FILE_INVALID, file);
    if (install && *install)
        add_problem(array, reason_from_name(install),
                    cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "cniError")));
    cJSON_ArrayForEach (pod, lost) {
        if (cJSON_GetArraySize(array) < PROBLEMS_MAX)
            add_problem(array, BRUMA_REASON_NETNS_NOT_FOUND, cJSON_GetStringValue(pod));
    }
}

/* For who compares the clocks of nodes. */
static void add_clock(cJSON *item)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    cJSON_AddNumberToObject(item, "now", (double)now.tv_sec + (double)now.tv_nsec / 1e9);
}

static void status(struct agent *agent, struct ctl_answer *answer)
{
    char device[DEVICE_NAME_LEN];
    const struct agent_settings *c = agent->settings;
    cJSON *item = message_new("item"), *pods = cJSON_AddObjectToObject(item, "pods");

    cJSON_AddStringToObject(item, "version", BRUMA_VERSION);
    cJSON_AddStringToObject(item, "compliance", tls_policy_text());
    cJSON_AddNumberToObject(item, "pid", getpid());
    cJSON_AddStringToObject(item, "node", c->node);
    add_clock(item);
    cJSON_AddNumberToObject(item, "mtu", device_mtu(device));
    cJSON_AddNumberToObject(item, "startedAt", (double)agent->started_at);
    cJSON_AddStringToObject(item, "runDir", c->run_dir);
    cJSON_AddStringToObject(item, "pinDir", c->pin_dir);
    cJSON_AddStringToObject(item, "cgroup", c->cgroup);
    kubelet_report(agent->kubelet, item);
    cJSON_AddStringToObject(item, "cgroupHooks",
                            agent->cgroup_reason ? reason_name(agent->cgroup_reason) : "attached");
    cJSON_AddStringToObject(item, "trustDomain", c->trust_domain);
    for (int i = 0; i < POD_STATE_COUNT; i++)
        cJSON_AddNumberToObject(pods, pod_state_name((enum pod_state)i),
                                enroll_count(&agent->pods, (enum pod_state)i));
    cJSON_AddBoolToObject(item, "proxyConnected", proxies_serving(agent->proxies));
    cJSON_AddStringToObject(item, "proxyKind", proxies_kind(agent->proxies));
    cJSON_AddItemToObject(item, "proxies", proxies_report(agent->proxies));
    add_repairs(item, agent->repairs);
    add_failures(agent, item);
    cJSON_AddNumberToObject(item, "verifyIntervalMilliseconds", (double)c->verify_interval);
    cJSON_AddNumberToObject(item, "verifyRounds", (double)agent->verify_rounds);
    source_report(agent, item);
    install_report(agent->install, item);
    guard_report(agent, item);
    cJSON_AddNumberToObject(item, "logDroppedLines", (double)log_output_dropped());
    cJSON_AddNumberToObject(item, "capturedLate", (double)agent->captured_late);
    add_problems(agent, item);
    add_source_problems(item);
    ctl_answer_item(answer, item);
}

/* Those that have happened, by reason. */
static void add_long_ways(cJSON *item, const char *key, const __u64 counts[32])
{
    cJSON *o = cJSON_AddObjectToObject(item, key);

    for (uint32_t why = 0; why < BRUMA_LONG_WAY_COUNT; why++) {
        if (counts[why])
            cJSON_AddNumberToObject(o, long_way_name(why), (double)counts[why]);
    }
}

static void add_counters(const struct agent *agent, const struct pod *pod, cJSON *item)
{
    struct bruma_exclusion_counters excluded = {0};
    struct bruma_direct_counters direct = {0};
    struct bruma_pod_counters c;
    cJSON *o;

    if (pod->enrollment->state == POD_OUTSIDE || steer_pod_counters(agent->steer, pod->cookie, &c) < 0)
        return;
    o = cJSON_AddObjectToObject(item, "counters");
#define COUNTER(name, what) cJSON_AddNumberToObject(o, #name, (double)c.name);
    BRUMA_POD_COUNTERS(COUNTER)
#undef COUNTER
    (void)steer_exclusion_counters(agent->steer, pod->cookie, &excluded);
#define COUNTER(name, what) cJSON_AddNumberToObject(o, #name, (double)excluded.name);
    BRUMA_EXCLUSION_COUNTERS(COUNTER)
#undef COUNTER
    (void)steer_direct_counters(agent->steer, pod->cookie, &direct);
#define COUNTER(name, what) cJSON_AddNumberToObject(o, #name, (double)direct.name);
    BRUMA_DIRECT_COUNTERS(COUNTER)
#undef COUNTER
    add_long_ways(item, "outboundLongWay", direct.outside_long_way);
    add_long_ways(item, "inboundLongWay", direct.inbound_long_way);
}

static void add_attachments(const struct pod *pod, cJSON *item)
{
    cJSON *array = cJSON_AddArrayToObject(item, "attachments");
    const struct attachment *a;

    list_for_each (a, &pod->attachments, node) {
        cJSON *run = cJSON_CreateObject();

        cJSON_AddStringToObject(run, "network", a->network);
        cJSON_AddStringToObject(run, "ifname", a->ifname);
        cJSON_AddItemToArray(array, run);
    }
}

/* What stands between the pod and a whole capture just now. */
static void add_unrepaired(const struct pod *pod, cJSON *item)
{
    cJSON *array = cJSON_AddArrayToObject(item, "unmended");
    bool enrolled = pod->enrollment->state == POD_ENROLLED;

    cJSON_AddBoolToObject(item, "verified",
                          enrolled && pod->health->verified_at && !pod->health->unrepaired.len);
    for (int i = 0; enrolled && i < pod->health->unrepaired.len; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(reason_name(pod->health->unrepaired.reasons[i])));
    cJSON_AddNumberToObject(item, "failedMends", enrolled ? pod->health->failed_repairs : 0);
}

static cJSON *pod_item(struct agent *agent, const struct pod *pod)
{
    const char *why = source_ready(agent) ? "the agent does not know the pod yet" : source_not_ready(agent);
    bool known = source_knows_pod(agent, pod), wanted = known && enroll_wanted(agent, pod, &why);
    char account[MESSAGE_NAME_MAX + 1], identity[SPIFFE_MAX] = "";
    cJSON *item = message_new("item");

    cJSON_AddStringToObject(item, "uid", pod->uid);
    cJSON_AddStringToObject(item, "namespace", pod->namespace);
    cJSON_AddStringToObject(item, "name", pod->name);
    cJSON_AddStringToObject(item, "containerId", pod->container_id);
    cJSON_AddStringToObject(item, "netns", pod->netns_path);
    message_add_u64(item, "cookie", pod->cookie);
    message_add_addresses(item, "ips", pod->addresses, pod->addresses_len);
    add_attachments(pod, item);
    cJSON_AddStringToObject(item, "state", pod_state_name(pod->enrollment->state));
    cJSON_AddBoolToObject(item, "wanted", wanted);
    cJSON_AddStringToObject(item, "why", why);
    if (known && source_service_account(agent, pod, account, sizeof(account)) == 0) {
        cJSON_AddStringToObject(item, "serviceAccount", account);
        if (spiffe_format(identity, sizeof(identity), agent->settings->trust_domain, pod->namespace,
                          account) > 0)
            cJSON_AddStringToObject(item, "identity", identity);
    }
    cJSON_AddNumberToObject(item, "generation", pod->enrollment->generation);
    cJSON_AddBoolToObject(item, "capturedSinceStart",
                          pod->enrollment->state == POD_ENROLLED && pod->enrollment->captured_since_start);
    cJSON_AddNumberToObject(item, "addedAt", (double)pod->added_at);
    cJSON_AddNumberToObject(item, "enrolledAt", (double)pod->enrollment->enrolled_at);
    cJSON_AddNumberToObject(item, "verifiedAt", (double)pod->health->verified_at);
    add_unrepaired(pod, item);
    cJSON_AddBoolToObject(item, "announced", forwards_announced(pod));
    cJSON_AddStringToObject(item, "sameNode", same_node_text(agent, pod));
    cJSON_AddStringToObject(item, "forwards", forwards_by(pod));
    cJSON_AddNumberToObject(item, "enrolMicroseconds", (double)pod->enrollment->took_microseconds);
    cJSON_AddStringToObject(
        item, "proxy", pod->enrollment->state == POD_OUTSIDE ? "-" : proxies_pod_state(agent->proxies, pod));
    cJSON_AddNumberToObject(item, "endingAt", (double)pod->enrollment->ending_at);
    add_repairs(item, pod->health->repairs);
    cJSON_AddStringToObject(item, "dnsCapture", dns_capture_text(agent, pod));
    cJSON_AddStringToObject(item, "lastReason", reason_name(pod->enrollment->last_reason));
    cJSON_AddStringToObject(item, "lastError", pod->enrollment->last_error);
    direct_ways_report(agent, pod, item);
    add_counters(agent, pod, item);
    return item;
}

/* The pod's namespace and name, in buf. False, and answered, if the message names none. */
static bool names_of(struct ctl_answer *answer, const cJSON *message, char *buf, size_t size,
                     const char **ret_name)
{
    const char *pod, *slash;

    if (message_text(message, "pod", size - 1, &pod) < 0 || !(slash = strchr(pod, '/'))) {
        ctl_answer_error(answer, BRUMA_REASON_MESSAGE_INVALID, "pod must be \"namespace/name\"");
        return false;
    }
    snprintf(buf, size, "%s", pod);
    buf[slash - pod] = '\0';
    *ret_name = buf + (slash - pod) + 1;
    return true;
}

/* False: answered with an error. */
static bool explain(struct agent *agent, struct ctl_answer *answer, const cJSON *message)
{
    char text[NAMES_SIZE];
    const char *name, *to;
    struct endpoint endpoint;
    int r = message_text(message, "to", ENDPOINT_TEXT_LEN, &to);

    if (!names_of(answer, message, text, sizeof(text), &name))
        return false;
    if (r != -ENOENT && (r < 0 || endpoint_parse(to, &endpoint) < 0)) {
        ctl_answer_error(answer, BRUMA_REASON_MESSAGE_INVALID, "to must be \"IP:PORT\"");
        return false;
    }
    explain_run(agent, answer, text, name, r < 0 ? NULL : &endpoint);
    return true;
}

/* False: answered with an error. */
static bool end_pod(struct agent *agent, struct ctl_answer *answer, const cJSON *message)
{
    char text[NAMES_SIZE];
    const char *name;
    struct pod *pod;

    if (!names_of(answer, message, text, sizeof(text), &name))
        return false;
    pod = pods_by_name(&agent->pods, text, name);
    if (source_tells_endings(agent))
        ctl_answer_error(answer, BRUMA_REASON_MESSAGE_INVALID,
                         "the API server says which pods end; delete the pod there");
    else if (!pod || pod->enrollment->state == POD_OUTSIDE)
        ctl_answer_error(answer, BRUMA_REASON_MESSAGE_INVALID, "no pod of the mesh has that name here");
    else {
        ending_set(agent, pod, true, "brumactl end");
        return true;
    }
    return false;
}

bool ctl_serve(struct agent *agent, struct ctl_answer *answer, const cJSON *message)
{
    const char *op = message_op(message);
    const struct pod *pod;

    if (!strcmp(op, "status")) {
        status(agent, answer);
    } else if (!strcmp(op, "pods")) {
        list_for_each (pod, &agent->pods.list, node)
            ctl_answer_item(answer, pod_item(agent, pod));
    } else if (!strcmp(op, "explain")) {
        return explain(agent, answer, message);
    } else if (!strcmp(op, "pod-end")) {
        return end_pod(agent, answer, message);
    } else if (!strcmp(op, "doctor")) {
        doctor_run(agent, answer);
    } else {
        ctl_answer_error(answer, BRUMA_REASON_MESSAGE_INVALID, "unknown op");
        return false;
    }
    return true;
}

static void on_message(struct local_connection *connection, const cJSON *message, int *fds, size_t fds_len)
{
    struct ctl_answer answer = {.connection = connection};

    (void)fds;
    (void)fds_len;
    if (ctl_serve(connection_data(connection), &answer, message))
        connection_send(connection, message_new("end"), NULL, 0);
}

const struct server_role ctl_role = {.name = "brumactl", .message = on_message};
