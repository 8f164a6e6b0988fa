/* SPDX-License-Identifier: Apache-2.0 */
/* Verifies what is captured, on a timer and when the kernel reports that rules or routes were deleted;
 * repairs, counts and reports what is broken; finds pods whose network namespace is gone. */
#ifndef AGENT_ENROLL_WATCHDOG_H
#define AGENT_ENROLL_WATCHDOG_H

#include "agent/agent.h"

/* Begins to look at all pods from time to time. */
void watchdog_start(struct agent *agent);
/* At the agent's end. */
void watchdog_stop(struct agent *agent);

/*
 * Verifies one enrolled pod now. 0 if nothing was broken, 1 if all that was broken is repaired, or -errno
 * with the first reason in error. With repair false nothing is put right: -EIO if anything is broken. What
 * cannot be put right is tried again after a while that grows from the interval of verification to a minute,
 * or once something changes, and told of once; until then -EAGAIN with the reason.
 */
int watchdog_verify(struct agent *agent, struct pod *pod, bool repair, struct steer_error *error);

/* The pod has changed: what could not be repaired is tried again with the next verification. */
void watchdog_try_again(struct pod *pod);

/* The same with all that goes with it, where the pod's state lets it. */
void watchdog_verify_now(struct agent *agent, struct pod *pod);

/* True if the pod is as whole as the last verification found it, as far as nothing would have told otherwise;
 * false: verify it. */
bool watchdog_quick_check(struct agent *agent, struct pod *pod);

/* Something may be broken: the pod is verified a moment later (agent->verify_pod), and repaired. */
void watchdog_look(struct agent *agent, struct pod *pod);

/* Follows what happens to rules, routes, addresses and lo in the pod's namespace until its descriptors are
 * closed. Failure is not fatal: the timer finds the same, later, and this is tried again. */
void watchdog_follow(struct agent *agent, struct pod *pod);
bool watchdog_follows(const struct pod *pod);

#endif
