/* SPDX-License-Identifier: Apache-2.0 */
/* Files of others, read and replaced whole: readers see the old text or the new one, and never half of it. */
#ifndef AGENT_INSTALL_FILE_H
#define AGENT_INSTALL_FILE_H

#include <stddef.h>
#include <sys/stat.h>

#define INSTALL_FILE_MAX (1024 * 1024) /* bytes of a configuration */

struct install_file {
    char *text; /* with a NUL behind it */
    size_t len;
    struct stat st;
};

/* -EFBIG beyond INSTALL_FILE_MAX, -EINVAL if it is no file. */
int install_file_read(const char *path, struct install_file *ret);
void install_file_clear(struct install_file *file);

/* Writes text beside path (behind symbolic links) and renames it there, with mode and owner of the file that
 * was read. -EAGAIN if path has changed since then. */
int install_file_replace(const char *path, const struct install_file *read, const char *text, size_t len);

/* Copies a program, mode 0755. 1 if it was another one before, 0 if it is there already. */
int install_file_copy(const char *from, const char *to);

#endif
