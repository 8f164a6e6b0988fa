/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct ways: connections of captured pods that need no proxy and stay in the kernel. Layout of the maps
 * that the agent pins beside those of maps.h, and that the node's own proxy fills through descriptors it is
 * given (message "direct" of protocol.h).
 *
 *   direct_control   array, mapped   0                        -> struct bruma_direct_control
 *   direct_proxies   SOCKHASH        u64 proxy                -> a listener that this process alone holds
 *   direct_pods      hash            u64 netns cookie         -> struct bruma_direct_pod
 *   direct_counters  hash            u64 netns cookie         -> struct bruma_direct_counters
 *   mesh_addresses   hash            struct bruma_mesh_key    -> struct bruma_mesh_objects
 *   mesh_prefixes    LPM trie        struct bruma_mesh_prefix -> struct bruma_mesh_objects
 *   flows            hash            u64 socket cookie        -> struct bruma_flow; those that live
 *   flow_events      ring            struct bruma_flow_event
 *   flows_full       array           0                        -> u64 nanoseconds: when flows had no room
 *   flow_counts      hash            u64 netns cookie         -> struct bruma_flow_count
 *   flow_totals      array           0                        -> struct bruma_flow_count; of all pods
 *   flow_limits      array           0                        -> struct bruma_flow_limits
 *   flow_refusals    hash            u64 netns cookie         -> struct refusals, of the programs alone
 *   listener_sockets sk_storage      socket                   -> struct bruma_listener_socket
 *
 * An event that says ENOSPC when it is opened is of a connection that found no room in flows: nothing else
 * will be heard of it. One that says ESTALE is of one whose destination was found in the mesh, or could not
 * be asked for any more, when it answered. Both have been cut off from the network, and are to be ended; but
 * not those with ENOSPC whose way is BRUMA_DIRECT_BYPASS.
 *
 * The rule of all of it: who is not sure takes the long way, through the proxy. A connection goes directly
 * only while all of this holds:
 *   1. direct_control names a proxy, and the time until which it is valid has not come;
 *   2. direct_proxies has the socket of that proxy: it vanishes with the process, however that ends;
 *   3. direct_pods has an entry for the pod that this proxy has written, for this enrollment, with the way;
 *   4. the way's own condition. For BRUMA_DIRECT_OUTSIDE: the destination is neither in mesh_addresses nor
 *      in mesh_prefixes under that proxy's number, and the pod's entry in pods names its only device, to
 *      which the socket is bound;
 *   5. there is room in flows, so that it is accounted, and the pod has not more than its share of that.
 *
 * Each proxy process chooses a number for itself at random (not 0), and writes only entries under its number,
 * so that two of them, the old one and the new one of an upgrade, never see or spoil each other's. A new one
 * puts its socket in, then all of the mesh and its pods, and then its number into direct_control.
 */
#ifndef BRUMA_DIRECT_H
#define BRUMA_DIRECT_H

#include <linux/types.h>

#include "bruma/maps.h"

#define BRUMA_MAX_DIRECT_PROXIES 16     /* entries */
#define BRUMA_MAX_MESH_ADDRESSES 262144 /* entries, of all proxies: 16 bytes each, and 80 of a used one */
#define BRUMA_MAX_MESH_PREFIXES  16384  /* entries; they take memory as they are needed */
#define BRUMA_MAX_FLOWS          262144 /* entries; their memory is as that of mesh_addresses */
#define BRUMA_FLOWS_SPARE        4096 /* of those: for what was let pass a moment before there were too many */
#define BRUMA_FLOWS_POD_SHARE    4    /* one pod may have that part of all */
#define BRUMA_FLOW_LOCK          "flow-events.lock" /* in the run directory: held by the one reader */
#define BRUMA_FLOW_RING          1048576 /* bytes; a power of two, and a multiple of the page size */

/* How long the proxy's word is good for, and how often it renews it. A process that hangs or was stopped is
 * noticed so; one that has died at once, by its socket. */
#define BRUMA_DIRECT_VALID_NANOSECONDS  2000000000ull
#define BRUMA_DIRECT_RENEW_MILLISECONDS 500

/* Where nobody can be asked when a connection to outside the mesh is answered: an older one is not let go. */
#define BRUMA_DIRECT_LATE_NANOSECONDS 2000000000ull

/* Bits of the fields ways below, and for one connection one of them. */
enum bruma_direct_way {
    BRUMA_DIRECT_OUTSIDE = 1 << 0, /* outbound, to where the mesh knows nobody */
    BRUMA_DIRECT_PASS = 1 << 1,    /* inbound plaintext, to the application: allowed whoever asks */
    BRUMA_DIRECT_REFUSE = 1 << 2,  /* inbound plaintext: refused whoever asks */
    BRUMA_DIRECT_BYPASS = 1 << 3,  /* inbound plaintext of a pod that wants it uncaptured; accounted only */
    BRUMA_DIRECT_NODE = 1 << 4,    /* between two pods of this node, in the kernel */
    BRUMA_DIRECT_NODE_INBOUND = 1 << 5, /* of a flow alone: the same, as the pod that was called has it */
};

