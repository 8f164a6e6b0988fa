/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Connections of two pods of this node that stay in the kernel. At the ends of the pods' devices that are in
 * the node's namespace, where no pod can do anything about it, `from_pod` takes their packets into the other
 * pod's namespace, past bridges and routes of the node, and `to_pod` drops what comes with their addresses
 * and ports by another way. `node_sockets_changed` writes and ends the tuples by which both know them.
 *
 * What is at stake: the destination takes the SYN of a tuple for one that its policies allow. Who can send it
 * by another way speaks for somebody else.
 */
#include "bpf/node.h"
#include "bpf/exclusions.h"

#define ETH_P_IP     0x0800
#define ETH_P_IPV6   0x86dd
#define ETH_P_8021Q  0x8100
#define ETH_P_8021AD 0x88a8
#define ETH_LENGTH   14

#define PACKET_HOST         0
#define TC_ACT_NEXT         (-1) /* to the next program, and then as ever */
#define TC_ACT_DROP         2
#define SOL_TCP             6
#define TCP_SYNCNT          7
#define TCP_FLAG_SYN        0x02
#define TCP_FLAG_RST        0x04
#define TCP_FLAG_ACK        0x10
#define TAGS                4 /* of VLANs that are looked through */
#define IPV6_HEADERS        8 /* extension headers that are looked through */
#define IPV4_MORE           0x2000
#define IPV4_OFFSET         0x1fff
#define IPV6_OFFSET         0xfff8
#define NEXT_HOP            0
#define NEXT_ROUTING        43
#define NEXT_FRAGMENT       44
#define NEXT_AUTHENTICATION 51
#define NEXT_OPTIONS        60
#define TCP_CLOSE           7

volatile const __u64 netns_cookie; /* of the pod that this instance of from_pod and to_pod is of */

struct ipv4_header {
    __u8 version_length, tos;
    __u16 length, id, fragment;
    __u8 ttl, protocol;
    __u16 checksum;
    __u32 source, destination;
};

struct ipv6_header {
    __u32 version;
    __u16 length;
    __u8 next, hops;
    __u32 source[4], destination[4];
};

struct tcp_header {
    __u16 source, destination;
    __u32 sequence, acknowledged;
    __u8 offset, flags;
};

/* ---- packets ---- */

enum kind {
    OTHER,     /* no TCP, or a later fragment, which is nothing without the first */
    SEGMENT,   /* of TCP, or the first fragment of one */
    UNREADABLE /* it may be one, behind more headers than are looked through */
};

struct segment {
    struct bruma_tuple tuple; /* remote: who sends it */
    __u8 flags;               /* 0 where a fragment is too short for them */
    __u8 odd; /* 1: a fragment, or with the tag of a VLAN: no connection of a pod sends such */
};

struct tag {
    __u16 what, protocol;
};

struct ipv6_extension {
    __u8 next, length;
    __u16 offset; /* of a fragment */
};

/* The ports are in the first fragment, however short: fragments have at least 8 bytes, and the kernel takes
 * none that overlap. */
static __always_inline enum kind read_tcp(struct __sk_buff *skb, __u32 offset, struct segment *s)
{
    struct tcp_header tcp = {};

    if (!bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
        s->flags = tcp.flags;
    else if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(__u16) * 2))
        return s->odd ? UNREADABLE : OTHER;
    s->tuple.remote_port = bpf_ntohs(tcp.source);
    s->tuple.local_port = bpf_ntohs(tcp.destination);
    return SEGMENT;
}

static __always_inline int is_extension(__u8 next)
{
    return next == NEXT_HOP || next == NEXT_ROUTING || next == NEXT_OPTIONS || next == NEXT_FRAGMENT ||
           next == NEXT_AUTHENTICATION;
}

static __always_inline enum kind read_ipv6(struct __sk_buff *skb, __u32 offset, struct segment *s)
{
    struct ipv6_extension extension;
    struct ipv6_header ip;
    __u8 next;

    if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
        return OTHER;
    next = ip.next;
    offset += sizeof(ip);
    for (int i = 0; i < IPV6_HEADERS && is_extension(next); i++) {
        if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
            return UNREADABLE;
        if (next == NEXT_FRAGMENT) {
            if (extension.offset & bpf_htons(IPV6_OFFSET))
                return OTHER;
            s->odd = 1;
            offset += 8;
        } else if (next == NEXT_AUTHENTICATION) {
            offset += ((__u32)extension.length + 2) * 4;
        } else {
            offset += ((__u32)extension.length + 1) * 8;
        }
        next = extension.next;
    }
    if (next != IPPROTO_TCP)
        return is_extension(next) ? UNREADABLE : OTHER;
    address_from_words(&s->tuple.remote_address, ip.source[0], ip.source[1], ip.source[2], ip.source[3]);
    address_from_words(&s->tuple.local_address, ip.destination[0], ip.destination[1], ip.destination[2],
                       ip.destination[3]);
    return read_tcp(skb, offset, s);
}

