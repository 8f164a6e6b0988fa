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
