/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * An iterator over the TCP sockets of a running pod, for the moment when it is enrolled: connections that
 * live are bound to the device by which they come and go.
 *
 * From then on the proxy delivers to the application over lo, under the clients' addresses and with ports
 * that the kernel chooses. It would choose one that the same client has a connection of before with, for that
 * is the application's own and is bound to no device; what is delivered would then find the older connection,
 * and hang.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "bruma/mesh.h"

#define SOL_SOCKET       1
#define SO_BINDTOIFINDEX 62
#define TCP_LISTEN       10

/* What is used of the kernel's structs; the loader finds where it is. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock_common {
    volatile unsigned char skc_state;
    int skc_bound_dev_if;
};

struct net_device {
    int ifindex;
};

struct dst_entry {
    struct net_device *dev;
};

struct sock {
    struct sock_common __sk_common;
    struct dst_entry *sk_dst_cache;
    int sk_rx_dst_ifindex;
};

struct tcp_sock;
struct bpf_iter_meta;
struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
};

struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    struct sock_common *sk_common;
};

#pragma clang attribute pop

/* One byte of output for each socket that was bound. */
SEC("iter/tcp")
int bind_live(struct bpf_iter__tcp *ctx)
{
    struct sock_common *common = ctx->sk_common;
    struct tcp_sock *tcp;
    struct dst_entry *way;
    struct sock *sk;
    int device;

    if (!common || common->skc_bound_dev_if || common->skc_state == TCP_LISTEN)
        return 0;
    tcp = bpf_skc_to_tcp_sock(common);
    if (!tcp)
        return 0; /* what is left of a connection, or not one yet */
    sk = (struct sock *)tcp;
    way = sk->sk_dst_cache;
    if (!way || !way->dev)
        return 0;
    device = way->dev->ifindex;
    /* One that comes by another way than it goes would hear nothing any more. */
    if (device == BRUMA_LOOPBACK_IFINDEX || device != sk->sk_rx_dst_ifindex)
        return 0;
    if (bpf_setsockopt(tcp, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device)) == 0)
        bpf_seq_write(ctx->meta->seq, "+", 1);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
