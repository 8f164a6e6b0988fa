/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long connections live, how much they carry, and what they wait for: histograms with few labels, beside
 * Istio's counters. One worker's; it writes, a scrape reads (relaxed atomics).
 */
#ifndef PROXY_TELEMETRY_CONNECTION_METRICS_H
#define PROXY_TELEMETRY_CONNECTION_METRICS_H

#include "proxy/telemetry/telemetry.h"

#define HISTOGRAM_TIMES 17
#define HISTOGRAM_SIZES 10

enum connection_way { WAY_TUNNEL, WAY_PLAINTEXT, WAY_SAME_NODE, WAY_DIRECT, CONNECTION_WAYS };

/* The last of in_bucket: what is longer than all ends. */
struct times {
    uint64_t in_bucket[HISTOGRAM_TIMES + 1], sum; /* microseconds */
};

struct sizes {
    uint64_t in_bucket[HISTOGRAM_SIZES + 1], sum; /* bytes */
};

/* Zeroed: nothing has been counted. Arrays of two are by reporter. */
struct connection_metrics {
    bool off;
    struct times lives[2][CONNECTION_WAYS], first_bytes[2][CONNECTION_WAYS];
    struct sizes bytes[2][CONNECTION_WAYS];
    struct times waits[TELEMETRY_WAITS], handshakes[2], round_trips[TELEMETRY_LEGS];
    uint64_t retransmitted[TELEMETRY_LEGS], sockets[TELEMETRY_LEGS];
};

/* From since to then, nanoseconds of one clock; none where since is 0 or later. */
void times_add(struct times *times, uint64_t since, uint64_t then);
/* So many bytes. */
void sizes_add(struct sizes *sizes, uint64_t bytes);

/* A connection has ended at that time (nanoseconds, CLOCK_MONOTONIC). */
void connection_metrics_end(struct connection_metrics *metrics, const struct flow *flow, uint64_t then);
/* The time to its first byte, if that is known; it is not any more. */
void connection_metrics_answered(struct connection_metrics *metrics, struct flow *flow);
/* What the kernel knows of a TCP socket at its end. */
void connection_metrics_socket(struct connection_metrics *metrics, enum telemetry_leg leg, int fd);

/* The sums of all as OpenMetrics text; what nobody has counted is not there. Any thread. */
void connection_metrics_write(struct connection_metrics *const *all, size_t count, FILE *out);

#endif
