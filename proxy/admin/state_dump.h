/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROXY_ADMIN_STATE_DUMP_H
#define PROXY_ADMIN_STATE_DUMP_H

#include <cjson/cJSON.h>

#include "proxy/state/state_objects.h"

/* The arrays "workloads", "services", "policies" and "stagedServices" of the config dump (contract 9.3).
 * Writer's thread. */
int state_dump(struct state *state, cJSON *into);

/* Appends one policy; false without memory. */
bool policy_dump(const struct policy *policy, cJSON *array);

#endif
