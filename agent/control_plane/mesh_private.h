/* SPDX-License-Identifier: Apache-2.0 */
/* What the mesh (mesh.c) and its pods (mesh_pods.c) know of each other. */
#ifndef AGENT_CONTROL_PLANE_MESH_PRIVATE_H
#define AGENT_CONTROL_PLANE_MESH_PRIVATE_H

#include "agent/control_plane/control_plane.h"
#include "agent/control_plane/mesh.h"
#include "agent/control_plane/mesh_file_watch.h"
#include "agent/control_plane/mesh_local.h"

struct reading;

struct mesh {
    struct loop *loop;
    const struct agent_settings *settings;
    mesh_changed_fn changed;
    void *data;
    struct control_plane *plane;
    struct mesh_file_watch *watch;
    struct mesh_file *file; /* the last good one; before the first one an empty one that nobody is told of */
    bool ready;
    int64_t loaded_at;                                          /* CLOCK_REALTIME seconds */
    char error[sizeof(((struct mesh_file_error *)NULL)->text)]; /* of the last try; "" if it was good */
    struct reading *reading;                                    /* in a thread, or NULL */
    bool read_again;
    struct list pods; /* struct mesh_pod */
    struct item_index pods_by_name;
    uint64_t sequence;
};

/* Puts everything of file, and the pods that it does not name, in place of what was announced before. file
 * need not be the mesh's yet. 0 or the last -errno; goes on after it. */
int mesh_announce_addresses(struct mesh *mesh, const struct mesh_file *file);

#endif
