/* SPDX-License-Identifier: Apache-2.0 */
/* What is in an identity's directory (identity_source.h has the source itself). Control thread. */
#ifndef PROXY_IDENTITY_FILE_SOURCE_H
#define PROXY_IDENTITY_FILE_SOURCE_H

#include <stddef.h>

#include "proxy/identity/identity_source.h"

/* The identity's directory: the pattern, with the parts of its name for {trust-domain}, {namespace} and
 * {account}. 0, -ENAMETOOLONG, or -EINVAL for an identity that would lead elsewhere. */
int file_source_directory(const char *pattern, const char *uri, char *buf, size_t size);
/* Reads the three files and makes sure that they fit together and the identity. Other files in their place
 * than regular ones are not waited for. 0 and *ret is the caller's, or -errno with what is wrong in error. */
int file_source_read(const char *path, const char *uri, struct issued *ret, char *error, size_t error_size);

#endif
