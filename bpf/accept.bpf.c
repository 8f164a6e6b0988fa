/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What becomes of sockets of pods after connect(): those that go directly are accounted for (bpf/flows.h),
 * and those that were accepted are bound to a device.
 *
 * Connections that a pod's applications accept are bound to where they come from: what the proxy has
 * delivered to lo, everything else to its device.
 *
 * The proxy delivers under the client's address with a port that it chooses. The same client may choose that
 * port, too, for a connection of its own, before or after. Bound to different devices both may live: neither
 * hears what is meant for the other, and the newer one's SYN does not end in the older one.
 */
#include "bpf/common.h"
#include "bpf/flows.h"
#include "bpf/passive.h"
#include "bpf/tcp_device.h"

static __always_inline void read_tuple(struct bpf_sock_ops *ctx, struct bruma_tuple *t)
{
    if (ctx->family == AF_INET) {
        address_from_v4(&t->remote_address, READ(ctx->remote_ip4));
        address_from_v4(&t->local_address, READ(ctx->local_ip4));
    } else {
        address_from_words(&t->remote_address, READ(ctx->remote_ip6[0]), READ(ctx->remote_ip6[1]),
                           READ(ctx->remote_ip6[2]), READ(ctx->remote_ip6[3]));
        address_from_words(&t->local_address, READ(ctx->local_ip6[0]), READ(ctx->local_ip6[1]),
                           READ(ctx->local_ip6[2]), READ(ctx->local_ip6[3]));
    }
    t->remote_port = bpf_ntohl(READ(ctx->remote_port)); /* network order, unlike local_port */
    t->local_port = ctx->local_port;
}

/* The proxy delivers under a foreign address. An application may have our mark for a call of its own pod,
 * too, which shows the index of its device over lo. */
static __always_inline int is_delivery(struct bpf_sock *sk, const struct bruma_tuple *tuple,
                                       const struct bruma_pod *pod)
{
    return sk->mark == BRUMA_MARK && !address_equal(&tuple->remote_address, &tuple->local_address) &&
           !address_is_local_host(&tuple->remote_address) && !pod_owns(pod, &tuple->remote_address);
}

static __always_inline __u32 device_of(struct bpf_sock *sk)
{
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

    return tcp ? tcp_device(tcp) : 0;
}

static __always_inline void on_accepted(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    __u64 cookie = bpf_get_netns_cookie(ctx);
    struct bruma_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
    struct bruma_tuple tuple = {};
    __u32 device, way;
    long full = 0;

    if (!pod)
        return;
    /* Both sides have called each other. */
    if (flow_connected(ctx, sk))
        return;
    read_tuple(ctx, &tuple);
    way = passive_way(sk, pod, cookie, &tuple);
    if (way)
        full = flow_accepted(ctx, pod, cookie, way, &tuple,
                             way == BRUMA_DIRECT_PASS ? passive_changes(pod, cookie) : 0);
    /* What could not be ended later is cut off from the network now. */
    if (full && way == BRUMA_DIRECT_PASS)
        flow_cut_off(ctx, sk);
    if (sk->bound_dev_if || (full && way == BRUMA_DIRECT_PASS))
        return;
    device = is_delivery(sk, &tuple, pod) ? BRUMA_LOOPBACK_IFINDEX : device_of(sk);
    if (device && bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device)))
        count_failure(BRUMA_REASON_ACCEPTED_NOT_BOUND);
}

SEC("sockops")
int accepted(struct bpf_sock_ops *ctx)
{
    struct bpf_sock *sk;
    __u32 op = ctx->op;

    if (op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
        op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_STATE_CB)
        return 1;
    sk = ctx->sk; /* read once: each read is another pointer to the verifier */
    if (!sk)
        return 1;
    if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
        on_accepted(ctx, sk);
    else if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
        flow_connecting(ctx, sk);
    else if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
        (void)flow_connected(ctx, sk);
    else
        flow_state(ctx, sk);
    return 1;
}

/* The last of its descriptors is closed. */
SEC("cgroup/sock_release")
int released(struct bpf_sock *ctx)
{
    if (ctx->bound_dev_if > BRUMA_LOOPBACK_IFINDEX)
        flow_released(bpf_get_socket_cookie(ctx));
    return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
