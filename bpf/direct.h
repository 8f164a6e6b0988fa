/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that need no proxy: the maps of bruma/direct.h, and what all ways ask before they are taken. */
#ifndef BPF_DIRECT_H
#define BPF_DIRECT_H

#include "bpf/common.h"
#include "bruma/direct.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct bruma_direct_control);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} direct_control SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_SOCKHASH);
    __uint(max_entries, BRUMA_MAX_DIRECT_PROXIES);
    __type(key, __u64); /* proxy */
    __type(value, __u64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} direct_proxies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_direct_pod);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} direct_pods SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_direct_counters);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} direct_counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_MESH_ADDRESSES);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct bruma_mesh_key);
    __type(value, struct bruma_mesh_objects);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_addresses SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, BRUMA_MAX_MESH_PREFIXES);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct bruma_mesh_prefix);
    __type(value, struct bruma_mesh_objects);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_prefixes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_FLOWS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64); /* socket cookie */
    __type(value, struct bruma_flow);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, BRUMA_FLOW_RING);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} flow_events SEC(".maps");

/* When flows had no room the last time. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64); /* CLOCK_MONOTONIC nanoseconds; 0: never */
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} flows_full SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_flow_count);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} flow_counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bruma_flow_count);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} flow_totals SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bruma_flow_limits);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} flow_limits SEC(".maps");

/* Refusals of a pod: of many in a moment not each has an event, but all are told of in the end. */
struct refusals {
    struct bpf_spin_lock lock; /* of all but the timer */
    __u32 told, untold;        /* told: since since_nanoseconds */
    __u64 since_nanoseconds;   /* CLOCK_MONOTONIC */
    struct bruma_tuple tuple;  /* of the last one that is untold */
    __u32 generation, unused;
    struct bpf_timer timer; /* tells of those that are untold */
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64); /* netns cookie */
    __type(value, struct refusals);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} flow_refusals SEC(".maps");

/* A connection has what its listener has. */
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
    __type(key, int);
    __type(value, struct bruma_listener_socket);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} listener_sockets SEC(".maps");

#define FLOWS_FULL_NANOSECONDS 1000000000ull

/* The map's only entry, valid for as long as the program runs; never NULL, but the verifier does not know. */
static __always_inline struct bruma_direct_control *direct_control_of(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&direct_control, &zero);
}

/* Who is in charge now, or 0. */
static __always_inline __u64 direct_proxy(const struct bruma_direct_control *control)
{
    return *(const volatile __u64 *)&control->proxy;
}

/* One more that takes the long way; counts: 32, by reason, or NULL. */
static __always_inline void count_long_way(__u64 *counts, enum bruma_long_way why)
{
    if (counts && why < 32)
        __sync_fetch_and_add(&counts[why], 1);
}

/* 1 if the process still holds its socket, else 0. */
static __always_inline int direct_proxy_lives(__u64 proxy)
{
    struct bpf_sock *sk = bpf_map_lookup_elem(&direct_proxies, &proxy);

    if (!sk)
        return 0;
    bpf_sk_release(sk);
    return 1;
}

/*
 * Whether a connection of the pod may go one of these ways, as far as that does not depend on the connection
 * itself. Returns NONE with *ret, which has one of them, or why not. Who is not sure takes the long way.
 * proxy is control->proxy, read once by the caller.
 */
static __always_inline enum bruma_long_way direct_ask(const struct bruma_direct_control *control, __u64 proxy,
                                                      const struct bruma_pod *pod, __u64 cookie, __u32 ways,
                                                      struct bruma_direct_pod **ret)
{
    struct bruma_direct_pod *entry;
    __u32 why = ways & BRUMA_DIRECT_OUTSIDE ? BRUMA_LONG_WAY_POD_UNKNOWN : BRUMA_LONG_WAY_POLICY_DEPENDS;

    if (!proxy)
        return control->why ? control->why : BRUMA_LONG_WAY_NO_PROXY;
    if (!direct_proxy_lives(proxy))
        return BRUMA_LONG_WAY_PROXY_GONE;
    if (bpf_ktime_get_ns() >= control->valid_until_nanoseconds)
        return BRUMA_LONG_WAY_PROXY_SILENT;
    if (!(control->ways & ways))
        return control->why ? control->why : BRUMA_LONG_WAY_SWITCHED_OFF;
    entry = bpf_map_lookup_elem(&direct_pods, &cookie);
    if (!entry || entry->proxy != proxy || entry->generation != pod->generation)
        return BRUMA_LONG_WAY_POD_UNKNOWN;
    if (!(entry->ways & control->ways & ways)) {
        if (entry->ways & ways)
            return control->why ? control->why : BRUMA_LONG_WAY_SWITCHED_OFF;
        if (ways & BRUMA_DIRECT_OUTSIDE && entry->outside_why)
            why = entry->outside_why;
        if (!(ways & BRUMA_DIRECT_OUTSIDE) && entry->inbound_why)
            why = entry->inbound_why;
        return why;
    }
    *ret = entry;
    return BRUMA_LONG_WAY_NONE;
}

