/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Outbound: marks the sockets of enrolled pods in connect() and binds them to lo. The address is not
 * rewritten; the mark makes the pod's route table send the SYN to lo, where lookup.bpf.c hands it to the
 * outbound listener.
 *
 * The binding is what fails closed: without the rule or the route, with a rule of somebody else before ours,
 * or with the mark taken away later, a packet of the socket still has no way but lo. Mere users cannot undo
 * it.
 *
 * A connection that should be captured and cannot be is refused: falling through would send it in plaintext.
 */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>

#include "bpf/common.h"
#include "bpf/deliveries.h"
#include "bpf/dns_sockets.h"
#include "bpf/exclusions.h"
#include "bpf/flows.h"
#include "bpf/node_connect.h"

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct bruma_proxy_socket);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} proxy_sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PROXY_CGROUPS);
    __type(key, __u64); /* cgroup id */
    __type(value, struct bruma_proxy_cgroup);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} proxy_cgroups SEC(".maps");

/* Sockets that we led to lo (0), or bound to their pod's device because they went directly (its index).
 * Nobody but us must let them go again. */
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, __u32);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} captured_sockets SEC(".maps");

/* Written before it is loaded: 0 where the kernel does not let this program look into its sockets. */
volatile const __u32 reads_sockets = 1;

enum verdict { DENY = 0, ALLOW = 1 };

static __always_inline int deny(struct bruma_pod_counters *counters, enum bruma_reason reason)
{
    COUNT(counters, outbound_denied_connections);
    count_failure(reason);
    bpf_set_retval(-ECONNREFUSED);
    return DENY;
}

/*
 * As the kernel says it where there is no route, which is how clients come to try the next address of a name.
 * Captured, the connection would be made and be reset after that.
 */
static __always_inline int deny_family(struct bruma_pod_counters *counters)
{
    COUNT(counters, outbound_denied_connections);
    count_failure(BRUMA_REASON_FAMILY_UNREACHABLE);
    bpf_set_retval(-ENETUNREACH);
    return DENY;
}

static __always_inline int set_option(struct bpf_sock_addr *ctx, int name, __u32 value)
{
    return bpf_setsockopt(ctx, SOL_SOCKET, name, &value, sizeof(value));
}

/*
 * A socket that was captured once and now connects to where nothing is captured must not be led to lo; and
 * one that went directly must not be kept off it where it connects to its own pod (local). It must be ours:
 * the hooks of another agent may run before these for a pod that only that one knows, as for pods of a
 * cluster that runs in containers of this node.
 */
static __always_inline int release(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                   struct bruma_pod_counters *counters, int local)
{
    __u32 *device;

    if (!sk->bound_dev_if)
        return ALLOW;
    device = bpf_sk_storage_get(&captured_sockets, sk, 0, 0);
    if (!device)
        return ALLOW;
    if (*device) {
        flow_forget(ctx);
        /* it was cut off, since it was answered too late */
        if (sk->mark == BRUMA_MARK_CAPTURED && set_option(ctx, SO_MARK, 0))
            return deny(counters, BRUMA_REASON_REBIND_FAILED);
        if (!local || sk->bound_dev_if != *device)
            return ALLOW;
    } else if (sk->mark != BRUMA_MARK_CAPTURED || sk->bound_dev_if != BRUMA_LOOPBACK_IFINDEX) {
        return ALLOW;
    }
    /* The kernel lets only root move a bound socket, and this runs as the application. */
    if ((!*device && set_option(ctx, SO_MARK, 0)) || set_option(ctx, SO_BINDTOIFINDEX, 0))
        return deny(counters, BRUMA_REASON_REBIND_FAILED);
    *device = 0;
    return ALLOW;
}

static __always_inline int is_of_the_proxy(struct bpf_sock *sk)
{
    struct bruma_proxy_socket *proxy = bpf_sk_storage_get(&proxy_sockets, sk, 0, 0);

    return proxy && proxy->exempt;
}

/* A proxy of somebody else, which cannot write to proxy_sockets and would not know how. The agent has seen
 * its process and written its cgroup down; a process of a pod cannot enter that cgroup. */
static __always_inline int is_of_a_foreign_proxy(void)
{
    __u64 cgroup = bpf_get_current_cgroup_id();

    return bpf_map_lookup_elem(&proxy_cgroups, &cgroup) != NULL;
}

