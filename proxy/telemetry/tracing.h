/* SPDX-License-Identifier: Apache-2.0 */
/* Which connections have a span, and where spans go. One worker's; zeroed: none has. */
#ifndef PROXY_TELEMETRY_TRACING_H
#define PROXY_TELEMETRY_TRACING_H

#include "proxy/otlp/otlp_config.h"
#include "proxy/telemetry/telemetry.h"
#include "proxy/telemetry/trace.h"

struct tracing {
    struct otlp_queue *queue; /* NULL: there are no spans */
    struct otlp_sampler sampler;
    uint64_t random;
};

/* sampler is copied. */
void tracing_init(struct tracing *tracing, struct otlp_queue *queue, const struct otlp_sampler *sampler);

/* Decides of a flow, unless that has been done. parent: what CONNECT carried, NULL: nothing. */
void tracing_begin(struct tracing *tracing, struct flow *flow, const struct trace_parent *parent);
/* The flow's span is over, or told elsewhere. */
void tracing_end(struct flow *flow);
/* The flow as the parent of one that this process makes of it, decided. */
struct trace_parent tracing_parent(const struct flow *flow);
/* Its IDs, which are the flow's until its end, or NULL: it has no span. */
const struct trace *tracing_of(const struct flow *flow);

#endif
