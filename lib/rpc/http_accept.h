/* SPDX-License-Identifier: Apache-2.0 */
/* What a client says it takes: values of Accept and Accept-Encoding (RFC 9110, section 12.5). */
#ifndef LIB_RPC_HTTP_ACCEPT_H
#define LIB_RPC_HTTP_ACCEPT_H

#include <stdbool.h>

/* True if an element of a comma separated list is this token, any case, with parameters or without:
 * "gzip;q=0.5". A weight of zero means no; ret_listed (may be NULL) says whether the token is there at all.
 * list: NULL is an empty one. */
bool http_accepts(const char *list, const char *token, bool *ret_listed);
/* Value of Accept-Encoding, or NULL: gzip by name, or by "*" where gzip is not named. */
bool http_accepts_gzip(const char *list);

#endif
