/* SPDX-License-Identifier: Apache-2.0 */
/* Why a connection between two pods of this process takes a tunnel and not the relay: names for metrics,
 * words for people. */
#ifndef PROXY_TELEMETRY_SAME_NODE_WHY_H
#define PROXY_TELEMETRY_SAME_NODE_WHY_H

/* SAME_NODE_WHY(ID, name, what) */
#define SAME_NODE_WHYS(SAME_NODE_WHY)                                                                        \
    SAME_NODE_WHY(NONE, relay, "nothing: the proxy relays it")                                               \
    SAME_NODE_WHY(ELSEWHERE, elsewhere, "the proxy does not serve both pods")                                \
    SAME_NODE_WHY(SWITCHED_OFF, switched_off, "the setting same-node of the proxy or the agent says hbone")  \
    SAME_NODE_WHY(SWITCHED_OFF_FOR_POD, switched_off_for_pod, "an annotation of one of the pods says hbone") \
    SAME_NODE_WHY(INDIRECT, indirect, "the route does not lead straight to an application of the pod")       \
    SAME_NODE_WHY(ITSELF, itself, "the pod reaches itself")                                                  \
    SAME_NODE_WHY(ADDRESS_IN_DOUBT, address_in_doubt,                                                        \
                  "it is in doubt whose address it is: two have it, or the client has several")              \
    SAME_NODE_WHY(ENDING, ending, "one of the pods ends or drains, or the proxy does")                       \
    SAME_NODE_WHY(OTHER_CAPTURE, other_capture,                                                              \
                  "one of the pods is captured by another CNI's rules, or is the proxy itself")              \
    SAME_NODE_WHY(CERTIFICATE_MISSING, certificate_missing, "one of the pods has no certificate")            \
    SAME_NODE_WHY(NOT_VOUCHED, not_vouched,                                                                  \
                  "a handshake between the pods would fail, and the tunnel says why")

enum same_node_why {
#define SAME_NODE_WHY_ID(id, name, what) SAME_NODE_WHY_##id,
    SAME_NODE_WHYS(SAME_NODE_WHY_ID)
#undef SAME_NODE_WHY_ID
        SAME_NODE_WHY_COUNT
};

/* Both: a static text, never NULL. */
const char *same_node_why_name(enum same_node_why why);
const char *same_node_why_what(enum same_node_why why);

#endif
