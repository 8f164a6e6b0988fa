/* SPDX-License-Identifier: Apache-2.0 */
/* The map of the sockets that take DNS queries. As with deliveries.h, connect.bpf.c has it made with the
 * agent's start, and the pods' programs share it: a pod's own map of listeners has the layout that earlier
 * versions have pinned. */
#ifndef BPF_DNS_SOCKETS_H
#define BPF_DNS_SOCKETS_H

#include "bpf/common.h"

struct {
    __uint(type, BPF_MAP_TYPE_SOCKHASH);
    __uint(max_entries, BRUMA_MAX_PODS);
    __type(key, __u64); /* netns cookie */
    __type(value, __u64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} dns_sockets SEC(".maps");

#endif
