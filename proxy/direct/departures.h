/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of objects that were taken out of the mesh: they stay in the maps until no reader can see the
 * objects any more. Control thread. */
#ifndef PROXY_DIRECT_DEPARTURES_H
#define PROXY_DIRECT_DEPARTURES_H

#include <stdbool.h>

#include "proxy/state/mesh_ranges.h"

struct departure;

struct departures {
    struct departure *open;  /* takes what leaves now, or NULL */
    struct departure *first; /* these wait for their grace period */
};

/* The object is not published any more. Without memory the range stays for ever: it is not lost, and the
 * result is false. */
bool departures_add(struct departures *departures, const struct cidr *range);
/* Starts the grace period of what was added. */
void departures_close(struct departures *departures);
/* Calls fn for each range whose grace period is over, and forgets it. True: there are others. */
bool departures_over(struct departures *departures, mesh_range_fn fn, void *data);
/* There will be no call for those that were added. */
void departures_forget(struct departures *departures);
/* Waits for grace periods that have begun, which are not called for either. */
void departures_free(struct departures *departures);

#endif
