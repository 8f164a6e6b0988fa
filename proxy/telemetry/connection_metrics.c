/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/connection_metrics.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/cleanup.h"
#include "lib/metrics_text.h"
#include "proxy/telemetry/metric_series.h"

/* Upper ends of the buckets. */
static const uint64_t time_ends[HISTOGRAM_TIMES] = {
    50,     200,    500,    1000,    2000,    5000,     10000,     20000,      50000, /* microseconds */
    100000, 200000, 500000, 1000000, 5000000, 30000000, 300000000, 3600000000,
};
static const char *const time_texts[HISTOGRAM_TIMES] = {
    "0.00005", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01",  "0.02",   "0.05",
    "0.1",     "0.2",    "0.5",    "1.0",   "5.0",   "30.0",  "300.0", "3600.0",
};
static const uint64_t size_ends[HISTOGRAM_SIZES] = {
    256,     1 << 10,  4 << 10,   16 << 10, 64 << 10, /* bytes */
    1 << 20, 16 << 20, 256 << 20, 1 << 30,  UINT64_C(16) << 30,
};
static const char *const size_texts[HISTOGRAM_SIZES] = {
    "256.0",     "1024.0",     "4096.0",      "16384.0",      "65536.0",
    "1048576.0", "16777216.0", "268435456.0", "1073741824.0", "17179869184.0",
};

static const char *const reporters[2] = {
    [REPORTER_SOURCE] = "source", [REPORTER_DESTINATION] = "destination"};
static const char *const ways[CONNECTION_WAYS] = {[WAY_TUNNEL] = "tunnel",
                                                  [WAY_PLAINTEXT] = "plaintext",
                                                  [WAY_SAME_NODE] = "same_node",
                                                  [WAY_DIRECT] = "direct"};
static const char *const wait_labels[TELEMETRY_WAITS] = {[TELEMETRY_WAIT_IDENTITY] = "for=\"identity\"",
                                                         [TELEMETRY_WAIT_POLICY] = "for=\"policy\"",
                                                         [TELEMETRY_WAIT_TUNNEL] = "for=\"tunnel\""};
static const char *const reporter_labels[2] = {
    [REPORTER_SOURCE] = "reporter=\"source\"", [REPORTER_DESTINATION] = "reporter=\"destination\""};
static const char *const leg_labels[TELEMETRY_LEGS] = {[TELEMETRY_LEG_CLIENT] = "leg=\"client\"",
                                                       [TELEMETRY_LEG_SERVER] = "leg=\"server\"",
                                                       [TELEMETRY_LEG_TUNNEL] = "leg=\"tunnel\""};

static enum connection_way way_of(const struct flow *flow)
{
    return flow->direct       ? WAY_DIRECT
           : flow->same_node  ? WAY_SAME_NODE
           : flow->mutual_tls ? WAY_TUNNEL
                              : WAY_PLAINTEXT;
}

static void add(uint64_t *in_bucket, const uint64_t *ends, unsigned buckets, uint64_t value)
{
    unsigned i = 0;

    while (i < buckets && value > ends[i])
        i++;
    counter_add(&in_bucket[i], 1);
}

void times_add(struct times *t, uint64_t since, uint64_t then)
{
    uint64_t microseconds = (then - since) / 1000;

    if (!since || then < since)
        return;
    add(t->in_bucket, time_ends, HISTOGRAM_TIMES, microseconds);
    counter_add(&t->sum, microseconds);
}

void sizes_add(struct sizes *s, uint64_t bytes)
{
    add(s->in_bucket, size_ends, HISTOGRAM_SIZES, bytes);
    counter_add(&s->sum, bytes);
}

void connection_metrics_answered(struct connection_metrics *m, struct flow *flow)
{
    if (flow->answered && !m->off)
        times_add(&m->first_bytes[flow->reporter][way_of(flow)], flow->opened, flow->answered);
    flow->answered = 0;
}

void connection_metrics_end(struct connection_metrics *m, const struct flow *flow, uint64_t then)
{
    enum connection_way way = way_of(flow);

    if (m->off)
        return;
    times_add(&m->lives[flow->reporter][way], flow->opened, then);
    sizes_add(&m->bytes[flow->reporter][way], flow->received + flow->sent);
}