static __always_inline void source_of(struct bpf_sock *sk, struct bruma_address *source)
{
    if (sk->family == AF_INET)
        address_from_v4(source, READ(sk->src_ip4));
    else
        address_from_words(source, READ(sk->src_ip6[0]), READ(sk->src_ip6[1]), READ(sk->src_ip6[2]),
                           READ(sk->src_ip6[3]));
}

/*
 * A foreign proxy passes a connection on under the same address, to the same destination. The kernel would
 * give it the port of the application's own socket, too, for that one is bound to lo and it is not; what
 * comes over lo for the application would then end up with the proxy. Bound to the pod's device it is out of
 * the way. Where that fails, or there are several, the connection goes as it is.
 */
static __always_inline void bind_device(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                        const struct bruma_pod *pod)
{
    __u32 device = pod->flags >> BRUMA_POD_DEVICE_SHIFT;

    if (device && !sk->bound_dev_if)
        set_option(ctx, SO_BINDTOIFINDEX, device);
}

/*
 * A foreign proxy delivers to the application from a socket that is bound to the client's address. It gets
 * what our own proxy sets by itself: lo, so that lookup.bpf.c knows the connection from one that arrives from
 * outside, and the mark, so that the application's answers come back over lo.
 */
static __always_inline int connect_of_a_foreign_proxy(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                                      const struct bruma_pod *pod,
                                                      struct bruma_pod_counters *counters,
                                                      const struct bruma_address *destination)
{
    struct bruma_address source;

    if (!pod_owns(pod, destination)) {
        bind_device(ctx, sk, pod);
        return ALLOW;
    }
    source_of(sk, &source);
    /* not bound: unspecified counts as local */
    if (address_is_local_host(&source) || pod_owns(pod, &source))
        return ALLOW;
    if (set_option(ctx, SO_BINDTOIFINDEX, BRUMA_LOOPBACK_IFINDEX))
        return deny(counters, BRUMA_REASON_REBIND_FAILED);
    if (set_option(ctx, SO_MARK, BRUMA_MARK))
        return deny(counters, BRUMA_REASON_MARK_FAILED);
    return ALLOW;
}

/* Mostly a pod that is not in the mesh. One that is counted is: somebody has removed its entry, and the agent
 * has not noticed yet. */
static __always_inline int connect_without_entry(struct bpf_sock_addr *ctx, struct bpf_sock *sk, __u64 cookie,
                                                 const struct bruma_address *destination)
{
    struct bruma_pod_counters *counters = bpf_map_lookup_elem(&pod_counters, &cookie);

    if (!counters)
        return release(ctx, sk, NULL, address_is_local_host(destination));
    if (is_of_the_proxy(sk) || is_of_a_foreign_proxy())
        return ALLOW;
    return deny(counters, BRUMA_REASON_POD_ENTRY_MISSING);
}

