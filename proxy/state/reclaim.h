/* SPDX-License-Identifier: Apache-2.0 */
/* Objects taken out of the state, collected by the writer and released together after a grace period. */
#ifndef PROXY_STATE_RECLAIM_H
#define PROXY_STATE_RECLAIM_H

#include <stddef.h>

struct reclaim_batch;

struct reclaim {
    struct reclaim_batch *batch; /* NULL: nothing collected */
};

/* fn(object) is called on the thread of liburcu once no reader can see the object, at the earliest after the
 * next flush. Without memory for the entry the object is leaked: freeing it early would be worse. NULL is
 * fine. */
void reclaim_add(struct reclaim *reclaim, void (*fn)(void *object), void *object);

/* Starts the grace period. The caller is a registered RCU thread, online or offline. */
void reclaim_flush(struct reclaim *reclaim);

/* Waits until all that was flushed before has been released. The caller holds no pointer into the state. */
void reclaim_wait(void);

#endif
