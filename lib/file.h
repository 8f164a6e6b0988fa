/* SPDX-License-Identifier: Apache-2.0 */
/* Reading small files as a whole. What is on a disk may make the caller wait. */
#ifndef LIB_FILE_H
#define LIB_FILE_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Reads a file of any kind, such as those of /proc, into buf, with a NUL behind. directory: as for openat(),
 * AT_FDCWD for none; flags: beside O_RDONLY and O_CLOEXEC. Returns the length without the NUL, or -errno.
 * -EFBIG: there is more than size - 1 bytes, of which buf has the first ones. After any other failure buf is
 * "".
 */
ssize_t file_read_text(int directory, const char *path, int flags, char *buf, size_t size);

/* Reads a regular file of at most max bytes into memory that is the caller's, with a NUL behind. directory
 * and flags as above. 0, -EINVAL if it is no regular file (which is not waited for), -EFBIG, -ENOMEM or
 * -errno. */
int file_read(int directory, const char *path, int flags, size_t max, char **ret, size_t *ret_len);

#endif
