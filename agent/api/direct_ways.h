/* SPDX-License-Identifier: Apache-2.0 */
/* What brumactl says of direct ways: whether a pod's connections take them, and why not. */
#ifndef AGENT_API_DIRECT_WAYS_H
#define AGENT_API_DIRECT_WAYS_H

#include "agent/agent.h"
#include "agent/api/ctl_answer.h"

/* Findings of `brumactl explain` about the pod, which is in the mesh. */
void direct_ways_explain(struct agent *agent, struct ctl_answer *answer, const struct pod *pod);
/* One finding: whether a connection of the pod to there is captured, and why. */
void direct_ways_explain_to(struct agent *agent, struct ctl_answer *answer, const struct pod *pod,
                            const struct endpoint *to);
/* Findings of `brumactl doctor`. */
void direct_ways_check(const struct agent *agent, struct ctl_answer *answer);
/* Adds to an item of `brumactl pods` which ways its connections take. */
void direct_ways_report(const struct agent *agent, const struct pod *pod, cJSON *item);

#endif
