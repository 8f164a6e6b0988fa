/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends direct connections that are not allowed any more. The kernel has let them pass, so no worker knows
 * them: they are found in the map flows, judged by the policies with their real addresses, and destroyed. A
 * thread of its own does it, so that ten thousand of them delay nobody.
 *
 * A connection may have been let pass just before the answer changed, and be established after its pod was
 * judged. So each pod is looked at again for as long as such a handshake can take.
 */
#ifndef PROXY_DIRECT_CUTTER_H
#define PROXY_DIRECT_CUTTER_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/direct.h"
#include "proxy/state/state.h"

struct cutter;

struct cutter_config {
    const struct state *state;
    unsigned long policy_timeout; /* milliseconds; how long a missing policy is waited for */
    int flows_fd;                 /* the map flows; the caller's, copied */
    /* Called on the cutter's thread, at most once: it cannot do what it is for, and nothing may be passed any
     * more that might have to be ended. */
    void (*unable)(void *data, int error);
    void *data;
};

/* Control thread, as all below. 0, -EOPNOTSUPP: this kernel cannot end other processes' connections; or
 * -errno. */
int cutter_new(const struct cutter_config *config, struct cutter **ret);
/* Ends the thread, and waits for it. */
void cutter_free(struct cutter **cutter);

/* Of the pod with that network namespace. The descriptor stays the caller's. */
struct cutter_pod {
    uint64_t cookie;
    int netns_fd;
    const char *name; /* "namespace/name" */
};

/* Connections that were passed to the pod are judged by what the policies say of them now, and a few times
 * later. workload: the pod's, as it was known last; a reference is taken. 0 or -errno: they live on. */
int cutter_judge(struct cutter *cutter, const struct cutter_pod *pod, const struct workload *workload);
/* All of these ways of the pod are allowed again: OUTSIDE, PASS or both. */
void cutter_allow(struct cutter *cutter, uint64_t cookie, uint32_t ways);
/* All of the pod's own connections to outside the mesh end, as cutter_judge() does it. 0 or -errno. */
int cutter_end_outside(struct cutter *cutter, const struct cutter_pod *pod);
/* A connection to the pod was passed, an event tells. Where the pod's are judged, that was before the answer
 * has changed: they are looked at again. Any thread. */
void cutter_look_again(struct cutter *cutter, uint64_t cookie);
/* The one connection ends, soon. The descriptor of its pod's network namespace stays the caller's. 0,
 * -EAGAIN: there are too many already; or -errno. Any thread. */
int cutter_end(struct cutter *cutter, int netns_fd, uint64_t socket_cookie, const struct bruma_tuple *tuple);
/* The pod is gone, or somebody else's. */
void cutter_forget(struct cutter *cutter, uint64_t cookie);

/* How many connections it has ended; any thread. */
uint64_t cutter_ended(const struct cutter *cutter);

/* For tests: whether the flow is to be ended. final: a missing policy is waited for no longer. *ret_missing
 * is set to true if it is waited for, and not written else. The calling thread is a registered reader. */
bool cutter_condemns(const struct state *state, const struct workload *workload,
                     const struct bruma_flow *flow, bool final, bool *ret_missing);

#endif
