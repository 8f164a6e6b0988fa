/* SPDX-License-Identifier: Apache-2.0 */
/* How a name that a pod asks DNS for is answered, and why. */
#ifndef PROXY_ADMIN_NAME_DUMP_H
#define PROXY_ADMIN_NAME_DUMP_H

#include <cjson/cJSON.h>

struct proxy;

/*
 * pod: "namespace/name", name: as it is asked for. {"captured": whether the pod's questions come to us,
 * "answered": by us, "servers": [{"address", "queries", "secondsAgo"}], to which the pod's questions went of
 * late, the last one first}; of what is answered "service", "namespace", "form", "wildcard", "a", "aaaa", and
 * for a family without addresses "aEmpty", "aaaaEmpty", why; of what is not, "passedOver": {"service",
 * "namespace", "hidden"} if there is such a service. NULL: no such pod is served, the name is too long, or no
 * memory. The caller owns it. Control thread.
 */
cJSON *name_dump(struct proxy *proxy, const char *pod, const char *name);

#endif
