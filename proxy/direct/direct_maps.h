/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxy does with the maps that it was given: functions behind a table, so that tests have maps of
 * their own. */
#ifndef PROXY_DIRECT_DIRECT_MAPS_H
#define PROXY_DIRECT_DIRECT_MAPS_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/direct.h"
#include "bruma/protocol.h"

/* Keys and values are those of bruma/direct.h and valid during the call, which is on the control thread. */
struct map_ops {
    /* Called to put an entry in, or in the place of the one that is there. 0 or -errno. */
    int (*update)(void *data, enum bruma_direct_fd map, const void *key, const void *value);
    /* Called to remove an entry. 0, -ENOENT: there is none, or another -errno. */
    int (*erase)(void *data, enum bruma_direct_fd map, const void *key);
    /* Called to read an entry. 0, -ENOENT: there is none, or another -errno. */
    int (*find)(void *data, enum bruma_direct_fd map, const void *key, void *ret_value);
    /* Called to go through a map: the key behind another one, NULL: the first. 0, -ENOENT: it was the last,
     * or another -errno. */
    int (*next)(void *data, enum bruma_direct_fd map, const void *key, void *ret_key);
    void *data;
};

struct direct_maps {
    int fds[BRUMA_DIRECT_FD_COUNT]; /* enum bruma_direct_fd; owned */
    struct map_ops ops;             /* on these */
};

/* Takes the descriptors. maps stays where it is as long as its ops are used. */
void direct_maps_init(struct direct_maps *maps, const int fds[BRUMA_DIRECT_FD_COUNT]);
/* Closes the descriptors. */
void direct_maps_close(struct direct_maps *maps);
/* Whether all of the descriptors are those of the same maps. False as well if that cannot be found out. */
bool direct_maps_same(const struct direct_maps *maps, const int fds[BRUMA_DIRECT_FD_COUNT]);

/* The word of direct_control as mapped memory, until direct_control_unmap(). 0 or -errno. */
int direct_control_map(int fd, struct bruma_direct_control **ret);
/* NULL is fine. */
void direct_control_unmap(struct bruma_direct_control **control);

#endif
