/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of `brumactl explain` that add lines to its answer (ctl/say.h). */
#ifndef CTL_EXPLAIN_H
#define CTL_EXPLAIN_H

#include <cjson/cJSON.h>

#include "ctl/commands.h"

/* Appends a line for each endpoint of the service that has a hostname in place of an address: what the proxy
 * knows of it. dump: the proxy's. */
void say_hostnames(cJSON *lines, const struct ctl_options *options, const cJSON *dump, const cJSON *service);
/* The same for a waypoint, if its destination is the hostname of a workload. */
void say_waypoint_hostname(cJSON *lines, const struct ctl_options *options, const cJSON *dump,
                           const cJSON *waypoint);

#endif
