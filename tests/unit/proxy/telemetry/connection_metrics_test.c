/* SPDX-License-Identifier: Apache-2.0 */
/* Histograms of connections: under which labels, and what is in which bucket. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/telemetry/connection_metrics.h"
#include "tests/unit/proxy/telemetry/telemetry_site.h"

#define MILLISECOND UINT64_C(1000000)
#define LIFE        "bruma_connection_duration_seconds"
#define FIRST       "bruma_connection_first_byte_seconds"
#define TUNNEL      "reporter=\"source\",way=\"tunnel\""

TestSuite(connection_metrics, .init = telemetry_setup, .fini = telemetry_teardown);

/* One that carried so many bytes and ended after so long. */
static void carry(struct flow flow, uint64_t bytes, uint64_t milliseconds)
{
    telemetry_open_since(t, &flow, telemetry_now(), false);
    telemetry_bytes(&flow, bytes, 0);
    telemetry_close_at(t, &flow, BRUMA_REASON_NONE, NULL, flow.opened + milliseconds * MILLISECOND);
}

Test(connection_metrics, lives_and_sizes_by_reporter_and_way)
{
    struct flow tunnel = sample_flow(), plain = sample_flow(), node = sample_flow(), direct = sample_flow();

    plain.mutual_tls = false;
    node.mutual_tls = false;
    node.same_node = true;
    node.reporter = REPORTER_DESTINATION;
    direct.mutual_tls = false;
    direct.direct = true;
    carry(tunnel, 256, 2);
    carry(tunnel, 257, 3);
    carry(plain, 0, 7200 * 1000);
    carry(node, 1, 1);
    carry(direct, 1, 1);
    cr_expect(metrics_have(LIFE "_bucket{" TUNNEL ",le=\"0.001\"} 0\n" LIFE "_bucket{" TUNNEL
                                ",le=\"0.002\"} 1\n" LIFE "_bucket{" TUNNEL ",le=\"0.005\"} 2\n"));
    cr_expect(metrics_have(LIFE "_bucket{" TUNNEL ",le=\"+Inf\"} 2\n" LIFE "_sum{" TUNNEL "} 0.005000\n" LIFE
                                "_count{" TUNNEL "} 2\n"));
    cr_expect(metrics_have("bruma_connection_bytes_bucket{" TUNNEL ",le=\"256.0\"} 1\n"
                           "bruma_connection_bytes_bucket{" TUNNEL ",le=\"1024.0\"} 2\n"));
    cr_expect(metrics_have("bruma_connection_bytes_sum{" TUNNEL "} 513\n"));
    /* longer than every end */
    cr_expect(metrics_have(LIFE "_bucket{reporter=\"source\",way=\"plaintext\",le=\"3600.0\"} 0\n" LIFE
                                "_bucket{reporter=\"source\",way=\"plaintext\",le=\"+Inf\"} 1\n"));
    cr_expect(metrics_have(LIFE "_count{reporter=\"destination\",way=\"same_node\"} 1\n"));
    cr_expect(metrics_have(LIFE "_count{reporter=\"source\",way=\"direct\"} 1\n"));
    cr_expect(!metrics_have(FIRST));
}

Test(connection_metrics, the_first_byte_back_is_the_only_one_that_is_timed)
{
    struct flow flow = sample_flow(), direct = sample_flow();
    uint64_t answered;

    telemetry_open(t, &flow);
    telemetry_bytes(&flow, 10, 0);
    cr_expect(flow.answered == 0);
    telemetry_bytes(&flow, 0, 10);
    answered = flow.answered;
    cr_expect(answered >= flow.opened);
    telemetry_bytes(&flow, 0, 10);
    cr_expect(flow.answered == answered);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have(FIRST "_count{" TUNNEL "} 1\n"));
    /* what is told of late has no time of its first byte */
    direct.direct = true;
    telemetry_open(t, &direct);
    telemetry_bytes(&direct, 0, 10);
    telemetry_close(t, &direct, BRUMA_REASON_NONE, NULL);
    cr_expect(!metrics_have(FIRST "_count{reporter=\"source\",way=\"direct\"}"));
}

/* It moves to another process: who has seen the first byte tells of it, and who sees the end tells of that.
 */
