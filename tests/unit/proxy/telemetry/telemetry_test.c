/* SPDX-License-Identifier: Apache-2.0 */
/* Counters and their text, eviction and limits of the series, the log's way out. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/log.h"
#include "proxy/telemetry/log_sink.h"
#include "proxy/telemetry/telemetry_internal.h"
#include "tests/unit/proxy/telemetry/telemetry_samples.h"

static struct loop *loop;
static struct telemetry *t;
static int log_fd;

static void setup(void)
{
    signal(SIGPIPE, SIG_IGN);
    log_fd = memfd_create("log", MFD_CLOEXEC);
    cr_assert(log_fd >= 0);
    cr_assert(loop_new(&loop) == 0);
    cr_assert(telemetry_new(loop, log_fd, false, &t) == 0);
}

/* Also: everything that was referenced is given back. */
static void teardown(void)
{
    telemetry_free(&t);
    loop_free(&loop);
    close(log_fd);
    cr_expect(sample_cart.references == 1, "%d", sample_cart.references);
    cr_expect(sample_redis.references == 1, "%d", sample_redis.references);
    cr_expect(sample_service.references == 1, "%d", sample_service.references);
}

TestSuite(telemetry, .init = setup, .fini = teardown);

#define BEFORE_FLAGS                                                                                         \
    "{reporter=\"source\",source_workload=\"cart-deploy\",source_canonical_service=\"cart\","                \
    "source_canonical_revision=\"v2\",source_workload_namespace=\"shop\","                                   \
    "source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",source_app=\"cart\",source_version=\"v2\"," \
    "source_cluster=\"Kubernetes\",destination_service=\"redis.shop.svc.cluster.local\","                    \
    "destination_service_namespace=\"shop\",destination_service_name=\"redis\",destination_workload="        \
    "\"redis\","                                                                                             \
    "destination_canonical_service=\"redis\",destination_canonical_revision=\"unknown\","                    \
    "destination_workload_namespace=\"shop\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/"     \
    "redis\","                                                                                               \
    "destination_app=\"redis\",destination_version=\"unknown\",destination_cluster=\"Kubernetes\","          \
    "request_protocol=\"tcp\",response_flags=\""
#define AFTER_FLAGS                                                                                 \
    "\",connection_security_policy=\"mutual_tls\",source_region=\"north\",source_zone=\"north-1\"," \
    "destination_region=\"unknown\",destination_zone=\"unknown\"} "

static void expect_metrics(const char *want)
{
    char *have = metrics_text(&t, 1);

    cr_expect(!strcmp(have, want), "have:\n%s\nwant:\n%s", have, want);
    free(have);
}

static bool metrics_have(const char *text)
{
    char *have = metrics_text(&t, 1);
    bool found = strstr(have, text) != NULL;

    free(have);
    return found;
}

Test(telemetry, nothing_happened_yet)
{
    expect_metrics("# HELP bruma_telemetry_series Label sets that are held, counted in each worker.\n"
                   "# TYPE bruma_telemetry_series gauge\nbruma_telemetry_series 0\n");
}

Test(telemetry, the_whole_text)
{
    struct flow flow = sample_flow(), failing = sample_flow();

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
                   "# HELP bruma_telemetry_series Label sets that are held, counted in each worker.\n"
                   "# TYPE bruma_telemetry_series gauge\n"
                   "bruma_telemetry_series 1\n");
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have("istio_tcp_connections_closed_total" BEFORE_FLAGS "-" AFTER_FLAGS "1\n"));
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
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

