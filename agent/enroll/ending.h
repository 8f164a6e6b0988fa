/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pods that were told to end, before they do: their applications may take a while for it. Their capture stays
 * as it is; the node proxy asks their peers to go elsewhere (docs/architecture.md, "When a pod ends"). On the
 * loop's thread.
 */
#ifndef AGENT_ENROLL_ENDING_H
#define AGENT_ENROLL_ENDING_H

#include "agent/agent.h"

/* ends: the pod was told to, as why says, a static text; or it was not after all. The same again changes
 * nothing. */
void ending_set(struct agent *agent, struct pod *pod, bool ends, const char *why);

#endif
