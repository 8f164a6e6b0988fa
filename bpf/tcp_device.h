/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The device that a TCP connection comes and goes by, from the kernel's own structs: programs that use it
 * need the kernel's BTF. */
#ifndef BPF_TCP_DEVICE_H
#define BPF_TCP_DEVICE_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "bruma/mesh.h"

/* What is used of the kernel's structs; the loader finds where it is. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* What sockets of all states begin with. */
struct sock_common {
    volatile unsigned char skc_state;
    int skc_bound_dev_if;
    unsigned long skc_flags;
};

/* A network device. */
struct net_device {
    int ifindex;
};

/* A route that a socket has resolved. */
struct dst_entry {
    struct net_device *dev;
};

/* A socket, which a struct tcp_sock begins with. */
struct sock {
    struct sock_common __sk_common;
    struct dst_entry *sk_dst_cache;
    int sk_rx_dst_ifindex;
    int sk_err;
};

struct tcp_sock {
    __u64 bytes_acked;
    __u64 bytes_received;
    __u32 snd_una;
    __u32 write_seq;
    __u8 fastopen_connect : 1;
};

#pragma clang attribute pop

/* Returns the index of the device, or 0: it comes by another one than it goes, or over lo. */
static __always_inline __u32 tcp_device(struct tcp_sock *tcp)
{
    struct sock *sk = (struct sock *)tcp;
    struct dst_entry *way = sk->sk_dst_cache;
    int device;

    if (!way || !way->dev)
        return 0;
    device = way->dev->ifindex;
    return device == BRUMA_LOOPBACK_IFINDEX || device != sk->sk_rx_dst_ifindex ? 0 : (__u32)device;
}

#endif
