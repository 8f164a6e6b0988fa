/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/map_walk.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PIECE 256 /* entries */

void map_walk_start(struct map_walk *w, int map, size_t key_size, size_t value_size)
{
    map_walk_stop(w);
    *w = (struct map_walk){.map = map, .key_size = key_size, .value_size = value_size};
}

void map_walk_stop(struct map_walk *w)
{
    free(w->keys);
    free(w->values);
    *w = (struct map_walk){};
}

static int make_room(struct map_walk *w, size_t room)
{
    char *keys = reallocarray(w->keys, room, w->key_size), *values;

    if (!keys)
        return -ENOMEM;
    w->keys = keys;
    values = reallocarray(w->values, room, w->value_size);
    if (!values)
        return -ENOMEM;
    w->values = values;
    w->room = room;
    return 0;
}

static int read_piece(struct map_walk *w)
{
    uint32_t place;
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.batch.map_fd = (uint32_t)w->map;
    attr.batch.in_batch = w->begun ? (uint64_t)(uintptr_t)&w->place : 0;
    attr.batch.out_batch = (uint64_t)(uintptr_t)&place;
    attr.batch.keys = (uint64_t)(uintptr_t)w->keys;
    attr.batch.values = (uint64_t)(uintptr_t)w->values;
    attr.batch.count = (uint32_t)w->room;
    if (syscall(SYS_bpf, BPF_MAP_LOOKUP_BATCH, &attr, sizeof(attr)) < 0) {
        if (errno != ENOENT)
            return -errno;
        w->last = true;
    }
    w->place = place;
    w->begun = true;
    w->len = attr.batch.count;
    w->at = 0;
    return 0;
}

/* The kernel gives all of a bucket, or nothing of it. */
static int refill(struct map_walk *w)
{
    int r = w->room ? 0 : make_room(w, PIECE);

    while (r == 0) {
        r = read_piece(w);
        if (r != -ENOSPC)
            return r;
        r = make_room(w, 2 * w->room);
    }
    return r;
}

int map_walk_next(struct map_walk *w, const void **ret_key, const void **ret_value)
{
    while (w->at == w->len) {
        int r = w->last ? 0 : refill(w);

        if (r < 0) {
            w->last = true;
            w->at = w->len = 0;
        }
        if (r < 0 || w->at == w->len) {
            if (w->last)
                return r;
            continue;
        }
    }
    *ret_key = w->keys + w->at * w->key_size;
    *ret_value = w->values + w->at * w->value_size;
    w->at++;
    return 1;
}
