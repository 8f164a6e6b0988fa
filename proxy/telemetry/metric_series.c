/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/metric_series.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/reasons.h"
#include "proxy/state/hash.h"
#include "proxy/telemetry/baggage.h"
#include "proxy/telemetry/labels.h"

#define CACHE_BITS    9
#define FIRST_BUCKETS 64
#define PEER_BUCKETS  256
#define OVERFLOWS     4 /* reporter x mutual TLS */

/* What decides about the label set. No padding: compared as bytes. */
struct flow_key {
    const struct workload *source, *destination;
    const struct service *service;
    uint64_t texts; /* keyed hash of identities and baggage */
    uint64_t kind;  /* reporter and mutual TLS */
};

/* The baggages of one identity that became labels. */
struct peer {
    struct peer *next; /* in its bucket */
    uint64_t identity; /* keyed hash */
    unsigned len;
    struct {
        uint64_t baggage; /* keyed hash */
        uint64_t touched;
    } seen[];
};

struct cached {
    struct flow_key key; /* its objects are referenced */
    bool undescribed;    /* its baggage was one too many */
    struct metric_series *series;
    uint64_t touched;
};

struct metric_series_table {
    pthread_mutex_t lock; /* guards buckets and what hangs there, len, scrapes; the worker reads without it */
    struct metric_series **buckets;
    size_t buckets_len, len;
    unsigned scrapes; /* readers that hold pointers: nothing may be freed */
    uint64_t swept;
    struct metric_series *overflow[OVERFLOWS];
    struct peer *peers[PEER_BUCKETS];
    unsigned descriptions;
    uint64_t evicted, overflowed, undescribed; /* relaxed atomics */
    struct cached cache[1 << CACHE_BITS];
};

/* ---- response flags ---- */

static struct {
    uint8_t of_reason[BRUMA_REASON_COUNT];
    const char *text[METRIC_SERIES_FLAGS];
    unsigned len;
} flags;

/* Before main(), so that threads only read it. */
__attribute__((constructor)) static void collect_flags(void)
{
    flags.text[flags.len++] = "-";
    for (unsigned reason = 0; reason < BRUMA_REASON_COUNT; reason++) {
        const char *text = reason_response_flag((enum bruma_reason)reason);
        unsigned i = 0;

        while (i < flags.len && strcmp(flags.text[i], text) != 0)
            i++;
        if (i == flags.len) {
            if (flags.len == METRIC_SERIES_FLAGS)
                abort(); /* the list of reasons has outgrown METRIC_SERIES_FLAGS */
            flags.text[flags.len++] = text;
        }
        flags.of_reason[reason] = (uint8_t)i;
    }
}

unsigned flag_of_reason(enum bruma_reason reason)
{
    return flags.of_reason[(unsigned)reason < BRUMA_REASON_COUNT ? reason : BRUMA_REASON_INTERNAL];
}

const char *flag_text(unsigned flag)
{
    return flags.text[flag];
}

unsigned flag_count(void)
{
    return flags.len;
}

/* ---- the table ---- */

static struct metric_series *metric_series_new(const char *text, size_t len, size_t flags_at, uint64_t hash)
{
    struct metric_series *s = calloc(1, sizeof(*s) + len);

    if (!s)
        return NULL;
    memcpy(s->text, text, len);
    s->text_len = (uint32_t)len;
    s->flags_at = (uint32_t)flags_at;
    s->hash = hash;
    return s;
}

static struct metric_series *overflow_new(int kind)
{
    struct flow flow = {.reporter = kind & 1 ? REPORTER_DESTINATION : REPORTER_SOURCE,
                        .mutual_tls = kind & 2};
    char labels[2048];
    struct text text = {labels, 0, sizeof(labels)};
    size_t flags_at;

    labels_format(&flow, &text, &flags_at);
    return metric_series_new(text.at, text.len, flags_at, 0);
}

int metric_series_table_new(struct metric_series_table **ret)
{
    struct metric_series_table *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    pthread_mutex_init(&t->lock, NULL);
    t->buckets = calloc(FIRST_BUCKETS, sizeof(struct metric_series *));
    t->buckets_len = FIRST_BUCKETS;
    t->descriptions = METRIC_SERIES_DESCRIPTIONS;
    for (int i = 0; i < OVERFLOWS; i++)
        t->overflow[i] = overflow_new(i);
    if (!t->buckets || !t->overflow[0] || !t->overflow[1] || !t->overflow[2] || !t->overflow[3]) {
        metric_series_table_free(&t);
        return -ENOMEM;
    }
    *ret = t;
    return 0;
}

void metric_series_limit_descriptions(struct metric_series_table *t, unsigned limit)
{
    t->descriptions = limit; /* before there are peers, who have room for so many */
}

static void forget(struct cached *c)
{
    workload_unref(c->key.source);
    workload_unref(c->key.destination);
    service_unref(c->key.service);
    memset(c, 0, sizeof(*c));
}

