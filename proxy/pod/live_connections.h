/* SPDX-License-Identifier: Apache-2.0 */
/* A set of (client endpoint, local port), shared by the workers of one pod. Used once for each new plaintext
 * connection. */
#ifndef PROXY_POD_LIVE_CONNECTIONS_H
#define PROXY_POD_LIVE_CONNECTIONS_H

#include <stdbool.h>

#include "lib/addr.h"

struct live_connections;

/* Empty. 0 or -ENOMEM. */
int live_connections_new(struct live_connections **ret);
void live_connections_free(struct live_connections **set);
/* How often it is in the set now, or -ENOMEM. Adding twice counts twice. */
int live_connections_add(struct live_connections *set, const struct endpoint *client, uint16_t local_port);
/* Takes back one adding; harmless if there was none. */
void live_connections_remove(struct live_connections *set, const struct endpoint *client,
                             uint16_t local_port);
/* Whether it is in the set now; others may be changing it. */
bool live_connections_has(struct live_connections *set, const struct endpoint *client, uint16_t local_port);

#endif
