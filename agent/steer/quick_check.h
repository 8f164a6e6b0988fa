/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A look at a pod that costs a hundredth of steer_pod_verify(): at all that nothing reports a change of. What
 * a verification found whole is asked for again by descriptors that are kept: the link and its program, the
 * pins, the pod's entry, the slots and their listeners, the sysctls. Rules, routes and devices are not looked
 * at: of those the kernel tells (netlink), and whoever relies on it must listen.
 */
#ifndef AGENT_STEER_QUICK_CHECK_H
#define AGENT_STEER_QUICK_CHECK_H

#include "agent/steer/steer.h"

#define QUICK_CHECK_SYSCTLS 3

struct steer_quick_check {
    bool armed;
    int link, listeners, sysctls[QUICK_CHECK_SYSCTLS]; /* -1: none */
    uint32_t program_id, netns_inode;
    uint64_t slots[BRUMA_LISTENER_COUNT]; /* what is in them */
    uint64_t pins_inode;
    int64_t pins_changed; /* nanoseconds: when something was made or removed in the pod's pin directory */
};

/* Not armed, and without descriptors; before anything else. */
void steer_quick_check_init(struct steer_quick_check *check);
/* Closes what is kept; before anything is repaired. May be repeated. */
void steer_quick_check_close(struct steer_quick_check *check);

/* To be called when a verification has just found nothing. 0, or -errno: quick checks are not to be had, for
 * want of descriptors for example (a quarter of the limit is left to others), and not armed. */
int steer_quick_check_arm(struct steer *steer, const struct steer_pod *pod, struct steer_quick_check *check);
/* True if all is as it was then. False: verify, the quick check is no longer armed. listeners: it is also
 * asked whether they listen, which nobody else would tell of. Of pod: cookie, addresses, bypass_inbound,
 * listeners. */
bool steer_quick_check_same(struct steer *steer, const struct steer_pod *pod, struct steer_quick_check *check,
                            bool listeners);

#endif
