/* SPDX-License-Identifier: Apache-2.0 */
/* What a pod excludes from capture, as the programs are told of it: bruma/outbound.h has the decision. */
#ifndef AGENT_STEER_EXCLUSIONS_H
#define AGENT_STEER_EXCLUSIONS_H

#include "agent/steer/steer.h"

#define STEER_EXCLUSIONS_MAX 512 /* ranges, and ports, of one pod */

/* The longest prefix that has an address counts. */
struct steer_range {
    struct cidr cidr; /* length counts bits of the 128-bit form */
    enum bruma_exclusion exclusion;
};

struct steer_port {
    uint16_t port; /* host order; 0: all others, inbound only */
    bool inbound;
    enum bruma_exclusion exclusion;
};

/* No range and no port is there twice. */
struct steer_exclusions {
    struct steer_range ranges[STEER_EXCLUSIONS_MAX];
    struct steer_port ports[STEER_EXCLUSIONS_MAX];
    size_t ranges_len, ports_len;
};

/* Replaces what the pod's entry has in one step; exclusions NULL, or empty: nothing is excluded. 0, or -errno
 * with *error: what was in force stays. */
int steer_exclusions_set(struct steer *steer, uint64_t cookie, const struct steer_exclusions *exclusions,
                         struct steer_error *error);
/* Whether the pod's entry names a set. */
bool steer_exclusions_active(struct steer *steer, uint64_t cookie);
/* The pod is gone, or leaves: all of its entries. Harmless without any. */
void steer_exclusions_remove(struct steer *steer, uint64_t cookie);
/* What the programs have counted. 0, or -ENOENT: the pod has never excluded anything. */
int steer_exclusion_counters(struct steer *steer, uint64_t cookie, struct bruma_exclusion_counters *ret);

#endif
