/* SPDX-License-Identifier: Apache-2.0 */
/* The proxy's side of the local protocol (bruma/protocol.h): connects to the agent, reconnects for ever,
 * offers what it holds, obeys. Control thread. */
#ifndef PROXY_PODS_AGENT_LINK_H
#define PROXY_PODS_AGENT_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/loop.h"

struct agent_link;
struct proxy;

/* What the agent has to say to the process. */
struct agent_link_events {
    /* Another proxy has taken over: end when idle, or after so many milliseconds. */
    void (*replaced)(struct proxy *proxy, uint64_t deadline_milliseconds);
    /* That proxy is gone. */
    void (*resumed)(struct proxy *proxy);
};

/* events: kept, not copied. 0 or -ENOMEM. */
int agent_link_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                   const struct agent_link_events *events, struct agent_link **ret);
void agent_link_free(struct agent_link **link);

/* The mesh is known and connections are accepted. NULL: there is no agent to tell. */
void agent_link_serves(struct agent_link *link);
/* The snapshot has been received on this connection. */
bool agent_link_ready(const struct agent_link *link);
/* Tells the agent that the last connection of a draining pod has ended. */
void agent_link_pod_drained(struct agent_link *link, const char *uid);
/* This proxy was told to end and accepts nothing any more. NULL: there is no agent to tell. */
void agent_link_ending(struct agent_link *link);
/* A listener of the pod was destroyed: the agent shall look at once. */
void agent_link_listener_closed(struct agent_link *link, const char *uid);

#endif
