/* SPDX-License-Identifier: Apache-2.0 */
/* The map of what the proxy is about to deliver: connect.bpf.c has it made with the agent's start, so that
 * there is one for all pods, whose programs read it. Only for those two: the loader makes each map that is
 * included. */
#ifndef BPF_DELIVERIES_H
#define BPF_DELIVERIES_H

#include "bpf/common.h"

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct bruma_delivery);
    __type(value, struct bruma_delivery_made);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} deliveries SEC(".maps");

#endif
