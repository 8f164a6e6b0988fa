/* SPDX-License-Identifier: Apache-2.0 */
/* A set of (client endpoint, local port), shared by the workers of one pod. Used once for each new plaintext
 * connection. */
#ifndef PROXY_POD_TUPLES_H
#define PROXY_POD_TUPLES_H

#include <stdbool.h>

#include "lib/addr.h"

struct tuple_set;

int tuple_set_new(struct tuple_set **ret);
void tuple_set_free(struct tuple_set **set);
/* How often it is in the set now, or -ENOMEM. Adding twice counts twice. */
int tuple_set_add(struct tuple_set *set, const struct endpoint *client, uint16_t local_port);
void tuple_set_remove(struct tuple_set *set, const struct endpoint *client, uint16_t local_port);
bool tuple_set_has(struct tuple_set *set, const struct endpoint *client, uint16_t local_port);

#endif
