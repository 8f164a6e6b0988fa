/* SPDX-License-Identifier: Apache-2.0 */
/* Reads what is pinned for one pod (layout in agent/steer/steer.h), without the steering library's own
 * bookkeeping. */
#ifndef AGENT_ENROLL_PINS_H
#define AGENT_ENROLL_PINS_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/maps.h"

/* Writes the SO_COOKIE of the socket in each slot, 0 for an empty one. -ENOENT if nothing is pinned. */
int pins_listeners(const char *pin_dir, uint64_t cookie, uint64_t ret[BRUMA_LISTENER_COUNT]);
/* The link is pinned and its network namespace has ceased to exist. */
bool pins_netns_dead(const char *pin_dir, uint64_t cookie);

#endif
