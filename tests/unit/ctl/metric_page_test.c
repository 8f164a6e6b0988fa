/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/metric_page.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/top_rows.h"

#define LABELS(reporter, from, to, service)                                                              \
    "{reporter=\"" reporter "\",source_workload=\"" from "\",source_workload_namespace=\"a\","           \
    "destination_service=\"" service "\",destination_service_namespace=\"b\",destination_workload=\"" to \
    "\",destination_workload_namespace=\"b\"}"

static struct metric_page page_of(const char *text)
{
    struct metric_page page;

    cr_assert(metric_page_parse(strdup(text), &page) == 0);
    return page;
}

Test(metric_page, what_is_of_interest)
{
    struct metric_page p =
        page_of("# TYPE istio_tcp_connections_opened counter\n"
                "istio_tcp_connections_opened_total{a=\"x}\\\"y\",b=\"1\"} 5\n"
                "istio_tcp_connections_opened_total{a=\"no end 7\n"
                "istio_tcp_connections_opened_total{a=\"z\"} NaN\n"
                "istio_tcp_connections_opened_total{a=\"z\"} -4\n"
                "istio_tcp_connections_opened_totally{a=\"z\"} 4\n"
                "bruma_failures_total{reason=\"x\"} 2\nbruma_failures_total{reason=\"y\"} 3\n"
                "process_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 4096\n"
                "process_start_time_seconds\nnonsense\n\n{} 5\n# EOF");
    char value[METRIC_VALUE_MAX];

    cr_assert(p.len == 1);
    cr_expect(p.samples[0].kind == METRIC_OPENED && p.samples[0].value == 5);
    cr_expect_str_eq(metric_label(&p.samples[0], "a", value), "x}\"y");
    cr_expect_str_eq(metric_label(&p.samples[0], "b", value), "1");
    cr_expect_str_eq(metric_label(&p.samples[0], "c", value), "");
    cr_expect(p.failures == 5 && p.cpu == 1.5 && p.memory == 4096 && p.started == -1);
    metric_page_free(&p);
    cr_assert(metric_page_parse(NULL, &p) == 0 && p.len == 0);
    metric_page_free(&p);
}

Test(metric_page, labels_that_look_like_others)
{
    struct metric_page p =
        page_of("istio_tcp_sent_bytes_total{x=\",a=\\\"no\\\"\",aa=\"2\",a=\"b\\\\n\\n\",e=\"\"} 1\n");
    char value[METRIC_VALUE_MAX], *text;

    cr_assert(p.len == 1);
    cr_expect_str_eq(metric_label(&p.samples[0], "a", value), "b\\n\n");
    cr_expect_str_eq(metric_label(&p.samples[0], "aa", value), "2");
    cr_expect_str_eq(metric_label(&p.samples[0], "e", value), "");
    metric_page_free(&p);
    cr_assert(asprintf(&text, "istio_tcp_sent_bytes_total{a=\"%0*d\"} 1\n", 5000, 0) > 0);
    p = page_of(text);
    cr_expect(p.len == 1 && strlen(metric_label(&p.samples[0], "a", value)) == METRIC_VALUE_MAX - 1);
    metric_page_free(&p);
    free(text);
}

static const struct top_row *row_of(struct top_rows *rows, const char *name)
{
    size_t len;
    struct top_row *const *all = top_rows_sorted(rows, TOP_NAME, &len);

    for (size_t i = 0; i < len; i++)
        if (!strcmp(all[i]->name, name))
            return all[i];
    return NULL;
}

Test(top_rows, each_end_tells_of_its_own)
{
    struct metric_page before =
        page_of("istio_tcp_received_bytes_total" LABELS("source", "web", "cart", "cart.b") " 100\n");
    struct metric_page now = page_of("istio_tcp_received_bytes_total" LABELS(
        "source", "web", "cart",
        "cart.b") " 300\n"
                  "istio_tcp_sent_bytes_total" LABELS(
                      "source", "web", "cart",
                      "cart.b") " 50\n"
                                "istio_tcp_connections_opened_total" LABELS(
                                    "source", "web", "cart",
                                    "cart.b") " 3\n"
                                              "istio_tcp_connections_closed_total" LABELS(
                                                  "source", "web", "cart", "cart.b") " 1\n");
    struct metric_page other =
        page_of("istio_tcp_received_bytes_total" LABELS("destination", "web", "cart", "unknown") " 40\n");
    struct metric_page none = {};
    struct top_rows *rows = top_rows_new(TOP_WORKLOAD, NULL);
    const struct top_row *web, *cart;
    size_t len;

    cr_assert(top_rows_add(rows, 0, &before, &now, 2) == 0 && top_rows_add(rows, 1, &none, &other, 2) == 0);
    web = row_of(rows, "a/web");
    cart = row_of(rows, "b/cart");
    cr_assert(web && cart);
    cr_expect(web->out == 100 && web->in == 25 && web->open == 2 && web->opened == 1.5 && web->nodes == 1);
    cr_expect(cart->in == 20 && cart->out == 0 && cart->nodes == 1);
    cr_expect_str_eq(top_rows_sorted(rows, TOP_BYTES, &len)[0]->name, "a/web");
    cr_expect(len == 2);
    top_rows_free(&rows);

    rows = top_rows_new(TOP_SERVICE, "b");
    cr_assert(top_rows_add(rows, 0, &before, &now, 2) == 0 && top_rows_add(rows, 1, &none, &other, 2) == 0);
    cr_expect(row_of(rows, "cart.b") && row_of(rows, "cart.b")->in == 100 && !row_of(rows, "unknown"));
    top_rows_free(&rows);

    rows = top_rows_new(TOP_NAMESPACE, "nobody");
    cr_assert(top_rows_add(rows, 0, &before, &now, 2) == 0);
    (void)top_rows_sorted(rows, TOP_NAME, &len);
    cr_expect(len == 0);
    top_rows_free(&rows);
    metric_page_free(&before);
    metric_page_free(&now);
    metric_page_free(&other);
}

Test(top_rows, a_counter_that_began_anew)
{
    struct metric_page before =
        page_of("istio_tcp_connections_failed_total" LABELS("destination", "w", "c", "s") " 900\n");
    struct metric_page now =
        page_of("istio_tcp_connections_failed_total" LABELS("destination", "w", "c", "s") " 4\n");
    struct top_rows *rows = top_rows_new(TOP_WORKLOAD, NULL);

    cr_assert(top_rows_add(rows, 0, &before, &now, 1) == 0);
    cr_expect(row_of(rows, "b/c")->failed == 4);
    top_rows_free(&rows);
    metric_page_free(&before);
    metric_page_free(&now);
    cr_expect(top_by_from("pods") == TOP_BYS && top_by_from("service") == TOP_SERVICE);
    cr_expect(top_sort_from("") == TOP_SORTS && top_sort_from("failed") == TOP_FAILED);
}
