/* SPDX-License-Identifier: Apache-2.0 */
/* Who names the pods that are served: bruma-agent or a CNI agent, and the settings for the proxy's own. */
#ifndef PROXY_POD_SOURCES_H
#define PROXY_POD_SOURCES_H

#include "proxy/handover/handover.h"

struct proxy;

/* Sets agent or zds, own if the settings ask for it, and pods_events of the proxy, whose loop, workers and
 * clients of the control plane are there. Control thread. 0, or -errno, logged. */
int pod_sources_open(struct proxy *proxy);
/* The mesh is known and connections are accepted: who names pods is told, if there is somebody yet, and what
 * is told of direct connections is read. Control thread. */
void pod_sources_serve(struct proxy *proxy);
/* What a hand-over tells the proxy, and through it who names pods. */
extern const struct handover_events pod_sources_handover_events;
/* What the admin page says of hand-overs of the struct proxy; the caller's. NULL: no memory. Control
 * thread. */
cJSON *pod_sources_hand_over(void *proxy);

#endif
