/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/telemetry.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "proxy/telemetry/access_log.h"
#include "proxy/telemetry/access_record.h"
#include "proxy/telemetry/flow_feed.h"
#include "proxy/telemetry/log_sink.h"
#include "proxy/telemetry/telemetry_internal.h"

int telemetry_new(struct loop *loop, int log_fd, bool json, struct telemetry **ret)
{
    struct telemetry *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    t->loop = loop;
    t->log.json = json;
    t->feed.json = true;
    r = metric_series_table_new(&t->table);
    if (r == 0)
        r = dns_metrics_new(&t->dns);
    if (r == 0)
        r = name_metrics_new(&t->names);
    if (r == 0)
        r = log_sink_new(loop, log_fd, &t->sink);
    if (r < 0) {
        telemetry_free(&t);
        return r;
    }
    *ret = t;
    return 0;
}

void telemetry_free(struct telemetry **ptr)
{
    struct telemetry *t = *ptr;

    if (!t)
        return;
    log_sink_free(&t->sink);
    metric_series_table_free(&t->table);
    dns_metrics_free(&t->dns);
    name_metrics_free(&t->names);
    dry_run_metrics_clear(&t->dry_run);
    free(t);
    *ptr = NULL;
}

void telemetry_limit_descriptions(struct telemetry *t, unsigned limit)
{
    metric_series_limit_descriptions(t->table, limit);
}

void telemetry_export(struct telemetry *t, struct otlp_queue *logs, struct otlp_queue *spans,
                      const struct otlp_sampler *sampler)
{
    t->log_queue = logs;
    tracing_init(&t->tracing, spans, sampler);
}

void telemetry_trace(struct telemetry *t, struct flow *flow, const struct trace_parent *parent)
{
    tracing_begin(&t->tracing, flow, parent);
}

uint64_t telemetry_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The wall clock at a moment of before, as it goes now. */
static void wall_time(uint64_t then, struct timespec *ret)
{
    uint64_t now = telemetry_now(), ago = now > then ? now - then : 0;

    ret->tv_sec -= (time_t)(ago / 1000000000u);
    ret->tv_nsec -= (long)(ago % 1000000000u);
    if (ret->tv_nsec < 0) {
        ret->tv_sec--;
        ret->tv_nsec += 1000000000;
    }
}

static void feed_line(struct telemetry *t, const struct access_line *line)
{
    char buf[LOG_SINK_LINE];

    flow_feed_add(buf, access_log_format(&t->feed, line, buf, sizeof(buf)));
}

/* then: when it happened (CLOCK_MONOTONIC); 0: now. */
static void write_line(struct telemetry *t, struct access_line *line, uint64_t then)
{
    bool fed = flow_feed_wanted(loop_now(t->loop)), logged = log_enabled(line->level, ACCESS_SCOPE);
    bool traced = line->event == ACCESS_COMPLETE && tracing_of(line->flow);
    char *at;

    if (!fed && !logged && !traced)
        return;
    clock_gettime(CLOCK_REALTIME, &line->now);
    if (then)
        wall_time(then, &line->now);
    if (fed)
        feed_line(t, line);
    if (traced && t->tracing.queue)
        otlp_queue_put(t->tracing.queue, access_record_span(line));
    if (logged && t->log_queue)
        otlp_queue_put(t->log_queue, access_record_log(line));
    at = logged ? log_sink_begin(t->sink) : NULL;
    if (at)
        log_sink_end(t->sink, access_log_format(&t->log, line, at, LOG_SINK_LINE));
}

static void count_opened(struct telemetry *t, struct flow *flow)
{
    if (!flow->counted)
        counter_add(&flow->series->opened, 1);
    counter_add(&t->opened[flow->reporter], 1);
}

void telemetry_settle(struct telemetry *t, struct flow *flow)
{
    if (flow->tentative && flow->series)
        count_opened(t, flow);
    flow->tentative = false;
}

void telemetry_begin(struct flow *flow)
{
    if (!flow->opened)
        flow->opened = telemetry_now();
}

static void enter_series(struct telemetry *t, struct flow *flow)
{
    flow->series = metric_series_get(t->table, flow, loop_now(t->loop));
    flow->series->open++;
    flow->received = flow->sent = flow->answered = 0;
}

void telemetry_open(struct telemetry *t, struct flow *flow)
{
    struct access_line line = {.level = LOG_LEVEL_DEBUG, .event = ACCESS_OPENED, .flow = flow};

    enter_series(t, flow);
    if (!flow->tentative)
        count_opened(t, flow);
    telemetry_begin(flow);
    telemetry_trace(t, flow, NULL);
    write_line(t, &line, 0);
}

void telemetry_open_since(struct telemetry *t, struct flow *flow, uint64_t opened, bool counted)
{
    struct access_line line = {.level = LOG_LEVEL_DEBUG, .event = ACCESS_OPENED, .flow = flow};

    flow->opened = opened;
    telemetry_trace(t, flow, NULL);
    enter_series(t, flow);
    if (counted) {
        counter_add(&t->opened[flow->reporter], 1);
        return;
    }
    count_opened(t, flow);
    write_line(t, &line, opened);
}

void telemetry_bytes(struct flow *flow, uint64_t received, uint64_t sent)
{
    if (sent && !flow->sent && flow->series && !flow->direct)
        flow->answered = telemetry_now();
    flow->received += received;
    flow->sent += sent;
    if (!flow->series)
        return;
    counter_add(&flow->series->received, received);
    counter_add(&flow->series->sent, sent);
}

