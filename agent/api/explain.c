/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "agent/api/ctl_finding.h"
#include "agent/api/direct_ways.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/forwards.h"
#include "agent/enroll/same_node.h"
#include "agent/enroll/source.h"
#include "agent/steer/exclusions.h"
#include "lib/reasons.h"

static void explain_labels(struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    const char *why;

    if (!source_knows_pod(agent, pod)) {
        ctl_finding(c, "labels", false, BRUMA_REASON_AGENT_NOT_READY, "%s, so this is unknown",
                    source_ready(agent) ? "the agent does not know the pod" : source_not_ready(agent));
        return;
    }
    bool wanted = enroll_wanted(agent, pod, &why);

    ctl_finding(c, "labels", true, BRUMA_REASON_NONE, "it %s: %s",
                wanted ? "belongs to the mesh" : "stays outside the mesh", why);
}

static void explain_state(struct ctl_answer *c, const struct pod *pod)
{
    static const char *const words[POD_STATE_COUNT] = {
        [POD_OUTSIDE] = "not in the mesh; not captured",
        [POD_ENROLLING] = "being enrolled",
        [POD_ENROLLED] = "in the mesh",
        [POD_LEAVING] = "leaving the mesh: outbound is no longer captured, inbound still is",
        [POD_DRAINING] = "has left the mesh; earlier connections may finish",
    };

    ctl_finding(c, "state", true, BRUMA_REASON_NONE, "%s", words[pod->enrollment->state]);
    if (pod->enrollment->ending_at)
        ctl_finding(c, "ending", true, BRUMA_REASON_NONE,
                    "told to end %lld seconds ago: peers are asked to go elsewhere, and it is served until "
                    "it is gone",
                    (long long)(time(NULL) - pod->enrollment->ending_at));
    if (pod->enrollment->last_reason)
        ctl_finding(c, "last failure", false, pod->enrollment->last_reason, "%s",
                    pod->enrollment->last_error);
}

static void explain_capture(struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    static const char *const names[] = {"outbound", "inbound", "hbone"};
    uint64_t slots[BRUMA_LISTENER_COUNT] = {0};
    bool attached = steer_pod_attached(agent->steer, pod->cookie, pod->netns_fd);
    bool away = proxies_open_listeners(agent->proxies) && !proxies_serving(agent->proxies);
    enum bruma_reason empty = away ? BRUMA_REASON_PROXY_AWAY : BRUMA_REASON_LISTENER_MISSING;
    struct steer_findings findings = {0};
    struct steer_pod p;

    ctl_finding(c, "link", attached, attached ? BRUMA_REASON_NONE : BRUMA_REASON_LINK_DETACHED,
                "the pinned link %s attached to the pod's network namespace", attached ? "is" : "is not");
    (void)steer_pod_pinned_listeners(agent->steer, pod->cookie, slots);
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        ctl_finding(c, "listener", slots[i] != 0, slots[i] ? BRUMA_REASON_NONE : empty, "%s: %s", names[i],
                    slots[i] ? "a listener is registered" : "the slot is empty");
    if (pod->enrollment->awaits_listeners)
        ctl_finding(c, "listeners held", false, BRUMA_REASON_PROXY_NOT_CONNECTED,
                    "after its restart the agent waits for a proxy to give the listeners back");
    if (pod->enrollment->state != POD_ENROLLED || pod->enrollment->awaits_listeners)
        return;
    enroll_describe(agent, pod, &p);
    if (steer_pod_verify(agent->steer, &p, &findings) < 0)
        ctl_finding(c, "verified", false, BRUMA_REASON_CAPTURE_UNVERIFIED, "the capture cannot be verified");
    else if (!findings.len)
        ctl_finding(c, "verified", true, BRUMA_REASON_NONE,
                    "rules, routes, sysctls, listeners and map entry are as they should be");
    for (int i = 0; i < findings.len; i++)
        ctl_finding(c, "verified", false,
                    away && findings.reasons[i] == BRUMA_REASON_LISTENER_CLOSED ? empty : findings.reasons[i],
                    "%s", reason_what(findings.reasons[i]));
}

static void explain_same_node(const struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    enum steer_node_refusal refusal = same_node_refusal(agent, pod);

    if (agent->node_refusal != STEER_NODE_OFF)
        ctl_finding(c, "same node", true, BRUMA_REASON_NONE, "connections to other pods of the node %s%s %s",
                    refusal ? "go through the proxy: " : "may stay in the kernel",
                    refusal ? steer_node_what(refusal) : "", steer_node_advice(refusal));
}

static void explain_announced(struct ctl_answer *c, const struct pod *pod)
{
    if (pod->enrollment->state == POD_ENROLLED && *forwards_by(pod))
        ctl_finding(
            c, "announced", false, BRUMA_REASON_POD_FORWARDS,
            "%s: traffic from behind it is not captured, so the pod is not announced as part of the mesh",
            forwards_by(pod));
}

static void explain_outbound_policy(struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    const char *why;
    enum outbound_policy policy = source_outbound_policy(agent, pod, &why);

    if (policy == OUTBOUND_REGISTRY_ONLY && proxies_open_listeners(agent->proxies))
        ctl_finding(c, "outbound policy", false, BRUMA_REASON_NONE,
                    "REGISTRY_ONLY by %s, which ztunnel does not know: nothing is refused", why);
    else
        ctl_finding(c, "outbound policy", true, BRUMA_REASON_NONE, "%s%s%s", outbound_policy_name(policy),
                    policy == OUTBOUND_UNSAID ? "" : " by ", why);
}

