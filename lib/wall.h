/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wall clock, which certificates go by. It may be set at any time, in both directions: after a suspend,
 * when a machine is restored, when a clock that began in 1970 hears of the time. The loop's timers count
 * other seconds, so whoever has turned a date into one is told when the two have come apart.
 */
#ifndef LIB_WALL_H
#define LIB_WALL_H

#include <stdint.h>

#include "lib/loop.h"

int64_t wall_seconds(void);      /* since 1970; any thread */
int64_t wall_milliseconds(void); /* the same */

/* Who follows the clock; embedded in its owner. */
struct wall_clock {
    struct loop *loop;
    struct loop_watch set;  /* a timerfd that is cancelled when the clock is set; its fd is -1 without one */
    struct loop_timer look; /* for clocks that are changed in ways that the kernel does not tell */
    int64_t ahead;          /* of the loop's clock, milliseconds, when fn was called last */
    void (*fn)(void *data,
               int64_t milliseconds); /* called as wall_clock_follow() says, on the loop's thread */
    void *data;
};

/* Calls fn on the loop's thread whenever the wall clock has been set by a second or more; milliseconds: by
 * how much, negative if it was set back. At once where the kernel tells it, else within five seconds. */
void wall_clock_follow(struct loop *loop, struct wall_clock *clock,
                       void (*fn)(void *data, int64_t milliseconds), void *data);
/* Also for one that was never followed, if it is all zero. */
void wall_clock_forget(struct wall_clock *clock);

#endif
