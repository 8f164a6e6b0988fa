/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes of the kubelet. A pod's declared ports are registered for each of its addresses; the hook on the
 * kubelet's cgroup lets connections to those, and to those alone, through to the application.
 */
#ifndef AGENT_PROBES_H
#define AGENT_PROBES_H

#include "agent.h"

/* Registers what an enrolled pod declares. What it no longer declares goes with the next probes_verify(). */
void probes_register(struct agent *agent, const struct pod *pod);
/* All pods: adds what is missing, removes what nobody declares (pods that have left, too). */
void probes_verify(struct agent *agent);

/* The cgroup2 directory of the process named "kubelet", by proc (a procfs) and mount (the cgroup2 mount).
 * 0, -ENOENT if none runs, or -EXDEV if it is in the root, which would exempt everybody, or outside of what
 * this process may see. */
#define PROBES_CGROUP_AUTO "auto" /* value of the setting: the kubelet's, wherever that is */

/* What the setting asks for: NULL (no probes), the directory itself, or the kubelet's in buf. */
const char *probes_cgroup(const char *setting, char *buf, size_t size);

int probes_find_kubelet(const char *proc, const char *mount, char *buf, size_t size);

#endif
