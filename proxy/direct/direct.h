/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct ways, the proxy's side (bruma/direct.h): what the kernel must know to let connections pass without
 * the proxy, and whether this proxy's word on it counts. It does while the agent has named this proxy's pods
 * and no other proxy has taken over, the mesh is known, and all threads turn. Control thread.
 */
#ifndef PROXY_DIRECT_DIRECT_H
#define PROXY_DIRECT_DIRECT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "bruma/direct.h"
#include "bruma/protocol.h"
#include "lib/direct_ways.h"

struct direct;
struct pod;
struct proxy;

/* All takes the long way until the agent has given the maps. 0, -ENOMEM, or -errno of the random numbers. */
int direct_new(struct proxy *proxy, struct direct **ret);
/* Gives back what it is in charge of; entries in the maps are left to a successor. */
void direct_free(struct direct **direct);

/* The agent's message, with its settings: takes the descriptors (enum bruma_direct_fd), also when it fails.
 * The same maps again only change the switches; NULL: this kernel has none. 0, or -errno: all takes the long
 * way. */
int direct_take_maps(struct direct *direct, const struct direct_switches *switches,
                     int fds[BRUMA_DIRECT_FD_COUNT]);
/* The agent has named all pods. */
void direct_pods_named(struct direct *direct);
/* Another proxy serves the pods, until they are named again: at once this one's word counts no more. */
void direct_pods_taken(struct direct *direct);
/* The mesh is known. */
void direct_mesh_known(struct direct *direct);
/* The proxy drains: at once its word counts no more. */
void direct_drain(struct direct *direct);
/* It serves again. */
void direct_resume(struct direct *direct);

/* Something has changed by which the pod's entry is made; it has been made anew when this returns. */
void direct_pod_changed(struct direct *direct, struct pod *pod);
/* The same of all pods. policies: some have changed, whatever became of the pods' entries. */
void direct_pods_changed(struct direct *direct, bool policies);
/* The pod is about to have no way to outside the mesh: it has none any more when this returns, until
 * direct_pod_changed(). */
void direct_pod_restrict(struct direct *direct, struct pod *pod);
/* The pod is about to go. */
void direct_pod_gone(struct direct *direct, struct pod *pod);

/* Of what was cut off from the network, an event tells: it ends. netns_fd: of its pod; stays the caller's.
 * Any thread. */
void direct_condemned(struct direct *direct, int netns_fd, uint64_t socket_cookie,
                      const struct bruma_flow *flow);
/* A connection to a pod was let pass, an event tells: if the answer has changed meanwhile it is judged. Any
 * thread. */
void direct_passed(struct direct *direct, const struct bruma_flow *flow);

/* This process's number in the maps; never 0. */
uint64_t direct_number(const struct direct *direct);
/* Whether its word counts. */
bool direct_in_charge(const struct direct *direct);
/* For the page of metrics: what may only be read on this thread. */
void direct_write_metrics(const struct direct *direct, FILE *out);
/* For brumactl:
 * {"number","inCharge","why","holder","ways","set","addresses","prefixes","failures","rebuilds",
 * "swept","pods":[{"uid","outside","inbound",...}]}. The caller owns it; NULL: no memory. */
cJSON *direct_dump(const struct direct *direct);

#endif
