/* SPDX-License-Identifier: Apache-2.0 */
/* What /verdict says of a connection between two pods of this process. */
#ifndef PROXY_ADMIN_SAME_NODE_DUMP_H
#define PROXY_ADMIN_SAME_NODE_DUMP_H

#include <cjson/cJSON.h>

#include "lib/addr.h"

struct proxy;

/* Adds "sameNode", relay or a name of SAME_NODE_WHYS, and its words as "sameNodeText", to an object; nothing
 * if the process does not serve both addresses. It goes by settings, addresses and ends: whether the
 * certificates vouch for each other is found out when a connection is made. Control thread. */
void same_node_dump(const struct proxy *proxy, const struct addr *from, const struct addr *to, cJSON *object);

#endif
