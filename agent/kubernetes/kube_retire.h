/* SPDX-License-Identifier: Apache-2.0 */
/* For `bruma-agent --retire`, which a cluster's uninstallation runs once. */
#ifndef AGENT_KUBERNETES_KUBE_RETIRE_H
#define AGENT_KUBERNETES_KUBE_RETIRE_H

#include "agent/config.h"

/*
 * Marks the agents' DaemonSet (settings daemonset and pod-namespace) as uninstalled, deletes it and waits
 * until its pods have ended: each of them finds mark and deletion, and uninstalls its node, while service
 * account and role are still there. 0 when all are gone, or -errno, which was logged: -ETIMEDOUT if pods are
 * left after three minutes.
 */
int kube_retire(const struct agent_config *config);

#endif
