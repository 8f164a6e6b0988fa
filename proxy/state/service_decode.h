/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of state_decode.c that are about services. Writer's thread. */
#ifndef PROXY_STATE_SERVICE_DECODE_H
#define PROXY_STATE_SERVICE_DECODE_H

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/proto/workload.pb-c.h"
#include "proxy/state/state_objects.h"

/* 0, -EBADMSG with the reason in error, or -ENOMEM. *ret is the caller's: service_unref() of its public
 * part. */
int service_decode(const Istio__Workload__Service *message, const struct node_source *nodes,
                   struct service_full **ret, char *error, size_t error_size);

#endif
