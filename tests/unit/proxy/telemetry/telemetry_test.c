/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of connections and their text. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/log.h"
#include "tests/unit/proxy/telemetry/telemetry_site.h"

TestSuite(telemetry, .init = telemetry_setup, .fini = telemetry_teardown);

static void expect_metrics(const char *want)
{
    char *have = metrics_text(&t, 1);

    cr_expect(!strcmp(have, want), "have:\n%s\nwant:\n%s", have, want);
    free(have);
}

Test(telemetry, nothing_happened_yet)
{
    expect_metrics("# HELP bruma_telemetry_series Label sets in memory, counted in each worker.\n"
                   "# TYPE bruma_telemetry_series gauge\nbruma_telemetry_series 0\n");
}

Test(telemetry, the_whole_text)
{
    struct flow flow = sample_flow(), failing = sample_flow();

    telemetry_measure(t, false); /* connection_metrics_test.c */
    telemetry_open(t, &flow);
    telemetry_open(t, &failing);
    telemetry_bytes(&flow, 420, 0);
    telemetry_bytes(&flow, 0, 9001);
    cr_expect(flow.received == 420 && flow.sent == 9001);
    telemetry_close(t, &failing, BRUMA_REASON_CONNECT_REFUSED, NULL);
    expect_metrics("# HELP istio_tcp_connections_opened TCP connections opened.\n"
                   "# TYPE istio_tcp_connections_opened counter\n"
                   "istio_tcp_connections_opened_total" BEFORE_FLAGS "-" AFTER_FLAGS "2\n"
                   "# HELP istio_tcp_connections_closed TCP connections closed.\n"
                   "# TYPE istio_tcp_connections_closed counter\n"
                   "istio_tcp_connections_closed_total" BEFORE_FLAGS "CONNECT" AFTER_FLAGS "1\n"
                   "# HELP istio_tcp_received_bytes Bytes from the initiators of TCP connections.\n"
                   "# TYPE istio_tcp_received_bytes counter\n"
                   "istio_tcp_received_bytes_total" BEFORE_FLAGS "-" AFTER_FLAGS "420\n"
                   "# HELP istio_tcp_sent_bytes Bytes back to the initiators of TCP connections.\n"
                   "# TYPE istio_tcp_sent_bytes counter\n"
                   "istio_tcp_sent_bytes_total" BEFORE_FLAGS "-" AFTER_FLAGS "9001\n"
                   "# HELP istio_tcp_connections_failed TCP connections that ended with an error.\n"
                   "# TYPE istio_tcp_connections_failed counter\n"
                   "istio_tcp_connections_failed_total" BEFORE_FLAGS "CONNECT" AFTER_FLAGS "1\n"
                   "# HELP istio_tcp_sockets_open TCP connections that are open now.\n"
                   "# TYPE istio_tcp_sockets_open gauge\n"
                   "istio_tcp_sockets_open{reporter=\"source\"} 1\n"
                   "# HELP bruma_failures Connections that failed or were ended, by reason.\n"
                   "# TYPE bruma_failures counter\n"
                   "bruma_failures_total{reason=\"connect_refused\"} 1\n"
                   "# HELP bruma_telemetry_series Label sets in memory, counted in each worker.\n"
                   "# TYPE bruma_telemetry_series gauge\n"
                   "bruma_telemetry_series 1\n");
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have("istio_tcp_connections_closed_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
}

/* It goes from the first endpoint to another one, of another workload. */
Test(telemetry, a_connection_that_is_tried_elsewhere_is_one_connection_to_where_it_came)
{
    struct flow flow = sample_flow();

    flow.tentative = true;
    flow.destination = &sample_cart;
    telemetry_open(t, &flow);
    cr_expect(!metrics_have("istio_tcp_sockets_open{"));
    telemetry_retry(t, &flow, BRUMA_REASON_CONNECT_REFUSED);
    flow.destination = &sample_redis;
    telemetry_open(t, &flow);
    cr_expect(!metrics_have("istio_tcp_connections_opened_total{"));
    telemetry_settle(t, &flow);
    telemetry_settle(t, &flow);
    cr_expect(metrics_have("istio_tcp_connections_opened_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 1\n"));
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have("istio_tcp_connections_closed_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("bruma_outbound_retries_total{reason=\"connect_refused\"} 1\n"));
    cr_expect(!metrics_have("destination_workload=\"cart-deploy\"") &&
              !metrics_have("bruma_failures_total{"));
}

Test(telemetry, a_connection_that_fails_everywhere_is_one_to_the_last_endpoint)
{
    struct flow flow = sample_flow();

    flow.tentative = true;
    flow.destination = &sample_cart;
    telemetry_open(t, &flow);
    telemetry_retry(t, &flow, BRUMA_REASON_CONNECT_REFUSED);
    flow.destination = &sample_redis;
    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_CONNECT_REFUSED, NULL);
    cr_expect(metrics_have("istio_tcp_connections_opened_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("istio_tcp_connections_closed_total" BEFORE_FLAGS "CONNECT" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("istio_tcp_connections_failed_total" BEFORE_FLAGS "CONNECT" AFTER_FLAGS "1\n"));
    cr_expect(!metrics_have("destination_workload=\"cart-deploy\""));
}

Test(telemetry, nothing_known)
{
    struct flow flow = {.reporter = REPORTER_DESTINATION};

    telemetry_open(t, &flow);
    cr_expect(metrics_have(
        "istio_tcp_connections_opened_total{reporter=\"destination\",source_workload=\"unknown\","));
    cr_expect(metrics_have("destination_cluster=\"unknown\",request_protocol=\"tcp\",response_flags=\"-\","
                           "connection_security_policy=\"unknown\"} 1\n"),
              "no locality if neither side is known");
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
}

Test(telemetry, plaintext_has_the_destinations_identity_and_not_the_sources)
{
    struct flow flow = sample_flow();

    flow.mutual_tls = false;
    telemetry_open(t, &flow);
    cr_expect(metrics_have(",source_principal=\"unknown\","));
    cr_expect(metrics_have(",destination_principal=\"spiffe://cluster.local/ns/shop/sa/redis\","));
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
}

Test(telemetry, baggage_stands_in_for_an_unknown_source)
{
    struct flow flow = sample_flow(), other;

    flow.reporter = REPORTER_DESTINATION;
    flow.source = NULL;
    flow.baggage =
        "k8s.cluster.name=east,k8s.namespace.name=shop,k8s.deployment.name=far-deploy,service.name=far-app,"
        "service.version=v9,cloud.region=r,cloud.availability_zone=z";
    other = flow;
    other.baggage = "k8s.namespace.name=shop,k8s.deployment.name=another";
    telemetry_open(t, &flow);
    telemetry_open(t, &other);
    cr_expect(
        metrics_have("_opened_total{reporter=\"destination\",source_workload=\"far-deploy\","
                     "source_canonical_service=\"far-app\",source_canonical_revision=\"v9\","
                     "source_workload_namespace=\"shop\","
                     "source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",source_app=\"far-deploy\","
                     "source_version=\"v9\",source_cluster=\"east\",destination_service=\"redis."));
    cr_expect(metrics_have(",source_region=\"r\",source_zone=\"z\",destination_region=\"unknown\","));
    cr_expect(metrics_have("source_workload=\"another\""),
              "the same addresses with other baggage are another series");
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_close(t, &other, BRUMA_REASON_NONE, NULL);
}

Test(telemetry, the_control_plane_outranks_baggage)
{
    struct flow flow = sample_flow();

    flow.reporter = REPORTER_DESTINATION;
    flow.baggage = "k8s.namespace.name=shop,k8s.deployment.name=liar";
    telemetry_open(t, &flow);
    cr_expect(!metrics_have("liar"));
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
}

Test(telemetry, baggage_is_believed_where_the_identity_vouches_for_it)
{
    static const char *const lies[] = {
        "k8s.namespace.name=kube-system,k8s.deployment.name=liar", /* another's namespace */
        "k8s.deployment.name=liar,service.name=liar",              /* nobody's */
        "k8s.namespace.name=sho,k8s.deployment.name=liar",
        "k8s.namespace.name=shopp,k8s.deployment.name=liar"};
    struct flow flow = sample_flow();
    char *text;

    for (int reporter = 0; reporter < 2; reporter++) {
        for (size_t i = 0; i < array_size(lies); i++) {
            flow = sample_flow();
            flow.reporter = reporter ? REPORTER_DESTINATION : REPORTER_SOURCE;
            *(reporter ? &flow.source : &flow.destination) = NULL;
            flow.baggage = lies[i];
            telemetry_open(t, &flow);
            telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
        }
    }
    /* Without an identity there is nobody to vouch. */
    flow = sample_flow();
    flow.reporter = REPORTER_DESTINATION;
    flow.source = NULL;
    flow.mutual_tls = false;
    flow.baggage = "k8s.namespace.name=shop,k8s.deployment.name=liar";
    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(!metrics_have("liar") && !metrics_have("kube-system"));
    cr_expect_eq(series_held(), 3, "one for each direction, one without TLS");
    run_for(loop, 200);
    text = file_text(log_fd);
    cr_expect(!strstr(text, "liar") && !strstr(text, "kube-system"), "nor in the access log");
    free(text);
}

Test(telemetry, a_peer_describes_itself_only_so_often)
{
    char baggage[100];
    struct flow flow = sample_flow();

    log_set_filter("off");
    flow.reporter = REPORTER_DESTINATION;
    flow.source = NULL;
    flow.baggage = baggage;
    for (int i = 0; i < 3000; i++) {
        snprintf(baggage, sizeof(baggage), "k8s.namespace.name=shop,k8s.deployment.name=w%d", i);
        telemetry_open(t, &flow);
        telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    }
    cr_expect_eq(series_held(), METRIC_SERIES_DESCRIPTIONS + 1);
    cr_expect(metrics_have("bruma_telemetry_undescribed_connections_total 2984\n"));
    cr_expect(metrics_have("source_workload=\"w15\"") && !metrics_have("source_workload=\"w16\""));
    /* Another peer has as many of its own. */
    flow.source_identity = "spiffe://cluster.local/ns/shop/sa/other";
    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have("source_workload=\"w2999\""));
    /* What was not seen for an hour makes room. */
    metric_series_sweep(t->table, loop_now(loop) + METRIC_SERIES_IDLE, METRIC_SERIES_IDLE);
    flow.source_identity = sample_cart.identity;
    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have("source_workload=\"w2999\""));
}

