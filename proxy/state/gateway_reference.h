/* SPDX-License-Identifier: Apache-2.0 */
/* References to waypoints and gateways (istio.workload.GatewayAddress), of workloads and services. Control
 * thread. */
#ifndef PROXY_STATE_GATEWAY_REFERENCE_H
#define PROXY_STATE_GATEWAY_REFERENCE_H

#include "bruma/mesh.h"
#include "lib/proto/workload.pb-c.h"
#include "proxy/state/state_objects.h"

/* Whether it can be used; NULL is fine. 0, or -EBADMSG with what and why in error. */
int gateway_reference_check(const Istio__Workload__GatewayAddress *reference, const char *what, char *error,
                            size_t error_size);
/* Takes a checked one. 0, or -ENOMEM: ret is partly filled, and holds references all the same. */
int gateway_reference_fill(struct gateway_reference *ret, const Istio__Workload__GatewayAddress *reference);

#endif
