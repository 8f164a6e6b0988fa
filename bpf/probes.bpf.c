/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Registers the kubelet's probes of declared ports: the exact tuple, before the SYN leaves, so that
 * lookup.bpf.c of the pod lets it through to the application. Attached to the kubelet's cgroup; nothing
 * outside the node can forge an entry.
 */
#include "bpf/common.h"
#include "bpf/probe_tuples.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, struct bruma_endpoint);
    __type(value, struct bruma_probe_target);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} probe_targets SEC(".maps");

/* The pod is local and the kubelet remote, as the pod's own program will see it. */
static __always_inline void read_tuple(struct bpf_sock_ops *ctx, struct bruma_tuple *t)
{
    if (ctx->family == AF_INET) {
        address_from_v4(&t->remote_address, READ(ctx->local_ip4));
        address_from_v4(&t->local_address, READ(ctx->remote_ip4));
    } else {
        address_from_words(&t->remote_address, READ(ctx->local_ip6[0]), READ(ctx->local_ip6[1]),
                           READ(ctx->local_ip6[2]), READ(ctx->local_ip6[3]));
        address_from_words(&t->local_address, READ(ctx->remote_ip6[0]), READ(ctx->remote_ip6[1]),
                           READ(ctx->remote_ip6[2]), READ(ctx->remote_ip6[3]));
    }
    t->remote_port = ctx->local_port;
    t->local_port = bpf_ntohl(ctx->remote_port); /* a 32-bit number in network order */
}

SEC("sockops")
int probes(struct bpf_sock_ops *ctx)
{
    struct bruma_probe_tuple value = {};
    struct bruma_endpoint target;
    struct bruma_tuple tuple;

    if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_STATE_CB)
        return 1;
    read_tuple(ctx, &tuple);
    if (ctx->op == BPF_SOCK_OPS_STATE_CB) {
        if (ctx->args[1] == BPF_TCP_CLOSE)
            bpf_map_delete_elem(&probe_tuples, &tuple);
        return 1;
    }
    target.address = tuple.local_address;
    target.port = tuple.local_port;
    /* Only what a pod has declared: a probe may name any other host. */
    if (!bpf_map_lookup_elem(&probe_targets, &target))
        return 1;
    value.registered_nanoseconds = bpf_ktime_get_ns();
    /* Where either fails the probe is an ordinary connection, and policy decides. */
    if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG) ||
        bpf_map_update_elem(&probe_tuples, &tuple, &value, BPF_ANY))
        count_failure(BRUMA_REASON_PROBE_NOT_REGISTERED);
    return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
