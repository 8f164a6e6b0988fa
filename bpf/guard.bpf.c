/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The guard: while it is closed, a pod that is neither captured nor known to belong outside the mesh makes no
 * TCP connection and gets none. It is attached to the pods' cgroup alone, and only for as long as it is
 * closed: right after a boot, at an agent's start, and when the plugin's entry was found missing.
 *
 * A connection of such a pod is refused. One to it is dropped without a word, so that its peer tries again.
 */
#include "bpf/common.h"

#define ETH_P_IP   0x0800
#define ETH_P_IPV6 0x86dd

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bruma_guard);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} guard SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_SANDBOXES);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_sandbox);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} sandboxes SEC(".maps");

static __always_inline int is_closed(void)
{
    __u32 zero = 0;
    struct bruma_guard *g = bpf_map_lookup_elem(&guard, &zero);

    return g && bpf_ktime_get_ns() < g->closed_until_nanoseconds;
}

/* Where there is no room for the note the count of failures still says it. */
static __always_inline void note(__u64 cookie, struct bruma_sandbox *known)
{
    if (known) {
        __sync_fetch_and_add(&known->refused_connections, 1);
    } else {
        struct bruma_sandbox first = {.refused_connections = 1,
                                      .first_refused_nanoseconds = bpf_ktime_get_ns()};

        bpf_map_update_elem(&sandboxes, &cookie, &first, BPF_NOEXIST);
    }
    count_failure(BRUMA_REASON_POD_UNDECIDED);
}

/* Captured, or known to be outside. An entry without outbound capture is a pod that is being enrolled. */
static __always_inline int may_pass(__u64 cookie)
{
    struct bruma_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
    struct bruma_sandbox *sandbox;

    if (pod && (pod->flags & BRUMA_POD_CAPTURE_OUTBOUND))
        return 1;
    sandbox = bpf_map_lookup_elem(&sandboxes, &cookie);
    if (sandbox && sandbox->state != BRUMA_SANDBOX_UNDECIDED)
        return 1;
    note(cookie, sandbox);
    return 0;
}

static __always_inline int connect(struct bpf_sock_addr *ctx, const struct bruma_address *destination)
{
    if (ctx->protocol != IPPROTO_TCP || address_is_local_host(destination) || !is_closed() ||
        may_pass(bpf_get_netns_cookie(ctx)))
        return 1;
    bpf_set_retval(-ECONNREFUSED);
    return 0;
}

SEC("cgroup/connect4")
int guard4(struct bpf_sock_addr *ctx)
{
    struct bruma_address destination;

    address_from_v4(&destination, ctx->user_ip4);
    return connect(ctx, &destination);
}

SEC("cgroup/connect6")
int guard6(struct bpf_sock_addr *ctx)
{
    struct bruma_address destination;

    address_from_words(&destination, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
    return connect(ctx, &destination);
}

/* The first packet of a TCP connection, from another machine or namespace. A SYN behind extension headers of
 * IPv6 is something that no TCP stack sends. */
static __always_inline int is_opening(struct __sk_buff *skb)
{
    __u8 first = 0, protocol = 0, flags = 0;
    __u32 offset = 40;

    if (skb->ifindex == BRUMA_LOOPBACK_IFINDEX)
        return 0;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (bpf_skb_load_bytes(skb, 0, &first, 1) || bpf_skb_load_bytes(skb, 9, &protocol, 1))
            return 0;
        offset = (first & 0xf) * 4;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (bpf_skb_load_bytes(skb, 6, &protocol, 1))
            return 0;
    } else {
        return 0;
    }
    if (protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, offset + 13, &flags, 1))
        return 0;
    return (flags & 0x12) == 0x02; /* SYN without ACK */
}

/* Kernels before 6.15 do not tell such a program which namespace it is in; it is left out there. */
SEC("cgroup_skb/ingress")
int guard_inbound(struct __sk_buff *skb)
{
    return !is_opening(skb) || !is_closed() || may_pass(bpf_get_netns_cookie(skb));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
