/* SPDX-License-Identifier: Apache-2.0 */
/* Answers brumactl; the keys are in bruma/protocol.h. */
#ifndef AGENT_API_CTL_SERVER_H
#define AGENT_API_CTL_SERVER_H

#include "agent/agent.h"
#include "agent/api/ctl_answer.h"
#include "agent/local/server.h"

extern const struct server_role ctl_role; /* connection data: struct agent */

/* Answers one message; false: with an error. */
bool ctl_serve(struct agent *agent, struct ctl_answer *answer, const cJSON *message);

#endif
