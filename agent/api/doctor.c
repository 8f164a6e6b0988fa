/* SPDX-License-Identifier: Apache-2.0 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "agent/api/ctl_finding.h"
#include "agent/api/direct_ways.h"
#include "agent/api/host_checks.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/same_node.h"
#include "agent/enroll/source.h"
#include "agent/kubernetes/kubelet.h"
#include "lib/cleanup.h"
#include "lib/reasons.h"

#define FAILURE_RECENT 600 /* seconds, in which a failure of steering is one to look into */

static void check_filesystems(const struct agent *agent, struct ctl_answer *c)
{
    struct statfs st;
    bool ok = statfs(agent->settings->cgroup, &st) == 0 && st.f_type == CGROUP2_SUPER_MAGIC;

    ctl_finding(c, "cgroup", ok, ok ? BRUMA_REASON_NONE : BRUMA_REASON_CGROUP_LINK_DETACHED, "%s %s",
                agent->settings->cgroup, ok ? "is a cgroup2 directory" : "is not a cgroup2 directory");
    ok = statfs(agent->settings->pin_dir, &st) == 0 && st.f_type == BPF_FS_MAGIC;
    ctl_finding(c, "pins", ok, ok ? BRUMA_REASON_NONE : BRUMA_REASON_MAP_UPDATE_FAILED, "%s %s",
                agent->settings->pin_dir, ok ? "is in a BPF file system" : "is not in a BPF file system");
}

static const char *hook_words(enum steer_hook_state state)
{
    switch (state) {
    case STEER_HOOK_ATTACHED:
        return "attached to";
    case STEER_HOOK_MISSING:
        return "not attached to";
    case STEER_HOOK_UNKNOWN:
        return "unknown whether it is attached to";
    case STEER_HOOK_FOREGONE:
        return "could not be attached (see the log); the agent runs without it at";
    case STEER_HOOK_NO_KERNEL:
        return "this kernel cannot run it; the agent runs without it";
    }
    return "";
}

/* Each of ours by its name. */
static int check_own_hooks(const struct agent *agent, struct ctl_answer *c,
                           struct steer_hook own[STEER_HOOKS])
{
    int n = agent->cgroup_reason ? 0 : steer_cgroup_hooks(agent->steer, own);

    ctl_finding(c, "connect hooks", !agent->cgroup_reason, agent->cgroup_reason, "%s",
                agent->cgroup_reason ? agent->cgroup_error : "attached");
    for (int i = 0; i < n; i++) {
        bool ok = own[i].state != STEER_HOOK_MISSING && own[i].state != STEER_HOOK_UNKNOWN;

        ctl_finding(c, "hook", ok, ok ? BRUMA_REASON_NONE : BRUMA_REASON_CGROUP_LINK_DETACHED, "%s: %s%s%s",
                    own[i].name, hook_words(own[i].state), own[i].cgroup ? " " : "",
                    own[i].cgroup ? own[i].cgroup : "");
    }
    return n;
}

