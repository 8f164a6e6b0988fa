/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes of the kubelet. A pod's declared ports are registered for each of its addresses; the hook on the
 * kubelet's cgroup lets connections to those, and to those alone, through to the application.
 */
#ifndef AGENT_ENROLL_PROBES_H
#define AGENT_ENROLL_PROBES_H

#include "agent/agent.h"

/* Registers what an enrolled pod declares. What it no longer declares goes with the next probes_verify(). */
void probes_register(struct agent *agent, const struct pod *pod);
/* All pods: adds what is missing, removes what nobody declares (pods that have left, too). */
void probes_verify(struct agent *agent);

#endif
