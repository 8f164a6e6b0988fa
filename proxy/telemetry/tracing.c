/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/tracing.h"

#include <stdlib.h>
#include <sys/random.h>

#define RATIO_BITS 56

/* Of those that have been decided to have none. */
static struct trace none;

void tracing_init(struct tracing *t, struct otlp_queue *queue, const struct otlp_sampler *sampler)
{
    t->queue = queue;
    t->sampler = *sampler;
    if (getrandom(&t->random, sizeof(t->random), 0) != sizeof(t->random))
        t->random = (uintptr_t)t; /* IDs are no secrets */
}

/* splitmix64; never 0, which is no ID. */
static uint64_t next_id(struct tracing *t)
{
    uint64_t x = t->random += 0x9e3779b97f4a7c15;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    x ^= x >> 31;
    return x ? x : 1;
}

/* By the trace's ID, so that all who have the same ratio decide alike. */
static bool is_sampled(const struct tracing *t, uint64_t low, const struct trace_parent *parent)
{
    const uint64_t all = UINT64_C(1) << RATIO_BITS;

    if (parent && t->sampler.follows_parent)
        return parent->sampled;
    return (low & (all - 1)) >= all - t->sampler.threshold;
}

void tracing_begin(struct tracing *t, struct flow *flow, const struct trace_parent *parent)
{
    struct trace trace;

    if (!t->queue || flow->trace)
        return;
    trace.high = parent ? parent->high : next_id(t);
    trace.low = parent ? parent->low : next_id(t);
    trace.parent = parent ? parent->span : 0;
    trace.span = next_id(t);
    flow->trace = is_sampled(t, trace.low, parent) ? malloc(sizeof(trace)) : &none;
    if (!flow->trace)
        flow->trace = &none;
    if (flow->trace != &none)
        *flow->trace = trace;
}

void tracing_end(struct flow *flow)
{
    if (flow->trace != &none)
        free(flow->trace);
    flow->trace = NULL;
}

struct trace_parent tracing_parent(const struct flow *flow)
{
    const struct trace *own = tracing_of(flow);

    return own ? (struct trace_parent){own->high, own->low, own->span, true} : (struct trace_parent){};
}

const struct trace *tracing_of(const struct flow *flow)
{
    return flow->trace != &none ? flow->trace : NULL;
}
