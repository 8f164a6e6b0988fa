/* SPDX-License-Identifier: Apache-2.0 */
/* Answers the CNI plugin. */
#ifndef AGENT_API_CNI_SERVER_H
#define AGENT_API_CNI_SERVER_H

#include "agent/agent.h"
#include "agent/local/server.h"

/* Data of a connection that begins with a cni- op; cni_role owns it. NULL if there is no memory. */
void *cni_accept(struct agent *agent);
extern const struct server_role cni_role;

#endif
