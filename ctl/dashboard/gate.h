/* SPDX-License-Identifier: Apache-2.0 */
/* Who may have the dashboard's pages: who knows the token of the URL. */
#ifndef CTL_DASHBOARD_GATE_H
#define CTL_DASHBOARD_GATE_H

#include <stdbool.h>
#include <stddef.h>

#define GATE_TOKEN_LEN 64 /* hexadecimal digits: 256 bits */

/* A new token, with its NUL. 0 or -errno of getrandom(). */
int gate_token_new(char token[GATE_TOKEN_LEN + 1]);
/* What stands behind "/TOKEN" of a path: "/pods" of "/TOKEN/pods", "" of "/TOKEN"; a part of path, and valid
 * as long. NULL: the token is another one. Takes the same time whichever digit is wrong. */
const char *gate_path(const char *path, const char token[GATE_TOKEN_LEN + 1]);

#endif
