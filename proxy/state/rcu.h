/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few RCU words that the proxy uses: liburcu, QSBR flavour.
 *
 * ThreadSanitizer does not see the synchronisation inside liburcu (a library that is not built for it), so
 * under that sanitizer the wrappers tell it what a grace period means: all that a reader did before its
 * quiescent state happened before the reclaiming. In every other build they are the plain calls.
 */
#ifndef PROXY_STATE_RCU_H
#define PROXY_STATE_RCU_H

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
    rcu_tsan_acquire();
}

/* A thread begins to be a reader: online. */
static inline void reader_register(void)
{
    rcu_register_thread();
    rcu_tsan_acquire();
}

/* It ends to be one. The state may not be read any more. */
static inline void reader_unregister(void)
{
    rcu_tsan_release();
    rcu_unregister_thread();
}

/* Pointers that a writer publishes and readers follow. */
#define rcu_publish(pointer, value) __atomic_store_n(&(pointer), value, __ATOMIC_RELEASE)
#define rcu_read(pointer)           __atomic_load_n(&(pointer), __ATOMIC_ACQUIRE)

#endif
