/* SPDX-License-Identifier: Apache-2.0 */
/* What settings, annotations and the kind of its capture say of a pod's connections with others of this
 * process. */
#ifndef PROXY_POD_SAME_NODE_WAY_H
#define PROXY_POD_SAME_NODE_WAY_H

#include "proxy/pod/pod.h"
#include "proxy/proxy.h"
#include "proxy/telemetry/same_node_why.h"

/* NONE: they may do without a tunnel. Any thread. */
static inline enum same_node_why same_node_allows(const struct proxy *proxy, const struct pod *pod)
{
    if (proxy->settings.same_node == SAME_NODE_HBONE ||
        atomic_load_explicit(&proxy->same_node, memory_order_relaxed) == SAME_NODE_HBONE)
        return SAME_NODE_WHY_SWITCHED_OFF;
    if (pod->own || pod->redirected)
        return SAME_NODE_WHY_OTHER_CAPTURE;
    return atomic_load_explicit(&pod->same_node, memory_order_relaxed) == SAME_NODE_HBONE
               ? SAME_NODE_WHY_SWITCHED_OFF_FOR_POD
               : SAME_NODE_WHY_NONE;
}

#endif
