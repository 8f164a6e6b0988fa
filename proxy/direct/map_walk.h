/* SPDX-License-Identifier: Apache-2.0 */
/* Goes through a hash map of the kernel a piece at a time, in few system calls, while others write to it. */
#ifndef PROXY_DIRECT_MAP_WALK_H
#define PROXY_DIRECT_MAP_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_walk {
    int map;
    size_t key_size, value_size;
    uint32_t place; /* the kernel's own, of the piece behind this one */
    bool begun, last;
    size_t room, len, at; /* entries of the piece */
    char *keys, *values;
};

/* Begins at the beginning, with what map_walk_next() finds there by then. The map is the caller's, and stays
 * open as long as the walk goes on. */
void map_walk_start(struct map_walk *walk, int map, size_t key_size, size_t value_size);
/* Goes on: 1 with *ret_key and *ret_value, the walk's own until its next call; 0: that was all; or -errno,
 * and the walk is at its end. What stays in the map all the time is seen once at least; the value is as it
 * was when the piece was read. */
int map_walk_next(struct map_walk *walk, const void **ret_key, const void **ret_value);
/* Frees what it has; one that is all zero is fine. */
void map_walk_stop(struct map_walk *walk);

#endif
