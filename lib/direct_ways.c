/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/direct_ways.h"

#include <errno.h>
#include <string.h>

static const char *const same_node_names[] = {"", "hbone", "relay", "kernel"};

int same_node_parse(const char *text, enum same_node *ret)
{
    for (int i = SAME_NODE_HBONE; i <= SAME_NODE_KERNEL; i++) {
        if (!strcmp(text, same_node_names[i])) {
            *ret = (enum same_node)i;
            return 0;
        }
    }
    return -EINVAL;
}

const char *same_node_name(enum same_node same_node)
{
    return same_node_names[same_node];
}

enum same_node same_node_longer(enum same_node a, enum same_node b)
{
    if (a == SAME_NODE_UNSAID || b == SAME_NODE_UNSAID)
        return a == SAME_NODE_UNSAID ? b : a;
    return a < b ? a : b;
}

struct direct_switches direct_switches_join(struct direct_switches first, struct direct_switches otherwise)
{
    if (first.outside == DIRECT_UNSAID)
        first.outside = otherwise.outside;
    if (first.inbound == DIRECT_UNSAID)
        first.inbound = otherwise.inbound;
    if (first.same_node == SAME_NODE_UNSAID)
        first.same_node = otherwise.same_node;
    return first;
}

bool direct_switches_equal(struct direct_switches a, struct direct_switches b)
{
    return a.outside == b.outside && a.inbound == b.inbound && a.same_node == b.same_node;
}
