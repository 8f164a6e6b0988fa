/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel may carry between two pods of this node: written once a worker has allowed such a
 * connection itself (include/bruma/node.h). Any thread that reads the mesh (proxy/state/rcu.h), where nothing
 * else is said.
 */
#ifndef PROXY_VERDICTS_NODE_VERDICTS_H
#define PROXY_VERDICTS_NODE_VERDICTS_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/node.h"
#include "bruma/protocol.h"
#include "lib/addr.h"
#include "proxy/pod/pod.h"

struct node_verdicts;

/* 0 or -ENOMEM. It has no maps yet, and nothing is written. */
int node_verdicts_new(struct node_verdicts **ret);
/* The workers are gone. Closes the maps; what is in them stays. */
void node_verdicts_free(struct node_verdicts **verdicts);
/* Control thread: takes the descriptors; those of maps that it has already are closed. What workers are about
 * to write goes where they began. 1: they are other maps than before; 0: the same; or -errno, and what was
 * there stays. */
int node_verdicts_take_maps(struct node_verdicts *verdicts, int fds[BRUMA_NODE_FD_COUNT]);
/* Control thread: the number under which the process is known in direct_proxies; 0: it writes nothing. */
void node_verdicts_set_number(struct node_verdicts *verdicts, uint64_t number);
/* Control thread: a map of them, -1 before they were taken; good until others are taken. */
int node_verdicts_map(const struct node_verdicts *verdicts, enum bruma_node_fd map);
/* The same: the kernel's, as mapped memory; NULL before the maps were taken. */
struct bruma_node_control *node_verdicts_control(const struct node_verdicts *verdicts);

/* The same, once they were taken: this process has removed a tuple with that source from node_tuples. */
void node_verdicts_tuple_gone(const struct node_verdicts *verdicts, uint64_t source_cookie);

/* Where and when somebody began to judge. */
struct node_maps;
struct node_ticket {
    const struct node_maps *maps;
    uint64_t generation;
};

struct node_permission {
    struct pod *source;
    const struct pod *destination;
    struct addr source_address; /* that was judged */
    struct endpoint asked;      /* where the application connects to */
    struct endpoint endpoint;   /* of the destination, of the same family */
    int64_t until;              /* wall seconds: when the first of the certificates ends */
    struct node_ticket ticket;
};

/* To be asked before anything that the answer depends on is read, with the pods and what is asked for. True:
 * the ticket is filled, and good until the thread's next quiescent state; false: it is not, and nothing is to
 * be written. verdicts NULL: false. */
bool node_verdicts_begin(const struct node_verdicts *verdicts, struct node_permission *permission);

/* Any thread: something has changed that answers depend on, and that thread, and all that will be told
 * nothing of it, see it: no verdict of before counts. NULL is fine. */
void node_verdicts_change(struct node_verdicts *verdicts);
/* The same of verdicts from and to the pod with that cookie. */
void node_verdicts_change_pod(struct node_verdicts *verdicts, uint64_t cookie);
/* The same of verdicts by whom that address is asked for. */
void node_verdicts_change_address(struct node_verdicts *verdicts, const struct addr *addr);
/* Any thread: true if nothing has changed since that the verdict depends on. */
bool node_verdicts_stand(const struct node_verdicts *verdicts, const struct bruma_node_key *key,
                         const struct bruma_node_verdict *verdict);

/* Without room, or where the source has its share, it is not written: such connections go on as before. */
void node_verdicts_allow(struct node_verdicts *verdicts, const struct node_permission *permission);

/* Verdicts that found no room, since the source had its share (BRUMA_MAX_NODE_VERDICTS_OF_POD), or since the
 * map was full. */
struct node_refusals {
    unsigned long pod_verdicts_full, verdicts_full;
};
/* How many there were so far. Any thread. */
struct node_refusals node_verdicts_refused(const struct node_verdicts *verdicts);

#endif
