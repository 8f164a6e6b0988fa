/* SPDX-License-Identifier: Apache-2.0 */
/* Direct ways, as the agent sees them: maps of bruma/direct.h, which the proxy fills. Not thread-safe. */
#ifndef AGENT_STEER_DIRECT_H
#define AGENT_STEER_DIRECT_H

#include "agent/steer/steer.h"
#include "bruma/direct.h"
#include "bruma/protocol.h"

/* Fills ret, always, with descriptors of the maps that a proxy is given. They stay with steer. */
void steer_direct_fds(const struct steer *steer, int ret[BRUMA_DIRECT_FD_COUNT]);

/* Whether connections that go directly are accounted for: only then may they. */
bool steer_direct_able(const struct steer *steer);

/* Fills *ret with the pod's counters, of the time since it was enrolled. 0, -ENOENT where it has none, or
 * -errno; then *ret is not written. */
int steer_direct_counters(struct steer *steer, uint64_t cookie, struct bruma_direct_counters *ret);

/* How many direct connections of the pod live, as programs have counted. */
uint64_t steer_direct_live(const struct steer *steer, uint64_t cookie);

/*
 * Removes entries of flows whose sockets are no more, although nobody has noticed their end. Walks all TCP
 * sockets of the namespace, unless nothing of the pod goes directly. How many; -EOPNOTSUPP: not on this
 * kernel; or -errno.
 */
int steer_direct_sweep(struct steer *steer, int netns_fd, uint64_t cookie);

#endif
