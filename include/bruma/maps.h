/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layout of the BPF maps that are pinned under the pin directory (default /sys/fs/bpf/bruma). Shared by the
 * BPF programs and by user space, so only fixed-width types. Names are what `bpftool map dump` shows: keep
 * them words.
 *
 *   pods            hash         u64 netns cookie  -> struct bruma_pod
 *   pod_counters    hash         u64 netns cookie  -> struct bruma_pod_counters
 *   failures        per-CPU hash   enum bruma_reason -> struct bruma_failure_count; those that happened
 *   proxy_sockets   sk_storage   socket            -> struct bruma_proxy_socket
 *   proxy_cgroups   hash         u64 cgroup id     -> struct bruma_proxy_cgroup; of stock proxies
 *   probe_targets   hash         struct bruma_endpoint -> struct bruma_probe_target
 *   probe_tuples    LRU hash     struct bruma_tuple    -> struct bruma_probe_tuple
 *   deliveries      LRU hash     struct bruma_delivery  -> struct bruma_delivery_made
 *   dns_sockets     SOCKHASH     u64 netns cookie       -> the socket that takes the pod's DNS queries
 *   excluded_ranges LPM trie     struct bruma_range_key  -> struct bruma_excluded_range
 *   excluded_ports  hash         struct bruma_port_key   -> struct bruma_excluded_port
 *   exclusion_counters hash      u64 netns cookie        -> struct bruma_exclusion_counters
 *   guard           array        0                     -> struct bruma_guard
 *   sandboxes       hash         u64 netns cookie      -> struct bruma_sandbox
 *   listeners       SOCKMAP, one for each pod: enum bruma_listener -> socket
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. Ports are in host order.
 */
#ifndef BRUMA_MAPS_H
#define BRUMA_MAPS_H

#include <linux/types.h>

#include "bruma/outbound.h"
#include "bruma/reasons.h"

#define BRUMA_POD_ADDRESSES     4     /* addresses of one pod: IPv4, IPv6, and room for a second interface */
#define BRUMA_POD_NAME_LEN      128   /* bytes, with the NUL; so is the next */
#define BRUMA_MAX_PODS          4096  /* entries of the maps of pods */
#define BRUMA_MAX_FAILURES      256   /* entries; more than there are reasons */
#define BRUMA_MAX_SANDBOXES     16384 /* entries */
#define BRUMA_IP_LEN            46
#define BRUMA_MAX_PROXY_CGROUPS 64    /* entries */
#define BRUMA_MAX_EXCLUSIONS    65536 /* entries of each of both maps; they take memory as they are needed */
#define BRUMA_RANGE_LEN         52    /* bytes, with the NUL */

/* Of an address of both families, in network order; all zero: none. */
struct bruma_address {
    __u8 bytes[16];
};

/* The key of a slot in the map listeners of a pod. */
enum bruma_listener {
    BRUMA_LISTENER_OUTBOUND = 0,
    BRUMA_LISTENER_INBOUND = 1, /* plaintext from outside, any port but 15008 */
    BRUMA_LISTENER_HBONE = 2,
    BRUMA_LISTENER_COUNT = 3,
};

/* Bits of the field flags below. */
enum bruma_pod_flags {
    BRUMA_POD_CAPTURE_OUTBOUND = 1 << 0, /* new connect() calls are marked */
    BRUMA_POD_CAPTURE_INBOUND = 1 << 1,  /* new connections from outside go to the proxy */
    BRUMA_POD_BYPASS_INBOUND = 1 << 2,   /* but plaintext goes straight to the application */
    /* The pod has no address of that family, so there is no way to any: connect() says so at once. */
    BRUMA_POD_NO_IPV4 = 1 << 3,
    BRUMA_POD_NO_IPV6 = 1 << 4,
    BRUMA_POD_CAPTURE_DNS = 1 << 5,       /* its DNS queries by UDP go to the proxy */
    BRUMA_POD_EXCLUDES_OUTBOUND = 1 << 6, /* what excluded_ranges and excluded_ports have is left alone */
    BRUMA_POD_EXCLUDES_INBOUND = 1 << 7,
    BRUMA_POD_SECOND_SET = 1 << 11, /* their entries with the number 1 count, and not those with 0 */
    /* sysctls of the pod that were on before it was enrolled, and so stay on when it leaves */
    BRUMA_POD_HAD_FWMARK_ACCEPT = 1 << 8,
    BRUMA_POD_HAD_FWMARK_REFLECT4 = 1 << 9,
    BRUMA_POD_HAD_FWMARK_REFLECT6 = 1 << 10,
};

