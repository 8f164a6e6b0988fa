/* SPDX-License-Identifier: Apache-2.0 */
/* The map of the kubelet's probes that are under way: probes.bpf.c writes it, lookup.bpf.c of each pod reads
 * it. Only for those two: the loader makes each map that is included. */
#ifndef BPF_PROBE_TUPLES_H
#define BPF_PROBE_TUPLES_H

#include "bpf/common.h"

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct bruma_tuple);
    __type(value, struct bruma_probe_tuple);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} probe_tuples SEC(".maps");

#endif