static __always_inline enum kind read_ipv4(struct __sk_buff *skb, __u32 offset, struct segment *s)
{
    struct ipv4_header ip;

    if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP ||
        ip.fragment & bpf_htons(IPV4_OFFSET))
        return OTHER;
    if (ip.fragment & bpf_htons(IPV4_MORE))
        s->odd = 1;
    address_from_v4(&s->tuple.remote_address, ip.source);
    address_from_v4(&s->tuple.local_address, ip.destination);
    return read_tcp(skb, offset + (ip.version_length & 0xf) * 4, s);
}

/* Who receives it looks through tags of VLAN 0, however many there are. */
static __always_inline enum kind read_segment(struct __sk_buff *skb, struct segment *s)
{
    __u16 protocol = (__u16)skb->protocol;
    __u32 offset = ETH_LENGTH;
    struct tag tag;

    s->odd = skb->vlan_present != 0;
    for (int i = 0; i < TAGS && (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD));
         i++) {
        if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
            return OTHER;
        s->odd = 1;
        protocol = tag.protocol;
        offset += sizeof(tag);
    }
    if (protocol == bpf_htons(ETH_P_IP))
        return read_ipv4(skb, offset, s);
    if (protocol == bpf_htons(ETH_P_IPV6))
        return read_ipv6(skb, offset, s);
    return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD) ? UNREADABLE : OTHER;
}

static __always_inline void turn(const struct bruma_tuple *from, struct bruma_tuple *to)
{
    to->remote_address = from->local_address;
    to->local_address = from->remote_address;
    to->remote_port = from->local_port;
    to->local_port = from->remote_port;
}

/* Another machine's name for the destination may be in the frame, as somebody has told the pod; where it goes
 * is not asked of it. */
static __always_inline int bring(struct __sk_buff *skb, __u32 device)
{
    if (skb->pkt_type != PACKET_HOST && bpf_skb_change_type(skb, PACKET_HOST))
        return TC_ACT_DROP;
    return (int)bpf_redirect_peer(device, 0);
}

static __always_inline int forged(void)
{
    node_count(BRUMA_NODE_COUNTER_FORGED);
    return TC_ACT_DROP;
}

/*
 * A SYN to where a connection has been let go directly a moment ago, and which no tuple knows: there was none
 * to be had for it. It must not go on in plaintext. What the pod does not have captured is its own business.
 */
static __always_inline int is_unregistered(const struct segment *s)
{
    struct bruma_node_key key = {
        .destination = s->tuple.local_address, .source_cookie = netns_cookie, .port = s->tuple.local_port};
    struct bruma_node_pending *pending;
    __u64 cookie = netns_cookie;
    struct bruma_pod *pod;

    if ((s->flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) != TCP_FLAG_SYN)
        return 0;
    pending = bpf_map_lookup_elem(&node_pending, &key);
    if (!pending || bpf_ktime_get_ns() - pending->connected_nanoseconds > BRUMA_NODE_PENDING_NANOSECONDS)
        return 0;
    pod = bpf_map_lookup_elem(&pods, &cookie);
    return pod && pod->flags & BRUMA_POD_CAPTURE_OUTBOUND &&
           !is_excluded_outbound(pod, cookie, &s->tuple.local_address, (__u16)s->tuple.local_port);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
    struct segment s = {};
    struct bruma_node_tuple *t;
    struct bruma_tuple back;

    if (read_segment(skb, &s) != SEGMENT)
        return TC_ACT_NEXT;
    t = bpf_map_lookup_elem(&node_tuples, &s.tuple);
    if (t) {
        if (t->source_cookie != netns_cookie || s.odd)
            return forged();
        if (!t->accepted_cookie)
            node_arrives(&s.tuple);
        return bring(skb, t->destination_device);
    }
    turn(&s.tuple, &back);
    t = bpf_map_lookup_elem(&node_tuples, &back);
    if (t) {
        if (t->destination_cookie != netns_cookie || s.odd)
            return forged();
        if (s.flags & TCP_FLAG_RST && !t->accepted_cookie)
            t->refused = 1;
        return bring(skb, t->source_device);
    }
    if (is_unregistered(&s)) {
        node_count(BRUMA_NODE_COUNTER_UNREGISTERED);
        return TC_ACT_DROP;
    }
    return TC_ACT_NEXT;
}

