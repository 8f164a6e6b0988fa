/* SPDX-License-Identifier: Apache-2.0 */
/* The workers: threads that carry the connections, and what the control thread tells them. */
#ifndef PROXY_CONNECTION_WORKER_THREAD_H
#define PROXY_CONNECTION_WORKER_THREAD_H

#include "proxy/worker/worker.h"

struct pod_notes;

int worker_start(struct proxy *proxy, unsigned index, struct worker **ret);
void worker_stop(struct worker *worker); /* control thread; joins */

/* Control thread: tells the worker, which acts on its own thread. */
void worker_serve(struct worker *worker);
/* Takes the listeners. Also for a pod that is known: its listeners are taken anew, and it serves again if it
 * was draining. */
void worker_add_pod(struct worker *worker, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT]);
void worker_drain_pod(struct worker *worker, struct pod *pod);
void worker_delete_pod(struct worker *worker, struct pod *pod);
void worker_state_changed(struct worker *worker, bool policies);
/* New lists of revoked certificates; tunnels of such peers are cut. */
void worker_set_revoked(struct worker *worker, struct crl_set *set);
/* The wall clock has been set: certificates may have come to their end. */
void worker_clock_set(struct worker *worker);
void worker_drain(struct worker *worker);
void worker_resume(struct worker *worker); /* undoes it */
/* The time to drain is over: ends all connections, which is told and logged. */
void worker_abort_connections(struct worker *worker);
/* The process's budget is fuller, or less full. */
void worker_look_at_memory(struct worker *worker);
/* Notes down the worker's connections, then posts done(data) to the control loop. */
void worker_note(struct worker *worker, struct pod_notes *notes, loop_post_fn done, void *data);

#endif
