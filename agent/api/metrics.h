/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent tells over HTTP: metrics for Prometheus, and for the kubelet whether it is ready. */
#ifndef AGENT_API_METRICS_H
#define AGENT_API_METRICS_H

#include <stddef.h>

#include "agent/agent.h"

struct metrics;

/* Opens the ports that the settings name: metrics on every address (/metrics), readiness on loopback
 * (/readyz, /healthz). The agent outlives it. 0 or -errno, which was logged; *ret stays NULL if no port is
 * set. */
int metrics_open(struct agent *agent, struct metrics **ret);
void metrics_close(struct metrics **metrics);

/* NULL if the agent is ready: it can decide about pods, captures, and the runtime calls its plugin.
 * Else why not, valid until the loop goes on. */
const char *agent_not_ready(const struct agent *agent);

/* The page, which the caller frees, and its length in *ret_len; NULL if there is no memory. */
char *metrics_page(const struct agent *agent, size_t *ret_len);

#endif