Test(telemetry, another_identity_is_another_series)
{
    struct flow flow = sample_flow(), other = sample_flow();

    other.source_identity = "spiffe://cluster.local/ns/shop/sa/waypoint";
    telemetry_open(t, &flow);
    telemetry_open(t, &other);
    cr_expect(flow.series != other.series);
    cr_expect(metrics_have("sa/waypoint"));
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_close(t, &other, BRUMA_REASON_NONE, NULL);
}

Test(telemetry, another_pod_of_the_same_workload_is_the_same_series)
{
    struct flow flow = sample_flow(), other = sample_flow();
    struct workload twin = sample_cart;

    twin.name = "cart-6c9f-other";
    other.source = &twin;
    telemetry_open(t, &flow);
    telemetry_open(t, &other);
    cr_expect(flow.series == other.series);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_close(t, &other, BRUMA_REASON_NONE, NULL);
    /* the cache holds it until its worker ends */
    telemetry_free(&t);
    cr_expect(twin.references == 1);
}

Test(telemetry, label_values_are_escaped_and_valid)
{
    struct workload w = sample_cart;
    struct flow flow = sample_flow();

    w.workload_name = "a\"b\\c\nd\xff";
    flow.source = &w;
    telemetry_open(t, &flow);
    cr_expect(metrics_have("source_workload=\"a\\\"b\\\\c\\nd\xef\xbf\xbd\","));
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_free(&t);
}

