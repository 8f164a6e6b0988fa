/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "direct"
#include "proxy/direct/inbound_answer.h"

#include <stdio.h>

#include "lib/log.h"
#include "proxy/proxy.h"
#include "proxy/route/policy.h"
#include "proxy/state/state.h"

struct inbound_answer {
    uint32_t ways;
    enum bruma_long_way why;
    char policy[192]; /* that made it; "": none alone has */
};

static void long_way(struct inbound_answer *a, enum bruma_long_way why)
{
    *a = (struct inbound_answer){.why = why};
}

static void of_policies(const struct state *state, const struct workload *workload, struct inbound_answer *a)
{
    static const struct {
        uint32_t ways;
        enum bruma_long_way why;
    } answers[] = {
        [POLICY_ANSWER_ALLOWED] = {BRUMA_DIRECT_PASS, BRUMA_LONG_WAY_NONE},
        [POLICY_ANSWER_DENIED] = {BRUMA_DIRECT_REFUSE, BRUMA_LONG_WAY_NONE},
        [POLICY_ANSWER_DEPENDS] = {0, BRUMA_LONG_WAY_POLICY_DEPENDS},
        [POLICY_ANSWER_MISSING] = {0, BRUMA_LONG_WAY_POLICY_MISSING},
        [POLICY_ANSWER_DRY_RUN] = {0, BRUMA_LONG_WAY_POLICY_DRY_RUN},
    };
    struct policy_anyone anyone;

    policy_check_anyone(state, workload, &anyone);
    *a = (struct inbound_answer){.ways = answers[anyone.answer].ways, .why = answers[anyone.answer].why};
    snprintf(a->policy, sizeof(a->policy), "%s", anyone.policy);
}

static void decide(const struct pod *pod, const struct workload *workload, const struct cutter *cutter,
                   struct inbound_answer *a)
{
    const struct proxy *proxy = pod->proxy;

    if (pod->redirected)
        long_way(a, BRUMA_LONG_WAY_SWITCHED_OFF); /* its capture is somebody else's */
    else if (pod->bypass_inbound)
        *a = (struct inbound_answer){.ways = BRUMA_DIRECT_BYPASS};
    else if (pod->direct_inbound == DIRECT_OFF)
        long_way(a, BRUMA_LONG_WAY_SWITCHED_OFF_FOR_POD);
    else if (pod->draining || pod->ending || proxy->draining)
        long_way(a, BRUMA_LONG_WAY_ENDING);
    else if (proxy->on_demand)
        long_way(a, BRUMA_LONG_WAY_ON_DEMAND);
    else if (!workload)
        long_way(a, BRUMA_LONG_WAY_WORKLOAD_UNKNOWN);
    else if (workload->application_tunnel_protocol)
        long_way(a, BRUMA_LONG_WAY_PROXY_HEADER);
    else
        of_policies(proxy->state, workload, a);
    if (a->ways & BRUMA_DIRECT_PASS && !cutter)
        long_way(a, BRUMA_LONG_WAY_NO_KERNEL);
}

static const char *way_text(uint32_t ways)
{
    if (ways & BRUMA_DIRECT_BYPASS)
        return "bypass";
    return ways & BRUMA_DIRECT_PASS ? "pass" : ways & BRUMA_DIRECT_REFUSE ? "refuse" : "ask the proxy";
}

static const char *why_text(enum bruma_long_way why)
{
    static const char *const names[] = {
#define NAME(id, name, what) #name,
        BRUMA_LONG_WAYS(NAME)
#undef NAME
    };

    return names[why];
}

/* A workload that is gone is kept: what was passed to it is judged by it, as the proxy's own connections. */
static void remember(struct pod_inbound *inbound, const struct workload *workload)
{
    if (!workload || workload == inbound->workload)
        return;
    workload_ref(workload);
    workload_unref(inbound->workload);
    inbound->workload = workload;
}

bool direct_inbound_fill(struct pod *pod, const struct cutter *cutter, bool changing,
                         struct bruma_direct_pod *entry)
{
    struct pod_inbound *inbound = &pod->inbound;
    const struct workload *workload;
    struct inbound_answer a;
    bool changed;

    if (changing) {
        entry->ways |= inbound->ways & BRUMA_DIRECT_REFUSE;
        entry->inbound_why =
            inbound->ways & BRUMA_DIRECT_PASS ? BRUMA_LONG_WAY_POLICY_CHANGING : inbound->why;
        entry->inbound_changes = inbound->changes;
        return false;
    }
    workload = state_local_workload(pod->proxy->state, pod->namespace, pod->name, pod->service_account);
    remember(inbound, workload);
    decide(pod, workload, cutter, &a);
    changed = !inbound->answered || inbound->ways != a.ways;
    if (changed)
        inbound->changes += 1 + (inbound->changes == UINT32_MAX); /* 0 is of no answer */
    if (changed || inbound->why != a.why)
        log_info("plaintext to a pod, as the kernel is told\tpod=\"%s/%s\" answer=\"%s\" why=%s%s%s",
                 pod->namespace, pod->name, way_text(a.ways), why_text(a.why), *a.policy ? " policy=" : "",
                 a.policy);
    inbound->ways = a.ways;
    inbound->why = a.why;
    inbound->answered = true;
    entry->ways |= a.ways;
    entry->inbound_why = a.why;
    entry->inbound_changes = inbound->changes;
    return changed;
}

static void judge(struct pod *pod, struct cutter *cutter)
{
    char name[BRUMA_POD_NAME_LEN];
    const struct cutter_pod about = {
        .cookie = pod->cookie, .netns_fd = pod->fds[BRUMA_POD_FD_NETNS], .name = name};
    int r;

    snprintf(name, sizeof(name), "%s/%s", pod->namespace, pod->name);
    r = cutter_judge(cutter, &about, pod->inbound.workload);
    if (r < 0)
        log_error_errno(r, "direct connections of pod %s cannot be judged", name);
}

void direct_inbound_written(struct pod *pod, struct cutter *cutter)
{
    if (!cutter)
        return;
    /* A pod that leaves the mesh is captured for a moment still; what is not is no more the mesh's to end. */
    if (pod->draining || (pod->inbound.ways & (BRUMA_DIRECT_PASS | BRUMA_DIRECT_BYPASS)))
        cutter_allow(cutter, pod->cookie, BRUMA_DIRECT_PASS);
    else if (pod->inbound.workload)
        judge(pod, cutter);
}