/* Packets that were brought do not come by here. */
SEC("tc")
int to_pod(struct __sk_buff *skb)
{
    struct segment s = {};
    struct bruma_tuple back;

    switch (read_segment(skb, &s)) {
    case UNREADABLE:
        return forged();
    case OTHER:
        return TC_ACT_NEXT;
    default:
        break;
    }
    turn(&s.tuple, &back);
    return bpf_map_lookup_elem(&node_tuples, &s.tuple) || bpf_map_lookup_elem(&node_tuples, &back)
               ? forged()
               : TC_ACT_NEXT;
}

/* ---- sockets ---- */

static __always_inline void tuple_of(struct bpf_sock_ops *ctx, int accepted, struct bruma_tuple *t)
{
    struct bruma_address remote, local;
    __u32 remote_port = bpf_ntohl(READ(ctx->remote_port)), local_port = READ(ctx->local_port);

    if (ctx->family == AF_INET) {
        address_from_v4(&remote, READ(ctx->remote_ip4));
        address_from_v4(&local, READ(ctx->local_ip4));
    } else {
        address_from_words(&remote, READ(ctx->remote_ip6[0]), READ(ctx->remote_ip6[1]),
                           READ(ctx->remote_ip6[2]), READ(ctx->remote_ip6[3]));
        address_from_words(&local, READ(ctx->local_ip6[0]), READ(ctx->local_ip6[1]), READ(ctx->local_ip6[2]),
                           READ(ctx->local_ip6[3]));
    }
    t->remote_address = accepted ? remote : local;
    t->local_address = accepted ? local : remote;
    t->remote_port = accepted ? remote_port : local_port;
    t->local_port = accepted ? local_port : remote_port;
}

