/* SPDX-License-Identifier: Apache-2.0 */
/* What the control thread tells a worker. Each call posts a message to the worker's loop, and what is said
 * here happens there, on the worker's own thread, in order. */
#ifndef PROXY_CONNECTION_WORKER_POST_H
#define PROXY_CONNECTION_WORKER_POST_H

#include "proxy/worker/worker.h"

struct crl_set;
struct pod_notes;

/* The mesh state is known: it accepts connections. */
void worker_serve(struct worker *worker);
/* Takes the listeners. Also for a pod that is known: its listeners are taken anew, and it serves again if it
 * was draining, and does not end. */
void worker_add_pod(struct worker *worker, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT]);
/* The pod was told to end: its peers shall go elsewhere, and it is served on. */
void worker_end_pod(struct worker *worker, struct pod *pod);
/* The pod takes no new connections; live ones go on. */
void worker_drain_pod(struct worker *worker, struct pod *pod);
/* The pod goes, and its connections with it. */
void worker_delete_pod(struct worker *worker, struct pod *pod);
/* The mesh state has changed. policies: some of them too, so that live connections are authorized again. */
void worker_state_changed(struct worker *worker, bool policies);
/* A pod has another certificate, or trusts others; tunnels of peers that it does not trust any more take no
 * new connections. */
void worker_identity_changed(struct worker *worker);
/* Connections that wait look again whether they must. */
void worker_check_all(struct worker *worker);
/* New lists of revoked certificates; tunnels of such peers are closed. The worker takes a reference. */
void worker_set_revoked(struct worker *worker, struct crl_set *set);
/* The wall clock has been set: certificates may have come to their end. */
void worker_clock_set(struct worker *worker);
/* No new connections; worker_resume() undoes it. */
void worker_drain(struct worker *worker);
/* GOAWAY on all tunnels, if it still drains then. */
void worker_drain_tunnels(struct worker *worker);
/* It accepts again. */
void worker_resume(struct worker *worker);
/* The time to drain is over: all connections end, which is in the log. */
void worker_abort_connections(struct worker *worker);
/* The process's budget is fuller, or less full. */
void worker_look_at_memory(struct worker *worker);
/* It turns, if it sets its beat to this. */
void worker_beat(struct worker *worker, unsigned long beat);
/* Notes down the worker's connections, then posts done(data) to the control loop. */
void worker_note(struct worker *worker, struct pod_notes *notes, loop_post_fn done, void *data);

#endif
