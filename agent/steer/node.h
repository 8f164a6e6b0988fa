/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections between pods of this node that stay in the kernel (include/bruma/node.h): the programs at the
 * pods' cgroup, and two at the end of each pod's device that is in the agent's own network namespace.
 *
 *   PIN_DIR/links/{node-sockets,node-peer4,node-peer6}
 *   PIN_DIR/pods/<netns cookie>/{node-from,node-to}
 */
#ifndef AGENT_STEER_NODE_H
#define AGENT_STEER_NODE_H

#include "agent/steer/steer.h"
#include "bruma/protocol.h"

/* clang-format off */
/* The one list of why a pod's connections to others of its node do not stay in the kernel. doctor, explain and
 * docs/architecture.md use these words. STEER_NODE_REFUSAL(ID, what, advice) */
#define STEER_NODE_REFUSALS(STEER_NODE_REFUSAL) \
    STEER_NODE_REFUSAL(NONE, "nothing: they stay there", "") \
    STEER_NODE_REFUSAL(OFF, "the agent was not told to (same-node)", "") \
    STEER_NODE_REFUSAL(OFF_FOR_POD, "an annotation of the pod says so (bruma.io/same-node)", "") \
    STEER_NODE_REFUSAL(NOT_ENROLLED, "the pod is not in the mesh, or not yet", "") \
    STEER_NODE_REFUSAL(NO_KERNEL, "this kernel has no tcx links, which came with Linux 6.6", "Leave same-node at relay on such nodes.") \
    STEER_NODE_REFUSAL(NO_HOOK, "a program at the pods' cgroup could not be loaded or attached; the log says which", "Look at what else is attached there: brumactl doctor.") \
    STEER_NODE_REFUSAL(SEVERAL_DEVICES, "the pod has several network devices, or none", "") \
    STEER_NODE_REFUSAL(NOT_VETH, "the pod's device is no veth: there is no place on the node at which its packets could be told from others'", "Such are ipvlan, macvlan, SR-IOV and netkit; use relay.") \
    STEER_NODE_REFUSAL(OTHER_NAMESPACE, "the other end of the pod's device is not in the network namespace of the agent", "The agent must run in the node's own (hostNetwork).") \
    STEER_NODE_REFUSAL(FOREIGN_PROGRAM, "somebody else's program decides about packets at the pod's device (tc), and would be passed over", "Such are Cilium, and Calico with eBPF; use relay.") \
    STEER_NODE_REFUSAL(FAILED, "a program could not be attached to the pod's device; the log says why", "")
/* clang-format on */

enum steer_node_refusal {
#define STEER_NODE_REFUSAL_ID(id, what, advice) STEER_NODE_##id,
    STEER_NODE_REFUSALS(STEER_NODE_REFUSAL_ID)
#undef STEER_NODE_REFUSAL_ID
        STEER_NODE_REFUSAL_COUNT
};

/* Both: static, never NULL. */
const char *steer_node_what(enum steer_node_refusal refusal);
const char *steer_node_advice(enum steer_node_refusal refusal);

/*
 * Loads the programs and attaches those of the cgroup. NONE: steer_node_start() may be called for pods; else
 * why not, and *error (if that is FAILED or NO_HOOK) has the words. May be called once after steer_open().
 */
enum steer_node_refusal steer_node_open(struct steer *steer, struct steer_error *error);
/* What an agent before this one has left where this one is not told to: no new connection goes directly from
 * here on. The programs at the devices stay until steer_node_stop() of each pod, for those that live. */
void steer_node_disable(struct steer *steer);
/* Whether connections that go directly may live: the programs at the devices bring their packets. */
bool steer_node_lives(const struct steer *steer);
/* Attaches the programs to the pod's device, or finds them there, and lets connections of the pod and to it
 * go directly. NONE, or why they do not; *error as with open. May be repeated. */
enum steer_node_refusal steer_node_start(struct steer *steer, const struct steer_pod *pod,
                                         struct steer_error *error);
/* No new connections from here on. */
void steer_node_forbid(struct steer *steer, uint64_t cookie);
/* Nor are packets of those that live brought; the programs are detached. */
void steer_node_stop(struct steer *steer, uint64_t cookie);

/* Fills all of ret with the descriptors of the maps that a proxy is given. They stay with steer. */
void steer_node_fds(const struct steer *steer, int ret[BRUMA_NODE_FD_COUNT]);
/* True if a program at the pods' cgroup could not be attached; steer_node_disable() is due then. */
bool steer_node_hooks_refused(const struct steer *steer);

/* ---- node_wiring.c ---- */

struct steer_node_wiring {
    uint32_t device; /* index of the end that is in the agent's namespace */
    uint32_t inner;  /* and of the one in the pod */
};

/* Where the pod's device ends. NONE with *ret, SEVERAL_DEVICES, NOT_VETH, OTHER_NAMESPACE, or FOREIGN_PROGRAM
 * (a clsact or ingress qdisc); FAILED with *error. */
enum steer_node_refusal steer_node_wiring(int netns_fd, struct steer_node_wiring *ret,
                                          struct steer_error *error);

#endif