/* What else runs there: the programs of one kind, in the order they run. */
static void check_hooks(const struct agent *agent, struct ctl_answer *c)
{
    _cleanup_fd_ int fd = open(agent->settings->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct steer_hook own[STEER_HOOKS];
    int own_len = check_own_hooks(agent, c, own);
    char programs[600];

    for (size_t i = 0; fd >= 0 && i < HOST_HOOKS; i++) {
        int others = 0, n = host_programs(fd, host_hooks[i].type, BPF_F_QUERY_EFFECTIVE, own, own_len,
                                          programs, sizeof(programs), &others);

        if (n < 0)
            ctl_finding(c, "programs on the hook", false, BRUMA_REASON_NONE, "%s: cannot be listed: %s",
                        host_hooks[i].name, strerror(-n));
        else
            /* the last two may be done without, which is said above */
            ctl_finding(c, "programs on the hook",
                        n > others || host_hooks[i].type == BPF_CGROUP_SOCK_OPS ||
                            host_hooks[i].type == BPF_CGROUP_INET_SOCK_RELEASE,
                        n > others ? BRUMA_REASON_NONE : BRUMA_REASON_CGROUP_LINK_DETACHED,
                        "%s, in the order they run: %s%s", host_hooks[i].name, n ? programs : "none",
                        others ? " (not only Bruma's: do others rewrite addresses before it?)" : "");
    }
}

/* Only those that break a rule are named one by one. */
static void check_pods(const struct agent *agent, struct ctl_answer *c)
{
    _cleanup_free_ uint64_t *pinned = NULL;
    int n = steer_pods_pinned(agent->steer, &pinned), enrolled = enroll_count(&agent->pods, POD_ENROLLED);
    const struct pod *pod;
    char programs[600];
    int others = 0;

    for (int i = 0; i < n; i++) {
        pod = pods_by_cookie(&agent->pods, pinned[i]);
        if (!pod || pod->enrollment->state == POD_OUTSIDE)
            ctl_finding(c, "pins", false, BRUMA_REASON_NONE,
                        "network namespace cookie %llu is pinned and no pod of this agent has it",
                        (unsigned long long)pinned[i]);
    }
    list_for_each (pod, &agent->pods.list, node) {
        if (pod->netns_fd >= 0 &&
            host_programs(pod->netns_fd, BPF_SK_LOOKUP, 0, NULL, 0, programs, sizeof(programs), &others) > 1)
            ctl_finding(c, "programs in a pod", false, BRUMA_REASON_NONE,
                        "%s/%s has more than one sk_lookup program: %s", pod->namespace, pod->name, programs);
        if (pod->enrollment->last_reason)
            ctl_finding(c, "pod", false, pod->enrollment->last_reason, "%s/%s: %s", pod->namespace, pod->name,
                        pod->enrollment->last_error);
    }
    ctl_finding(c, "pods", true, BRUMA_REASON_NONE, "%d in the mesh, %d outside", enrolled,
                enroll_count(&agent->pods, POD_OUTSIDE));
}

/* It was asked for, so what it does not work for is told. */
static void check_same_node(const struct agent *agent, struct ctl_answer *c)
{
    const struct pod *pod;
    int able = 0;

    if (agent->node_refusal == STEER_NODE_OFF)
        return;
    if (agent->node_refusal) {
        ctl_finding(c, "same node", false, BRUMA_REASON_NONE, "not in the kernel: %s. %s",
                    steer_node_what(agent->node_refusal), steer_node_advice(agent->node_refusal));
        return;
    }
    list_for_each (pod, &agent->pods.list, node) {
        enum steer_node_refusal refusal = same_node_refusal(agent, pod);

        able += !refusal;
        if (refusal && refusal != STEER_NODE_NOT_ENROLLED)
            ctl_finding(c, "same node", false, BRUMA_REASON_NONE, "%s/%s, not in the kernel: %s. %s",
                        pod->namespace, pod->name, steer_node_what(refusal), steer_node_advice(refusal));
    }
    ctl_finding(c, "same node", true, BRUMA_REASON_NONE, "connections between %d pods may stay in the kernel",
                able);
}

static void check_guard(const struct agent *agent, struct ctl_answer *c)
{
    enum bruma_reason reason;
    const char *text;

    if (!agent->guard)
        return;
    reason = guard_failure(agent->guard, &text);
    ctl_finding(c, "guard", !reason, reason, "%s",
                reason                          ? text
                : guard_is_closed(agent->guard) ? "closed: pods that are undecided have no network"
                                                : "open: all pods are decided about");
    if (!steer_guard_holds_inbound(agent->steer))
        ctl_finding(c, "guard", true, BRUMA_REASON_NONE,
                    "connections to undecided pods are not held back: that needs Linux 6.15");
}

static void check_kubelet(const struct agent *agent, struct ctl_answer *c)
{
    const char *text;
    enum bruma_reason reason = kubelet_failure(agent->kubelet, &text);

    char chosen[1600];

    if (!agent->kubelet)
        return;
    kubelet_explain(agent->kubelet, chosen, sizeof(chosen));
    ctl_finding(c, "kubelet", reason != BRUMA_REASON_KUBELET_NOT_FOUND, BRUMA_REASON_NONE, "%s", chosen);
    if (reason)
        ctl_finding(c, "kubelet", false, reason, "%s", text);
}

/* Counts never fall: what is long past is told, and is no reason to look. */
static void check_failures(const struct agent *agent, struct ctl_answer *c)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    for (int i = 1; i < BRUMA_REASON_COUNT; i++) {
        struct bruma_failure_count f;
        uint64_t ago;

        if (steer_failure_count(agent->steer, (enum bruma_reason)i, &f) < 0 || !f.count)
            continue;
        ago = steer_failure_age(&f, &now);
        if (ago < FAILURE_RECENT)
            ctl_finding(c, "steering failures", false, (enum bruma_reason)i, "%llu: %s",
                        (unsigned long long)f.count, reason_what((enum bruma_reason)i));
        else
            ctl_finding(c, "steering failures", true, BRUMA_REASON_NONE,
                        "%s: %llu, the last one %llu minutes ago", reason_name((enum bruma_reason)i),
                        (unsigned long long)f.count, (unsigned long long)ago / 60);
    }
}

static void check_source(const struct agent *agent, struct ctl_answer *c)
{
    char text[2048];
    enum bruma_reason reason = source_check(agent, text, sizeof(text));

    ctl_finding(c, agent->source->ops->name, !reason, reason, "%s", text);
}

void doctor_run(struct agent *agent, struct ctl_answer *c)
{
    bool serving = proxies_serving(agent->proxies);

    host_check_kernel(c);
    check_filesystems(agent, c);
    check_hooks(agent, c);
    check_source(agent, c);
    ctl_finding(c, "proxy", serving, serving ? BRUMA_REASON_NONE : BRUMA_REASON_PROXY_NOT_CONNECTED, "%s",
                serving ? "a proxy is connected and serves" : "no proxy is connected");
    direct_ways_check(agent, c);
    check_pods(agent, c);
    check_same_node(agent, c);
    check_guard(agent, c);
    check_kubelet(agent, c);
    check_failures(agent, c);
    host_check_mtu(c);
    host_check_clock(c);
}
