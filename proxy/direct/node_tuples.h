/* SPDX-License-Identifier: Apache-2.0 */
/* One connection between two pods of this node after the other: whether it may live, its end, and when it is
 * forgotten. Control thread. */
#ifndef PROXY_DIRECT_NODE_TUPLES_H
#define PROXY_DIRECT_NODE_TUPLES_H

#include "bruma/node.h"
#include "proxy/direct/socket_destroy.h"
#include "proxy/proxy.h"

/* For what is on its way still once the source's end is closed. */
#define NODE_TUPLES_CLOSED_NANOSECONDS 10000000000ull
/* For how long the destination may answer a SYN that nothing has followed: longer than by the kernel's
 * default (63 s). */
#define NODE_TUPLES_UNANSWERED_NANOSECONDS 150000000000ull

/* A turn of the loop in which some of them are looked at. */
struct node_tuples {
    struct proxy *proxy;
    uint64_t now;      /* CLOCK_MONOTONIC, nanoseconds */
    struct pod **pods; /* by their cookies */
    size_t pods_len;
    struct socket_destroyer *destroyer; /* in the namespace of the pod with this cookie, or NULL */
    uint64_t destroyer_cookie;
    unsigned ended; /* that were not allowed any more */
    unsigned kept;  /* that could not be ended or forgotten now, though it is time */
};

/* The map is that of proxy->node_verdicts. 0 or -ENOMEM. */
int node_tuples_begin(struct node_tuples *turn, struct proxy *proxy);
/* Closes what it has opened. */
void node_tuples_end(struct node_tuples *turn);

/* The pod with that cookie, which is the proxy's and valid for this turn, or NULL. */
struct pod *node_tuples_pod(const struct node_tuples *turn, uint64_t cookie);
/* Whether the pod may have such connections: by itself, and by the agent's devices. */
bool node_tuples_takes_part(const struct node_tuples *turn, const struct pod *pod);

/* Forgets it if it is time and nothing is left of it; else, if judge, ends it where it would not be allowed
 * now, and forgets it at once where the setting does not want such connections: nobody tells of their ends
 * then. value: as it was a moment ago. */
void node_tuples_look(struct node_tuples *turn, const struct bruma_tuple *tuple,
                      const struct bruma_node_tuple *value, bool judge);

#endif
