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
/* The same for each that is in another network than source, a workload: by which gateway it is reached, and
 * who is expected on both layers; or why it is not. */
void say_networks(cJSON *lines, const cJSON *dump, const cJSON *source, const cJSON *service);
/* The SPIFFE identity of a workload of the dump; "?" if it has none. */
void workload_identity(const cJSON *workload, char *buf, size_t size);

#endif
