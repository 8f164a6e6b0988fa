/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's connections on their way to the proxy that has taken over: the old end of a lane of
 * bruma/handover.h. */
#ifndef PROXY_HANDOVER_GIVER_H
#define PROXY_HANDOVER_GIVER_H

#include "proxy/worker/worker.h"

/* What became of it. */
struct giver_result {
    unsigned moved, left;          /* units that went, and what stays and drains */
    char why[128];                 /* the last that was left; "": none was */
    uint64_t pause_max, pause_sum; /* microseconds that units stood still: the longest, and all together */
};

/* Called on the control thread, once for each giver_start(). */
typedef void (*giver_done_fn)(void *data, const struct giver_result *result);

/* Control thread: the worker hands over what it can by the lane, which is taken. done: called with data at
 * its end. */
void giver_start(struct worker *worker, int fd, giver_done_fn done, void *data);

#endif
