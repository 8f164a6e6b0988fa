/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Kubernetes API as the agent's source (source.h): follows the pods of this node and all namespaces,
 * decides by labels who belongs to the mesh, finds running pods that no CNI call has named, and writes back
 * what has become of them: the annotation ambient.istio.io/redirection once capture is verified, Events where
 * it cannot be. Control plane and CA are somebody else's (istiod) then.
 */
#ifndef AGENT_KUBERNETES_KUBE_SOURCE_H
#define AGENT_KUBERNETES_KUBE_SOURCE_H

#include "agent/agent.h"

/* True if the settings ask for it. */
bool kube_source_configured(const struct agent_settings *settings);
/* 0, -EINVAL for settings that cannot be used, or -ENOMEM; logged. A server that does not answer is no
 * failure. source_close() closes it. */
int kube_source_open(struct agent *agent, struct source **ret);

#endif
