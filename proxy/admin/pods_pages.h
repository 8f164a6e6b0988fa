/* SPDX-License-Identifier: Apache-2.0 */
/* What admin pages and metrics say of the pods. Control thread. */
#ifndef PROXY_ADMIN_PODS_PAGES_H
#define PROXY_ADMIN_PODS_PAGES_H

#include <stdio.h>

struct proxy;
struct pod_notes;

/* Notes all pods that are served, and those that cannot be yet. */
void pods_note(struct proxy *proxy, struct pod_notes *notes);
/* Appends OpenMetrics text. */
void pods_write_metrics(struct proxy *proxy, FILE *out);

#endif
