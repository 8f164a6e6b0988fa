/* SPDX-License-Identifier: Apache-2.0 */
/* What telemetry's own files share. */
#ifndef PROXY_TELEMETRY_TELEMETRY_INTERNAL_H
#define PROXY_TELEMETRY_TELEMETRY_INTERNAL_H

#include "proxy/telemetry/access_log.h"
#include "proxy/telemetry/connection_metrics.h"
#include "proxy/telemetry/dns_metrics.h"
#include "proxy/telemetry/dry_run_metrics.h"
#include "proxy/telemetry/metric_series.h"
#include "proxy/telemetry/name_metrics.h"
#include "proxy/telemetry/telemetry.h"
#include "proxy/telemetry/tracing.h"

struct log_sink;
struct otlp_queue;

struct telemetry {
    struct loop *loop;
    struct log_sink *sink;
    struct access_log log;
    struct access_log feed;       /* the form of flow_feed.h */
    struct otlp_queue *log_queue; /* where lines are exported from; NULL: nowhere */
    struct tracing tracing;
    struct metric_series_table *table;
    struct dns_metrics *dns;
    struct name_metrics *names;
    /* Relaxed atomics, written by the worker, read by scrapes. */
    uint64_t opened[2], closed[2]; /* by reporter */
    uint64_t failures[BRUMA_REASON_COUNT];
    uint64_t retries[BRUMA_REASON_COUNT]; /* by what the endpoint before has failed for */
    uint64_t ejections, leaving;
    uint64_t same_node[SAME_NODE_WHY_COUNT];
    uint64_t revoked[2]; /* of the failures: revoked certificates, by reporter */
    uint64_t policy_waits;
    uint64_t hidden_clients;
    struct dry_run_metrics dry_run;
    struct connection_metrics connections;
};

#endif
