/* SPDX-License-Identifier: Apache-2.0 */
/* The proxy's side of the local protocol (bruma/protocol.h): connects to the agent, reconnects for ever,
 * offers what it holds, obeys. Control thread. */
#ifndef PROXY_PODS_AGENT_CLIENT_H
#define PROXY_PODS_AGENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/protocol.h"
#include "lib/direct_ways.h"
#include "lib/loop.h"

struct agent_client;
struct handed_over;
struct proxy;

/* What the agent has to say to the process. */
struct agent_client_events {
    /* Called when another proxy has taken over: end when idle, or after so many milliseconds. */
    void (*replaced)(struct proxy *proxy, uint64_t deadline_milliseconds);
    /* Called when that proxy is gone. */
    void (*resumed)(struct proxy *proxy);
    /* Called with the agent's settings of direct ways, and their maps, or NULL: this kernel has none. Takes
     * the descriptors. 0 or -errno. */
    int (*direct)(struct proxy *proxy, const struct direct_switches *switches,
                  int fds[BRUMA_DIRECT_FD_COUNT]);
    /* Called with the maps of bruma/node.h: takes the descriptors. 0 or -errno. */
    int (*direct_node)(struct proxy *proxy, int fds[BRUMA_NODE_FD_COUNT]);
    /* Called where another proxy has taken over, before replaced: what is carried may go there by fd. Takes
     * it. 0 or -errno. */
    int (*give)(struct proxy *proxy, int fd);
    /* Called where this one has: the other end, and the other process. Takes both. 0 or -errno. */
    int (*take)(struct proxy *proxy, int fd, int pidfd);
    /* Called when the agent has named all pods. */
    void (*named)(struct proxy *proxy);
    /* Called when the agent turns this proxy away: others serve its pods, until it names them again. */
    void (*unwanted)(struct proxy *proxy);
};

/* events: kept, not copied. 0 or -ENOMEM. */
int agent_client_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                     const struct agent_client_events *events, struct agent_client **ret);
void agent_client_free(struct agent_client **client);

/* The mesh is known and connections are accepted. NULL: there is no agent to tell. */
void agent_client_serves(struct agent_client *client);
/* The snapshot has been received on this connection. */
bool agent_client_ready(const struct agent_client *client);
/* The agent has let it take over, and no other one since. It is so also while no agent is there: where agents
 * and proxies are replaced at the same time, a cluster would end a proxy that is not ready before the next is
 * there. Who has not taken over yet is no reason to end the one before. */
bool agent_client_in_charge(const struct agent_client *client);
/* Another proxy has taken over, and is not gone. */
bool agent_client_replaced(const struct agent_client *client);
/* Tells the agent that the last connection of a draining pod has ended. */
void agent_client_pod_drained(struct agent_client *client, const char *uid);
/* This proxy was told to end and accepts nothing any more. NULL: there is no agent to tell. */
void agent_client_ending(struct agent_client *client);
/* Tells the agent, for its status. NULL: there is no agent to tell. */
void agent_client_handed_over(struct agent_client *client, const struct handed_over *told);
/* A listener of the pod was destroyed: the agent shall look at once. */
void agent_client_listener_closed(struct agent_client *client, const char *uid);

#endif
