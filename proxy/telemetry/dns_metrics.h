/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics of DNS queries: contract section 8.1. A worker is the only one that adds and counts; scrapes
 * read (counters are relaxed atomics, the table is locked only where a series is added or listed). */
#ifndef PROXY_TELEMETRY_DNS_METRICS_H
#define PROXY_TELEMETRY_DNS_METRICS_H

#include "proxy/telemetry/telemetry.h"

struct dns_metrics; /* of one worker */
struct dns_series;  /* one label set of it; lives as long as the worker's table */

int dns_metrics_new(struct dns_metrics **ret); /* 0 or -ENOMEM */
void dns_metrics_free(struct dns_metrics **metrics);

/*
 * The series of a question. type: of the question, in lower case, of a short list; it is kept, not copied.
 * source: the pod's workload. Beyond a bound, and without memory, those of new workloads count as unknown.
 * Worker's thread. Never NULL.
 */
struct dns_series *dns_metrics_of(struct telemetry *telemetry, const char *type, bool tcp,
                                  const struct workload *source);
/* A question came. Worker's thread, as the next. */
void dns_metrics_request(struct dns_series *series);
/* It was sent to the server that the pod asked. Worker's thread. */
void dns_metrics_upstream(struct dns_series *series);
/* The server has answered, after so many nanoseconds. Worker's thread. */
void dns_metrics_answered(struct dns_series *series, uint64_t nanoseconds);
/* It has not, and the pod was told so. Worker's thread. */
void dns_metrics_failed(struct dns_series *series);

/* Appends the families of all workers, without "# EOF". Any thread. */
void dns_metrics_write(struct dns_metrics *const *all, size_t count, FILE *out);

#endif