/* 1 if what was read of the entry was the pod's, else 0: one that was replaced may be used again for another
 * pod at once. */
static __always_inline int direct_entry_stands(__u64 cookie, const struct bruma_direct_pod *entry)
{
    asm volatile("" ::: "memory");
    return bpf_map_lookup_elem(&direct_pods, &cookie) == entry;
}

/* 1 if the address is not to be dialed past the proxy, else 0. */
static __always_inline int direct_is_in_mesh(const struct bruma_direct_control *control, __u64 proxy,
                                             const struct bruma_address *address)
{
    struct bruma_mesh_key key = {.address = *address, .proxy = proxy};
    struct bruma_mesh_prefix prefix = {.prefix_length = 8 * (sizeof(prefix) - sizeof(prefix.prefix_length)),
                                       .proxy = proxy,
                                       .address = *address};

    return bpf_map_lookup_elem(&mesh_addresses, &key) ||
           (control->prefixes && bpf_map_lookup_elem(&mesh_prefixes, &prefix));
}

/* 1 if fewer live than may. More may have ended than began where somebody else has written to the map. */
static __always_inline int fewer_live(const struct bruma_flow_count *count, __u64 may)
{
    return (__s64)(count->begun - count->ended) < (__s64)may;
}

/* NONE if there may be one more of the pod, or why not. */
static __always_inline enum bruma_long_way flows_too_many(__u64 cookie)
{
    __u32 zero = 0;
    struct bruma_flow_count *total = bpf_map_lookup_elem(&flow_totals, &zero), *pod;
    struct bruma_flow_limits *limits = bpf_map_lookup_elem(&flow_limits, &zero);

    if (!total || !limits || !fewer_live(total, limits->all))
        return BRUMA_LONG_WAY_FLOWS_FULL;
    pod = bpf_map_lookup_elem(&flow_counts, &cookie);
    return pod && fewer_live(pod, limits->pod) ? BRUMA_LONG_WAY_NONE : BRUMA_LONG_WAY_POD_FLOWS_FULL;
}

/* The same for one that is added to flows only later: there must have been room up to now. */
static __always_inline enum bruma_long_way flows_lack_room(__u64 cookie)
{
    __u32 zero = 0;
    __u64 *full = bpf_map_lookup_elem(&flows_full, &zero);

    if (!full || (*full && bpf_ktime_get_ns() - *full < FLOWS_FULL_NANOSECONDS))
        return BRUMA_LONG_WAY_FLOWS_FULL;
    return flows_too_many(cookie);
}

/* The count of all pods together, an entry of the map, which stays. NULL: never, but the verifier does not
 * know. */
static __always_inline struct bruma_flow_count *flow_total(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&flow_totals, &zero);
}

/* From now on the connection is accounted for. 0, or another number: there is no room. */
static __always_inline long flow_add(__u64 socket, const struct bruma_flow *flow)
{
    struct bruma_flow_count *pod;
    __u32 zero = 0;
    __u64 *full;
    long r = bpf_map_update_elem(&flows, &socket, flow, BPF_NOEXIST);

    if (!r) {
        pod = bpf_map_lookup_elem(&flow_counts, &flow->netns_cookie);
        COUNT(pod, begun);
        COUNT(flow_total(), begun);
        return 0;
    }
    if (r == -EEXIST) /* of an earlier connect() of the socket, whose end nobody has noticed */
        r = bpf_map_update_elem(&flows, &socket, flow, BPF_EXIST);
    if (r) {
        full = bpf_map_lookup_elem(&flows_full, &zero);
        if (full)
            *full = bpf_ktime_get_ns();
    }
    return r;
}

/* It is no more; nothing if it was not. cookie: of the netns. */
static __always_inline void flow_remove(__u64 socket, __u64 cookie)
{
    struct bruma_flow_count *pod;

    if (bpf_map_delete_elem(&flows, &socket))
        return;
    pod = bpf_map_lookup_elem(&flow_counts, &cookie);
    COUNT(pod, ended);
    COUNT(flow_total(), ended);
}

/* Sends the event to the reader. One that finds no room in the ring is counted, for the
 * reader and for the pod. */
static __always_inline void flow_tell(const struct bruma_flow_event *event)
{
    struct bruma_direct_control *control = direct_control_of();
    struct bruma_direct_counters *counters;
    __u64 flags = 0;

    /* A reader that comes by itself need not be woken, until there is a reason to hurry. */
    if (control && control->polling)
        flags = bpf_ringbuf_query(&flow_events, BPF_RB_AVAIL_DATA) > BRUMA_FLOW_RING / 4 ? BPF_RB_FORCE_WAKEUP
                                                                                         : BPF_RB_NO_WAKEUP;
    if (!bpf_ringbuf_output(&flow_events, (void *)event, sizeof(*event), flags))
        return;
    COUNT(control, lost_events);
    counters = bpf_map_lookup_elem(&direct_counters, &event->flow.netns_cookie);
    COUNT(counters, direct_lost_events);
}

#endif
