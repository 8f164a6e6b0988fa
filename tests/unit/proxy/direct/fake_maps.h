/* SPDX-License-Identifier: Apache-2.0 */
/* The maps of bruma/direct.h as plain memory, with bounds. Any thread. */
#ifndef TESTS_UNIT_PROXY_DIRECT_FAKE_MAPS_H
#define TESTS_UNIT_PROXY_DIRECT_FAKE_MAPS_H

#include <pthread.h>
#include <stddef.h>

#include "lib/addr.h"
#include "proxy/direct/direct_maps.h"

#define FAKE_SLOTS 4096

struct fake_entry;

struct fake_map {
    size_t key_size, value_size, len, max; /* max: entries that it takes */
    unsigned long updates;
    struct fake_entry *slots[FAKE_SLOTS];
};

struct fake_maps {
    pthread_mutex_t lock;
    struct fake_map maps[BRUMA_DIRECT_FD_COUNT];
    struct map_ops ops; /* on these */
};

void fake_maps_init(struct fake_maps *maps);
void fake_maps_free(struct fake_maps *maps);
/* As the programs in the kernel ask: whether the address is in either of the maps of the mesh, in the eyes of
 * that proxy. */
bool fake_maps_has_mesh(struct fake_maps *maps, uint64_t proxy, const struct addr *addr);
size_t fake_maps_len(struct fake_maps *maps, enum bruma_direct_fd map);

#endif
