/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Connections that a pod's applications accept are bound to where they come from: what the proxy has
 * delivered to lo, everything else to its device.
 *
 * The proxy delivers under the client's address with a port that it chooses. The same client may choose that
 * port, too, for a connection of its own, before or after. Bound to different devices both may live: neither
 * hears what is meant for the other, and the newer one's SYN does not end in the older one.
 */
#include "bpf/common.h"
#include "bpf/tcp_device.h"

/* The proxy delivers under a foreign address. An application may have our mark for a call of its own pod,
 * too, which shows the index of its device over lo. */
static __always_inline int is_delivery(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
                                       const struct bruma_pod *pod)
{
    struct bruma_address remote, local;

    if (sk->mark != BRUMA_MARK)
        return 0;
    if (ctx->family == AF_INET) {
        address_from_v4(&remote, READ(ctx->remote_ip4));
        address_from_v4(&local, READ(ctx->local_ip4));
    } else {
        address_from_words(&remote, READ(ctx->remote_ip6[0]), READ(ctx->remote_ip6[1]),
                           READ(ctx->remote_ip6[2]), READ(ctx->remote_ip6[3]));
        address_from_words(&local, READ(ctx->local_ip6[0]), READ(ctx->local_ip6[1]), READ(ctx->local_ip6[2]),
                           READ(ctx->local_ip6[3]));
    }
    return !address_equal(&remote, &local) && !address_is_local_host(&remote) && !pod_owns(pod, &remote);
}

static __always_inline __u32 device_of(struct bpf_sock *sk)
{
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

    return tcp ? tcp_device(tcp) : 0;
}

SEC("sockops")
int accepted(struct bpf_sock_ops *ctx)
{
    struct bruma_pod *pod;
    struct bpf_sock *sk;
    __u32 device;
    __u64 cookie;

    if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
        return 1;
    cookie = bpf_get_netns_cookie(ctx);
    pod = bpf_map_lookup_elem(&pods, &cookie);
    if (!pod)
        return 1;
    sk = ctx->sk;
    if (!sk || sk->bound_dev_if)
        return 1;
    device = is_delivery(ctx, sk, pod) ? BRUMA_LOOPBACK_IFINDEX : device_of(sk);
    if (device && bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device)))
        count_failure(BRUMA_REASON_ACCEPTED_NOT_BOUND);
    return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
