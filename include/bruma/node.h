/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections between two pods of one node that never leave the kernel (BRUMA_DIRECT_NODE of direct.h).
 * Layout of the maps that the agent pins beside the others where it was told `same-node: kernel`.
 *
 *   node_control   array, mapped   0                          -> struct bruma_node_control
 *   node_places    array, mapped   u32 place                  -> struct bruma_node_place
 *   node_devices   hash            u64 netns cookie           -> struct bruma_node_device
 *   node_verdicts  hash            struct bruma_node_key      -> struct bruma_node_verdict
 *   node_pending   hash            struct bruma_node_key      -> struct bruma_node_pending
 *   node_tuples    hash            struct bruma_tuple         -> struct bruma_node_tuple; those that live
 *   node_arriving  per-CPU array   0                          -> struct bruma_node_arriving
 *   node_counters  per-CPU array   enum bruma_node_counter    -> u64
 *   node_sockets   sk_storage      socket                     -> struct bruma_node_socket
 *
 * The proxy writes a verdict once it has allowed such a connection itself. From then on connect() of that
 * pod to that destination binds the socket to the pod's device, and as the SYN is made the connection's
 * addresses are written to node_tuples. The program at the pod's device in the node's namespace takes its
 * packets from there straight into the destination's namespace (bpf_redirect_peer), and says for that moment
 * and that CPU what it brings (node_arriving). Only that, together with the tuple, lets the destination's
 * sk_lookup program pass the SYN to the application. A packet of a tuple that comes by any other way than
 * that is dropped.
 */
#ifndef BRUMA_NODE_H
#define BRUMA_NODE_H

#include <linux/types.h>

#include "bruma/maps.h"

/* They take memory as they are needed. */
#define BRUMA_MAX_NODE_VERDICTS 65536 /* entries */
#define BRUMA_MAX_NODE_TUPLES   65536 /* entries, of 250 bytes */
/* Verdicts that one pod may have as the source. */
#define BRUMA_MAX_NODE_VERDICTS_OF_POD 1024
/* Tuples that one pod may have as the source: a quarter, as of flows. Of one that has ended they stay for
 * what the other end may have of it still, when its flow is gone. */
#define BRUMA_MAX_NODE_TUPLES_OF_POD (BRUMA_MAX_NODE_TUPLES / 4)
/* So many entries of node_tuples are kept for connect() calls that have asked for room at the same moment. */
#define BRUMA_NODE_TUPLES_SLACK 1024

/* How long after connect() a SYN of that pod to there is known as one that must have a tuple; and how old the
 * mark may be that one has gone that way before it is renewed. */
#define BRUMA_NODE_PENDING_NANOSECONDS 15000000000ull
#define BRUMA_NODE_RENEW_NANOSECONDS   5000000000ull
/* From the source pod's device to the lookup of a listener nothing is waited for. */
#define BRUMA_NODE_ARRIVING_NANOSECONDS 10000000ull

/* One for the node. */
struct bruma_node_control {
    __u64 generation; /* grows, atomically, after each change by which any answer may be another one */
    __s64 tuples;     /* entries of node_tuples */
};

/*
 * An answer depends on both pods and on what the mesh knows of the address that was asked for. Each of these
 * has a place in node_places, which some of them share, and whose changes grow, atomically, after each of its
 * changes. The generation of a verdict, and of a tuple, is the sum of those three and of node_control's: as
 * none of them ever becomes less, it is the same only as long as all of them are.
 */
#define BRUMA_NODE_PLACES_BITS 14
#define BRUMA_NODE_PLACES      (1 << BRUMA_NODE_PLACES_BITS) /* entries */

struct bruma_node_place {
    __u64 changes;
    __s64 tuples; /* entries of node_tuples whose source is a pod with this place */
};

/* The place of a pod, by the cookie of its namespace. */
static inline __attribute__((always_inline)) __u32 bruma_node_place(__u64 cookie)
{
    return (__u32)(cookie * 0x9e3779b97f4a7c15ull >> (64 - BRUMA_NODE_PLACES_BITS));
}

