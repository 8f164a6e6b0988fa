/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Steers new connections of one pod to its listeners. Runs only where no established socket matches. Each pod
 * has an instance of its own with its own SOCKMAP: sk_lookup knows no netns cookie, and would not mind a
 * listener of another namespace.
 */
#include "bpf/common.h"
#include "bpf/deliveries.h"
#include "bpf/direct.h"
#include "bpf/dns_sockets.h"
#include "bpf/exclusions.h"
#include "bpf/node.h"
#include "bpf/probe_tuples.h"

struct {
    __uint(type, BPF_MAP_TYPE_SOCKMAP);
    __uint(max_entries, BRUMA_LISTENER_COUNT);
    __type(key, __u32); /* enum bruma_listener */
    __type(value, __u64);
} listeners SEC(".maps");

/* What was refused lately has an event each, up to a limit. */
#define REFUSALS_NANOSECONDS 1000000000ull
#define REFUSALS_MAX         100 /* in that time */
#define CLOCK_MONOTONIC      1

volatile const __u64 netns_cookie; /* of the pod this instance is attached to */
volatile const __u32 test_ifindex; /* stands in for ingress_ifindex, which BPF_PROG_TEST_RUN wants to be 0 */

static __always_inline int drop(struct bruma_pod_counters *counters, enum bruma_reason reason)
{
    /* Passing would hand a connection that nobody has authorized to the application. A peer outside gets a
     * reset. One of the pod itself does not: a reset from a foreign address finds no way over lo. It sends
     * its SYN again, and is accepted late rather than refused if the agent has repaired by then. */
    COUNT(counters, dropped_lookups);
    count_failure(reason);
    return SK_DROP;
}

static __always_inline int steer(struct bpf_sk_lookup *ctx, struct bruma_pod_counters *counters,
                                 __u32 listener)
{
    struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &listener);
    long error;

    if (!sk)
        return drop(counters, BRUMA_REASON_LISTENER_MISSING);
    /* Without NO_REUSEPORT a process of the pod could join the listener's port and take connections. */
    error = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
    bpf_sk_release(sk);
    if (error)
        return drop(counters, BRUMA_REASON_ASSIGN_FAILED);
    return SK_PASS;
}

static __always_inline void read_tuple(struct bpf_sk_lookup *ctx, struct bruma_tuple *t)
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
    t->remote_port = bpf_ntohs(ctx->remote_port); /* network order, unlike local_port */
    t->local_port = ctx->local_port;
}

/* The proxy delivers it to the application. What a stale entry lets pass stays in the pod: it is on lo. */
static __always_inline int is_delivery(const struct bruma_tuple *tuple)
{
    struct bruma_delivery key = {.netns_cookie = netns_cookie, .tuple = *tuple};
    struct bruma_delivery_made *made = bpf_map_lookup_elem(&deliveries, &key);

    return made && bpf_ktime_get_ns() - made->registered_nanoseconds < BRUMA_DELIVERY_NANOSECONDS;
}

/*
 * A question to DNS, which a rule of the pod has led to lo with the address that it was sent to. Without a
 * socket for it, nobody takes it, and the kernel says so to who has asked. A question that the proxy itself
 * sends to an address of the pod is a delivery.
 */
static __always_inline int lookup_udp(struct bpf_sk_lookup *ctx, __u32 ifindex)
{
    __u64 cookie = netns_cookie;
    struct bruma_tuple tuple;
    struct bruma_pod *pod;
    struct bpf_sock *sk;

    if (ifindex != BRUMA_LOOPBACK_IFINDEX || ctx->local_port != BRUMA_PORT_DNS)
        return SK_PASS;
    pod = bpf_map_lookup_elem(&pods, &cookie);
    if (!pod || !(pod->flags & BRUMA_POD_CAPTURE_DNS))
        return SK_PASS;
    read_tuple(ctx, &tuple);
    if (pod_owns(pod, &tuple.local_address) || address_is_local_host(&tuple.local_address) ||
        is_delivery(&tuple))
        return SK_PASS;
    sk = bpf_map_lookup_elem(&dns_sockets, &cookie);
    if (!sk)
        return SK_PASS;
    if (bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT))
        count_failure(BRUMA_REASON_ASSIGN_FAILED);
    bpf_sk_release(sk);
    return SK_PASS;
}

