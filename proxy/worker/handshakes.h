/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to port 15008 whose peer has not shown who it is: those in their TLS handshake, and those that
 * wait for the pod's certificate to begin it. There is a bound on them, of a pod and of the process. Whoever
 * is too much makes the oldest go: it has had its time, and a peer that means it is through in a moment.
 */
#ifndef PROXY_WORKER_HANDSHAKES_H
#define PROXY_WORKER_HANDSHAKES_H

#include "proxy/worker/worker.h"

struct handshake {
    struct list node;     /* in worker.handshakes, the oldest first */
    struct list pod_node; /* in worker_pod.handshakes, likewise */
    /* Called from handshake_begin() of another one: closes it; must call handshake_end(). */
    void (*evict)(struct handshake *handshake);
};

/* It is none yet. evict: called as in the struct, on the worker's own thread. */
void handshake_init(struct handshake *h, void (*evict)(struct handshake *));
/* It begins; the oldest may have to go for it, which may be this one. */
void handshake_begin(struct worker_pod *wp, struct handshake *h);
/* It is through, or closed. May be repeated. */
void handshake_end(struct worker_pod *wp, struct handshake *h);

#endif
