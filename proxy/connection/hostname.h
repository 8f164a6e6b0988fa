/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of a pod to a workload that has a hostname in place of an address (contract section 4.5). */
#ifndef PROXY_CONNECTION_HOSTNAME_H
#define PROXY_CONNECTION_HOSTNAME_H

#include "proxy/connection/pending.h"
#include "proxy/route/route.h"

/*
 * For place(): the route, which has a hostname, gets an address of it. True: it has. False: *ret_step says
 * what place() returns: the name is being asked and the connection waits, or it is refused and gone. ret_step
 * is not written where it is true. Worker's own thread.
 */
bool hostname_resolve(struct pending *pending, const struct workload *source, struct route *route,
                      bool timed_out, enum admission_step *ret_step);

#endif