/* The proxy's own ports, as the pod's listeners have them and as others know them. */
static __always_inline int is_port_of_proxy(__u32 port)
{
    int is = port == BRUMA_PORT_OUTBOUND || port == BRUMA_PORT_PLAINTEXT || port == BRUMA_PORT_HBONE;

    for (__u32 slot = 0; slot < BRUMA_LISTENER_COUNT; slot++) {
        __u32 key = slot;
        struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &key);

        if (!sk)
            return 1; /* it may be one */
        is |= sk->src_port == port;
        bpf_sk_release(sk);
    }
    return is;
}

/* One event for all: of the last of them. */
static __attribute__((noinline)) int refused_event(__u64 cookie, const struct bruma_tuple *tuple,
                                                   __u32 generation, __u32 repeated)
{
    struct bruma_flow_event event = {
        .now_nanoseconds = bpf_ktime_get_ns(), .kind = BRUMA_FLOW_REFUSED, .repeated = repeated};

    event.flow.netns_cookie = cookie;
    event.flow.opened_nanoseconds = event.now_nanoseconds;
    event.flow.tuple = *tuple;
    event.flow.generation = generation;
    event.flow.way = BRUMA_DIRECT_REFUSE;
    flow_tell(&event);
    return 0;
}

/* The flood has ended, or a moment of it. */
static int tell_rest(void *map, __u64 *cookie, struct refusals *value)
{
    __u64 key = *cookie;
    /* The same. The verifier of Linux 6.1 follows the lock of what was looked up alone. */
    struct refusals *r = bpf_map_lookup_elem(&flow_refusals, &key);
    struct bruma_tuple tuple;
    __u32 untold, generation;

    (void)map;
    (void)value;
    if (!r)
        return 0;
    bpf_spin_lock(&r->lock);
    untold = r->untold;
    r->untold = 0;
    tuple = r->tuple;
    generation = r->generation;
    bpf_spin_unlock(&r->lock);
    if (untold)
        refused_event(key, &tuple, generation, untold - 1);
    return 0;
}

static __always_inline struct refusals *refusals_of(__u64 cookie)
{
    struct refusals *r = bpf_map_lookup_elem(&flow_refusals, &cookie);
    struct refusals none = {};

    if (r)
        return r;
    bpf_map_update_elem(&flow_refusals, &cookie, &none, BPF_NOEXIST);
    return bpf_map_lookup_elem(&flow_refusals, &cookie);
}

static __always_inline void tell_refused(const struct bruma_tuple *tuple, __u32 generation)
{
    __u64 now = bpf_ktime_get_ns(), cookie = netns_cookie;
    struct refusals *r = refusals_of(cookie);
    __u32 untold = 0;

    if (!r) /* no memory for it */
        goto alone;
    bpf_spin_lock(&r->lock);
    if (now - r->since_nanoseconds >= REFUSALS_NANOSECONDS) {
        r->since_nanoseconds = now;
        r->told = 0;
    }
    if (r->told < REFUSALS_MAX) {
        r->told++;
    } else {
        untold = ++r->untold;
        r->tuple = *tuple;
        r->generation = generation;
    }
    bpf_spin_unlock(&r->lock);
    if (!untold)
        goto alone;
    if (untold > 1)
        return;
    bpf_timer_init(&r->timer, &flow_refusals, CLOCK_MONOTONIC); /* harmless if it was */
    bpf_timer_set_callback(&r->timer, tell_rest);
    bpf_timer_start(&r->timer, REFUSALS_NANOSECONDS, 0);
    return;
alone:
    refused_event(cookie, tuple, generation, 0);
}

/* What the proxy has said of all such connections. Without its word it decides itself: the connection waits
 * in the listener's queue if it has to. */
