/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/metrics_text.h"

#include <inttypes.h>

void metric_family(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metric_sample(FILE *out, const char *name, uint64_t value)
{
    fprintf(out, "%s %" PRIu64 "\n", name, value);
}

void metric_label_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            fputs("\\n", out);
        else if (*text == '"' || *text == '\\')
            fprintf(out, "\\%c", *text);
        else
            fputc(*text, out);
    }
}

void metric_labelled(FILE *out, const char *name, const char *label, const char *text, uint64_t value)
{
    fprintf(out, "%s{%s=\"", name, label);
    metric_label_text(out, text);
    fprintf(out, "\"} %" PRIu64 "\n", value);
}

void metric_histogram(FILE *out, const char *name, const char *labels, const struct metric_histogram *h)
{
    const char *comma = *labels ? "," : "", *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    uint64_t below = 0;

    for (size_t b = 0; b < h->buckets; b++) {
        below += h->in_bucket[b];
        fprintf(out, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", name, labels, comma, h->ends[b], below);
    }
    fprintf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma, h->count);
    if (h->seconds)
        fprintf(out, "%s_sum%s%s%s %" PRIu64 ".%06" PRIu64 "\n", name, open, labels, close, h->sum / 1000000,
                h->sum % 1000000);
    else
        fprintf(out, "%s_sum%s%s%s %" PRIu64 "\n", name, open, labels, close, h->sum);
    fprintf(out, "%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close, h->count);
}

void metric_gauge(FILE *out, const char *name, const char *help, uint64_t value)
{
    metric_family(out, name, "gauge", help);
    metric_sample(out, name, value);
}

void metric_counter(FILE *out, const char *name, const char *help, uint64_t value)
{
    if (!value)
        return;
    metric_family(out, name, "counter", help);
    fprintf(out, "%s_total %" PRIu64 "\n", name, value);
}
