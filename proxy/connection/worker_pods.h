/* SPDX-License-Identifier: Apache-2.0 */
/* The pods of a worker, from when they are added to when they are removed. The worker's own thread. */
#ifndef PROXY_CONNECTION_WORKER_PODS_H
#define PROXY_CONNECTION_WORKER_PODS_H

#include "proxy/worker/worker.h"

/* Valid until it is removed. NULL: the worker does not serve the pod. */
struct worker_pod *worker_pod_find(struct worker *worker, const struct pod *pod);
/* Takes the listeners, one of each enum acceptor_kind. A pod that is known gets them in place of its own, and
 * serves again if it was draining, and does not end. 0, or -ENOMEM: the listeners are the caller's still. */
int worker_pod_add(struct worker *worker, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT]);
/* GOAWAY on its peers' tunnels, now and on new ones a moment after they were opened, so that peers look
 * elsewhere. Everything is served on; the pod's own connections notice nothing. */
void worker_pod_end(struct worker_pod *wp);
/* No new connections, GOAWAY on its tunnels. */
void worker_pod_drain(struct worker_pod *wp);
/* Ends its connections and tunnels. */
void worker_pod_abort(struct worker_pod *wp, enum bruma_reason reason);
/* Ends all of it. wp is freed at the end of the turn. */
void worker_pod_remove(struct worker_pod *wp, enum bruma_reason reason);

/* Of all pods: the worker ends. */
void worker_pods_end(struct worker *worker);

/* All pods accept connections again, as far as the worker serves and neither it nor they are draining. */
void worker_pods_accept(struct worker *worker);
/* None does any more; what waits for a listener that another proxy has too is accepted first. */
void worker_pods_drain(struct worker *worker);
/* GOAWAY on all tunnels. */
void worker_pods_drain_tunnels(struct worker *worker);

#endif
