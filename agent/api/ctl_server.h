/* SPDX-License-Identifier: Apache-2.0 */
/* Answers brumactl; the keys are in bruma/protocol.h. */
#ifndef AGENT_API_CTL_SERVER_H
#define AGENT_API_CTL_SERVER_H

#include "agent/agent.h"
#include "agent/local/server.h"

extern const struct server_role ctl_role; /* connection data: struct agent */

#endif
