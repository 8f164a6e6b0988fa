/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The counters of one worker, a series for each label set. The worker writes, a scrape reads: counters are
 * relaxed atomics with a single writer, the table is locked only where it changes and while a scrape copies
 * its pointers.
 *
 * The label set of a connection is not put together for each connection: a small cache leads from who talks
 * to whom (pointers to the control plane's objects, which it keeps referenced so that they stay unique) to
 * the series.
 */
#ifndef PROXY_TELEMETRY_METRIC_SERIES_H
#define PROXY_TELEMETRY_METRIC_SERIES_H

#include "proxy/telemetry/telemetry.h"

#define METRIC_SERIES_MAX 10000 /* of one worker; about 1 KiB each */
/* Milliseconds without a connection, then a series is dropped. */
#define METRIC_SERIES_IDLE         (60 * 60 * 1000ull)
#define METRIC_SERIES_SWEEP        (5 * 60 * 1000ull) /* milliseconds between looks for such series */
#define METRIC_SERIES_SWEEP_AT_MAX (10 * 1000ull)     /* milliseconds: the same while the table is full */
/* Baggages of one peer that become labels, where no setting says otherwise. */
#define METRIC_SERIES_DESCRIPTIONS 16
#define METRIC_SERIES_FLAGS        16 /* room for the response flags of bruma/reasons.h */

struct metric_series {
    struct metric_series *next; /* in its bucket */
    uint64_t hash;
    uint64_t touched; /* milliseconds of the loop's clock; worker's own */
    uint32_t open;    /* connections that count here; worker's own */
    uint32_t text_len, flags_at;
    /* relaxed atomics */
    uint64_t opened, received, sent;
    uint64_t closed[METRIC_SERIES_FLAGS]; /* by flag_of_reason() */
    char text[];                          /* see labels_format() */
};

struct metric_series_table;

/* An empty table, the worker's. 0 or -ENOMEM. */
int metric_series_table_new(struct metric_series_table **ret);
void metric_series_table_free(struct metric_series_table **table);
/* Of one peer's baggages only so many become labels; the others count without. */
void metric_series_limit_descriptions(struct metric_series_table *table, unsigned limit);

/* The series of the flow at now (milliseconds of the loop's clock), the table's: valid while a connection
 * is counted in open. Never NULL: a table that is full or without memory leads to one of unknown labels. */
struct metric_series *metric_series_get(struct metric_series_table *table, const struct flow *flow,
                                        uint64_t now);

/* Drops what nobody has touched since now - idle (milliseconds). Called by metric_series_get() too, now and
 * then. */
void metric_series_sweep(struct metric_series_table *table, uint64_t now, uint64_t idle);

/* Whether anything is counted in it; not in one that an endpoint was tried under, and no more. Of connections
 * that another process has opened there may be everything but that. Any thread. */
bool metric_series_is_used(const struct metric_series *series);

/* Scrape, any thread: pointers to all series, which stay valid until metric_series_release(). The array is
 * the caller's to free. 0 or -ENOMEM: nothing is to be released then. */
int metric_series_list(struct metric_series_table *table, struct metric_series ***ret, size_t *ret_len);
void metric_series_release(struct metric_series_table *table);

/* How many there are, and of the rest how many there have been. */
struct metric_series_statistics {
    uint64_t series, evicted, overflowed, undescribed;
};
/* Fills ret. Any thread. */
void metric_series_statistics(struct metric_series_table *table, struct metric_series_statistics *ret);

/* Response flags by number; flag 0 is "-". */
unsigned flag_of_reason(enum bruma_reason reason);
/* A static text, never NULL; flag below flag_count(). */
const char *flag_text(unsigned flag);
/* How many flags there are. */
unsigned flag_count(void);

/* A counter with a single writer needs no locked instruction. */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* The number that it has reached; any thread. */
static inline uint64_t counter_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

#endif
