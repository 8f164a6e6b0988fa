/* SPDX-License-Identifier: Apache-2.0 */
/* The config dump of the admin page (contract section 9.3). */
#ifndef PROXY_ADMIN_CONFIG_DUMP_H
#define PROXY_ADMIN_CONFIG_DUMP_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "lib/settings.h"

struct state;
struct identity_store;

/*
 * Control thread. workload_state: what "workloadState" shall be, taken also on failure (NULL: empty). table
 * and settings: the program's settings and its filled struct, see settings.h; settings that are credentials
 * are left out. state and identities may be NULL. Returns NULL without memory.
 */
cJSON *config_dump_new(struct state *state, struct identity_store *identities, cJSON *workload_state,
                       const struct setting *table, size_t count, const void *settings);

#endif