/* The upper half of flags: index of the pod's only device beside lo; 0: there are several. */
#define BRUMA_POD_DEVICE_SHIFT 16
#define BRUMA_POD_DEVICE_MAX   0xffff /* the mask of its bits, and so the greatest index */

/* One pod that is captured; the agent writes it, programs read it. */
struct bruma_pod {
    struct bruma_address addresses[BRUMA_POD_ADDRESSES]; /* unused entries are all zero */
    __u32 flags;                                         /* enum bruma_pod_flags */
    __u32 generation;                                    /* of this enrollment; grows by one each time */
    char pod[BRUMA_POD_NAME_LEN];                        /* "namespace/name", for people */
    char identity[BRUMA_POD_NAME_LEN];                   /* SPIFFE id, for people; cut if longer */
    char ips[BRUMA_POD_ADDRESSES][BRUMA_IP_LEN];         /* addresses, for people */
};

/*
 * The one list of what is counted for each pod, in the order of the pinned map. The programs' counters,
 * `brumactl pods -o json`, `brumactl explain`, the agent's metrics (bruma_pod_NAME_total) and the table of
 * docs/maps.md (docs/pod-counters.sh) are made from it. An entry more is another layout of the map, which
 * does not fit what an older version has pinned.
 *
 * BRUMA_POD_COUNTER(NAME, what)
 */
/* clang-format off */
#define BRUMA_POD_COUNTERS(BRUMA_POD_COUNTER) \
    BRUMA_POD_COUNTER(outbound_captured_connections, "Connections of the pod that were captured in connect().") \
    BRUMA_POD_COUNTER(outbound_passed_connections, "Connections of the pod to loopback or to itself, which are left alone.") \
    BRUMA_POD_COUNTER(outbound_denied_connections, "Connections of the pod that were refused: they could not be captured, or had no route.") \
    BRUMA_POD_COUNTER(outbound_steered_lookups, "Captured connections that were handed to the outbound listener.") \
    BRUMA_POD_COUNTER(inbound_plaintext_lookups, "Connections to the pod that came in plaintext and were handed to the plaintext listener.") \
    BRUMA_POD_COUNTER(inbound_hbone_lookups, "Tunnels to the pod that were handed to the HBONE listener.") \
    BRUMA_POD_COUNTER(inbound_passed_lookups, "Connections to the pod that were left alone: its own, the proxy's deliveries, bypassed ones.") \
    BRUMA_POD_COUNTER(inbound_probe_lookups, "Probes of the kubelet that went straight to the application.") \
    BRUMA_POD_COUNTER(dropped_lookups, "Connections that were dropped for lack of a listener or an entry; the failures say why.")
/* clang-format on */

/* All of them count from the pod's enrollment on; programs add to them at once on all CPUs. */
struct bruma_pod_counters {
#define BRUMA_POD_COUNTER_FIELD(name, what) __u64 name;
    BRUMA_POD_COUNTERS(BRUMA_POD_COUNTER_FIELD)
#undef BRUMA_POD_COUNTER_FIELD
};

/*
 * What a pod excludes from capture, or includes alone. The agent writes a new set of entries beside the one
 * that counts, and then switches by BRUMA_POD_SECOND_SET.
 */
struct bruma_range_key {
    __u32 prefix_length; /* bits of what follows that count: 96, and those of the address */
    __u32 set;           /* 0 or 1 */
    __u64 netns_cookie;
    struct bruma_address address;
};

