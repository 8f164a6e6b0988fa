/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access log and TCP metrics of connections: contract section 8. Each worker has its own struct telemetry and
 * is the only one to write it; a scrape reads all of them (counters are relaxed atomics, the series table is
 * locked only where a series is added or listed).
 */
#ifndef PROXY_TELEMETRY_TELEMETRY_H
#define PROXY_TELEMETRY_TELEMETRY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "bruma/reasons.h"
#include "lib/addr.h"
#include "lib/loop.h"
#include "proxy/route/policy.h"
#include "proxy/state/state.h"
#include "proxy/telemetry/same_node_why.h"

struct telemetry;
struct otlp_queue;
struct otlp_sampler;
struct trace;
struct trace_parent;
struct metric_series; /* one label set */

/* What a connection may have to wait for: who its pod is and where it goes (workload, certificate, lookups of
 * names and addresses), policies, a tunnel that is being opened. */
enum telemetry_wait {
    TELEMETRY_WAIT_IDENTITY,
    TELEMETRY_WAIT_POLICY,
    TELEMETRY_WAIT_TUNNEL,
    TELEMETRY_WAITS
};

/* The socket to who opened a connection, to where it goes, and that of a tunnel. */
enum telemetry_leg { TELEMETRY_LEG_CLIENT, TELEMETRY_LEG_SERVER, TELEMETRY_LEG_TUNNEL, TELEMETRY_LEGS };

enum telemetry_reporter { REPORTER_SOURCE, REPORTER_DESTINATION };

/* All a connection's telemetry is made of. Pointers must live until telemetry_close(); NULL where not
 * known. */
struct flow {
    enum telemetry_reporter reporter; /* outbound connections: source; inbound: destination */
    bool mutual_tls;
    /* Between two pods of this process, without a tunnel: the identities are those that it holds
     * certificates of, and nothing is encrypted. */
    bool same_node;
    const struct workload *source, *destination;
    const struct service *service;
    const char *source_identity, *destination_identity; /* as verified; whole SPIFFE URIs */
    const char *baggage; /* of the peer, where the workload is not known by address; or NULL */
    struct endpoint source_address, destination_address;
    const char *hbone_authority; /* or NULL */
    /* Another endpoint may be tried instead: it counts as a connection with telemetry_settle(), or at its
     * end. */
    bool tentative;
    bool direct;  /* it goes past the proxy, in the kernel */
    bool counted; /* as one that was opened, before it was decided anew: not again */
    /* Its span, of tracing.h; NULL: not decided, or nobody wants spans. Owned, until it is closed or
     * forgotten. */
    struct trace *trace;

    /* set by telemetry_open() */
    struct metric_series *series;
    uint64_t opened; /* nanoseconds, CLOCK_MONOTONIC; of the first endpoint that was tried; 0: not yet */
    /* counted with telemetry_bytes() */
    uint64_t received; /* from the initiator of the connection */
    uint64_t sent;     /* back to it */
    uint64_t answered; /* as opened, of the first byte of sent; 0: there was none, or it has been counted */
    /* counted with telemetry_retry() */
    unsigned retries;
    enum bruma_reason retry_reason; /* of the last one */
};

/* Whether its identities are proven: policies, labels and the log may go by them. */
static inline bool flow_authenticated(const struct flow *flow)
{
    return flow->mutual_tls || flow->same_node;
}

/* log_fd: where access log lines go (stdout). Lines are gathered and written at the latest 100 ms later,
 * never blocking: what cannot be written beyond 256 KiB is dropped and counted. loop: the worker's. 0,
 * -ENOMEM, or -errno of log_fd. */
int telemetry_new(struct loop *loop, int log_fd, bool json, struct telemetry **ret);
void telemetry_free(struct telemetry **telemetry);
/* Of one peer's descriptions of itself (baggage) only so many become labels. Before the first connection. */
void telemetry_limit_descriptions(struct telemetry *telemetry, unsigned limit);

/* Lines of the log go there too, as OTLP has them, and a span for each connection that the sampler, which is
 * copied, chooses; NULL: nowhere. Before the first connection. */
void telemetry_export(struct telemetry *telemetry, struct otlp_queue *logs, struct otlp_queue *spans,
                      const struct otlp_sampler *sampler);
/* Decides whether the connection has a span, unless that is done: CONNECT is about to carry it, or has
 * carried its parent (NULL: it has not). telemetry_open() does it too. */