Test(telemetry, response_flags)
{
    static const struct {
        enum bruma_reason reason;
        const char *flag;
    } cases[] = {
        {BRUMA_REASON_POLICY_DENIED, "DENY"},
        {BRUMA_REASON_HBONE_BLOCKED, "NETWORK_POLICY"},
        {BRUMA_REASON_CONNECT_TIMEOUT, "CONNECT"},
        {BRUMA_REASON_HTTP2_ERROR, "H2_HANDSHAKE_FAILURE"},
        {BRUMA_REASON_PEER_UNTRUSTED, "IDENTITY_ERROR"},
        {BRUMA_REASON_CERTIFICATE_REVOKED, "CERT_REVOKED"},
        {BRUMA_REASON_TLS_HANDSHAKE_FAILED, "TLS_FAILURE"},
    };
    char want[64];

    for (size_t i = 0; i < array_size(cases); i++) {
        struct flow flow = sample_flow();

        telemetry_open(t, &flow);
        telemetry_close(t, &flow, cases[i].reason, NULL);
        snprintf(want, sizeof(want), "response_flags=\"%s\"", cases[i].flag);
        cr_expect(metrics_have(want), "%s", want);
    }
}

Test(telemetry, an_end_without_a_flag_is_no_failed_connection_but_has_its_reason)
{
    struct flow flow = sample_flow();

    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_POD_REMOVED, NULL);
    cr_expect(!metrics_have("istio_tcp_connections_failed"));
    cr_expect(metrics_have("bruma_failures_total{reason=\"pod_removed\"} 1\n"));
}

