/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel may carry between two pods of this node: written once a worker has allowed such a
 * connection itself (include/bruma/node.h). Any thread, where nothing else is said.
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
/* Control thread, once: later ones are closed. Takes the descriptors. 0 or -errno. */
int node_verdicts_take_maps(struct node_verdicts *verdicts, int fds[BRUMA_NODE_FD_COUNT]);
/* Control thread: the number under which the process is known in direct_proxies; 0: it writes nothing. */
void node_verdicts_set_number(struct node_verdicts *verdicts, uint64_t number);
/* A map of them, -1 before they were taken; it stays with verdicts. */
int node_verdicts_map(const struct node_verdicts *verdicts, enum bruma_node_fd map);
/* The kernel's, as mapped memory that stays with verdicts; NULL before the maps were taken. */
struct bruma_node_control *node_verdicts_control(const struct node_verdicts *verdicts);

/* To be asked before anything that the answer depends on is read. True: *ret_generation is filled; false: it
 * is not, and nothing is to be written. NULL: false. */
bool node_verdicts_begin(const struct node_verdicts *verdicts, uint64_t *ret_generation);
/* Something has changed by which answers may be others, and readers see it: none of before counts. */
void node_verdicts_change(struct node_verdicts *verdicts);

struct node_permission {
    const struct pod *source, *destination;
    struct addr source_address; /* that was judged */
    struct endpoint asked;      /* where the application connects to */
    struct endpoint endpoint;   /* of the destination, of the same family */
    uint64_t generation;        /* of node_verdicts_begin() */
};

/* Without room it is not written: such connections go on as before. */
void node_verdicts_allow(struct node_verdicts *verdicts, const struct node_permission *permission);

#endif
