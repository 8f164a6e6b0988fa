/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/same_node_dump.h"

#include "proxy/pod/pod.h"
#include "proxy/pod/same_node_way.h"
#include "proxy/proxy.h"

static const struct pod *pod_at(const struct proxy *p, const struct addr *addr, unsigned *ret_many)
{
    const struct pod *pod, *found = NULL;

    *ret_many = 0;
    list_for_each (pod, &p->pods, node) {
        if (!pod_has_address(pod, addr))
            continue;
        found = pod;
        ++*ret_many;
    }
    return found;
}

static enum same_node_why of_pod(const struct proxy *p, const struct pod *pod)
{
    return pod->draining || pod->deleted || pod->ending ? SAME_NODE_WHY_ENDING : same_node_allows(p, pod);
}

static enum same_node_why ask(const struct proxy *p, const struct addr *from, const struct addr *to)
{
    unsigned sources, destinations;
    const struct pod *source = pod_at(p, from, &sources), *destination = pod_at(p, to, &destinations);
    enum same_node_why why;

    if (!source || !destination)
        return SAME_NODE_WHY_ELSEWHERE;
    if (sources > 1 || destinations > 1)
        return SAME_NODE_WHY_ADDRESS_IN_DOUBT;
    if (p->draining)
        return SAME_NODE_WHY_ENDING;
    why = of_pod(p, source);
    return why ? why : of_pod(p, destination);
}

void same_node_dump(const struct proxy *p, const struct addr *from, const struct addr *to, cJSON *o)
{
    enum same_node_why why = ask(p, from, to);

    if (why == SAME_NODE_WHY_ELSEWHERE)
        return;
    cJSON_AddStringToObject(o, "sameNode", same_node_why_name(why));
    cJSON_AddStringToObject(o, "sameNodeText", same_node_why_what(why));
}