static __always_inline void watch(struct bpf_sock_ops *ctx)
{
    bpf_sock_ops_cb_flags_set(ctx, (int)ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void remove_tuple(const struct bruma_tuple *tuple, __u64 source_cookie)
{
    if (!bpf_map_delete_elem(&node_tuples, tuple))
        node_count_tuple(source_cookie, -1);
}

/* It is not registered, so its SYN is to be dropped at the device, and need not be sent for minutes.
 * connect() may be long ago: with TCP_FASTOPEN_CONNECT the SYN is sent with the first data. */
static __always_inline void give_up(struct bpf_sock_ops *ctx, const struct bruma_node_socket *n)
{
    struct bruma_node_key key = {.destination = n->verdict.endpoint,
                                 .source_cookie = n->asked.source_cookie,
                                 .port = n->verdict.endpoint_port};
    struct bruma_node_pending now = {.connected_nanoseconds = bpf_ktime_get_ns()};
    int once = 1;

    bpf_map_update_elem(&node_pending, &key, &now, BPF_ANY);
    node_count(BRUMA_NODE_COUNTER_VOID);
    bpf_setsockopt(ctx, SOL_TCP, TCP_SYNCNT, &once, sizeof(once));
}

/* What another pod with the same address has left must not become this one's: its end at the destination may
 * live. */
static __always_inline int is_of_same_pods(const struct bruma_tuple *tuple, const struct bruma_node_tuple *t)
{
    struct bruma_node_tuple *before = bpf_map_lookup_elem(&node_tuples, tuple);

    return before && before->source_cookie == t->source_cookie &&
           before->destination_cookie == t->destination_cookie;
}

/* The SYN is about to be sent, and the source's address and port are chosen. */
static __always_inline void connecting(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
                                       struct bruma_node_socket *n)
{
    struct bruma_node_tuple value = {};
    struct bruma_node_device *source, *destination;
    struct bruma_node_control *control = node_state();
    struct bruma_node_verdict *v = &n->verdict;
    __u64 cookie = n->asked.source_cookie;

    tuple_of(ctx, 0, &n->tuple);
    source = bpf_map_lookup_elem(&node_devices, &cookie);
    cookie = v->destination_cookie;
    destination = bpf_map_lookup_elem(&node_devices, &cookie);
    if (!control || !source || !destination ||
        node_generation(control, n->asked.source_cookie, v->destination_cookie, &n->asked.destination) !=
            v->generation ||
        bpf_ktime_get_boot_ns() >= v->valid_until_nanoseconds ||
        bpf_get_netns_cookie(ctx) != n->asked.source_cookie ||
        !address_equal(&n->tuple.remote_address, &v->source) ||
        !address_equal(&n->tuple.local_address, &v->endpoint) || n->tuple.local_port != v->endpoint_port) {
        give_up(ctx, n);
        return;
    }
    value.source_cookie = n->asked.source_cookie;
    value.destination_cookie = v->destination_cookie;
    value.generation = v->generation;
    value.socket_cookie = bpf_get_socket_cookie(ctx);
    value.source_device = source->device;
    value.destination_device = destination->device;
    value.asked_address = n->asked.destination;
    value.asked_port = n->asked.port;
    if (!bpf_map_update_elem(&node_tuples, &n->tuple, &value, BPF_NOEXIST)) {
        node_count_tuple(value.source_cookie, 1);
    } else if (!is_of_same_pods(&n->tuple, &value) ||
               bpf_map_update_elem(&node_tuples, &n->tuple, &value, BPF_EXIST)) {
        /* Nor is it one of before with the same port, of which the source's end is gone. */
        give_up(ctx, n);
        return;
    }
    n->registered = 1;
    watch(ctx);
}

/* The destination's end. It was let pass for its tuple. */
static __always_inline void accepted(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    struct bruma_node_tuple *registered;
    struct bruma_node_socket *n;
    struct bruma_tuple tuple;

    tuple_of(ctx, 1, &tuple);
    registered = bpf_map_lookup_elem(&node_tuples, &tuple);
    if (!registered || registered->destination_cookie != bpf_get_netns_cookie(ctx))
        return;
    n = bpf_sk_storage_get(&node_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (n) {
        n->tuple = tuple;
        n->registered = 1;
        n->accepted = 1;
    }
    registered->accepted_cookie = bpf_get_socket_cookie(ctx);
    watch(ctx);
}

static __always_inline void closed(struct bpf_sock_ops *ctx, struct bruma_node_socket *n)
{
    struct bruma_tuple tuple = n->tuple;
    struct bruma_node_tuple *registered = bpf_map_lookup_elem(&node_tuples, &tuple);
    __u64 cookie = bpf_get_socket_cookie(ctx), source;

    n->registered = 0;
    if (!registered)
        return;
    source = registered->source_cookie;
    /* Otherwise a newer one has the port. */
    if (n->accepted && registered->accepted_cookie == cookie) {
        registered->destination_closed = 1;
        if (registered->source_closed)
            remove_tuple(&tuple, source);
    } else if (!n->accepted && registered->socket_cookie == cookie) {
        registered->closed_nanoseconds = bpf_ktime_get_ns();
        registered->source_closed = 1;
        /* Until the other end is closed, the rest of what is on its way goes as the connection went. So does
         * what the destination still answers to a SYN of which nothing has come: who got that would be taken
         * for this one. The proxy removes such, once it has seen to it that nothing is left there. */
        if (registered->destination_closed)
            remove_tuple(&tuple, source);
    }
}

SEC("sockops")
int node_sockets_changed(struct bpf_sock_ops *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    struct bruma_node_socket *n;

    if (!sk)
        return 1;
    if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
        accepted(ctx, sk);
        return 1;
    }
    if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB &&
        (ctx->op != BPF_SOCK_OPS_STATE_CB || ctx->args[1] != TCP_CLOSE))
        return 1;
    n = bpf_sk_storage_get(&node_sockets, sk, 0, 0);
    if (!n)
        return 1;
    if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
        connecting(ctx, sk, n);
    else if (n->registered)
        closed(ctx, n);
    return 1;
}

/* The application sees whom it has asked for. */
static __always_inline struct bruma_node_socket *asked_by(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    struct bruma_node_socket *n = sk ? bpf_sk_storage_get(&node_sockets, sk, 0, 0) : NULL;

    return n && !n->accepted ? n : NULL;
}

SEC("cgroup/getpeername4")
int node_peer4(struct bpf_sock_addr *ctx)
{
    struct bruma_node_socket *n = asked_by(ctx);

    if (n && address_is_v4(&n->asked.destination)) {
        ctx->user_ip4 = ((__u32 *)n->asked.destination.bytes)[3];
        ctx->user_port = bpf_htons((__u16)n->asked.port);
    }
    return 1;
}

SEC("cgroup/getpeername6")
int node_peer6(struct bpf_sock_addr *ctx)
{
    struct bruma_node_socket *n = asked_by(ctx);

    if (n) {
        __u32 *words = (__u32 *)n->asked.destination.bytes;

        ctx->user_ip6[0] = words[0];
        ctx->user_ip6[1] = words[1];
        ctx->user_ip6[2] = words[2];
        ctx->user_ip6[3] = words[3];
        ctx->user_port = bpf_htons((__u16)n->asked.port);
    }
    return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
