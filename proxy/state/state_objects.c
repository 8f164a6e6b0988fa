/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/state_objects.h"

#include <stdlib.h>

#include "proxy/state/intern.h"
#include "proxy/state/state_store.h"

static void reference_release(const struct gateway_reference *reference)
{
    if (!reference)
        return;
    intern_put(reference->network);
    intern_put(reference->namespace);
    intern_put(reference->hostname);
}

static void workload_free(struct workload_full *w)
{
    struct workload *p = &w->public;
    const char *shared[] = {p->namespace,  p->service_account,    p->trust_domain,  p->network, p->node,
                            p->cluster_id, p->canonical_name,     p->workload_name, p->region,  p->zone,
                            p->subzone,    p->canonical_revision, p->identity};

    for (size_t i = 0; i < array_size(shared); i++)
        intern_put(shared[i]);
    for (size_t i = 0; i < w->policies_len; i++)
        intern_put(w->policies[i]);
    for (size_t i = 0; i < w->services_len; i++)
        service_node_put(w->services[i].node);
    reference_release(w->waypoint);
    reference_release(w->gateway);
    free(w);
}

void workload_ref(const struct workload *workload)
{
    __atomic_add_fetch(&((struct workload *)(uintptr_t)workload)->references, 1, __ATOMIC_RELAXED);
}

void workload_unref(const struct workload *workload)
{
    struct workload *w = (struct workload *)(uintptr_t)workload;

    if (w && __atomic_sub_fetch(&w->references, 1, __ATOMIC_ACQ_REL) == 0)
        workload_free((struct workload_full *)w);
}

static void service_free(struct service_full *s)
{
    intern_put(s->public.namespace);
    intern_put(s->public.hostname);
    for (size_t i = 0; i < s->addresses_len; i++)
        intern_put(s->addresses[i].network);
    for (size_t i = 0; i < s->alternative_names_len; i++)
        intern_put(s->alternative_names[i]);
    for (size_t i = 0; i < s->weighted_len; i++)
        reference_release(&s->weighted[i].reference);
    reference_release(s->waypoint);
    service_node_put(s->node);
    free(s);
}

void service_ref(const struct service *service)
{
    __atomic_add_fetch(&((struct service *)(uintptr_t)service)->references, 1, __ATOMIC_RELAXED);
}

void service_unref(const struct service *service)
{
    struct service *s = (struct service *)(uintptr_t)service;

    if (s && __atomic_sub_fetch(&s->references, 1, __ATOMIC_ACQ_REL) == 0)
        service_free((struct service_full *)s);
}

uint16_t workload_service_port(const struct workload_service *membership, uint16_t port)
{
    const struct port_map *ports =
        (const struct port_map *)((char *)workload_of_service(membership) + membership->ports_offset);

    for (uint32_t i = 0; i < membership->ports_len; i++) {
        if (ports[i].service == port && ports[i].target)
            return ports[i].target;
    }
    return 0;
}

const struct port_map *service_port(const struct service_full *service, uint16_t port)
{
    for (uint32_t i = 0; i < service->ports_len; i++) {
        if (service->ports[i].service == port)
            return &service->ports[i];
    }
    return NULL;
}

bool workload_has_address(const struct workload_full *workload, const struct addr *addr)
{
    for (size_t i = 0; i < workload->addresses_len; i++) {
        if (addr_equal(&workload->addresses[i].addr, addr))
            return true;
    }
    return false;
}

const struct service_address *service_same_address(const struct service_full *service,
                                                   const struct service_address *address)
{
    for (size_t i = 0; i < service->addresses_len; i++) {
        const struct service_address *a = &service->addresses[i];

        if (a->network == address->network && a->cidr.length == address->cidr.length &&
            addr_equal(&a->cidr.addr, &address->cidr.addr))
            return a;
    }
    return NULL;
}

bool workload_same(const struct workload_full *a, const struct workload_full *b)
{
    return a == b || !strcmp(a->public.uid, b->public.uid);
}
