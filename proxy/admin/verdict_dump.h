/* SPDX-License-Identifier: Apache-2.0 */
/* What the policies of a destination say of a connection. */
#ifndef PROXY_ADMIN_VERDICT_DUMP_H
#define PROXY_ADMIN_VERDICT_DUMP_H

#include <cjson/cJSON.h>

#include "lib/addr.h"

struct state;

/*
 * {"allowed", "policy", "text", "dryRun", "dryRunPolicy", "dryRunText"}, as a connection would be judged.
 * identity "": without mutual TLS. NULL: nobody knows the destination, or no memory. The caller owns it.
 * Control thread.
 */
cJSON *verdict_dump(const struct state *state, const char *identity, const struct endpoint *from,
                    const struct endpoint *to);

#endif
