/* SPDX-License-Identifier: Apache-2.0 */
/* Label sets are let go of when they are old, and are not made without end. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "tests/unit/proxy/telemetry/telemetry_site.h"

TestSuite(metric_limits, .init = telemetry_setup, .fini = telemetry_teardown);

Test(metric_limits, eviction_spares_what_is_open_or_young)
{
    struct flow open = sample_flow(), old = sample_flow(), young = sample_flow();
    uint64_t now = loop_now(loop);

    old.reporter = REPORTER_DESTINATION;
    young.service = NULL;
    telemetry_open(t, &open);
    telemetry_open(t, &old);
    telemetry_open(t, &young);
    telemetry_close(t, &old, BRUMA_REASON_NONE, NULL);
    telemetry_close(t, &young, BRUMA_REASON_NONE, NULL);
    metric_series_sweep(t->table, now + METRIC_SERIES_IDLE - 1, METRIC_SERIES_IDLE);
    cr_expect(series_held() == 3);
    metric_series_get(t->table, &young, now + 1000);
    metric_series_sweep(t->table, now + METRIC_SERIES_IDLE, METRIC_SERIES_IDLE);
    cr_expect(series_held() == 2, "%lu", (unsigned long)series_held());
    cr_expect(metrics_have("bruma_telemetry_series_evicted_total 1\n"));
    cr_expect(!metrics_have("reporter=\"destination\",source_workload"));
    /* The one that was open still counts. */
    telemetry_bytes(&open, 5, 0);
    cr_expect(metrics_have("istio_tcp_received_bytes_total" BEFORE_FLAGS "-" AFTER_FLAGS "5\n"));
    telemetry_close(t, &open, BRUMA_REASON_NONE, NULL);
    /* A label set that comes back begins again. */
    old.reporter = REPORTER_DESTINATION;
    telemetry_open(t, &old);
    cr_expect(metrics_have("reporter=\"destination\",source_workload"));
    telemetry_close(t, &old, BRUMA_REASON_NONE, NULL);
}

Test(metric_limits, eviction_gives_references_back)
{
    struct flow flow = sample_flow();

    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(sample_cart.references == 2);
    metric_series_sweep(t->table, loop_now(loop) + METRIC_SERIES_IDLE, METRIC_SERIES_IDLE);
    cr_expect(sample_cart.references == 1);
    cr_expect(series_held() == 0);
}

Test(metric_limits, nothing_is_evicted_during_a_scrape)
{
    struct metric_series **all;
    struct flow flow = sample_flow();
    size_t len;

    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_assert(metric_series_list(t->table, &all, &len) == 0);
    cr_assert(len == 1);
    metric_series_sweep(t->table, loop_now(loop) + METRIC_SERIES_IDLE, METRIC_SERIES_IDLE);
    cr_expect(all[0]->opened == 1);
    cr_expect(series_held() == 1);
    metric_series_release(t->table);
    free(all);
    metric_series_sweep(t->table, loop_now(loop) + METRIC_SERIES_IDLE, METRIC_SERIES_IDLE);
    cr_expect(series_held() == 0);
}

Test(metric_limits, too_many_label_sets_are_counted_as_unknown)
{
    char identity[64];
    struct flow flow = {.reporter = REPORTER_DESTINATION, .mutual_tls = true, .source_identity = identity};
    uint64_t total = 0;
    char *text, *at;

    log_set_filter("off");
    for (int i = 0; i < METRIC_SERIES_MAX + 25; i++) {
        snprintf(identity, sizeof(identity), "spiffe://cluster.local/ns/w%d/sa/x", i);
        telemetry_open(t, &flow);
        telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    }
    cr_expect(series_held() == METRIC_SERIES_MAX);
    text = metrics_text(&t, 1);
    cr_expect(strstr(text, "bruma_telemetry_overflow_connections_total 25\n") != NULL);
    cr_expect(strstr(
        text, "istio_tcp_connections_opened_total{reporter=\"destination\",source_workload=\"unknown\","));
    /* Line by line: strstr() of a sanitizer looks at the whole rest of the text each time. */
    for (at = text; *at; at = strchr(at, '\n') + 1) {
        const char *value = strchr(at, '}');

        if (strncmp(at, "istio_tcp_connections_opened_total{", 35) != 0)
            continue;
        cr_assert(value != NULL);
        total += strtoull(value + 2, NULL, 10);
    }
    cr_expect(total == METRIC_SERIES_MAX + 25, "no connection is lost from the sum: %lu",
              (unsigned long)total);
    free(text);
}

/* ---- a scrape beside the worker ---- */

static bool scraping;

static void *scrape(void *data)
{
    while (__atomic_load_n(&scraping, __ATOMIC_ACQUIRE)) {
        char *text = metrics_text(&t, 1);

        cr_assert(text != NULL);
        free(text);
    }
    return NULL;
}

Test(metric_limits, scrapes_beside_the_worker, .timeout = 60)
{
    char baggage[64];
    struct flow flow = sample_flow();
    pthread_t thread;
    uint64_t now = loop_now(loop);

    log_set_filter("error");
    flow.source = NULL;
    flow.reporter = REPORTER_DESTINATION;
    flow.baggage = baggage;
    scraping = true;
    cr_assert(pthread_create(&thread, NULL, scrape, NULL) == 0);
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(baggage, sizeof(baggage), "k8s.namespace.name=shop,k8s.deployment.name=w%u", i % 300);
        telemetry_open(t, &flow);
        telemetry_bytes(&flow, 10, 20);
        telemetry_close(t, &flow, i % 3 ? BRUMA_REASON_NONE : BRUMA_REASON_PEER_RESET, NULL);
        if (i % 100 == 0)
            metric_series_sweep(t->table, now + METRIC_SERIES_IDLE * (1 + i), METRIC_SERIES_IDLE);
    }
    __atomic_store_n(&scraping, false, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    cr_expect(metrics_have("bruma_failures_total{reason=\"peer_reset\"} 1000\n"));
}
