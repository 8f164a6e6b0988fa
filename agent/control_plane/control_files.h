/* SPDX-License-Identifier: Apache-2.0 */
/* Writes small files of the control plane in RUN_DIR/control: keys, the root, the token. */
#ifndef AGENT_CONTROL_PLANE_CONTROL_FILES_H
#define AGENT_CONTROL_PLANE_CONTROL_FILES_H

#include <stddef.h>
#include <sys/types.h>

/* Replaces the file by rename: no reader sees a part of it. 0 or -errno, and the file is as it was. */
int control_file_write(const char *path, const char *text, size_t len, mode_t mode);

#endif
