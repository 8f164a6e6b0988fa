/* SPDX-License-Identifier: Apache-2.0 */
/* Two plain sockets and the bytes between them: destinations outside the mesh, plaintext inbound, and two
 * pods of this process. */
#ifndef PROXY_CONNECTION_RELAY_H
#define PROXY_CONNECTION_RELAY_H

#include "proxy/worker/connection.h"

/* Called when an outbound connection could not be made; in a pair the reason is CONNECT_REJECTED then,
 * whatever the other pod's is. True: it has taken the connection and its accepted socket, which were not
 * touched. May be NULL. On the worker's thread. */
typedef bool (*relay_failed_fn)(struct connection *connection, int fd, enum bruma_reason reason);

/*
 * Takes over a connection that is open to telemetry, with its accepted socket, and connects to target:
 * inbound to the pod's application, else from the pod. Both sockets are reset if that fails. -ENOMEM: nothing
 * was taken.
 */
int relay_start(struct connection *c, int fd, const struct endpoint *target, relay_failed_fn failed);

/* Where the bytes of a pair go. */
struct relay_delivery {
    struct endpoint target;    /* the application */
    const struct addr *client; /* whose address it shall see, or NULL: as for socket_deliver() */
    const uint8_t *first;      /* goes to it before everything; copied */
    size_t first_len;
};

/*
 * The same between two pods of this process: c is the client's connection with its accepted socket, and `in`
 * the same one as the other pod has it, both open to telemetry and on one worker. Each has the bytes, the
 * account and the end of its own side; whichever is aborted takes the other along. -ENOMEM: nothing was
 * taken.
 */
int relay_start_pair(struct connection *c, struct connection *in, int fd,
                     const struct relay_delivery *delivery, relay_failed_fn failed);

/* Of an end that one pod's side has: what the other side's log and metrics say of it, as they do of a
 * tunnel's end. */
enum bruma_reason relay_other_reason(enum bruma_reason reason);

#endif
