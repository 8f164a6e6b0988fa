/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of events: lines, metrics, and who lives. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/log.h"
#include "proxy/flows/account.h"
#include "tests/unit/proxy/flows/flows_site.h"

#define OUTSIDE "10.9.9.9:80"

static struct account a;
static struct telemetry *t;
static int log_fd;

static void setup(void)
{
    site_setup();
    log_set_filter("debug");
    log_fd = memfd_create("log", MFD_CLOEXEC);
    cr_assert(log_fd >= 0 && telemetry_new(site_proxy.loop, log_fd, false, &t) == 0);
    memset(&a, 0, sizeof(a));
    a.telemetry = t;
    a.state = site_proxy.state;
    a.random = 1;
    a.since = 1;
    cr_assert(flow_pods_new(&a.pods) == 0 && account_init(&a) == 0);
    cr_assert(flow_pods_add(a.pods, site_pod) == 0);
}

static void teardown(void)
{
    account_clear(&a);
    flow_pods_free(&a.pods);
    telemetry_free(&t);
    close(log_fd);
    site_teardown();
}

TestSuite(flow_account, .init = setup, .fini = teardown);

static void tell(const struct bruma_flow_event *e)
{
    account_event(&a, e, sizeof(*e));
}

/* Lines without their times. The telemetry is another one afterwards, for which only the lines count. */
static const char *lines(void)
{
    static char text[8192], out[8192];
    ssize_t n;

    account_clear(&a);
    telemetry_free(&t);
    n = pread(log_fd, text, sizeof(text) - 1, 0);
    cr_assert(n >= 0);
    text[n] = out[0] = '\0';
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        strcat(out, strchr(line, '\t') + 1);
        strcat(out, "\n");
    }
    cr_assert(telemetry_new(site_proxy.loop, log_fd, false, &t) == 0);
    a.telemetry = t;
    cr_assert(account_init(&a) == 0);
    return out;
}

static void expect_lines(const char *want)
{
    const char *have = lines();

    cr_expect(!strcmp(have, want), "have:\n%s\nwant:\n%s", have, want);
}

static bool metrics_have(const char *part)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    bool found;

    telemetry_write_metrics(&t, 1, out);
    fclose(out);
    found = strstr(text, part) != NULL;
    free(text);
    return found;
}

/* The value of the first series of the family; -1: there is none. */
static long metric(const char *family)
{
    char *text = NULL, name[100], *at;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    long value = -1;

    telemetry_write_metrics(&t, 1, out);
    fclose(out);
    snprintf(name, sizeof(name), "\n%s{", family);
    at = strstr(text, name);
    if (at)
        value = atol(strstr(at, "} ") + 2);
    free(text);
    return value;
}

#define CART "src.workload=\"cart\" src.namespace=\"shop\" src.cluster=\"Kubernetes\" "

Test(flow_account, a_connection_to_outside_has_the_lines_that_the_proxy_writes)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0),
                            closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 1500);

    tell(&opened);
    cr_expect(a.live == 1 && account_find(&a, FIRST_SOCKET) != NULL);
    cr_expect(metric("istio_tcp_connections_opened_total") == 1);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 1\n"));
    closed.flow.opened_nanoseconds = opened.flow.opened_nanoseconds;
    closed.now_nanoseconds = opened.flow.opened_nanoseconds + 1500000000u;
    closed.sent = 11;
    closed.received = 22;
    tell(&closed);
    cr_expect(a.live == 0 && account_find(&a, FIRST_SOCKET) == NULL);
    cr_expect(metric("istio_tcp_connections_opened_total") == 1);
    cr_expect(metric("istio_tcp_connections_closed_total") == 1);
    cr_expect(metric("istio_tcp_received_bytes_total") == 11);
    cr_expect(metric("istio_tcp_sent_bytes_total") == 22);
    cr_expect(metric("istio_tcp_connections_failed_total") == -1);
    cr_expect(metrics_have("source_workload=\"cart\""));
    cr_expect(metrics_have("destination_workload=\"unknown\""));
    expect_lines(
        "debug\taccess\tconnection opened\tsrc.addr=10.1.0.7:40000 " CART
        "dst.addr=10.9.9.9:80 direction=\"outbound\" way=\"direct\"\n"
        "info\taccess\tconnection complete\tsrc.addr=10.1.0.7:40000 " CART
        "dst.addr=10.9.9.9:80 direction=\"outbound\" bytes_sent=11 bytes_recv=22 duration=\"1500ms\" "
        "way=\"direct\"\n");
}

