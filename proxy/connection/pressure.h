/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker does when much is buffered (levels: budget.h), for its share in the process and for each pod
 * by itself. First peers have no more credit for a whole tunnel than applications read; then streams may send
 * little ahead; then those that hold most are cut, by the name memory_budget. Whoever wants more than the
 * whole budget is cut at once, by the same name.
 */
#ifndef PROXY_CONNECTION_PRESSURE_H
#define PROXY_CONNECTION_PRESSURE_H

struct worker;

/* A worker's own thread, at the end of a turn: accounts have changed since the last look. */
void pressure_look(struct worker *worker);
#endif
