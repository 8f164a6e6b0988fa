/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/gateway.h"

#include <string.h>

#include "proxy/route/route_reference.h"
#include "proxy/state/hash.h"

bool gateway_resolve(const struct state *state, const struct workload_full *remote,
                     const struct workload *source, uint64_t *random, const struct endpoint_filter *filter,
                     struct gateway_target *ret, struct endpoint *ret_endpoint, bool *ret_left_out)
{
    struct endpoint_filter behind = filter ? *filter : (struct endpoint_filter){};
    struct reference_target target;
    struct endpoint gateway;

    *ret_left_out = false;
    if (!remote->gateway)
        return false;
    behind.behind = hash_text(remote->public.uid);
    reference_resolve(state, remote->gateway, source, BALANCE_FOR_GATEWAY, random, &behind, &target);
    if (!target.workload) {
        *ret_left_out = target.left_out;
        return false;
    }
    if (!target.workload->addresses_len && !*target.workload->public.hostname)
        return false;
    gateway = endpoint_of_workload(target.workload, target.port);
    if (!target.service && endpoint_is_left_out(&behind, &gateway)) {
        *ret_left_out = true;
        return false;
    }
    *ret = (struct gateway_target){
        .workload = target.workload,
        .service = target.service,
        .hint = remote->gateway->network ? &remote->gateway->addr : NULL,
        .port = target.port,
    };
    *ret_endpoint = gateway_endpoint(behind.behind, &gateway);
    return true;
}

struct endpoint gateway_endpoint(uint64_t behind, const struct endpoint *gateway)
{
    struct endpoint name = {.port = gateway->port};
    uint64_t hash[2], half[2];

    memcpy(half, gateway->addr.bytes, sizeof(half));
    hash[0] = hash_pair(behind, hash_pair(half[0], half[1]));
    hash[1] = hash_pair(hash[0], 1);
    memcpy(name.addr.bytes, hash, sizeof(name.addr.bytes));
    return name;
}
