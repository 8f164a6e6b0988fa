/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent's own DaemonSet says of its end. */
#ifndef AGENT_KUBERNETES_KUBE_DAEMONSET_H
#define AGENT_KUBERNETES_KUBE_DAEMONSET_H

#include <stdbool.h>
#include <stddef.h>

#include "agent/agent_settings.h"

/* An annotation of the DaemonSet that only `bruma-agent --retire` sets, right before it deletes it. */
#define KUBE_UNINSTALL_MARK "bruma/uninstall"

/* The path of the DaemonSet (settings daemonset and pod-namespace) in the API. 0 or -ENAMETOOLONG. */
int kube_daemonset_path(const struct agent_settings *settings, char *path, size_t size);

/*
 * Asked when the agent has been told to end: does this node leave the mesh for good? Only if somebody has
 * said so: the DaemonSet is being deleted and has the mark of --retire, or it is there and its node selector
 * or affinity do not want this node any more. A DaemonSet that is gone or goes without the mark, 401, 403,
 * silence and whatever else is not understood mean that everything stays in place. Takes 10 s at the
 * most.
 */
bool kube_node_leaves(const struct agent_settings *settings);

#endif
