/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts of what dry-run policies would have made of connections, by policy: of one worker, which alone
 * counts; scrapes read beside it, without a lock, since series are only ever added.
 */
#ifndef PROXY_TELEMETRY_DRY_RUN_METRICS_H
#define PROXY_TELEMETRY_DRY_RUN_METRICS_H

#include <stdint.h>
#include <stdio.h>

#include "proxy/route/policy.h"

struct dry_run_series;

struct dry_run_metrics {
    struct dry_run_series *first; /* atomic */
    unsigned len;
    uint64_t others[POLICY_DRY_RUN_COUNT]; /* relaxed atomics: beyond the limit of policies */
};

/* policy: "namespace/name", copied; "": none matched. Beyond 256 policies, and without memory, a policy is
 * counted as "other". */
void dry_run_metrics_count(struct dry_run_metrics *metrics, enum policy_dry_run dry_run, const char *policy);
/* The family in OpenMetrics text, summed over all of them; nothing if nothing was counted. Any thread. */
void dry_run_metrics_write(struct dry_run_metrics *const *all, size_t count, FILE *out);
/* Frees what it holds, not the struct; no scrape may read it any longer. */
void dry_run_metrics_clear(struct dry_run_metrics *metrics);

#endif