Test(flow_account, a_workload_that_takes_no_tunnels_is_named)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, "10.1.3.4:80", 0);

    tell(&e);
    cr_expect(metrics_have("destination_workload=\"old\""));
}

/* It was not known when the connection was made: that would have gone by a tunnel. */
Test(flow_account, a_workload_that_is_known_since_is_not_named)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, "10.1.3.9:80", 0);

    tell(&e);
    cr_expect(metrics_have("destination_workload=\"unknown\""));
    cr_expect(!metrics_have("redis"));
}

Test(flow_account, one_from_outside_has_the_lines_that_the_proxy_writes)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_PASS, "10.1.3.9:5555", 0),
                            closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_PASS, "10.1.3.9:5555", 0);

    tell(&opened);
    closed.sent = 11;
    closed.received = 22;
    tell(&closed);
    cr_expect(metric("istio_tcp_received_bytes_total") == 22); /* from who has called */
    cr_expect(metric("istio_tcp_sent_bytes_total") == 11);
    cr_expect(metrics_have("reporter=\"destination\",source_workload=\"redis\""));
    cr_expect(metrics_have("connection_security_policy=\"unknown\""));
    cr_expect(strstr(lines(),
                     "info\taccess\tconnection complete\tsrc.addr=10.1.3.9:5555 "
                     "src.workload=\"redis\" src.namespace=\"shop\" src.cluster=\"Kubernetes\" "
                     "dst.addr=10.1.0.7:40000 dst.workload=\"cart\" dst.namespace=\"shop\" "
                     "dst.cluster=\"Kubernetes\" direction=\"inbound\" bytes_sent=11 bytes_recv=22 ") !=
              NULL);
}

Test(flow_account, both_sides_of_one_between_pods_of_the_node)
{
    struct bruma_flow_event calling = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_NODE, "10.1.3.9:80", 0),
                            called =
                                site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_NODE_INBOUND, "10.1.3.9:80", 0);

    tell(&calling);
    cr_expect(metrics_have("reporter=\"source\",source_workload=\"cart\""));
    cr_expect(metrics_have("destination_workload=\"redis\""));
    called.socket_cookie++;
    tell(&called);
    cr_expect(metrics_have("reporter=\"destination\",source_workload=\"redis\""));
    cr_expect(a.live == 2);
    cr_expect(metrics_have("source_principal=\"spiffe://cluster.local/ns/shop/sa/redis\""));
    cr_expect(metrics_have("connection_security_policy=\"unknown\""));
}

Test(flow_account, a_connect_that_failed_has_todays_reason)
{
    static const struct {
        unsigned error;
        const char *text;
    } all[] = {
        {ECONNREFUSED, "error=\"connect_refused: Connection refused\""},
        {ETIMEDOUT, "error=\"connect_timeout: Connection timed out\""},
        {EHOSTUNREACH, "error=\"connect_unreachable: No route to host\""},
        {EPROTO, "error=\"connect_failed: Protocol error\""},
        {0, "error=\"connect_timeout: the application gave up before there was an answer\""},
    };

    for (size_t i = 0; i < array_size(all); i++) {
        struct bruma_flow_event e = site_event(BRUMA_FLOW_FAILED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 20);
        const char *text;

        e.error = all[i].error;
        tell(&e);
        cr_expect(a.live == 0);
        cr_expect(metric("istio_tcp_connections_opened_total") == 1);
        cr_expect(metric("istio_tcp_connections_failed_total") == 1);
        cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
        text = lines();
        cr_expect(strstr(text, all[i].text) && strstr(text, "error\taccess\tconnection complete\t") &&
                      strstr(text, "duration=\"20ms\""),
                  "%s", text);
        cr_assert(ftruncate(log_fd, 0) == 0 && lseek(log_fd, 0, SEEK_SET) == 0);
    }
}

Test(flow_account, a_reset_is_an_end_and_one_without_an_answer_of_the_meshs_is_told)
{
    static const struct {
        const char *remote;
        unsigned error;
        unsigned long sent, received;
        bool told;
    } all[] = {
        {"10.1.3.4:80", ECONNRESET, 5, 0, true},  {"10.1.3.4:80", EPIPE, 5, 0, true},
        {"10.1.3.4:80", ECONNRESET, 5, 1, false}, {"10.1.3.4:80", ECONNRESET, 0, 0, false},
        {"10.1.3.4:80", ETIMEDOUT, 5, 0, false},  {OUTSIDE, ECONNRESET, 5, 0, false},
    };

    for (size_t i = 0; i < array_size(all); i++) {
        struct bruma_flow_event e = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, all[i].remote, 0);

        e.error = all[i].error;
        e.sent = all[i].sent;
        e.received = all[i].received;
        tell(&e);
        cr_expect(metrics_have("bruma_failures_total{reason=\"plaintext_reset\"} 1") == all[i].told, "%zu",
                  i);
        (void)lines();
    }
}

