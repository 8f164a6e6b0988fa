/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of the hostname of a workload. */
#ifndef PROXY_ADMIN_HOSTNAME_DUMP_H
#define PROXY_ADMIN_HOSTNAME_DUMP_H

#include <cjson/cJSON.h>
#include <stdint.h>

struct resolver;

/*
 * {"known": whether there is an answer now, "addresses": [...], "reason" and "detail" where there are none,
 * "milliseconds": for how long it is good}, the others only of what is known. DNS is not asked. now:
 * loop_now(). NULL: no memory. The caller owns it. Control thread.
 */
cJSON *hostname_dump(struct resolver *resolver, const char *hostname, uint64_t now);

#endif
