/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of a pod to a workload that has a hostname in place of an address (contract section 4.5). */
#ifndef PROXY_CONNECTION_HOSTNAME_H
#define PROXY_CONNECTION_HOSTNAME_H

#include "proxy/connection/pending.h"
#include "proxy/route/route.h"

enum hostname_step {
    HOSTNAME_KNOWN,     /* the route has an address */
    HOSTNAME_WAITS,     /* it is being asked for; the connection waits */
    HOSTNAME_ELSEWHERE, /* it has failed, and another endpoint is there: the route is to be found again */
    HOSTNAME_OVER,      /* refused; the connection is gone */
};

/* For place(): the route, which has a hostname, gets an address of it. timed_out: it is waited for no longer.
 * Worker's own thread. */
enum hostname_step hostname_resolve(struct pending *pending, const struct workload *source,
                                    struct route *route, bool timed_out);

#endif
