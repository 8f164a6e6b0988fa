/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waits until an address of a network namespace may have become usable: duplicate address detection has
 * ended, or the kernel has added the local route that it adds late. On the loop's thread.
 */
#ifndef AGENT_API_ADDRESS_WATCH_H
#define AGENT_API_ADDRESS_WATCH_H

#include "lib/loop.h"

struct address_watch {
    struct loop *loop;
    struct loop_timer *changed; /* the owner's; lives as long as the watch */
    struct loop_watch
        routes; /* of a netlink socket in the namespace; its fd is -1 while nothing is watched */
};

/* Nothing is watched. loop, changed: kept, not copied. */
void address_watch_init(struct address_watch *watch, struct loop *loop, struct loop_timer *changed);
/*
 * Sets the timer: to fire soon after the next change, and in limit milliseconds if none comes. The first call
 * begins to watch, and has the timer fire at once: what changed before was not seen. Where the kernel has no
 * socket for it (a warning is logged), only the limit is left. netns_fd is only used during the call.
 */
void address_watch_wait(struct address_watch *watch, int netns_fd, uint64_t limit);
/* Nothing is watched any more. The timer stays as it is. */
void address_watch_end(struct address_watch *watch);

#endif
