/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/handover/pauses.h"

#include <inttypes.h>
#include <time.h>

#include "lib/metrics_text.h"

#define SECOND  UINT64_C(1000000000)
#define LONGEST (60 * SECOND) /* nobody waits so long for the other one */

/* Upper ends, in microseconds and as text. What is longer than the last is in none. */
static const struct {
    uint64_t microseconds;
    const char *text;
} buckets[PAUSES_BUCKETS] = {{200, "0.0002"}, {500, "0.0005"}, {1000, "0.001"}, {2000, "0.002"},
                             {5000, "0.005"}, {10000, "0.01"}, {20000, "0.02"}, {50000, "0.05"},
                             {100000, "0.1"}, {500000, "0.5"}, {1000000, "1.0"}};

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
        if (microseconds > buckets[i].microseconds)
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
            return buckets[i].microseconds < p->max ? buckets[i].microseconds : p->max;
    }
    return p->max;
}

void pauses_write(const struct pauses *p, FILE *out)
{
    static const char name[] = "bruma_handed_over_pause_seconds";
    uint64_t below = 0;

    if (!p->count)
        return;
    metric_family(out, name, "histogram",
                  "For how long nobody served a connection or tunnel that came from another process.");
    for (unsigned i = 0; i < PAUSES_BUCKETS; i++) {
        below += p->in_bucket[i];
        fprintf(out, "%s_bucket{le=\"%s\"} %" PRIu64 "\n", name, buckets[i].text, below);
    }
    fprintf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, p->count);
    fprintf(out, "%s_sum %" PRIu64 ".%06" PRIu64 "\n", name, p->sum / 1000000, p->sum % 1000000);
    fprintf(out, "%s_count %" PRIu64 "\n", name, p->count);
}
