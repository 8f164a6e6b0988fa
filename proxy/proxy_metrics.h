/* SPDX-License-Identifier: Apache-2.0 */
/* What the metrics page shows, from all parts of the process. */
#ifndef PROXY_PROXY_METRICS_H
#define PROXY_PROXY_METRICS_H

#include <stdio.h>

/* Appends the families of the control thread, which calls it, in OpenMetrics text. data: the proxy. */
void proxy_metrics(void *data, FILE *out);
/* The same of the workers and of direct connections, on any thread. Both live until the pages are closed. */
void proxy_metrics_large(void *data, FILE *out);

#endif
