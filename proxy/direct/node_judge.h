/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections between two pods of this node that the kernel carries: judged again when something has changed,
 * and ended where they would not be allowed now. What ended connections leave in the maps is swept. Control
 * thread.
 */
#ifndef PROXY_DIRECT_NODE_JUDGE_H
#define PROXY_DIRECT_NODE_JUDGE_H

#include "proxy/proxy.h"

struct node_judge;
struct pod;

/* 0 or -ENOMEM. */
int node_judge_new(struct proxy *proxy, struct node_judge **ret);
/* Connections live on. */
void node_judge_free(struct node_judge **judge);
/* Takes the descriptors of the message direct-node; of an agent that has made other maps since, those count
 * from now on. 0 or -errno. */
int node_judge_take_maps(struct node_judge *judge, int fds[BRUMA_NODE_FD_COUNT]);
/* The process is in charge of direct ways under this number, and knows all pods and the mesh: all that lives
 * is looked at. 0: it is not, and somebody else does that; where the agent's setting does not want such
 * connections any more, this one ends them. NULL is fine. */
void node_judge_in_charge(struct node_judge *judge, uint64_t number);
/*
 * Something has changed, and readers see it: no verdict of before counts that depends on it, and what lives
 * is looked at soon, some of it in each turn of the loop. NULL is fine as judge.
 */
/* The clock, what is revoked, or what the settings say. */
void node_judge_changed(struct node_judge *judge);
/* What the agent says of the pod, which may be about to go. */
void node_judge_pod_changed(struct node_judge *judge, struct pod *pod);
/* The mesh: what concerns each pod of it is found out. Where addresses lead it asks the state itself. */
void node_judge_mesh_changed(struct node_judge *judge);
/* The certificate of all pods with that identity. */
void node_judge_identity_changed(struct node_judge *judge, const struct identity *identity);

#endif