void connection_metrics_socket(struct connection_metrics *m, enum telemetry_leg leg, int fd)
{
    struct tcp_info info = {};
    socklen_t len = sizeof(info);

    if (m->off || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
        return;
    if (info.tcpi_rtt)
        times_add(&m->round_trips[leg], 1, 1 + info.tcpi_rtt * UINT64_C(1000));
    counter_add(&m->retransmitted[leg], info.tcpi_total_retrans);
    counter_add(&m->sockets[leg], 1);
}

/* ---- the page ---- */

/* One histogram of every worker's; whether there is anything. offset: of its first bucket, the sum is behind
 * the last one. */
static bool sum_up(struct connection_metrics *const *all, size_t count, size_t offset, unsigned buckets,
                   uint64_t *ret_buckets, struct metric_histogram *h)
{
    memset(ret_buckets, 0, (buckets + 1) * sizeof(uint64_t));
    h->sum = h->count = 0;
    for (size_t i = 0; i < count; i++) {
        const uint64_t *from = (const uint64_t *)(const void *)((const char *)all[i] + offset);

        for (unsigned b = 0; b <= buckets; b++)
            ret_buckets[b] += counter_read(&from[b]);
        h->sum += counter_read(&from[buckets + 1]);
    }
    for (unsigned b = 0; b <= buckets; b++)
        h->count += ret_buckets[b];
    return h->count > 0;
}

struct histogram_family {
    const char *name, *help;
    bool told;
};

static void put(struct connection_metrics *const *all, size_t count, struct histogram_family *family,
                const char *labels, size_t offset, bool seconds, FILE *out)
{
    unsigned buckets = seconds ? HISTOGRAM_TIMES : HISTOGRAM_SIZES;
    uint64_t in_bucket[HISTOGRAM_TIMES + 1];
    struct metric_histogram h = {.ends = seconds ? time_texts : size_texts,
                                 .in_bucket = in_bucket,
                                 .buckets = buckets,
                                 .seconds = seconds};

    if (!sum_up(all, count, offset, buckets, in_bucket, &h))
        return;
    if (!family->told)
        metric_family(out, family->name, "histogram", family->help);
    family->told = true;
    metric_histogram(out, family->name, labels, &h);
}

/* By reporter and way. */
static void put_ways(struct connection_metrics *const *all, size_t count, struct histogram_family family,
                     size_t offset, size_t size, bool seconds, FILE *out)
{
    for (unsigned i = 0; i < 2 * CONNECTION_WAYS; i++) {
        char labels[80];

        snprintf(labels, sizeof(labels), "reporter=\"%s\",way=\"%s\"", reporters[i / CONNECTION_WAYS],
                 ways[i % CONNECTION_WAYS]);
        put(all, count, &family, labels, offset + i * size, seconds, out);
    }
}

static void put_times(struct connection_metrics *const *all, size_t count, struct histogram_family family,
                      size_t offset, const char *const *labels, unsigned len, FILE *out)
{
    for (unsigned i = 0; i < len; i++)
        put(all, count, &family, labels[i], offset + i * sizeof(struct times), true, out);
}

static void put_retransmissions(struct connection_metrics *const *all, size_t count, FILE *out)
{
    static const char name[] = "bruma_tcp_retransmitted_segments";
    bool told = false;

    for (unsigned leg = 0; leg < TELEMETRY_LEGS; leg++) {
        uint64_t sum = 0, sockets = 0;

        for (size_t i = 0; i < count; i++) {
            sum += counter_read(&all[i]->retransmitted[leg]);
            sockets += counter_read(&all[i]->sockets[leg]);
        }
        if (!sockets)
            continue;
        if (!told)
            metric_family(out, name, "counter",
                          "Segments that were sent again, of sockets that have ended, by leg.");
        told = true;
        fprintf(out, "%s_total{%s} %llu\n", name, leg_labels[leg], (unsigned long long)sum);
    }
}

void connection_metrics_write(struct connection_metrics *const *all, size_t count, FILE *out)
{
    put_ways(all, count,
             (struct histogram_family){"bruma_connection_duration_seconds",
                                       "From the opening of a connection to its end.", false},
             offsetof(struct connection_metrics, lives), sizeof(struct times), true, out);
    put_ways(all, count,
             (struct histogram_family){"bruma_connection_bytes",
                                       "What a connection carried, both ways together.", false},
             offsetof(struct connection_metrics, bytes), sizeof(struct sizes), false, out);
    put_ways(all, count,
             (struct histogram_family){
                 "bruma_connection_first_byte_seconds",
                 "From the opening of a connection to the first byte back to who opened it.", false},
             offsetof(struct connection_metrics, first_bytes), sizeof(struct times), true, out);
    put_times(all, count,
              (struct histogram_family){"bruma_connection_wait_seconds",
                                        "For how long connections waited that had to, by what for.", false},
              offsetof(struct connection_metrics, waits), wait_labels, TELEMETRY_WAITS, out);
    put_times(all, count,
              (struct histogram_family){"bruma_tls_handshake_seconds", "TLS handshakes that were completed.",
                                        false},
              offsetof(struct connection_metrics, handshakes), reporter_labels, 2, out);
    put_times(all, count,
              (struct histogram_family){"bruma_tcp_round_trip_seconds",
                                        "Smoothed round-trip time of sockets at their end, by leg.", false},
              offsetof(struct connection_metrics, round_trips), leg_labels, TELEMETRY_LEGS, out);
    put_retransmissions(all, count, out);
}
