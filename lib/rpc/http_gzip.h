/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_HTTP_GZIP_H
#define LIB_HTTP_GZIP_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/rpc/http_parse.h"

/* Value of Accept-Encoding: gzip by name, or by "*" where gzip is not named. */
bool http_accepts_gzip(struct http_span accept_encoding);

/* 0 or -ENOMEM. The result is the caller's to free. */
int http_gzip(const char *body, size_t len, char **ret, size_t *ret_len);

#endif
