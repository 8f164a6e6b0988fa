/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections between pods of this node that stay in the kernel (agent/steer/node.h), where the settings and
 * the wiring of a pod allow that. A pod that may not is served as ever: its connections go through the proxy.
 */
#ifndef AGENT_ENROLL_SAME_NODE_H
#define AGENT_ENROLL_SAME_NODE_H

#include "agent/agent.h"

/* After steering was opened, before pods are adopted. */
void same_node_open(struct agent *agent);
/* The pod has been verified: the programs at its device are as well, put there where they are missing, and
 * removed where they are not to be. False: they wait for what still goes by them, so look again soon. */
bool same_node_follow(struct agent *agent, struct pod *pod);
/* Why the pod's connections do not stay in the kernel; NONE: they may. */
enum steer_node_refusal same_node_refusal(const struct agent *agent, const struct pod *pod);
/* "kernel", or why they do not, in words. Static, never NULL. */
const char *same_node_text(const struct agent *agent, const struct pod *pod);
/* Of the whole node. */
enum steer_node_refusal same_node_refusal_of_node(const struct agent *agent);

#endif
