/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROXY_WORKER_ROOM_H
#define PROXY_WORKER_ROOM_H

#include "proxy/worker/worker.h"

/*
 * What is counted against the bounds of a pod and of a peer: a descriptor of the pod and, for what came from
 * outside, a connection of the address that it came from.
 */
struct room {
    bool of_pod, of_peer;
    int peer_connections; /* how many the peer had with it, when it came */
};

/* peer NULL: nobody's but the pod's. */
void room_take(struct worker_pod *wp, const struct addr *peer, struct room *ret);
/* May be repeated. */
void room_give(struct worker_pod *wp, const struct addr *peer, struct room *room);
/* To be asked right after it was taken. False: there is more than there may be, and ret_reason says of what.
 */
bool room_is_left(const struct worker_pod *wp, const struct room *room, enum bruma_reason *ret_reason);

#endif
