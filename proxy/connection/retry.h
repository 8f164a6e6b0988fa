/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outbound connections whose endpoint of a service fails before anything of the application was sent: its
 * bytes wait in its socket until then, so that another endpoint may serve them. A worker's own thread.
 */
#ifndef PROXY_CONNECTION_RETRY_H
#define PROXY_CONNECTION_RETRY_H

#include "proxy/route/route.h"
#include "proxy/worker/connection.h"

/* Of a pod's application to its destination, without endpoints that are left out, or that have failed this
 * connection already. local and random: as for route_outbound(). Fills ret whole; see route_release(). */
void retry_route(const struct connection *c, const struct workload *local, uint64_t *random,
                 struct route *ret);

/* How long an endpoint may take before another one is tried, in milliseconds; 0: none would be. */
uint64_t retry_patience(const struct connection *c);

/* The connection's endpoint has failed. True: another one shall serve it, by *ret, which the caller releases,
 * and telemetry takes the connection as closed until it is opened again. Else ret is not written: it was not
 * one among several, the reason is none that another endpoint would mend (a denial, an identity), there is no
 * other, or it is too late. */
bool retry_elsewhere(struct connection *c, enum bruma_reason reason, struct route *ret);

/* The same, where the caller finds the route by itself, by retry_route(): the endpoint has failed before the
 * connection was opened to it. True if another one is there. */
bool retry_possible(struct connection *c, enum bruma_reason reason);

#define REJECTED_TEXT_LEN 64 /* bytes, with the NUL */

/* What the log says of a pod that has answered with the status of HTTP. Returns buf. */
const char *retry_rejected_text(int status, char buf[REJECTED_TEXT_LEN]);

/* The endpoint serves: the connection is one to it from here on. */
void retry_over(struct connection *c);

#endif
