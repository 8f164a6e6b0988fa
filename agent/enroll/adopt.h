/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a restart: finds the pods that were remembered and what is pinned for them, and takes the listeners
 * back that a proxy holds. New listeners are opened only where a slot is empty, or where nobody gives the old
 * ones back: a swap would reset the connections that wait in the old one's queue.
 */
#ifndef AGENT_ENROLL_ADOPT_H
#define AGENT_ENROLL_ADOPT_H

#include "agent/agent.h"

/* Before the socket is opened. 0 or -errno. */
int adopt_all(struct agent *agent);
/* See struct proxies_events: the pod that the offer belongs to, the agent's, whether its listeners were taken
 * or not; NULL: there is none. */
struct pod *adopt_offered(struct agent *agent, const struct offered_pod *offer);
/* Gives a pod that was recovered without its record the uid that it really has. Others keep theirs. */
void adopt_uid(struct agent *agent, struct pod *pod, const char *uid);
/* Opens new listeners for a pod that awaits them, if it is time to. */
void adopt_check(struct agent *agent, struct pod *pod);

#endif
