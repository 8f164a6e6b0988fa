/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What connections need, on the control plane's stream: keys are subscribed to as they come, and left when
 * they are idle, together with the resources that came for their sake. A resource stays as long as a key
 * leads to it: by its name or address, as an endpoint of a service that stays, or as a workload of this node,
 * which the control plane sends unasked. Control thread.
 */
#ifndef PROXY_XDS_XDS_ON_DEMAND_H
#define PROXY_XDS_XDS_ON_DEMAND_H

#include "lib/rpc/grpc.h"
#include "proxy/state/state.h"
#include "proxy/wire/wire.h"
#include "proxy/xds/on_demand.h"
#include "proxy/xds/xds_versions.h"

struct xds_on_demand {
    struct on_demand *keys; /* NULL: everything is subscribed to */
    struct loop *loop;
    struct state *state;
    struct xds_versions *versions; /* of addresses */
    const char *node_name;
    struct grpc_call *call; /* NULL while there is no stream */
    bool begun;             /* the stream's first answer has come */
    struct loop_timer tidy;
    unsigned long interval; /* milliseconds between looks for what is idle */
    uint64_t left;          /* resources so far */
};

/* keys NULL: none of the others does anything. idle: milliseconds, as the keys have it. All pointers must
 * live as long. */
void xds_on_demand_init(struct xds_on_demand *on_demand, struct on_demand *keys, struct loop *loop,
                        struct state *state, struct xds_versions *versions, const char *node_name,
                        unsigned long idle);
void xds_on_demand_end(struct xds_on_demand *on_demand);

/* Writes what makes a first request one for nothing but what it names, and the keys that fit into bound
 * bytes. */
void xds_on_demand_first(struct xds_on_demand *on_demand, struct wire_writer *writer, size_t bound);
/* That request is sent: what comes from now on is too. call: until the next call of hang_up. */
void xds_on_demand_begin(struct xds_on_demand *on_demand, struct grpc_call *call);
/* The stream is over. */
void xds_on_demand_hang_up(struct xds_on_demand *on_demand);
/* A response of addresses, which has been applied. */
void xds_on_demand_answered(struct xds_on_demand *on_demand, const uint8_t *message, size_t len);

#endif