Test(telemetry, early_denies_count_as_failures_only)
{
    struct flow flow = sample_flow();

    telemetry_early_deny(t, REPORTER_SOURCE, &flow.source_address, &flow.destination_address,
                         BRUMA_REASON_NO_HEALTHY_UPSTREAM, NULL);
    cr_expect(metrics_have("bruma_failures_total{reason=\"no_healthy_upstream\"} 1\n"));
    cr_expect(!metrics_have("istio_tcp"));
}

Test(telemetry, closing_twice_or_without_opening_is_harmless)
{
    struct flow flow = sample_flow();

    telemetry_bytes(&flow, 1, 1);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
}

Test(telemetry, workers_are_added_up)
{
    struct flow here = sample_flow(), there = sample_flow(), inbound = sample_flow();
    struct telemetry *second;
    char *text;

    cr_assert(telemetry_new(loop, log_fd, false, &second) == 0);
    inbound.reporter = REPORTER_DESTINATION;
    telemetry_open(t, &here);
    telemetry_open(second, &there);
    telemetry_open(second, &inbound);
    telemetry_bytes(&here, 1, 10);
    telemetry_bytes(&there, 2, 20);
    text = metrics_text((struct telemetry *[]){t, second}, 2);
    cr_expect(strstr(text, "istio_tcp_connections_opened_total" BEFORE_FLAGS "-" AFTER_FLAGS "2\n") != NULL,
              "%s", text);
    cr_expect(strstr(text, "istio_tcp_received_bytes_total" BEFORE_FLAGS "-" AFTER_FLAGS "3\n") != NULL);
    cr_expect(strstr(text, "istio_tcp_sent_bytes_total" BEFORE_FLAGS "-" AFTER_FLAGS "30\n") != NULL);
    cr_expect(strstr(text, "istio_tcp_sockets_open{reporter=\"source\"} 2\nistio_tcp_sockets_open{reporter="
                           "\"destination\"} 1\n") != NULL);
    free(text);
    telemetry_close(t, &here, BRUMA_REASON_NONE, NULL);
    telemetry_close(second, &there, BRUMA_REASON_NONE, NULL);
    telemetry_close(second, &inbound, BRUMA_REASON_NONE, NULL);
    telemetry_free(&second);
}