Test(connection_metrics, a_connection_that_moves_is_counted_once)
{
    struct flow flow = sample_flow();

    telemetry_open(t, &flow);
    telemetry_bytes(&flow, 0, 10);
    telemetry_forget(t, &flow, false);
    cr_expect(metrics_have(FIRST "_count{" TUNNEL "} 1\n") && !metrics_have(LIFE));
    telemetry_open_since(t, &flow, flow.opened, true);
    flow.sent = 10;
    telemetry_bytes(&flow, 0, 10);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    cr_expect(metrics_have(FIRST "_count{" TUNNEL "} 1\n") && metrics_have(LIFE "_count{" TUNNEL "} 1\n"));
}

Test(connection_metrics, waits_and_handshakes)
{
    telemetry_waited(t, TELEMETRY_WAIT_POLICY, 0);
    cr_expect(!metrics_have("bruma_connection_wait_seconds"));
    telemetry_waited(t, TELEMETRY_WAIT_POLICY, telemetry_now() - 3 * MILLISECOND);
    telemetry_waited(t, TELEMETRY_WAIT_TUNNEL, telemetry_now() + 1000 * MILLISECOND); /* of another clock */
    telemetry_handshake(t, REPORTER_DESTINATION, telemetry_now());
    cr_expect(metrics_have("bruma_connection_wait_seconds_bucket{for=\"policy\",le=\"0.002\"} 0\n"));
    cr_expect(metrics_have("bruma_connection_wait_seconds_count{for=\"policy\"} 1\n"));
    cr_expect(!metrics_have("for=\"tunnel\""));
    cr_expect(metrics_have("bruma_tls_handshake_seconds_count{reporter=\"destination\"} 1\n"));
    cr_expect(!metrics_have("seconds_count{reporter=\"source\"}"));
}

static int connected(int listener)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    cr_assert(getsockname(listener, (struct sockaddr *)&at, &len) == 0);
    cr_assert(connect(fd, (struct sockaddr *)&at, len) == 0);
    return fd;
}

Test(connection_metrics, sockets)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd;

    cr_assert(bind(listener, (struct sockaddr *)&any, sizeof(any)) == 0 && listen(listener, 1) == 0);
    fd = connected(listener);
    telemetry_socket(t, TELEMETRY_LEG_SERVER, fd);
    telemetry_socket(t, TELEMETRY_LEG_TUNNEL, listener); /* has no round trip */
    telemetry_socket(t, TELEMETRY_LEG_CLIENT, -1);
    telemetry_socket(t, TELEMETRY_LEG_CLIENT, log_fd);
    cr_expect(metrics_have("bruma_tcp_round_trip_seconds_count{leg=\"server\"} 1\n"));
    cr_expect(metrics_have("bruma_tcp_retransmitted_segments_total{leg=\"server\"} 0\n"
                           "bruma_tcp_retransmitted_segments_total{leg=\"tunnel\"} 0\n"));
    cr_expect(!metrics_have("bruma_tcp_round_trip_seconds_count{leg=\"tunnel\"}"));
    cr_expect(!metrics_have("leg=\"client\""));
    close(fd);
    close(listener);
}

Test(connection_metrics, switched_off)
{
    telemetry_measure(t, false);
    carry(sample_flow(), 1, 1);
    telemetry_waited(t, TELEMETRY_WAIT_POLICY, telemetry_now());
    telemetry_handshake(t, REPORTER_SOURCE, telemetry_now());
    telemetry_socket(t, TELEMETRY_LEG_SERVER, 0);
    cr_expect(!metrics_have("bruma_connection_") && !metrics_have("bruma_tls_") &&
              !metrics_have("bruma_tcp_"));
}

Test(connection_metrics, workers_are_added_up)
{
    struct connection_metrics a = {}, b = {}, *all[] = {&a, &b};
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    times_add(&a.handshakes[0], 1, 1 + MILLISECOND);
    times_add(&b.handshakes[0], 1, 1 + 2 * MILLISECOND);
    connection_metrics_write(all, 2, out);
    fclose(out);
    cr_expect(strstr(text, "bruma_tls_handshake_seconds_bucket{reporter=\"source\",le=\"0.001\"} 1\n") &&
              strstr(text, "bruma_tls_handshake_seconds_bucket{reporter=\"source\",le=\"0.002\"} 2\n") &&
              strstr(text, "bruma_tls_handshake_seconds_sum{reporter=\"source\"} 0.003000\n"));
    free(text);
}
