/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The proxy's side of ZDS (lib/zds.h), so that a stock CNI agent tells it of pods: connects, reconnects for
 * ever, greets, obeys. Takes the place of proxy/pods/agent_client.h; a process has one of the two. Control
 * thread.
 */
#ifndef PROXY_PODS_ZDS_CLIENT_H
#define PROXY_PODS_ZDS_CLIENT_H

#include <stdbool.h>

#include "lib/loop.h"
#include "proxy/pods/zds_pods.h"

struct zds_client;
struct proxy;

/* own_netns_fd: the proxy's own namespace, to come back to. failed: called on the loop when the agent
 * breaks the protocol, and the process should end. 0, -ENOMEM, or -errno if own_netns_fd is none. */
int zds_client_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                   const struct pod_listener_options *options, int own_netns_fd,
                   void (*failed)(struct proxy *), struct zds_client **ret);
void zds_client_free(struct zds_client **client);

/* The snapshot has been received on this connection, and every pod of it is served. */
bool zds_client_ready(const struct zds_client *client);
/* The process ends: no more messages. The agent gives new pods to another proxy. */
void zds_client_stop(struct zds_client *client);
/* A listener of the pod was destroyed. */
void zds_client_listener_closed(struct zds_client *client, const char *uid);

/* The client's, never NULL. */
const struct zds_pods *zds_client_pods(const struct zds_client *client);

#endif
