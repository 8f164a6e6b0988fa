/* SPDX-License-Identifier: Apache-2.0 */
/* POST /logging: changing the log filter of a running proxy (contract section 9.2). */
#ifndef PROXY_ADMIN_LOG_LEVELS_H
#define PROXY_ADMIN_LOG_LEVELS_H

#include <stddef.h>

#define LOG_LEVELS_MAX 256 /* bytes of a filter with the NUL; as lib/log.c has */

/*
 * Adds levels ("level", "scope=level" or "scope:level", comma separated) to a filter: the last word on a
 * scope counts, so that a filter does not grow with each change. A "ztunnel::" in front of a scope is left
 * out: tools that know other node proxies send it, as they do "warning" and "critical". 0; -EINVAL: not such
 * a list; -ENOSPC: too long.
 */
int log_levels_merge(const char *filter, const char *more, char ret[LOG_LEVELS_MAX]);

#endif
