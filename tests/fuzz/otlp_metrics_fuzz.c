/* SPDX-License-Identifier: Apache-2.0 */
/* A page of metrics, in which labels are texts of peers, as messages of OTLP. */
#include <stdlib.h>
#include <string.h>

#include "lib/proto/otlp.pb-c.h"
#include "lib/utf8.h"
#include "proxy/otlp/otlp_metrics.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text)
{
    size_t n;

    for (; *text; text += n) {
        n = utf8_character(text, 4);
        if (!n)
            abort();
    }
}

static void check_attributes(Otlp__KeyValue **all, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        check_text(all[i]->key);
        check_text(all[i]->value->string_value);
    }
}

static uint64_t check(const Otlp__Metric *m)
{
    uint64_t items = 0;

    check_text(m->name);
    check_text(m->description);
    if (m->data_case == OTLP__METRIC__DATA_HISTOGRAM) {
        for (; items < m->histogram->n_data_points; items++) {
            const Otlp__HistogramDataPoint *p = m->histogram->data_points[items];

            if (p->n_bucket_counts != p->n_explicit_bounds + 1)
                abort();
            check_attributes(p->attributes, p->n_attributes);
        }
        return items;
    }
    for (size_t n = m->data_case == OTLP__METRIC__DATA_SUM ? m->sum->n_data_points : m->gauge->n_data_points;
         items < n; items++) {
        const Otlp__NumberDataPoint *p = m->data_case == OTLP__METRIC__DATA_SUM
                                             ? m->sum->data_points[items]
                                             : m->gauge->data_points[items];

        check_attributes(p->attributes, p->n_attributes);
    }
    return items;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct otlp_batch batch = {};

    if (otlp_metrics_encode((const char *)data, size, 1, 2, &batch) < 0)
        abort();
    for (const struct otlp_record *r = batch.first; r; r = r->next) {
        Otlp__Metric *m = otlp__metric__unpack(NULL, r->len, r->data);

        if (!m || check(m) != r->items)
            abort();
        otlp__metric__free_unpacked(m, NULL);
    }
    otlp_batch_clear(&batch);
    return 0;
}
