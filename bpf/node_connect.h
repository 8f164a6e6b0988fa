/* SPDX-License-Identifier: Apache-2.0 */
/* In connect(): whether a connection goes directly to another pod of this node, and what it needs. */
#ifndef BPF_NODE_CONNECT_H
#define BPF_NODE_CONNECT_H

#include "bpf/flows.h"
#include "bpf/node.h"

#define NODE_IPV4_LENGTH 16
#define NODE_IPV6_LENGTH 28

/* struct sockaddr_in and sockaddr_in6 */
struct node_ipv4 {
    __u16 family, port;
    __u32 address, zero[2];
};

struct node_ipv6 {
    __u16 family, port;
    __u32 flow;
    struct bruma_address address;
    __u32 scope;
};

/* 1 if they are the same, else 0. */
static __always_inline int node_verdict_equal(const struct bruma_node_verdict *a,
                                              const struct bruma_node_verdict *b)
{
    const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;
    __u64 differs = 0;

#pragma unroll
    for (unsigned i = 0; i < sizeof(*a) / sizeof(*x); i++)
        differs |= x[i] ^ y[i];
    return !differs;
}

/*
 * 1 with *ret, the verdict, if there is one that counts now, else 0. The kernel may use the memory of an
 * entry that is replaced for another one at once, so what was read is asked for a second time.
 */
static __always_inline int node_verdict_of(const struct bruma_node_key *key, struct bruma_node_verdict *ret)
{
    const struct bruma_direct_control *control = direct_control_of();
    struct bruma_node_control *state = node_state();
    struct bruma_node_verdict *v;

    if (!control || !state || !(control->ways & BRUMA_DIRECT_NODE))
        return 0;
    v = bpf_map_lookup_elem(&node_verdicts, key);
    if (!v)
        return 0;
    *ret = *v;
    v = bpf_map_lookup_elem(&node_verdicts, key);
    if (!v || !node_verdict_equal(v, ret))
        return 0;
    return ret->generation ==
               node_generation(state, key->source_cookie, ret->destination_cookie, &key->destination) &&
           bpf_ktime_get_boot_ns() < ret->valid_until_nanoseconds && ret->proxy &&
           ret->proxy == control->proxy && direct_proxy_lives(ret->proxy) &&
           bpf_ktime_get_ns() < control->valid_until_nanoseconds;
}

/* Both pods are captured, in the enrollment that was judged, and have the programs at their devices. Returns
 * the index of the source's device in the pod, or 0. */
static __always_inline __u32 node_pods_fit(const struct bruma_node_verdict *v, const struct bruma_pod *source,
                                           __u64 source_cookie)
{
    __u64 cookie = v->destination_cookie;
    struct bruma_pod *destination = bpf_map_lookup_elem(&pods, &cookie);
    struct bruma_node_device *device;
    const __u32 whole = BRUMA_POD_CAPTURE_OUTBOUND | BRUMA_POD_CAPTURE_INBOUND;

    if (!destination || (destination->flags & whole) != whole || (source->flags & whole) != whole ||
        destination->generation != v->destination_generation || source->generation != v->source_generation ||
        !pod_owns(destination, &v->endpoint) || !pod_owns(source, &v->source))
        return 0;
    if (!bpf_map_lookup_elem(&node_devices, &cookie))
        return 0;
    device = bpf_map_lookup_elem(&node_devices, &source_cookie);
    return device ? device->inner : 0;
}

/* SYNs to there must have a tuple from now on. 0: there is no room to remember that. */
static __always_inline int node_expect(const struct bruma_node_key *asked, const struct bruma_node_verdict *v)
{
    struct bruma_node_key key = {
        .destination = v->endpoint, .source_cookie = asked->source_cookie, .port = v->endpoint_port};
    struct bruma_node_pending *old = bpf_map_lookup_elem(&node_pending, &key), now;

    now.connected_nanoseconds = bpf_ktime_get_ns();
    if (old && now.connected_nanoseconds - old->connected_nanoseconds < BRUMA_NODE_RENEW_NANOSECONDS)
        return 1;
    return !bpf_map_update_elem(&node_pending, &key, &now, BPF_ANY);
}

