/* SPDX-License-Identifier: Apache-2.0 */
/* The export to an OpenTelemetry collector: a queue and a thread for each signal that is on. A collector that
 * is slow, or away, delays neither connections nor the log. */
#ifndef PROXY_OTLP_OTLP_H
#define PROXY_OTLP_OTLP_H

#include <stdio.h>

#include "proxy/otlp/otlp_config.h"
#include "proxy/otlp/otlp_queue.h"

#define OTLP_LOGS_DELAY   1000 /* milliseconds that a record waits for others at most */
#define OTLP_TRACES_DELAY 2000 /* milliseconds: the same of a span */
#define OTLP_LAST_WAIT    2000 /* milliseconds at the end for what is still queued */

struct otlp;

/* Starts what the configuration has on, and owns it also on failure; NULL where all is off. Before other
 * threads, of which libcurl's first initialization may know nothing. 0, or -errno, logged. */
int otlp_start(struct otlp_config *config, struct otlp **ret);
/* Sends what is queued, for OTLP_LAST_WAIT, and waits for the threads. Nobody puts anything any more. */
void otlp_stop(struct otlp **otlp);

/* Where records of that signal are put; NULL: it is off. otlp may be NULL. Valid until otlp_stop(). */
struct otlp_queue *otlp_queue_of(struct otlp *otlp, enum otlp_signal signal);

/* Which traces are wanted, never NULL, valid until otlp_stop(); otlp may be NULL. */
const struct otlp_sampler *otlp_sampler_of(const struct otlp *otlp);
/* A page of metrics to export, in OpenMetrics text, which is copied; the one before, if it still waits, is
 * dropped. Nothing where metrics are off. Any thread. */
void otlp_put_page(struct otlp *otlp, const char *text, size_t len);
/* Milliseconds between two pages; 0: metrics are off. otlp may be NULL. */
unsigned long otlp_page_interval(const struct otlp *otlp);

/* Appends what has been exported and dropped, in OpenMetrics text. otlp may be NULL. Any thread. */
void otlp_write_metrics(struct otlp *otlp, FILE *out);

#endif
