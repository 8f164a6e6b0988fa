/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/dry_run_metrics.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/metrics_text.h"
#include "proxy/telemetry/metric_series.h"

#define POLICIES_MAX 256
#define NAME         "bruma_dry_run_connections"
#define OTHER        "other" /* no policy is called so: their names have a slash */

struct dry_run_series {
    struct dry_run_series *next;                /* set before the series is published */
    uint64_t connections[POLICY_DRY_RUN_COUNT]; /* relaxed atomics */
    char policy[];
};

static struct dry_run_series *find(struct dry_run_series *first, const char *policy)
{
    while (first && strcmp(first->policy, policy) != 0)
        first = first->next;
    return first;
}

static struct dry_run_series *add(struct dry_run_metrics *m, const char *policy)
{
    size_t len = strlen(policy) + 1;
    struct dry_run_series *s = m->len < POLICIES_MAX ? calloc(1, sizeof(*s) + len) : NULL;

    if (!s)
        return NULL;
    memcpy(s->policy, policy, len);
    s->next = m->first;
    __atomic_store_n(&m->first, s, __ATOMIC_RELEASE);
    m->len++;
    return s;
}

void dry_run_metrics_count(struct dry_run_metrics *m, enum policy_dry_run dry_run, const char *policy)
{
    struct dry_run_series *s = find(m->first, policy);

    if (!s)
        s = add(m, policy);
    counter_add(s ? &s->connections[dry_run] : &m->others[dry_run], 1);
}

static void put(FILE *out, bool *any, enum policy_dry_run dry_run, const char *policy, uint64_t n)
{
    if (!n)
        return;
    if (!*any)
        metric_family(
            out, NAME, "counter",
            "Connections by what policies that are only tried out (dry run) would have made of them.");
    *any = true;
    fprintf(out, NAME "_total{outcome=\"%s\",policy=\"", policy_dry_run_name(dry_run));
    metric_label_text(out, policy);
    fprintf(out, "\"} %" PRIu64 "\n", n);
}

/* The samples of a policy, if no worker before has it. */
static void put_policy(struct dry_run_metrics *const *all, size_t count, size_t first,
                       const struct dry_run_series *series, bool *any, FILE *out)
{
    uint64_t sums[POLICY_DRY_RUN_COUNT] = {};

    for (size_t i = 0; i < count; i++) {
        const struct dry_run_series *s =
            find(__atomic_load_n(&all[i]->first, __ATOMIC_ACQUIRE), series->policy);

        if (s && i < first)
            return;
        for (unsigned k = 0; s && k < POLICY_DRY_RUN_COUNT; k++)
            sums[k] += counter_read(&s->connections[k]);
    }
    for (unsigned k = 0; k < POLICY_DRY_RUN_COUNT; k++)
        put(out, any, (enum policy_dry_run)k, series->policy, sums[k]);
}

void dry_run_metrics_write(struct dry_run_metrics *const *all, size_t count, FILE *out)
{
    bool any = false;

    for (size_t i = 0; i < count; i++) {
        const struct dry_run_series *s = __atomic_load_n(&all[i]->first, __ATOMIC_ACQUIRE);

        for (; s; s = s->next)
            put_policy(all, count, i, s, &any, out);
    }
    for (unsigned k = 0; k < POLICY_DRY_RUN_COUNT; k++) {
        uint64_t n = 0;

        for (size_t i = 0; i < count; i++)
            n += counter_read(&all[i]->others[k]);
        put(out, &any, (enum policy_dry_run)k, OTHER, n);
    }
}

void dry_run_metrics_clear(struct dry_run_metrics *m)
{
    while (m->first) {
        struct dry_run_series *s = m->first;

        m->first = s->next;
        free(s);
    }
    m->len = 0;
}
