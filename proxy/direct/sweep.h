/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removes the entries of proxies that are gone from the maps, a few in a turn. Who lives has a socket in
 * direct_proxies, and had it before its first entry. Control thread.
 */
#ifndef PROXY_DIRECT_SWEEP_H
#define PROXY_DIRECT_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/loop.h"
#include "proxy/direct/direct_maps.h"

#define SWEEP_DEAD 16 /* numbers that are known to be gone */

struct sweep {
    struct loop *loop;
    const struct map_ops *ops;
    uint64_t number; /* of this proxy, which is not asked about */
    struct loop_timer timer;
    int stage; /* which of the maps; -1: none */
    bool has_key;
    union {
        uint64_t pod;
        struct bruma_mesh_key address;
        struct bruma_mesh_prefix prefix;
    } key, following; /* the next to look at, and the one behind it */
    uint64_t dead[SWEEP_DEAD], living;
    unsigned dead_len;
    unsigned long steps, removed; /* of this sweep; of all */
};

/* It is not sweeping. ops: kept, as loop. */
void sweep_init(struct sweep *sweep, struct loop *loop, const struct map_ops *ops, uint64_t number);
/* Goes through the maps, from the beginning if it is under way. */
void sweep_start(struct sweep *sweep);
/* Ends it where it is. */
void sweep_stop(struct sweep *sweep);
/* Looks at most at so many entries. False: the sweep is over. */
bool sweep_step(struct sweep *sweep, unsigned entries);

#endif