void metric_series_table_free(struct metric_series_table **ptr)
{
    struct metric_series_table *t = *ptr;

    if (!t)
        return;
    for (size_t i = 0; i < array_size(t->cache); i++) {
        if (t->cache[i].series)
            forget(&t->cache[i]);
    }
    for (size_t i = 0; t->buckets && i < t->buckets_len; i++) {
        while (t->buckets[i]) {
            struct metric_series *s = t->buckets[i];

            t->buckets[i] = s->next;
            free(s);
        }
    }
    for (size_t i = 0; i < PEER_BUCKETS; i++) {
        while (t->peers[i]) {
            struct peer *p = t->peers[i];

            t->peers[i] = p->next;
            free(p);
        }
    }
    for (int i = 0; i < OVERFLOWS; i++)
        free(t->overflow[i]);
    free(t->buckets);
    pthread_mutex_destroy(&t->lock);
    free(t);
    *ptr = NULL;
}

/* Longer chains are no error: without memory for more buckets it goes on with these. */
static void grow(struct metric_series_table *t)
{
    size_t len = t->buckets_len * 2;
    struct metric_series **buckets = calloc(len, sizeof(struct metric_series *));

    if (!buckets)
        return;
    for (size_t i = 0; i < t->buckets_len; i++) {
        while (t->buckets[i]) {
            struct metric_series *s = t->buckets[i];

            t->buckets[i] = s->next;
            s->next = buckets[s->hash & (len - 1)];
            buckets[s->hash & (len - 1)] = s;
        }
    }
    free(t->buckets);
    t->buckets = buckets;
    t->buckets_len = len;
}

/* Milliseconds from then to now; a clock that goes back counts as none. */
static uint64_t elapsed(uint64_t then, uint64_t now)
{
    return now > then ? now - then : 0;
}

static bool is_idle(const struct peer *p, uint64_t now, uint64_t idle)
{
    for (unsigned i = 0; i < p->len; i++) {
        if (elapsed(p->seen[i].touched, now) < idle)
            return false;
    }
    return true;
}

static void sweep_peers(struct metric_series_table *t, uint64_t now, uint64_t idle)
{
    for (size_t i = 0; i < PEER_BUCKETS; i++) {
        struct peer **at = &t->peers[i];

        while (*at) {
            struct peer *p = *at;

            if (is_idle(p, now, idle)) {
                *at = p->next;
                free(p);
            } else {
                at = &p->next;
            }
        }
    }
}

void metric_series_sweep(struct metric_series_table *t, uint64_t now, uint64_t idle)
{
    sweep_peers(t, now, idle);
    for (size_t i = 0; i < array_size(t->cache); i++) {
        if (t->cache[i].series && elapsed(t->cache[i].touched, now) >= idle)
            forget(&t->cache[i]);
    }
    pthread_mutex_lock(&t->lock);
    /* A scrape reads them: the next sweep will do. */
    for (size_t i = 0; !t->scrapes && i < t->buckets_len; i++) {
        struct metric_series **at = &t->buckets[i];

        while (*at) {
            struct metric_series *s = *at;

            if (s->open || elapsed(s->touched, now) < idle) {
                at = &s->next;
                continue;
            }
            *at = s->next;
            t->len--;
            counter_add(&t->evicted, 1);
            free(s);
        }
    }
    pthread_mutex_unlock(&t->lock);
    t->swept = now;
}

static struct metric_series *find_or_add(struct metric_series_table *t, const struct flow *flow)
{
    char labels[LABELS_MAX];
    struct text text = {labels, 0, sizeof(labels)};
    struct metric_series *s;
    size_t flags_at;
    uint64_t hash;

    labels_format(flow, &text, &flags_at);
    hash = hash_bytes(text.at, text.len);
    for (s = t->buckets[hash & (t->buckets_len - 1)]; s; s = s->next) {
        if (s->hash == hash && s->text_len == text.len && !memcmp(s->text, text.at, text.len))
            return s;
    }
    s = t->len < METRIC_SERIES_MAX ? metric_series_new(text.at, text.len, flags_at, hash) : NULL;
    if (!s)
        return NULL;
    pthread_mutex_lock(&t->lock);
    if (t->len >= t->buckets_len)
        grow(t);
    s->next = t->buckets[hash & (t->buckets_len - 1)];
    t->buckets[hash & (t->buckets_len - 1)] = s;
    t->len++;
    pthread_mutex_unlock(&t->lock);
    return s;
}

static struct peer *find_peer(struct metric_series_table *t, uint64_t identity)
{
    struct peer **at = &t->peers[identity % PEER_BUCKETS], *p;

    for (p = *at; p; p = p->next) {
        if (p->identity == identity)
            return p;
    }
    p = calloc(1, sizeof(*p) + t->descriptions * sizeof(p->seen[0]));
    if (!p)
        return NULL;
    p->identity = identity;
    p->next = *at;
    *at = p;
    return p;
}

/* Whether this peer may be told from others by what it says of itself: a peer may say anything, and a label
 * set is kept for each. */
