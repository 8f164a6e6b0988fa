/* SPDX-License-Identifier: Apache-2.0 */
/* Workloads, a service and a flow for tests of telemetry. */
#ifndef TESTS_UNIT_PROXY_TELEMETRY_TELEMETRY_SAMPLES_H
#define TESTS_UNIT_PROXY_TELEMETRY_TELEMETRY_SAMPLES_H

#include "proxy/telemetry/telemetry.h"

extern struct workload sample_cart, sample_redis;
extern struct service sample_service;

/* cart calls redis over mutual TLS, seen from cart's node. */
struct flow sample_flow(void);

/* Everything that the file holds, from its beginning; the caller frees it. */
char *file_text(int fd);
/* What telemetry_write_metrics() writes; the caller frees it. */
char *metrics_text(struct telemetry *const *all, size_t count);
/* Runs the loop for about this long. */
void run_for(struct loop *loop, unsigned milliseconds);

#endif
