/* SPDX-License-Identifier: Apache-2.0 */
/* What workers tell of endpoints that they leave out. */
#include <time.h>

#include "lib/metrics_text.h"
#include "proxy/worker/endpoint_notes.h"
#include "proxy/worker/worker.h"

static int take(struct endpoint_notes *notes, const struct worker *w, const struct ejected *ejected,
                bool leaving)
{
    uint64_t now = loop_now(w->loop);

    for (unsigned i = 0; i < EJECTED_MAX; i++) {
        const struct ejected_endpoint *e = ejected_at(ejected, i);
        struct endpoint_note note;
        int r;

        if (!e->endpoint.port || now >= e->until)
            continue;
        note = (struct endpoint_note){.endpoint = e->endpoint,
                                      .leaving = leaving,
                                      .reason = e->reason,
                                      .milliseconds = e->until - now,
                                      .worker = w->index};
        r = endpoint_notes_add(notes, &note);
        if (r < 0)
            return r;
    }
    return 0;
}

int endpoint_notes_take(struct endpoint_notes *notes, const struct worker *w)
{
    int r = take(notes, w, &w->ejected, false);

    return r < 0 ? r : take(notes, w, &w->leaving, true);
}

void endpoint_write_metrics(const struct proxy *p, FILE *out)
{
    uint64_t failed = 0, leaving = 0, now;
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts); /* the clock of loop_now() */
    now = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
    for (unsigned i = 0; i < p->workers_len; i++) {
        failed += ejected_count(&p->workers[i]->ejected, now);
        leaving += ejected_count(&p->workers[i]->leaving, now);
    }
    metric_family(out, "bruma_endpoints_left_out", "gauge",
                  "Endpoints that workers leave out of their choice just now, added up.");
    metric_labelled(out, "bruma_endpoints_left_out", "why", "failed", failed);
    metric_labelled(out, "bruma_endpoints_left_out", "why", "leaving", leaving);
}