Test(flow_account, one_that_was_destroyed_has_ended_by_policy)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_PASS, OUTSIDE, 0);

    e.error = ECONNABORTED;
    tell(&e);
    cr_expect(metrics_have("bruma_failures_total{reason=\"policy_changed\"} 1"));
    cr_expect(strstr(lines(), "error=\"policy_changed: connection closed due to policy change\"") != NULL);
}

static int deny_all(void)
{
    int r = POLICY(site_proxy.state, .name = "lock", .namespace = "shop", .scope = 1);

    state_commit(site_proxy.state);
    return r;
}

Test(flow_account, those_that_are_refused_are_counted_and_say_which_policy_it_was)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_REFUSED, BRUMA_DIRECT_REFUSE, OUTSIDE, 0);
    const char *text;

    cr_assert(deny_all() == 0);
    tell(&e);
    e.repeated = 99;
    tell(&e);
    cr_expect(a.live == 0);
    cr_expect(metric("istio_tcp_connections_opened_total") == 101);
    cr_expect(metric("istio_tcp_connections_closed_total") == 101);
    cr_expect(metric("istio_tcp_connections_failed_total") == 101);
    cr_expect(metrics_have("bruma_failures_total{reason=\"policy_denied\"} 101\n"));
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"destination\"} 0\n"));
    text = lines();
    cr_expect(strstr(text, "error=\"policy_denied: ALLOW policies exist, none matched\"") ||
                  strstr(text, "error=\"policy_denied: "),
              "%s", text);
    cr_expect(strstr(text, "; 99 more were refused\"") != NULL, "%s", text);
}

/* ---- bytes while it lives ---- */

Test(flow_account, what_was_counted_while_it_lived_is_not_counted_again)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0),
                            closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    tell(&opened);
    account_progress(account_find(&a, FIRST_SOCKET), 100, 1000);
    cr_expect(metric("istio_tcp_received_bytes_total") == 100);
    account_progress(account_find(&a, FIRST_SOCKET), 99, 1000); /* nothing is taken back */
    account_progress(account_find(&a, FIRST_SOCKET), 150, 1000);
    cr_expect(metric("istio_tcp_received_bytes_total") == 150);
    closed.sent = 151;
    closed.received = 1001;
    tell(&closed);
    cr_expect(metric("istio_tcp_received_bytes_total") == 151);
    cr_expect(metric("istio_tcp_sent_bytes_total") == 1001);
    cr_expect(strstr(lines(), "bytes_sent=151 bytes_recv=1001 ") != NULL);
}

/* ---- of another process's time ---- */

Test(flow_account, one_that_outlived_a_proxy_is_closed_by_the_next_with_all_its_bytes)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 2000),
                            closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 2000);

    account_adopt(&a, FIRST_SOCKET, &opened.flow);
    account_adopt(&a, FIRST_SOCKET, &opened.flow);
    cr_expect(a.live == 1);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 1\n"));
    account_progress(account_find(&a, FIRST_SOCKET), 100, 1000);
    cr_expect(metric("istio_tcp_received_bytes_total") == -1);
    account_progress(account_find(&a, FIRST_SOCKET), 110, 1020);
    cr_expect(metric("istio_tcp_received_bytes_total") == 10);
    closed.sent = 111;
    closed.received = 1021;
    tell(&closed);
    cr_expect(a.live == 0);
    cr_expect(metric("istio_tcp_connections_opened_total") == 0);
    cr_expect(metric("istio_tcp_connections_closed_total") == 1);
    cr_expect(metric("istio_tcp_received_bytes_total") == 11);
    cr_expect(metric("istio_tcp_sent_bytes_total") == 21);
    expect_lines("info\taccess\tconnection complete\tsrc.addr=10.1.0.7:40000 " CART
                 "dst.addr=10.9.9.9:80 direction=\"outbound\" bytes_sent=111 bytes_recv=1021 "
                 "duration=\"2000ms\" way=\"direct\"\n");
}