/* The place of an address. */
static inline __attribute__((always_inline)) __u32
bruma_node_place_of_address(const struct bruma_address *address)
{
    __u64 halves[2];

    __builtin_memcpy(halves, address->bytes, sizeof(halves));
    return bruma_node_place(halves[0] * 0xd6e8feb86659fd93ull ^ halves[1]);
}

/* Where the agent has found a pod, and taken charge of its device. */
struct bruma_node_device {
    __u32 device; /* index of the end of the pod's veth that is in the node's namespace */
    __u32 inner;  /* and of the one in the pod */
};

struct bruma_node_key {
    struct bruma_address destination; /* as the application names it: of a pod, or of a service */
    __u64 source_cookie;              /* the netns of the pod that connects */
    __u32 port;                       /* host order */
    __u32 unused;                     /* 0 */
};

/* It is allowed, whatever the source's port. */
struct bruma_node_verdict {
    struct bruma_address source;   /* the pod's address that was judged */
    struct bruma_address endpoint; /* of the destination pod, of the same family */
    __u64 proxy;                   /* the number of who has written it */
    __u64 generation;              /* the sum, before it was judged */
    __u64 destination_cookie;
    __u64 valid_until_nanoseconds; /* CLOCK_BOOTTIME; until then both pods' certificates are good */
    __u32 source_generation, destination_generation; /* of the enrollments */
    __u32 endpoint_port;                             /* host order */
    __u32 unused;                                    /* 0 */
};

struct bruma_node_pending {
    __u64 connected_nanoseconds; /* CLOCK_MONOTONIC; a connect() not long before the last one */
};

/* A connection; its key is seen from the destination: remote is who has connected. */
struct bruma_node_tuple {
    __u64 source_cookie, destination_cookie; /* netns cookies */
    __u64 generation;                        /* of the verdict */
    __u64 socket_cookie;                     /* of the source's socket */
    __u64 accepted_cookie;                   /* of the destination's; 0: none has been accepted */
    __u64 closed_nanoseconds;                /* CLOCK_MONOTONIC; when the source's end was closed */
    __u32 source_device, destination_device; /* ends in the node's namespace */
    /* Each is 0 or 1. The ends may close at the same moment without seeing it of each other; the proxy
     * removes what they leave. */
    __u32 source_closed, destination_closed;
    __u32 asked_port; /* what the application has asked for, host order */
    __u32 refused;    /* 1: the destination has answered a SYN with a reset */
    struct bruma_address asked_address;
};

/* The packet that is on its way into the destination's namespace, on this CPU. */
struct bruma_node_arriving {
    struct bruma_tuple tuple;
    __u64 now_nanoseconds; /* CLOCK_MONOTONIC; 0: none */
};

/* Of a socket that goes directly, or that was accepted from one. */
struct bruma_node_socket {
    struct bruma_node_verdict verdict;
    struct bruma_node_key asked;
    struct bruma_tuple tuple;
    __u32 registered; /* 1: it has the tuple */
    __u32 accepted;   /* 1: it is the destination's end */
    __u32 device;     /* index of the pod's device, in the pod */
    __u32 unused;     /* 0 */
};

/* clang-format off */
/* The one list of what is counted of the whole node. BRUMA_NODE_COUNTER(ID, name, what) */
#define BRUMA_NODE_COUNTERS(BRUMA_NODE_COUNTER) \
    BRUMA_NODE_COUNTER(FORGED, node_forged_packets, "Packets with the addresses and ports of a connection of two pods that came by another way than from these; dropped.") \
    BRUMA_NODE_COUNTER(UNREGISTERED, node_unregistered_packets, "First packets of connections to go directly whose tuple could not be written; dropped.") \
    BRUMA_NODE_COUNTER(NO_ROOM, node_no_room_connections, "Connections that took the long way because the list of those that go directly is full, or their pod has its share of it.") \
    BRUMA_NODE_COUNTER(VOID, node_void_connections, "Connections that failed because the answer changed, or the source was another one, while they began.")
/* clang-format on */

enum bruma_node_counter {
#define BRUMA_NODE_COUNTER_ID(id, name, what) BRUMA_NODE_COUNTER_##id,
    BRUMA_NODE_COUNTERS(BRUMA_NODE_COUNTER_ID)
#undef BRUMA_NODE_COUNTER_ID
        BRUMA_NODE_COUNTER_COUNT
};

#endif
