/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One event loop a thread: descriptors, timers, work posted by other threads, signals. The agent, the proxy's
 * control thread and each of its workers run one. Nothing here is thread-safe but loop_post() and
 * loop_stop().
 *
 * Watches and timers are embedded in their owner's struct and never allocated here. A watch may be removed,
 * and its owner freed with loop_free_later(), from inside any callback of the same loop.
 */
#ifndef LIB_LOOP_H
#define LIB_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "lib/list.h"

struct loop;
struct loop_watch;
struct loop_timer;

typedef void (*loop_watch_fn)(struct loop_watch *watch, uint32_t events);
typedef void (*loop_timer_fn)(struct loop_timer *timer);
typedef void (*loop_post_fn)(void *data);
typedef void (*loop_signal_fn)(void *data, int signal);
typedef void (*loop_turn_fn)(void *data);

struct loop_watch {
    loop_watch_fn fn;
    int fd;                /* -1 while not watched; the owner closes it */
    uint32_t events;       /* as last given to epoll */
    uint32_t wanted;       /* while unsettled: what epoll could not be given */
    struct list unsettled; /* in the loop's list, or linked to itself */
};

struct loop_timer {
    struct list node; /* in a slot of the wheel, or linked to itself while not armed */
    loop_timer_fn fn;
    uint64_t due; /* milliseconds, loop_now() clock */
};

int loop_new(struct loop **ret);
void loop_free(struct loop **loop);

/* Runs until loop_stop(); may be called again after that. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop); /* any thread */

/* Monotonic milliseconds, read once a turn. */
uint64_t loop_now(const struct loop *loop);

/* watch must be zeroed or removed before. events as for epoll_ctl. 0 or -errno. */
int loop_watch_add(struct loop *loop, struct loop_watch *watch, int fd, uint32_t events, loop_watch_fn fn);
/* What the kernel refuses is asked of it again, until it is done or the watch is removed: who gets -errno
 * need do nothing but be patient. */
int loop_watch_modify(struct loop *loop, struct loop_watch *watch, uint32_t events);
/* Stops watching; events of this turn that were already fetched are dropped. Does not close fd. */
void loop_watch_remove(struct loop *loop, struct loop_watch *watch);

void loop_timer_init(struct loop_timer *timer, loop_timer_fn fn);
/* Arms or re-arms. Resolution is about 16 ms; a timer never fires early. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t after_milliseconds);
void loop_timer_cancel(struct loop_timer *timer);
bool loop_timer_armed(const struct loop_timer *timer);

/* Runs fn(data) on the loop's thread, in order. Any thread. -ENOMEM if it cannot be queued. */
int loop_post(struct loop *loop, loop_post_fn fn, void *data);

/* Calls fn once all events of this turn are handled: batches are flushed there. One hook a loop. */
void loop_set_turn_end(struct loop *loop, loop_turn_fn fn, void *data);
/* Calls fn just before and just after the loop sleeps (for RCU quiescence). One pair a loop. */
void loop_set_sleep_hooks(struct loop *loop, loop_turn_fn before, loop_turn_fn after, void *data);

/* Does not sleep before the next turn: there is more to do. */
void loop_again(struct loop *loop);

/* free() at the end of this turn, when no event can name the memory any more. */
void loop_free_later(struct loop *loop, void *memory);

/* Signals are taken by a signalfd; they are blocked in the calling thread, so call it before threads start.
 */
int loop_signals(struct loop *loop, const int *signals, int count, loop_signal_fn fn, void *data);

#endif
