/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few RCU words that the proxy uses: liburcu, QSBR flavour. Nothing else of the tree calls liburcu.
 *
 * ThreadSanitizer does not see the synchronisation inside liburcu (a library that is not built for it), so
 * under that sanitizer the wrappers tell it what a grace period means, and no more than that: all that a
 * reader did before its quiescent state happened before the reclaiming. What a reader does with a pointer
 * after that is a race. In every other build they are the plain calls.
 */
#ifndef PROXY_STATE_RCU_H
#define PROXY_STATE_RCU_H

#include <stdbool.h>
#include <urcu-qsbr.h>

#if defined(__SANITIZE_THREAD__)
#define RCU_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RCU_UNDER_TSAN 1
#endif
#endif

#ifdef RCU_UNDER_TSAN
extern char rcu_tsan_token; /* in reclaim.c */
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define rcu_tsan_release() __tsan_release(&rcu_tsan_token)
#define rcu_tsan_acquire() __tsan_acquire(&rcu_tsan_token)
#else
#define rcu_tsan_release() ((void)0)
#define rcu_tsan_acquire() ((void)0)
#endif

/* A registered reader holds no pointer into the state any more (but for those that it took a reference
 * on). */
static inline void reader_quiescent(void)
{
    rcu_tsan_release();
    rcu_quiescent_state();
}

/* Around a wait: the thread reads nothing in between. */
static inline void reader_offline(void)
{
    rcu_tsan_release();
    rcu_thread_offline();
}

/* The wait is over: pointers of before are not valid any more. */
static inline void reader_online(void)
{
    rcu_thread_online();
}

/* A thread begins to be a reader: online. */
static inline void reader_register(void)
{
    rcu_register_thread();
}

/* It ends to be one. The state may not be read any more. */
static inline void reader_unregister(void)
{
    rcu_tsan_release();
    rcu_unregister_thread();
}

/* Whether the calling thread, a registered one, is online. */
static inline bool reader_is_online(void)
{
    return rcu_read_ongoing();
}

/* fn(head) is called on liburcu's thread after a grace period, and begins with rcu_deferred(). The caller is
 * registered, and online: liburcu wants it so. */
static inline void rcu_defer(struct rcu_head *head, void (*fn)(struct rcu_head *head))
{
    rcu_tsan_release();
    call_rcu(head, fn);
}

/* The first thing that such a function does: all that readers did happened before it. */
static inline void rcu_deferred(void)
{
    rcu_tsan_acquire();
}

/* Pointers that a writer publishes and readers follow. */
#define rcu_publish(pointer, value) __atomic_store_n(&(pointer), value, __ATOMIC_RELEASE)
#define rcu_read(pointer)           __atomic_load_n(&(pointer), __ATOMIC_ACQUIRE)

/* Past the wrappers ThreadSanitizer would take sound code for a race, or the other way round. */
#undef rcu_quiescent_state
#undef rcu_thread_offline
#undef rcu_thread_online
#undef rcu_register_thread
#undef rcu_unregister_thread
#undef rcu_read_ongoing
#undef rcu_read_lock
#undef rcu_read_unlock
#undef rcu_dereference
#undef rcu_assign_pointer
#undef synchronize_rcu
#undef rcu_barrier
#undef call_rcu
#pragma GCC poison rcu_quiescent_state rcu_thread_offline rcu_thread_online rcu_register_thread
#pragma GCC poison rcu_unregister_thread rcu_read_ongoing rcu_read_lock rcu_read_unlock rcu_dereference
#pragma GCC poison rcu_assign_pointer synchronize_rcu rcu_barrier call_rcu

#endif