void telemetry_trace(struct telemetry *telemetry, struct flow *flow, const struct trace_parent *parent);
/* Whether connections are measured (the families of connection_metrics.h); they are. Before the first one. */
void telemetry_measure(struct telemetry *telemetry, bool measured);
/* Nanoseconds, CLOCK_MONOTONIC, for the two below. */
uint64_t telemetry_now(void);
/* A connection has waited, since then (nanoseconds, telemetry_now()); since 0: it has not. */
void telemetry_waited(struct telemetry *telemetry, enum telemetry_wait what, uint64_t since);
/* A TLS handshake that began then (nanoseconds, telemetry_now()) is complete. */
void telemetry_handshake(struct telemetry *telemetry, enum telemetry_reporter reporter, uint64_t since);
/* A TCP socket is about to be closed. */
void telemetry_socket(struct telemetry *telemetry, enum telemetry_leg leg, int fd);

/* opened_total (unless flow is tentative) + debug line; call it when everything in flow is known
 * (contract 8.1: before dialing). */
void telemetry_open(struct telemetry *telemetry, struct flow *flow);
/* The same of a connection that goes past the proxy, told later: opened is its time (nanoseconds,
 * CLOCK_MONOTONIC). counted: another process has counted and told it, so here it only is one that is open. */
void telemetry_open_since(struct telemetry *telemetry, struct flow *flow, uint64_t opened, bool counted);
/* The connection's time begins, where telemetry_open() comes later than that. */
void telemetry_begin(struct flow *flow);
/* Adds to flow and to the byte counters. */
void telemetry_bytes(struct flow *flow, uint64_t received, uint64_t sent);
/* closed_total (and failed_total), access log line. reason NONE: a normal end. detail: text for error="...";
 * NULL: the reason's own words. */
void telemetry_close(struct telemetry *telemetry, struct flow *flow, enum bruma_reason reason,
                     const char *detail);
/* The same, told later: at is the time of the end (nanoseconds, CLOCK_MONOTONIC). */
void telemetry_close_at(struct telemetry *telemetry, struct flow *flow, enum bruma_reason reason,
                        const char *detail, uint64_t at);
/* So many more connections were like this one, which is still open, and ended for that reason: they are
 * counted, and have no lines. */
void telemetry_repeat(struct telemetry *telemetry, struct flow *flow, enum bruma_reason reason,
                      uint64_t more);
/* The connection lives on, or its end cannot be told: it is not open here any more, without a line. closed:
 * it counts as one that has ended. */
void telemetry_forget(struct telemetry *telemetry, struct flow *flow, bool closed);
/* A tentative one is at its endpoint: it is counted there. Harmless for others. */
void telemetry_settle(struct telemetry *telemetry, struct flow *flow);
/* The endpoint of a tentative one has failed, and another one is tried: its series count nothing of it, and
 * the connection is opened again. The log has one line for all. */
void telemetry_retry(struct telemetry *telemetry, struct flow *flow, enum bruma_reason reason);
/* An endpoint is left out of the choice for a moment. */
void telemetry_ejected(struct telemetry *telemetry);
/* The same of one that has said GOAWAY: while there are others. */
void telemetry_leaving(struct telemetry *telemetry);
/* A connection sets out for a pod of this process: without a tunnel (NONE), or why with one. ELSEWHERE is
 * none of those, and not counted. Of one that is tried at several endpoints each counts. */
void telemetry_same_node(struct telemetry *telemetry, enum same_node_why why);
/* "connection failed" line of an early deny (contract 8.3) and the failure counter of the reason; no traffic
 * metrics. */
void telemetry_early_deny(struct telemetry *telemetry, enum telemetry_reporter reporter,
                          const struct endpoint *source, const struct endpoint *destination,
                          enum bruma_reason reason, const char *detail);

/* Only the failure counter of the reason: the connection's line has been written already. */
void telemetry_failure(struct telemetry *telemetry, enum bruma_reason reason);

/* A connection waits for a policy to arrive; counted once, *waited remembers it. */
void telemetry_policy_wait(struct telemetry *telemetry, bool *waited);

/* What dry-run policies would have made of a connection; not NONE. policy: "namespace/name" of the one that
 * matched, "": none did. */
void telemetry_dry_run(struct telemetry *telemetry, enum policy_dry_run dry_run, const char *policy);

/* A connection reached its application from the pod's own address, for want of a port under the client's. */
void telemetry_client_hidden(struct telemetry *telemetry);

/* Baggage of a workload (contract 3.6). Returns the length; cut at size. */
size_t baggage_format(const struct workload *workload, char *buf, size_t size);

/* Appends the families of all workers in OpenMetrics text, without "# EOF". Any thread. */
void telemetry_write_metrics(struct telemetry *const *all, size_t count, FILE *out);

#endif