static __always_inline int plaintext(struct bpf_sk_lookup *ctx, struct bruma_pod_counters *counters,
                                     const struct bruma_pod *pod, const struct bruma_tuple *tuple)
{
    const struct bruma_direct_control *control = direct_control_of();
    struct bruma_direct_counters *direct;
    struct bruma_direct_pod *entry = 0;
    __u64 cookie = netns_cookie;
    __u32 why, ways = 0;

    direct = bpf_map_lookup_elem(&direct_counters, &cookie);
    why = control ? direct_ask(control, direct_proxy(control), pod, cookie,
                               BRUMA_DIRECT_PASS | BRUMA_DIRECT_REFUSE, &entry)
                  : BRUMA_LONG_WAY_NO_PROXY;
    if (!why && entry) {
        ways = entry->ways;
        if (!direct_entry_stands(cookie, entry))
            why = BRUMA_LONG_WAY_POLICY_CHANGING;
    }
    if (!why && (!pod_owns(pod, &tuple->local_address) || is_port_of_proxy(tuple->local_port)))
        why = BRUMA_LONG_WAY_OTHER_ADDRESS;
    if (!why && ways & BRUMA_DIRECT_PASS)
        why = flows_lack_room(cookie);
    if (!why && ways & BRUMA_DIRECT_PASS) {
        COUNT(direct, direct_inbound_lookups);
        return SK_PASS;
    }
    if (!why && ways & BRUMA_DIRECT_REFUSE) {
        COUNT(direct, direct_inbound_refused_lookups);
        tell_refused(tuple, pod->generation);
        return SK_DROP;
    }
    COUNT(direct, inbound_long_way[why % 32]);
    COUNT(counters, inbound_plaintext_lookups);
    return steer(ctx, counters, BRUMA_LISTENER_INBOUND);
}

SEC("sk_lookup")
int lookup(struct bpf_sk_lookup *ctx)
{
    __u32 ifindex = test_ifindex ? test_ifindex : ctx->ingress_ifindex;
    struct bruma_pod_counters *counters;
    struct bruma_tuple tuple;
    struct bruma_pod *pod;
    __u64 cookie = netns_cookie;

    if (ctx->protocol == IPPROTO_UDP)
        return lookup_udp(ctx, ifindex);
    if (ctx->protocol != IPPROTO_TCP)
        return SK_PASS;
    /* A lookup by another program's helper or by sock_diag, not by a packet. */
    if (!ifindex)
        return SK_PASS;
    counters = bpf_map_lookup_elem(&pod_counters, &cookie);
    pod = bpf_map_lookup_elem(&pods, &cookie);
    if (!pod)
        return drop(counters, BRUMA_REASON_POD_ENTRY_MISSING);
    read_tuple(ctx, &tuple);
    if (ifindex == BRUMA_LOOPBACK_IFINDEX) {
        /* The proxy delivers to the application from here, and the pod talks to itself. */
        if (pod_owns(pod, &tuple.local_address) || address_is_local_host(&tuple.local_address) ||
            is_delivery(&tuple)) {
            COUNT(counters, inbound_passed_lookups);
            return SK_PASS;
        }
        COUNT(counters, outbound_steered_lookups);
        return steer(ctx, counters, BRUMA_LISTENER_OUTBOUND);
    }
    if (!(pod->flags & BRUMA_POD_CAPTURE_INBOUND))
        return SK_PASS;
    switch (node_arrival(cookie, &tuple)) {
    case NODE_PASSES:
        COUNT(counters, inbound_passed_lookups);
        return SK_PASS;
    case NODE_VOID:
        return SK_DROP;
    default:
        break;
    }
    if (bpf_map_lookup_elem(&probe_tuples, &tuple)) {
        COUNT(counters, inbound_probe_lookups);
        return SK_PASS;
    }
    if (tuple.local_port == BRUMA_PORT_HBONE) {
        COUNT(counters, inbound_hbone_lookups);
        return steer(ctx, counters, BRUMA_LISTENER_HBONE);
    }
    /* The pod's own address over lo shows the index of eth0. */
    if (address_equal(&tuple.remote_address, &tuple.local_address)) {
        COUNT(counters, inbound_passed_lookups);
        return SK_PASS;
    }
    if (pod->flags & BRUMA_POD_BYPASS_INBOUND || is_excluded_inbound(pod, cookie, (__u16)tuple.local_port)) {
        COUNT(counters, inbound_passed_lookups);
        return SK_PASS;
    }
    return plaintext(ctx, counters, pod, &tuple);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
