/* SPDX-License-Identifier: Apache-2.0 */
/* What admin pages and metrics say of the pods. Control thread. */
#ifndef PROXY_ADMIN_PODS_PAGES_H
#define PROXY_ADMIN_PODS_PAGES_H

#include <cjson/cJSON.h>
#include <stdio.h>

struct proxy;

/* Adds "state" and "info" of each pod to workload_state (uid -> object), which may have their connections
 * already. */
void pods_dump(struct proxy *proxy, cJSON *workload_state);
void pods_write_metrics(struct proxy *proxy, FILE *out);

#endif
