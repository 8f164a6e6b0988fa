/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The proxy's side of ZDS (lib/zds.h), so that a stock CNI agent tells it of pods: connects, reconnects for
 * ever, greets, obeys. Takes the place of proxy/pods/agent_link.h; a process has one of the two. Control
 * thread.
 */
#ifndef PROXY_PODS_ZDS_LINK_H
#define PROXY_PODS_ZDS_LINK_H

#include <stdbool.h>

#include "lib/loop.h"
#include "proxy/pods/zds_pods.h"

struct zds_link;
struct proxy;

/* own_netns_fd: the proxy's own namespace, to come back to. failed: the agent breaks the protocol, and the
 * process should end. */
int zds_link_new(struct loop *loop, struct proxy *proxy, const char *socket_path,
                 const struct pod_listener_options *options, int own_netns_fd, void (*failed)(struct proxy *),
                 struct zds_link **ret);
void zds_link_free(struct zds_link **link);

/* The snapshot has been received on this connection, and every pod of it is served. */
bool zds_link_ready(const struct zds_link *link);
/* The process ends: no more messages. The agent gives new pods to another proxy. */
void zds_link_stop(struct zds_link *link);
/* A listener of the pod was destroyed. */
void zds_link_listener_closed(struct zds_link *link, const char *uid);

const struct zds_pods *zds_link_pods(const struct zds_link *link);

#endif
