/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of `brumactl explain` that add lines to its answer (ctl/say.h). */
#ifndef CTL_EXPLAIN_H
#define CTL_EXPLAIN_H

#include <cjson/cJSON.h>

#include "ctl/commands.h"
#include "lib/reasons.h"

/* Appends a line for each endpoint of the service that has a hostname in place of an address: what the proxy
 * knows of it. dump: the proxy's. */
void say_hostnames(cJSON *lines, const struct place *place, const cJSON *dump, const cJSON *service);
/* The same for a waypoint, if its destination is the hostname of a workload. */
void say_waypoint_hostname(cJSON *lines, const struct place *place, const cJSON *dump, const cJSON *waypoint);
/* The same for each that is in another network than source, a workload: by which gateway it is reached, and
 * who is expected on both layers; or why it is not. */
void say_networks(cJSON *lines, const cJSON *dump, const cJSON *source, const cJSON *service);
/* How the proxy would treat a connection of a pod to an endpoint ("IP:PORT"), or answer its DNS query for a
 * name, by what it knows. An exit code, and what failed was said; CTL_USAGE: target is neither. */
int explain_connection(const struct place *place, const char *pod, const char *target, cJSON *lines);
/* How a DNS query of the pod for the name is answered, and why. */
void explain_name(const struct place *place, const char *pod, const char *name, cJSON *lines);
/* What is known of a pod ("NAMESPACE/NAME"), target NULL; else of its connection to IP:PORT, to another pod
 * ("NAMESPACE/NAME[:PORT]"), or of its query for a name. In a fleet the nodes of both pods are found first.
 * *ret is an array of lines, the caller's. An exit code; what failed was said. */
int explain_pod(const struct ctl_options *options, const char *pod, const char *target, cJSON **ret);
/* What a reason means. An exit code. */
int explain_reason(const struct ctl_options *options, enum bruma_reason reason);
/* The SPIFFE identity of a workload of the dump; "?" if it has none. */
void workload_identity(const cJSON *workload, char *buf, size_t size);

#endif
