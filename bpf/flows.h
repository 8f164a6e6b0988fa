/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a direct connection in the map flows, and the events of which its log line and metrics are
 * made. */
#ifndef BPF_FLOWS_H
#define BPF_FLOWS_H

#include "bpf/direct.h"
#include "bpf/tcp_device.h"

#define ENOSPC 28
#define ESTALE 116

/* Before a connection of the pod is let go. 0, or another number: there is no room, and it is not to be. */
static __always_inline long flow_begin(struct bpf_sock_addr *ctx, const struct bruma_pod *pod, __u64 cookie,
                                       enum bruma_direct_way way, const struct bruma_address *remote,
                                       __u16 port)
{
    struct bruma_flow flow = {.netns_cookie = cookie,
                              .opened_nanoseconds = bpf_ktime_get_ns(),
                              .tuple = {.remote_address = *remote, .remote_port = port},
                              .generation = pod->generation,
                              .way = way,
                              .state = BRUMA_FLOW_CONNECTING};

    return flow_add(bpf_get_socket_cookie(ctx), &flow);
}

/* It does not go directly after all. */
static __always_inline void flow_forget(struct bpf_sock_addr *ctx)
{
    flow_remove(bpf_get_socket_cookie(ctx), bpf_get_netns_cookie(ctx));
}

/* Of a socket whose flow is known from now on: others may have asked for callbacks of their own. */
static __always_inline void flow_follow(struct bpf_sock_ops *ctx)
{
    bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Tells the reader of it, without counts of bytes. */
static __always_inline void flow_event(const struct bruma_flow *flow, __u64 socket,
                                       enum bruma_flow_event_kind kind, __u32 error)
{
    struct bruma_flow_event event = {.flow = *flow,
                                     .socket_cookie = socket,
                                     .now_nanoseconds = bpf_ktime_get_ns(),
                                     .kind = kind,
                                     .error = error};

    flow_tell(&event);
}

/* The SYN is about to leave: source address and port are known. */
static __always_inline void flow_connecting(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    struct bruma_flow *flow;
    __u64 socket;

    /* What goes directly is bound to the pod's device: all else need not be looked for. */
    if (sk->bound_dev_if <= BRUMA_LOOPBACK_IFINDEX)
        return;
    socket = bpf_get_socket_cookie(ctx);
    flow = bpf_map_lookup_elem(&flows, &socket);
    if (!flow)
        return;
    if (address_is_v4(&flow->tuple.remote_address))
        address_from_v4(&flow->tuple.local_address, READ(ctx->local_ip4));
    else
        address_from_words(&flow->tuple.local_address, READ(ctx->local_ip6[0]), READ(ctx->local_ip6[1]),
                           READ(ctx->local_ip6[2]), READ(ctx->local_ip6[3]));
    flow->tuple.local_port = ctx->local_port;
    flow_follow(ctx);
}

/*
 * From now on nothing of the socket leaves the pod, nor what it has sent already and would send again: our
 * mark leads it to lo, where nobody knows it, even if it is bound to a device (for IPv4 there is a route for
 * that). The kernel would not let a mere user's socket be bound to another device, whoever asks.
 */
static __always_inline void flow_cut_off(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    __u32 mark = BRUMA_MARK_CAPTURED, lo = BRUMA_LOOPBACK_IFINDEX;
    long error = bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));

    if (!sk->bound_dev_if)
        error |= bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &lo, sizeof(lo));
    if (error)
        count_failure(BRUMA_REASON_MARK_FAILED);
}

/*
 * 1: what was true when connect() was let go is so no more, or nobody can say so and it was too long ago. A
 * SYN is repeated for minutes, and longer where the application wishes.
 */
static __always_inline int flow_is_late(const struct bruma_flow *flow)
{
    const struct bruma_direct_control *control = direct_control_of();
    struct bruma_direct_pod *entry;
    struct bruma_pod *pod;
    __u64 cookie = flow->netns_cookie, proxy;

    if (!(flow->way & BRUMA_DIRECT_OUTSIDE))
        return 0;
    pod = bpf_map_lookup_elem(&pods, &cookie);
    if (!pod || !(pod->flags & BRUMA_POD_CAPTURE_OUTBOUND))
        return 0; /* it has left the mesh */
    proxy = control ? direct_proxy(control) : 0;
    if (proxy && direct_is_in_mesh(control, proxy, &flow->tuple.remote_address))
        return 1;
    /* The proxy's socket cannot be looked for here; what it has said last is two seconds old at most. */
    if (!proxy || !(control->ways & BRUMA_DIRECT_OUTSIDE) ||
        bpf_ktime_get_ns() >= control->valid_until_nanoseconds)
        return bpf_ktime_get_ns() - flow->opened_nanoseconds >= BRUMA_DIRECT_LATE_NANOSECONDS;
    entry = bpf_map_lookup_elem(&direct_pods, &cookie);
    return entry && entry->proxy == proxy && entry->outside_why == BRUMA_LONG_WAY_REGISTRY_ONLY;
}

