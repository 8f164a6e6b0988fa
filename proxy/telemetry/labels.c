/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/labels.h"

#include "proxy/telemetry/baggage.h"

/* One side of a connection; "" or NULL: unknown. */
struct label_side {
    bool known;
    const char *workload, *service, *revision, *namespace, *principal, *app, *cluster, *region, *zone;
};

static void from_workload(struct label_side *side, const struct workload *w)
{
    side->known = true;
    side->workload = w->workload_name;
    side->service = side->app = w->canonical_name;
    side->revision = w->canonical_revision;
    side->namespace = w->namespace;
    side->cluster = w->cluster_id;
    side->region = w->region;
    side->zone = w->zone;
}

/* app is the workload's name here, as in the labels that the contract is taken from. */
static void from_baggage(struct label_side *side, const struct baggage *b)
{
    side->known = true;
    side->workload = side->app = b->values[BAGGAGE_WORKLOAD];
    side->service = b->values[BAGGAGE_SERVICE];
    side->revision = b->values[BAGGAGE_REVISION];
    side->namespace = b->values[BAGGAGE_NAMESPACE];
    side->cluster = b->values[BAGGAGE_CLUSTER];
    side->region = b->values[BAGGAGE_REGION];
    side->zone = b->values[BAGGAGE_ZONE];
}

static void value(struct text *t, const char *string)
{
    if (string && *string)
        text_escaped(t, string, LABEL_VALUE_MAX);
    else
        text_literal(t, "unknown");
}

#define LABEL(t, name, string)             \
    do {                                   \
        text_literal(t, "\"," name "=\""); \
        value(t, string);                  \
    } while (0)

void labels_format(const struct flow *flow, struct text *t, size_t *ret_flags)
{
    struct label_side source = {}, destination = {};
    struct baggage baggage;
    bool vouched = (!flow->source || !flow->destination) && baggage_vouched(flow, &baggage);

    if (flow->source)
        from_workload(&source, flow->source);
    else if (vouched && flow->reporter == REPORTER_DESTINATION)
        from_baggage(&source, &baggage);
    if (flow->destination)
        from_workload(&destination, flow->destination);
    else if (vouched && flow->reporter == REPORTER_SOURCE)
        from_baggage(&destination, &baggage);
    source.principal = flow_authenticated(flow) ? flow->source_identity : NULL;
    if (flow->destination)
        destination.principal = flow->destination->identity;
    else
        destination.principal = flow_authenticated(flow) ? flow->destination_identity : NULL;

    text_literal(t, "reporter=\"");
    text_string(t, flow->reporter == REPORTER_SOURCE ? "source" : "destination");
    LABEL(t, "source_workload", source.workload);
    LABEL(t, "source_canonical_service", source.service);
    LABEL(t, "source_canonical_revision", source.revision);
    LABEL(t, "source_workload_namespace", source.namespace);
    LABEL(t, "source_principal", source.principal);
    LABEL(t, "source_app", source.app);
    LABEL(t, "source_version", source.revision);
    LABEL(t, "source_cluster", source.cluster);
    LABEL(t, "destination_service", flow->service ? flow->service->hostname : NULL);
    LABEL(t, "destination_service_namespace", flow->service ? flow->service->namespace : NULL);
    LABEL(t, "destination_service_name", flow->service ? flow->service->name : NULL);
    LABEL(t, "destination_workload", destination.workload);
    LABEL(t, "destination_canonical_service", destination.service);
    LABEL(t, "destination_canonical_revision", destination.revision);
    LABEL(t, "destination_workload_namespace", destination.namespace);
    LABEL(t, "destination_principal", destination.principal);
    LABEL(t, "destination_app", destination.app);
    LABEL(t, "destination_version", destination.revision);
    LABEL(t, "destination_cluster", destination.cluster);
    text_literal(t, "\",request_protocol=\"tcp\",response_flags=\"");
    *ret_flags = t->len;
    text_literal(t, "\",connection_security_policy=\"");
    text_string(t, flow->mutual_tls ? "mutual_tls" : "unknown");
    if (source.known || destination.known) {
        LABEL(t, "source_region", source.region);
        LABEL(t, "source_zone", source.zone);
        LABEL(t, "destination_region", destination.region);
        LABEL(t, "destination_zone", destination.zone);
    }
    text_literal(t, "\"");
}
