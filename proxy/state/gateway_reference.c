/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/gateway_reference.h"

#include "proxy/state/decode.h"
#include "proxy/state/intern.h"

static bool usable_reference(const Istio__Workload__GatewayAddress *reference)
{
    switch ((int)reference->destination_case) {
    case ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME:
        return true;
    case ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS:
        return reference->address->address.len == 4 || reference->address->address.len == 16;
    default:
        return false;
    }
}

int gateway_reference_check(const Istio__Workload__GatewayAddress *reference, const char *what, char *error,
                            size_t error_size)
{
    if (!reference || usable_reference(reference))
        return 0;
    return refuse(error, error_size, "%s without a usable destination", what);
}

int gateway_reference_fill(struct gateway_reference *ret, const Istio__Workload__GatewayAddress *reference)
{
    ret->port = port_decode(reference->hbone_mtls_port);
    if (!ret->port)
        ret->port = BRUMA_PORT_HBONE;
    if (reference->destination_case == ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME) {
        ret->namespace = intern_get(reference->hostname->namespace_);
        ret->hostname = intern_get(reference->hostname->hostname);
        return ret->namespace && ret->hostname ? 0 : -ENOMEM;
    }
    addr_from_bytes(reference->address->address.data, reference->address->address.len, &ret->addr);
    ret->network = intern_get(reference->address->network);
    return ret->network ? 0 : -ENOMEM;
}