Test(flow_account, one_that_ended_while_nobody_read_has_its_line_too)
{
    struct bruma_flow_event closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 3000);

    a.since = closed.now_nanoseconds + 1;
    closed.sent = 7;
    tell(&closed);
    cr_expect(metric("istio_tcp_connections_opened_total") == 0);
    cr_expect(metric("istio_tcp_connections_closed_total") == 1);
    cr_expect(strstr(lines(), "bytes_sent=7 bytes_recv=0 duration=\"3000ms\"") != NULL);
}

/* Its first event was lost: the ring was full. */
Test(flow_account, one_of_which_the_first_event_is_lost_is_counted_at_its_end)
{
    struct bruma_flow_event closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    closed.sent = 7;
    tell(&closed);
    cr_expect(metric("istio_tcp_connections_opened_total") == 1);
    cr_expect(metric("istio_tcp_connections_closed_total") == 1);
    cr_expect(metric("istio_tcp_received_bytes_total") == 7);
}

/* It was opened between the last event that was read and the look at those that live. */
Test(flow_account, the_first_event_of_one_that_was_found_alive_counts_it)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0),
                            closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    account_adopt(&a, FIRST_SOCKET, &opened.flow);
    account_progress(account_find(&a, FIRST_SOCKET), 3, 4);
    tell(&opened);
    cr_expect(a.live == 1);
    cr_expect(metric("istio_tcp_connections_opened_total") == 1);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 1\n"));
    closed.sent = 5;
    closed.received = 4;
    tell(&closed);
    cr_expect(metric("istio_tcp_received_bytes_total") == 5);
    cr_expect(metric("istio_tcp_sent_bytes_total") == 4);
}

Test(flow_account, who_lives_on_with_another_reader_is_not_told_to_have_ended)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    tell(&opened);
    account_clear(&a);
    cr_assert(account_init(&a) == 0);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
    cr_expect(metric("istio_tcp_connections_closed_total") == -1);
}

Test(flow_account, one_whose_end_is_lost_is_counted_and_has_no_line)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    tell(&opened);
    account_lost(&a, account_find(&a, FIRST_SOCKET));
    cr_expect(a.live == 0 && a.endless == 1);
    cr_expect(metric("istio_tcp_connections_closed_total") == 1);
    cr_expect(metrics_have("istio_tcp_sockets_open{reporter=\"source\"} 0\n"));
    cr_expect(strstr(lines(), "complete") == NULL);
}

/* The map of those that live was full. */
Test(flow_account, one_that_the_kernel_will_not_tell_the_end_of_is_not_waited_for)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_PASS, OUTSIDE, 0);

    opened.error = ENOSPC;
    tell(&opened);
    cr_expect(a.live == 0 && a.endless == 1);
    cr_expect(metric("istio_tcp_connections_opened_total") == 1);
    cr_expect(metric("istio_tcp_connections_closed_total") == 1);
    cr_expect(strstr(lines(), "connection opened") != NULL);
}

static uint64_t condemned;

static void note_condemned(void *data, struct pod *pod, uint64_t socket_cookie, const struct bruma_flow *flow)
{
    (void)flow;
    cr_expect(data == &condemned && pod == site_pod);
    condemned = socket_cookie;
}

Test(flow_account, what_was_cut_off_is_to_be_ended)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_PASS, OUTSIDE, 0);

    a.judge = (struct flows_judge){.condemned = note_condemned, .data = &condemned};
    condemned = 0;
    tell(&opened);
    cr_expect(condemned == 0);
    opened.socket_cookie++;
    opened.error = ENOSPC;
    tell(&opened);
    cr_expect(condemned == opened.socket_cookie);
    condemned = 0;
    opened.flow.way = BRUMA_DIRECT_BYPASS; /* which nobody may end */
    tell(&opened);
    cr_expect(condemned == 0);
}

Test(flow_account, one_that_was_answered_too_late_says_so_at_its_end)
{
    struct bruma_flow_event opened = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);
    struct bruma_flow_event closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    a.judge = (struct flows_judge){.condemned = note_condemned, .data = &condemned};
    condemned = 0;
    opened.error = ESTALE;
    tell(&opened);
    cr_expect(condemned == opened.socket_cookie && a.live == 1);
    closed.error = ECONNRESET;
    tell(&closed);
    cr_expect(a.live == 0);
    cr_expect(strstr(lines(), "policy_changed: answered too late") != NULL);
}

/* ---- whose it is ---- */

Test(flow_account, the_last_events_of_a_pod_that_is_gone_have_its_name)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_FAILED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    flow_pods_remove(a.pods, site_pod);
    flow_pods_remove(a.pods, site_pod);
    cr_expect(flow_pods_find(a.pods, POD_COOKIE) == NULL);
    tell(&e);
    cr_expect(a.strangers == 0);
    cr_expect(strstr(lines(), CART) != NULL);
}