struct bruma_excluded_range {
    enum bruma_exclusion exclusion;
    char range[BRUMA_RANGE_LEN]; /* for people */
};

struct bruma_port_key {
    __u64 netns_cookie;
    __u32 set;     /* 0 or 1 */
    __u16 port;    /* host order; 0: all that have no entry */
    __u16 inbound; /* 1: of the pod; 0: of destinations */
};

struct bruma_excluded_port {
    enum bruma_exclusion exclusion;
};

/* clang-format off */
/* The one list, as BRUMA_POD_COUNTERS. They have a map of their own, so that the layout of pod_counters stays. */
#define BRUMA_EXCLUSION_COUNTERS(BRUMA_EXCLUSION_COUNTER) \
    BRUMA_EXCLUSION_COUNTER(outbound_excluded_connections, "Connections of the pod that were left alone, because its annotations exclude their destination.") \
    BRUMA_EXCLUSION_COUNTER(inbound_excluded_lookups, "Connections to the pod that were left alone, because its annotations exclude their port.")
/* clang-format on */

struct bruma_exclusion_counters {
#define BRUMA_EXCLUSION_COUNTER_FIELD(name, what) __u64 name;
    BRUMA_EXCLUSION_COUNTERS(BRUMA_EXCLUSION_COUNTER_FIELD)
#undef BRUMA_EXCLUSION_COUNTER_FIELD
};

/* Of one reason on one CPU; the sum is what happened since the map was pinned. */
struct bruma_failure_count {
    __u64 count;
    __u64 last_seen_nanoseconds; /* CLOCK_MONOTONIC */
};

/* Of one socket of the proxy, for its life. */
struct bruma_proxy_socket {
    __u32 exempt; /* 1: connect() of this socket is never captured. Only holders of the map can write it. */
};

/* Every connect() that a process of this cgroup makes in a pod's network namespace is its own business. */
struct bruma_proxy_cgroup {
    __u32 pid; /* of the process that was let in, as the agent sees it */
};

/* The address and port that a probe goes to. */
struct bruma_endpoint {
    struct bruma_address address;
    __u32 port; /* host order */
};

struct bruma_probe_target {
    __u64 netns_cookie; /* the pod that declared the probe */
};

/* While it is closed, pods that nobody has decided about yet are kept off the network. */
struct bruma_guard {
    __u64 closed_until_nanoseconds; /* CLOCK_MONOTONIC; 0: open */
};

enum bruma_sandbox_state {
    BRUMA_SANDBOX_UNDECIDED = 0, /* written in the kernel, when it first refused something */
    BRUMA_SANDBOX_OUTSIDE = 1,   /* not in the mesh: the agent has decided so */
    BRUMA_SANDBOX_NODE = 2,      /* the node's own namespace */
};

/* Of a namespace that is not captured. */
struct bruma_sandbox {
    enum bruma_sandbox_state state;
    __u32 refused_connections;       /* of it and to it, while undecided */
    __u64 first_refused_nanoseconds; /* CLOCK_MONOTONIC; 0: never */
    char pod[BRUMA_POD_NAME_LEN];    /* "namespace/name", for people */
};

/* A connection, seen from the pod. Ports in host order. */
struct bruma_tuple {
    struct bruma_address remote_address;
    struct bruma_address local_address; /* the pod's */
    __u32 remote_port;
    __u32 local_port;
};

/* A probe that is under way. */
struct bruma_probe_tuple {
    __u64 registered_nanoseconds; /* CLOCK_MONOTONIC */
};

/*
 * A connection that the proxy is about to make over the pod's loopback device, to an address that the pod's
 * kernel has and that its network did not name. To the pod's program it looks like one that the pod makes to
 * somebody else.
 */
struct bruma_delivery {
    __u64 netns_cookie;
    struct bruma_tuple tuple;
};

/* When the proxy wrote the entry. */
struct bruma_delivery_made {
    __u64 registered_nanoseconds; /* CLOCK_MONOTONIC */
};

#define BRUMA_DELIVERY_NANOSECONDS \
    30000000000ull /* an older entry is of a connection that is made, or failed */

#endif
