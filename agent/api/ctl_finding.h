/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of `brumactl explain` and `brumactl doctor`: findings, one a message. */
#ifndef AGENT_API_CTL_FINDING_H
#define AGENT_API_CTL_FINDING_H

#include "agent/agent.h"
#include "agent/api/ctl_answer.h"

/* One finding of explain or doctor. reason NONE: neither reason nor advice. Returns ok, true or false. */
bool ctl_finding(struct ctl_answer *answer, const char *check, bool ok, enum bruma_reason reason,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Sends the findings of `brumactl doctor`. */
void doctor_run(struct agent *agent, struct ctl_answer *answer);
/* Sends what is known about why the pod is or is not in the mesh; or with to not NULL, whether a connection
 * of it to there is captured. */
void explain_run(struct agent *agent, struct ctl_answer *answer, const char *namespace, const char *name,
                 const struct endpoint *to);

#endif
