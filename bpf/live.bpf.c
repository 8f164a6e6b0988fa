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
#include "bpf/tcp_device.h"

#define SOL_SOCKET       1
#define SO_BINDTOIFINDEX 62
#define TCP_LISTEN       10

/* What is used of the kernel's structs; the loader finds where it is. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

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
    __u32 device;

    if (!common || common->skc_bound_dev_if || common->skc_state == TCP_LISTEN)
        return 0;
    tcp = bpf_skc_to_tcp_sock(common);
    if (!tcp)
        return 0; /* what is left of a connection, or not one yet */
    /* One that comes by another way than it goes would hear nothing any more. */
    device = tcp_device(tcp);
    if (!device)
        return 0;
    if (bpf_setsockopt(tcp, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device)) == 0)
        bpf_seq_write(ctx->meta->seq, "+", 1);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
