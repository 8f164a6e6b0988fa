/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/handover/pauses.h"

#include <time.h>

#include "lib/metrics_text.h"

#define SECOND  UINT64_C(1000000000)
#define LONGEST (60 * SECOND) /* nobody waits so long for the other one */

/* Upper ends, in microseconds and as text. What is longer than the last is in none. */
static const uint64_t ends[PAUSES_BUCKETS] = {200,   500,   1000,   2000,   5000,   10000,
                                              20000, 50000, 100000, 500000, 1000000};
static const char *const end_texts[PAUSES_BUCKETS] = {"0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01",
                                                      "0.02",   "0.05",   "0.1",   "0.5",   "1.0"};

uint64_t pauses_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

void pauses_add(struct pauses *p, uint64_t since)
{
    uint64_t now = pauses_now(), microseconds = (now - since) / 1000;

    if (!since || now < since || now - since > LONGEST)
        return;
    p->count++;
    p->sum += microseconds;
    p->max = microseconds > p->max ? microseconds : p->max;
    for (unsigned i = 0; i < PAUSES_BUCKETS; i++) {
        if (microseconds > ends[i])
            continue;
        p->in_bucket[i]++;
        return;
    }
}

void pauses_merge(struct pauses *p, const struct pauses *other)
{
    p->count += other->count;
    p->sum += other->sum;
    p->max = other->max > p->max ? other->max : p->max;
    for (unsigned i = 0; i < PAUSES_BUCKETS; i++)
        p->in_bucket[i] += other->in_bucket[i];
}

uint64_t pauses_of_most(const struct pauses *p)
{
    uint64_t most = (p->count * 99 + 99) / 100, below = 0;

    for (unsigned i = 0; i < PAUSES_BUCKETS; i++) {
        below += p->in_bucket[i];
        if (below >= most)
            return ends[i] < p->max ? ends[i] : p->max;
    }
    return p->max;
}

void pauses_write(const struct pauses *p, FILE *out)
{
    static const char name[] = "bruma_handed_over_pause_seconds";
    const struct metric_histogram histogram = {
        .ends = end_texts,
        .in_bucket = p->in_bucket,
        .buckets = PAUSES_BUCKETS,
        .count = p->count,
        .sum = p->sum,
        .seconds = true,
    };

    if (!p->count)
        return;
    metric_family(out, name, "histogram",
                  "For how long nobody served a connection or tunnel that came from another process.");
    metric_histogram(out, name, "", &histogram);
}