static bool may_describe(struct metric_series_table *t, const struct flow *flow, uint64_t now)
{
    const char *identity =
        flow->reporter == REPORTER_DESTINATION ? flow->source_identity : flow->destination_identity;
    uint64_t baggage = hash_text(flow->baggage);
    struct baggage ignored;
    struct peer *p;

    if (!baggage_vouched(flow, &ignored))
        return true; /* it becomes no label anyhow */
    if (!t->descriptions)
        return false;
    p = find_peer(t, hash_text(identity));
    if (!p)
        return false;
    for (unsigned i = 0; i < p->len; i++) {
        if (p->seen[i].baggage == baggage) {
            p->seen[i].touched = now;
            return true;
        }
    }
    for (unsigned i = 0; i < t->descriptions; i++) {
        if (i < p->len && elapsed(p->seen[i].touched, now) < METRIC_SERIES_IDLE)
            continue;
        p->seen[i].baggage = baggage;
        p->seen[i].touched = now;
        p->len = i < p->len ? p->len : i + 1;
        return true;
    }
    return false;
}

static uint64_t hash_texts(const struct flow *flow)
{
    const char *peer = flow->destination ? NULL : flow->destination_identity;
    uint64_t hash = 0;

    if (flow_authenticated(flow) && flow->source_identity)
        hash = hash_text(flow->source_identity);
    if (flow_authenticated(flow) && peer)
        hash = hash_pair(hash, hash_text(peer));
    if (flow->baggage && (!flow->source || !flow->destination))
        hash = hash_pair(hash, hash_text(flow->baggage));
    return hash;
}

static void remember(struct cached *c, const struct flow_key *key, struct metric_series *s, bool undescribed,
                     uint64_t now)
{
    if (key->source)
        workload_ref(key->source);
    if (key->destination)
        workload_ref(key->destination);
    if (key->service)
        service_ref(key->service);
    if (c->series)
        forget(c);
    *c = (struct cached){.key = *key, .undescribed = undescribed, .series = s, .touched = now};
}

struct metric_series *metric_series_get(struct metric_series_table *t, const struct flow *flow, uint64_t now)
{
    uint64_t kind = (flow->reporter == REPORTER_DESTINATION ? 1 : 0) | (flow->mutual_tls ? 2 : 0) |
                    (flow->same_node ? 4 : 0);
    struct flow_key key = {flow->source, flow->destination, flow->service, hash_texts(flow), kind};
    uint64_t hash = hash_pair((uintptr_t)key.source, (uintptr_t)key.destination);
    struct flow described = *flow;
    struct metric_series *s;
    struct cached *c;
    bool undescribed;

    if (elapsed(t->swept, now) >=
        (t->len < METRIC_SERIES_MAX ? METRIC_SERIES_SWEEP : METRIC_SERIES_SWEEP_AT_MAX))
        metric_series_sweep(t, now, METRIC_SERIES_IDLE);
    hash = hash_pair(hash, hash_pair((uintptr_t)key.service, key.texts + key.kind));
    c = &t->cache[hash & (array_size(t->cache) - 1)];
    if (c->series && !memcmp(&c->key, &key, sizeof(key))) {
        c->touched = c->series->touched = now;
        if (c->undescribed)
            counter_add(&t->undescribed, 1);
        return c->series;
    }
    undescribed = described.baggage && (!flow->source || !flow->destination) && !may_describe(t, flow, now);
    if (undescribed) {
        described.baggage = NULL;
        counter_add(&t->undescribed, 1);
    }
    s = find_or_add(t, &described);
    if (!s) {
        counter_add(&t->overflowed, 1);
        return t->overflow[kind];
    }
    s->touched = now;
    remember(c, &key, s, undescribed, now);
    return s;
}

/* ---- scrape ---- */

bool metric_series_is_used(const struct metric_series *s)
{
    uint64_t any = counter_read(&s->opened) | counter_read(&s->received) | counter_read(&s->sent);

    for (unsigned f = 0; f < flag_count(); f++)
        any |= counter_read(&s->closed[f]);
    return any;
}

int metric_series_list(struct metric_series_table *t, struct metric_series ***ret, size_t *ret_len)
{
    struct metric_series **all;
    size_t len = 0;

    pthread_mutex_lock(&t->lock);
    all = malloc((t->len + OVERFLOWS) * sizeof(struct metric_series *));
    if (!all) {
        pthread_mutex_unlock(&t->lock);
        return -ENOMEM;
    }
    for (size_t i = 0; i < t->buckets_len; i++) {
        for (struct metric_series *s = t->buckets[i]; s; s = s->next)
            all[len++] = s;
    }
    t->scrapes++;
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < OVERFLOWS; i++) {
        if (metric_series_is_used(t->overflow[i]))
            all[len++] = t->overflow[i];
    }
    *ret = all;
    *ret_len = len;
    return 0;
}

void metric_series_release(struct metric_series_table *t)
{
    pthread_mutex_lock(&t->lock);
    t->scrapes--;
    pthread_mutex_unlock(&t->lock);
}

void metric_series_statistics(struct metric_series_table *t, struct metric_series_statistics *ret)
{
    pthread_mutex_lock(&t->lock);
    ret->series = t->len;
    pthread_mutex_unlock(&t->lock);
    ret->evicted = counter_read(&t->evicted);
    ret->overflowed = counter_read(&t->overflowed);
    ret->undescribed = counter_read(&t->undescribed);
}
