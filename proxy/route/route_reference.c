/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/route_reference.h"

#include <stdio.h>

#include "lib/cleanup.h"
#include "proxy/route/endpoints.h"
#include "proxy/route/route.h"
#include "proxy/state/state_store.h"

const char *reference_format(const struct gateway_reference *reference, char *buf, size_t size)
{
    char text[ADDR_TEXT_LEN];

    if (reference->network)
        snprintf(buf, size, "%s/%s", reference->network, addr_format(&reference->addr, text));
    else
        snprintf(buf, size, "%s/%s", reference->namespace, reference->hostname);
    return buf;
}

static const struct service_full *
reference_service(const struct state *state, const struct gateway_reference *reference, const char *namespace)
{
    if (reference->network)
        return find_service_by_vip(state, reference->network, &reference->addr, namespace);
    return find_service(state, reference->namespace, reference->hostname);
}

static const struct workload_full *reference_workload(const struct state *state,
                                                      const struct gateway_reference *reference)
{
    if (reference->network)
        return find_workload(state, reference->network, &reference->addr);
    return find_workload_by_hostname(state, reference->namespace, reference->hostname);
}

void reference_resolve(const struct state *state, const struct gateway_reference *reference,
                       const struct workload *source, enum balance_purpose purpose, uint64_t *random,
                       const struct endpoint_filter *filter, struct reference_target *ret)
{
    const struct service_full *service = reference_service(state, reference, source->namespace);
    struct choice_of_endpoint choice;

    if (filter && filter->needs && filter->needs->len < array_size(filter->needs->all))
        filter->needs->all[filter->needs->len++] = reference;
    *ret = (struct reference_target){.service = service, .port = reference->port};
    if (!service) {
        ret->workload = reference_workload(state, reference);
        ret->why = "neither a service nor a workload has that name";
        return;
    }
    if (purpose == BALANCE_FOR_GATEWAY)
        endpoints_choose_strictly(state, service, source, reference->port, purpose, random, filter, &choice);
    else
        endpoints_choose(state, service, source, reference->port, purpose, random, filter, &choice);
    ret->workload = choice.workload;
    ret->port = choice.port;
    if (choice.workload)
        ret->endpoint = choice.endpoint;
    ret->gateway = choice.gateway;
    ret->no_gateway = choice.no_gateway;
    ret->no_names = choice.no_names;
    ret->left_out = choice.left_out;
    ret->why = "it has no usable endpoint";
}

bool reference_names(const struct state *state, const struct gateway_reference *reference,
                     const struct workload_full *workload, const struct addr *arrival)
{
    const struct service_full *service = reference_service(state, reference, workload->public.namespace);
    const struct workload_full *named;

    if (service)
        return workload_membership(workload, service) != NULL;
    named = reference_workload(state, reference);
    return named && workload_same(named, workload) &&
           (!arrival || !reference->network || workload_has_address(named, arrival));
}
