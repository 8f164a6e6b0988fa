/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin's side of the local protocol (bruma/protocol.h). */
#ifndef CNI_AGENT_CLIENT_H
#define CNI_AGENT_CLIENT_H

#include "cni/request.h"

/* Each asks the agent and waits for its answer within the configured time. 0, or -errno with *error
 * filled; error->unreachable is true where no agent has answered. */
int agent_add(const struct cni_request *request, struct cni_error *error);
int agent_del(const struct cni_request *request, struct cni_error *error);
int agent_check(const struct cni_request *request, struct cni_error *error);
int agent_gc(const struct cni_request *request, struct cni_error *error);
int agent_status(const struct cni_request *request, struct cni_error *error);

#endif
