/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/outbound_policy.h"

#include "bruma/outbound.h"
#include "lib/outbound_policy.h"
#include "proxy/route/known.h"
#include "proxy/socket/socket.h"

static bool is_registry_only(const struct pod *pod)
{
    return atomic_load_explicit(&pod->outbound_policy, memory_order_relaxed) == OUTBOUND_REGISTRY_ONLY;
}

bool outbound_policy_refuses(const struct connection *c, const struct workload *source, char *detail,
                             size_t detail_size)
{
    struct worker_pod *wp = c->wp;
    char text[ENDPOINT_TEXT_LEN];

    if (!is_registry_only(wp->pod))
        return false;
    /* What is excluded has not come here. */
    if (bruma_outbound_decide(BRUMA_EXCLUSION_NONE, BRUMA_EXCLUSION_NONE,
                              destination_known(wp->worker->state, source, &c->destination),
                              true) != BRUMA_OUTBOUND_REFUSED)
        return false;
    /* Last, since the kernel has to be asked: addresses of the pod that its network has not named. */
    if (!wp->pod->redirected && socket_address_is_local(wp->worker, wp->pod, &c->destination.addr))
        return false;
    snprintf(detail, detail_size, "%s is not known to the mesh, and the outbound traffic policy is %s",
             endpoint_format(&c->destination, text), outbound_policy_name(OUTBOUND_REGISTRY_ONLY));
    return true;
}

void outbound_policy_check_one(struct connection *c, const struct workload *source)
{
    char detail[160];

    /* what goes through the mesh has a destination there */
    if (!c->inbound && c->opened && !c->flow.destination && !c->flow.service &&
        outbound_policy_refuses(c, source, detail, sizeof(detail)))
        c->abort(c, BRUMA_REASON_POLICY_CHANGED, detail);
}

void outbound_policy_check(struct worker_pod *wp)
{
    const struct workload *source;
    struct connection *c;

    if (!is_registry_only(wp->pod))
        return;
    source = worker_pod_source(wp);
    list_for_each (c, &wp->connections, node)
        outbound_policy_check_one(c, source);
}