/* NONE if there is room for one connection more of the pod, else why not. */
static __always_inline enum bruma_long_way node_lacks_room(__u64 cookie)
{
    struct bruma_node_place *place = node_place(bruma_node_place(cookie));
    struct bruma_node_control *state = node_state();
    enum bruma_long_way why = flows_lack_room(cookie);

    if (!why && (!state || state->tuples >= BRUMA_MAX_NODE_TUPLES - BRUMA_NODE_TUPLES_SLACK))
        why = BRUMA_LONG_WAY_TUPLES_FULL;
    if (!why && (!place || place->tuples >= BRUMA_MAX_NODE_TUPLES_OF_POD))
        why = BRUMA_LONG_WAY_POD_TUPLES_FULL;
    if (why)
        node_count(BRUMA_NODE_COUNTER_NO_ROOM);
    return why;
}

/* 1: the socket has the address that was judged; 0: it has not, and takes the long way, as where the
 * application has chosen another one. */
static __always_inline int node_bind_source(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family,
                                            const struct bruma_address *chosen,
                                            const struct bruma_address *source)
{
    struct node_ipv4 v4 = {.family = AF_INET};
    struct node_ipv6 v6 = {.family = AF_INET6};

    if (address_equal(chosen, source))
        return 1;
    if (!address_is_local_host(chosen) || sk->src_port)
        return 0;
    if (family == AF_INET) {
        v4.address = ((const __u32 *)source->bytes)[3];
        return !bpf_bind(ctx, (struct sockaddr *)&v4, NODE_IPV4_LENGTH);
    }
    v6.address = *source;
    return !bpf_bind(ctx, (struct sockaddr *)&v6, NODE_IPV6_LENGTH);
}

/*
 * Returns what is known of the socket if the connection goes directly, and has prepared all for that but the
 * binding to the device; NULL: it takes the long way, and *why says why if it could have gone. family: of the
 * hook. chosen: the source that the socket is bound to, or unspecified.
 */
static __always_inline struct bruma_node_socket *
node_connect(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family, const struct bruma_pod *pod,
             __u64 cookie, const struct bruma_address *destination, __u16 port,
             const struct bruma_address *chosen, enum bruma_long_way *why)
{
    struct bruma_node_key key = {.destination = *destination, .source_cookie = cookie, .port = port};
    struct bruma_node_verdict v = {};
    struct bruma_node_socket *n;
    __u32 device;

    if (!node_verdict_of(&key, &v))
        return NULL;
    device = node_pods_fit(&v, pod, cookie);
    if (!device || (sk->bound_dev_if && sk->bound_dev_if != device))
        return NULL;
    *why = node_lacks_room(cookie);
    if (*why || !node_expect(&key, &v))
        return NULL;
    n = bpf_sk_storage_get(&node_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!n)
        return NULL;
    n->verdict = v;
    n->asked = key;
    n->device = device;
    n->registered = 0;
    n->accepted = 0;
    if (!node_bind_source(ctx, sk, family, chosen, &v.source) ||
        flow_begin(ctx, pod, cookie, BRUMA_DIRECT_NODE, &v.endpoint, (__u16)v.endpoint_port)) {
        bpf_sk_storage_delete(&node_sockets, sk);
        return NULL;
    }
    return n;
}

/* It connects to the endpoint instead of to what the application has named. */
static __always_inline void node_rewrite(struct bpf_sock_addr *ctx, int family,
                                         const struct bruma_node_verdict *v)
{
    const __u32 *words = (const __u32 *)v->endpoint.bytes;

    if (family == AF_INET) {
        ctx->user_ip4 = words[3];
    } else {
        ctx->user_ip6[0] = words[0];
        ctx->user_ip6[1] = words[1];
        ctx->user_ip6[2] = words[2];
        ctx->user_ip6[3] = words[3];
    }
    ctx->user_port = bpf_htons((__u16)v->endpoint_port);
}

/* It takes the long way after all. */
static __always_inline void node_give_up(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
    bpf_sk_storage_delete(&node_sockets, sk);
    flow_forget(ctx);
}

/* What an earlier connect() of the socket has left. */
static __always_inline void node_forget(struct bpf_sock *sk)
{
    if (bpf_sk_storage_get(&node_sockets, sk, 0, 0))
        bpf_sk_storage_delete(&node_sockets, sk);
}

#endif
