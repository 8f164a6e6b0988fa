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
#ifndef PROXY_TELEMETRY_SERIES_H
#define PROXY_TELEMETRY_SERIES_H

#include "proxy/telemetry/telemetry.h"

#define SERIES_MAX          10000               /* of one worker; about 1 KiB each */
#define SERIES_IDLE         (60 * 60 * 1000ull) /* milliseconds without a connection, then a series is dropped */
#define SERIES_SWEEP        (5 * 60 * 1000ull) /* milliseconds between looks for such series */
#define SERIES_SWEEP_AT_MAX (10 * 1000ull)     /* the same while the table is full */
#define SERIES_DESCRIPTIONS                                                                         \
    16                  /* baggages of one peer that become labels, where no setting says otherwise \
                         */
#define SERIES_FLAGS 16 /* room for the response flags of bruma/reasons.h */

struct telemetry_series {
    struct telemetry_series *next; /* in its bucket */
    uint64_t hash;
    uint64_t touched; /* milliseconds of the loop's clock; worker's own */
    uint32_t open;    /* connections that count here; worker's own */
    uint32_t text_len, flags_at;
    /* relaxed atomics */
    uint64_t opened, received, sent;
    uint64_t closed[SERIES_FLAGS]; /* by flag_of_reason() */
    char text[];                   /* see labels_format() */
};

struct series_table;

int series_table_new(struct series_table **ret);
void series_table_free(struct series_table **table);
/* Of one peer's baggages only so many become labels; the others count without. */
void series_limit_descriptions(struct series_table *table, unsigned limit);

/* The series of the flow; never NULL: a table that is full or without memory leads to one of unknown labels.
 */
struct telemetry_series *series_get(struct series_table *table, const struct flow *flow, uint64_t now);

/* Drops what nobody has touched since now - idle. Called by series_get() too, now and then. */
void series_sweep(struct series_table *table, uint64_t now, uint64_t idle);

/* Scrape, any thread: pointers to all series, which stay valid until series_release(). The array is the
 * caller's to free. -ENOMEM. */
int series_list(struct series_table *table, struct telemetry_series ***ret, size_t *ret_len);
void series_release(struct series_table *table);

struct series_statistics {
    uint64_t series, evicted, overflowed, undescribed;
};
void series_statistics(struct series_table *table, struct series_statistics *ret); /* any thread */

/* Response flags by number; flag 0 is "-". */
unsigned flag_of_reason(enum bruma_reason reason);
const char *flag_text(unsigned flag);
unsigned flag_count(void);

/* A counter with a single writer needs no locked instruction. */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline uint64_t counter_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

#endif