Test(flow_account, not_for_ever)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_FAILED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    flow_pods_remove(a.pods, site_pod);
    for (unsigned i = 1; i <= FLOW_PODS_GONE_MAX; i++) {
        struct pod *pod = site_pod_new(POD_COOKIE + i, "other", -1);

        cr_assert(flow_pods_add(a.pods, pod) == 0);
        flow_pods_remove(a.pods, pod);
        pod_unref(pod);
    }
    tell(&e);
    cr_expect(a.strangers == 1);
    cr_expect(metrics_have("source_workload=\"unknown\""));
    e.flow.netns_cookie = POD_COOKIE + FLOW_PODS_GONE_MAX;
    tell(&e);
    cr_expect(a.strangers == 1);
}

Test(flow_account, a_pod_that_comes_again_is_a_pod)
{
    struct pod *pod;

    flow_pods_remove(a.pods, site_pod);
    cr_assert(flow_pods_add(a.pods, site_pod) == 0);
    cr_assert(flow_pods_add(a.pods, site_pod) == 0);
    pod = flow_pods_find(a.pods, POD_COOKIE);
    cr_expect(pod == site_pod);
    pod_unref(pod);
    cr_expect(site_pod->references == 2, "%d", site_pod->references);
}

/* Its own connections do not wait until the mesh knows it. */
Test(flow_account, a_pod_that_the_mesh_does_not_know_yet_is_who_the_agent_says)
{
    struct pod *pod = site_pod_new(77, "fresh", -1);
    struct bruma_flow_event e = site_event(BRUMA_FLOW_FAILED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    cr_assert(flow_pods_add(a.pods, pod) == 0);
    e.flow.netns_cookie = 77;
    tell(&e);
    cr_expect(strstr(lines(), "src.workload=\"fresh\" src.namespace=\"shop\"") != NULL);
    flow_pods_remove(a.pods, pod);
    pod_unref(pod);
}

/* ---- what cannot be ---- */

Test(flow_account, what_cannot_be_understood_is_counted_and_no_more)
{
    const struct bruma_flow_event good = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);
    struct bruma_flow_event bad[12];
    size_t n = 0;

    for (size_t i = 0; i < array_size(bad); i++)
        bad[i] = good;
    bad[n++].kind = 0;
    bad[n++].kind = 5;
    bad[n++].kind = 0xffffffff;
    bad[n++].flow.way = 0;
    bad[n++].flow.way = BRUMA_DIRECT_OUTSIDE | BRUMA_DIRECT_PASS;
    bad[n++].flow.way = 1u << 30;
    bad[n++].flow.way = BRUMA_DIRECT_REFUSE;
    bad[n++].socket_cookie = 0;
    bad[n].kind = BRUMA_FLOW_FAILED;
    bad[n++].flow.way = BRUMA_DIRECT_PASS;
    bad[n++].kind = BRUMA_FLOW_REFUSED;
    for (size_t i = 0; i < n; i++)
        tell(&bad[i]);
    account_event(&a, &good, sizeof(good) - 1);
    account_event(&a, &good, 0);
    account_event(&a, bad, 2 * sizeof(good));
    cr_expect(a.events[0] == n + 3, "%lu", (unsigned long)a.events[0]);
    cr_expect(a.live == 0 && metric("istio_tcp_connections_opened_total") == -1);
    bad[0] = good;
    bad[0].flow.state = BRUMA_FLOW_CONNECTING;
    account_adopt(&a, 5, &bad[0].flow);
    account_adopt(&a, 5, &bad[5].flow);
    cr_expect(a.live == 0);
    tell(&good);
    cr_expect(a.live == 1);
}

static void count(void *data, struct flow_record *record)
{
    ++*(unsigned *)data;
    account_lost(&a, record);
}

Test(flow_account, many_live_at_once)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);
    unsigned n = 0;

    for (unsigned i = 0; i < 5000; i++) {
        e.socket_cookie = 1 + i;
        tell(&e);
    }
    cr_expect(a.live == 5000);
    for (unsigned i = 0; i < 5000; i++)
        cr_assert(account_find(&a, 1 + i) != NULL);
    e.kind = BRUMA_FLOW_CLOSED;
    for (unsigned i = 0; i < 5000; i += 2) {
        e.socket_cookie = 1 + i;
        tell(&e);
    }
    cr_expect(a.live == 2500);
    account_each(&a, count, &n);
    cr_expect(n == 2500 && a.live == 0);
}
