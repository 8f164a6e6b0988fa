/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROXY_STATE_STATE_DUMP_H
#define PROXY_STATE_STATE_DUMP_H

#include <cjson/cJSON.h>

#include "proxy/state/state_objects.h"

/* Appends one policy; false without memory. */
bool policy_dump(const struct policy *policy, cJSON *array);

#endif
