/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/identity_metrics.h"

#include "lib/metrics_text.h"
#include "proxy/identity/identity_store.h"

enum { AVAILABLE, FAILING, WAITING, STATES };

static const char *const states[STATES] = {
    [AVAILABLE] = "available", [FAILING] = "failing", [WAITING] = "waiting"};

static uint64_t count_of(const struct identity_store *store, const struct identity_source *source)
{
    const struct identity *i;
    uint64_t count = 0;

    list_for_each (i, &store->all, node)
        count += i->source == source;
    return count;
}

/* Few labels, however many pods there are: `brumactl identities` has each of them. */
static void write_sources(const struct identity_store *store, FILE *out)
{
    metric_family(out, "bruma_identities", "gauge",
                  "Identities that this proxy speaks for, by where their certificates come from.");
    for (int k = 0; k < SOURCES; k++) {
        const struct identity_source *source = store->sources[k];

        if (source)
            metric_labelled(out, "bruma_identities", "source", source->type->name, count_of(store, source));
    }
    metric_family(out, "bruma_identity_failures", "counter",
                  "Times that a source had no good certificate for an identity.");
    for (int k = 0; k < SOURCES; k++) {
        const struct identity_source *source = store->sources[k];

        if (source)
            metric_labelled(out, "bruma_identity_failures_total", "source", source->type->name,
                            source->failures);
    }
    for (int k = 0; k < SOURCES; k++) {
        const struct identity_source *source = store->sources[k];

        if (source && source->type->write_metrics)
            source->type->write_metrics(source, out);
    }
}

void identity_write_metrics(const struct identity_store *store, FILE *out)
{
    uint64_t count[STATES] = {}, failed = 0;
    const struct identity *i;
    int64_t first = 0;

    list_for_each (i, &store->all, node) {
        bool usable = current_certificate_usable(&i->current);

        count[usable ? AVAILABLE : *i->error ? FAILING : WAITING]++;
        failed += *i->error != 0;
        if (usable && (!first || i->current.context->not_after < first))
            first = i->current.context->not_after;
    }
    metric_family(out, "bruma_certificates", "gauge",
                  "Identities that this proxy speaks for, by whether it has a certificate that is good now.");
    for (int s = 0; s < STATES; s++)
        metric_labelled(out, "bruma_certificates", "state", states[s], count[s]);
    metric_gauge(
        out, "bruma_certificates_not_renewed",
        "Identities whose last request for a certificate failed, with one that is still good or without.",
        failed);
    if (first)
        metric_gauge(out, "bruma_certificate_expiry_timestamp_seconds",
                     "When the first of the certificates ends, since the epoch.", (uint64_t)first);
    write_sources(store, out);
    bundle_directory_write_metrics(&store->bundles, out);
}
