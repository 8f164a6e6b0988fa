/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/dns_metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/metrics_text.h"
#include "proxy/telemetry/labels.h"
#include "proxy/telemetry/metric_series.h"
#include "proxy/telemetry/telemetry_internal.h"
#include "proxy/telemetry/text.h"

#define DNS_SERIES_MAX 2048
#define SLOTS          512 /* a power of two */
#define UNKNOWN        "unknown"

/* Upper ends of the histogram, in microseconds and as text. */
static const uint64_t bucket_ends[] = {500, 1000, 10000, 100000, 1000000, 5000000};
static const char *const bucket_texts[] = {"0.0005", "0.001", "0.01", "0.1", "1.0", "5.0"};

enum { BUCKETS = array_size(bucket_ends) };

struct dns_series {
    struct dns_series *next; /* of the same slot */
    const char *type;        /* the caller's */
    bool tcp;
    char *service, *revision;
    uint64_t requests, upstream, failures, answers, microseconds; /* relaxed atomics, as the next */
    uint64_t in_bucket[BUCKETS];
};

struct dns_metrics {
    pthread_mutex_t lock; /* of the lists: the worker adds, scrapes walk */
    struct dns_series *slots[SLOTS];
    size_t len;
    struct dns_series spare; /* without memory for another one */
};

static void add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

int dns_metrics_new(struct dns_metrics **ret)
{
    struct dns_metrics *m = calloc(1, sizeof(*m));

    if (!m)
        return -ENOMEM;
    pthread_mutex_init(&m->lock, NULL);
    m->spare = (struct dns_series){
        .type = "other", .service = (char *)(uintptr_t)UNKNOWN, .revision = (char *)(uintptr_t)UNKNOWN};
    *ret = m;
    return 0;
}

static void series_free(struct dns_series *s)
{
    free(s->service);
    free(s->revision);
    free(s);
}

void dns_metrics_free(struct dns_metrics **metrics)
{
    struct dns_metrics *m = *metrics;

    if (!m)
        return;
    for (size_t i = 0; i < SLOTS; i++) {
        while (m->slots[i]) {
            struct dns_series *s = m->slots[i];

            m->slots[i] = s->next;
            series_free(s);
        }
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
    *metrics = NULL;
}

static size_t slot_of(const char *type, bool tcp, const char *service, const char *revision)
{
    const char *const parts[] = {type, service, revision};
    uint32_t h = 2166136261u ^ (uint32_t)tcp;

    for (size_t i = 0; i < array_size(parts); i++) {
        for (const char *p = parts[i]; *p; p++)
            h = (h ^ (uint8_t)*p) * 16777619u;
        h = (h ^ 0xff) * 16777619u;
    }
    return h & (SLOTS - 1);
}

static struct dns_series *get(struct dns_metrics *m, const char *type, bool tcp, const char *service,
                              const char *revision)
{
    struct dns_series **slot = &m->slots[slot_of(type, tcp, service, revision)], *s;

    for (s = *slot; s; s = s->next) {
        if (s->type == type && s->tcp == tcp && !strcmp(s->service, service) &&
            !strcmp(s->revision, revision))
            return s;
    }
    if (m->len >= DNS_SERIES_MAX && strcmp(service, UNKNOWN) != 0)
        return get(m, type, tcp, UNKNOWN, UNKNOWN);
    s = calloc(1, sizeof(*s));
    if (!s)
        return &m->spare;
    s->type = type;
    s->tcp = tcp;
    s->service = strdup(service);
    s->revision = strdup(revision);
    if (!s->service || !s->revision) {
        series_free(s);
        return &m->spare;
    }
    pthread_mutex_lock(&m->lock);
    s->next = *slot;
    *slot = s;
    m->len++;
    pthread_mutex_unlock(&m->lock);
    return s;
}

static const char *or_unknown(const char *text)
{
    return text && *text ? text : UNKNOWN;
}

struct dns_series *dns_metrics_of(struct telemetry *t, const char *type, bool tcp,
                                  const struct workload *source)
{
    return get(t->dns, type, tcp, or_unknown(source ? source->canonical_name : NULL),
               or_unknown(source ? source->canonical_revision : NULL));
}

void dns_metrics_request(struct dns_series *s)
{
    add(&s->requests, 1);
}

void dns_metrics_upstream(struct dns_series *s)
{
    add(&s->upstream, 1);
}

void dns_metrics_failed(struct dns_series *s)
{
    add(&s->failures, 1);
}

void dns_metrics_answered(struct dns_series *s, uint64_t nanoseconds)
{
    uint64_t microseconds = nanoseconds / 1000;
    size_t i = 0;

    while (i < BUCKETS && microseconds > bucket_ends[i])
        i++;
    if (i < BUCKETS)
        add(&s->in_bucket[i], 1);
    add(&s->answers, 1);
    add(&s->microseconds, microseconds);
}

/* ---- scrapes ---- */

struct sum {
    char *labels;
    uint64_t requests, upstream, failures, answers, microseconds, in_bucket[BUCKETS];
};

struct sums {
    struct sum *items;
    size_t len, room;
    bool failed; /* sums that lack something would look as if counters ran backwards: rather none */
};

static char *labels_of(const struct dns_series *s)
{
    char buf[256 + 6 * LABEL_VALUE_MAX];
    struct text t = {.at = buf, .size = sizeof(buf) - 1};

    text_literal(&t, "request_query_type=\"");
    text_string(&t, s->type);
    text_literal(&t, "\",request_protocol=\"");
    text_string(&t, s->tcp ? "tcp" : "udp");
    text_literal(&t, "\",source_canonical_service=\"");
    text_escaped(&t, s->service, LABEL_VALUE_MAX);
    text_literal(&t, "\",source_canonical_revision=\"");
    text_escaped(&t, s->revision, LABEL_VALUE_MAX);
    text_literal(&t, "\"");
    buf[t.len] = '\0';
    return strdup(buf);
}

static void take(struct sums *sums, const struct dns_series *s)
{
    struct sum *one;

    if (sums->len == sums->room) {
        size_t room = sums->room ? sums->room * 2 : 64;
        struct sum *grown = reallocarray(sums->items, room, sizeof(*grown));

        if (!grown) {
            sums->failed = true;
            return;
        }
        sums->items = grown;
        sums->room = room;
    }
    one = &sums->items[sums->len];
    *one = (struct sum){.labels = labels_of(s),
                        .requests = counter_read(&s->requests),
                        .upstream = counter_read(&s->upstream),
                        .failures = counter_read(&s->failures),
                        .answers = counter_read(&s->answers),
                        .microseconds = counter_read(&s->microseconds)};
    for (size_t i = 0; i < BUCKETS; i++)
        one->in_bucket[i] = counter_read(&s->in_bucket[i]);
    sums->failed |= !one->labels;
    sums->len += one->labels != NULL;
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct sum *)a)->labels, ((const struct sum *)b)->labels);
}

