/* SPDX-License-Identifier: Apache-2.0 */
/* Pages as messages, decoded back. */
#include "proxy/otlp/otlp_metrics.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto/otlp.pb-c.h"

#define STARTED 1000
#define NOW     5000

static struct otlp_batch batch;

static void tear_down(void)
{
    otlp_batch_clear(&batch);
}

TestSuite(otlp_metrics, .fini = tear_down);

static void encode(const char *text)
{
    cr_assert_eq(otlp_metrics_encode(text, strlen(text), STARTED, NOW, &batch), 0);
}

/* The next metric; the caller's to free. */
static Otlp__Metric *next(void)
{
    static const struct otlp_record *at;
    Otlp__Metric *m;

    at = at ? at->next : batch.first;
    if (!at)
        return NULL;
    m = otlp__metric__unpack(NULL, at->len, at->data);
    cr_assert(m);
    return m;
}

static const char *attribute(Otlp__KeyValue **all, size_t len, const char *key)
{
    for (size_t i = 0; i < len; i++) {
        if (!strcmp(all[i]->key, key))
            return all[i]->value->string_value;
    }
    return "";
}

Test(otlp_metrics, counters_and_gauges)
{
    Otlp__Metric *m;
    Otlp__NumberDataPoint *p;

    encode("# HELP sent_bytes So much.\n# TYPE sent_bytes counter\n"
           "sent_bytes_total{a=\"x\",b=\"a \\\"b\\\" \\\\ \\n\"} 18\nsent_bytes_total{a=\"y\"} 1.5\n"
           "# HELP open Now.\n# TYPE open gauge\nopen 3\n# EOF\n");
    m = next();
    cr_expect_str_eq(m->name, "sent_bytes_total");
    cr_expect_str_eq(m->description, "So much.");
    cr_expect_str_eq(m->unit, "By");
    cr_assert_eq(m->data_case, OTLP__METRIC__DATA_SUM);
    cr_expect(m->sum->is_monotonic && m->sum->aggregation_temporality == 2);
    cr_assert_eq(m->sum->n_data_points, 2);
    p = m->sum->data_points[0];
    cr_expect(p->value_case == OTLP__NUMBER_DATA_POINT__VALUE_AS_INT && p->as_int == 18);
    cr_expect(p->start_time_unix_nano == STARTED && p->time_unix_nano == NOW);
    cr_expect_str_eq(attribute(p->attributes, p->n_attributes, "a"), "x");
    cr_expect_str_eq(attribute(p->attributes, p->n_attributes, "b"), "a \"b\" \\ \n");
    p = m->sum->data_points[1];
    cr_expect(p->value_case == OTLP__NUMBER_DATA_POINT__VALUE_AS_DOUBLE && p->as_double == 1.5);
    otlp__metric__free_unpacked(m, NULL);
    m = next();
    cr_expect_str_eq(m->name, "open");
    cr_assert_eq(m->data_case, OTLP__METRIC__DATA_GAUGE);
    cr_expect_eq(m->gauge->data_points[0]->as_int, 3);
    cr_expect_eq(m->gauge->data_points[0]->start_time_unix_nano, 0);
    otlp__metric__free_unpacked(m, NULL);
    cr_expect_null(next());
    cr_expect_eq(batch.items, 3);
}