static uint64_t series_held(void)
{
    struct metric_series_statistics s;

    metric_series_statistics(t->table, &s);
    return s.series;
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

/* ---- eviction and limits ---- */

Test(telemetry, eviction_spares_what_is_open_or_young)
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

Test(telemetry, eviction_gives_references_back)
{
    struct flow flow = sample_flow();

    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(sample_cart.references == 2);
    metric_series_sweep(t->table, loop_now(loop) + METRIC_SERIES_IDLE, METRIC_SERIES_IDLE);
    cr_expect(sample_cart.references == 1);
    cr_expect(series_held() == 0);
}

Test(telemetry, nothing_is_evicted_during_a_scrape)
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

Test(telemetry, too_many_label_sets_are_counted_as_unknown)
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

/* ---- the log's way out ---- */

static void close_one(void)
{
    struct flow flow = sample_flow();

    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;

    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

Test(telemetry, lines_are_gathered_and_written_soon)
{
    char *text;

    close_one();
    close_one();
    text = file_text(log_fd);
    cr_expect(!*text, "not yet");
    free(text);
    run_for(loop, 200);
    text = file_text(log_fd);
    cr_expect(count_lines(text) == 2, "%s", text);
    free(text);
}

Test(telemetry, much_is_written_at_once)
{
    char *text;

    for (int i = 0; i < 100; i++)
        close_one();
    text = file_text(log_fd);
    cr_expect(count_lines(text) > 20 && count_lines(text) < 100, "%zu", count_lines(text));
    free(text);
    telemetry_free(&t);
    text = file_text(log_fd);
    cr_expect(count_lines(text) == 100, "the rest at the end: %zu", count_lines(text));
    free(text);
}

Test(telemetry, levels)
{
    struct flow flow = sample_flow();
    char *text;

    log_set_filter("info,access=debug");
    telemetry_open(t, &flow);
    log_set_filter("error");
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_early_deny(t, REPORTER_SOURCE, &flow.source_address, &flow.destination_address,
                         BRUMA_REASON_SELF_CALL, NULL);
    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_PEER_RESET, NULL);
    telemetry_free(&t);
    text = file_text(log_fd);
    cr_expect(count_lines(text) == 2, "%s", text);
    cr_expect(strstr(text, "\tdebug\taccess\tconnection opened\t") != NULL);
    cr_expect(strstr(text, "\terror\taccess\tconnection complete\t") != NULL);
    free(text);
}

static uint64_t dropped_by_metrics(void)
{
    char *text = metrics_text(&t, 1), *at = strstr(text, "bruma_access_log_dropped_lines_total ");
    uint64_t n = at ? strtoull(at + 37, NULL, 10) : 0;

    free(text);
    return n;
}

/* A reader that begins late, on the same loop. */
static struct {
    struct loop_watch watch;
    char *text;
    size_t len, lines, wanted;
} reader;

#define READER_SIZE (1u << 20)

static void on_readable(struct loop_watch *watch, uint32_t events)
{
    ssize_t n = read(watch->fd, reader.text + reader.len, READER_SIZE - 1 - reader.len);

    cr_assert(n > 0);
    for (ssize_t i = 0; i < n; i++)
        reader.lines += reader.text[reader.len + (size_t)i] == '\n';
    reader.len += (size_t)n;
    if (reader.lines >= reader.wanted)
        loop_stop(loop);
}

/* ends[0] reads, ends[1] is what is written to. */
static void blocked_reader(const int ends[2])
{
    size_t lines = 2000;
    uint64_t dropped;

    telemetry_free(&t);
    cr_assert(telemetry_new(loop, ends[1], false, &t) == 0);
    for (size_t i = 0; i < lines; i++)
        close_one(); /* must not block */
    dropped = dropped_by_metrics();
    cr_assert(dropped > 0 && dropped < lines, "%lu", (unsigned long)dropped);
    cr_expect(!(fcntl(ends[1], F_GETFL) & O_NONBLOCK), "the flags of the shared description are left alone");

    /* Now that somebody reads, all that was kept follows by itself. */
    reader.text = calloc(1, READER_SIZE);
    reader.wanted = lines - dropped;
    cr_assert(reader.text != NULL);
    cr_assert(loop_watch_add(loop, &reader.watch, ends[0], EPOLLIN, on_readable) == 0);
    run_for(loop, 10000);
    loop_watch_remove(loop, &reader.watch);
    cr_expect(reader.lines == lines - dropped, "%zu of %zu", reader.lines, lines - (size_t)dropped);
    cr_expect(dropped_by_metrics() == dropped);
    for (char *line = reader.text; *line; line = strchr(line, '\n') + 1) {
        cr_assert(!strncmp(line, "20", 2), "a line that is cut: %.40s", line);
        cr_assert(strchr(line, '\n') != NULL);
    }
    free(reader.text);
}

Test(telemetry, a_pipe_that_nobody_reads_costs_lines_and_no_time, .timeout = 30)
{
    int ends[2];

    cr_assert(pipe(ends) == 0);
    blocked_reader(ends);
    close(ends[0]);
    close(ends[1]);
}

/* As under a service manager. */
Test(telemetry, a_socket_that_nobody_reads, .timeout = 30)
{
    int ends[2];

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    blocked_reader(ends);
    close(ends[0]);
    close(ends[1]);
}

Test(telemetry, no_reader_at_all)
{
    int ends[2];

    cr_assert(pipe(ends) == 0);
    telemetry_free(&t);
    cr_assert(telemetry_new(loop, ends[1], false, &t) == 0);
    close(ends[0]);
    for (int i = 0; i < 100; i++)
        close_one();
    run_for(loop, 200);
    cr_expect(dropped_by_metrics() == 100, "%lu", (unsigned long)dropped_by_metrics());
    close(ends[1]);
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

Test(telemetry, scrapes_beside_the_worker, .timeout = 60)
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