static void count_failure(struct telemetry *t, enum telemetry_reporter reporter, enum bruma_reason reason,
                          uint64_t n)
{
    if (reason == BRUMA_REASON_CERTIFICATE_REVOKED)
        counter_add(&t->revoked[reporter], n);
    if (reason != BRUMA_REASON_NONE)
        counter_add(&t->failures[(unsigned)reason < BRUMA_REASON_COUNT ? reason : BRUMA_REASON_INTERNAL], n);
}

void telemetry_failure(struct telemetry *t, enum bruma_reason reason)
{
    count_failure(t, REPORTER_SOURCE, reason, 1);
}

/* Returns what was its series. */
static struct metric_series *leave_series(struct telemetry *t, struct flow *flow)
{
    struct metric_series *s = flow->series;

    s->open--;
    s->touched = loop_now(t->loop);
    flow->series = NULL;
    return s;
}

static void count_end(struct telemetry *t, const struct flow *flow, uint64_t n)
{
    __atomic_store_n(&t->closed[flow->reporter], t->closed[flow->reporter] + n, __ATOMIC_RELEASE);
}

static void count_closed(struct telemetry *t, struct flow *flow, enum bruma_reason reason)
{
    struct metric_series *s = leave_series(t, flow);

    counter_add(&s->closed[flag_of_reason(reason)], 1);
    count_end(t, flow, 1);
}

/* at: 0 is now. */
static void end(struct telemetry *t, struct flow *flow, enum bruma_reason reason, const char *detail,
                uint64_t at)
{
    struct metric_series *s = flow->series;
    uint64_t then = at ? at : telemetry_now();
    struct access_line line = {
        .level = reason == BRUMA_REASON_NONE ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR,
        .event = ACCESS_COMPLETE,
        .flow = flow,
        .lived = then - flow->opened,
        .reason = reason,
        .detail = detail,
    };

    if (!s)
        return;
    telemetry_settle(t, flow);
    connection_metrics_answered(&t->connections, flow);
    connection_metrics_end(&t->connections, flow, then);
    count_closed(t, flow, reason);
    count_failure(t, flow->reporter, reason, 1);
    write_line(t, &line, at);
    tracing_end(flow);
}

void telemetry_close(struct telemetry *t, struct flow *flow, enum bruma_reason reason, const char *detail)
{
    end(t, flow, reason, detail, 0);
}

void telemetry_close_at(struct telemetry *t, struct flow *flow, enum bruma_reason reason, const char *detail,
                        uint64_t at)
{
    end(t, flow, reason, detail, at > flow->opened ? at : flow->opened);
}

void telemetry_repeat(struct telemetry *t, struct flow *flow, enum bruma_reason reason, uint64_t more)
{
    if (!flow->series)
        return;
    counter_add(&flow->series->opened, more);
    counter_add(&flow->series->closed[flag_of_reason(reason)], more);
    counter_add(&t->opened[flow->reporter], more);
    count_end(t, flow, more);
    count_failure(t, flow->reporter, reason, more);
}

void telemetry_forget(struct telemetry *t, struct flow *flow, bool closed)
{
    tracing_end(flow);
    if (!flow->series)
        return;
    connection_metrics_answered(&t->connections, flow);
    if (closed) {
        count_closed(t, flow, BRUMA_REASON_NONE);
    } else {
        (void)leave_series(t, flow);
        if (!flow->tentative)
            count_end(t, flow, 1);
    }
}

void telemetry_retry(struct telemetry *t, struct flow *flow, enum bruma_reason reason)
{
    if (flow->series)
        (void)leave_series(t, flow);
    counter_add(&t->retries[(unsigned)reason < BRUMA_REASON_COUNT ? reason : BRUMA_REASON_INTERNAL], 1);
    flow->retries++;
    flow->retry_reason = reason;
}

void telemetry_measure(struct telemetry *t, bool measured)
{
    t->connections.off = !measured;
}

void telemetry_waited(struct telemetry *t, enum telemetry_wait what, uint64_t since)
{
    if (since && !t->connections.off)
        times_add(&t->connections.waits[what], since, telemetry_now());
}

void telemetry_handshake(struct telemetry *t, enum telemetry_reporter reporter, uint64_t since)
{
    if (since && !t->connections.off)
        times_add(&t->connections.handshakes[reporter], since, telemetry_now());
}

void telemetry_socket(struct telemetry *t, enum telemetry_leg leg, int fd)
{
    connection_metrics_socket(&t->connections, leg, fd);
}

void telemetry_ejected(struct telemetry *t)
{
    counter_add(&t->ejections, 1);
}

void telemetry_leaving(struct telemetry *t)
{
    counter_add(&t->leaving, 1);
}

void telemetry_same_node(struct telemetry *t, enum same_node_why why)
{
    if (why != SAME_NODE_WHY_ELSEWHERE)
        counter_add(&t->same_node[why], 1);
}

void telemetry_early_deny(struct telemetry *t, enum telemetry_reporter reporter,
                          const struct endpoint *source, const struct endpoint *destination,
                          enum bruma_reason reason, const char *detail)
{
    struct flow flow = {.reporter = reporter, .source_address = *source, .destination_address = *destination};
    struct access_line line = {
        .level = LOG_LEVEL_WARN,
        .event = ACCESS_FAILED,
        .flow = &flow,
        .reason = reason,
        .detail = detail,
    };

    count_failure(t, reporter, reason, 1);
    write_line(t, &line, 0);
}

void telemetry_policy_wait(struct telemetry *t, bool *waited)
{
    if (!*waited)
        counter_add(&t->policy_waits, 1);
    *waited = true;
}

void telemetry_client_hidden(struct telemetry *t)
{
    counter_add(&t->hidden_clients, 1);
}

void telemetry_dry_run(struct telemetry *t, enum policy_dry_run dry_run, const char *policy)
{
    dry_run_metrics_count(&t->dry_run, dry_run, policy);
}