/* One for the node. The proxy that it names maps it and writes each field in one piece. */
struct bruma_direct_control {
    __u64 proxy;                   /* whose entries count; 0: nobody's, and all takes the long way */
    __u64 valid_until_nanoseconds; /* CLOCK_MONOTONIC */
    __u32 ways;                    /* enum bruma_direct_way: those that are on */
    __u32 prefixes; /* entries that this proxy has in mesh_prefixes; 0: nobody need look there */
    __u32 why;      /* enum bruma_long_way: why there is no proxy, or not all ways are on */
    /* 1: the reader of flow_events comes by itself, and is woken only where the ring fills. Written by the
     * one process that holds the reader's lock, whichever proxy is in charge. */
    __u32 polling;
    __u64 lost_events; /* added to in the kernel: events of all pods that found no room in the ring */
};

/*
 * Why a connection takes the long way although its kind may go directly. `brumactl explain`, the counters
 * below, metrics and docs/maps.md are made from this list; entries are only added at the end.
 *
 * BRUMA_LONG_WAY(ID, name, what)
 */
/* clang-format off */
#define BRUMA_LONG_WAYS(BRUMA_LONG_WAY) \
    BRUMA_LONG_WAY(NONE, none, "nothing: it goes directly") \
    BRUMA_LONG_WAY(SWITCHED_OFF, switched_off, "the way is switched off by the agent's setting") \
    BRUMA_LONG_WAY(SWITCHED_OFF_FOR_POD, switched_off_for_pod, "the way is switched off by an annotation of the pod") \
    BRUMA_LONG_WAY(NO_PROXY, no_proxy, "no proxy has taken charge of direct ways yet") \
    BRUMA_LONG_WAY(PROXY_GONE, proxy_gone, "the proxy in charge has ended, and none has followed it yet") \
    BRUMA_LONG_WAY(PROXY_SILENT, proxy_silent, "the proxy in charge gives no sign of life") \
    BRUMA_LONG_WAY(POD_UNKNOWN, pod_unknown, "the proxy has not said yet what holds for the pod") \
    BRUMA_LONG_WAY(WORKLOAD_UNKNOWN, workload_unknown, "the mesh does not know the pod's workload") \
    BRUMA_LONG_WAY(IN_MESH, in_mesh, "the mesh knows the destination") \
    BRUMA_LONG_WAY(DNS, dns, "it goes to port 53, and the pod's DNS queries are captured") \
    BRUMA_LONG_WAY(REGISTRY_ONLY, registry_only, "the pod may connect only to what the mesh knows (REGISTRY_ONLY)") \
    BRUMA_LONG_WAY(ON_DEMAND, on_demand, "the proxy learns of the mesh only on demand") \
    BRUMA_LONG_WAY(SEVERAL_DEVICES, several_devices, "the pod has several network devices, or none, or routes or addresses of its own that a socket bound to its device would not heed") \
    BRUMA_LONG_WAY(SOCKET_BOUND, socket_bound, "the application has bound the socket to a device, or to an address that is not the pod's, or has set a mark that leads to lo") \
    BRUMA_LONG_WAY(SET_INCOMPLETE, set_incomplete, "not all of the mesh could be written to the kernel's maps") \
    BRUMA_LONG_WAY(FLOWS_FULL, flows_full, "the list of live direct connections is full") \
    BRUMA_LONG_WAY(POLICY_DEPENDS, policy_depends, "the answer of the pod's policies depends on who asks, or on the port") \
    BRUMA_LONG_WAY(POLICY_MISSING, policy_missing, "a policy that the workload names has not arrived") \
    BRUMA_LONG_WAY(POLICY_DRY_RUN, policy_dry_run, "a dry-run policy wants to see each connection") \
    BRUMA_LONG_WAY(PROXY_HEADER, proxy_header, "the application wants a PROXY protocol header") \
    BRUMA_LONG_WAY(OTHER_ADDRESS, other_address, "the destination is an address of the pod that its network has not named, or a port of the proxy") \
    BRUMA_LONG_WAY(ENDING, ending, "the pod or the proxy is draining") \
    BRUMA_LONG_WAY(NO_KERNEL, no_kernel, "this kernel cannot run the programs that account for it") \
    BRUMA_LONG_WAY(POLICY_CHANGING, policy_changing, "policies are changing at this moment") \
    BRUMA_LONG_WAY(DEFERRED, deferred, "the SYN would leave only with the first data (TCP_FASTOPEN_CONNECT)") \
    BRUMA_LONG_WAY(POD_FLOWS_FULL, pod_flows_full, "the pod has a quarter of all live direct connections that there may be") \
    BRUMA_LONG_WAY(TUPLES_FULL, tuples_full, "the list of connections between pods of the node that stay in the kernel is full") \
    BRUMA_LONG_WAY(POD_TUPLES_FULL, pod_tuples_full, "the pod has a quarter of all connections between pods of the node that may stay in the kernel")
/* clang-format on */

enum bruma_long_way {
#define BRUMA_LONG_WAY_ID(id, name, what) BRUMA_LONG_WAY_##id,
    BRUMA_LONG_WAYS(BRUMA_LONG_WAY_ID)
#undef BRUMA_LONG_WAY_ID
        BRUMA_LONG_WAY_COUNT
};

