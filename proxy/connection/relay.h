/* SPDX-License-Identifier: Apache-2.0 */
/* Two plain sockets and the bytes between them: destinations outside the mesh, and plaintext inbound. */
#ifndef PROXY_CONNECTION_RELAY_H
#define PROXY_CONNECTION_RELAY_H

#include "proxy/worker/connection.h"

struct relay_request {
    struct worker_pod *wp;
    int fd; /* accepted; taken */
    bool inbound;
    struct endpoint client, destination; /* as in struct connection */
    struct endpoint target;              /* to dial */
    /* referenced; taken */
    const struct workload *source, *upstream;
    const struct service *service;
};

/* inbound: asks the policies first, then connects to the pod's application; else dials target from the pod.
 * Both sockets are reset if that fails. */
void relay_start(const struct relay_request *request);

#endif
