/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's side of stock node proxies (ztunnel), on a socket of its own: package istio.workload.zds, one
 * message a datagram, see lib/zds.h. The proxy greets, is told of all pods one by one and then that this was
 * all, and after that of pods that come and go. Each message is answered before the next is sent; who does
 * not answer in time is disconnected, for a late answer would be taken for that to the next message.
 *
 * A proxy that has acknowledged a pod listens in it. The youngest process that has acknowledged its snapshot
 * gets the pods' new connections; while there is none, one that is being told gets those of each pod as it
 * acknowledges it. The listeners of an older one stay open for what is in their queues.
 */
#ifndef AGENT_PROXIES_ZDS_SERVER_H
#define AGENT_PROXIES_ZDS_SERVER_H

#include "agent/enroll/proxies.h"
#include "agent/proxies/proxy_cgroups.h"

/* Listens at settings->zds_socket. cgroups stays the caller's. 0, -ENOMEM, or -errno of the socket;
 * proxies_free() frees it. */
int zds_server_new(struct loop *loop, const struct agent_settings *settings, const struct pods *pods,
                   struct proxy_cgroups *cgroups, const struct proxies_events *events, struct proxies **ret);

#endif
