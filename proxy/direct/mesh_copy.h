/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the mesh's addresses in the kernel's maps: all of them at first, in turns that do not delay the
 * control thread, then each change as it comes. What comes is in the maps before readers of the state can
 * find it; what goes stays until none can. Where the maps do not take something, it says so at once, and
 * builds all of it again later. Control thread.
 */
#ifndef PROXY_DIRECT_MESH_COPY_H
#define PROXY_DIRECT_MESH_COPY_H

#include "lib/loop.h"
#include "proxy/direct/departures.h"
#include "proxy/direct/mesh_set.h"

#define MESH_COPY_RETRY_MIN 1000  /* milliseconds, doubled up to the next */
#define MESH_COPY_RETRY_MAX 60000 /* milliseconds */

enum mesh_copy_phase {
    MESH_COPY_NONE,     /* the maps have nothing */
    MESH_COPY_FILLING,  /* they have not all yet */
    MESH_COPY_COMPLETE, /* they have all, whatever comes */
    MESH_COPY_FAILED,   /* they did not take all; tried again later */
    MESH_COPY_CLEARING, /* what they have is being removed */
};

struct mesh_copy_events {
    /* Called when all is in the maps, and is kept so. */
    void (*complete)(void *data);
    /* Called when something is not, before readers can find it. */
    void (*incomplete)(void *data, int error);
    /* Called before an entry of mesh_prefixes is written. */
    void (*prefixes)(void *data, size_t entries);
    void *data;
};

struct mesh_copy {
    struct loop *loop;
    struct state *state;
    const struct map_ops *ops;
    uint64_t number;
    struct mesh_copy_events events;
    enum mesh_copy_phase phase;
    struct mesh_set *set; /* NULL: nothing is counted */
    struct departures departures;
    struct mesh_watch watch;
    struct loop_timer work, retry;
    uint64_t retry_after;
    int error, said; /* of the last failure, and of the one that is in the log; -errno; 0: none */
    unsigned long failures, rebuilds, per_turn; /* per_turn: entries that are written in a turn */
};

/* Nothing is in the maps. ops: kept, as all but events. */
void mesh_copy_init(struct mesh_copy *copy, struct loop *loop, struct state *state, const struct map_ops *ops,
                    uint64_t number, const struct mesh_copy_events *events);
/* Fills the maps, if that is not done or being done. */
void mesh_copy_start(struct mesh_copy *copy);
/* Removes all from the maps, in turns. Nobody may look at them any more. */
void mesh_copy_stop(struct mesh_copy *copy);
/* Forgets all; entries in the maps stay, for others to sweep. */
void mesh_copy_close(struct mesh_copy *copy);

/* How many entries mesh_addresses has of it. */
size_t mesh_copy_addresses(const struct mesh_copy *copy);
/* How many entries mesh_prefixes has of it. */
size_t mesh_copy_prefixes(const struct mesh_copy *copy);
/* A word for the phase: a static text, never NULL. */
const char *mesh_copy_phase_name(enum mesh_copy_phase phase);

#endif
