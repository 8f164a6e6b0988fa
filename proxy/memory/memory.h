/* SPDX-License-Identifier: Apache-2.0 */
/* The process's memory: how much of it may hold what is buffered, and that the system gets back what is
 * free. */
#ifndef PROXY_MEMORY_MEMORY_H
#define PROXY_MEMORY_MEMORY_H

#include <stddef.h>
#include <stdio.h>

struct proxy;

/* Control thread, before there are pods: the process's budget from settings and the cgroup. */
void memory_init(struct proxy *proxy);
/* Limit of one pod in bytes; 0: none. */
size_t memory_pod_limit(const struct proxy *proxy);
/* Any thread: memory was given back to the allocator; the control thread sees whether the system should have
 * it. */
void memory_was_freed(struct proxy *proxy);

/* Appends OpenMetrics text. Control thread. */
void memory_write_metrics(struct proxy *proxy, FILE *out);

#endif
