/* SPDX-License-Identifier: Apache-2.0 */
/* Pages for brumactl beside readiness, on loopback: what reaches them through the API server (a forwarded
 * port) comes as root of this node. They tell, and change nothing. */
#ifndef AGENT_API_CTL_PAGE_H
#define AGENT_API_CTL_PAGE_H

#include "agent/agent.h"
#include "lib/rpc/http_server.h"

/*
 * GET /brumactl/status, /brumactl/pods, /brumactl/doctor and
 * /brumactl/explain?pod=NAMESPACE/NAME[&to=IP:PORT]: an array of the items that the socket would send
 * (bruma/protocol.h), or {"reason","error"} with status 400; 403 for who is not root. Whether it was one of
 * these: answered then.
 */
bool ctl_page_serve(struct agent *agent, struct http_request *request);

#endif
