/* SPDX-License-Identifier: Apache-2.0 */
/* What `brumactl top` reads of a page of metrics (OpenMetrics text) of a proxy. The text is another
 * program's. */
#ifndef CTL_METRIC_PAGE_H
#define CTL_METRIC_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#define METRIC_VALUE_MAX 513 /* bytes of a label's value with its NUL: LABEL_VALUE_MAX of the proxy */

/* Families with label sets that are read. */
enum metric_kind { METRIC_OPENED, METRIC_CLOSED, METRIC_FAILED, METRIC_RECEIVED, METRIC_SENT, METRIC_KINDS };

struct metric_sample {
    enum metric_kind kind;
    const char *labels; /* between the braces: the page's */
    size_t len;
    double value;
};

/* One reading; zero: none. */
struct metric_page {
    char *text;
    struct metric_sample *samples; /* sorted by kind and labels */
    size_t len;
    double failures;             /* bruma_failures_total of all reasons */
    double cpu, memory, started; /* seconds, bytes, seconds since the epoch; -1: not said */
};

/* Takes the text (malloc(), with a NUL behind; NULL: empty) also if it fails. A line that is none, or of no
 * interest, is left out. 0 or -ENOMEM. */
int metric_page_parse(char *text, struct metric_page *ret);
/* Frees what it holds, not the struct. */
void metric_page_free(struct metric_page *page);
/* The sample of the same kind and labels, the page's; NULL: there is none. */
const struct metric_sample *metric_page_find(const struct metric_page *page,
                                             const struct metric_sample *sample);
/* The value of a label in buf, without its escapes, and cut if it is longer; "" where there is none. Returns
 * buf. */
const char *metric_label(const struct metric_sample *sample, const char *name, char buf[METRIC_VALUE_MAX]);

#endif
