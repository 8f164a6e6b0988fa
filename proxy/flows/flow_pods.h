/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose events they are: pods by the cookie of their network namespace. The control thread says which there
 * are before anything of them can go directly; the reader of events looks them up. Of a pod that is gone, who
 * it was is kept for a while: the last of its events may be on their way.
 */
#ifndef PROXY_FLOWS_FLOW_PODS_H
#define PROXY_FLOWS_FLOW_PODS_H

#include "proxy/pod/pod.h"

#define FLOW_PODS_GONE_MAX 1024 /* pods that are gone and kept; of more the oldest is forgotten */

struct flow_pods;

int flow_pods_new(struct flow_pods **ret); /* 0 or -ENOMEM */
void flow_pods_free(struct flow_pods **pods);

/* The pod is there, with a descriptor of its network namespace; again is harmless. Control thread, as the
 * next. -ENOMEM: its events are nobody's. */
int flow_pods_add(struct flow_pods *pods, struct pod *pod);
/* It is gone, if it was there. */
void flow_pods_remove(struct flow_pods *pods, struct pod *pod);

/* Who the pod is, as the mesh knows it or else as the agent has told: referenced for the caller, who is a
 * reader of the mesh. NULL: there is no such pod, or nobody knows who it is. *ret_known: whether there is
 * one. Any thread. */
const struct workload *flow_pods_workload(struct flow_pods *pods, const struct state *state, uint64_t cookie,
                                          bool *ret_known);
/* The pod itself, referenced for the caller; NULL: there is none now. Any thread. */
struct pod *flow_pods_find(struct flow_pods *pods, uint64_t cookie);

#endif