/* Led to lo, whatever it was before. */
static __always_inline int capture(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                   struct bruma_pod_counters *counters)
{
    __u32 *device;

    if (sk->bound_dev_if != BRUMA_LOOPBACK_IFINDEX &&
        set_option(ctx, SO_BINDTOIFINDEX, BRUMA_LOOPBACK_IFINDEX))
        return deny(counters, BRUMA_REASON_REBIND_FAILED);
    if (set_option(ctx, SO_MARK, BRUMA_MARK_CAPTURED))
        return deny(counters, BRUMA_REASON_MARK_FAILED);
    /* Without memory for it the socket is never let go, which fails closed. */
    device = bpf_sk_storage_get(&captured_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (device && *device) {
        *device = 0;
        flow_forget(ctx); /* of a connection that failed before it began */
    }
    COUNT(counters, outbound_captured_connections);
    return ALLOW;
}

/* 1: a rule of the pod leads what the socket sends to lo, by a mark that we or the application have set. */
static __always_inline int is_marked(const struct bpf_sock *sk)
{
    return (sk->mark & BRUMA_MARK_MASK) == BRUMA_MARK;
}

/* 1: the application may use it as it is; 0: it has chosen another device, a foreign source address, or a
 * mark that leads to lo. */
static __always_inline int is_free(struct bpf_sock *sk, const struct bruma_pod *pod, __u32 device)
{
    struct bruma_address source;

    if (is_marked(sk) && sk->mark != BRUMA_MARK_CAPTURED)
        return 0;
    if (sk->bound_dev_if && sk->bound_dev_if != device &&
        (sk->bound_dev_if != BRUMA_LOOPBACK_IFINDEX || sk->mark != BRUMA_MARK_CAPTURED ||
         !bpf_sk_storage_get(&captured_sockets, sk, 0, 0)))
        return 0;
    source_of(sk, &source);
    return address_is_unspecified(&source) || pod_owns(pod, &source);
}

/* 1: connect() returns at once, and the SYN leaves with the first data (TCP_FASTOPEN_CONNECT): what was true
 * by then may be so no more, and no hook would be asked. Also where that cannot be told. */
static __always_inline int is_deferred(struct bpf_sock *sk)
{
    struct tcp_sock *tcp;

    if (!reads_sockets)
        return 1;
    tcp = bpf_skc_to_tcp_sock(sk);
    if (!tcp || !bpf_core_field_exists(tcp->fastopen_connect))
        return 1;
    return BPF_CORE_READ_BITFIELD(tcp, fastopen_connect);
}

/* Why a connection to there must not go past the proxy, or NONE. */
static __always_inline enum bruma_long_way ask_outside(struct bpf_sock *sk, const struct bruma_pod *pod,
                                                       __u64 cookie, const struct bruma_address *destination,
                                                       __u16 port)
{
    const struct bruma_direct_control *control = direct_control_of();
    __u32 device = pod->flags >> BRUMA_POD_DEVICE_SHIFT;
    struct bruma_direct_pod *entry;
    enum bruma_long_way why;
    __u64 proxy;

    if (!control)
        return BRUMA_LONG_WAY_NO_PROXY;
    proxy = direct_proxy(control);
    /* First what is so for most that is captured. */
    if (proxy && direct_is_in_mesh(control, proxy, destination))
        return BRUMA_LONG_WAY_IN_MESH;
    why = direct_ask(control, proxy, pod, cookie, BRUMA_DIRECT_OUTSIDE, &entry);
    if (why)
        return why;
    if (port == BRUMA_PORT_DNS && pod->flags & BRUMA_POD_CAPTURE_DNS)
        return BRUMA_LONG_WAY_DNS;
    if (!device)
        return BRUMA_LONG_WAY_SEVERAL_DEVICES;
    if (!is_free(sk, pod, device))
        return BRUMA_LONG_WAY_SOCKET_BOUND;
    if (is_deferred(sk))
        return BRUMA_LONG_WAY_DEFERRED;
    if (!direct_entry_stands(cookie, entry))
        return BRUMA_LONG_WAY_POD_UNKNOWN;
    /* Another one may have followed it meanwhile, which knows more. */
    return direct_proxy(control) == proxy ? BRUMA_LONG_WAY_NONE : BRUMA_LONG_WAY_NO_PROXY;
}

/*
 * Bound to its device the socket has ports for itself: one that is captured, and has the same destination,
 * may have the same source. NONE, or why it cannot be done, with nothing left of it.
 */
static __always_inline enum bruma_long_way go_outside(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                                      const struct bruma_pod *pod, __u64 cookie,
                                                      const struct bruma_address *destination, __u16 port)
{
    __u32 device = pod->flags >> BRUMA_POD_DEVICE_SHIFT, *bound;

    enum bruma_long_way why = flows_too_many(cookie);

    if (why)
        return why;
    if (flow_begin(ctx, pod, cookie, BRUMA_DIRECT_OUTSIDE, destination, port))
        return BRUMA_LONG_WAY_FLOWS_FULL;
    bound = bpf_sk_storage_get(&captured_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!bound) {
        flow_forget(ctx);
        return BRUMA_LONG_WAY_FLOWS_FULL;
    }
    /* As for release(): of one that was captured before, only root's can be moved. */
    if ((sk->bound_dev_if != device && set_option(ctx, SO_BINDTOIFINDEX, device)) ||
        (sk->mark == BRUMA_MARK_CAPTURED && set_option(ctx, SO_MARK, 0))) {
        flow_forget(ctx);
        return BRUMA_LONG_WAY_SOCKET_BOUND;
    }
    *bound = device;
    return BRUMA_LONG_WAY_NONE;
}

/* 1: it goes past the proxy; 0: it does not, and why is counted. */
static __always_inline int goes_outside(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                        const struct bruma_pod *pod, __u64 cookie,
                                        const struct bruma_address *destination, __u16 port)
{
    struct bruma_direct_counters *counters = bpf_map_lookup_elem(&direct_counters, &cookie);
    enum bruma_long_way why = ask_outside(sk, pod, cookie, destination, port);

    if (!why)
        why = go_outside(ctx, sk, pod, cookie, destination, port);
    if (!why)
        COUNT(counters, direct_outside_connections);
    else
        count_long_way(counters ? counters->outside_long_way : NULL, why);
    return !why;
}

/* 1: it goes directly to another pod of this node; 0: as it would have gone; -1: through the proxy, and why
 * is counted. */
static __always_inline int connect_on_node(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family,
                                           const struct bruma_pod *pod, __u64 cookie,
                                           const struct bruma_address *destination, __u16 port)
{
    enum bruma_long_way why = BRUMA_LONG_WAY_NONE;
    struct bruma_direct_counters *counters;
    struct bruma_node_socket *n;
    struct bruma_address chosen;
    __u32 *bound;

    if (is_deferred(sk) || is_marked(sk))
        return 0;
    source_of(sk, &chosen);
    n = node_connect(ctx, sk, family, pod, cookie, destination, port, &chosen, &why);
    counters = bpf_map_lookup_elem(&direct_counters, &cookie);
    if (!n) {
        if (why)
            count_long_way(counters ? counters->outside_long_way : NULL, why);
        return why ? -1 : 0;
    }
    bound = bpf_sk_storage_get(&captured_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!bound || (!sk->bound_dev_if && set_option(ctx, SO_BINDTOIFINDEX, n->device))) {
        node_give_up(ctx, sk);
        return 0;
    }
    *bound = n->device;
    node_rewrite(ctx, family, &n->verdict);
    COUNT(counters, direct_node_connections);
    return 1;
}

/* An earlier connect() of the socket that was let go directly, and that the kernel refused before anything
 * was sent, is told of now: the next one takes its place. */
static __always_inline void failed_before(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
    __u32 *device = bpf_sk_storage_get(&captured_sockets, sk, 0, 0);

    if (device && *device)
        flow_released(bpf_get_socket_cookie(ctx));
}

static __always_inline int connect(struct bpf_sock_addr *ctx, int family,
                                   const struct bruma_address *destination)
{
    __u16 port = bpf_ntohs((__u16)ctx->user_port);
    __u64 cookie = bpf_get_netns_cookie(ctx);
    struct bruma_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
    struct bruma_pod_counters *counters;
    struct bpf_sock *sk;
    int on_node;

    if (ctx->protocol != IPPROTO_TCP || ctx->type != SOCK_STREAM)
        return ALLOW;
    sk = ctx->sk; /* read once: each read is another pointer to the verifier */
    if (!sk)
        return ALLOW;
    if (!pod)
        return connect_without_entry(ctx, sk, cookie, destination);
    node_forget(sk);
    if (is_of_the_proxy(sk))
        return ALLOW;
    failed_before(ctx, sk);
    counters = bpf_map_lookup_elem(&pod_counters, &cookie);
    if (address_is_local_host(destination)) {
        COUNT(counters, outbound_passed_connections);
        /* over lo in any case, but from a socket that is bound elsewhere */
        return sk->bound_dev_if == BRUMA_LOOPBACK_IFINDEX ? ALLOW : release(ctx, sk, counters, 1);
    }
    if (is_of_a_foreign_proxy())
        return connect_of_a_foreign_proxy(ctx, sk, pod, counters, destination);
    if (!(pod->flags & BRUMA_POD_CAPTURE_OUTBOUND))
        return release(ctx, sk, counters, pod_owns(pod, destination));
    /* A link-local address belongs to a device, and never to a workload: it stays with its device. */
    if (address_is_link_local6(destination) || pod_owns(pod, destination)) {
        COUNT(counters, outbound_passed_connections);
        return release(ctx, sk, counters, pod_owns(pod, destination));
    }
    if (is_excluded_outbound(pod, cookie, destination, port))
        return release(ctx, sk, counters, 0);
    if (pod->flags & (address_is_v4(destination) ? BRUMA_POD_NO_IPV4 : BRUMA_POD_NO_IPV6))
        return deny_family(counters);
    on_node = connect_on_node(ctx, sk, family, pod, cookie, destination, port);
    if (on_node > 0 || (!on_node && goes_outside(ctx, sk, pod, cookie, destination, port)))
        return ALLOW;
    return capture(ctx, sk, counters);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
    struct bruma_address destination;

    address_from_v4(&destination, ctx->user_ip4);
    return connect(ctx, AF_INET, &destination);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
    struct bruma_address destination;

    address_from_words(&destination, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
    return connect(ctx, AF_INET6, &destination);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