Test(otlp_metrics, histograms)
{
    Otlp__HistogramDataPoint *p;
    Otlp__Metric *m;

    encode("# HELP t_seconds Time.\n# TYPE t_seconds histogram\n"
           "t_seconds_bucket{way=\"x\",le=\"0.5\"} 2\nt_seconds_bucket{way=\"x\",le=\"1.0\"} 5\n"
           "t_seconds_bucket{way=\"x\",le=\"+Inf\"} 6\nt_seconds_sum{way=\"x\"} 4.250000\n"
           "t_seconds_count{way=\"x\"} 6\n"
           "t_seconds_bucket{way=\"y\",le=\"0.5\"} 0\nt_seconds_bucket{way=\"y\",le=\"1.0\"} 0\n"
           "t_seconds_bucket{way=\"y\",le=\"+Inf\"} 1\nt_seconds_sum{way=\"y\"} "
           "0\nt_seconds_count{way=\"y\"} 1\n");
    m = next();
    cr_expect_str_eq(m->name, "t_seconds");
    cr_expect_str_eq(m->unit, "s");
    cr_assert(m->data_case == OTLP__METRIC__DATA_HISTOGRAM && m->histogram->n_data_points == 2);
    cr_expect_eq(m->histogram->aggregation_temporality, 2);
    p = m->histogram->data_points[0];
    cr_assert(p->n_bucket_counts == 3 && p->n_explicit_bounds == 2);
    cr_expect(p->bucket_counts[0] == 2 && p->bucket_counts[1] == 3 && p->bucket_counts[2] == 1);
    cr_expect(p->explicit_bounds[0] == 0.5 && p->explicit_bounds[1] == 1.0);
    cr_expect(p->count == 6 && p->sum == 4.25 && p->start_time_unix_nano == STARTED);
    cr_expect_eq(p->n_attributes, 1, "le is none");
    p = m->histogram->data_points[1];
    cr_expect_eq(p->optional_sum_case, OTLP__HISTOGRAM_DATA_POINT__OPTIONAL_SUM_SUM, "a sum of 0 is one");
    cr_expect_str_eq(attribute(p->attributes, p->n_attributes, "way"), "y");
    otlp__metric__free_unpacked(m, NULL);
}

Test(otlp_metrics, a_long_family_is_several_messages)
{
    char *text = NULL;
    size_t len, points = 0, metrics = 0;
    FILE *out = open_memstream(&text, &len);
    Otlp__Metric *m;

    fprintf(out, "# HELP n N.\n# TYPE n counter\n");
    for (int i = 0; i < 5000; i++)
        fprintf(out, "n_total{label=\"%050d\"} %d\n", i, i);
    fclose(out);
    encode(text);
    free(text);
    for (; (m = next()); metrics++) {
        for (size_t i = 0; i < m->sum->n_data_points; i++)
            cr_expect_eq(m->sum->data_points[i]->as_int, (int64_t)points++);
        cr_expect_str_eq(m->description, "N.");
        cr_expect_leq(otlp__metric__get_packed_size(m), OTLP_METRIC_BYTES + 1000);
        otlp__metric__free_unpacked(m, NULL);
    }
    cr_expect(points == 5000 && metrics > 5 && batch.items == 5000);
}

Test(otlp_metrics, what_is_no_page)
{
    static const char *const lines[] = {
        "",
        "\n\n",
        "x",
        "x ",
        "x{ 1",
        "x{a} 1",
        "x{a=} 1",
        "x{a=\"} 1",
        "x{a=\"b\"",
        "x{a=\"b\"c=\"d\"} 1",
        "x{=\"b\"} 1",
        "x abc",
        "{a=\"b\"} 1",
        "# TYPE",
        "# TYPE x",
        "# HELP x",
        "# TYPE x histogram\nx_bucket{le=\"1\"} 5\nx_bucket{le=\"+Inf\"} 3\nx_count 3",
        "# TYPE x histogram\nx_count 3",
        "# TYPE x histogram\nx_bucket{le=\"1\"} 5\nx_count 3",
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        encode(lines[i]);
        cr_expect_null(batch.first, "\"%s\"", lines[i]);
    }
}

Test(otlp_metrics, a_type_that_changes)
{
    Otlp__Metric *m;

    encode("# TYPE x counter\nx 1\n# TYPE x gauge\nx 2\n# TYPE x gauge\nx 3\n");
    m = next();
    cr_expect(m->data_case == OTLP__METRIC__DATA_SUM && m->sum->n_data_points == 1);
    otlp__metric__free_unpacked(m, NULL);
    m = next();
    cr_expect(m->data_case == OTLP__METRIC__DATA_GAUGE && m->gauge->n_data_points == 2);
    otlp__metric__free_unpacked(m, NULL);
}

Test(otlp_metrics, no_text_that_is_not_utf8)
{
    Otlp__NumberDataPoint *p;
    Otlp__Metric *m;

    encode("x{a=\"\xff"
           "b\xc3\xbc\xc3\"} 1\n");
    m = next();
    p = m->gauge->data_points[0];
    cr_expect_str_eq(attribute(p->attributes, p->n_attributes, "a"), "?b\xc3\xbc?");
    otlp__metric__free_unpacked(m, NULL);
}
