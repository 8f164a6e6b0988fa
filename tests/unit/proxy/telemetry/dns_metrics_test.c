/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 8.1: the metrics of DNS queries. */
#include "proxy/telemetry/dns_metrics.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proxy/telemetry/telemetry_internal.h"

static struct telemetry workers[2];

static void setup(void)
{
    for (int i = 0; i < 2; i++)
        cr_assert_eq(dns_metrics_new(&workers[i].dns), 0);
}

static void teardown(void)
{
    for (int i = 0; i < 2; i++)
        dns_metrics_free(&workers[i].dns);
}

TestSuite(dns_metrics, .init = setup, .fini = teardown);

static char *page(void)
{
    struct dns_metrics *all[] = {workers[0].dns, workers[1].dns};
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    dns_metrics_write(all, 2, out);
    fclose(out);
    return text;
}

static const struct workload web = {.canonical_name = "web", .canonical_revision = "v1"};

#define LABELS                                                                                             \
    "request_query_type=\"a\",request_protocol=\"udp\",source_canonical_service=\"web\",source_canonical_" \
    "revision=\"v1\""

Test(dns_metrics, nothing_is_written_without_a_sample)
{
    char *text = page();

    cr_expect_str_eq(text, "");
    free(text);
}

Test(dns_metrics, workers_are_added_up)
{
    char *text;

    for (int i = 0; i < 2; i++) {
        struct dns_series *s = dns_metrics_of(&workers[i], "a", false, &web);

        cr_assert_eq(s, dns_metrics_of(&workers[i], "a", false, &web));
        dns_metrics_request(s);
        dns_metrics_upstream(s);
        dns_metrics_answered(s, i ? 400000 : 30000000);
    }
    text = page();
    cr_expect(strstr(text, "# TYPE istio_dns_requests counter\nistio_dns_requests_total{" LABELS "} 2\n"));
    cr_expect(strstr(text, "istio_dns_upstream_requests_total{" LABELS "} 2\n"));
    cr_expect(
        strstr(text, "istio_dns_upstream_request_duration_seconds_bucket{" LABELS ",le=\"0.0005\"} 1\n"));
    cr_expect(strstr(text, "istio_dns_upstream_request_duration_seconds_bucket{" LABELS ",le=\"0.01\"} 1\n"));
    cr_expect(strstr(text, "istio_dns_upstream_request_duration_seconds_bucket{" LABELS ",le=\"0.1\"} 2\n"));
    cr_expect(strstr(text, "istio_dns_upstream_request_duration_seconds_bucket{" LABELS ",le=\"+Inf\"} 2\n"));
    cr_expect(strstr(text, "istio_dns_upstream_request_duration_seconds_sum{" LABELS "} 0.030400\n"));
    cr_expect(strstr(text, "istio_dns_upstream_request_duration_seconds_count{" LABELS "} 2\n"));
    cr_expect(!strstr(text, "failures"));
    free(text);
}

Test(dns_metrics, who_is_not_known_is_unknown)
{
    char *text;

    dns_metrics_failed(dns_metrics_of(&workers[0], "srv", true, NULL));
    text = page();
    cr_expect(strstr(text,
                     "istio_dns_upstream_failures_total{request_query_type=\"srv\",request_protocol=\"tcp\","
                     "source_canonical_service=\"unknown\",source_canonical_revision=\"unknown\"} 1\n"));
    free(text);
}

Test(dns_metrics, label_sets_are_bounded)
{
    char name[32], *text;
    size_t lines = 0;

    for (int i = 0; i < 10000; i++) {
        const struct workload w = {.canonical_name = name, .canonical_revision = "r"};

        snprintf(name, sizeof(name), "service-%d", i);
        dns_metrics_request(dns_metrics_of(&workers[0], "a", false, &w));
    }
    text = page();
    for (char *p = text; (p = strstr(p, "istio_dns_requests_total{")); p++)
        lines++;
    cr_expect_leq(lines, 2100);
    cr_expect(strstr(text, "source_canonical_service=\"unknown\""));
    free(text);
}
