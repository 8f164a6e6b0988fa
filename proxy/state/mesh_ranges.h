/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The addresses and ranges of which the mesh knows that a connection to them may not simply be made in
 * plaintext to that very address: of workloads that take HBONE, have a waypoint or are in another network, of
 * all services, and those that waypoints and gateways are named by. Whoever keeps a copy of them outside of
 * RCU is told in time: of what comes before readers can find it, of what goes once it was taken out.
 *
 * Which client and which network asks is left out: the ranges are a superset of what route_outbound() would
 * answer by anything but ROUTE_PASSTHROUGH, or by ROUTE_TCP to another address than the one that was dialed.
 *
 * Control thread.
 */
#ifndef PROXY_STATE_MESH_RANGES_H
#define PROXY_STATE_MESH_RANGES_H

#include "lib/addr.h"
#include "proxy/state/state.h"

/* Called on the writer's thread, once for each object that has the range; valid during the call. Length 128:
 * a single address. */
typedef void (*mesh_range_fn)(void *data, const struct cidr *range);

struct mesh_watch {
    mesh_range_fn enters; /* called before an object with the range is published */
    mesh_range_fn leaves; /* called after it was taken out; readers see it until a grace period is over */
    void *data;
};

/* watch is kept, not copied; NULL: nobody is told any more. */
void state_watch_ranges(struct state *state, const struct mesh_watch *watch);
/* Calls fn for each range of each object that is published: as many times as enters was, without leaves. */
void state_each_range(const struct state *state, mesh_range_fn fn, void *data);

struct workload_full;
struct service_full;

/* For the state's writer: next is about to take the place of old; one of them may be NULL. A range that both
 * have is not news. */
void workload_ranges_enter(const struct state *state, const struct workload_full *old,
                           const struct workload_full *next);
/* The same once it has. */
void workload_ranges_leave(const struct state *state, const struct workload_full *old,
                           const struct workload_full *next);
/* As workload_ranges_enter(). */
void service_ranges_enter(const struct state *state, const struct service_full *old,
                          const struct service_full *next);
/* As workload_ranges_leave(). */
void service_ranges_leave(const struct state *state, const struct service_full *old,
                          const struct service_full *next);

#endif
