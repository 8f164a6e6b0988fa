/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A proxy that knows two pods of one node, and the maps of connections between them in the kernel. Both have
 * the network namespace of the test, which is one of its own:
 *
 *     10.9.0.9  web, cookie 9, the source       10.9.0.1  shop, cookie 1, the destination
 *     10.9.0.77 whoever sends from there is not heard of again
 */
#ifndef TESTS_UNIT_PROXY_DIRECT_NODE_SITE_H
#define TESTS_UNIT_PROXY_DIRECT_NODE_SITE_H

#include "bruma/node.h"
#include "bruma/protocol.h"
#include "proxy/pod/pod.h"
#include "proxy/proxy.h"
#include "proxy/verdicts/node_verdicts.h"

#define SITE_SOURCE      9
#define SITE_DESTINATION 1
#define SITE_NUMBER      7
#define SITE_PORT        8080

struct node_site {
    struct proxy proxy;
    struct pod source, destination;
    int maps[BRUMA_NODE_FD_COUNT]; /* the test's; the proxy has others of the same maps */
};
extern struct node_site site;

/* False: this kernel, or this user, cannot. Both pods are of the mesh, may have such connections, and no
 * policy forbids them; the proxy has no maps yet. */
bool site_begin(void);
void site_end(void);
/* Maps of the kinds that the agent makes; the caller's. */
void site_new_maps(int ret[BRUMA_NODE_FD_COUNT]);
/* The same maps once more; the caller's. */
void site_same_maps(const int maps[BRUMA_NODE_FD_COUNT], int ret[BRUMA_NODE_FD_COUNT]);
/* The pod is not one of the proxy's any more, or is again. */
void site_forget(struct pod *pod);
void site_know(struct pod *pod);

/* 0 or -errno. */
int site_put(int map, const void *key, const void *value);
int site_get(int map, const void *key, void *ret);
/* How many entries it has. */
unsigned site_count(int map, size_t key_size);

/* The tuple of a connection of the address' port to the destination. */
struct bruma_tuple site_tuple(const char *source, uint16_t port);
/* One as the programs write it once its SYN is on its way, with these changes. */
void site_register(const struct bruma_tuple *tuple, struct bruma_node_tuple value);
bool site_has(const struct bruma_tuple *tuple);
/* How many are counted of which the pod with that cookie is the source. */
int64_t site_tuples(uint64_t cookie);
/* Of that time ago, by CLOCK_MONOTONIC. */
uint64_t site_ago(unsigned seconds);

/* A socket that listens on the destination's port. */
int site_listen(void);
/* Its kernel has answered a SYN of that port of 10.9.0.77, and waits. */
void site_half_open(uint16_t port);
unsigned site_half_open_count(void);

/* Runs the loop until it is so; fails the test after some seconds. */
void site_until(bool (*is_so)(void), const char *what);

#endif