/* Equal label sets of several workers become one. */
static void merge(struct sums *sums)
{
    size_t kept = 0;

    qsort(sums->items, sums->len, sizeof(*sums->items), compare);
    for (size_t i = 0; i < sums->len; i++) {
        struct sum *to = kept ? &sums->items[kept - 1] : NULL, *from = &sums->items[i];

        if (!to || strcmp(to->labels, from->labels) != 0) {
            sums->items[kept++] = *from;
            continue;
        }
        to->requests += from->requests;
        to->upstream += from->upstream;
        to->failures += from->failures;
        to->answers += from->answers;
        to->microseconds += from->microseconds;
        for (size_t b = 0; b < BUCKETS; b++)
            to->in_bucket[b] += from->in_bucket[b];
        free(from->labels);
    }
    sums->len = kept;
}

static void write_counter(const struct sums *sums, size_t offset, const char *name, const char *help,
                          FILE *out)
{
    bool any = false;

    for (size_t i = 0; i < sums->len; i++) {
        uint64_t value = *(const uint64_t *)(const void *)((const char *)&sums->items[i] + offset);

        if (!value)
            continue;
        if (!any)
            metric_family(out, name, "counter", help);
        any = true;
        fprintf(out, "%s_total{%s} %" PRIu64 "\n", name, sums->items[i].labels, value);
    }
}

static void write_durations(const struct sums *sums, FILE *out)
{
    static const char name[] = "istio_dns_upstream_request_duration_seconds";
    bool any = false;

    for (size_t i = 0; i < sums->len; i++) {
        const struct sum *s = &sums->items[i];
        const struct metric_histogram histogram = {
            .ends = bucket_texts,
            .in_bucket = s->in_bucket,
            .buckets = BUCKETS,
            .count = s->answers,
            .sum = s->microseconds,
            .seconds = true,
        };

        if (!s->answers)
            continue;
        if (!any)
            metric_family(out, name, "histogram", "Time until the server answered.");
        any = true;
        metric_histogram(out, name, s->labels, &histogram);
    }
}

void dns_metrics_write(struct dns_metrics *const *all, size_t count, FILE *out)
{
    struct sums sums = {};

    for (size_t i = 0; i < count; i++) {
        pthread_mutex_lock(&all[i]->lock);
        for (size_t slot = 0; slot < SLOTS; slot++) {
            for (const struct dns_series *s = all[i]->slots[slot]; s; s = s->next)
                take(&sums, s);
        }
        if (all[i]->spare.requests)
            take(&sums, &all[i]->spare);
        pthread_mutex_unlock(&all[i]->lock);
    }
    if (!sums.failed && sums.len) {
        merge(&sums);
        write_counter(&sums, offsetof(struct sum, requests), "istio_dns_requests",
                      "Questions to DNS that pods have asked.", out);
        write_counter(&sums, offsetof(struct sum, upstream), "istio_dns_upstream_requests",
                      "Questions that were sent to the server that the pod had asked.", out);
        write_counter(&sums, offsetof(struct sum, failures), "istio_dns_upstream_failures",
                      "Questions that the server did not answer.", out);
        write_durations(&sums, out);
    }
    for (size_t i = 0; i < sums.len; i++)
        free(sums.items[i].labels);
    free(sums.items);
}
