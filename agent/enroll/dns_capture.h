/* SPDX-License-Identifier: Apache-2.0 */
/* Which pods' DNS queries are captured. All on the loop's thread; what fails is in the log, and tried
 * again with the pod's next verification: a pod whose questions are not captured asks its servers itself. */
#ifndef AGENT_ENROLL_DNS_CAPTURE_H
#define AGENT_ENROLL_DNS_CAPTURE_H

#include "agent/agent.h"

/* Begins or ends the capture as settings, the pod's annotation and the proxy want it, and repairs it. Of a
 * pod that is not enrolled nothing is captured. */
void dns_follow(struct agent *agent, struct pod *pod);
/* "captured", or why it is not, in words that follow a comma. Static text, or a reason's name; never NULL. */
const char *dns_capture_text(const struct agent *agent, const struct pod *pod);
/* Ends it, if it was begun; the pod leaves, or is rolled back. */
void dns_end(struct agent *agent, struct pod *pod);

#endif
