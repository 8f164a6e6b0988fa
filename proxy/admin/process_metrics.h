/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics of the process itself, under their usual names: process_*, and istio_build. */
#ifndef PROXY_ADMIN_PROCESS_METRICS_H
#define PROXY_ADMIN_PROCESS_METRICS_H

#include <stdio.h>

/* Appends OpenMetrics text; what the kernel does not tell is left out. */
void process_metrics_write(FILE *out);

#endif
