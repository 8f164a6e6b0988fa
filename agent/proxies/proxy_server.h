/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's side of bruma-proxy: takes back the listeners they hold, tells each which pods it serves, and
 * lets the newest one take over from the one before. What a proxy should know is kept as a pending command
 * for each pod (an assignment) and sent whenever its socket takes it, so a slow proxy delays nobody and a
 * later command replaces an unsent one.
 */
#ifndef AGENT_PROXIES_PROXY_SERVER_H
#define AGENT_PROXIES_PROXY_SERVER_H

#include "agent/enroll/proxies.h"
#include "agent/local/server.h"
#include "bruma/protocol.h"

/* Descriptors of the maps that a proxy is given. They stay the caller's. */
struct proxy_maps {
    int proxy_sockets, deliveries;
    int direct[BRUMA_DIRECT_FD_COUNT];
    bool direct_able; /* direct connections are accounted for; proxies_direct() says so later on */
    int node[BRUMA_NODE_FD_COUNT]; /* [0] -1: nothing between pods of the node stays in the kernel */
};

/* Settings and pods outlive it. 0 or -ENOMEM; proxies_free() frees it. */
int proxy_server_new(struct loop *loop, const struct agent_settings *settings, const struct pods *pods,
                     const struct proxy_maps *maps, const struct proxies_events *events,
                     struct proxies **ret);
extern const struct server_role proxy_server_role;
/* Data of a connection that begins with proxy-hello, which proxy_server_role owns; NULL if there is no
 * memory. */
void *proxy_server_accept(struct proxies *proxies);

#endif
