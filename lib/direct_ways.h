/* SPDX-License-Identifier: Apache-2.0 */
/* Which connections may go directly, past the proxy (bruma/direct.h): words of settings and annotations. What
 * an annotation says only ever lengthens the way. */
#ifndef LIB_DIRECT_WAYS_H
#define LIB_DIRECT_WAYS_H

#include <stdbool.h>

/* Of a pod or of a namespace. */
#define DIRECT_OUTSIDE_ANNOTATION "bruma.io/direct-outside"
#define DIRECT_INBOUND_ANNOTATION "bruma.io/direct-inbound"
#define SAME_NODE_ANNOTATION      "bruma.io/same-node"

enum direct_switch {
    DIRECT_UNSAID, /* somebody else says it */
    DIRECT_OFF,
    DIRECT_ON, /* as far as the agent's setting allows it */
};

/* How two pods of one node reach each other. A later one is shorter. */
enum same_node {
    SAME_NODE_UNSAID,
    SAME_NODE_HBONE,  /* as pods of two nodes */
    SAME_NODE_RELAY,  /* the proxy that serves both carries it, without a tunnel */
    SAME_NODE_KERNEL, /* the proxy allows it, the kernel carries it */
};

/* Of the agent's setting and the proxy's; the chart says it, too. */
#define SAME_NODE_DEFAULT "relay"

struct direct_switches {
    enum direct_switch outside, inbound;
    enum same_node same_node;
};

/* hbone, relay or kernel. 0, or -EINVAL for any other text. */
int same_node_parse(const char *text, enum same_node *ret);
/* Its word in settings, "" for UNSAID; a static text, never NULL. */
const char *same_node_name(enum same_node same_node);
/* The longer way of the two; what is UNSAID has no say. */
enum same_node same_node_longer(enum same_node a, enum same_node b);

/* For each way what first says, else what otherwise does. */
struct direct_switches direct_switches_join(struct direct_switches first, struct direct_switches otherwise);
/* True if they say the same. */
bool direct_switches_equal(struct direct_switches a, struct direct_switches b);

#endif
