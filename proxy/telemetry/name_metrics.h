/* SPDX-License-Identifier: Apache-2.0 */
/* istio_on_demand_dns (contract section 8.1): connections whose destination has a hostname, by source and
 * hostname. Threads as in dns_metrics.h. */
#ifndef PROXY_TELEMETRY_NAME_METRICS_H
#define PROXY_TELEMETRY_NAME_METRICS_H

#include "proxy/telemetry/telemetry.h"

struct name_metrics; /* of one worker */

int name_metrics_new(struct name_metrics **ret); /* 0 or -ENOMEM */
void name_metrics_free(struct name_metrics **metrics);

/* A connection of the source needs an address of the hostname. Beyond a bound, and without memory, new pairs
 * count as unknown. Worker's thread. */
void telemetry_name_lookup(struct telemetry *telemetry, const struct workload *source, const char *hostname);

/* Appends the family of all workers, without "# EOF". Any thread. */
void name_metrics_write(struct name_metrics *const *all, size_t count, FILE *out);

#endif
