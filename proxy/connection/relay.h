/* SPDX-License-Identifier: Apache-2.0 */
/* Two plain sockets and the bytes between them: destinations outside the mesh, and plaintext inbound. */
#ifndef PROXY_CONNECTION_RELAY_H
#define PROXY_CONNECTION_RELAY_H

#include "proxy/worker/connection.h"

/* Called when an outbound connection could not be made. True: it has taken the connection and its accepted
 * socket, which were not touched. May be NULL. On the worker's thread. */
typedef bool (*relay_failed_fn)(struct connection *connection, int fd, enum bruma_reason reason);

/*
 * Takes over a connection that is open to telemetry, with its accepted socket, and connects to target:
 * inbound to the pod's application, else from the pod. Both sockets are reset if that fails. -ENOMEM: nothing
 * was taken.
 */
int relay_start(struct connection *c, int fd, const struct endpoint *target, relay_failed_fn failed);

#endif
