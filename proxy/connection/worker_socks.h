/* SPDX-License-Identifier: Apache-2.0 */
/* The listeners by which a worker takes a pod's SOCKS clients. Worker's own thread, but for the first. */
#ifndef PROXY_CONNECTION_WORKER_SOCKS_H
#define PROXY_CONNECTION_WORKER_SOCKS_H

#include "proxy/worker/worker.h"

/* Control thread: gives the worker listeners of a pod that it knows, for IPv4 and IPv6 (-1: none). Takes
 * both. */
void worker_set_socks(struct worker *worker, struct pod *pod, const int listeners[2]);

/* There are none yet. */
void worker_socks_init(struct worker_pod *wp);
/* Clients are taken, where worker and pod are not about to end. */
void worker_socks_start(struct worker_pod *wp);
/* They wait in the backlog from here on. */
void worker_socks_stop(struct worker_pod *wp);
/* The worker is replaced: what waits is taken, and the listeners are closed, as another proxy has its own. */
void worker_socks_drain(struct worker_pod *wp);
/* The pod goes: listeners are closed, clients that have not said where to are cut off. */
void worker_socks_close(struct worker_pod *wp);

#endif
