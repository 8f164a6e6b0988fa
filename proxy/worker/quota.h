/* SPDX-License-Identifier: Apache-2.0 */
/* Bounds on the connections of a pod and of a peer. */
#ifndef PROXY_WORKER_QUOTA_H
#define PROXY_WORKER_QUOTA_H

#include "proxy/worker/worker.h"

/*
 * What is counted against the bounds of a pod and of a peer: a descriptor of the pod and, for what came from
 * outside, a connection of the address that it came from.
 */
struct quota {
    bool of_pod, of_peer;
    int peer_connections; /* how many the peer had with it, when it came */
};

/* Fills ret. peer NULL: nobody's but the pod's. */
void quota_take(struct worker_pod *wp, const struct addr *peer, struct quota *ret);
/* May be repeated. */
void quota_release(struct worker_pod *wp, const struct addr *peer, struct quota *quota);
/* To be asked right after it was taken. False: there is more than there may be, and ret_reason says of
 * what. */
bool quota_allows(const struct worker_pod *wp, const struct quota *quota, enum bruma_reason *ret_reason);

/* Descriptors that a connection of the pod needs for a while, beside those above. False: there is more than
 * there may be, and none was taken. */
bool quota_take_more(struct worker_pod *wp, unsigned descriptors);
/* Gives them back. */
void quota_release_more(struct worker_pod *wp, unsigned descriptors);

#endif
