/* SPDX-License-Identifier: Apache-2.0 */
/* The mesh file as the agent's source (source.h), and the control plane that serves it (mesh.h). */
#ifndef AGENT_CONTROL_PLANE_MESH_SOURCE_H
#define AGENT_CONTROL_PLANE_MESH_SOURCE_H

#include "agent/control_plane/mesh.h"

struct source;

/* changed is called when another answer may be given about pods. 0, -ENOMEM, or an error of mesh_new();
 * they are logged. source_close() closes it. */
int mesh_source_open(struct loop *loop, const struct agent_settings *settings, mesh_changed_fn changed,
                     void *data, struct source **ret);

#endif
