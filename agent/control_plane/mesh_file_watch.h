/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says when a file may have changed, however that is done: written in place, replaced by rename, a symbolic
 * link that is swapped (a mounted ConfigMap), removed, or made in a directory that did not exist before. The
 * directories are watched, not the file, and the file is looked at every two seconds, for file systems that
 * report nothing.
 */
#ifndef AGENT_CONTROL_PLANE_MESH_FILE_WATCH_H
#define AGENT_CONTROL_PLANE_MESH_FILE_WATCH_H

#include "lib/loop.h"

#define MESH_FILE_QUIET_MS 100  /* without another event before changed is called */
#define MESH_FILE_POLL_MS  2000 /* between looks */

struct mesh_file_watch;

/* Calls changed on the loop after each change from now on. path is copied; it need not exist. A file
 * that somebody still writes is left alone until it is closed or has rested. Without inotify, which the log
 * says, it is only looked at. 0, -ENOMEM, or -errno of the loop. */
int mesh_file_watch_open(struct loop *loop, const char *path, void (*changed)(void *data), void *data,
                         struct mesh_file_watch **ret);
void mesh_file_watch_close(struct mesh_file_watch **watch);

#endif
