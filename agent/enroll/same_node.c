/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "same-node"
#include "agent/enroll/same_node.h"

#include <string.h>

#include "agent/enroll/enroll_private.h"
#include "lib/log.h"

void same_node_open(struct agent *agent)
{
    struct steer_error error = {0};

    if (strcmp(agent->settings->same_node, "kernel") != 0) {
        agent->node_refusal = STEER_NODE_OFF;
        steer_node_disable(agent->steer);
        return;
    }
    agent->node_refusal = steer_node_open(agent->steer, &error);
    if (agent->node_refusal)
        log_warn("connections between pods of this node do not stay in the kernel\twhy=\"%s\" error=\"%s\"",
                 steer_node_what(agent->node_refusal), error.text);
}

enum steer_node_refusal same_node_refusal_of_node(const struct agent *agent)
{
    return agent->node_refusal;
}

enum steer_node_refusal same_node_refusal(const struct agent *agent, const struct pod *pod)
{
    if (agent->node_refusal)
        return agent->node_refusal;
    return pod->enrollment->state == POD_ENROLLED && pod->enrollment->node_looked
               ? pod->enrollment->node_refusal
               : STEER_NODE_NOT_ENROLLED;
}

const char *same_node_text(const struct agent *agent, const struct pod *pod)
{
    enum steer_node_refusal refusal = same_node_refusal(agent, pod);

    return refusal ? steer_node_what(refusal) : "kernel";
}

/* Each is logged once. */
static void note(struct pod *pod, enum steer_node_refusal refusal, const struct steer_error *error)
{
    bool known = pod->enrollment->node_looked;

    enrollment_of(pod)->node_looked = true;
    if (known && pod->enrollment->node_refusal == refusal)
        return;
    enrollment_of(pod)->node_refusal = refusal;
    if (refusal)
        log_warn("connections of a pod to others of this node do not stay in the kernel\tpod=\"%s/%s\" "
                 "why=\"%s\" error=\"%s\"",
                 pod->namespace, pod->name, steer_node_what(refusal),
                 refusal == STEER_NODE_FAILED ? error->text : "");
    else
        log_info("connections of a pod to others of this node may stay in the kernel\tpod=\"%s/%s\"",
                 pod->namespace, pod->name);
}

/* Those that live are the proxy's to end. Until it has, the programs at the device keep their packets off the
 * bridge, where they would be plaintext. */
static bool let_go(struct agent *agent, struct pod *pod)
{
    if (steer_node_lives(agent->steer)) {
        steer_node_forbid(agent->steer, pod->cookie);
        return false;
    }
    steer_node_stop(agent->steer, pod->cookie);
    return true;
}

bool same_node_follow(struct agent *agent, struct pod *pod)
{
    struct steer_error error = {0};
    struct steer_pod p;

    if (!agent->node_refusal && steer_node_hooks_refused(agent->steer)) {
        agent->node_refusal = STEER_NODE_NO_HOOK;
        steer_node_disable(agent->steer);
    }
    if (agent->node_refusal)
        return let_go(agent, pod);
    if (pod->netns_fd < 0 || pod->enrollment->state != POD_ENROLLED || pod->enrollment->awaits_listeners)
        return true;
    if (same_node_longer(SAME_NODE_KERNEL, pod->enrollment->direct.same_node) != SAME_NODE_KERNEL) {
        /* Of others it cannot be told apart which live; the proxy has had the time from one look to the
         * next. */
        bool told = pod->enrollment->node_looked && pod->enrollment->node_refusal == STEER_NODE_OFF_FOR_POD;

        if (told)
            steer_node_stop(agent->steer, pod->cookie);
        else
            steer_node_forbid(agent->steer, pod->cookie);
        note(pod, STEER_NODE_OFF_FOR_POD, &error);
        return told;
    }
    enroll_describe(agent, pod, &p);
    note(pod, steer_node_start(agent->steer, &p, &error), &error);
    return true;
}
