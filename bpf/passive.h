/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that sockets of a pod have accepted: which of them came from outside past the proxy. */
#ifndef BPF_PASSIVE_H
#define BPF_PASSIVE_H

#include "bpf/direct.h"
#include "bpf/exclusions.h"
#include "bpf/node.h"
#include "bpf/probe_tuples.h"

/*
 * The way that a connection came which has just been established, seen from the pod that has accepted it; 0:
 * none that is accounted for. What can be explained otherwise is left out, and the rest was passed: so
 * nothing that has to end when policies change is forgotten. sk: of the program's context.
 */
static __always_inline __u32 passive_way(struct bpf_sock *sk, const struct bruma_pod *pod, __u64 cookie,
                                         const struct bruma_tuple *tuple)
{
    const struct bruma_direct_control *control = direct_control_of();

    if (!(pod->flags & BRUMA_POD_CAPTURE_INBOUND))
        return 0;
    /* the proxy has accepted it, or delivers it */
    if (bpf_sk_storage_get(&listener_sockets, sk, 0, 0) || sk->mark == BRUMA_MARK)
        return 0;
    /* the pod talks to itself */
    if (address_is_local_host(&tuple->remote_address) ||
        address_equal(&tuple->remote_address, &tuple->local_address) || pod_owns(pod, &tuple->remote_address))
        return 0;
    if (node_has_brought(cookie, tuple))
        return BRUMA_DIRECT_NODE_INBOUND;
    if (bpf_map_lookup_elem(&probe_tuples, tuple))
        return 0;
    if (pod->flags & BRUMA_POD_BYPASS_INBOUND)
        return BRUMA_DIRECT_BYPASS;
    if (excludes_inbound(pod, cookie, (__u16)tuple->local_port))
        return 0;
    /* Where nobody has ever been in charge, nothing is passed. */
    if ((!control || !control->proxy) && !bpf_map_lookup_elem(&direct_pods, &cookie))
        return 0;
    return BRUMA_DIRECT_PASS;
}

/* The number of the answer that passes such connections now; 0: they are not passed any more, and whoever
 * reads of this one has to judge it. */
static __always_inline __u32 passive_changes(const struct bruma_pod *pod, __u64 cookie)
{
    const struct bruma_direct_control *control = direct_control_of();
    struct bruma_direct_pod *entry = bpf_map_lookup_elem(&direct_pods, &cookie);
    __u32 changes;

    if (!control || !entry || entry->proxy != control->proxy || entry->generation != pod->generation ||
        !(entry->ways & BRUMA_DIRECT_PASS))
        return 0;
    changes = entry->inbound_changes;
    return direct_entry_stands(cookie, entry) ? changes : 0;
}

#endif
