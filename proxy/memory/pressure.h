/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker does when much is buffered (levels: budget.h), for its share in the process and for each pod
 * by itself. First peers have no more credit for a whole tunnel than applications read; then streams may send
 * little ahead; then those that hold most are cut, by the name memory_budget. Whoever wants more than the
 * whole budget is cut at once, by the same name.
 */
#ifndef PROXY_MEMORY_PRESSURE_H
#define PROXY_MEMORY_PRESSURE_H

#include <stddef.h>
#include <stdio.h>

struct proxy;
struct worker;
struct worker_pod;

/* A worker's own thread, at the end of a turn: accounts have changed since the last look. */
void pressure_look(struct worker *worker);
/* Control thread, before there are pods: the process's budget from settings and the cgroup. */
void pressure_init(struct proxy *proxy);
/* Limit of one pod. */
size_t pressure_pod_limit(const struct proxy *proxy);
/* Any thread: memory was given back to the allocator; the control thread sees whether the system should have
 * it. */
void pressure_freed(struct proxy *proxy);

void pressure_write_metrics(struct proxy *proxy, FILE *out);

#endif