static const char *exclusion_word(enum bruma_exclusion exclusion)
{
    return exclusion == BRUMA_EXCLUDED ? "not " : exclusion == BRUMA_NOT_INCLUDED ? "others not " : "";
}

/* The rules as they are in force, at most as many as fit. */
static void explain_exclusions(struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    const struct steer_exclusions *e = pod->enrollment->exclusions;
    struct bruma_exclusion_counters n = {0};
    char text[900], range[ADDR_TEXT_LEN + 4];
    size_t len = 0;

    if (pod->enrollment->exclusions_reason)
        ctl_finding(c, "exclusions", false, pod->enrollment->exclusions_reason,
                    "what the annotations exclude could not be written");
    if (!e)
        return;
    text[0] = '\0';
    for (size_t i = 0; i < e->ranges_len && len < sizeof(text); i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "to %s %scaptured, ",
                                cidr_format(&e->ranges[i].cidr, range, sizeof(range)),
                                exclusion_word(e->ranges[i].exclusion));
    for (size_t i = 0; i < e->ports_len && len < sizeof(text); i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s port %u %scaptured, ",
                                e->ports[i].inbound ? "at" : "to", e->ports[i].port,
                                exclusion_word(e->ports[i].exclusion));
    (void)steer_exclusion_counters(agent->steer, pod->cookie, &n);
    ctl_finding(c, "exclusions", true, BRUMA_REASON_NONE, "%s%llu connections and %llu lookups left alone",
                text, (unsigned long long)n.outbound_excluded_connections,
                (unsigned long long)n.inbound_excluded_lookups);
}

static void explain_since(struct ctl_answer *c, const struct pod *pod)
{
    if (pod->enrollment->captured_since_start)
        ctl_finding(c, "since start", true, BRUMA_REASON_NONE, "captured before its first process ran");
    else
        ctl_finding(c, "since start", true, BRUMA_REASON_NONE,
                    "enrolled while it was running: earlier connections continue outside the mesh");
    for (int i = 0; i < BRUMA_REASON_COUNT; i++) {
        if (pod->health->repairs[i])
            ctl_finding(c, "repaired", true, (enum bruma_reason)i, "%u times: %s", pod->health->repairs[i],
                        reason_what((enum bruma_reason)i));
    }
}

static void explain_proxy(struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    const char *state = proxies_pod_state(agent->proxies, pod);
    bool ok = !strcmp(state, "serving");

    ctl_finding(c, "proxy", ok,
                strcmp(state, "not_connected") != 0      ? BRUMA_REASON_NONE
                : proxies_open_listeners(agent->proxies) ? BRUMA_REASON_PROXY_AWAY
                                                         : BRUMA_REASON_PROXY_NOT_CONNECTED,
                "the pod's state in the proxy: %s", state);
}

/* The counters of the pod that begin with "outbound", or the others: "3 inbound hbone lookups, ...". */
static void counters_text(char *text, size_t size, const struct bruma_pod_counters *n, bool outbound)
{
    size_t len = 0;

    text[0] = '\0';
#define COUNTER(name, what)                                                               \
    if (outbound == !strncmp(#name, "outbound_", strlen("outbound_")) && len < size)      \
        len += (size_t)snprintf(text + len, size - len, "%s%llu " #name, len ? ", " : "", \
                                (unsigned long long)n->name);
    BRUMA_POD_COUNTERS(COUNTER)
#undef COUNTER
    for (; *text; text++)
        *text = *text == '_' ? ' ' : *text;
}

static void explain_counters(struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    struct bruma_pod_counters n;
    char text[512];

    if (steer_pod_counters(agent->steer, pod->cookie, &n) < 0)
        return;
    counters_text(text, sizeof(text), &n, true);
    ctl_finding(c, "outbound", n.outbound_denied_connections == 0, BRUMA_REASON_NONE, "%s", text);
    counters_text(text, sizeof(text), &n, false);
    ctl_finding(c, "inbound", n.dropped_lookups == 0, BRUMA_REASON_NONE, "%s", text);
}

void explain_run(struct agent *agent, struct ctl_answer *answer, const char *namespace, const char *name,
                 const struct endpoint *to)
{
    struct pod *pod = pods_by_name(&agent->pods, namespace, name);

    if (to) {
        if (pod)
            direct_ways_explain_to(agent, answer, pod, to);
        return;
    }
    if (!pod) {
        ctl_finding(
            answer, "known", false, BRUMA_REASON_NONE,
            "no CNI ADD has named %s/%s on this node: does it run here, and is bruma-cni in the chain?",
            namespace, name);
        return;
    }
    ctl_finding(answer, "known", true, BRUMA_REASON_NONE, "uid %s, network namespace %s (cookie %" PRIu64 ")",
                pod->uid, pod->netns_path, pod->cookie);
    explain_labels(agent, answer, pod);
    explain_state(answer, pod);
    if (pod->enrollment->state == POD_OUTSIDE)
        return;
    if (pod->enrollment->state != POD_DRAINING)
        explain_capture(agent, answer, pod);
    explain_announced(answer, pod);
    explain_same_node(agent, answer, pod);
    explain_outbound_policy(agent, answer, pod);
    explain_exclusions(agent, answer, pod);
    direct_ways_explain(agent, answer, pod);
    explain_since(answer, pod);
    explain_proxy(agent, answer, pod);
    explain_counters(agent, answer, pod);
}
