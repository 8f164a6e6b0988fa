/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page of metrics as text: families and their samples. A family's name ends with "_total" where the page is
 * Prometheus' older text (the agent's), and does not in OpenMetrics (the proxy's); samples of counters end
 * with it in both.
 *
 * Any thread, one a stream. Errors stay in the stream: whoever opened it asks ferror() or fclose().
 */
#ifndef LIB_METRICS_TEXT_H
#define LIB_METRICS_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* The lines in front of a family's samples. type: "counter", "gauge" or "histogram"; help is printed as it
 * is. */
void metric_family(FILE *out, const char *name, const char *type, const char *help);
/* One sample; name is the sample's. */
void metric_sample(FILE *out, const char *name, uint64_t value);
/* One sample with one label, whose text may be anything. */
void metric_labelled(FILE *out, const char *name, const char *label, const char *text, uint64_t value);
/* A label's text as it stands between its quotes. */
void metric_label_text(FILE *out, const char *text);

/* What a histogram has counted. */
struct metric_histogram {
    const char *const *ends;   /* of its buckets, as text; what is longer than the last is in none */
    const uint64_t *in_bucket; /* what is in each of them alone */
    size_t buckets;
    uint64_t count, sum;
    bool seconds; /* sum is in microseconds, and shown in seconds */
};

/* Its samples. labels: text of other labels, such as a="b"; "": none. */
void metric_histogram(FILE *out, const char *name, const char *labels,
                      const struct metric_histogram *histogram);

/* OpenMetrics: a family of one sample. */
void metric_gauge(FILE *out, const char *name, const char *help, uint64_t value);
/* The same of a counter; one that has not counted yet is not shown. */
void metric_counter(FILE *out, const char *name, const char *help, uint64_t value);

#endif
