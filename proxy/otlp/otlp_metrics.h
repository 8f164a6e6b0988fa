/* SPDX-License-Identifier: Apache-2.0 */
/* A page of metrics in OpenMetrics text, as the proxy serves it, as messages of OTLP: the page is the one
 * source of both. */
#ifndef PROXY_OTLP_OTLP_METRICS_H
#define PROXY_OTLP_OTLP_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "proxy/otlp/otlp_queue.h"

#define OTLP_PAGE_MAX     (32u * 1024 * 1024) /* bytes; a page that is longer is not exported */
#define OTLP_LABELS_MAX   48                  /* labels of a sample; more are left out */
#define OTLP_BUCKETS_MAX  64                  /* buckets of a histogram; one with more is left out */
#define OTLP_METRIC_BYTES (64u * 1024)        /* points of one message; a family may have several */

/* Appends messages of Metric to ret, whose items are data points. Counters are cumulative sums since started,
 * histograms as well; both times in nanoseconds of the wall clock. Lines that are none of a page's are passed
 * over. 0, or -ENOMEM: what is there is not whole. */
int otlp_metrics_encode(const char *text, size_t len, uint64_t started, uint64_t now, struct otlp_batch *ret);

#endif
