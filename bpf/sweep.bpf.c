/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An iterator over the TCP sockets of a pod, which says which of them have an entry in flows. The others' are
 * left over: somebody has taken the callbacks away by which their end would have been noticed, or connect()
 * had failed before anything was sent, in a socket that the kernel has made for itself (MPTCP).
 *
 * And a program that removes one's entry, counted as all others are.
 */
#include "bpf/direct.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;
struct sock_common;

struct bpf_iter_meta {
    struct seq_file *seq;
};

struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    struct sock_common *sk_common;
};

#pragma clang attribute pop

/* Eight bytes of output for each: the socket's cookie. */
SEC("iter/tcp")
int live_flows(struct bpf_iter__tcp *ctx)
{
    struct sock_common *common = ctx->sk_common;
    __u64 socket;

    if (!common)
        return 0;
    socket = bpf_get_socket_cookie(common);
    if (bpf_map_lookup_elem(&flows, &socket))
        bpf_seq_write(ctx->meta->seq, &socket, sizeof(socket));
    return 0;
}

/* What the agent says by BPF_PROG_TEST_RUN: the entry of this socket goes, and is counted as ended. */
struct forgotten {
    __u64 socket;
};

SEC("syscall")
int forget_flow(struct forgotten *ctx)
{
    __u64 socket = ctx->socket;
    struct bruma_flow *flow = bpf_map_lookup_elem(&flows, &socket);

    if (!flow)
        return 0;
    flow_remove(socket, flow->netns_cookie);
    return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