/* Of one pod. */
struct bruma_direct_pod {
    __u64 proxy;      /* the number of who has written it */
    __u32 generation; /* of the enrollment; another one than that in pods: the entry does not count */
    __u32 ways;       /* enum bruma_direct_way; one at most of PASS and REFUSE */
    __u32 outside_why, inbound_why; /* enum bruma_long_way: why the way is missing */
    /* How often the answer to inbound plaintext has changed; flows of before are judged again. */
    __u32 inbound_changes;
    __u32 unused; /* 0 */
};

/* clang-format off */
/* The one list of what is counted for each pod, as BRUMA_POD_COUNTERS. Each reason of the long way has one more. */
#define BRUMA_DIRECT_COUNTERS(BRUMA_DIRECT_COUNTER) \
    BRUMA_DIRECT_COUNTER(direct_outside_connections, "Connections of the pod to outside the mesh that went directly.") \
    BRUMA_DIRECT_COUNTER(direct_inbound_lookups, "Plaintext connections to the pod that went directly to the application.") \
    BRUMA_DIRECT_COUNTER(direct_inbound_refused_lookups, "Plaintext connections to the pod that were refused in the kernel, since its policies refuse all such.") \
    BRUMA_DIRECT_COUNTER(direct_node_connections, "Connections of the pod to another one of this node that went directly.") \
    BRUMA_DIRECT_COUNTER(direct_lost_events, "Events of direct connections that found no room in the ring: their log lines are missing.")
/* clang-format on */

struct bruma_direct_counters {
#define BRUMA_DIRECT_COUNTER_FIELD(name, what) __u64 name;
    BRUMA_DIRECT_COUNTERS(BRUMA_DIRECT_COUNTER_FIELD)
#undef BRUMA_DIRECT_COUNTER_FIELD
    __u64 outside_long_way[32]; /* by enum bruma_long_way; connect() calls that were captured instead */
    __u64 inbound_long_way[32]; /* the same; lookups of plaintext connections that went to the proxy */
};

/* An address that is not to be dialed past the proxy, in the eyes of one proxy process. */
struct bruma_mesh_key {
    struct bruma_address address;
    __u64 proxy;
};

/* The same of a range. */
struct bruma_mesh_prefix {
    __u32 prefix_length; /* bits of what follows that count: 96, and those of the address */
    __u32 unused;        /* 0 */
    __u64 proxy;
    struct bruma_address address;
};

/* How many workloads and services have the address or the range; more than 0. */
struct bruma_mesh_objects {
    __u32 objects;
};

enum bruma_flow_state {
    BRUMA_FLOW_CONNECTING = 0, /* connect() was let go directly */
    BRUMA_FLOW_ESTABLISHED = 1,
};

/* A direct connection that lives. Seen from the pod: remote is the other side, whoever began. */
struct bruma_flow {
    __u64 netns_cookie;
    __u64 opened_nanoseconds; /* CLOCK_MONOTONIC; connect() began, or the connection was accepted */
    struct bruma_tuple tuple; /* local address and port are zero until the SYN leaves */
    __u32 generation;         /* of the pod's enrollment */
    enum bruma_direct_way way;
    enum bruma_flow_state state;
    __u32 inbound_changes; /* that of the pod's entry when it was accepted */
};

/* Of one pod, or of all. Live are as many as began and have not ended; programs add to both at once on all
 * CPUs, and the agent by one of them (sweep.bpf.c). */
struct bruma_flow_count {
    __u64 begun, ended; /* entries of flows */
};

/* So many may live for another one to go directly; the agent writes it. */
struct bruma_flow_limits {
    __u64 all, pod;
};

enum bruma_flow_event_kind {
    BRUMA_FLOW_OPENED = 1,  /* established */
    BRUMA_FLOW_CLOSED = 2,  /* it was established, and has ended */
    BRUMA_FLOW_FAILED = 3,  /* connect() has failed */
    BRUMA_FLOW_REFUSED = 4, /* inbound, by BRUMA_DIRECT_REFUSE; not each of many in a moment has an event */
};

/* Of a listener of the proxy in a pod, and of each connection that it has accepted, which are not direct. */
struct bruma_listener_socket {
    __u32 slot; /* enum bruma_listener */
};

/* What the proxy's telemetry is made of. Each says all: that of a connection which outlived a proxy is enough
 * for the next one to write the line of its end. */
struct bruma_flow_event {
    struct bruma_flow flow;
    __u64 socket_cookie;   /* 0 for REFUSED */
    __u64 now_nanoseconds; /* CLOCK_MONOTONIC */
    __u64 sent;            /* bytes of the pod that the other side has acknowledged, without SYN and FIN */
    __u64 received;        /* bytes for the pod, without SYN and FIN */
    enum bruma_flow_event_kind kind;
    __u32 error;    /* errno of the socket, 0: none, or FAILED: the application gave up; a reset shows here */
    __u32 repeated; /* REFUSED: how many more there were that had no event of their own */
    __u32 unused;   /* 0 */
};

#endif
