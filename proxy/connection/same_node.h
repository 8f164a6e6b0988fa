/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections between two pods that this process serves both. They need no tunnel: what the other pod's
 * tunnel would be asked (contract section 5.1) is asked here, and a relay carries the bytes. Where anything
 * about the two pods is in doubt there is no such way, and the tunnel decides. A worker's own thread.
 */
#ifndef PROXY_CONNECTION_SAME_NODE_H
#define PROXY_CONNECTION_SAME_NODE_H

#include "proxy/connection/relay.h"
#include "proxy/route/route.h"
#include "proxy/worker/connection_unit.h"

/* Who talks to whom; see same_node_find(). */
struct same_node_way {
    struct worker_pod *to;
    struct endpoint client;              /* as the other pod sees it */
    struct endpoint target;              /* the application's, as the client's node knows it */
    struct tls_context *certificates[2]; /* of the client's pod and of the other; referenced */
};

/*
 * Whether the connection may go to where the route leads without a tunnel: straight to a workload's only
 * address, which one pod of this process has that is neither draining nor ending; both pods' certificates are
 * there, and a handshake between them would be a success; and every setting allows it. True: *ret is filled,
 * and given back by same_node_start() or same_node_release(). False: it is not written. Which it is, and why
 * not, is counted.
 */
bool same_node_find(const struct connection *c, const struct route *route, struct same_node_way *ret);
void same_node_release(struct same_node_way *way);

/* Takes over a connection that is open to telemetry, with its accepted socket, and the way. failed: as for
 * relay_start_pair(). -ENOMEM: nothing was taken. */
int same_node_start(struct connection *c, int fd, struct same_node_way *way, relay_failed_fn failed);

/* Ends the connection if the certificate of the other pod is revoked. */
void same_node_check_one(struct connection *connection);

/* Whether the connection is the client's of two whose other pod has not answered yet. */
bool same_node_waits(const struct connection *connection);
/* The client's connection of two whose other pod has not answered yet is to be decided anew; the other's is
 * over. Returns its socket, or -1, as pending_let_go(). */
int same_node_let_go(struct connection *connection, struct connection_past *ret);

/* The lists of revoked certificates have changed: ends the pod's connections with pods whose certificate they
 * name. */
void same_node_check_revoked(struct worker_pod *wp);

#endif
