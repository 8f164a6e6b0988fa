/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A first request that is bounded cannot tell the control plane of everything that is held, so its answer
 * will not say that something untold has gone. Delta xDS has no mark for the end of that answer, which may
 * come in many responses; it counts as settled once the server, which shows that it lives, has mentioned
 * nothing untold for a while. What is untold then is let go. Until then everything serves on. Control thread.
 */
#ifndef PROXY_XDS_XDS_SWEEP_H
#define PROXY_XDS_XDS_SWEEP_H

#include <stdint.h>

#include "lib/rpc/grpc.h"
#include "proxy/state/state.h"
#include "proxy/xds/xds_versions.h"

struct xds_sweep {
    struct loop *loop;
    struct loop_timer timer;
    struct state *state;
    struct xds_versions *const *versions; /* of each type */
    unsigned long settle;                 /* milliseconds */
    const struct grpc_call *call;         /* NULL while there is no stream */
    struct grpc_channel *channel;
    uint64_t heard; /* grpc_channel_heard() at the last look */
    struct {
        bool answered;
        unsigned quiet; /* half settling times without a mention */
    } types[STATE_TYPES];
    uint64_t let_go; /* resources so far */
};

/* settle: milliseconds. All pointers must live as long. */
void xds_sweep_init(struct xds_sweep *sweep, struct loop *loop, struct state *state,
                    struct xds_versions *const *versions, unsigned long settle);
/* A stream begins; the versions know what it was not told. Both must outlive the next call of
 * xds_sweep_end(). */
void xds_sweep_begin(struct xds_sweep *sweep, struct grpc_channel *channel, const struct grpc_call *call);
/* The stream is over, settled or not. */
void xds_sweep_end(struct xds_sweep *sweep);
/* A response was applied; before: what was untold until then. */
void xds_sweep_answered(struct xds_sweep *sweep, enum state_type type, size_t before);

#endif
