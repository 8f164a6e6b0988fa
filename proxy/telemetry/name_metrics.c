/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/name_metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/metrics_text.h"
#include "proxy/state/hash.h"
#include "proxy/telemetry/labels.h"
#include "proxy/telemetry/metric_series.h"
#include "proxy/telemetry/telemetry_internal.h"
#include "proxy/telemetry/text.h"

#define NAME_SERIES_MAX 2048
#define SLOTS           512 /* a power of two */
#define LABELS_SIZE \
    (512 + 9 * 3 * LABEL_VALUE_MAX) /* bytes: nine labels, each byte of which may become three */

struct name_series {
    struct name_series *next; /* of the same slot */
    uint64_t count;           /* relaxed atomic */
    char labels[];
};

struct name_metrics {
    pthread_mutex_t lock; /* of the lists: the worker adds, scrapes walk */
    struct name_series *slots[SLOTS];
    size_t len;
    uint64_t others; /* relaxed atomic: of no series */
};

int name_metrics_new(struct name_metrics **ret)
{
    struct name_metrics *m = calloc(1, sizeof(*m));

    if (!m)
        return -ENOMEM;
    pthread_mutex_init(&m->lock, NULL);
    *ret = m;
    return 0;
}

void name_metrics_free(struct name_metrics **metrics)
{
    struct name_metrics *m = *metrics;

    if (!m)
        return;
    for (size_t i = 0; i < SLOTS; i++) {
        while (m->slots[i]) {
            struct name_series *s = m->slots[i];

            m->slots[i] = s->next;
            free(s);
        }
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
    *metrics = NULL;
}

static void label(struct text *t, const char *name, const char *value)
{
    text_string(t, t->len ? "\"," : "");
    text_string(t, name);
    text_literal(t, "=\"");
    if (value && *value)
        text_escaped(t, value, LABEL_VALUE_MAX);
    else
        text_literal(t, "unknown");
}

static void format(char buf[LABELS_SIZE], const struct workload *source, const char *hostname)
{
    static const struct workload nobody;
    const struct workload *w = source ? source : &nobody;
    struct text t = {.at = buf, .size = LABELS_SIZE - 1};

    label(&t, "source_workload", w->workload_name);
    label(&t, "source_canonical_service", w->canonical_name);
    label(&t, "source_canonical_revision", w->canonical_revision);
    label(&t, "source_workload_namespace", w->namespace);
    label(&t, "source_principal", w->identity);
    label(&t, "source_app", w->canonical_name);
    label(&t, "source_version", w->canonical_revision);
    label(&t, "source_cluster", w->cluster_id);
    label(&t, "hostname", hostname);
    text_literal(&t, "\"");
    buf[t.len] = '\0';
}

void telemetry_name_lookup(struct telemetry *telemetry, const struct workload *source, const char *hostname)
{
    struct name_metrics *m = telemetry->names;
    struct name_series **slot, *s;
    char labels[LABELS_SIZE];

    format(labels, source, hostname);
    slot = &m->slots[hash_text(labels) & (SLOTS - 1)];
    for (s = *slot; s && strcmp(s->labels, labels) != 0; s = s->next)
        ;
    if (!s) {
        size_t size = strlen(labels) + 1;

        s = m->len < NAME_SERIES_MAX ? calloc(1, sizeof(*s) + size) : NULL;
        if (!s) {
            counter_add(&m->others, 1);
            return;
        }
        memcpy(s->labels, labels, size);
        pthread_mutex_lock(&m->lock);
        s->next = *slot;
        *slot = s;
        m->len++;
        pthread_mutex_unlock(&m->lock);
    }
    counter_add(&s->count, 1);
}

/* ---- scrapes ---- */

static int compare(const void *a, const void *b)
{
    const struct name_series *const *x = a, *const *y = b;

    return strcmp((*x)->labels, (*y)->labels);
}

static void write_sorted(const struct name_series **list, size_t len, uint64_t others, FILE *out)
{
    static const char name[] = "istio_on_demand_dns";

    if (!len && !others)
        return;
    metric_family(out, name, "counter",
                  "Connections whose destination has a hostname, which DNS was asked for.");
    qsort(list, len, sizeof(*list), compare);
    for (size_t i = 0, next; i < len; i = next) {
        uint64_t sum = 0;

        for (next = i; next < len && !strcmp(list[next]->labels, list[i]->labels); next++)
            sum += counter_read(&list[next]->count);
        fprintf(out, "%s_total{%s} %" PRIu64 "\n", name, list[i]->labels, sum);
    }
    if (others) {
        char labels[LABELS_SIZE];

        format(labels, NULL, NULL);
        fprintf(out, "%s_total{%s} %" PRIu64 "\n", name, labels, others);
    }
}

/* Series stay where they are once they are listed, as long as the workers. */
void name_metrics_write(struct name_metrics *const *all, size_t count, FILE *out)
{
    const struct name_series **list = calloc(count * NAME_SERIES_MAX + 1, sizeof(*list));
    uint64_t others = 0;
    size_t len = 0;

    if (!list)
        return; /* sums that lack something would look as if counters ran backwards: rather none */
    for (size_t i = 0; i < count; i++) {
        pthread_mutex_lock(&all[i]->lock);
        for (size_t slot = 0; slot < SLOTS; slot++) {
            for (const struct name_series *s = all[i]->slots[slot]; s; s = s->next)
                list[len++] = s;
        }
        pthread_mutex_unlock(&all[i]->lock);
        others += counter_read(&all[i]->others);
    }
    write_sorted(list, len, others, out);
    free(list);
}
