/* SPDX-License-Identifier: Apache-2.0 */
/* For `bruma-agent --uninstall` on a node of a cluster. */
#ifndef AGENT_KUBERNETES_UNMARK_PODS_H
#define AGENT_KUBERNETES_UNMARK_PODS_H

#include "agent/agent_settings.h"

/*
 * Takes the annotation ambient.istio.io/redirection off all pods of this node, so that nobody dials port
 * 15008 there any more: to be called before their capture goes. Gives up after 30 s. 0, or -errno of the
 * first failure, which was logged.
 */
int unmark_pods(const struct agent_settings *settings);

#endif
