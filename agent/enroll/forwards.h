/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pods that pass on what others behind them send: virtual machines, containers in a pod. The hooks see the
 * pod's own sockets alone, so such a pod is captured as far as that goes and not announced as one of the
 * mesh; an Event, `brumactl pods` and the log say why.
 */
#ifndef AGENT_ENROLL_FORWARDS_H
#define AGENT_ENROLL_FORWARDS_H

#include "agent/agent.h"

/* Looks at the pod now, and announces it anew if that has changed and the pod is enrolled. */
void forwards_look(struct agent *agent, struct pod *pod);
/* The device by which the pod passes on what others send, in words; "": it does not (never NULL). Valid until
 * it is looked at again. */
const char *forwards_by(const struct pod *pod);
/* Whether it is enrolled, and others may be told. */
bool forwards_announced(const struct pod *pod);

/* Looks at all pods from time to time. */
void forwards_start(struct agent *agent);
/* At the agent's end. */
void forwards_stop(struct agent *agent);

#endif
