/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Options that give the packets of a TCP socket another destination than its connect() has named: a routing
 * header of IPv6, a source route of IPv4. A connection to loopback or to the pod itself is not captured, and
 * by such an option it would leave the pod in plaintext. Any user may set them.
 *
 * In pods of the mesh the option is refused, before and after connect(). A socket that has had it since
 * before its pod was enrolled is refused when it connects.
 */
#include "bpf/common.h"

#define IPPROTO_IP          0
#define IPPROTO_IPV6        41
#define IP_OPTIONS          4
#define IPV6_2292RTHDR      5
#define IPV6_2292PKTOPTIONS 6
#define IPV6_RTHDR          57

#define IPOPT_LSRR 131
#define IPOPT_SSRR 137
#define IPOPT_MAX  40 /* bytes */

#define OPTION_MAX 4096 /* the kernel shows no more of an option's value */

/* What is used of the kernel's structs; the loader finds where it is. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ipv6_rt_hdr;

struct ipv6_txoptions {
    struct ipv6_rt_hdr *srcrt;
};

struct ipv6_pinfo {
    struct ipv6_txoptions *opt;
};

struct tcp6_sock {
    struct ipv6_pinfo inet6;
};

struct ip_options {
    unsigned char srr;
};

struct ip_options_rcu {
    struct ip_options opt;
};

struct inet_sock {
    struct ip_options_rcu *inet_opt;
};

struct inet_connection_sock {
    struct inet_sock icsk_inet;
};

struct tcp_sock {
    struct inet_connection_sock inet_conn;
};

#pragma clang attribute pop

static __always_inline int is_of_pod(__u64 cookie)
{
    return bpf_map_lookup_elem(&pods, &cookie) != NULL;
}

/* ---- when it is set ---- */

/* Any byte that could be the type of one. Walking from option to option is beyond the verifier, and to take
 * an address in a timestamp option for one harms nobody. */
static __always_inline int has_source_route(struct bpf_sockopt *ctx)
{
    __u8 *value = ctx->optval, *end = ctx->optval_end;

#pragma unroll
    for (int i = 0; i < IPOPT_MAX; i++) {
        if (value + i + 1 > end)
            return 0;
        if (value[i] == IPOPT_LSRR || value[i] == IPOPT_SSRR)
            return 1;
    }
    return 0;
}

static __always_inline int changes_the_way(struct bpf_sockopt *ctx)
{
    if (ctx->level == IPPROTO_IP)
        return ctx->optname == IP_OPTIONS && has_source_route(ctx);
    /* A length of 0 takes the header away. The old option holds others, too, which nobody sets on TCP. */
    return ctx->level == IPPROTO_IPV6 && ctx->optlen > 0 &&
           (ctx->optname == IPV6_RTHDR || ctx->optname == IPV6_2292RTHDR ||
            ctx->optname == IPV6_2292PKTOPTIONS);
}

SEC("cgroup/setsockopt")
int refuse_option(struct bpf_sockopt *ctx)
{
    struct bpf_sock *sk = ctx->sk;

    if (changes_the_way(ctx) && sk && sk->protocol == IPPROTO_TCP && is_of_pod(bpf_get_netns_cookie(ctx))) {
        count_failure(BRUMA_REASON_ROUTING_OPTION);
        return 0; /* EPERM */
    }
    /* Without this the kernel refuses what is longer than what it shows. */
    if (ctx->optlen > OPTION_MAX)
        ctx->optlen = 0;
    return 1;
}

/* ---- when it connects ---- */

static __always_inline int refuse_connect(struct bpf_sock_addr *ctx)
{
    __u64 cookie = bpf_get_netns_cookie(ctx);
    struct bruma_pod_counters *counters;

    if (!is_of_pod(cookie))
        return 1;
    counters = bpf_map_lookup_elem(&pod_counters, &cookie);
    COUNT(counters, outbound_denied_connections);
    count_failure(BRUMA_REASON_ROUTING_OPTION);
    bpf_set_retval(-EPERM);
    return 0;
}

/* An IPv6 socket has options of both kinds: those of IPv4 count where it connects to a mapped address. */
static __always_inline int has_old_option(struct bpf_sock *sk)
{
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
    struct ip_options_rcu *options;

    options = tcp ? tcp->inet_conn.icsk_inet.inet_opt : NULL;
    return options && options->opt.srr;
}

SEC("cgroup/connect4")
int option4(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;

    if (ctx->protocol != IPPROTO_TCP || !sk || !has_old_option(sk))
        return 1;
    return refuse_connect(ctx);
}

SEC("cgroup/connect6")
int option6(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    struct ipv6_txoptions *options;
    struct tcp6_sock *tcp6;

    if (ctx->protocol != IPPROTO_TCP || !sk)
        return 1;
    if (has_old_option(sk))
        return refuse_connect(ctx);
    tcp6 = bpf_skc_to_tcp6_sock(sk);
    options = tcp6 ? tcp6->inet6.opt : NULL;
    return options && options->srcrt ? refuse_connect(ctx) : 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
