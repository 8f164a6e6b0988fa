/* SPDX-License-Identifier: Apache-2.0 */
/* Finds pods whose network namespace is gone, and removes them. */
#ifndef AGENT_ENROLL_REAP_H
#define AGENT_ENROLL_REAP_H

#include "agent/agent.h"

/* One look, from the loop. A namespace whose name is not there may have processes still: these are looked for
 * piece by piece, so that a node with many of them does not keep the loop. */
void reap_pods(struct agent *agent);
/* At the agent's end: ends a search that is under way. */
void reap_stop(struct agent *agent);

#endif
