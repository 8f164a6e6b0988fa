/* SPDX-License-Identifier: Apache-2.0 */
/* For `bruma-agent --retire`, which a cluster's uninstallation runs once. */
#ifndef AGENT_KUBERNETES_UNINSTALL_CLUSTER_H
#define AGENT_KUBERNETES_UNINSTALL_CLUSTER_H

#include "agent/agent_settings.h"

/*
 * Marks the agents' DaemonSet (settings daemonset and pod-namespace) as uninstalled, deletes it and waits
 * until its pods have ended: each of them finds mark and deletion, and uninstalls its node, while service
 * account and role are still there. 0 when all are gone, or -errno, which was logged: -ETIMEDOUT if pods are
 * left after three minutes.
 */
int uninstall_cluster(const struct agent_settings *settings);

#endif
