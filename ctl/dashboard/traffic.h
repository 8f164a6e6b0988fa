/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxies have counted, and which waypoints they know, for the page. */
#ifndef CTL_DASHBOARD_TRAFFIC_H
#define CTL_DASHBOARD_TRAFFIC_H

#include "ctl/commands.h"

/* Prints, as JSON, the lines of each proxy's metrics page that tell of connections between workloads and of
 * what the proxy uses: of this machine an array of them, of several nodes as gathered_print() does, with the
 * key "traffic". An exit code. No arguments. */
int command_traffic(const struct ctl_options *options, int argc, char **argv);
/* Prints the names of the waypoints (waypoints.h) that each proxy knows, as JSON: of this machine the array,
 * of several nodes as gathered_print() does, with the key "waypoints". An exit code. No arguments. */
int command_waypoints(const struct ctl_options *options, int argc, char **argv);

#endif
