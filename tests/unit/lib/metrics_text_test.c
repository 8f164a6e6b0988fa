/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "lib/metrics_text.h"

static char *text;
static size_t text_len;

static void expect(FILE *out, const char *wanted)
{
    cr_assert(fclose(out) == 0);
    cr_expect(!strcmp(text, wanted), "%s", text);
    free(text);
}

static FILE *page(void)
{
    FILE *out = open_memstream(&text, &text_len);

    cr_assert(out != NULL);
    return out;
}

Test(metrics_text, families)
{
    FILE *out = page();

    metric_gauge(out, "a_bytes", "How many.", UINT64_MAX);
    metric_counter(out, "b", "Never yet.", 0);
    metric_counter(out, "c", "Once.", 1);
    metric_family(out, "d_total", "counter", "Of each.");
    metric_sample(out, "d_total", 0);
    expect(out, "# HELP a_bytes How many.\n# TYPE a_bytes gauge\na_bytes 18446744073709551615\n"
                "# HELP c Once.\n# TYPE c counter\nc_total 1\n"
                "# HELP d_total Of each.\n# TYPE d_total counter\nd_total 0\n");
}

Test(metrics_text, labels_may_say_anything)
{
    FILE *out = page();

    metric_labelled(out, "a", "pod", "x", 1);
    metric_labelled(out, "a", "pod", "\"}\n\\", 2);
    metric_labelled(out, "a", "pod", "", 3);
    expect(out, "a{pod=\"x\"} 1\na{pod=\"\\\"}\\n\\\\\"} 2\na{pod=\"\"} 3\n");
}

Test(metrics_text, histograms)
{
    static const char *const ends[] = {"0.1", "1.0"};
    static const uint64_t in_bucket[] = {2, 1};
    struct metric_histogram h = {ends, in_bucket, 2, 4, 1500000, true};
    FILE *out = page();

    metric_histogram(out, "a", "", &h);
    h.seconds = false;
    metric_histogram(out, "b", "c=\"d\"", &h);
    expect(out, "a_bucket{le=\"0.1\"} 2\na_bucket{le=\"1.0\"} 3\na_bucket{le=\"+Inf\"} 4\n"
                "a_sum 1.500000\na_count 4\n"
                "b_bucket{c=\"d\",le=\"0.1\"} 2\nb_bucket{c=\"d\",le=\"1.0\"} 3\n"
                "b_bucket{c=\"d\",le=\"+Inf\"} 4\nb_sum{c=\"d\"} 1500000\nb_count{c=\"d\"} 4\n");
}
