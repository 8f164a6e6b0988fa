/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the proxy that was replaced, on their way to a worker of this one: the new end of a lane of
 * bruma/handover.h. */
#ifndef PROXY_HANDOVER_TAKER_H
#define PROXY_HANDOVER_TAKER_H

#include "proxy/handover/pauses.h"
#include "proxy/worker/worker.h"

struct taker_result {
    unsigned taken, refused;
    uint64_t left;        /* connections that drain where they are */
    uint64_t pause_max;   /* microseconds that a unit stood still, as the other process has seen it */
    struct pauses pauses; /* as seen here */
    char why[128];        /* the last was left; "": none was, or nothing is known of it */
};

/* Called on the control thread, once for each taker_start(). */
typedef void (*taker_done_fn)(void *data, const struct taker_result *result);

/* Control thread: the worker takes what comes by the lane. Both descriptors are taken; pidfd is of the old
 * proxy. done: called with data at its end. */
void taker_start(struct worker *worker, int fd, int pidfd, taker_done_fn done, void *data);

#endif
