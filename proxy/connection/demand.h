/* SPDX-License-Identifier: Apache-2.0 */
/* What a connection needs of the mesh and is not here yet, with XDS_ON_DEMAND: it is asked for, and the
 * connection waits, once and for a bounded time. Without it nothing is ever missing. Worker's own thread. */
#ifndef PROXY_CONNECTION_DEMAND_H
#define PROXY_CONNECTION_DEMAND_H

#include "proxy/connection/pending.h"
#include "proxy/route/route.h"

/*
 * For place() of outbound connections: the destination, and the gateways of the route to it. True: go on.
 * False: *ret_step says what place() returns: it waits, or it is refused and gone; ret_step is not written
 * where it is true. timed_out: it is waited for no longer. Whoever does not know where a connection belongs
 * cannot pass it on: it might go around a waypoint or a tunnel.
 */
bool demand_destination(struct pending *pending, const struct workload *source, bool timed_out,
                        enum admission_step *ret_step);
bool demand_route(struct pending *pending, const struct route *route, bool timed_out,
                  enum admission_step *ret_step);

/* For place() of what comes from outside: who the client is, for labels. authority NULL: a connection without
 * a tunnel; else what the request names is looked up too. False: it waits; it is never refused for it, and
 * does not wait while the control plane is away. */
bool demand_inbound(struct admission *admission, const struct workload *local, const struct endpoint *arrival,
                    const char *authority, bool timed_out);

#endif
