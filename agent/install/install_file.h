/* SPDX-License-Identifier: Apache-2.0 */
/* Files of others, read and replaced whole: readers see the old text or the new one, and never half of it,
 * also after a power cut. */
#ifndef AGENT_INSTALL_INSTALL_FILE_H
#define AGENT_INSTALL_INSTALL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#define INSTALL_FILE_MAX (1024 * 1024) /* bytes of a configuration */

struct install_file {
    char *text; /* with a NUL behind it */
    size_t len;
    struct stat st;
};

/* 0, -EFBIG beyond INSTALL_FILE_MAX, -EINVAL if it is no regular file, or -errno. */
int install_file_read(const char *path, struct install_file *ret);
/* Frees its text, and empties it. */
void install_file_clear(struct install_file *file);

/* Writes text beside path (behind symbolic links) and renames it there, with mode and owner of the file that
 * was read from path. -EAGAIN if path has changed since then, or somebody has it open for writing. SIGIO must
 * be ignored: that is how a writer who comes in between is told. */
int install_file_replace(const char *path, const struct install_file *read, const char *text, size_t len);

/* Makes path of text, with the mode and owner of the file that was read from elsewhere. 1, 0 if it says so
 * already, or -errno. */
int install_file_make(const char *path, const struct install_file *like, const char *text, size_t len);

/* Copies a program, mode 0755. 1 if it was another one before, 0 if it is there already, or -errno. */
int install_file_copy(const char *from, const char *to);

/* Removes what writers of ours have left in a directory when they were killed. */
void install_file_sweep(const char *directory);

#endif
