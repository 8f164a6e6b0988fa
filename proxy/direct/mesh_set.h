/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The addresses and ranges of the mesh, counted, and their entries in mesh_addresses and mesh_prefixes under
 * one proxy's number. While it is live, what comes is in the maps when mesh_set_add() returns; else, and for
 * what goes, mesh_set_flush() brings the maps along. Control thread.
 */
#ifndef PROXY_DIRECT_MESH_SET_H
#define PROXY_DIRECT_MESH_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/addr.h"
#include "proxy/direct/direct_maps.h"

struct mesh_set;

/* ops: kept, not copied. number: the proxy's. Empty, and not live. 0 or -ENOMEM. */
int mesh_set_new(const struct map_ops *ops, uint64_t number, struct mesh_set **ret);
/* Entries in the maps stay. */
void mesh_set_free(struct mesh_set **set);

/* One object more has the range; length 128: a single address. 0, or -errno: it is not in the map. Without
 * memory it is not even counted: mesh_set_recount(). Always 0 while it is not live, but for -ENOMEM. */
int mesh_set_add(struct mesh_set *set, const struct cidr *range);
/* One less. */
void mesh_set_remove(struct mesh_set *set, const struct cidr *range);

/* From now on mesh_set_add() writes at once. All must have been flushed. */
void mesh_set_go_live(struct mesh_set *set);
/* It does so no more. */
void mesh_set_stop(struct mesh_set *set);
/* Nothing is counted any more. Entries in the maps stay until the next flush, for those that come back. */
void mesh_set_recount(struct mesh_set *set);
/* Something could not be counted since the last recount. */
bool mesh_set_is_lost(const struct mesh_set *set);

/* Brings at most max entries of the maps along. 1: there is more to do, 0: there is not, -errno: the maps did
 * not take one that must be there. */
int mesh_set_flush(struct mesh_set *set, size_t max);

/* How many entries mesh_addresses has of it. */
size_t mesh_set_addresses(const struct mesh_set *set);
/* How many entries mesh_prefixes has of it. */
size_t mesh_set_prefixes(const struct mesh_set *set);

#endif