/* The other side has answered. 1: it is one of ours. */
static __always_inline int flow_connected(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    struct bruma_flow *flow;
    __u64 socket;
    int late;

    if (sk->bound_dev_if <= BRUMA_LOOPBACK_IFINDEX)
        return 0;
    socket = bpf_get_socket_cookie(ctx);
    flow = bpf_map_lookup_elem(&flows, &socket);
    if (!flow)
        return 0;
    late = flow_is_late(flow);
    if (late)
        flow_cut_off(ctx, sk);
    flow->state = BRUMA_FLOW_ESTABLISHED;
    flow_event(flow, socket, BRUMA_FLOW_OPENED, late ? ESTALE : 0);
    return 1;
}

/* A connection that the pod has accepted past the proxy. 0, or another number: there is no room for it, which
 * is told with ENOSPC, and is all that will be heard of it. */
static __always_inline long flow_accepted(struct bpf_sock_ops *ctx, const struct bruma_pod *pod, __u64 cookie,
                                          enum bruma_direct_way way, const struct bruma_tuple *tuple,
                                          __u32 inbound_changes)
{
    struct bruma_flow flow = {.netns_cookie = cookie,
                              .opened_nanoseconds = bpf_ktime_get_ns(),
                              .tuple = *tuple,
                              .generation = pod->generation,
                              .way = way,
                              .state = BRUMA_FLOW_ESTABLISHED,
                              .inbound_changes = inbound_changes};
    __u64 socket = bpf_get_socket_cookie(ctx);
    /* Of what is only accounted for, no pod needs to have more than others. What was let pass has been
     * asked. */
    long full = way == BRUMA_DIRECT_BYPASS && flows_too_many(cookie) ? -ENOSPC : flow_add(socket, &flow);

    if (!full)
        flow_follow(ctx);
    flow_event(&flow, socket, BRUMA_FLOW_OPENED, full ? ENOSPC : 0);
    return full;
}

/* A connect() that the kernel refuses before anything is sent is heard of no more, until its socket is
 * closed. */
static __always_inline void flow_released(__u64 socket)
{
    struct bruma_flow *flow = bpf_map_lookup_elem(&flows, &socket);

    if (!flow || flow->state != BRUMA_FLOW_CONNECTING)
        return;
    flow_event(flow, socket, BRUMA_FLOW_FAILED, flow->tuple.local_port ? 0 : ENETUNREACH);
    flow_remove(socket, flow->netns_cookie);
}

#define SOCK_DONE_BIT (1ul << 1) /* in skc_flags: a FIN of the other side has been read */

/* The kernel counts the SYN of who connects, and FINs, as bytes. */
static __always_inline void count_bytes(struct tcp_sock *tcp, const struct bruma_flow *flow, int old_state,
                                        struct bruma_flow_event *event)
{
    const struct sock *sk = (const struct sock *)tcp;
    int ended = old_state == BPF_TCP_FIN_WAIT1 || old_state == BPF_TCP_FIN_WAIT2 ||
                old_state == BPF_TCP_CLOSING || old_state == BPF_TCP_LAST_ACK;
    __u64 sent = tcp->bytes_acked, received = tcp->bytes_received;

    if (flow->way & (BRUMA_DIRECT_OUTSIDE | BRUMA_DIRECT_NODE) && sent)
        sent--;
    if (ended && tcp->snd_una == tcp->write_seq && sent)
        sent--;
    if (sk->__sk_common.skc_flags & SOCK_DONE_BIT && received)
        received--;
    event->sent = sent;
    event->received = received;
}

/* Its socket has another state. */
static __always_inline void flow_state(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    int old_state = (int)ctx->args[0];
    struct bruma_flow_event event = {};
    struct bruma_flow *flow;
    struct tcp_sock *tcp;
    __u64 socket;

    if (ctx->args[1] != BPF_TCP_CLOSE)
        return;
    socket = bpf_get_socket_cookie(ctx);
    flow = bpf_map_lookup_elem(&flows, &socket);
    if (!flow)
        return;
    event.flow = *flow;
    event.socket_cookie = socket;
    event.now_nanoseconds = bpf_ktime_get_ns();
    event.kind = flow->state == BRUMA_FLOW_CONNECTING ? BRUMA_FLOW_FAILED : BRUMA_FLOW_CLOSED;
    tcp = bpf_skc_to_tcp_sock(sk);
    if (tcp) {
        event.error = ((struct sock *)tcp)->sk_err;
        if (event.kind == BRUMA_FLOW_CLOSED)
            count_bytes(tcp, flow, old_state, &event);
    }
    flow_tell(&event);
    flow_remove(socket, event.flow.netns_cookie);
}

#endif
