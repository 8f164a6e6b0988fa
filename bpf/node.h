/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of two pods of this node that stay in the kernel: maps, and what the programs share that
 * decide about them. See include/bruma/node.h. */
#ifndef BPF_NODE_H
#define BPF_NODE_H

#include "bpf/common.h"
#include "bruma/node.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct bruma_node_control);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_control SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, BRUMA_NODE_PLACES);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32); /* place */
    __type(value, struct bruma_node_place);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_places SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __type(key, __u64); /* netns cookie */
    __type(value, struct bruma_node_device);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_devices SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_NODE_VERDICTS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct bruma_node_key);
    __type(value, struct bruma_node_verdict);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_verdicts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_NODE_VERDICTS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct bruma_node_key);
    __type(value, struct bruma_node_pending);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_pending SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BRUMA_MAX_NODE_TUPLES);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct bruma_tuple);
    __type(value, struct bruma_node_tuple);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_tuples SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bruma_node_arriving);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_arriving SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, BRUMA_NODE_COUNTER_COUNT);
    __type(key, __u32); /* enum bruma_node_counter */
    __type(value, __u64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct bruma_node_socket);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} node_sockets SEC(".maps");

/* One more of enum bruma_node_counter, on this CPU. */
static __always_inline void node_count(__u32 counter)
{
    __u64 *n = bpf_map_lookup_elem(&node_counters, &counter);

    if (n)
        (*n)++;
}

/* The one entry of node_control, which lives as long as the map. Never NULL in fact, but the verifier does
 * not know. */
static __always_inline struct bruma_node_control *node_state(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&node_control, &zero);
}

/* The entry, which lives as long as the map. Never NULL in fact, but the verifier does not know. */
static __always_inline struct bruma_node_place *node_place(__u32 place)
{
    return bpf_map_lookup_elem(&node_places, &place);
}

/* How many changes there were of what has that place; more than there can be without an entry. */
static __always_inline __u64 node_changes_at(__u32 at)
{
    const struct bruma_node_place *place = node_place(at);

    return place ? *(const volatile __u64 *)&place->changes : 1ull << 63;
}

/* A tuple of that source has come to node_tuples (1), or is gone (-1). */
static __always_inline void node_count_tuple(__u64 source_cookie, __s64 change)
{
    struct bruma_node_place *place = node_place(bruma_node_place(source_cookie));
    struct bruma_node_control *control = node_state();

    if (control)
        __sync_fetch_and_add(&control->tuples, change);
    if (place)
        __sync_fetch_and_add(&place->tuples, change);
}

/* The generation that counts now for what goes from the one pod to the other, by that address. */
static __always_inline __u64 node_generation(const struct bruma_node_control *control, __u64 source,
                                             __u64 destination, const struct bruma_address *asked)
{
    return *(const volatile __u64 *)&control->generation + node_changes_at(bruma_node_place(source)) +
           node_changes_at(bruma_node_place(destination)) +
           node_changes_at(bruma_node_place_of_address(asked));
}

/* Says that a packet of the tuple goes into the destination's namespace now, on this CPU. */
static __always_inline void node_arrives(const struct bruma_tuple *tuple)
{
    __u32 zero = 0;
    struct bruma_node_arriving *a = bpf_map_lookup_elem(&node_arriving, &zero);

    if (!a)
        return;
    a->tuple = *tuple;
    a->now_nanoseconds = bpf_ktime_get_ns();
}

/* 1 if they are the same, else 0. */
static __always_inline int node_tuple_equal(const struct bruma_tuple *a, const struct bruma_tuple *b)
{
    return address_equal(&a->remote_address, &b->remote_address) &&
           address_equal(&a->local_address, &b->local_address) && a->remote_port == b->remote_port &&
           a->local_port == b->local_port;
}

/* 1: such a packet is being brought; it is asked once for each. */
static __always_inline int node_has_arrived(const struct bruma_tuple *tuple)
{
    __u32 zero = 0;
    struct bruma_node_arriving *a = bpf_map_lookup_elem(&node_arriving, &zero);
    int fits;

    if (!a || !a->now_nanoseconds)
        return 0;
    fits = node_tuple_equal(&a->tuple, tuple) &&
           bpf_ktime_get_ns() - a->now_nanoseconds < BRUMA_NODE_ARRIVING_NANOSECONDS;
    a->now_nanoseconds = 0;
    return fits;
}

enum node_arrival {
    NODE_OTHER,  /* it is none of these */
    NODE_PASSES, /* it goes to the application */
    NODE_VOID    /* it was let go, and may not go on so: nor is it plaintext of somebody outside */
};

/*
 * For the destination's sk_lookup program. The tuple says that the source's connect() was allowed, for the
 * answer that holds now; that it has arrived, that this packet comes from the source's own device, and from
 * nowhere else.
 */
static __always_inline enum node_arrival node_arrival(__u64 cookie, const struct bruma_tuple *tuple)
{
    struct bruma_node_tuple *registered;
    struct bruma_node_control *control;

    if (!node_has_arrived(tuple))
        return NODE_OTHER;
    registered = bpf_map_lookup_elem(&node_tuples, tuple);
    control = node_state();
    if (registered && control && registered->destination_cookie == cookie && !registered->source_closed &&
        registered->generation ==
            node_generation(control, registered->source_cookie, cookie, &registered->asked_address))
        return NODE_PASSES;
    node_count(BRUMA_NODE_COUNTER_VOID);
    return NODE_VOID;
}

/* 1: a connection that has just been accepted came so. */
static __always_inline int node_has_brought(__u64 cookie, const struct bruma_tuple *tuple)
{
    struct bruma_node_tuple *registered = bpf_map_lookup_elem(&node_tuples, tuple);

    return registered && registered->destination_cookie == cookie;
}

#endif