/* ---- connections that go past the proxy ---- */

static bool log_has(const char *part)
{
    char *text;
    bool found;

    run_for(loop, 150);
    text = file_text(log_fd);
    found = strstr(text, part) != NULL;
    free(text);
    return found;
}

static uint64_t monotonic(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

Test(telemetry, one_that_is_told_later_has_its_own_times)
{
    struct flow flow = sample_flow();
    uint64_t now = monotonic();
    struct tm at = {};
    char *text;

    flow.direct = true;
    telemetry_open_since(t, &flow, now - 12000000000u, false);
    telemetry_bytes(&flow, 1, 2);
    telemetry_close_at(t, &flow, BRUMA_REASON_NONE, NULL, now - 10000000000u);
    cr_expect(log_has(" duration=\"2000ms\" way=\"direct\"\n"));
    text = file_text(log_fd);
    cr_assert(sscanf(text, "%d-%d-%dT%d:%d:%d", &at.tm_year, &at.tm_mon, &at.tm_mday, &at.tm_hour, &at.tm_min,
                     &at.tm_sec) == 6);
    at.tm_year -= 1900;
    at.tm_mon--;
    cr_expect(time(NULL) - timegm(&at) >= 10 && time(NULL) - timegm(&at) < 300);
    free(text);
    cr_expect(metrics_have("istio_tcp_connections_opened_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
}

Test(telemetry, an_end_before_the_beginning_takes_no_time)
{
    struct flow flow = sample_flow();

    telemetry_open_since(t, &flow, monotonic(), false);
    telemetry_close_at(t, &flow, BRUMA_REASON_NONE, NULL, 1);
    cr_expect(log_has(" duration=\"0ms\"\n"));
}

Test(telemetry, one_that_another_process_has_counted_is_open_and_ends_here)
{
    struct flow flow = sample_flow();

    telemetry_open_since(t, &flow, monotonic(), true);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 1\n"));
    cr_expect(!metrics_have("istio_tcp_connections_opened_total{"));
    telemetry_bytes(&flow, 5, 6);
    cr_expect(metrics_have("istio_tcp_received_bytes_total" BEFORE_FLAGS "-" AFTER_FLAGS "5\n"));
    telemetry_close_at(t, &flow, BRUMA_REASON_NONE, NULL, monotonic());
    cr_expect(metrics_have("istio_tcp_connections_opened_total" BEFORE_FLAGS "-" AFTER_FLAGS "0\n"));
    cr_expect(metrics_have("istio_tcp_connections_closed_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
}

Test(telemetry, one_that_is_forgotten_has_no_line_and_is_not_open)
{
    struct flow lives = sample_flow(), lost = sample_flow();

    telemetry_open_since(t, &lives, monotonic(), false);
    telemetry_open_since(t, &lost, monotonic(), false);
    telemetry_forget(t, &lives, false);
    telemetry_forget(t, &lost, true);
    telemetry_forget(t, &lost, true);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
    cr_expect(metrics_have("istio_tcp_connections_closed_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(!log_has("connection complete"));
}

Test(telemetry, those_that_are_repeated_are_counted)
{
    struct flow flow = sample_flow();

    telemetry_open_since(t, &flow, monotonic(), false);
    telemetry_repeat(t, &flow, BRUMA_REASON_POLICY_DENIED, 41);
    telemetry_close_at(t, &flow, BRUMA_REASON_POLICY_DENIED, NULL, monotonic());
    cr_expect(metrics_have("istio_tcp_connections_opened_total" BEFORE_FLAGS "-" AFTER_FLAGS "42\n"));
    cr_expect(metrics_have("istio_tcp_connections_closed_total" BEFORE_FLAGS "DENY" AFTER_FLAGS "42\n"));
    cr_expect(metrics_have("istio_tcp_connections_failed_total" BEFORE_FLAGS "DENY" AFTER_FLAGS "42\n"));
    cr_expect(metrics_have("bruma_failures_total{reason=\"policy_denied\"} 42\n"));
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
}
