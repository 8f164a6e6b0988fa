/* SPDX-License-Identifier: Apache-2.0 */
/* What pods exclude from capture, which both programs that capture ask for. */
#ifndef BPF_EXCLUSIONS_H
#define BPF_EXCLUSIONS_H

#include "bpf/common.h"

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, BRUMA_MAX_EXCLUSIONS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct bruma_range_key);
    __type(value, struct bruma_excluded_range);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} excluded_ranges SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_EXCLUSIONS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct bruma_port_key);
    __type(value, struct bruma_excluded_port);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} excluded_ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_exclusion_counters);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} exclusion_counters SEC(".maps");

#define BRUMA_RANGE_BITS (8 * (sizeof(struct bruma_range_key) - sizeof(__u32)))

/* The number of the entries that count. */
static __always_inline __u32 exclusion_set(const struct bruma_pod *pod)
{
    return pod->flags & BRUMA_POD_SECOND_SET ? 1 : 0;
}

/* NONE: there is no entry for the port. */
static __always_inline enum bruma_exclusion port_exclusion(const struct bruma_pod *pod, __u64 cookie,
                                                           __u16 port, __u16 inbound)
{
    struct bruma_port_key key = {
        .netns_cookie = cookie, .set = exclusion_set(pod), .port = port, .inbound = inbound};
    struct bruma_excluded_port *found = bpf_map_lookup_elem(&excluded_ports, &key);

    return found ? found->exclusion : BRUMA_EXCLUSION_NONE;
}

/* 1: the destination is not to be captured. What the mesh knows only the proxy knows. */
static __always_inline int is_excluded_outbound(const struct bruma_pod *pod, __u64 cookie,
                                                const struct bruma_address *destination, __u16 port)
{
    struct bruma_range_key key = {
        .prefix_length = BRUMA_RANGE_BITS, .set = exclusion_set(pod), .netns_cookie = cookie};
    struct bruma_exclusion_counters *counters;
    struct bruma_excluded_range *range;

    if (!(pod->flags & BRUMA_POD_EXCLUDES_OUTBOUND))
        return 0;
    key.address = *destination;
    range = bpf_map_lookup_elem(&excluded_ranges, &key);
    if (bruma_outbound_decide(range ? range->exclusion : BRUMA_EXCLUSION_NONE,
                              port_exclusion(pod, cookie, port, 0), 1, 0) != BRUMA_OUTBOUND_EXCLUDED)
        return 0;
    counters = bpf_map_lookup_elem(&exclusion_counters, &cookie);
    COUNT(counters, outbound_excluded_connections);
    return 1;
}

/* 1: connections from outside to that port go straight to the application; else 0. */
static __always_inline int excludes_inbound(const struct bruma_pod *pod, __u64 cookie, __u16 port)
{
    enum bruma_exclusion exclusion;

    if (!(pod->flags & BRUMA_POD_EXCLUDES_INBOUND))
        return 0;
    exclusion = port_exclusion(pod, cookie, port, 1);
    if (exclusion == BRUMA_EXCLUSION_NONE)
        exclusion = port_exclusion(pod, cookie, 0, 1);
    return exclusion == BRUMA_EXCLUDED;
}

/* 1 as above, and then it is counted; else 0. */
static __always_inline int is_excluded_inbound(const struct bruma_pod *pod, __u64 cookie, __u16 port)
{
    struct bruma_exclusion_counters *counters;

    if (!excludes_inbound(pod, cookie, port))
        return 0;
    counters = bpf_map_lookup_elem(&exclusion_counters, &cookie);
    COUNT(counters, inbound_excluded_lookups);
    return 1;
}

#endif
