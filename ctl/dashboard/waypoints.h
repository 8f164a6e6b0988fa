/* SPDX-License-Identifier: Apache-2.0 */
/* Which workloads are waypoints, for the page: traffic alone does not tell. */
#ifndef CTL_DASHBOARD_WAYPOINTS_H
#define CTL_DASHBOARD_WAYPOINTS_H

#include <cjson/cJSON.h>

/* Names ("NAMESPACE/WORKLOAD"), each once, of the workloads behind the waypoints of a proxy's config dump:
 * an array, the caller's; NULL without memory. */
cJSON *waypoints_of(const cJSON *dump);

#endif
