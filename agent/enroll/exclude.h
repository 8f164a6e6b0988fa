/* SPDX-License-Identifier: Apache-2.0 */
/* What pods exclude from capture, by annotations. All on the loop's thread. What fails is in the log, and
 * tried again with the pod's next verification; until then the former rules are in force. */
#ifndef AGENT_ENROLL_EXCLUDE_H
#define AGENT_ENROLL_EXCLUDE_H

#include "agent/agent.h"

/* Has the kernel follow the rules of the source; while that knows nothing of the pod, what is pinned stays.
 * Of a pod that is not enrolled nothing is changed. */
void exclusions_follow(struct agent *agent, struct pod *pod);

#endif
