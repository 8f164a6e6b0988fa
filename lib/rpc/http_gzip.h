/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of HTTP in the form of gzip. */
#ifndef LIB_HTTP_GZIP_H
#define LIB_HTTP_GZIP_H

#include <stddef.h>

/* 0 or -ENOMEM. The result is the caller's to free. */
int http_gzip(const char *body, size_t len, char **ret, size_t *ret_len);

#endif
