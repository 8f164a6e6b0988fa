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

/* Each is called on the loop's thread, from loop_run(), and finds its owner by container_of() or data. */
typedef void (*loop_watch_fn)(struct loop_watch *watch,
                              uint32_t events);          /* the events of one turn (EPOLL...) */
typedef void (*loop_timer_fn)(struct loop_timer *timer); /* once it is due; it is not armed any more */
typedef void (*loop_post_fn)(void *data);                /* once for each loop_post() */
typedef void (*loop_signal_fn)(void *data, int signal);  /* once for each signal that has come */
typedef void (*loop_turn_fn)(void *data);                /* each turn */

/* A descriptor that is watched; for its owner fd alone is of interest. */
struct loop_watch {
    loop_watch_fn fn;
    int fd;                /* -1 while not watched; the owner closes it */
    uint32_t events;       /* as last given to epoll */
    uint32_t wanted;       /* while unsettled: what epoll could not be given */
    struct list unsettled; /* in the loop's list, or linked to itself */
};

/* Something to be done later; for its owner opaque. */
struct loop_timer {
    struct list node; /* in a slot of the wheel, or linked to itself while not armed */
    loop_timer_fn fn;
    uint64_t due; /* milliseconds, loop_now() clock */
};

/* 0, -ENOMEM, or -errno of epoll and eventfd (descriptors). */
int loop_new(struct loop **ret);
/* Watches and timers must be gone, or never be touched again. What was posted and has not run is
 * dropped. */
void loop_free(struct loop **loop);

/* Runs until loop_stop(); may be called again after that. 0, or -errno of epoll_wait(). */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop); /* any thread, and signal handlers */

/* Monotonic milliseconds, read once a turn. */
uint64_t loop_now(const struct loop *loop);

/* watch must be zeroed or removed before. events as for epoll_ctl(). 0 or -errno: nothing is watched.
 * fd stays the caller's. */
int loop_watch_add(struct loop *loop, struct loop_watch *watch, int fd, uint32_t events, loop_watch_fn fn);
/* 0, -EBADF: not watched; or another -errno of epoll_ctl(). What the kernel refuses is asked of it
 * again, until it is done or the watch is removed: the caller need do nothing but be patient. */
int loop_watch_modify(struct loop *loop, struct loop_watch *watch, uint32_t events);
/* Stops watching; events of this turn that were already fetched are dropped. Does not close fd. */
void loop_watch_remove(struct loop *loop, struct loop_watch *watch);

/* Sets its function; not armed. */
void loop_timer_init(struct loop_timer *timer, loop_timer_fn fn);
/* Arms or re-arms. Resolution is about 16 ms; a timer never fires early. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t after_milliseconds);
/* Harmless where it is not armed; it must be initialised. */
void loop_timer_cancel(struct loop_timer *timer);
/* Whether it is still to fire. */
bool loop_timer_armed(const struct loop_timer *timer);

/* Runs fn(data) on the loop's thread, in order. Any thread. 0, or -ENOMEM: it is not queued. */
int loop_post(struct loop *loop, loop_post_fn fn, void *data);
/* Takes back the oldest such one that has not run: whoever posted it is gone. False: there is none. The
 * loop's own thread, or any while it does not run. */
bool loop_unpost(struct loop *loop, loop_post_fn fn, void *data);

/* Calls fn once all events of this turn are handled: batches are flushed there. One hook a loop. */
void loop_set_turn_end(struct loop *loop, loop_turn_fn fn, void *data);
/* Calls fn just before and just after the loop sleeps (for RCU quiescence). One pair a loop. */
void loop_set_sleep_hooks(struct loop *loop, loop_turn_fn before, loop_turn_fn after, void *data);

/* Turns are short, so that their end comes often, and so are the slices of the processor in which the calling
 * thread runs, which is the loop's: until this is taken back as many times as it was said. */
void loop_short_turns(struct loop *loop, bool are_short);
/* Does not sleep before the next turn: there is more to do. */
void loop_again(struct loop *loop);

/* free() at the end of this turn, when no event can name the memory any more. At least a pointer large:
 * its first bytes are overwritten at once. */
void loop_free_later(struct loop *loop, void *memory);

/* Signals are taken by a signalfd; they are blocked in the calling thread, so call it before threads
 * start. 0 or -errno. */
int loop_signals(struct loop *loop, const int *signals, int count, loop_signal_fn fn, void *data);

#endif
