/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROXY_STATE_SERVICE_DECODE_H
#define PROXY_STATE_SERVICE_DECODE_H

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/proto/workload.pb-c.h"
#include "proxy/state/state_objects.h"

int service_decode(const Istio__Workload__Service *message, const struct node_source *nodes,
                   struct service_full **ret, char *error, size_t error_size);

/* References to waypoints and gateways: NULL is fine for the check, fill takes checked ones. */
int reference_check(const Istio__Workload__GatewayAddress *reference, const char *what, char *error,
                    size_t error_size);
int reference_fill(struct gateway_reference *ret, const Istio__Workload__GatewayAddress *reference);

#endif
