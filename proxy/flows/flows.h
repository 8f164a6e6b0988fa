/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader of what the kernel tells of direct connections (bruma/direct.h): a thread with its own loop and
 * its own telemetry. It sleeps until there is an event, and looks every few milliseconds as long as there are
 * more; while it sleeps the kernel wakes it, else it need not.
 *
 * One process alone reads, whichever proxy is in charge of direct ways: the one that holds a lock, which ends
 * with it, in the run directory. The next one goes on where the last one stopped, and so tells the end of
 * connections that have outlived it.
 *
 * Control thread, unless said otherwise. Every function takes NULL: there is no reader.
 */
#ifndef PROXY_FLOWS_FLOWS_H
#define PROXY_FLOWS_FLOWS_H

#include "lib/loop.h"
#include "proxy/flows/account.h"

struct flows;
struct pod_notes;

/* Starts the thread, which does not read yet. 0 or -errno. */
int flows_start(struct proxy *proxy, struct flows **ret);
/* Reads what is left if it reads, lets go, and ends the thread. */
void flows_stop(struct flows **flows);

/* Whom else it tells; kept, not copied. Before flows_serve(). */
void flows_set_judge(struct flows *flows, const struct flows_judge *judge);
/* The maps as the agent gave them: direct_control, flows, flow_events. The descriptors stay the caller's. 0,
 * or -errno of copying them: it goes on with those that it had. */
int flows_take_maps(struct flows *flows, int control, int live, int events);

/* A pod is there, and has a descriptor of its network namespace; before anything of it can go directly. Again
 * is harmless. */
void flows_pod_add(struct flows *flows, struct pod *pod);
/* It is gone. */
void flows_pod_remove(struct flows *flows, struct pod *pod);

/* Pods and mesh are known: it reads from here on, as soon as no other process does. Again is harmless. */
void flows_serve(struct flows *flows);
/* Another proxy has taken over: it reads what is there, and lets it have the rest. */
void flows_let_go(struct flows *flows);

/* Its telemetry, for telemetry_write_metrics(); NULL: there is none. Any thread, until flows_stop(). */
struct telemetry *flows_telemetry(struct flows *flows);
/* Bytes of connections that live are as of now, or of a moment ago. Waits for that, for a second at most. Any
 * other thread, until flows_stop(). */
void flows_refresh(struct flows *flows);
/* Appends what it counts of itself in OpenMetrics text. Any thread, until flows_stop(). */
void flows_write_metrics(struct flows *flows, FILE *out);
/* Notes connections that live, then posts done(data) to the proxy's loop. False: it will not, and has noted
 * nothing. */
bool flows_note(struct flows *flows, struct pod_notes *notes, loop_post_fn done, void *data);

#endif
