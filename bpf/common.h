/* SPDX-License-Identifier: Apache-2.0 */
/* What the BPF programs share: the pinned maps and a few helpers. Only UAPI headers. */
#ifndef BPF_COMMON_H
#define BPF_COMMON_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bruma/maps.h"
#include "bruma/mesh.h"

#define AF_INET          2
#define AF_INET6         10
#define SOL_SOCKET       1
#define SO_MARK          36
#define SO_BINDTOIFINDEX 62
#define SOCK_STREAM      1
#define IPPROTO_TCP      6
#define IPPROTO_UDP      17

#define EPERM        1
#define EEXIST       17
#define ENETUNREACH  101
#define ECONNREFUSED 111

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_pod);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} pods SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_pod_counters);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} pod_counters SEC(".maps");

/* A hash, so that a dump shows the reasons by name (keys of an array are numbers), and those alone that
 * have happened. Its size does not follow the list of reasons: it would not fit what an older version
 * has pinned. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, BRUMA_MAX_FAILURES);
    __type(key, enum bruma_reason);
    __type(value, struct bruma_failure_count);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} failures SEC(".maps");

/* One more of that reason, now, on this CPU. */
static __always_inline void count_failure(enum bruma_reason reason)
{
    enum bruma_reason key = reason;
    struct bruma_failure_count *f = bpf_map_lookup_elem(&failures, &key);

    if (f) {
        f->count++;
        f->last_seen_nanoseconds = bpf_ktime_get_ns();
    } else {
        struct bruma_failure_count first = {.count = 1, .last_seen_nanoseconds = bpf_ktime_get_ns()};

        bpf_map_update_elem(&failures, &key, &first, BPF_NOEXIST);
    }
}

/* counters is evaluated once: the verifier asks of each lookup whether it has found something. */
#define COUNT(counters, field)                          \
    do {                                                \
        __typeof__(counters) _counters = (counters);    \
                                                        \
        if (_counters)                                  \
            __sync_fetch_and_add(&_counters->field, 1); \
    } while (0)

/* A field of the context, read where it stands: the compiler must not merge the branches of the two families
 * into one load through a computed context pointer, which the verifier refuses. */
#define READ(field)                      \
    ({                                   \
        __u32 _value = (field);          \
        asm volatile("" : "+r"(_value)); \
        _value;                          \
    })

/* IPv4 in the mapped form; address in network order. */
static __always_inline void address_from_v4(struct bruma_address *a, __u32 v4)
{
    __u32 *words = (__u32 *)a->bytes;

    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = v4;
}

/* The four words of an IPv6 address, each in network order. */
static __always_inline void address_from_words(struct bruma_address *a, __u32 w0, __u32 w1, __u32 w2,
                                               __u32 w3)
{
    __u32 *words = (__u32 *)a->bytes;

    words[0] = w0;
    words[1] = w1;
    words[2] = w2;
    words[3] = w3;
}

/* 1 if they are the same address, else 0. */
static __always_inline int address_equal(const struct bruma_address *a, const struct bruma_address *b)
{
    const __u64 *x = (const __u64 *)a->bytes, *y = (const __u64 *)b->bytes;

    return x[0] == y[0] && x[1] == y[1];
}

/* 1 for a mapped IPv4 address, else 0. */
static __always_inline int address_is_v4(const struct bruma_address *a)
{
    const __u32 *words = (const __u32 *)a->bytes;

    return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

/* 1 for loopback and unspecified (which means loopback to connect()), of both families, else 0. */
static __always_inline int address_is_local_host(const struct bruma_address *a)
{
    const __u32 *words = (const __u32 *)a->bytes;

    if (address_is_v4(a))
        return a->bytes[12] == 127 || !words[3];
    return !words[0] && !words[1] && !words[2] && (!words[3] || words[3] == bpf_htonl(1));
}

/* 1 for the unspecified one of both families, else 0. */
static __always_inline int address_is_unspecified(const struct bruma_address *a)
{
    const __u32 *words = (const __u32 *)a->bytes;

    return !words[0] && !words[1] && (!words[2] || words[2] == bpf_htonl(0xffff)) && !words[3];
}

/* 1 for fe80::/10, else 0. */
static __always_inline int address_is_link_local6(const struct bruma_address *a)
{
    return a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80;
}

/* 1 if the address is one of the pod's, else 0; also 1 for all zero if the pod has an unused entry. */
static __always_inline int pod_owns(const struct bruma_pod *pod, const struct bruma_address *a)
{
#pragma unroll
    for (int i = 0; i < BRUMA_POD_ADDRESSES; i++) {
        if (address_equal(&pod->addresses[i], a))
            return 1;
    }
    return 0;
}

#endif
